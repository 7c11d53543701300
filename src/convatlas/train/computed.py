"""A network that is computed as its `Speed` says, for the time of a `with` block; afterwards it is as before."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn

from convatlas import allocator
from convatlas.errors import UsageError
from convatlas.layers.winograd import Winograd2d
from convatlas.measure.timing import threads_set
from convatlas.models.classifier import Classifier
from convatlas.train.speed import Speed


def laid_out(network: nn.Module, speed: Speed) -> nn.Module:
    """The network with its weights in the memory format of its images."""
    layout = torch.channels_last if speed.channels_last else torch.contiguous_format
    return network.to(memory_format=layout)  # pyright: ignore[reportCallIssue]


def arrange_memory(speed: Speed) -> None:
    """Set the allocator of this process, which must be our own. Results are the same bits, whatever it does.

    Who recomputes activations wants memory more than time, so freed memory is given back at once.
    """
    if speed.recompute:
        allocator.give_back()
        return
    {"kept": allocator.keep, "trimmed": allocator.trim, "usual": allocator.as_usual}[speed.memory]()


@contextmanager
def computed(network: nn.Module, speed: Speed) -> Generator[None]:
    """Compute `network` as `speed` says, as far as the engine's precision and the optimiser do not do so already."""
    with (
        threads_set(speed.threads or None),
        _recomputing(network, speed.recompute),
        in_float32(network, speed.float32),
        by_winograd(network, speed.winograd),
        overwriting(network),
    ):
        if speed.compile:
            network.compile()
        try:
            yield
        finally:
            if speed.compile:
                network._compiled_call_impl = None  # pyright: ignore[reportPrivateUsage]


@contextmanager
def in_float32(network: nn.Module, names: Sequence[str]) -> Generator[None]:
    """Compute the modules of these names in float32, also where autocast would take bf16.

    Each gets a `forward` of its own that hides its class's. So names, state dict, hooks and wrappers around the network
    stay what they are, a copy of the network computes with the copy's weights, and deleting the attribute is all that
    there is to undo.

    Raises `UsageError` for a name that the network does not have.
    """
    modules = _named(network, names)
    for module in modules:
        module.forward = MethodType(_forward, module)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


@contextmanager
def by_winograd(network: nn.Module, names: Sequence[str]) -> Generator[None]:
    """Let the convolutions of these names learn by Winograd's algorithm.

    `Winograd2d` is a convolution with another way to learn, so a convolution becomes one by changing its class.

    Raises `UsageError` for a name that the network does not have, or that is no 3x3 convolution padded by 1.
    """
    modules = _named(network, names)
    for name, module in zip(names, modules, strict=True):
        if not Winograd2d.replaces(module):
            raise UsageError(
                f"{name} is {module}, which Winograd's algorithm for 3x3 filters does not compute."
            )
    for module in modules:
        module.__class__ = Winograd2d
    try:
        yield
    finally:
        for module in modules:
            module.__class__ = nn.Conv2d


def _named(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    known = dict(network.named_modules())
    for name in names:
        if name not in known:
            raise UsageError(f"{type(network).__name__} has no layer {name!r} to be computed in another way.")
    return [known[name] for name in names]


@contextmanager
def overwriting(network: nn.Module) -> Generator[None]:
    """Let modules overwrite what another one made for them alone: the same bits with less memory to fill.

    A ReLU overwrites its input between neighbours in a Sequential, the first of which needs only its own input for its
    gradients, and where the module around it says so by `private_inputs`. A module with `inplace` of its own that names
    sequences of its own as `private_outputs` may overwrite what they give, if they end in such a layer. What is used
    elsewhere too, or looked at by a hook, is left alone.
    """
    chosen = [*_overwriting_relus(network), *_overwriting_sums(network)]
    for module in chosen:
        module.inplace = True  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        for module in chosen:
            module.inplace = False  # pyright: ignore[reportArgumentType]


def _overwriting_relus(network: nn.Module) -> list[nn.Module]:
    alone, elsewhere = list[nn.Module](), set[nn.Module]()
    for parent in network.modules():
        said: tuple[str, ...] = getattr(parent, "private_inputs", ())
        before = None
        for name, child in parent._modules.items():  # pyright: ignore[reportPrivateUsage]
            if isinstance(child, nn.ReLU | nn.ReLU6) and not child.inplace:
                made = isinstance(parent, nn.Sequential) and before is not None and _makes(before)
                private = (made or name in said) and not _hooked(child) and child not in alone
                (alone.append if private else elsewhere.add)(child)
            before = child
    return [relu for relu in alone if relu not in elsewhere]


def _overwriting_sums(network: nn.Module) -> list[nn.Module]:
    return [
        module
        for module in network.modules()
        if (names := getattr(module, "private_outputs", ()))
        and not module.inplace
        and all(_ends_with_maker(module.get_submodule(name)) for name in names)
    ]


def _makes(module: nn.Module) -> bool:
    """Whether a module is done with its output when it gives it, and nobody looks at that output."""
    return isinstance(module, _MAKERS) and not _hooked(module)


def _ends_with_maker(module: nn.Module) -> bool:
    """Whether the last of a sequence, which does nothing of its own, is such a module."""
    plain = type(module).forward is nn.Sequential.forward and not _hooked(module)
    return plain and bool(len(module)) and _makes(module[-1])  # pyright: ignore[reportArgumentType, reportIndexIssue]


_MAKERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)  # their gradients need what came in, not what went out


def _hooked(module: nn.Module) -> bool:
    """Whether somebody looks at what goes into or comes out of this module."""
    return any(
        getattr(module, f"_{kind}_hooks") for kind in ("forward", "forward_pre", "backward", "backward_pre")
    )


def _forward(self: nn.Module, *inputs: Tensor) -> Tensor:
    with torch.autocast(inputs[0].device.type, enabled=False):
        return type(self).forward(self, *(each.float() for each in inputs))


@contextmanager
def _recomputing(network: nn.Module, wanted: bool) -> Generator[None]:
    if not wanted:
        yield
        return
    if not isinstance(network, Classifier):
        raise UsageError(f"{type(network).__name__} has no blocks whose activations could be recomputed.")
    before = network.grad_checkpointing
    network.set_grad_checkpointing()
    try:
        yield
    finally:
        network.set_grad_checkpointing(before)
