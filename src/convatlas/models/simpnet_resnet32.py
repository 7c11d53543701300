"""The ResNet-32 of SimpNet's table VI: the same network with strides, and with max-pools in their place.

The authors' files differ from He et al.'s network of 32 layers: projections are 2x2 convolutions, all convolutions have
biases, and nothing follows the additions. So it has 475,818 parameters, and 464,154 in `resnet32_cifar`.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Literal, cast

from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.head import mean_head
from convatlas.models.classifier import Classifier, Stage
from convatlas.models.simpnet import PAPER
from convatlas.registry import Published, register

Downsampling = Literal["stride", "pool"]
WIDTHS = (16, 32, 64)
BLOCKS = 5  # of each width


def halving(c_in: int, c_out: int, kernel: int, by: str) -> OrderedDict[str, nn.Module]:
    """A convolution that strides, or one that does not and a 2x2 max-pool, then BatchNorm."""
    conv = nn.Conv2d(
        c_in, c_out, kernel, 2 if by == "stride" else 1, padding=kernel // 2 if kernel == 3 else 0
    )
    layers = OrderedDict[str, nn.Module](conv=conv)
    if by == "pool":  # a 2x2 convolution of an even side leaves an odd one, whose last column the pool keeps
        layers["pool"] = nn.MaxPool2d(2, ceil_mode=True)
    layers["bn"] = nn.BatchNorm2d(c_out)
    return layers


class Block(nn.Module):
    """F(x) + shortcut(x), with F two 3x3 convolutions: (N, c_in, H, W) -> (N, c_out, H, W), or half the resolution.

    `by` says how the first convolution of F and the projection halve: "stride", "pool", or None where they do not.
    """

    def __init__(self, c_in: int, c_out: int, by: tuple[str, str] | None) -> None:
        super().__init__()
        first = halving(c_in, c_out, 3, by[0] if by else "none")
        self.conv1 = nn.Sequential(OrderedDict([*first.items(), ("relu", nn.ReLU())]))
        conv = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv2 = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(c_out)))
        self.shortcut = nn.Sequential(halving(c_in, c_out, 2, by[1])) if by else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H, W), or half the resolution."""
        return self.conv2(self.conv1(x)) + self.shortcut(x)


class SimpNetResNet32(Classifier):
    """One convolution, three times five blocks, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W), H and W multiples of 4, -> logits (N, num_classes).

    Args:
        downsampling: "stride", or "pool": max-pools after the first convolution of both transitions and after the
            first projection; the second projection strides in the released file too.
        dropout: probability before the linear layer; the paper has none.

    Raises:
        UsageError: for another downsampling.
    """

    def __init__(
        self,
        *,
        downsampling: Downsampling = "stride",
        dropout: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        if downsampling not in ("stride", "pool"):
            raise UsageError(f"downsampling={downsampling!r} is not known; 'stride' and 'pool' are.")
        stem = OrderedDict[str, nn.Module](
            conv=nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1), bn=nn.BatchNorm2d(WIDTHS[0]), relu=nn.ReLU()
        )
        features = OrderedDict[str, nn.Module](conv1=nn.Sequential(stem))
        transitions = (None, (downsampling, downsampling), (downsampling, "stride"))
        c_in = WIDTHS[0]
        for i, (width, by) in enumerate(zip(WIDTHS, transitions, strict=True), start=1):
            blocks = [Block(c_in, width, by), *(Block(width, width, None) for _ in range(BLOCKS - 1))]
            features[f"group{i}"] = nn.Sequential(*blocks)
            c_in = width
        super().__init__(
            nn.Sequential(features),
            mean_head(c_in, num_classes, dropout),
            [Stage(f"group{i}", width, 2 ** (i - 1)) for i, width in enumerate(WIDTHS, start=1)],
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=c_in,
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):  # Caffe's "msra"
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]


for name, downsampling, what, error in (
    ("pool", "pool", "max-pools", "6.25"),
    ("strided", "stride", "strides", "6.54"),
):
    register(
        f"simpnet_t6_resnet32_{name}",
        partial(SimpNetResNet32, downsampling=cast(Downsampling, downsampling)),
        paper=PAPER,
        family="simpnet",
        image=32,
        classes=10,
        published=Published(
            params="460K", error_pct=error, test="CIFAR-10 test, augmented", source="table 6"
        ),
        summary=f"table 6: ResNet-32 of the authors' files, resolution halved by {what}",
    )
