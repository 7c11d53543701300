"""What a network does with one image, without doing it: the calls, the tensor operations, the shapes.

The forward pass runs on PyTorch's meta device, where tensors have a shape and no content: parameters
and buffers are exchanged for meta copies for the time of one call, and a dispatch mode sees every ATen
operation below every module. So nothing is computed or allocated, no layer type has to be known,
and a custom module is recorded like a built-in one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
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
        self.stack.append(_Frame(name, module, _tensors((args, kwargs))))

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        frame = self.stack.pop()
        if frame.has_children:
            self.stack[-1].calls += frame.calls
            return
        first = next(iter(_tensors(output)), None)
        call = Call(frame.name, module, frame.inputs, first, [op for each in frame.calls for op in each.ops])
        call.params = {name: size for each in frame.calls for name, size in each.params.items()}
        self.stack[-1].calls.append(call)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_to_meta, (args, dict(kwargs or {})))
        if kwargs.get("device") is not None:
            kwargs["device"] = META
        output = func(*args, **kwargs)
        tensors = _tensors((args, kwargs))
        params = dict(self.unused.pop(id(tensor)) for tensor in tensors if id(tensor) in self.unused)
        first = next(iter(_tensors(output)), None)
        if first is not None:
            op = Op(func.overloadpacket.__name__, args, first)
            frame = self.stack[-1]
            frame.calls.append(Call(frame.name, None, tensors, first, [op], params))
        return output


def _to_meta(value: Any) -> Any:
    """Tensors that are no parameter or buffer (a constant of a module) arrive with content; drop it."""
    return (
        torch.empty_like(value, device=META) if isinstance(value, Tensor) and value.device != META else value
    )


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def trace(model: nn.Module, input_shape: Iterable[int]) -> Trace:
    """Record one forward pass in evaluation mode for a batch of one image of `input_shape` (C, H, W).

    Nothing of `model` changes: weights, statistics, hooks, modes and random generators are as before.
    Raises `UsageError` if the network does not take such an image, or decides by values, which meta
    tensors do not have.
    """
    shape = tuple(int(side) for side in input_shape)
    if not shape or min(shape) < 1:
        raise UsageError(f"an input shape is positive numbers such as (3, 224, 224), not {shape}.")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if any(nn.parameter.is_lazy(tensor) for tensor in tensors.values()):
        raise UsageError("the network has lazy layers without shapes yet; run one batch through it first.")
    copies = {name: torch.empty_like(tensor, device=META) for name, tensor in tensors.items()}
    sizes = {id(copies[name]): (name, param.numel()) for name, param in model.named_parameters()}
    floats = [param.dtype for param in model.parameters() if param.is_floating_point()]
    image = torch.empty((1, *shape), dtype=floats[0] if floats else torch.float32, device=META)
    recorder = _Recorder(sizes)
    with preserved(), eval_mode(model), torch.no_grad(), watched(model, recorder.enter, recorder.leave):
        try:
            with recorder:
                output = functional_call(model, copies, (image,))
        except (
            RuntimeError,
            ValueError,
            TypeError,
            NotImplementedError,
            AssertionError,
            IndexError,
        ) as error:
            place = recorder.stack[-1].name or type(model).__name__
            raise UsageError(
                f"{type(model).__name__} cannot be traced with an image of shape {shape}; in {place!r}: {error}"
            ) from error
    calls = recorder.stack[0].calls
    first = next(iter(_tensors(output)), None)
    return Trace(calls, dict(recorder.unused.values()), image, first)


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
