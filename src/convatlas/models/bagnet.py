"""BagNet: a ResNet-50 that sees only small patches (Brendel & Bethge, 2019).

Most 3x3 convolutions of ResNet-50 become 1x1, and none is padded. So every unit before the last mean sees one patch of
9, 17 or 33 pixels and no more, wherever the patch stands, and the network is a bag of local features: the mean of what
a linear classifier says of each patch by itself. As mean and classifier may change places, each patch has logits of its
own (`patch_logits`), which add up to the answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import conv2d

from convatlas.errors import UsageError
from convatlas.models.residual import Place, ResidualNet, Stem
from convatlas.models.resnet import Block, bottleneck_convs, make_shortcut
from convatlas.registry import Paper, Published, register

DEPTHS, STRIDES = (3, 4, 6, 3), (2, 2, 2, 1)
PATCHES = {
    9: 2,
    17: 3,
    33: 4,
}  # pixels that a unit sees, and the stages whose first block has a 3x3 convolution


class CroppedBlock(Block):
    """relu(F(x) + shortcut(x)) without padding: what the 3x3 convolution loses is cut from the shortcut, too.

    (N, c_in, H, W) -> (N, c_out, H', W') with H' = (H - kernel) // stride + 1. Cut are the pixels on the right and at
    the bottom, as in the authors' code, so that a pixel of F and its partner start at the same pixel of x.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H', W')."""
        residual = self.residual(x)
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.relu(self.sum(residual, shortcut[:, :, : residual.shape[2], : residual.shape[3]]))


class BagNet(ResidualNet):
    """ResNet-50 of patches: images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        patch: side of what a unit of the last map sees: 9, 17 or 33 pixels; patches stand 8 pixels apart.
        depths: blocks per stage.
        width: channels of the first stage's inner convolutions.
        dropout: probability before the linear layer; the paper has none.
    """

    def __init__(
        self,
        *,
        patch: int,
        depths: Sequence[int] = DEPTHS,
        width: int = 64,
        dropout: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        if patch not in PATCHES:
            raise UsageError(
                f"patch={patch} was asked for; BagNets of {', '.join(map(str, PATCHES))} pixels exist."
            )
        conv1 = OrderedDict[str, nn.Module](
            pointwise=nn.Conv2d(in_channels, width, 1, bias=False),
            conv=nn.Conv2d(width, width, 3, bias=False),
            bn=nn.BatchNorm2d(width),
            act=nn.ReLU(),
        )

        def block(place: Place) -> CroppedBlock:
            convs = bottleneck_convs(place, place.width)
            kernel = 3 if place.number == 0 and place.stage < PATCHES[patch] else 1
            convs[1] = convs[1]._replace(kernel=kernel, padding=0)
            return CroppedBlock(convs, make_shortcut("B", place))

        super().__init__(
            Stem(OrderedDict(conv1=nn.Sequential(conv1)), width, 1, 1),
            depths,
            block,
            width=width,
            expansion=4,
            strides=STRIDES,
            dropout=dropout,
            num_classes=num_classes,
            in_channels=in_channels,
        )
        self.patch = patch

    def patch_logits(self, x: Tensor) -> Tensor:
        """What each patch says by itself: (N, in_channels, H, W) -> (N, num_classes, h, w).

        Its mean over h and w is what the network answers in evaluation mode. Patch (i, j) shows the pixels from
        (8 i, 8 j) to (8 i + patch - 1, 8 j + patch - 1). Raises `UsageError` where the classifier is left out.
        """
        classifier = self.get_classifier()
        if not isinstance(classifier, nn.Linear):
            raise UsageError("patch logits were asked for, but the classifier was left out.")
        return conv2d(self.forward_features(x), classifier.weight[:, :, None, None], classifier.bias)


PAPER = Paper(
    "Approximating CNNs with Bag-of-local-Features Models Works Surprisingly Well on ImageNet",
    year=2019,
    authors="Brendel, Bethge",
    arxiv="1904.00760",
)
for patch in PATCHES:
    register(
        f"bagnet{patch}",
        partial(BagNet, patch=patch),
        paper=PAPER,
        family="bagnet",
        image=224,
        published=Published(
            top5_error_pct="12.4" if patch == 33 else None,  # printed as an accuracy, 87.6
            test="ILSVRC-2012 val" if patch == 33 else None,
            source="figure 2 and section 4" if patch == 33 else None,
        ),
        summary=f"sees patches of {patch}x{patch} pixels; 3x3 convolutions in {PATCHES[patch] + 1} layers only",
        smallest=max(patch, 32),
    )
