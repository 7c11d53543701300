"""What rules ask of networks and layers: functions that wait with the counting until a claim is checked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from convatlas.audit.counted import Counted, counted

Count = Callable[[], Any]


def params(name: str) -> Count:
    """Parameters of a network."""
    return lambda: counted(name).params


def millions(*names: str) -> Count:
    """Parameters in millions, of one network or of several."""
    return lambda: _one_or_all([counted(name).params / 1e6 for name in names])


def macs(name: str) -> Count:
    """Multiply-adds of a network."""
    return lambda: counted(name).macs


def mega_macs(name: str) -> Count:
    """Multiply-adds in millions."""
    return lambda: counted(name).macs / 1e6


def layers(*names: str) -> Count:
    """Weight layers on the longest path, of one network or of several."""
    return lambda: _one_or_all([counted(name).layers for name in names])


def params_of(name: str, path: str) -> Count:
    """Parameters of a module."""
    return lambda: counted(name).params_of(path)


def shape(name: str, path: str) -> Count:
    """What a module gives: [C, H, W]."""
    return lambda: list(counted(name).shapes[path])


def hwc(name: str, path: str) -> Count:
    """What a module gives, channels last as lectures print it: [H, W, C]."""

    def count() -> list[int]:
        channels, *sides = counted(name).shapes[path]
        return [*sides, channels]

    return count


def channels(name: str, *paths: str) -> Count:
    """Channels or units that modules give."""
    return lambda: _one_or_all([counted(name).shapes[path][0] for path in paths])


def sides(name: str, *paths: str) -> Count:
    """Sides in pixels of what modules give, "" being the image."""

    def count() -> list[int]:
        of = counted(name)
        return [(of.shapes[path] if path else of.image)[-1] for path in paths]

    return count


def kernels(name: str, kind: type[nn.Module] = nn.Conv2d) -> list[tuple[int, int, int]]:
    """(channels out, kernel, stride) of every convolution of a network, in order."""
    return [
        (m.out_channels, int(m.kernel_size[0]), int(m.stride[0]))
        for m in counted(name).network.modules()
        if isinstance(m, kind) and isinstance(m, nn.Conv2d)
    ]


def of_layers(*modules: nn.Module, image: tuple[int, int, int]) -> Counted:
    """A chain of layers as if it were a network, for images (C, H, W)."""
    return Counted(nn.Sequential(*modules), image)


def weights(*modules: nn.Module) -> int:
    """Weights of layers, without biases and normalisation."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.dim() > 1)


def conv(c_in: float, c_out: float, kernel: int | tuple[int, int], groups: int = 1) -> nn.Conv2d:
    """A convolution without bias and content."""
    return nn.Conv2d(int(c_in), int(c_out), kernel, groups=groups, bias=False, device="meta")


def side_after(layer: Callable[..., nn.Module], width: int, **geometry: int) -> Count:
    """The side that a convolution or pooling of this geometry gives for an image of `width`."""
    geometry = {
        "kernel_size": geometry.pop("k"),
        **{long: geometry.pop(s) for s, long in _LONG.items() if s in geometry},
    }
    built = layer(1, 1, **geometry) if layer is nn.Conv2d else layer(**geometry)
    return lambda: built(torch.zeros(1, 1, width, width)).shape[-1]


_LONG = {"s": "stride", "p": "padding"}


def total(*counts: Count) -> Count:
    """Their sum."""
    return lambda: sum(count() for count in counts)


def ratio(above: Count, below: Count) -> Count:
    """The one divided by the other."""
    return lambda: above() / below()


def scaled(count: Count, factor: float) -> Count:
    """A multiple."""
    return lambda: count() * factor


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


million = partial(scaled, factor=1e-6)


def of_kind(name: str, kind: type[nn.Module]) -> int:
    """How many layers of a kind a network has."""
    return sum(isinstance(module, kind) for module in counted(name).network.modules())


def dropout_of(name: str) -> list[float]:
    """The rates of a network's dropout layers, in order."""
    return [module.p for module in counted(name).network.modules() if isinstance(module, nn.Dropout)]
