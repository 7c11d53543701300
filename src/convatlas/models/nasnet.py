"""NASNet: search for a cell on small images, stack it for large ones (Zoph, Vasudevan, Shlens & Le, 2017).

To search for a whole network costs too much on ImageNet. So the controller writes two small graphs, a normal cell that
keeps the resolution and a reduction cell that halves it, and CIFAR-10 decides which are good. Networks of any size are
stacks of them: "N @ F" has N normal cells between reductions and F channels at its end. NASNet-A is the best pair.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.drop_path import DropPath
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.layers.recompute import recompute
from convatlas.models.classifier import Classifier, Stage
from convatlas.models.nasnet_cell import NORMAL_A, REDUCTION_A, Cell, bn
from convatlas.registry import Paper, Published, register


def auxiliary_head(channels: int, side: int, num_classes: int) -> nn.Sequential:
    """Classify an inner map: (N, channels, h, w) -> (N, num_classes).

    `side` is that of the map after its pooling, for images of the paper's size; others are brought to it.
    """
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            relu1=nn.ReLU(),
            pool=nn.AvgPool2d(5, stride=3),
            fit=nn.AdaptiveAvgPool2d(side),
            conv1=nn.Conv2d(channels, 128, 1, bias=False),
            bn1=bn(128),
            relu2=nn.ReLU(),
            conv2=nn.Conv2d(128, 768, side, bias=False),
            bn2=bn(768),
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            fc=nn.Linear(768, num_classes),
        )
    )


class NASNet(Classifier):
    """A stem, three times N normal cells with reduction cells between them, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes). A cell reads the outputs of the last two cells, so data do
    not flow in one line: children of `features` take two maps (figure 2).

    Args:
        cells: normal cells between reductions, N.
        width: channels of the last cell's output, F, a multiple of 24.
        stem_filters: channels of the first convolution.
        imagenet_stem: a strided first convolution and two reduction cells before the stack, for large images.
        skip_reduction: the first cell after a reduction takes as its older input the output of the second last cell
            before the reduction, as NASNet-A large does, and not of the last.
        count_padding: mean-pooling at borders also counts the zeros of the padding, as timm does.
        drop_path: ScheduledDropPath's last probability in the last cell; it grows with depth and with progress.
        auxiliary: a second head before the second reduction, in training mode, its loss times 0.4.
        auxiliary_side: pixels of that head's map.
        dropout: probability before the linear layer.
    """

    def __init__(
        self,
        cells: int,
        width: int,
        *,
        stem_filters: int = 32,
        imagenet_stem: bool = True,
        skip_reduction: bool = False,
        count_padding: bool = False,
        drop_path: float = 0.0,
        auxiliary: bool = True,
        auxiliary_side: int = 4,
        dropout: float = 0.5,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        if width % 24:
            raise UsageError(f"width={width} cannot be split into cells; a multiple of 24 can.")
        if not 0 <= drop_path < 1:
            raise UsageError(f"{drop_path=}: a path is dropped with a probability in [0, 1).")
        make = partial(Cell, count_padding=count_padding)
        channels, first_stride = width // 24, 2 if imagenet_stem else 1
        conv = nn.Conv2d(in_channels, stem_filters, 3, first_stride, 0 if imagenet_stem else 1, bias=False)
        features = OrderedDict[str, nn.Module](
            conv0=nn.Sequential(OrderedDict(conv=conv, bn=bn(stem_filters)))
        )
        stages = [Stage("conv0", stem_filters, 2)] if imagenet_stem else []
        self_input, usual = (-1, -1), (-1, -2)
        inputs: dict[str, tuple[int, ...]] = {"conv0": (-1,)}
        older, last, stride = stem_filters, stem_filters, first_stride
        if imagenet_stem:
            quarter, half = channels // 4, channels // 2
            features["cell_stem_0"] = make(REDUCTION_A, older, last, quarter, stride=2, previous="as it is")
            features["cell_stem_1"] = make(REDUCTION_A, older, 4 * quarter, half, stride=2, previous="halve")
            inputs |= {"cell_stem_0": self_input, "cell_stem_1": usual}
            stages.append(Stage("cell_stem_0", 4 * quarter, 4))
            older, last, stride = 4 * quarter, 4 * half, 8
        name, number, halve = "conv0", 0, imagenet_stem
        for stack in range(3):
            if stack:
                stages.append(Stage(name, last, stride))
                reduction = f"reduction_cell_{stack - 1}"
                features[reduction] = make(REDUCTION_A, older, last, 2**stack * channels, stride=2)
                inputs[reduction] = usual
                if not skip_reduction:
                    older = last
                last, stride, halve = 4 * 2**stack * channels, 2 * stride, True
            for i in range(cells):
                name = f"cell_{number}"
                fit = "halve" if halve and i == 0 else "project"
                features[name] = make(NORMAL_A, older, last, 2**stack * channels, previous=fit)
                inputs[name] = (-1, -3) if stack and i == 0 and skip_reduction else usual
                older, last, number = last, 6 * 2**stack * channels, number + 1
        if not imagenet_stem:
            inputs["cell_0"] = self_input
        features["relu"] = nn.ReLU()
        inputs["relu"] = (-1,)
        spoken = f"cell_{2 * cells - 1}"
        super().__init__(
            nn.Sequential(features),
            mean_head(last, num_classes, dropout),
            [*stages, Stage("relu", last, stride)],
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=last,
            auxiliary={spoken: auxiliary_head(12 * channels, auxiliary_side, num_classes)}
            if auxiliary
            else {},
            auxiliary_weight=0.4,
        )
        self.inputs = inputs
        self.drop_path = drop_path
        he_normal(self, per_group=True)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, num_features, h, w)."""
        for _, output in self.run_features(x):
            x = output
        return x

    def run_features(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield each child's name and output; a cell reads two of the last three."""
        recent = [x]
        for name, child in self.features.named_children():
            maps = [recent[i] for i in self.inputs[name]]
            saving = self.grad_checkpointing and torch.is_grad_enabled()
            recent = [*recent[-2:], recompute(child, *maps) if saving else child(*maps)]
            yield name, recent[-1]

    def set_progress(self, progress: float) -> None:
        """ScheduledDropPath: cell i of L drops each path with probability `drop_path` * i / L * progress."""
        every = [cell for cell in self.features.children() if isinstance(cell, Cell)]
        for i, cell in enumerate(every, start=1):
            for module in cell.modules():
                if isinstance(module, DropPath):
                    module.p = self.drop_path * i / len(every) * progress

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of timm; torchvision has no NASNet."""
        if origin != "timm":
            return None
        return [
            (r"^features\.", ""),
            (r"\.prev\.path_bn\.", ".final_path_bn."),
            (r"\.prev\.path([12])\.", r".path_\1.conv."),
            (r"\.prev\.", ".conv_prev_1x1."),
            (r"\.cur\.", ".conv_1x1."),
            (r"\.steps\.(\d)\.(left|right)\.", r".comb_iter_\1_\2."),
            (r"\.separable([12])\.(depthwise|pointwise)\.", r".separable_\1.\2_conv2d."),
            (r"(comb_iter_\d_\w+)\.bn([12])\.", r"\1.bn_sep_\2."),
            (r"^head\.fc\.", "last_linear."),
        ]


PAPER = Paper(
    "Learning Transferable Architectures for Scalable Image Recognition",
    year=2017,
    authors="Zoph, Vasudevan, Shlens, Le",
    arxiv="1707.07012",
)
ONE_CROP = "ILSVRC-2012 val, 1 crop"
LARGE = partial(NASNet, 6, 4032, stem_filters=96, skip_reduction=True, auxiliary_side=6)
LARGE_FIGURES = Published(
    params="88.9M",
    macs="23.8×10^9",
    top1_error_pct="17.3",
    top5_error_pct="3.8",
    test=ONE_CROP,
    source="table 2",
)
_register = partial(register, paper=PAPER, family="nasnet")
_register(
    "nasnetalarge",
    partial(LARGE, count_padding=True, auxiliary=False, dropout=0.0),
    image=331,
    smallest=128,
    summary="NASNet-A, 6 @ 4032: timm's nasnetalarge, which has no second head and counts zeros at borders",
    peers={"timm": "nasnetalarge"},
)
_register(
    "nasnetalarge_paper",
    partial(LARGE, drop_path=0.3),
    image=331,
    smallest=128,
    published=LARGE_FIGURES,
    summary="NASNet-A, 6 @ 4032, as its authors trained it: second head, ScheduledDropPath",
)
_register(
    "nasnetamobile",
    partial(NASNet, 4, 1056),
    image=224,
    smallest=96,
    published=Published(
        params="5.3M",
        macs="564×10^6",
        top1_error_pct="26.0",
        top5_error_pct="8.4",
        test=ONE_CROP,
        source="table 3",
    ),
    summary="NASNet-A, 4 @ 1056",
)
register(
    "nasneta_cifar",
    partial(NASNet, 6, 768, stem_filters=96, imagenet_stem=False, drop_path=0.4, dropout=0.0),
    paper=PAPER,
    family="nasnet",
    image=32,
    classes=10,
    published=Published(params="3.3M", error_pct="3.41", test="CIFAR-10 test, augmented", source="table 1"),
    summary="NASNet-A, 6 @ 768, for 32x32 images",
)
