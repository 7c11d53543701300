"""Small, mobile, searched and scaled networks, and the counts of filters in other tables."""

from __future__ import annotations

import torch
from torch import nn

from convatlas.audit.claims.deep import MOBILENET
from convatlas.audit.claims.quantities import (
    channels,
    counted,
    kernels,
    layers,
    macs,
    mega_macs,
    millions,
    params,
    ratio,
)
from convatlas.audit.claims.rules import Computed, Corrected, Rule, Tried, same
from convatlas.models import create_model


def filters(name: str, *, first: int) -> list[str]:
    """The first convolutions of a network as "6@5x5"."""
    return [f"{out}@{side}x{side}" for out, side, _ in kernels(name)[:first]]


def mb(name: str, stage: str) -> list[object]:
    """A stage of EfficientNet-B0 as [operator, resolution of its input, channels, blocks]."""
    of = counted("efficientnet_b0")
    blocks = list(of.network.get_submodule(f"features.{stage}").children())
    path = f"features.{stage}.0.residual"
    expand = of.shapes[f"{path}.depthwise"][0] // of.shapes[f"{_before(stage)}"][0]
    kernel = of.network.get_submodule(f"{path}.depthwise.conv").kernel_size[0]  # pyright: ignore
    return [f"MBConv{expand} k{kernel}", None, of.shapes[f"features.{stage}"][0], len(blocks)]


def _before(stage: str) -> str:
    number = int(stage.removeprefix("stage"))
    return "features.stem" if number == 1 else f"features.stage{number - 1}"


def b0_rows() -> list[list[object]]:
    """The nine rows of EfficientNet-B0's table: operator, resolution that it receives, channels, layers."""
    of, rows = counted("efficientnet_b0"), list[list[object]]()
    side, stem = of.image[-1], of.shapes["features.stem"]
    rows.append(["Conv3x3", side, stem[0], 1])
    previous = stem
    for number in range(1, 8):
        stage = f"stage{number}"
        operator, _, out, count = mb("efficientnet_b0", stage)
        rows.append([operator, previous[-1], out, count])
        previous = of.shapes[f"features.{stage}"]
    return [*rows, ["Conv1x1+Pool+FC", previous[-1], of.shapes["features.last"][0], 1]]


def v2_rows() -> list[list[int]]:
    """The seven rows t, c, n, s of MobileNet v2's table."""
    of, rows = counted("mobilenet_v2"), list[list[int]]()
    for number in range(1, 8):
        stage = f"features.stage{number}"
        before = of.shapes[_before(f"stage{number}")]
        wide = of.shapes[f"{stage}.0.residual.depthwise"][0]
        after = of.shapes[stage]
        stride = round(before[-1] / after[-1])
        rows.append(
            [wide // before[0], after[0], len(list(of.network.get_submodule(stage).children())), stride]
        )
    return rows


def v2_sides() -> list[int]:
    """Resolutions that the rows of MobileNet v2's table receive."""
    of = counted("mobilenet_v2")
    outputs = [
        of.shapes[f"features.{name}"][-1] for name in ("stem", *(f"stage{i}" for i in range(1, 8)), "last")
    ]
    return [of.image[-1], *outputs, 1]


def simpnet_is(name: str, convs: int, printed: str) -> bool:
    """Whether a SimpNet has so many convolutions, and the printed parameters to two digits."""
    return len(kernels(name)) == convs and same(printed, counted(name).params, within=0.025)


def seen(name: str) -> int:
    """Side of the patch of the image that one number of the last map depends on, by the gradient's extent."""
    features = create_model(name).eval().get_submodule("features")
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    output = features(image)
    middle = output[..., output.shape[-2] // 2, output.shape[-1] // 2].sum()
    (gradient,) = torch.autograd.grad(middle, image)
    rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    return int(rows[-1] - rows[0] + 1)


def widths_of_inception() -> list[int]:
    """Channels that the parts of Inception v3 give."""
    return [shape[0] for path, shape in counted("inception_v3").shapes.items() if path.startswith("features")]


def v1_shapes() -> str:
    """Maps of MobileNet v1 in the words of a slide."""
    of = counted("mobilenet_v1")

    def text(label: str, path: str) -> str:
        channels, side, _ = of.shapes[f"features.{path}"]
        return f"{label} {channels}@{side}"

    parts = [
        ("C1", "stem"),
        ("DW2", "stage1.0.depthwise"),
        ("PW2", "stage1.0.pointwise"),
        ("PW3", "stage2.0.pointwise"),
    ]
    return ", ".join([*(text(*part) for part in parts), text("PW13/14", "stage5")])


RULES: dict[str, Rule] = {
    # --- small and mobile networks ---------------------------------------------------------------------------------
    "squeezenet 1": Computed(
        ratio(params("alexnet"), params("squeezenet1_0")), digits=1, why="torchvision's AlexNet"
    ),
    "squeezenet 5": Computed([params("squeezenet1_1_cifar"), None], slip=2),
    "squeezenet 6": Computed([params("squeezenet1_1_cifar"), None], slip=2),
    **{
        f"simpnet-correlation-preservation {i}": Computed(
            [params("squeezenet1_1_cifar"), None], slip="squeezenet error 2"
        )
        for i in (1, 2)
    },
    "mobilenet-v1 1": Computed([None, mega_macs("mobilenet_v1"), millions("mobilenet_v1")]),
    "mobilenet-v1 2": Computed([None, mega_macs("googlenet_paper"), None], within=0.03, why=MOBILENET),
    "mobilenet-v1 3": Computed(
        [None, mega_macs("vgg16"), millions("vgg16")],
        instead=[
            None,
            lambda: sum(r.macs for r in counted("vgg16").rows_of("features")) / 1e6,
            millions("vgg16"),
        ],
        digits=3,
        why="the MobileNet paper counts the convolutions alone",
    ),
    "mobilenet-v1 4": Computed(lambda: v1_shapes()),
    "mobilenet-v1 5": Computed(lambda: [*counted("mobilenet_v1").image[1:], 3]),
    "mobilenet-v2 1": Computed(v2_rows),
    "mobilenet-v2 2": Computed(v2_sides),
    "mobilenet-v2 3": Computed(channels("mobilenet_v2", "features.stem", "features.last")),
    "inverted-residual 1": Computed(lambda: sorted({row[0] for row in v2_rows()})),
    "depthwise-separable 1": Tried(
        lambda _: (
            [
                module.groups > 1
                for module in counted("mobilenet_v1").network.get_submodule("features.stage1.0").modules()
                if isinstance(module, nn.Conv2d)
            ]
            == [True, False]
        )
    ),
    "senet 1": Computed(lambda: 2),
    # --- searched and scaled networks ------------------------------------------------------------------------------
    "efficientnet 1": Computed(b0_rows),
    "scaling-ablation 1": Computed([macs("efficientnet_b0"), None], digits=1),
    "scaling-ablation 2": Computed([macs("efficientnet_b0_d4"), None], open=1, stated=[1_800_000_000, 79.0]),
    "scaling-ablation 3": Computed([macs("efficientnet_b0_w2"), None], open=1, stated=[1_800_000_000, 78.9]),
    "scaling-ablation 4": Computed([macs("efficientnet_b0_r2"), None], open=1, stated=[1_900_000_000, 79.1]),
    "scaling-ablation 5": Computed(
        [macs("efficientnet_b0_compound"), None], why="1.3 times 224 is 291 pixels"
    ),
    "nas-found-nets 1": Computed(
        [layers("nas_v1"), params("nas_v1"), None],
        instead=[lambda: len(kernels("nas_v1")), params("nas_v1"), None],
        why="the depth counts the convolutions alone",
    ),
    **{
        f"simpnet-table{claim}": Tried(
            lambda _, name=name, convs=convs, printed=printed: simpnet_is(name, convs, printed),
            ours=f"{convs} convolutions and {printed} parameters to 2 %, counted; the accuracy needs the training",
        )
        for claim, name, convs, printed in (
            ("2 1", "simpnet_t2_8", 8, "300K"),
            ("2 2", "simpnet_t2_9", 9, "300K"),
            ("2 3", "simpnet_t2_10", 10, "300K"),
            ("2 4", "simpnet_t2_13", 13, "300K"),
            ("3 1", "simpnet_t3_6", 6, "1.1M"),
            ("3 2", "simpnet_t3_10", 10, "570K"),
            ("4 1", "simpnet_t4_10_wide", 10, "8M"),
            ("4 2", "simpnet_t4_10_balanced", 10, "8M"),
            ("4 3", "simpnet_t4_13_wide", 13, "128K"),
            ("4 4", "simpnet_t4_13_balanced", 13, "128K"),
            ("6 1", "simpnet_t6_13_pool", 13, "360K"),
            ("6 2", "simpnet_t6_15_pool", 15, "360K"),
            ("6 3", "simpnet_t6_15_strided", 15, "360K"),
        )
    },
    **{
        claim: Tried(
            lambda _, name=name, printed=printed: simpnet_is(name, 13, printed),
            ours=f"13 convolutions and {printed} parameters to 2 %, counted; the accuracy needs the training",
        )
        for claim, name, printed in (
            ("simpnet 1", "simpnet_slim_300k", "300K"),
            ("simpnet 2", "simpnet_slim_600k", "600K"),
            ("simpnet 3", "simpnet_t6_13_pool", "360K"),
            ("simpnet-correlation-preservation 3", "simpnet_slim_300k", "300K"),
            ("simpnet-correlation-preservation 4", "simpnet_slim_600k", "600K"),
        )
    },
    "bagnet 1": Computed(lambda: seen("bagnet9")),
    # --- counts in other tables --------------------------------------------------------------------------------------
    "filter-count-rule 5": Tried(
        lambda text: {int(n) for n in text.split("-")} <= set(widths_of_inception())
    ),
    "inception-v2-v3 2": Tried(lambda wanted: set(wanted) <= set(widths_of_inception())),
    "inception-v2-v3 3": Tried(
        lambda _: {"1x1", "3x3", "5x5"} <= {f"{k}x{k}" for _, k, _ in kernels("inception_v3")}
    ),
    "linear-probing 1": Computed(
        lambda: [
            out * side**2
            for (out, _, _), side in zip(kernels("alexnet_paper"), (10, 6, 5, 5, 6), strict=True)
        ],
        why="pooled to 10, 6, 5, 5 and 6 pixels",
    ),
    "nasnet 2": Computed(
        lambda: counted("nasnetalarge").macs * 0.28 / 0.72,
        digits=1,
        why="the 28 % that the same sentence names, of a network 1 / 0.72 times as large",
    ),
    "densenet-imagenet 7": Corrected(1),
    "zfnet 4": Corrected(1),
    "filter-count-rule 1": Computed(lambda: ", ".join(filters("lenet5", first=2)).replace("@", " ")),
    "filter-count-rule 3": Tried(
        lambda _: (
            {k for _, k, _ in kernels("vgg16")} == {3}
            and sorted({c for c, _, _ in kernels("vgg16")}) == [64, 128, 256, 512]
        )
    ),
    "filter-count-rule 4": Tried(
        lambda _: {k for _, k, _ in kernels("resnet50")} == {3}, ours="1x1, 3x3 and 7x7 in ResNet-50", slip=2
    ),
    "filter-count-rule 2": Tried(
        lambda _: (
            [(c, k) for c, k, _ in kernels("alexnet_paper")]
            == [(96, 11), (256, 5), (384, 3), (384, 3), (256, 3)]
        )
    ),
}

CORRECTIONS: dict[str, list[tuple[str, object]]] = {
    "squeezenet error 2": [
        ("727,626", params("squeezenet1_1_cifar")),
        ("733,226", params("squeezenet1_1_bn_cifar")),
    ],
    "filter-count-rule error 1": [("96", lambda: kernels("alexnet_paper")[0][0])],
}
