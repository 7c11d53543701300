"""What a network does with one image, without doing it: the calls, the tensor operations, the shapes.

The forward pass runs on PyTorch's meta device, where tensors have a shape and no content: parameters
and buffers are exchanged for meta copies for the time of one call, and a dispatch mode sees every ATen
operation below every module. So nothing is computed or allocated, no layer type has to be known,
and a custom module is recorded like a built-in one.

The tensors of a trace are its edges: an operation that takes what another gave holds the very same tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from convatlas.errors import UsageError
from convatlas.measure.shapes import META, hollow, shaped
from convatlas.measure.watch import Watch, watched_pass

Shape = tuple[int, ...]
Inputs = Sequence[int] | Sequence[Sequence[int] | Tensor] | Tensor


@dataclass(frozen=True, slots=True)
class Op:
    """One ATen operation: `name` ("convolution"), the overload, its arguments with tensors on meta, its outputs.

    `inputs` are the tensors among the arguments.
    """

    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]
    outputs: tuple[Tensor, ...]

    @property
    def output(self) -> Tensor:
        """The first output."""
        return self.outputs[0]


@dataclass(slots=True)
class Call:
    """One call of a module that called no other, or one operation between such calls.

    `module` is None for an operation; then `name` is the module that it happened in. `params` maps
    the names of the parameters first used here to their sizes. `weight` is the name of the parameter that an
    operation multiplies with, also where another has used it before; "" if there is none.
    """

    name: str
    module: nn.Module | None
    inputs: list[Tensor]
    outputs: tuple[Tensor, ...]
    ops: list[Op]
    params: dict[str, int] = field(default_factory=dict)
    weight: str = ""

    @property
    def output(self) -> Tensor | None:
        """The first output, if there is any."""
        return self.outputs[0] if self.outputs else None

    @property
    def class_name(self) -> str:
        """The module's class, or the operation's ATen name."""
        return type(self.module).__name__ if self.module is not None else self.ops[0].name


@dataclass(slots=True)
class Trace:
    """`calls` in the order in which they end, the parameters that no call used, the inputs, and the output.

    `image` is the first input. The operations of all calls, one after the other, are in the order of the pass.
    """

    calls: list[Call]
    unused: dict[str, int]
    inputs: list[Tensor]
    output: Tensor | None

    @property
    def image(self) -> Tensor:
        """The first input."""
        return self.inputs[0]

    @property
    def ops(self) -> list[Op]:
        """Every operation, in the order of the pass."""
        return [op for call in self.calls for op in call.ops]


@dataclass(slots=True)
class _Frame:
    """A module that is being called: what happened in it so far."""

    name: str
    module: nn.Module | None
    inputs: list[Tensor]
    calls: list[Call] = field(default_factory=list)
    has_children: bool = False


class _Recorder(Watch):
    """Keeps the operations of the module that is on top of the stack; moves stray tensors to meta."""

    def __init__(self, params: dict[str, Tensor]) -> None:
        super().__init__()
        self.stack = [_Frame("", None, [])]
        self.unused = {id(tensor): (name, tensor.numel()) for name, tensor in params.items()}
        self.views: dict[int, int] = {}  # of parameters: which one, by id
        self.weights = {memory_of(tensor): name for name, tensor in params.items() if tensor.ndim > 1}

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.stack[-1].has_children = True
        self.stack.append(_Frame(name, module, tensors_in((args, kwargs))))

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        frame = self.stack.pop()
        if frame.has_children or _is_network(module, frame.calls):
            self.stack[-1].calls += frame.calls
            return
        outputs = tuple(tensors_in(output))
        call = Call(
            frame.name, module, frame.inputs, outputs, [op for each in frame.calls for op in each.ops]
        )
        call.params = {name: size for each in frame.calls for name, size in each.params.items()}
        self.stack[-1].calls.append(call)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _NAMES.get(func) or _NAMES.setdefault(func, func.overloadpacket.__name__)
        if torch.is_inference_mode_enabled():  # there, what is made of other operations arrives whole
            with self:
                output = func.decompose(*args, **(kwargs or {}))
            if output is not NotImplemented:
                return output
        args, tensors = _on_meta(args)
        if kwargs:
            values, more = _on_meta(kwargs.values())
            kwargs = dict(zip(kwargs, values, strict=True))
            tensors += more
            if kwargs.get("device") is not None:
                kwargs["device"] = META
        else:
            kwargs = {}
        output = shaped(name, args) if not kwargs else None
        if output is None:
            output = func(*args, **kwargs)
        outputs = (output,) if isinstance(output, Tensor) else tuple(tensors_in(output))
        if outputs:
            frame = self.stack[-1]
            op = Op(name, func, args, kwargs, tensors, outputs)
            weight = self._weight(tensors) if name in WEIGHING else ""
            frame.calls.append(Call(frame.name, None, tensors, outputs, [op], self._first_used(op), weight))
        return output

    def _first_used(self, op: Op) -> dict[str, int]:
        """The parameters that no operation before has taken. A view takes none: what reads it does."""
        found: dict[str, int] = {}
        for tensor in op.inputs:
            place = self.views.get(id(tensor), id(tensor))
            if place not in self.unused:
                continue
            if op.func.is_view:
                self.views |= dict.fromkeys(map(id, op.outputs), place)
            else:
                parameter, size = self.unused.pop(place)
                found[parameter] = size
        return found

    def _weight(self, tensors: list[Tensor]) -> str:
        return next((name for each in tensors if (name := self.weights.get(memory_of(each)))), "")


# What multiplies with weights.
WEIGHING = frozenset(("convolution", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv"))


def _is_network(module: nn.Module, calls: list[Call]) -> bool:
    """Whether a module without others inside is written as others write a network: several layers of plain parameters.

    Layers of PyTorch's own, such as `nn.LSTM` and `nn.MultiheadAttention`, are layers all the same.
    """
    if type(module).__module__.startswith("torch.") or holds_others(module):
        return False
    return len({call.weight for call in calls if call.weight}) > 1


def holds_others(module: nn.Module) -> bool:
    """Whether there are modules inside, beside lists of parameters."""
    lists = (nn.ParameterList, nn.ParameterDict)
    return any(not isinstance(child, lists) for child in module.children())


def memory_of(tensor: Tensor) -> int:
    """A number that tensors have in common which lie in the same memory, as views and what was written in place do."""
    try:
        return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
    except NotImplementedError:  # under vmap
        return id(tensor)


_NAMES: dict[Any, str] = {}


def _on_meta(values: Any) -> tuple[tuple[Any, ...], list[Tensor]]:
    """The values with their tensors on meta, and these tensors.

    Tensors that are no parameter or buffer (a constant of a module) arrive with content; that is dropped.
    """
    moved: list[Any] = []
    tensors: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            value = to_meta(value)
            tensors.append(value)
        elif type(value) in (list, tuple) and any(isinstance(each, Tensor) for each in value):
            value = [to_meta(each) for each in value]
            tensors += [each for each in value if isinstance(each, Tensor)]
        moved.append(value)
    return tuple(moved), tensors


def to_meta(value: Any) -> Any:
    """A tensor without its content; anything else as it is."""
    return hollow(value) if isinstance(value, Tensor) and value.device.type != "meta" else value


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of nested tuples, lists, dictionaries and dataclasses."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif hasattr(type(value), "__dataclass_fields__"):
        value = [getattr(value, name) for name in type(value).__dataclass_fields__]
    elif not isinstance(value, (tuple, list)):
        return []
    found: list[Tensor] = []
    for each in cast(Any, value):
        if isinstance(each, Tensor):
            found.append(each)
        elif isinstance(each, (tuple, list, dict)) or hasattr(type(each), "__dataclass_fields__"):
            found += tensors_in(each)
    return found


def trace(model: nn.Module, inputs: Inputs) -> Trace:
    """Record one forward pass in evaluation mode for a batch of one: an image of a shape (C, H, W).

    For a network with several arguments `inputs` is a list, with a shape without batch for each, or a tensor with
    batch where the type matters; a tensor alone is a batch of one. Nothing of `model` changes: weights, statistics,
    attributes, hooks, modes and random generators are as before. Raises `UsageError` if the network does not take
    such an image, or decides by values, which meta tensors do not have.
    """
    with torch.inference_mode(False):
        copies, arguments = ghost(model, inputs)
        recorder = _Recorder({name: copies[name] for name, _ in model.named_parameters()})

        def place() -> str:
            return recorder.stack[-1].name

        with watched_pass(model, arguments, recorder, place):
            output = functional_call(model, copies, arguments)
    calls = recorder.stack[0].calls
    first = next(iter(tensors_in(output)), None)
    return Trace(calls, dict(recorder.unused.values()), list(arguments), first)


def ghost(model: nn.Module, inputs: Inputs, batch: int = 1) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """Copies on meta of every parameter and buffer by name, and the arguments, in the network's precision.

    Raises `UsageError` for a shape that is none, for a tensor that is no batch of one, for layers without shapes, and
    for what PyTorch does not let look inside.
    """
    if isinstance(model, nn.DataParallel):
        raise UsageError("a DataParallel hides its network from hooks: give the one inside, `.module`.")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise UsageError(
            f"{type(model).__name__} is compiled by TorchScript, which lets nobody look at its calls: give the "
            "network that it was made from."
        )
    parameters = dict(model.named_parameters())
    tensors = {**parameters, **dict(model.named_buffers())}
    if any(nn.parameter.is_lazy(tensor) for tensor in tensors.values()):
        raise UsageError("the network has lazy layers without shapes yet; run one batch through it first.")
    copies = {name: hollow(tensor) for name, tensor in tensors.items()}
    dtype = next((param.dtype for param in parameters.values() if param.is_floating_point()), torch.float32)
    if isinstance(inputs, Tensor):
        if inputs.ndim == 0 or len(inputs) != 1:
            raise UsageError(
                f"one image is measured, and the first axis of a tensor is the batch: {tuple(inputs.shape)} is none of "
                "one. Give `images[:1]`, or a shape without batch such as (3, 224, 224)."
            )
        several: list[Any] = [inputs]
    else:
        given = list(inputs)
        several = [given] if all(isinstance(side, int) for side in given) else given
    return copies, tuple(_argument(each, batch, dtype) for each in several)


def _argument(given: Any, batch: int, dtype: torch.dtype) -> Tensor:
    if isinstance(given, Tensor):
        if batch == 1 or given.ndim == 0 or len(given) != 1:
            return to_meta(given)
        return torch.empty((batch, *given.shape[1:]), dtype=given.dtype, device=META)
    try:
        shape = tuple(int(side) for side in given)
    except (TypeError, ValueError):
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"an input shape is positive numbers such as (3, 224, 224), not {given}.")
    return torch.empty((batch, *shape), dtype=dtype, device=META)
