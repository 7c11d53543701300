"""DenseNet: every layer sees the maps of all layers before it (Huang, Liu, van der Maaten & Weinberger, 2016).

A ResNet adds what a block computes to its input; here it is put beside it. A layer needs to compute only a few new
maps, the growth rate k, as the old ones stay readable, so the networks are narrow, and L layers have L(L + 1)/2
connections. Layers are BN-ReLU-conv; B stands for a 1x1 bottleneck before each 3x3 convolution, C for transitions
that halve the channels.

Written as in the paper, layer l copies the maps of all layers before it, and L layers copy about L^2/2 times k maps.
Where no gradient is asked for, a block here writes every map once, into one buffer that all its layers read. The
result is the same but for rounding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.head import mean_head
from convatlas.layers.init import he_normal
from convatlas.layers.recompute import recompute
from convatlas.models.classifier import Classifier, Stage
from convatlas.registry import Paper, Published, register

Stem = Literal["7x7", "3x3", "deep"]


class DenseLayer(nn.Sequential):
    """H_l of equation 2: maps of all layers before, (N, c, H, W) in sum, -> `growth` new ones, (N, growth, H, W).

    BN-ReLU-conv 3x3, behind BN-ReLU-conv 1x1 to 4 * growth channels with `bottleneck`.
    """

    def __init__(self, c_in: int, growth: int, *, bottleneck: bool, dropout: float) -> None:
        layers = OrderedDict[str, nn.Module]()
        widths = [(c_in, 4 * growth, 1), (4 * growth, growth, 3)] if bottleneck else [(c_in, growth, 3)]
        for i, (channels, width, kernel) in enumerate(widths, start=1):
            layers[f"bn{i}"] = nn.BatchNorm2d(channels)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"conv{i}"] = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
            if dropout:
                layers[f"drop{i}"] = nn.Dropout(dropout)
        super().__init__(layers)

    def forward(self, *maps: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One tensor, or several that lie side by side in the channels."""
        return super().forward(maps[0] if len(maps) == 1 else torch.cat(maps, 1))


class DenseBlock(nn.Module):
    """`depth` layers, each of which reads all maps before it: (N, c_in, H, W) -> (N, c_in + depth * growth, H, W).

    With `memory_efficient` only the new maps are kept for the backward pass, and each layer is computed again (Pleiss
    et al., "Memory-Efficient Implementation of DenseNets", 2017): memory grows linearly with depth, not quadratically.
    """

    def __init__(
        self, c_in: int, depth: int, growth: int, *, bottleneck: bool, dropout: float, memory_efficient: bool
    ) -> None:
        super().__init__()
        for i in range(depth):
            layer = DenseLayer(c_in + i * growth, growth, bottleneck=bottleneck, dropout=dropout)
            self.add_module(f"layer{i + 1}", layer)
        self.channels = c_in + depth * growth
        self.memory_efficient = memory_efficient

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_in + depth * growth, H, W)."""
        # A gradient needs every concatenation as it was; compilers plan memory themselves; meta tensors have none.
        if not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or x.is_meta):
            return self._write_once(x)
        save = self.memory_efficient and torch.is_grad_enabled()
        # In training what there is grows by what is new: a gradient is a sum of two then, not one for each layer.
        grows = self.training and not save and not x.is_meta
        maps = [x]
        for layer in self.children():
            maps.append(recompute(layer, *maps) if save else layer(*maps))
            maps = [torch.cat(maps, 1)] if grows else maps
        return maps[0] if grows else torch.cat(maps, 1)

    def _write_once(self, x: Tensor) -> Tensor:
        """The same maps, each written once; a layer reads the part of the buffer that is filled."""
        like_images = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        layout = torch.channels_last if like_images else torch.contiguous_format
        shape = (x.shape[0], self.channels, *x.shape[2:])
        buffer = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
        filled = x.shape[1]
        buffer[:, :filled] = x
        for layer in self.children():
            new = layer(buffer[:, :filled])
            buffer[:, filled : filled + new.shape[1]] = new
            filled += new.shape[1]
        return buffer


def transition(c_in: int, c_out: int, dropout: float) -> nn.Sequential:
    """BN-ReLU-conv 1x1, then the mean of 2x2 pixels: (N, c_in, H, W) -> (N, c_out, H/2, W/2)."""
    layers = OrderedDict[str, nn.Module](
        bn=nn.BatchNorm2d(c_in), relu=nn.ReLU(), conv=nn.Conv2d(c_in, c_out, 1, bias=False)
    )
    if dropout:
        layers["drop"] = nn.Dropout(dropout)
    layers["pool"] = nn.AvgPool2d(2)
    return nn.Sequential(layers)


class DenseNet(Classifier):
    """A stem, dense blocks with transitions between them, BN-ReLU, the mean over all pixels, one linear layer.

    Images (N, in_channels, H, W) -> logits (N, num_classes).

    Args:
        growth: k, the maps that each layer adds.
        depths: layers of each dense block.
        bottleneck: a 1x1 convolution to 4k channels in every layer (B).
        compression: share of the channels that a transition keeps; 0.5 in C, 1 otherwise.
        width: channels of the stem; 2k if None.
        stem: "7x7" with stride 2 and max-pooling (table 1), "deep", three 3x3 convolutions instead (timm's
            "d" forms), or "3x3" at full resolution (CIFAR).
        layer_dropout: probability after every convolution but the first; the paper's 0.2 belongs to data that are
            not augmented.
        memory_efficient: compute layers again in the backward pass.
        dropout: probability before the linear layer; the paper has none.
    """

    def __init__(
        self,
        growth: int,
        depths: Sequence[int],
        *,
        bottleneck: bool = True,
        compression: float = 0.5,
        width: int | None = None,
        stem: Stem = "7x7",
        layer_dropout: float = 0.0,
        memory_efficient: bool = False,
        dropout: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        if not 0 < compression <= 1:
            raise UsageError(f"compression={compression} is not known; a transition keeps a share in (0, 1].")
        channels = 2 * growth if width is None else width
        features = _stem(stem, in_channels, channels, growth)
        stride = 1 if stem == "3x3" else 4
        stages = [] if stem == "3x3" else [Stage("conv1", channels, 2)]
        for i, depth in enumerate(depths, start=1):
            block = DenseBlock(
                channels,
                depth,
                growth,
                bottleneck=bottleneck,
                dropout=layer_dropout,
                memory_efficient=memory_efficient,
            )
            features[f"dense{i}"] = block
            channels = block.channels
            if i < len(depths):
                stages.append(Stage(f"dense{i}", channels, stride))
                kept = int(channels * compression)
                features[f"transition{i}"] = transition(channels, kept, layer_dropout)
                channels, stride = kept, 2 * stride
        features["norm"] = nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(channels), relu=nn.ReLU()))
        super().__init__(
            nn.Sequential(features),
            mean_head(channels, num_classes, dropout),
            [*stages, Stage("norm", channels, stride)],
            num_classes=num_classes,
            in_channels=in_channels,
            head_hidden_size=channels,
        )
        self.stem = stem
        he_normal(self)

    def key_rules(self, origin: str) -> list[tuple[str, str]] | None:
        """The names of torchvision, which are timm's too; only timm has the deep stem."""
        if self.stem == "3x3" or (self.stem == "deep" and origin != "timm"):
            return None
        return [
            (r"^features\.conv1\.conv(\d?)\.", r"features.conv\g<1>."),
            (r"^features\.conv1\.bn(\d?)\.", r"features.norm\g<1>."),
            (r"^features\.(conv|norm)\.", r"features.\g<1>0."),
            (r"^features\.norm0\.bn\.", "features.norm5."),
            (r"^features\.dense(\d)\.layer(\d+)\.bn", r"features.denseblock\1.denselayer\2.norm"),
            (r"^features\.dense(\d)\.layer(\d+)\.conv", r"features.denseblock\1.denselayer\2.conv"),
            (r"^features\.transition(\d)\.bn\.", r"features.transition\1.norm."),
            (r"^head\.fc\.", "classifier."),
        ]


def _stem(kind: str, c_in: int, c_out: int, growth: int) -> OrderedDict[str, nn.Module]:
    """(N, c_in, H, W) -> (N, c_out, H/4, W/4), or (N, c_out, H, W) for the 3x3 stem."""
    if kind == "3x3":  # its BN and ReLU are those of the first dense layer
        conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        return OrderedDict(conv1=nn.Sequential(OrderedDict(conv=conv)))
    layers = OrderedDict[str, nn.Module]()
    if kind == "7x7":
        layers["conv"] = nn.Conv2d(c_in, c_out, 7, 2, 3, bias=False)
        layers["bn"], layers["relu"] = nn.BatchNorm2d(c_out), nn.ReLU()
    elif kind == "deep":
        for i, (channels, width) in enumerate(((c_in, growth), (growth, growth), (growth, c_out))):
            layers[f"conv{i}"] = nn.Conv2d(channels, width, 3, 2 if i == 0 else 1, 1, bias=False)
            layers[f"bn{i}"], layers[f"relu{i}"] = nn.BatchNorm2d(width), nn.ReLU()
    else:
        raise UsageError(f"stem={kind!r} is not known; '7x7', 'deep' and '3x3' are.")
    return OrderedDict(conv1=nn.Sequential(layers), pool1=nn.MaxPool2d(3, stride=2, padding=1))


PAPER = Paper(
    "Densely Connected Convolutional Networks",
    year=2016,
    authors="Huang, Liu, van der Maaten, Weinberger",
    arxiv="1608.06993",
)
_register = partial(register, paper=PAPER, family="densenet")
ONE_CROP = "ILSVRC-2012 val, 1-crop"
TEN_CROPS = ("ILSVRC-2012 val, 10-crop, top-1", "ILSVRC-2012 val, 10-crop, top-5")

# Layers of the blocks (table 1); errors with one crop, and with ten in brackets (table 3).
for layers, depths, top1, top5, tens in (
    (121, (6, 12, 24, 16), "25.02", "7.71", ("23.61", "6.66")),
    (169, (6, 12, 32, 32), "23.80", "6.85", ("22.08", "5.92")),
    (201, (6, 12, 48, 32), "22.58", "6.34", ("21.46", "5.54")),
    (264, (6, 12, 64, 48), "22.15", "6.12", ("20.80", "5.29")),
):
    _register(
        f"densenet{layers}",
        partial(DenseNet, 32, depths),
        image=224,
        published=Published(
            top1_error_pct=top1,
            top5_error_pct=top5,
            other_errors_pct=dict(zip(TEN_CROPS, tens, strict=True)),
            layers=layers if layers < 264 else None,  # table 1 has 265, in spite of the name
            test=ONE_CROP,
            source="tables 1 and 3",
        ),
        summary="growth rate 32" + ("" if layers == 264 else f"; torchvision's densenet{layers}"),
        peers={} if layers == 264 else dict.fromkeys(("torchvision", "timm"), f"densenet{layers}"),
    )
_register(
    "densenet161",
    partial(DenseNet, 48, (6, 12, 36, 24)),
    image=224,
    published=Published(layers=161, source="the authors' code"),
    summary="growth rate 48; torchvision's densenet161, from the authors' code and not in the paper's tables",
    peers=dict.fromkeys(("torchvision", "timm"), "densenet161"),
)
_register(
    "densenet264d",
    partial(DenseNet, 48, (6, 12, 64, 48), stem="deep"),
    image=224,
    published=Published(),
    summary="growth rate 48 and a deep stem; timm's densenet264d",
    peers={"timm": "densenet264d"},
)

# CIFAR (section 4.1): three blocks at 32, 16 and 8 pixels. Parameters and errors of table 2.
OTHERS = ("CIFAR-10", "CIFAR-100", "CIFAR-100, augmented", "SVHN")
for compact, layers, growth, params, error, others in (
    (False, 40, 12, "1.0M", "5.24", ("7.00", "27.55", "24.42", "1.79")),
    (False, 100, 12, "7.0M", "4.10", ("5.77", "23.79", "20.20", "1.67")),
    (False, 100, 24, "27.2M", "3.74", ("5.83", "23.42", "19.25", "1.59")),
    (True, 100, 12, "0.8M", "4.51", ("5.92", "24.15", "22.27", "1.76")),
    (True, 250, 24, "15.3M", "3.62", ("5.19", "19.64", "17.60", "1.74")),
    (True, 190, 40, "25.6M", "3.46", (None, None, "17.18", None)),
):
    depth = (layers - 4) // (6 if compact else 3)
    build = partial(DenseNet, growth, (depth,) * 3, stem="3x3")
    if not compact:
        build = partial(build, bottleneck=False, compression=1.0, width=16)
    _register(
        f"densenet{'_bc' if compact else ''}_{layers}_{growth}_cifar",
        build,
        image=32,
        classes=10,
        published=Published(
            params=params,
            error_pct=error,
            other_errors_pct={
                test: other for test, other in zip(OTHERS, others, strict=True) if other is not None
            },
            layers=layers,
            test="CIFAR-10 test, augmented",
            source="table 2",
        ),
        summary=f"{'DenseNet-BC' if compact else 'DenseNet'}, L={layers}, k={growth}: 3 blocks of {depth} layers",
    )
