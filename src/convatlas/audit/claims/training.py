"""Trainings: settings against the recipes that convatlas runs, the arithmetic of data sets, initialisation."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.audit.claims.formula import evaluate
from convatlas.audit.claims.quantities import Count, counted, dropout_of, of_layers
from convatlas.audit.claims.rules import Computed, Corrected, Rule, Tried
from convatlas.layers.scaling import compound
from convatlas.models import create_model, find
from convatlas.train.recipes import recipes


def setting(recipe: str, field: str) -> Count:
    """A field of a recipe."""
    return lambda: getattr(recipes()[recipe], field)


def default(network: str, name: str) -> Count:
    """A setting's default of a network's constructor."""
    return lambda: inspect.signature(find(network).build).parameters[name].default


def divides_by_ten(recipe: str) -> Any:
    """Whether a recipe divides its rate by ten at its milestones."""
    return lambda _: recipes()[recipe].gamma == 0.1 and len(recipes()[recipe].milestones) > 0


# --- initialisation: six layers of 4096 units, in float32 ------------------------------------------------------


def spread(std: float, activation: Any, *, scale: float = 0.01) -> list[float]:
    """Root mean square after each of six layers of 4096 units with weights N(0, std), a batch of 16 going in."""
    draw = torch.Generator().manual_seed(0)
    x = scale * torch.randn(16, 4096, generator=draw)
    found: list[float] = []
    for _ in range(6):
        x = activation(x @ (std * torch.randn(4096, 4096, generator=draw)))
        found.append(float(x.double().square().mean().sqrt()))
    return found


def deviation_as_printed() -> float:
    """Standard deviation of randn / sqrt(2 / 4096)."""
    return 1 / math.sqrt(2 / 4096)


def local_derivative() -> Tensor:
    """Derivatives 1 - tanh^2 of the sixth layer at std 0.05 and inputs of 0.01."""
    draw = torch.Generator().manual_seed(0)
    x = 0.01 * torch.randn(16, 4096, generator=draw)
    for _ in range(6):
        x = torch.tanh(x @ (0.05 * torch.randn(4096, 4096, generator=draw)))
    return x


def keeps_the_scale(fan_in: int, std: float, activation: Any, factor: float) -> bool:
    """Whether the mean square of a layer's linear output is `factor` times that of its input."""
    draw = torch.Generator().manual_seed(0)
    x = activation(torch.randn(64, fan_in, generator=draw))
    y = x @ (std * torch.randn(fan_in, 2048, generator=draw))
    return abs(float(y.square().mean() / x.square().mean()) / factor - 1) < 0.05


def compound_law(_: object) -> bool:
    """Alpha beta^2 gamma^2 is about 2, each at least 1, for the published solution."""
    return abs(compound(1).macs - 2) < 0.1 and min(compound(1)) >= 1


def fan_in_of_a_convolution(text: object) -> bool:
    """filter_size^2 * input_channels inputs reach one output of a convolution."""
    weight = nn.Conv2d(6, 16, 5).weight
    return evaluate(str(text), filter_size=5, input_channels=6) == weight[0].numel() == 150


def study_layers(last: int = 0) -> list[nn.Module]:
    """The CIFAR-100 study's table: blocks of two times 1x3 and 3x1, and 3x3 of stride 2 between stages.

    `last` adds a third stage of two blocks of so many channels.
    """
    found: list[nn.Module] = []

    def block(c_in: int, width: int) -> int:
        for channels in (c_in, width):
            found.extend((nn.Conv2d(channels, width, (1, 3), padding=(0, 1)), nn.ReLU()))
            found.extend((nn.Conv2d(width, width, (3, 1), padding=(1, 0)), nn.ReLU()))
        return width

    channels = 3
    with torch.device("meta"):
        for width in (32, 128):
            channels = block(block(channels, width), width)
            found.extend((nn.Conv2d(channels, channels, 3, 2, 1), nn.ReLU()))
        if last:
            channels = block(block(channels, last), last)
        found.extend((nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 100)))
    return found


def starts_with_variance_a_hundredth(_: object) -> bool:
    """N(0, 10^-2) read as the variance, and biases 0: `init="paper"` of VGG."""
    torch.manual_seed(0)
    convs = [m for m in create_model("vgg11", init="paper", hidden=8).modules() if isinstance(m, nn.Conv2d)]
    variance = float(convs[-1].weight.detach().var())
    return abs(variance / 1e-2 - 1) < 0.01 and all(not m.bias.any() for m in convs if m.bias is not None)


RULES: dict[str, Rule] = {
    # --- recipes ---------------------------------------------------------------------------------------------
    "recipe-vgg 1": Computed(setting("vgg-2014", "batch_size")),
    "recipe-vgg 2": Computed(setting("vgg-2014", "momentum")),
    "recipe-vgg 3": Computed(setting("vgg-2014", "weight_decay")),
    "recipe-vgg 4": Computed(setting("vgg-2014", "lr")),
    "recipe-vgg 5": Computed(lambda: len(recipes()["vgg-2014"].milestones)),
    "recipe-vgg 6": Computed(setting("vgg-2014", "dropout")),
    "recipe-resnet 1": Computed(setting("resnet-2015", "momentum")),
    "recipe-resnet 2": Computed(setting("resnet-2015", "lr")),
    "recipe-resnet 3": Tried(divides_by_ten("resnet-2015")),
    "recipe-resnet 4": Computed(setting("resnet-2015", "batch_size")),
    "recipe-resnet 5": Computed(setting("resnet-2015", "weight_decay"), slip=1),
    "recipe-resnet 6": Tried(lambda _: not dropout_of("resnet50_v1")),
    "recipe-alexnet 5": Corrected(1),
    "weight-decay 3": Computed(setting("resnet-2015", "weight_decay"), slip="recipe-resnet error 1"),
    "vgg-pretrained-init 1": Tried(starts_with_variance_a_hundredth, ours="10^-2 read as the variance"),
    "cifar100-case-study 6": Computed(lambda: of_layers(*study_layers(), image=(3, 32, 32)).params, slip=2),
    "weight-decay 1": Computed(setting("vgg-2014", "weight_decay"), why="VGG's recipe"),
    "sgd-momentum 1": Computed(lambda: recipes()["vgg-2014"].momentum),
    "dropout 1": Computed(lambda: dropout_of("alexnet_paper")[0]),
    "dropout 2": Computed(lambda: dropout_of("vgg16")[0]),
    "dropout 3": Tried(
        lambda _: (
            [
                n
                for n, _ in counted("vgg16").network.get_submodule("head").named_children()
                if n.startswith("drop")
            ]
            == ["drop6", "drop7"]
        )
    ),
    "dropout 4": Computed(lambda: 100 * dropout_of("googlenet_paper")[-1]),
    "recipe-alexnet 1": Computed(lambda: dropout_of("alexnet_paper")[0]),
    "recipe-googlenet 4": Computed(lambda: 100 * dropout_of("googlenet_paper")[-1]),
    # --- arithmetic of data sets and batches -----------------------------------------------------------------
    "cifar100-case-study 1": Computed(lambda: 60_000 // 600, why="60,000 images, 600 of a class"),
    "cifar100-case-study 2": Computed(lambda: 500 + 100),
    "cifar100-case-study 4": Tried(
        lambda sizes: [evaluate(size.replace("x", "*")) for size in sizes] == [50_000, 10_000]
    ),
    "datasets 3": Computed(
        lambda: [50_000 // 100, 10_000 // 100], why="50,000 and 10,000 images of 100 classes"
    ),
    # --- initialisation --------------------------------------------------------------------------------------
    "weight-init-experiments 8": Computed(
        lambda: (
            "randn*np.sqrt(2/Din)"
            if spread(deviation_as_printed(), torch.relu)[-1] > 1e16
            else "randn/np.sqrt(2/Din)"
        ),
        slip=1,
        why="as printed the sixth layer reaches 1e17",
    ),
    "weight-init-experiments 7": Tried(
        lambda text: keeps_the_scale(
            512, evaluate(str(text).removeprefix("randn").replace("/", "1/", 1), Din=512), lambda x: x, 1
        )
    ),
    "weight-init-experiments 9": Tried(fan_in_of_a_convolution),
    "init-xavier 1": Tried(lambda text: keeps_the_scale(512, evaluate(str(text), Din=512), lambda x: x, 1)),
    "init-he 1": Tried(lambda text: keeps_the_scale(512, evaluate(str(text), Din=512), torch.relu, 2)),
    # --- scaling ---------------------------------------------------------------------------------------------
    "compound-scaling 1": Tried(compound_law),
    "compound-scaling 2": Tried(
        lambda _: math.isclose(compound(3).depth, 1.2**3) and abs(compound(3).macs / 2**3 - 1) < 0.15
    ),
}

CORRECTIONS: dict[str, list[tuple[str, object]]] = {
    "cifar100-case-study error 2": [
        ("0.549 M", lambda: of_layers(*study_layers(), image=(3, 32, 32)).params),
        ("2.04 M", lambda: of_layers(*study_layers(last=256), image=(3, 32, 32)).params),
    ],
    "weight-init-experiments error 1": [("45", deviation_as_printed)],
    "weight-init-experiments error 3": [
        ("30 %", lambda: 100 * float((local_derivative().abs() > 0.99).double().mean())),
        ("0.30", lambda: 1 - float(local_derivative().double().square().mean())),
    ],
}
