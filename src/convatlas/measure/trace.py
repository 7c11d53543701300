"""What a network does with one image, without doing it: the calls, the tensor operations, the shapes.

The forward pass runs on PyTorch's meta device, where tensors have a shape and no content: parameters
and buffers are exchanged for meta copies for the time of one call, and a dispatch mode sees every ATen
operation below every module. So nothing is computed or allocated, no layer type has to be known,
and a custom module is recorded like a built-in one.

The tensors of a trace are its edges: an operation that takes what another gave holds the very same tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from convatlas.errors import ConvAtlasError, UsageError
from convatlas.hooks import eval_mode, watched
from convatlas.measure.shapes import META, hollow, shaped
from convatlas.measure.watch import Watch
from convatlas.randomness import preserved

Shape = tuple[int, ...]
Inputs = Sequence[int] | Sequence[Sequence[int] | Tensor]


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
        name = _NAMES.get(func) or _NAMES.setdefault(func, func.overloadpacket.__name__)
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
            unused, params = self.unused, dict[str, int]()
            for tensor in tensors:
                if id(tensor) in unused:
                    parameter, size = unused.pop(id(tensor))
                    params[parameter] = size
            frame = self.stack[-1]
            op = Op(name, func, args, kwargs, tensors, outputs)
            frame.calls.append(Call(frame.name, None, tensors, outputs[0], [op], params))
        return output


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
    """The tensors of nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return []
    found: list[Tensor] = []
    for each in cast(Any, value):
        if isinstance(each, Tensor):
            found.append(each)
        elif isinstance(each, (tuple, list, dict)):
            found += tensors_in(each)
    return found


def trace(model: nn.Module, inputs: Inputs) -> Trace:
    """Record one forward pass in evaluation mode for a batch of one: an image of a shape (C, H, W).

    For a network with several arguments `inputs` is a list, with a shape without batch for each, or a tensor with
    batch where the type matters. Nothing of `model` changes: weights, statistics, hooks, modes and random
    generators are as before. Raises `UsageError` if the network does not take such an image, or decides by values,
    which meta tensors do not have.
    """
    copies, arguments = ghost(model, inputs)
    sizes = {id(copies[name]): (name, param.numel()) for name, param in model.named_parameters()}
    recorder = _Recorder(sizes)

    def place() -> str:
        return recorder.stack[-1].name

    watching = watched(model, recorder.enter, recorder.leave)
    with (
        preserved(),
        eval_mode(model),
        torch.no_grad(),
        watching,
        refusals(model, arguments, place),
        recorder,
    ):
        output = functional_call(model, copies, arguments)
    calls = recorder.stack[0].calls
    first = next(iter(tensors_in(output)), None)
    return Trace(calls, dict(recorder.unused.values()), list(arguments), first)


def ghost(model: nn.Module, inputs: Inputs, batch: int = 1) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """Copies on meta of every parameter and buffer by name, and the arguments, in the network's precision.

    Raises `UsageError` for a shape that is none, and for layers without shapes.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if any(nn.parameter.is_lazy(tensor) for tensor in tensors.values()):
        raise UsageError("the network has lazy layers without shapes yet; run one batch through it first.")
    copies = {name: hollow(tensor) for name, tensor in tensors.items()}
    floats = [param.dtype for param in model.parameters() if param.is_floating_point()]
    dtype = floats[0] if floats else torch.float32
    given = list(inputs)
    several: list[Any] = [given] if all(isinstance(side, int) for side in given) else given
    return copies, tuple(_argument(each, batch, dtype) for each in several)


def _argument(given: Any, batch: int, dtype: torch.dtype) -> Tensor:
    if isinstance(given, Tensor):
        return to_meta(given)
    try:
        shape = tuple(int(side) for side in given)
    except (TypeError, ValueError):
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"an input shape is positive numbers such as (3, 224, 224), not {given}.")
    return torch.empty((batch, *shape), dtype=dtype, device=META)


# What an error of the pass says -> what to do.
_ADVICE = (
    (("Output size is too small", "size can't be greater", "output size is too small", "should be greater than"),
     "the image is too small for the network: give it a larger one"),
    (("missing", "required positional argument"),
     "the network takes several arguments: give a list with a shape for each, such as [(3, 64, 64), (10,)]"),
    (("meta tensor", "Tensor.item()", "is_nonzero", "data-dependent", "equal' on", "on meta", "meta device",
      "register_meta"),
     "the network decides by the values of its input, and a pass without values cannot follow: take the decision out "
     "of `forward`, or measure its parts"),
    (("channels, but got", "Invalid channel dimensions"),
     "the image has another number of channels than the network expects"),
    (("shapes cannot be multiplied", "mat1 and mat2", "invalid for input of size", "Wrong image"),
     "the network expects images of another size"),
)  # fmt: skip


@contextmanager
def refusals(
    model: nn.Module, inputs: Sequence[Tensor], place: Callable[[], str] = lambda: ""
) -> Generator[None]:
    """Say of a pass over a batch that fails where it did, `place()`, and what to do, as a `UsageError`.

    A lack of memory is no fault of the images, and passes.
    """
    try:
        yield
    except ConvAtlasError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate" in str(error):
            raise
        name, said = type(model).__name__, str(error).strip().splitlines() or [type(error).__name__]
        shapes = " and ".join(str(tuple(tensor.shape[1:])) for tensor in inputs)
        advice = next((text for words, text in _ADVICE if any(word in str(error) for word in words)), "")
        raise UsageError(
            f"{name} cannot take an image of shape {shapes}; in {place() or name!r}: {said[0].rstrip('.')}"
            f"{f' ({advice})' if advice else ''}."
        ) from error
