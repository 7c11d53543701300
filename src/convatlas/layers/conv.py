"""The unit that most networks since 2015 are made of: convolution, BatchNorm, activation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

Size = int | tuple[int, int]


def conv_bn(
    c_in: int,
    c_out: int,
    kernel: Size = 1,
    stride: int = 1,
    *,
    padding: Size | None = None,
    groups: int = 1,
    bias: bool = False,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    act: Callable[[], nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """(N, c_in, H, W) -> (N, c_out, H / stride, W / stride): children `conv`, `bn` and `act`.

    Odd kernels are padded to keep the resolution unless `padding` says otherwise; `act` is left out if None. BatchNorm
    takes away what a bias of the convolution adds, so there is none by default.

    Examples:
        >>> [name for name, _ in conv_bn(3, 8, 3).named_children()]
        ['conv', 'bn', 'act']
    """
    if padding is None:
        padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=bias),
        bn=nn.BatchNorm2d(c_out, eps=eps, momentum=momentum),
    )
    if act is not None:
        layers["act"] = act()
    return nn.Sequential(layers)
