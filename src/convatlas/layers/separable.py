"""Depthwise separable convolution: filter every channel by itself, then mix the channels (Howard et al., 2017)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from convatlas.layers.conv import conv_bn


def depthwise_separable(
    c_in: int,
    c_out: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    momentum: float = 0.1,
    act: Callable[[], nn.Module] = nn.ReLU,
    linear: bool = False,
) -> nn.Sequential:
    """(N, c_in, H, W) -> (N, c_out, H / stride, W / stride): children `depthwise` and `pointwise`.

    It needs 1 / c_out + 1 / kernel^2 of the multiply-adds of a full convolution (section 3.1). Each half has its own
    BatchNorm and activation; `linear` leaves out the second activation.
    """
    return nn.Sequential(
        OrderedDict(
            depthwise=conv_bn(c_in, c_in, kernel, stride, groups=c_in, momentum=momentum, act=act),
            pointwise=conv_bn(c_in, c_out, momentum=momentum, act=None if linear else act),
        )
    )
