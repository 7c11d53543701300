"""The canon at a glance: charts and tables over all networks, drawn from the registry and from the networks themselves.

Costs are counted here; errors are those that papers printed, each with its test. What the lectures say of the same
matter stands beside it, as `lectures.json` has it. No number is written in this file.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import groupby
from typing import get_args, get_type_hints

from convatlas.audit.claims.quantities import kernels
from convatlas.audit.counted import counted
from convatlas.audit.lectures import entries as lectures
from convatlas.audit.lectures import reference
from convatlas.measure.charts import Bar, bars, scatter
from convatlas.measure.comparison import Entry, entry, points, published_errors
from convatlas.models import find, specs
from convatlas.plots import svg_file
from convatlas.registry import Spec
from convatlas.train.recipe import Recipe

Table = tuple[tuple[str, ...], list[list[str]]]
IMAGENET = "ILSVRC-2012 val"
# Who won the contest of classification, or what stands for the winner in the canon.
WINNERS = {2012: "alexnet_2gpu", 2014: "googlenet_paper", 2015: "resnet152_v1", 2017: "senet154_paper"}
FILTERS = {  # the lecture's row: networks that it speaks of
    "LeNet-5": ("lenet5",),
    "AlexNet": ("alexnet_paper",),
    "VGG": ("vgg16",),
    "ResNet": ("resnet18", "resnet50"),
    "Inception v3": ("inception_v3",),
}


@cache
def imagenet() -> tuple[Entry, ...]:
    """Every network whose paper printed its error on the validation images of ImageNet."""
    chosen = [
        spec for spec in specs() if any(e.test.startswith(IMAGENET) for e in published_errors(spec.published))
    ]
    return tuple(entry(spec.name, counted(spec.name).measurement, spec=spec) for spec in chosen)


def bubble_chart() -> str:
    """Top-1 error over multiply-adds; the area of a mark is the number of parameters. After Canziani et al., 2016."""
    drawn = scatter(
        points(imagenet(), "macs", "top1"), "macs", "top1", bubbles=True,
        title="ImageNet: error, multiply-adds, and parameters as area", size=(12.0, 8.0),
    )  # fmt: skip
    return svg_file(drawn.figure)


def parameters_chart() -> str:
    """Top-1 error over parameters."""
    found = points(imagenet(), "params", "top1")
    return svg_file(
        scatter(found, "params", "top1", title="ImageNet: error and parameters", size=(12.0, 8.0)).figure
    )


# --- the contest ----------------------------------------------------------------------------------------------


def contest() -> list[tuple[int, float, Spec | None]]:
    """Year, top-5 error of the winner in percent, and the canon's network for it, if there is one."""
    values, _ = reference("complexity-comparison", "top-5 per year 2010-2017")
    return [
        (year, value, find(WINNERS[year]) if year in WINNERS else None)
        for year, value in enumerate(values, start=2010)
    ]


def contest_bars() -> str:
    """The winners of ILSVRC by year: top-5 error, and the depth of their networks, counted here."""
    human, _ = reference("complexity-comparison", "human")
    drawn = [
        Bar(str(year), error, f"{error:.1f} %", f"{counted(spec.name).layers} layers" if spec else "")
        for year, error, spec in contest()
    ]
    title = f"ILSVRC: the winners' top-5 error (a human annotator: {human:g} %)"
    return svg_file(bars(drawn, title=title, y_label="top-5 error, %"))


def contest_table() -> Table:
    """The bars in words, with what the network's own paper printed of the contest's test images."""
    rows: list[list[str]] = []
    for year, error, spec in contest():
        printed = [
            f"{e.printed} ({e.test})"
            for e in (published_errors(spec.published) if spec else [])
            if e.metric == "top5" and "test" in e.test
        ]
        layers = str(counted(spec.name).layers) if spec else ""
        rows.append([str(year), f"{error:.1f}", f"`{spec.name}`" if spec else "", layers, "; ".join(printed)])
    return ("year", "winner, top-5 %", "network", "weight layers", "its paper, top-5 %"), rows


# --- filters --------------------------------------------------------------------------------------------------


def filter_table() -> Table:
    """Kernels of the convolutions in order, from the networks, beside the lecture's row."""
    stated = {claim.what: str(claim.value) for claim in lectures()["filter-count-rule"].claims}
    rows: list[list[str]] = []
    for what, names in FILTERS.items():
        for name in names:
            sides = Counter(f"{side}x{side}" for _, side, _ in kernels(name))
            told = ", ".join(f"{n} of {side}" for side, n in sides.most_common())
            rows.append(
                [what, stated[what], f"`{name}`", kernels_in_order(name), channels_in_order(name), told]
            )
    header = (
        "lecture",
        "its row",
        "network",
        "kernels in order",
        "channels from part to part",
        "convolutions by side",
    )
    return header, rows


def kernels_in_order(name: str) -> str:
    """Convolutions as "2 × 64@3x3"; nothing of networks with many."""
    runs = [
        (layer, len(list(group))) for layer, group in groupby(f"{w}@{k}x{k}" for w, k, _ in kernels(name))
    ]
    return ", ".join(f"{n} × {layer}" if n > 1 else layer for layer, n in runs) if len(runs) <= 8 else ""


def channels_in_order(name: str) -> str:
    """Channels that the parts of a network give, each once while they stay: "64-128-256-512"."""
    of = counted(name)
    children = [f"features.{child}" for child, _ in of.network.get_submodule("features").named_children()]
    widths = [of.shapes[child][0] for child in children if child in of.shapes]
    return "-".join(str(width) for width, _ in groupby(widths))


# --- small images ---------------------------------------------------------------------------------------------

COLUMNS = {"C10": "CIFAR-10", "C10+": "CIFAR-10", "C100": "CIFAR-100", "C100+": "CIFAR-100", "SVHN": "SVHN"}


def column(test: str) -> tuple[str, str] | None:
    """The column that a test belongs to, and what is particular about it; None for another set of images.

    Examples:
        >>> column("CIFAR-10 test, augmented, median of 5 runs"), column("CIFAR-100"), column("MNIST test")
        (('C10+', 'median of 5 runs'), ('C100', ''), None)
    """
    match = re.match(r"(CIFAR-100|CIFAR-10|SVHN)(?: test)?(?:, )?(.*)", test)
    if match is None:
        return None
    words = [word for word in match[2].split(", ") if word and word != "not augmented"]
    plus = "augmented" in words
    short = {"CIFAR-10": "C10", "CIFAR-100": "C100", "SVHN": "SVHN"}[match[1]]
    return short + ("+" if plus and short != "SVHN" else ""), ", ".join(
        word for word in words if word != "augmented"
    )


def small_images_table() -> Table:
    """CIFAR and SVHN: error in percent as printed, with (+) and without augmentation; parameters counted here."""
    rows: list[list[str]] = []
    for spec in specs():
        cells: dict[str, list[str]] = {name: [] for name in COLUMNS}
        for error in published_errors(spec.published):
            if error.metric == "top1" and (place := column(error.test)):
                cells[place[0]].append(error.printed + (f" ({place[1]})" if place[1] else ""))
        if any(cells.values()):
            of = counted(spec.name)
            depth = str(spec.published.layers or of.layers)
            rows.append(
                [
                    f"`{spec.name}`",
                    str(spec.paper.year),
                    depth,
                    f"{of.params:,}",
                    *map(", ".join, cells.values()),
                ]
            )
    return ("network", "year", "layers", "parameters", *COLUMNS), rows


# --- choices, zoos, images ------------------------------------------------------------------------------------


def choices_table() -> Table:
    """The design choices that one lecture lists, and what can be chosen here."""
    hints = get_type_hints(Recipe)

    def names(field: str) -> str:
        return ", ".join(get_args(hints[field]))

    layers = [spec.published.layers for spec in specs() if spec.published.layers]
    sides = sorted({spec.image for spec in specs()})
    stated = lectures()["agony-of-choice"].claims[0].value
    rows = [
        ["architecture", f"{len(specs())} networks of {len({s.family for s in specs()})} families, {min(layers)} to "
         f"{max(layers)} weight layers, images of {sides[0]} to {sides[-1]} pixels"],
        ["loss", f"`loss`: {names('loss')}; `balance`: {names('balance')}; `label_smoothing`"],
        ["optimisation", f"`optimizer`: {names('optimizer')}; `schedule`: {names('schedule')}; `lr`, `momentum`, "
         "`weight_decay`"],
        ["data", f"`resize`: {names('resize')}; `crop`: {names('crop')}; `mean`, `std`: of the images, or given"],
        ["problem", f"tasks: {', '.join(sorted({spec.task for spec in specs()}))}"],
    ]  # fmt: skip
    if len(rows) != stated:
        raise ValueError(f"the lecture lists {stated} groups of choices, the table {len(rows)}")
    return ("choice", "what there is here"), rows


def zoo_table() -> Table:
    """Families of the canon whose networks other libraries have too, with equal outputs from equal weights."""
    rows: list[list[str]] = []
    for family in sorted({spec.family for spec in specs()}):
        own = [spec for spec in specs() if spec.family == family]
        peers = [
            ", ".join(sorted({spec.peers[zoo] for spec in own if zoo in spec.peers}))
            for zoo in ("torchvision", "timm")
        ]
        if any(peers):
            rows.append([family, str(len(own)), *peers])
    return ("family", "networks here", "torchvision", "timm"), rows


def images_table() -> Table:
    """The sets of images that printed errors are of, and what the lectures say of their size."""
    tests: dict[str, set[str]] = {}
    for spec in specs():
        for error in published_errors(spec.published):
            found = re.match(r"(CIFAR-100|CIFAR-10|SVHN|MNIST|ILSVRC)", error.test)
            tests.setdefault(found[1] if found else error.test, set()).add(spec.name)
    said = lectures()["datasets"].claims
    rows: list[list[str]] = []
    for name, networks in sorted(tests.items()):
        heads = {"ILSVRC": "ImageNet"}.get(name, name)
        claims = [f"{c.what.removeprefix(heads).strip()}: {_sizes(c.value)} {c.unit}" for c in said
                  if c.what.split()[0] == heads]  # fmt: skip
        rows.append([name, str(len(networks)), "; ".join(claims)])
    return ("images", "networks with a printed error", "the lectures"), rows


def _sizes(value: object) -> str:
    if isinstance(value, list):
        return " and ".join(map(_sizes, value))  # pyright: ignore[reportUnknownArgumentType]
    return f"{value:,}"
