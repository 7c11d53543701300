"""How deep a network is: weight layers on the longest path from image to logits, as papers count them.

Every tensor carries the number of weight layers that it has come through; what joins tensors carries the largest.
So layers in parallel count once: the branches of a module, and the projection of a shortcut beside its block.

A weight layer is a module with tensors of its own, trained or fixed (a convolution, a linear layer, LeNet-5's
subsampling and its RBF output), and neither normalisation nor an activation function. What only scales another
tensor map by map, such as the two layers of squeeze-excitation, is beside the path: SENet-154 counts none of them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from convatlas.measure.shapes import META
from convatlas.measure.trace import ghost, tensors_in, to_meta
from convatlas.measure.watch import watched_pass

_NORMALISATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)  # pyright: ignore[reportPrivateUsage]
_PRODUCTS = {"mul", "__mul__", "__rmul__", "mul_", "__imul__", "multiply"}


class _Depths(TorchFunctionMode):
    """Carries depths from the arguments of every torch function to its results."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = WeakTensorKeyDictionary()
        self.open: list[
            tuple[str, int]
        ] = []  # the modules that are being called, and how deep their input was

    def of(self, values: Any) -> int:
        return max((self.depth[tensor] for tensor in tensors_in(values) if tensor in self.depth), default=0)

    def put(self, values: Any, depth: int) -> None:
        for tensor in tensors_in(values):
            self.depth[tensor] = depth

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        self.open.append((name, self.of((args, kwargs))))

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        _, before = self.open.pop()
        if is_weight_layer(module):
            self.put(output, before + 1)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(to_meta, (args, dict(kwargs or {})))
        output = func(*args, **kwargs)
        joined: Any = (args, kwargs)
        if getattr(func, "__name__", "") in _PRODUCTS and isinstance(output, Tensor):
            joined = [tensor for tensor in tensors_in(joined) if tensor.numel() == output.numel()]
        if depth := self.of(joined):
            self.put(output, depth)
        return output


def is_weight_layer(module: nn.Module) -> bool:
    """Whether papers count the module itself, its children apart."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(tensor.numel() > 1 for tensor in own) and not isinstance(module, (*_NORMALISATION, nn.PReLU))


def weight_layers(model: nn.Module, input_shape: tuple[int, ...] = (3, 224, 224)) -> int:
    """Weight layers on the longest path from an image of `input_shape` (C, H, W) to the output.

    Nothing is computed: the pass runs on the meta device, in evaluation mode, and the network is given back as it
    was. Raises `UsageError` if the network does not take such an image.

    Examples:
        >>> from torch import nn
        >>> branch = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        >>> weight_layers(branch, (3, 32, 32))
        2
    """
    copies, image = ghost(model, input_shape)
    depths = _Depths()

    def place() -> str:
        return depths.open[-1][0] if depths.open else ""

    with META, watched_pass(model, image, depths, place):
        output = functional_call(model, copies, image)
    return depths.of(output)
