"""What exists: every network, its paper, and the figures the paper printed.

`register(...)` is a plain call beside the code it names. Lists, tables of the documentation and the
audit are all printed from `specs()`, so that no number is typed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from convatlas.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a network comes from."""

    title: str
    year: int
    authors: str = ""
    arxiv: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """Figures as printed, as text: "138M" claims three digits, and is held to three.

    `params` and `macs` count parameters and multiply-adds, those of auxiliary heads left out; errors are in
    percent, with the test that gave them in `test` ("ILSVRC-2012 val, single scale"), further ones by their test in
    `other_errors_pct`. `layers` counts weight layers on the longest path. Figures of single modules go into
    `params_by_layer` and `macs_by_layer`, by the module's path in the network.
    """

    params: str | None = None
    macs: str | None = None
    top1_error_pct: str | None = None
    top5_error_pct: str | None = None
    error_pct: str | None = None
    other_errors_pct: Mapping[str, str] = field(default_factory=dict)
    layers: int | None = None
    test: str | None = None
    source: str | None = None  # table or section of the paper
    params_by_layer: Mapping[str, str] = field(default_factory=dict)
    macs_by_layer: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spec:
    """One named network: how to build it and what is claimed of it.

    `image` is the side of the paper's images in pixels, `smallest` that of the smallest ones that the network can
    train on. `peers` gives the name of the same network, with the same outputs from the same weights, in
    "torchvision" and "timm". `limits` maps a clause of the common contract that cannot hold ("in_channels") to
    the reason; `silent` maps a pattern of parameter names to the reason why their gradient can be zero on a batch.
    """

    name: str
    build: Callable[..., nn.Module]
    paper: Paper
    family: str
    image: int
    channels: int = 3
    classes: int = 1000
    task: str = "classification"
    published: Published = field(default_factory=Published)
    limits: Mapping[str, str] = field(default_factory=dict)
    summary: str = ""
    smallest: int = 32
    peers: Mapping[str, str] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)


_SPECS: dict[str, Spec] = {}


def register(
    name: str,
    build: Callable[..., nn.Module],
    *,
    paper: Paper,
    family: str,
    image: int,
    channels: int = 3,
    classes: int = 1000,
    task: str = "classification",
    published: Published | None = None,
    limits: Mapping[str, str] | None = None,
    summary: str = "",
    smallest: int = 32,
    peers: Mapping[str, str] | None = None,
    silent: Mapping[str, str] | None = None,
) -> Spec:
    """Name a network; the arguments are the fields of `Spec`.

    Raises `ValueError` if the name is taken: two networks never share one.
    """
    if name in _SPECS:
        raise ValueError(f"network {name!r} is registered already, by family {_SPECS[name].family!r}")
    spec = Spec(
        name,
        build,
        paper,
        family,
        image,
        channels,
        classes,
        task,
        published or Published(),
        limits or {},
        summary,
        smallest,
        peers or {},
        silent or {},
    )
    _SPECS[name] = spec
    return spec


def specs() -> list[Spec]:
    """Every registered network, by year of its paper, family, then name.

    Families register themselves when they are imported; `convatlas.models` imports them all, so code
    that wants the whole canon imports `find`, `list_models` and `specs` from there.
    """
    return sorted(_SPECS.values(), key=lambda spec: (spec.paper.year, spec.family, spec.image, spec.name))


def find(name: str) -> Spec:
    """The spec of that name. Raises `UsageError` with the nearest names if there is none."""
    if not isinstance(name, str) or name not in _SPECS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(
            f"there is no network {name!r}.{did_you_mean(str(name), _SPECS)} `convatlas list` prints all {len(_SPECS)}."
        )
    return _SPECS[name]


def list_models(
    pattern: str = "*", *, family: str | None = None, task: str | None = None, year: int | None = None
) -> list[str]:
    """Names that match a shell pattern and the filters, in the order of `specs`.

    Raises `UsageError` if `family` or `task` names nothing that exists.
    """
    for what, wanted, known in (
        ("family", family, {spec.family for spec in _SPECS.values()}),
        ("task", task, {spec.task for spec in _SPECS.values()}),
    ):
        if wanted is not None and wanted not in known:
            raise UsageError(
                f"there is no {what} {wanted!r}.{did_you_mean(wanted, known)} Known: {sorted(known)}."
            )
    return [
        spec.name
        for spec in specs()
        if fnmatchcase(spec.name, pattern)
        and family in (None, spec.family)
        and task in (None, spec.task)
        and year in (None, spec.paper.year)
    ]
