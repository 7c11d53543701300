"""What a network does with one image, without doing it: the calls, the tensor operations, the shapes.

The forward pass runs on PyTorch's meta device, where tensors have a shape and no content: parameters
and buffers are exchanged for meta copies for the time of one call, and a dispatch mode sees every ATen
operation below every module. So nothing is computed or allocated, no layer type has to be known,
and a custom module is recorded like a built-in one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from convatlas.errors import UsageError
from convatlas.hooks import eval_mode, watched
from convatlas.randomness import preserved

META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class Op:
    """One ATen operation: `name` ("convolution"), its arguments with tensors on meta, and its first output."""

    name: str
    args: tuple[Any, ...]
    output: Tensor


@dataclass(slots=True)
class Call:
    """One call of a module that called no other, or one operation between such calls.

    `module` is None for an operation; then `name` is the module that it happened in. `params` maps
    the names of the parameters first used here to their sizes.
    """

    name: str
    module: nn.Module | None
    inputs: list[Tensor]
    output: Tensor | None
    ops: list[Op]
    params: dict[str, int] = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        """The module's class, or the operation's ATen name."""
        return type(self.module).__name__ if self.module is not None else self.ops[0].name


@dataclass(slots=True)
class Trace:
    """`calls` in the order in which they end, the parameters that no call used, and the network's output."""

    calls: list[Call]
    unused: dict[str, int]
    image: Tensor
    output: Tensor | None


@dataclass(slots=True)
class _Frame:
    """A module that is being called: what happened in it so far."""

    name: str
    module: nn.Module | None
    inputs: list[Tensor]
    calls: list[Call] = field(default_factory=list)
    has_children: bool = False


class _Recorder(TorchDispatchMode):
    """Keeps the operations of the module that is on top of the stack; moves stray tensors to meta."""

    def __init__(self, params: dict[int, tuple[str, int]]) -> None:
        super().__init__()
        self.stack = [_Frame("", None, [])]
        self.unused = params  # by id of the meta copy, until an operation takes it

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.stack[-1].has_children = True
        self.stack.append(_Frame(name, module, tensors_in((args, kwargs))))

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        frame = self.stack.pop()
        if frame.has_children:
            self.stack[-1].calls += frame.calls
            return
        first = next(iter(tensors_in(output)), None)
        call = Call(frame.name, module, frame.inputs, first, [op for each in frame.calls for op in each.ops])
        call.params = {name: size for each in frame.calls for name, size in each.params.items()}
        self.stack[-1].calls.append(call)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(to_meta, (args, dict(kwargs or {})))
        if kwargs.get("device") is not None:
            kwargs["device"] = META
        output = func(*args, **kwargs)
        tensors = tensors_in((args, kwargs))
        params = dict(self.unused.pop(id(tensor)) for tensor in tensors if id(tensor) in self.unused)
        first = next(iter(tensors_in(output)), None)
        if first is not None:
            op = Op(func.overloadpacket.__name__, args, first)
            frame = self.stack[-1]
            frame.calls.append(Call(frame.name, None, tensors, first, [op], params))
        return output


def to_meta(value: Any) -> Any:
    """Tensors that are no parameter or buffer (a constant of a module) arrive with content; drop it."""
    return (
        torch.empty_like(value, device=META) if isinstance(value, Tensor) and value.device != META else value
    )


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of nested lists and dictionaries."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def trace(model: nn.Module, input_shape: Iterable[int]) -> Trace:
    """Record one forward pass in evaluation mode for a batch of one image of `input_shape` (C, H, W).

    Nothing of `model` changes: weights, statistics, hooks, modes and random generators are as before.
    Raises `UsageError` if the network does not take such an image, or decides by values, which meta
    tensors do not have.
    """
    shape = tuple(int(side) for side in input_shape)
    copies, image = ghost(model, shape)
    sizes = {id(copies[name]): (name, param.numel()) for name, param in model.named_parameters()}
    recorder = _Recorder(sizes)

    def place() -> str:
        return recorder.stack[-1].name

    watching = watched(model, recorder.enter, recorder.leave)
    with preserved(), eval_mode(model), torch.no_grad(), watching, refusals(model, shape, place), recorder:
        output = functional_call(model, copies, (image,))
    calls = recorder.stack[0].calls
    first = next(iter(tensors_in(output)), None)
    return Trace(calls, dict(recorder.unused.values()), image, first)


def ghost(model: nn.Module, shape: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    """Copies on meta of every parameter and buffer by name, and an image (1, *shape) of the network's precision.

    Raises `UsageError` for a shape that is none, and for layers without shapes.
    """
    if not shape or min(shape) < 1:
        raise UsageError(f"an input shape is positive numbers such as (3, 224, 224), not {shape}.")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if any(nn.parameter.is_lazy(tensor) for tensor in tensors.values()):
        raise UsageError("the network has lazy layers without shapes yet; run one batch through it first.")
    copies = {name: torch.empty_like(tensor, device=META) for name, tensor in tensors.items()}
    floats = [param.dtype for param in model.parameters() if param.is_floating_point()]
    return copies, torch.empty((1, *shape), dtype=floats[0] if floats else torch.float32, device=META)


@contextmanager
def refusals(model: nn.Module, shape: tuple[int, ...], place: Callable[[], str]) -> Generator[None]:
    """Say of a pass that fails where it did, `place()`, as a `UsageError`."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError, IndexError) as error:
        name = type(model).__name__
        raise UsageError(
            f"{name} cannot be traced with an image of shape {shape}; in {place() or name!r}: {error}"
        ) from error


# --- what operations cost -----------------------------------------------------------------------------

_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "mv": 0, "addmv": 1, "dot": 0}


def macs(op: Op) -> int:
    """Multiply-adds of one operation: convolutions and matrix products; everything else counts 0.

    A convolution multiplies each output number's window: output size x kernel x input channels of a
    group; a transposed one does so from the input. A matrix product: output size x inner length.
    """
    if op.name in ("convolution", "_convolution"):
        image, weight, transposed = op.args[0], op.args[1], op.args[6]
        return (image if transposed else op.output).numel() * math.prod(weight.shape[1:])
    if op.name in _PRODUCTS:
        return op.output.numel() * op.args[_PRODUCTS[op.name]].shape[-1]
    return 0
