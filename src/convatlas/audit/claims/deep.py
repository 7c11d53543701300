"""GoogLeNet, residual and dense networks: depth, parameters, multiply-adds, shapes."""

from __future__ import annotations

import torch
from torch import nn

from convatlas.audit.claims.formula import evaluate
from convatlas.audit.claims.quantities import (
    counted,
    dropout_of,
    layers,
    macs,
    mega_macs,
    millions,
    params,
    ratio,
    sides,
)
from convatlas.audit.claims.rules import Computed, Rule, Tried
from convatlas.audit.explained import cut, without_classifier, without_normalisation
from convatlas.models.densenet import DenseNet

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
V1 = ("resnet18_a", "resnet34_a", "resnet50_v1", "resnet101_v1", "resnet152_v1")
MOBILENET = "to 3 %: the MobileNet paper does not say how it counts GoogLeNet"
CUT = "the table cuts digits off where we round"


def depths(name: str) -> list[int]:
    """Layers in each dense block."""
    blocks = [
        child
        for key, child in counted(name).network.get_submodule("features").named_children()
        if "dense" in key
    ]
    return [len(list(block.children())) for block in blocks]


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


def _connections(formula: str) -> bool:
    """Each layer of a dense block receives all that came before it."""
    return all(evaluate(formula, L=n) == sum(range(1, n + 1)) for n in (2, 5, 40))


def _bc_100_40() -> int:
    """DenseNet-BC of 100 layers with growth rate 40."""
    with torch.device("meta"):
        network = DenseNet(40, (16, 16, 16), stem="3x3", num_classes=10)
    return sum(p.numel() for p in network.parameters())


RULES: dict[str, Rule] = {
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
    "googlenet 3": Tried(lambda n: (counted("googlenet_paper").layers - 3 - 1) // 9 == n),
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
    "googlenet 35": Tried(
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
    "googlenet-aux 2": Tried(
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
    "resnet-imagenet 12": Tried(
        lambda v: counted("resnet152_v1").layers == v[0] and counted("resnet1202_cifar").layers > v[1],
        ours="152, and 1202 on CIFAR-10",
    ),
    "resnet-cifar 3": Tried(lambda v: counted("resnet1202_cifar").layers > v, ours="1202"),
    "shortcut-options 2": Tried(
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
    "wide-resnet 2": Computed([params("wide_resnet16_8_cifar"), None, None]),
    "wide-resnet 3": Computed([params("wide_resnet28_10_cifar"), None, None]),
    "wide-resnet 4": Computed([params("wide_resnet16_4_cifar"), None]),
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
    "densenet-imagenet 6": Tried(lambda text: _connections(text)),
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
}

CORRECTIONS: dict[str, list[tuple[str, object]]] = {
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
}
