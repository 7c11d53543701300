"""LeNet to All-CNN: the depth, the parameters and the shapes that the lectures print."""

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
    millions,
    of_kind,
    params,
    params_of,
    sides,
)
from convatlas.audit.claims.rules import Computed, Rule, Tried
from convatlas.audit.explained import without_classifier
from convatlas.models.lenet import C3_TABLE

A_TO_E = ("vgg11", "vgg13", "vgg16_c", "vgg16", "vgg19")


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


def filters(name: str, *, first: int) -> list[str]:
    """The first convolutions of a network as "6@5x5"."""
    return [f"{out}@{side}x{side}" for out, side, _ in kernels(name)[:first]]


def lrn_only_in_a_lrn(_: object) -> bool:
    """Local response normalisation stands in one of the six configurations."""
    return [name for name in (*A_TO_E, "vgg11_lrn") if of_kind(name, nn.LocalResponseNorm)] == ["vgg11_lrn"]


def half_of_the_filters(_: object) -> bool:
    """Each graphics card has half of the kernels: two groups where the cards do not talk."""
    convs = [module for module in counted("alexnet_2gpu").network.modules() if isinstance(module, nn.Conv2d)]
    return [module.groups for module in convs] == [1, 2, 1, 2, 2]


def rbf_has_fixed_codes(_: object) -> bool:
    """The output measures distances to codes that are not trained."""
    output = counted("lenet5_1998").network.get_submodule("head.output")
    return not list(output.parameters()) and [b.shape for b in output.buffers()] == [torch.Size([10, 84])]


def stage_of(name: str, start: int) -> str:
    """Two convolutions of a network as "3x3-96 ReLU, 3x3-96 ReLU stride 2"."""
    return ", ".join(
        f"{side}x{side}-{out} ReLU" + (f" stride {stride}" if stride > 1 else "")
        for out, side, stride in kernels(name)[start : start + 2]
    )


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
    "rbf-output 1": Tried(rbf_has_fixed_codes),
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
    "alexnet 23": Tried(
        lambda _: kernels("alexnet_2gpu")[0][:2] == (96, 11) and kernels("alexnet_2gpu")[0][0] // 2 == 48
    ),
    "alexnet-two-gpu 1": Tried(half_of_the_filters),
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
    "lrn 1": Tried(lrn_only_in_a_lrn),
    "vgg-family 1": Computed(lambda: list(counted("vgg16").image[1:])),
    "vgg-family 2": Computed(lambda: max(side for _, side, _ in kernels("vgg16"))),
    "vgg-family 3": Tried(
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
    "fc-to-conv 2": Tried(
        lambda _: (
            [counted("vgg16").params_of(f"head.{fc}") for fc in ("fc7", "fc8")]
            == [4096 * conv(4096, out, 1).weight[0].numel() * out // 4096 + out for out in (4096, 1000)]
        )
    ),
    "vgg-d 4": Computed(vgg16_as_listed, slip="vgg-family error 5"),
    # --- NIN, All-CNN --------------------------------------------------------------------------------------------
    "nin 1": Tried(lambda n: len(kernels("nin_cifar10")) == 3 * n),
    "nin 2": Computed(lambda: of_kind("nin_cifar10", nn.AdaptiveAvgPool2d)),
    "mlpconv 1": Tried(lambda _: of_kind("nin_cifar10", nn.ReLU) == len(kernels("nin_cifar10"))),
    "strided-cnn-c 1": Computed(lambda: stage_of("strided_cnn_c", 0)),
    "strided-cnn-c 2": Computed(lambda: stage_of("strided_cnn_c", 2)),
    "convpool-cnn-c 1": Tried(
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
}

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
}
