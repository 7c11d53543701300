"""Networks as the lectures print them: depth, parameters, multiply-adds, the shapes of single layers."""

from __future__ import annotations

import torch
from torch import nn

from convatlas.audit.claims.quantities import (
    channels,
    conv,
    counted,
    hwc,
    kernels,
    layers,
    macs,
    mega_macs,
    millions,
    params,
    params_of,
    ratio,
    sides,
)  # fmt: skip
from convatlas.audit.claims.rules import Computed, Corrected, Rule, Tested
from convatlas.audit.explained import cut, without_classifier, without_normalisation
from convatlas.models.lenet import C3_TABLE

A_TO_E = ("vgg11", "vgg13", "vgg16_c", "vgg16", "vgg19")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
V1 = ("resnet18_a", "resnet34_a", "resnet50_v1", "resnet101_v1", "resnet152_v1")
MOBILENET = "to 3 %: the MobileNet paper does not say how it counts GoogLeNet"
CUT = "the table cuts digits off where we round"


def vgg16_as_listed() -> str:
    """Blocks of VGG-16 in the words of a slide."""
    of, parts = counted("vgg16"), []
    for block in range(1, 6):
        convs = [
            m for m in of.network.get_submodule(f"features.conv{block}").modules() if isinstance(m, nn.Conv2d)
        ]
        side, after = of.shapes[f"features.conv{block}"][-1], of.shapes[f"features.pool{block}"][-1]
        parts += [f"{len(convs)}x{convs[-1].out_channels}@{side}", f"pool {after}"]
    flat, *units = (of.shapes[f"head.{name}"][0] for name in ("flatten", "fc6", "fc7", "fc8"))
    return ", ".join([*parts, f"FC {flat}/" + "/".join(map(str, units))])


def of_kind(name: str, kind: type[nn.Module]) -> int:
    """How many layers of a kind a network has."""
    return sum(isinstance(module, kind) for module in counted(name).network.modules())


def depths(name: str) -> list[int]:
    """Layers in each dense block."""
    blocks = [
        child
        for key, child in counted(name).network.get_submodule("features").named_children()
        if "dense" in key
    ]
    return [len(list(block.children())) for block in blocks]


def filters(name: str, *, first: int) -> list[str]:
    """The first convolutions of a network as "6@5x5"."""
    return [f"{out}@{side}x{side}" for out, side, _ in kernels(name)[:first]]


def lrn_only_in_a_lrn(_: object) -> bool:
    """Local response normalisation stands in one of the six configurations."""
    return [name for name in (*A_TO_E, "vgg11_lrn") if of_kind(name, nn.LocalResponseNorm)] == ["vgg11_lrn"]


def dropout_of(name: str) -> list[float]:
    """The rates of a network's dropout layers, in order."""
    return [module.p for module in counted(name).network.modules() if isinstance(module, nn.Dropout)]


def half_of_the_filters(_: object) -> bool:
    """Each graphics card has half of the kernels: two groups where the cards do not talk."""
    convs = [module for module in counted("alexnet_2gpu").network.modules() if isinstance(module, nn.Conv2d)]
    return [module.groups for module in convs] == [1, 2, 1, 2, 2]


def rbf_has_fixed_codes(_: object) -> bool:
    """The output measures distances to codes that are not trained."""
    output = counted("lenet5_1998").network.get_submodule("head.output")
    return not list(output.parameters()) and [b.shape for b in output.buffers()] == [torch.Size([10, 84])]


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


RULES: dict[str, Rule] = {
    # --- LeNet, MCDNN --------------------------------------------------------------------------------------------
    "lenet5-simplified 1": Computed(lambda: 7, why="C1 to S4 and the three layers of units, pooling counted"),
    "lenet5-simplified 2": Computed(lambda: [*counted("lenet5").image[1:], counted("lenet5").image[0]]),
    "lenet5-simplified 3": Computed(hwc("lenet5", "features.C1")),
    "lenet5-simplified 4": Computed(hwc("lenet5", "features.S2")),
    "lenet5-simplified 5": Computed(hwc("lenet5", "features.C3")),
    "lenet5-simplified 6": Computed(hwc("lenet5", "features.S4")),
    "lenet5-simplified 7": Computed(channels("lenet5", "features.C5")),
    "lenet5-simplified 8": Computed(channels("lenet5", "head.F6")),
    "lenet5-simplified 9": Computed(channels("lenet5", "head.output")),
    "lenet5-simplified 10": Computed(params("lenet5"), slip=1),
    **{
        f"lenet5-original {i}": Computed(params_of("lenet5_1998", path))
        for i, path in enumerate(
            ("features.C1", "features.S2", "features.C3", "features.S4", "features.C5", "head.F6"), start=1
        )
    },
    "lenet5-original 8": Computed(lambda: f"{max(map(max, C3_TABLE)) + 1} x {len(C3_TABLE)}"),
    "trainable-subsampling 1": Computed(params_of("lenet5_1998", "features.S2")),
    "trainable-subsampling 2": Computed(params_of("lenet5_1998", "features.S4")),
    "c3-connection-table 1": Computed(params_of("lenet5_1998", "features.C3")),
    "rbf-output 1": Tested(rbf_has_fixed_codes),
    "mcdnn 1": Computed(lambda: 35 * counted("mcdnn_column").params, slip=1, why="35 columns"),
    # --- AlexNet, ZFNet ------------------------------------------------------------------------------------------
    "alexnet 1": Computed(lambda: [*counted("alexnet_paper").image[1:], 3]),
    **{
        f"alexnet {i}": Computed(hwc("alexnet_paper", f"features.{path}"))
        for i, path in enumerate(
            ("conv1", "pool1", "norm1", "conv2", "pool2", "norm2", "conv3", "conv4", "conv5", "pool5"),
            start=2,
        )
    },
    **{
        f"alexnet {i}": Computed(hwc("alexnet_paper", f"features.{path}"), slip=1)
        for i, path in ((4, "norm1"), (7, "norm2"))
    },
    "alexnet 12": Computed(channels("alexnet_paper", "head.fc6", "head.fc7", "head.fc8")),
    "alexnet 13": Computed(params_of("alexnet_paper", "features.conv1")),
    "alexnet 14": Computed(params_of("alexnet_paper", "features.pool1")),
    "alexnet 15": Computed(params("alexnet_paper"), slip=4),
    "alexnet 23": Tested(
        lambda _: kernels("alexnet_2gpu")[0][:2] == (96, 11) and kernels("alexnet_2gpu")[0][0] // 2 == 48
    ),
    "alexnet-two-gpu 1": Tested(half_of_the_filters),
    "zfnet 1": Computed(
        lambda: "{1}x{1} stride {2} instead of {4}x{4} stride {5}".format(
            *kernels("zfnet")[0], *kernels("alexnet_paper")[0]
        )
    ),
    "zfnet 2": Computed(lambda: [out for out, _, _ in kernels("zfnet_wide")[2:5]]),
    "zfnet 3": Computed(lambda: [out for out, _, _ in kernels("zfnet")[2:5]]),
    "first-layer-filters 1": Computed(lambda: kernels("alexnet_paper")[0][0]),
    "first-layer-filters 2": Computed(lambda: [*[kernels("alexnet_paper")[0][1]] * 2, 3]),
    "first-layer-filters 3": Computed(lambda: kernels("alexnet_2gpu")[0][0] // 2),
    # --- VGG -----------------------------------------------------------------------------------------------------
    "lrn 1": Tested(lrn_only_in_a_lrn),
    "vgg-family 1": Computed(lambda: list(counted("vgg16").image[1:])),
    "vgg-family 2": Computed(lambda: max(side for _, side, _ in kernels("vgg16"))),
    "vgg-family 3": Tested(
        lambda _: (
            {(m.stride, m.padding) for m in counted("vgg16").network.modules() if isinstance(m, nn.Conv2d)}
            == {((1, 1), (1, 1))}
        )
    ),
    "vgg-family 4": Computed(
        lambda: [2, sides("vgg16", "features.conv1")()[0] // sides("vgg16", "features.pool1")()[0]]
    ),
    "vgg-family 5": Computed(lambda: of_kind("vgg16", nn.MaxPool2d)),
    "vgg-family 6": Computed(millions(*A_TO_E)),
    "vgg-family 7": Computed(layers("vgg11", "vgg11_lrn", *A_TO_E[1:])),
    "vgg-family 10": Computed(params("vgg16"), digits=3, slip=1),
    "vgg-family 11": Computed(params("vgg16"), slip=2),
    **{
        f"vgg-{letter} {claim}": rule
        for letter, name in zip(
            ("a", "a-lrn", "b", "c", "d", "e"),
            ("vgg11", "vgg11_lrn", "vgg13", "vgg16_c", "vgg16", "vgg19"),
            strict=True,
        )
        for claim, rule in ((1, Computed(layers(name))), (2, Computed(millions(name))))
    },
    "vgg-d 3": Computed(lambda: [of_kind("vgg16", nn.Conv2d), of_kind("vgg16", nn.Linear)]),
    "fc-to-conv 2": Tested(
        lambda _: (
            [counted("vgg16").params_of(f"head.{fc}") for fc in ("fc7", "fc8")]
            == [4096 * conv(4096, out, 1).weight[0].numel() * out // 4096 + out for out in (4096, 1000)]
        )
    ),
    "vgg-d 4": Computed(vgg16_as_listed, slip="vgg-family error 5"),
    # --- NIN, All-CNN --------------------------------------------------------------------------------------------
    "nin 1": Tested(lambda n: len(kernels("nin_cifar10")) == 3 * n),
    "nin 2": Computed(lambda: of_kind("nin_cifar10", nn.AdaptiveAvgPool2d)),
    "mlpconv 1": Tested(lambda _: of_kind("nin_cifar10", nn.ReLU) == len(kernels("nin_cifar10"))),
    "strided-cnn-c 1": Computed(lambda: stage_of("strided_cnn_c", 0)),
    "strided-cnn-c 2": Computed(lambda: stage_of("strided_cnn_c", 2)),
    "convpool-cnn-c 1": Tested(
        lambda _: (
            {
                (m.kernel_size, m.stride)
                for m in counted("convpool_cnn_c").network.modules()
                if isinstance(m, nn.MaxPool2d)
            }
            == {(3, 2)}
        )
    ),
    "all-cnn-c 1": Computed(lambda: [*counted("all_cnn_c").image[1:], 3]),
    # --- GoogLeNet and its heirs ---------------------------------------------------------------------------------
    "googlenet 1": Computed(
        lambda: sum(
            n.startswith("inception")
            for n, _ in counted("googlenet_paper").network.get_submodule("features").named_children()
        )
    ),
    "googlenet 2": Computed(
        lambda: [counted("googlenet_paper").layers, counted("googlenet_paper").layers + of_pools()]
    ),
    "googlenet 3": Tested(lambda n: (counted("googlenet_paper").layers - 3 - 1) // 9 == n),
    "googlenet 8": Computed(params("googlenet_paper"), slip=1),
    "googlenet 9": Computed(
        [
            ratio(params("alexnet_2gpu"), params("googlenet_paper")),
            ratio(params("vgg16"), params("googlenet_paper")),
        ],
        slip=1,
    ),
    "googlenet 10": Computed([None, mega_macs("googlenet_paper"), None], within=0.03, why=MOBILENET),
    "googlenet 34": Computed(
        lambda: (
            "Conv-Pool-2x Conv-Pool"
            if stem_of_googlenet() == "Conv Pool Conv Conv Pool"
            else stem_of_googlenet()
        )
    ),
    "googlenet 35": Tested(
        lambda _: (
            [
                type(m)
                for m in counted("googlenet_paper").network.get_submodule("head").children()
                if not isinstance(m, (nn.Flatten, nn.Dropout))
            ]
            == [nn.AdaptiveAvgPool2d, nn.Linear]
        )
    ),
    "googlenet-aux 1": Computed(
        lambda: "-".join([*auxiliary_head(), "Softmax"]), why="softmax is the loss's"
    ),
    "googlenet 32": Computed(lambda: 100 * dropout_of("googlenet_paper")[-1]),
    "googlenet 33": Computed(
        lambda: "{0}x{0}/1".format(counted("googlenet_paper").shapes["features.inception5b"][-1])
    ),
    "googlenet-aux 2": Tested(
        lambda _: (
            not any("auxiliary" in r.name and r.macs for r in counted("googlenet_paper").measurement.rows)
        )
    ),
    # --- residual networks ---------------------------------------------------------------------------------------
    "plain-nets 1": Computed(layers("plain20_cifar", "plain56_cifar")),
    "plain-nets 2": Computed(layers("plain18", "plain34")),
    "plain-nets 4": Computed(
        lambda: counted("resnet34_a").params - counted("plain34").params, why="shortcuts A"
    ),
    "degradation-experiment 1": Computed(layers("plain20_cifar", "plain56_cifar")),
    "degradation-experiment 2": Computed(layers("plain18", "plain34")),
    "residual-basic-block 1": Computed(
        lambda: sum(
            isinstance(m, nn.Conv2d)
            for m in counted("resnet18").network.get_submodule("features.conv2_x.0").modules()
        )
    ),
    "resnet-imagenet 1": Computed(layers(*RESNETS)),
    "resnet-imagenet 2": Computed(
        sides("resnet50_v1", "features.conv1", *(f"features.conv{i}_x" for i in range(2, 6)))
    ),
    "resnet-imagenet 3": Computed(
        [macs(name) for name in V1],
        instead=[
            macs(name) if name != "resnet50_v1" else lambda: cut(counted("resnet50_v1").macs, 1e8)
            for name in V1
        ],
        why=CUT + ": 3.858 to 3.8",
    ),
    "resnet-imagenet 7": Computed(millions("resnet50", "resnet101", "resnet152")),
    "resnet-imagenet 8": Computed(
        millions("resnet50"), instead=lambda: cut(counted("resnet50").params, 1e5) / 1e6, why=CUT
    ),
    "resnet-imagenet 9": Computed(macs("resnet50"), why="with the stride in the 3x3 convolution"),
    "resnet-imagenet 12": Tested(
        lambda v: counted("resnet152_v1").layers == v[0] and counted("resnet1202_cifar").layers > v[1],
        ours="152, and 1202 on CIFAR-10",
    ),
    "resnet-cifar 3": Tested(lambda v: counted("resnet1202_cifar").layers > v, ours="1202"),
    "shortcut-options 2": Tested(
        lambda _: (
            [
                (m.kernel_size, m.stride)
                for m in counted("resnet34").network.get_submodule("features.conv3_x.0.shortcut").modules()
                if isinstance(m, nn.Conv2d)
            ]
            == [((1, 1), (2, 2))]
        )
    ),
    "resnet-imagenet 13": Computed(params("resnet34"), slip=3),
    "resnet-imagenet 14": Computed(params("resnet50"), slip=4),
    "resnet-cifar 1": Computed([params("resnet110_cifar"), None]),
    "preact-resnet 1": Computed([params("resnet164_preact_cifar"), *[None] * 4]),
    "preact-resnet 2": Computed(
        [params("resnet1001_preact_cifar"), *[None] * 4],
        instead=[lambda: without_normalisation(counted("resnet1001_preact_cifar")), *[None] * 4],
        why="the paper counts the weights without those of BatchNorm",
    ),
    "wide-resnet 1": Computed([None, None, millions("wide_resnet50_2")]),
    "wide-resnet 2": Computed([params("wrn16_8_cifar"), None, None]),
    "wide-resnet 3": Computed([params("wrn28_10_cifar"), None, None]),
    "wide-resnet 4": Computed([params("wrn16_4_cifar"), None]),
    "resnext 3": Computed(
        [params("resnet50"), params("resnext50_32x4d")],
        instead=[lambda: cut(counted("resnet50").params, 1e5), params("resnext50_32x4d")],
        why=CUT + ": 25.557 to 25.5",
    ),
    "resnext 4": Computed([macs("resnet50"), macs("resnext50_32x4d")]),
    "stochastic-depth 1": Computed([params("resnet110_cifar"), *[None] * 5]),
    "stochastic-depth 2": Computed([params("resnet1202_cifar"), None], slip=1),
    "fractalnet 1": Computed(layers("fractalnet21_cifar")),
    "fractalnet 2": Computed(params("fractalnet21_cifar"), slip=1),
    # --- DenseNet ------------------------------------------------------------------------------------------------
    **{
        f"densenet-imagenet {i}": Computed(lambda name=name: depths(name))
        for i, name in enumerate(("densenet121", "densenet169", "densenet201", "densenet264"), start=1)
    },
    "densenet-imagenet 5": Computed(
        lambda: [
            *sides(
                "densenet121",
                "features.conv1",
                "features.pool1",
                "features.dense1",
                "features.transition1",
                "features.dense2",
                "features.transition2",
                "features.dense3",
                "features.transition3",
                "features.dense4",
                "head.pool",
            )()
        ]
    ),
    "densenet-imagenet 6": Tested(lambda text: _connections(text)),
    **{
        f"densenet-cifar {i}": Computed([params(f"densenet_{name}_cifar"), *[None] * errors], digits=digits)
        for i, (name, errors, digits) in enumerate(
            (
                ("40_12", 5, 2),
                ("100_12", 5, 2),
                ("100_24", 5, 3),
                ("bc_100_12", 5, 1),
                ("bc_250_24", 5, 3),
                ("bc_190_40", 2, 3),
            ),
            start=1,
        )
    },
    "densenet-cifar 7": Computed(
        [
            lambda: "L=190, k=40, depth {}".format(counted("densenet_bc_190_40_cifar").layers),
            params("densenet_bc_190_40_cifar"),
            None,
        ],
        slip=1,
    ),
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
    "depthwise-separable 1": Tested(
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
    # --- counts in other tables --------------------------------------------------------------------------------------
    "filter-count-rule 5": Tested(
        lambda text: {int(n) for n in text.split("-")} <= set(widths_of_inception())
    ),
    "inception-v2-v3 2": Tested(lambda wanted: set(wanted) <= set(widths_of_inception())),
    "inception-v2-v3 3": Tested(
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
    "filter-count-rule 3": Tested(
        lambda _: (
            {k for _, k, _ in kernels("vgg16")} == {3}
            and sorted({c for c, _, _ in kernels("vgg16")}) == [64, 128, 256, 512]
        )
    ),
    "filter-count-rule 4": Tested(
        lambda _: {k for _, k, _ in kernels("resnet50")} == {3}, ours="1x1, 3x3 and 7x7 in ResNet-50", slip=2
    ),
    "filter-count-rule 2": Tested(
        lambda _: (
            [(c, k) for c, k, _ in kernels("alexnet_paper")]
            == [(96, 11), (256, 5), (384, 3), (384, 3), (256, 3)]
        )
    ),
}


def stage_of(name: str, start: int) -> str:
    """Two convolutions of a network as "3x3-96 ReLU, 3x3-96 ReLU stride 2"."""
    return ", ".join(
        f"{side}x{side}-{out} ReLU" + (f" stride {stride}" if stride > 1 else "")
        for out, side, stride in kernels(name)[start : start + 2]
    )


def stem_of_googlenet() -> str:
    """Convolutions and poolings before the first module, in order."""
    stem = counted("googlenet_paper").measurement.rows
    before = [
        row.kind for row in stem if row.name.startswith(("features.conv", "features.pool1", "features.pool2"))
    ]
    return " ".join(
        "Conv" if k.startswith("conv") else "Pool" for k in before if k.startswith(("conv", "max"))
    )


def auxiliary_head() -> list[str]:
    """The layers of an auxiliary head in a slide's words."""
    words: dict[type[nn.Module], str] = {nn.AvgPool2d: "AvgPool", nn.Conv2d: "1x1Conv", nn.Linear: "FC"}
    head = next(iter(counted("googlenet_paper").network.get_submodule("auxiliary").children()))
    return [words[type(module)] for module in head.modules() if type(module) in words]


def of_pools() -> int:
    """Pooling layers of GoogLeNet's path."""
    return sum(
        isinstance(child, (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d))
        for part in ("features", "head")
        for child in counted("googlenet_paper").network.get_submodule(part).children()
    )


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


def _connections(formula: str) -> bool:
    """Each layer of a dense block receives all that came before it."""
    from convatlas.audit.claims.formula import evaluate

    return all(evaluate(formula, L=n) == sum(range(1, n + 1)) for n in (2, 5, 40))


CORRECTIONS: dict[str, list[tuple[str, object]]] = {
    "lenet5-simplified error 1": [("61,706", params("lenet5")), ("60,000", params("lenet5_1998"))],
    "lenet5-original error 2": [
        ("60", lambda: sum(map(len, C3_TABLE))),
        ("1516", params_of("lenet5_1998", "features.C3")),
    ],
    "mcdnn error 1": [
        ("76,040", params("mcdnn_column")),
        ("2.66 M", lambda: 35 * counted("mcdnn_column").params),
        ("1.5 M", lambda: 20 * counted("mcdnn_column").params),
    ],
    "alexnet error 4": [("62.4 M", params("alexnet_paper")), ("60.97 M", params("alexnet_2gpu"))],
    "vgg-family error 1": [("138,357,544", params("vgg16")), ("143,667,240", params("vgg19"))],
    "vgg-family error 2": [
        ("138.4 M", params("vgg16")),
        ("134.3 M", lambda: without_classifier(counted("vgg16"))),
        ("133.6 M", params("vgg16_c")),
    ],
    "vgg-family error 3": [("3", lambda: max(side for _, side, _ in kernels("vgg16")))],
    "vgg-family error 5": [("25,088", lambda: counted("vgg16").shapes["head.flatten"][0])],
    "googlenet error 1": [
        ("7.0 M", params("googlenet_paper")),
        ("9", ratio(params("alexnet_2gpu"), params("googlenet_paper"))),
        ("20", ratio(params("vgg16"), params("googlenet_paper"))),
    ],
    "googlenet error 2": [
        ("9,408", lambda: counted("googlenet_paper").weights_of("features.conv1")),
        ("118 M", lambda: counted("googlenet_paper").macs_of("features.conv1")),
    ],
    "googlenet error 3": [
        ("509,440", lambda: counted("googlenet_paper").weights_of("features.inception4c")),
        ("100M", lambda: counted("googlenet_paper").macs_of("features.inception4c")),
        ("1,042,432", lambda: counted("googlenet_paper").weights_of("features.inception5a")),
        ("51.1M", lambda: counted("googlenet_paper").macs_of("features.inception5a")),
    ],
    "resnet-imagenet error 3": [("21,797,672", params("resnet34")), ("464,154", params("resnet32_cifar"))],
    "resnet-imagenet error 4": [
        ("25.56 M", params("resnet50")),
        ("23.51 M", lambda: without_classifier(counted("resnet50"))),
    ],
    "resnet-imagenet error 6": [("152", layers("resnet152_v1"))],
    "stochastic-depth error 1": [
        ("19.4 M", params("resnet1202_cifar")),
        ("10.2 M", lambda: without_normalisation(counted("resnet1001_preact_cifar"))),
    ],
    "fractalnet error 1": [("33.7 M", params("fractalnet21_cifar"))],
    "densenet-cifar error 1": [("190", layers("densenet_bc_190_40_cifar")), ("8.3 M", lambda: _bc_100_40())],
    "densenet-imagenet error 1": [("20 M", params("densenet201"))],
    "squeezenet error 2": [
        ("727,626", params("squeezenet1_1_cifar")),
        ("733,226", params("squeezenet1_1_bn_cifar")),
    ],
    "filter-count-rule error 1": [("96", lambda: kernels("alexnet_paper")[0][0])],
}


def _bc_100_40() -> int:
    """DenseNet-BC of 100 layers with growth rate 40."""
    from convatlas.models.densenet import DenseNet

    with torch.device("meta"):
        network = DenseNet(40, (16, 16, 16), stem="3x3", num_classes=10)
    return sum(p.numel() for p in network.parameters())
