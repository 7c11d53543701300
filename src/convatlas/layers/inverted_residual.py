"""Inverted residual with linear bottleneck, also named MBConv (Sandler et al., 2018).

ResNet's bottleneck is wide outside and narrow inside. Here it is the other way round: the shortcut connects narrow
tensors, and the depthwise filters work on many channels in between, where they are cheap. The last convolution has no
activation, as a ReLU on few channels would lose what cannot be recovered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from convatlas.layers.conv import conv_bn
from convatlas.layers.drop_path import DropPath
from convatlas.layers.squeeze_excitation import SqueezeExcitation


class Row(NamedTuple):
    """A stage of inverted residuals, as tables print them: `stride` is that of its first block."""

    expansion: int
    kernel: int
    channels: int
    depth: int
    stride: int


class InvertedResidual(nn.Module):
    """Expand, filter, weigh, project: (N, c_in, H, W) -> (N, c_out, H / stride, W / stride).

    The input is added where it has the shape of the output.

    Args:
        expanded: channels in between; if they are c_in, there is no expansion.
        kernel: of the depthwise convolution.
        act: after the expansion and after the depthwise convolution.
        squeezed: hidden channels of squeeze-and-excitation before the projection; 0 for none.
        squeeze_act: activation between the two layers of squeeze-and-excitation.
        gate: activation after them.
        eps: of every BatchNorm.
        momentum: of every BatchNorm.
        drop_path: probability that an image skips the block, while training; only where there is a shortcut.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        expanded: int,
        kernel: int = 3,
        stride: int = 1,
        act: Callable[[], nn.Module] = nn.ReLU6,
        squeezed: int = 0,
        squeeze_act: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
        eps: float = 1e-5,
        momentum: float = 0.1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.adds = stride == 1 and c_in == c_out
        layers = OrderedDict[str, nn.Module]()
        if expanded != c_in:
            layers["expand"] = conv_bn(c_in, expanded, eps=eps, momentum=momentum, act=act)
        layers["depthwise"] = conv_bn(
            expanded, expanded, kernel, stride, groups=expanded, eps=eps, momentum=momentum, act=act
        )
        if squeezed:
            layers["se"] = SqueezeExcitation(expanded, squeezed, act=squeeze_act, gate=gate)
        layers["project"] = conv_bn(expanded, c_out, eps=eps, momentum=momentum, act=None)
        if self.adds and drop_path:
            layers["drop_path"] = DropPath(drop_path)
        self.residual = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H / stride, W / stride)."""
        return x + self.residual(x) if self.adds else self.residual(x)


def stack(
    c_in: int,
    c_out: int,
    depth: int,
    *,
    expansion: int,
    kernel: int = 3,
    stride: int = 1,
    act: Callable[[], nn.Module] = nn.ReLU6,
    momentum: float = 0.1,
) -> nn.Sequential:
    """`depth` blocks, the first of which changes channels and resolution; all expand by the same factor.

    (N, c_in, H, W) -> (N, c_out, H / stride, W / stride)
    """
    widths = [c_in] + [c_out] * (depth - 1)
    strides = [stride] + [1] * (depth - 1)
    return nn.Sequential(
        *(
            InvertedResidual(
                width,
                c_out,
                expanded=expansion * width,
                kernel=kernel,
                stride=step,
                act=act,
                momentum=momentum,
            )
            for width, step in zip(widths, strides, strict=True)
        )
    )


def timm_rules(without_expansion: str) -> list[tuple[str, str]]:
    """Substitutions from our names to timm's for a network of a stem, stages of such blocks and a last convolution.

    They hold for `features.stem`, `features.stage1` and so on, `features.last` and `head.fc`. `without_expansion`
    matches the numbers of the stages whose blocks do not expand: timm numbers the layers of those blocks differently.
    """
    expanding = [("expand.conv", "conv_pw"), ("expand.bn", "bn1"), ("depthwise.conv", "conv_dw")]
    expanding += [("depthwise.bn", "bn2"), ("project.conv", "conv_pwl"), ("project.bn", "bn3")]
    short = [("depthwise.conv", "conv_dw"), ("depthwise.bn", "bn1")]
    short += [("(?:project|pointwise).conv", "conv_pw"), ("(?:project|pointwise).bn", "bn2")]
    return [
        (r"^features\.stem\.conv\.", "conv_stem."),
        (r"^features\.stem\.bn\.", "bn1."),
        (r"^features\.last\.conv\.", "conv_head."),
        (r"^features\.last\.bn\.", "bn2."),
        (r"^head\.fc\.", "classifier."),
        (r"\.residual\.", "."),
        (r"\.se\.(reduce|expand)\.", r".se.conv_\1."),
        *(
            (rf"^features\.stage({without_expansion})\.(\d+)\.{ours}\.", rf"features.stage\1.\2.{theirs}.")
            for ours, theirs in short
        ),
        *((rf"^(features\.stage\d+\.\d+)\.{ours}\.", rf"\1.{theirs}.") for ours, theirs in expanding),
        *((rf"^features\.stage{i + 1}\.", f"blocks.{i}.") for i in range(7)),
    ]
