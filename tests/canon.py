"""What tests over all networks share: small images, sizes, and which networks are too heavy for every landing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from math import inf
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convatlas.models import create_model, specs
from convatlas.models.classifier import Classifier, WithAuxiliary
from convatlas.registry import Spec

CLASSIFIERS = [spec for spec in specs() if spec.task == "classification"]
# Settings that leave the structure as it is and make it fit: 4096 hidden units are 90 % of these networks' weights.
REDUCED: dict[str, dict[str, int]] = {family: {"hidden": 64} for family in ("alexnet", "vgg", "zfnet")}
LIGHT_MACS, LIGHT_PARAMS = 8e7, 6e6  # of one small image


@cache
def counts() -> dict[str, dict[str, int]]:
    """Exact counts by name, worked out apart from the running code."""
    found: dict[str, dict[str, int]] = {}
    for file in sorted((Path(__file__).parent / "golden" / "counts").glob("*.json")):
        found |= json.loads(file.read_text())
    return found


def sides(spec: Spec) -> tuple[int, int]:
    """Two image sides that the network takes, 32 pixels apart."""
    small = 32 if spec.image <= 40 else max(64, spec.smallest)
    return small, small + 32


def params(spec: Spec) -> float:
    return counts().get(spec.name, {}).get("params", inf)


def cost(spec: Spec) -> float:
    """Multiply-adds for a small image; what a landing does with it grows with this."""
    known = counts().get(spec.name, {})
    return known.get("macs", 1e9) * (sides(spec)[0] / spec.image) ** 2


def heavy(chosen: Iterable[Spec], *, light: float = LIGHT_MACS, most: float = inf) -> set[str]:
    """Names that wait for `make test-release`: above `light` multiply-adds or 6 million parameters.

    The lightest of each family does not wait, unless it costs more than `most`.
    """
    chosen = list(chosen)
    lightest = {min((s for s in chosen if s.family == spec.family), key=cost).name for spec in chosen}
    return {
        spec.name
        for spec in chosen
        if cost(spec) > (most if spec.name in lightest else light)
        or (spec.name not in lightest and spec.family not in REDUCED and params(spec) > LIGHT_PARAMS)
    }


def by_weight(chosen: Iterable[Spec], *, light: float = LIGHT_MACS, most: float = inf) -> list[object]:
    """Parameters for pytest, the heavy ones marked slow."""
    chosen = list(chosen)
    late = heavy(chosen, light=light, most=most)
    return [
        pytest.param(spec, id=spec.name, marks=[pytest.mark.slow] if spec.name in late else [])
        for spec in chosen
    ]


def build(spec: Spec, **settings: int) -> Classifier:
    network = create_model(spec.name, **REDUCED.get(spec.family, {}), **settings)
    assert isinstance(network, Classifier)
    return network


def images(spec: Spec, count: int = 2, *, side: int = 0, channels: int = 0, seed: int = 0) -> Tensor:
    """Random images, by default as small as the contract allows."""
    generator = torch.Generator().manual_seed(seed)
    side = side or sides(spec)[0]
    return torch.randn(count, channels or spec.channels, side, side, generator=generator)


def logits_of(output: Tensor | WithAuxiliary) -> list[Tensor]:
    """The logits of a network, and after them those of its auxiliary heads."""
    return [output.logits, *output.auxiliary] if isinstance(output, WithAuxiliary) else [output]


def gradients(network: nn.Module, x: Tensor, targets: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    torch.manual_seed(1)  # for dropout
    losses = [nn.functional.cross_entropy(logits, targets) for logits in logits_of(network(x))]
    torch.stack(losses).sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
