"""How good a network is known to be: a published error, with the test, the size and the source that it belongs to.

Two kinds of published figure, which are never put in one order: top-1 errors on ImageNet, and errors on CIFAR-10, which
speak of small images. Within a kind the tests still differ, so every figure keeps its own words. The third kind is
what runs on somebody's own images gave; it goes before any published one.

- ImageNet: the paper's figure for one crop of the image; else that of torchvision's first weights of the same network
  (one crop); else the paper's for many crops or dense evaluation. The last is better by what the crops add, not by
  the network, so it counts as worse by `crops_gain`, which four DenseNets tell: their paper prints both.
- CIFAR-10: the paper's figure with augmentation, else without.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from convatlas.registry import Spec

Kind = Literal["imagenet", "cifar10"]
TITLES: dict[Kind, str] = {"imagenet": "ImageNet top-1 error", "cifar10": "CIFAR-10 error"}
SMALL = 64  # images up to this side in pixels are those that CIFAR-10 speaks of


@dataclass(frozen=True, slots=True)
class Evidence:
    """An error in percent as it was published or measured, and as it counts against others of its kind.

    `side` is that of the images it was measured on, `test` the test in the words of its source.
    """

    kind: Kind | Literal["own"]
    error_pct: float
    counted_pct: float
    test: str
    side: int
    source: Literal["paper", "torchvision", "run"]


def kind_for(side: int) -> Kind:
    """The figures that speak of images of that side."""
    return "cifar10" if side <= SMALL else "imagenet"


def crops_gain(specs: Iterable[Spec]) -> float:
    """How much lower ten crops make a top-1 error than one: the mean of the networks whose paper prints both."""
    differences = [
        float(spec.published.top1_error_pct) - float(error)
        for spec in specs
        if spec.published.top1_error_pct and _crops(spec.published.test or "") == 1
        for test, error in spec.published.other_errors_pct.items()
        if "top-1" in test and _crops(test) == 10
    ]
    return statistics.mean(differences)


def evidence(spec: Spec, kind: Kind, gain: float) -> Evidence | None:
    """The figure of that kind by which a network is ranked, or None if there is none; `gain`: see `crops_gain`."""
    if kind == "cifar10":
        return _cifar10(spec)
    printed, test = spec.published.top1_error_pct, spec.published.test or ""
    paper = None
    if printed and "ILSVRC" in test:
        crops = _crops(test)
        error = float(printed)
        paper = Evidence(kind, error, error + (gain if crops != 1 else 0.0), test, spec.image, "paper")
        if crops == 1:
            return paper
    return _torchvision(spec) or paper


def _crops(test: str) -> int:
    """How many crops a test averages over: 1 where it says nothing, 0 for dense evaluation at one scale."""
    if "single scale" in test:
        return 0
    found = re.search(r"\b(\d+|one)[- ]crops?\b", test)
    return 1 if found is None or found[1] == "one" else int(found[1])


def _torchvision(spec: Spec) -> Evidence | None:
    """What torchvision prints of its first weights: those of the classic recipes, as the papers' are."""
    name = spec.peers.get("torchvision")
    if name is None:
        return None
    from torchvision.models import get_model_weights  # a second of import

    first = get_model_weights(name).__members__.get("IMAGENET1K_V1")
    if first is None:
        return None
    error = round(100 - first.meta["_metrics"]["ImageNet-1K"]["acc@1"], 3)
    side = first.transforms().crop_size[0]
    return Evidence("imagenet", error, error, "weights IMAGENET1K_V1, one crop", side, "torchvision")


def _cifar10(spec: Spec) -> Evidence | None:
    """With augmentation if there is such a figure: it is how people train."""
    published = spec.published
    tests = {published.test or "": published.error_pct, **published.other_errors_pct}
    printed = [(test, error) for test, error in tests.items() if test.startswith("CIFAR-10 test") and error]
    for wanted in ("CIFAR-10 test, augmented", "CIFAR-10 test"):
        for test, error in printed:
            if test.startswith(wanted) and "whitened" not in test:
                return Evidence("cifar10", float(error), float(error), test, spec.image, "paper")
    return None
