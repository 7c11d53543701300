"""How much memory a pass or a training step needs at its worst moment, before anything is allocated.

The step is run on the meta device: forward, backward and optimiser as they are, on tensors without content. Every
storage counts from the operation that makes it to the moment when nothing holds it any more, so what autograd keeps for
the backward pass and an optimiser from step to step, and what is dropped in between, is neither assumed nor listed.
`observed` does the same with content, and `tests/measure/test_memory.py` holds the one against the other.

Attention and LSTMs are done by the kernels that a CPU takes (`kernels`), which keep other things than their parts
would.

What is not seen: scratch memory inside one operation, and what an allocator keeps in reserve. `resident` allows for
both.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.utils._pytree import tree_map_only

from convatlas.errors import UsageError
from convatlas.hooks import attributes_kept, eval_mode, train_mode
from convatlas.measure.kernels import fused, unsure, workspace
from convatlas.measure.refusals import refusals
from convatlas.measure.shapes import META
from convatlas.measure.trace import Inputs, ghost, tensors_in, to_meta
from convatlas.measure.watch import Watch
from convatlas.randomness import preserved

OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], Optimizer]] = {
    "sgd": lambda params: SGD(params, lr=0.1),
    "momentum": lambda params: SGD(params, lr=0.1, momentum=0.9),
    "rmsprop": lambda params: RMSprop(params, lr=0.1, momentum=0.9),
    "adam": Adam,
    "adamw": AdamW,
}


# What a training process takes, by what lives in it: glibc keeps some of what is freed, and operations need room of
# their own. Chosen by 18 networks with 8 and 16 images, of 33 to 3,100 MiB; within 20 % of each.
RESERVE, ROOM = 1.2, 24 * 2**20


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `peak` is what lives at the worst moment; the others are its parts that last from step to step.

    Attributes:
        parameters: weights and biases.
        buffers: what else the network keeps, such as BatchNorm's statistics.
        gradients: one for each trained parameter; 0 for inference.
        optimizer: what the optimiser keeps of each parameter.
        peak: all that lives at once, activations and the batch among it.
        unsure: kinds of layers whose memory on a CPU is not known, so that `peak` is rough; "" if there are none.
    """

    parameters: int
    buffers: int
    gradients: int
    optimizer: int
    peak: int
    unsure: str = ""

    @property
    def resident(self) -> int | None:
        """About what training takes in a process beyond its imports, on a processor with glibc; None for inference,
        where it depends on the order of the layers too much (1.05 to 2.7 times what lives).
        """
        return round(RESERVE * self.peak) + ROOM if self.gradients else None

    @property
    def passing(self) -> int:
        """What the peak has beyond weights, buffers and optimiser: batch, activations, gradients on their way."""
        return self.peak - self.parameters - self.buffers - self.optimizer

    def to_json(self) -> dict[str, Any]:
        """The fields and `resident`."""
        return {**asdict(self), "resident": self.resident}


def predict(
    model: nn.Module,
    input_shape: Inputs = (3, 224, 224),
    *,
    batch: int = 1,
    dtype: torch.dtype | None = None,
    training: bool = False,
    optimizer: str = "momentum",
) -> Memory:
    """Memory for a batch of images of `input_shape` (C, H, W): of inference, or of a step of training.

    Args:
        model: any network; it is given back as it was, and its weights may be on the meta device.
        input_shape: as for `measure`.
        batch: images at once.
        dtype: of weights, images and activations; the network's own if None.
        training: a whole step, with the optimiser's states in place, gradients set to None between steps.
        optimizer: one of "sgd", "momentum", "rmsprop", "adam", "adamw".

    Raises:
        UsageError: for an unknown optimiser, a batch below 1, or images that the network does not take.

    Examples:
        >>> layer = nn.Linear(1000, 1000)  # 4.004 MB of weights
        >>> predict(layer, (1000,), batch=10).peak  # with 10 inputs and 10 outputs
        4084000
        >>> predict(layer, (1000,), batch=10, training=True, optimizer="adam").optimizer  # two moments of each
        8008008
    """
    copies, inputs = ghost(model, input_shape, batch=_checked(batch, optimizer))
    if dtype is not None:
        copies, inputs = tree_map_only(Tensor, lambda tensor: _cast(tensor, dtype), (copies, inputs))
    found = _run(model, copies, inputs, training, optimizer)
    return replace(found, unsure=unsure(model, dtype, training))


def observed(
    model: nn.Module, images: Tensor, *, training: bool = False, optimizer: str = "momentum"
) -> Memory:
    """The same measured on a pass with content over a batch of images (N, C, H, W); on copies of the weights."""
    _checked(len(images), optimizer)
    copies = {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}
    return _run(model, copies, (images,), training, optimizer)


def _checked(batch: int, optimizer: str) -> int:
    if batch < 1:
        raise UsageError(f"a batch of {batch} images cannot be; 1 or more can.")
    if optimizer not in OPTIMIZERS:
        raise UsageError(f"optimizer {optimizer!r} is not known; {', '.join(OPTIMIZERS)} are.")
    return batch


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _run(
    model: nn.Module, copies: dict[str, Tensor], inputs: tuple[Tensor, ...], training: bool, optimizer: str
) -> Memory:
    """One pass, or one training step in the steady state, with everything counted."""
    for name, param in model.named_parameters():
        copies[name].requires_grad_(param.requires_grad)
    trained = [copies[name] for name, param in model.named_parameters() if training and param.requires_grad]
    own = {name for name, _ in model.named_parameters()}
    parameters = _size(tensor for name, tensor in copies.items() if name in own)
    buffers = _size(tensor for name, tensor in copies.items() if name not in own)
    live = _Live((*copies.values(), *inputs))
    mode = train_mode if training else eval_mode
    as_on_cpu = nullcontext() if live.content else fused()
    with preserved(), mode(model), attributes_kept(model), refusals(model, inputs), as_on_cpu:
        if not training:
            with live, torch.no_grad():
                functional_call(model, copies, inputs)
            return Memory(parameters, buffers, 0, 0, live.peak)
        rule = OPTIMIZERS[optimizer](trained) if trained else None
        before = live.bytes
        if rule is not None:  # its states, as they stand after a first step
            for tensor in trained:
                tensor.grad = torch.zeros_like(tensor)
            live.step(rule)
            rule.zero_grad()
        states = live.bytes - before
        live.peak = live.bytes
        with live:
            functional_call(
                _Backward(model), {f"model.{name}": each for name, each in copies.items()}, inputs
            )
        if rule is not None:
            live.step(rule)
    return Memory(parameters, buffers, _size(trained), states, live.peak)


class _Backward(nn.Module):
    """A pass forward and backward in one, so that what is recomputed on the way back takes the copies as well."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.training = model.training
        self.model = model

    def forward(self, *inputs: Tensor) -> None:
        _loss(self.model(*inputs)).backward()


def _loss(output: Any) -> Tensor:
    """Cross-entropy of logits, auxiliary ones too; the mean of any other output."""
    losses: list[Tensor] = []
    for tensor in tensors_in(output):
        if tensor.ndim == 2 and tensor.is_floating_point():
            labels = torch.zeros(len(tensor), dtype=torch.long, device=tensor.device)
            losses.append(functional.cross_entropy(tensor, labels))
        elif tensor.is_floating_point():
            losses.append(tensor.mean())
    if not losses:
        raise UsageError("the network gives no tensor that a loss could be taken of.")
    return torch.stack(losses).sum()


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _Live(Watch):
    """Counts the bytes of every storage from its first appearance until nothing holds it."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.storages: dict[int, weakref.ref[Any]] = {}
        self.content, self.stepping = True, False
        for tensor in held:
            self.content = tensor.device != META
            self.see(tensor)

    def step(self, rule: Optimizer) -> None:
        """A step of an optimiser, which may read the number of its step."""
        self.stepping = True
        with self:
            rule.step()
        self.stepping = False

    def see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata  # pyright: ignore[reportPrivateUsage]
        if key in self.storages:
            return
        size = storage.nbytes()

        def gone(_: object) -> None:
            self.bytes -= size
            del self.storages[key]

        self.storages[key] = weakref.ref(storage, gone)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.content:
            args, kwargs = tree_map_only(Tensor, to_meta, (args, kwargs))
            if kwargs.get("device") is not None:
                kwargs = {**kwargs, "device": META}
            if self.stepping and func is torch.ops.aten._local_scalar_dense.default:
                return 1.0
        output = func(*args, **kwargs)
        if not self.content and func is torch.ops.aten.mkldnn_rnn_layer.default and torch.is_grad_enabled():
            output = (*output[:3], workspace(args))
        for tensor in tensors_in(output):
            self.see(tensor)
        return output
