"""What lectures say of blocks in a formula or in words, tried on the blocks themselves."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from convatlas.audit.claims.formula import evaluate
from convatlas.audit.claims.quantities import Count, counted
from convatlas.audit.claims.rules import Computed, Corrected, Rule, Tried
from convatlas.models import create_model, find, list_models
from convatlas.models.highway import Gates, HighwayLayer
from convatlas.models.lenet import RBF, Subsampling, TableConv2d


def right_side(formula: str) -> str:
    """What follows "=", with products written out: "y = T(x)H(x) + x" -> "T*H + x"."""
    _, _, text = formula.partition("=")
    return re.sub(r"(?<=[A-Za-z])(?=[A-Za-z])", "*", re.sub(r"([A-Z])\(x\)", r"\1", text)).strip()


def numbers(values: Tensor) -> list[float]:
    """All numbers of a tensor."""
    return values.detach().flatten().tolist()


# --- highway networks -------------------------------------------------------------------------------------------


def highway(gates: Gates) -> tuple[HighwayLayer, Tensor]:
    """A layer whose gates stand between open and closed, and an input."""
    torch.manual_seed(0)
    layer = HighwayLayer(3, gates=gates, gate_bias=0.5).double()
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight)
    return layer, torch.randn(1, 3, 4, 4, dtype=torch.float64)


def mixes(gates: Gates) -> Any:
    """Whether a printed mixture of H, T, C and x is what a layer gives, number by number."""

    def check(formula: str) -> bool:
        layer, x = highway(gates)
        parts = {"H": layer.transform(x), "T": layer.gate(x), "x": x, "y": layer(x)}
        if layer.carry is not None:
            parts["C"] = layer.carry(x)
        rows = zip(*map(numbers, parts.values()), strict=True)
        named = [dict(zip(parts, row, strict=True)) for row in rows]
        return all(
            math.isclose(evaluate(right_side(formula), **row), row["y"], abs_tol=1e-9) for row in named
        )

    return check


def is_a_sigmoid_gate(formula: str) -> bool:
    """Whether T(x) = sigma(W_T x + b_T) is the layer's gate."""
    inside = re.fullmatch(r"T\(x\) = sigma\((.*)\)", formula)
    layer, x = highway("coupled")
    weighted = functional.conv2d(x, layer.gate.get_parameter("conv.weight"), padding=1)
    biases = layer.gate.get_parameter("conv.bias").view(1, -1, 1, 1).expand_as(weighted)
    text = inside[1].replace("W_T x", "p").replace("b_T", "b") if inside else "p"
    return all(
        math.isclose(1 / (1 + math.exp(-evaluate(text, p=p, b=b))), gate, abs_tol=1e-9)
        for p, b, gate in zip(numbers(weighted), numbers(biases), numbers(layer.gate(x)), strict=True)
    )


# --- the quiz on ResNet's basic block ---------------------------------------------------------------------------


def basic_block(name: str = "features.conv2_x.0") -> nn.Module:
    """A block of ResNet-20 with its own start."""
    torch.manual_seed(0)
    return create_model("resnet20_cifar").get_submodule(name)


def so_few_are_not_zero(statement: str) -> bool:
    """Whether the share that a statement names ("about 1/4") is that of the second BatchNorm's outputs."""
    outputs = basic_block().get_submodule("residual")(torch.rand(8, 16, 8, 8))
    share = float((outputs != 0).double().mean())
    return any(abs(share - int(a) / int(b)) < 0.1 for a, b in re.findall(r"(\d+)/(\d+)", statement))


def a_new_sum_breaks_gradients(_: object) -> bool:
    """Whether x + F(x) in a new tensor gives other gradients than adding in place."""
    block, x = basic_block().eval(), torch.rand(2, 16, 8, 8, requires_grad=True)
    residual = block.get_submodule("residual")
    in_place = residual(x)
    in_place += x
    apart, together = (torch.autograd.grad(out.sum(), x)[0] for out in (residual(x) + x, in_place))
    return not torch.allclose(apart, together) or not apart.any()


def shortcuts_are_pointwise(_: object) -> bool:
    """Whether every projection of ResNet-18 and 50 is a 1x1 convolution."""
    found = [
        module.kernel_size
        for name in ("resnet18", "resnet50")
        for path, module in counted(name).network.named_modules()
        if ".shortcut." in path and isinstance(module, nn.Conv2d)
    ]
    return len(found) == 3 + 4 and set(found) == {(1, 1)}


# --- other blocks -----------------------------------------------------------------------------------------------


def reads_all_maps_before(_: object) -> bool:
    """Whether each layer of a dense block depends on the block's input and on what every layer before it gave."""
    torch.manual_seed(0)
    block = create_model("densenet_40_12_cifar").get_submodule("features.dense1")
    maps = [torch.rand(2, 16, 4, 4, requires_grad=True)]
    for layer in list(block.children())[:5]:
        new = layer(*maps)
        if not all(gradient.any() for gradient in torch.autograd.grad(new.square().sum(), maps)):
            return False
        maps.append(new.detach().requires_grad_())
    return True


def fire_in_words() -> str:
    """The parts of a fire module with their kernels."""
    fire = counted("squeezenet1_0").network.get_submodule("features.fire2")
    sides = [f"{m.kernel_size[0]}x{m.kernel_size[1]}" for m in fire.modules() if isinstance(m, nn.Conv2d)]
    return "squeeze {}; expand {} and {}".format(*sides)


def is_special(_: object) -> bool:
    """Trained subsampling, distances to drawings as output, and a C3 that sees 60 of its 6 times 16 pairs of maps."""
    network = create_model("lenet5_1998")
    tables = [m for m in network.modules() if isinstance(m, TableConv2d)]
    return (
        sum(isinstance(m, Subsampling) and m.weight.requires_grad for m in network.modules()) == 2
        and sum(isinstance(m, RBF) for m in network.modules()) == 1
        and [len(table.weight) for table in tables] == [60]
        and tables[0].c_in * tables[0].c_out == 96
    )


def pointwise_instead(_: object) -> bool:
    """Whether 1x1 convolutions stand in BagNet-9's residual blocks where ResNet-50 has 3x3 ones, in all but two."""

    def inside(name: str) -> list[int]:
        network = counted(name).network
        return [
            m.kernel_size[0]
            for path, m in network.named_modules()
            if ".residual." in path and isinstance(m, nn.Conv2d)
        ]

    ours, theirs = inside("bagnet9"), inside("resnet50")
    return len(ours) == len(theirs) and (ours.count(3), theirs.count(3)) == (2, 16)


def rewards(formula: str) -> bool:
    """The objective: the accuracy alone at the target, and 5 % more of it pays for twice the cost at w = -0.07.

    Source: Tan et al., "MnasNet", section 3, which chooses w so; costs are those of EfficientNet-B0.
    """
    text = formula.replace("ACC(m)", "a").replace("FLOPS(m)", "f").replace("[", "(").replace("]", ")")
    cost, w = counted("efficientnet_b0").macs, -0.07
    at_target = evaluate(text, a=0.771, f=cost, T=cost, w=w)
    twice = evaluate(text, a=0.771 * 1.05, f=2 * cost, T=cost, w=w)
    return math.isclose(at_target, 0.771) and abs(twice / at_target - 1) < 0.005


def memory_early_weights_late(_: object) -> bool:
    """Of VGG-16: over half of what is kept in the first two stages, over half of the weights in linear layers."""
    of = counted("vgg16")
    early = [r for r in of.measurement.rows if r.name.startswith(("features.conv1", "features.conv2"))]
    linear = sum(r.params for r in of.rows_of("head"))
    return 2 * sum(r.activations for r in early) > of.measurement.activations and 2 * linear > of.params


def starts_after_he(_: object) -> bool:
    """Whether ResNet's weights have the variance 2 / fan-in, twice that of 1 / fan-in."""
    torch.manual_seed(0)
    weight = create_model("resnet18").get_parameter("features.conv5_x.1.residual.conv1.weight").detach()
    return abs(float(weight.var()) * weight[0].numel() / 2 - 1) < 0.01


def image_of(name: str) -> Count:
    """A network's images as [H, W, C]."""

    def count() -> list[int]:
        channels, height, width = counted(name).image
        return [height, width, channels]

    return count


RULES: dict[str, Rule] = {
    "highway 1": Tried(mixes("coupled"), ours="tried on a layer with coupled gates"),
    "highway 2": Tried(is_a_sigmoid_gate, ours="tried on a layer's gate"),
    "highway 3": Tried(mixes("uncoupled"), ours="tried on a layer with a carry gate of its own"),
    "resnet-block-quiz 1": Tried(
        lambda text: not so_few_are_not_zero(text), ours="false: after the second BatchNorm none is 0"
    ),
    "resnet-block-quiz 2": Tried(
        lambda text: not a_new_sum_breaks_gradients(text), ours="false: the gradients are those of a sum in place"
    ),
    "resnet-block-quiz 3": Tried(shortcuts_are_pointwise, ours="true: 1x1 in ResNet-18 and 50"),
    "densenet-imagenet 8": Tried(reads_all_maps_before, ours="tried on a dense block, by gradients"),
    "fire-module 1": Computed(fire_in_words),
    "lenet5-original 7": Tried(is_special, ours="C3 sees 60 of 96 pairs of maps"),
    "bagnet 2": Tried(pointwise_instead, ours="14 of 16 in BagNet-9"),
    "nas-objective 1": Tried(rewards, ours="5 % more accuracy pays for twice the cost at w = -0.07"),
    "vgg16-memory-ledger 26": Tried(memory_early_weights_late),
    "recipe-resnet 7": Tried(starts_after_he, ours="variance 2 / fan-in"),
    "all-cnn-c 2": Tried(
        lambda text: {name.lower().replace("-", "_") for name in text.split(", ")} <= {*list_models()}
    ),
    "zoo-mentions 3": Corrected(1),
    "cifar100-case-study 3": Computed(image_of("cifar100_study")),
    "linear-probing 4": Computed(lambda: find("alexnet_paper").classes),
    "transfer-procedure 4": Computed(lambda: find("alexnet_paper").classes),
    "fast-rcnn 1": Tried(
        lambda text: evaluate(str(text).removesuffix(" candidates").replace(" images x ", "*"), N=2, R=128) == 128,
        ours="128 for N = 2 and R = 128",
    ),
    "fast-rcnn 2": Tried(lambda text: evaluate(text, N=2, R=128) == 64, ours="64 for N = 2 and R = 128"),
    "senet 3": Tried(
        lambda text: counted("senet154").layers == int(str(text).rpartition("-")[2]) + 2,
        ours="154 weight layers: three in the stem instead of one",
    ),
}  # fmt: skip

CORRECTIONS: dict[str, list[tuple[str, object]]] = {}
