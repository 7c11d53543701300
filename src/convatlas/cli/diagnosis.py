"""What `convatlas diagnose` has found, as tables and sentences, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convatlas.cli import console

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from convatlas.cli.subject import Subject
    from convatlas.measure.activations import Activation
    from convatlas.measure.effective import Box, EffectiveField
    from convatlas.measure.gradients import Gradients, LayerGradient


@dataclass
class Diagnosis:
    """`over` holds the states of a run in their order, each with its share of dead units; else it is empty."""

    activations: tuple[Activation, ...]
    gradients: Gradients
    over: list[tuple[str, Gradients, float | None]]
    field: EffectiveField | None = None
    box: Box | None = None


def dead_share(rows: Sequence[Activation]) -> float | None:
    """Share of dead units among those of all ReLUs."""
    relus = [(row.dead_units, math.prod(row.shape)) for row in rows if row.dead_units is not None]
    units = sum(size for _, size in relus)
    return sum(share * size for share, size in relus) / units if units else None


def show(found: Subject, diagnosis: Diagnosis, picture: Path | None) -> None:
    """Print it: what was looked at, the layers, the verdicts, the states of a run, the field."""
    for sentence in found.told:
        console.show(sentence)
    console.show("")
    console.show(_layers(diagnosis))
    console.show("")
    verdict = diagnosis.gradients.verdict
    console.show(f"loss       {diagnosis.gradients.loss:.4g}")
    console.show(f"gradients  {verdict.health}: {verdict.rule}")
    for line in _units(diagnosis.activations):
        console.show(line)
    if diagnosis.over:
        console.show("")
        console.show(_over(diagnosis))
        if found.log:
            console.show(_logged(found.log))
    if diagnosis.field is not None:
        console.show("")
        for line in _field(diagnosis.field, diagnosis.box):
            console.show(line)
        if picture is not None:
            console.show(f"picture      {picture}")


COLUMNS = ("layer", "kind", "mean", "std", "dead", "channels", "saturated", "signal", "gradient", "rate")


def _layers(diagnosis: Diagnosis) -> Table:
    """Calls in forward order with their statistics; weight layers with their gradients."""
    norms = {layer.name: layer for layer in diagnosis.gradients.layers}
    rows: list[Sequence[object]] = []
    for each in diagnosis.activations:
        norm = norms.pop(each.name, None) if each.is_weight_layer else None
        shares = (each.dead_units, each.dead_channels, each.saturated)
        about = (each.name or "(network)", each.kind, f"{each.mean:.3g}", f"{each.std:.3g}")
        rows.append((*about, *map(_percent, shares), *_norms(norm)))
    beside = norms.values()  # auxiliary heads, which speak in training mode only
    rows += [(layer.name, "training only", *("",) * 5, *_norms(layer)) for layer in beside]
    kept = [place for place in range(len(COLUMNS)) if any(row[place] for row in rows)]
    return console.table([COLUMNS[place] for place in kept], ([row[place] for place in kept] for row in rows))


def _norms(layer: LayerGradient | None) -> tuple[str, str, str]:
    if layer is None:
        return "", "", ""
    return f"{layer.signal:.2e}", f"{layer.gradient:.2e}", f"{layer.rate:.2e}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _units(rows: Sequence[Activation]) -> list[str]:
    """Dead and saturated units, a sentence each."""
    lines: list[str] = []
    relus = [row for row in rows if row.dead_channels is not None]
    if relus:
        worst = max(relus, key=lambda row: (row.dead_channels or 0.0, row.dead_units or 0.0))
        where = f"most channels in {worst.name or 'the network'}: {_percent(worst.dead_channels)}"
        lines.append(
            f"dead       {_percent(dead_share(rows))} of the units of {len(relus)} ReLUs; "
            f"{where if worst.dead_channels else 'no whole channel'}"
        )
    squashed = [row for row in rows if row.saturated is not None]
    if squashed:
        worst = max(squashed, key=lambda row: row.saturated or 0.0)
        lines.append(
            f"saturated  {_percent(worst.saturated)} of {worst.name or 'the network'}, the most of {len(squashed)} "
            "sigmoids and tanhs"
        )
    return lines


def _field(field: EffectiveField, box: Box | None) -> list[str]:
    (sy, sx), fit = field.fit.sigma, field.fit
    sides = " x ".join(f"{high - low + 1:.0f}" for low, high in box) + " px" if box else "not known"
    row, column = field.unit
    return [
        f"field of     {field.layer}, unit ({row}, {column}), mean of {field.images} images",
        f"theoretical  {sides}",
        f"effective    sigma {sy:.1f} x {sx:.1f} px; a Gaussian explains {fit.quality:.0%} of the map",
        f"             {field.size():.1f} px above 4.55 % of the largest, 95.45 % within {field.side_of()} px",
    ]


def _over(diagnosis: Diagnosis) -> Table:
    rows: list[list[object]] = []
    for name, norms, dead in diagnosis.over:
        layers = [layer for layer in norms.layers if not layer.beside]
        verdict = norms.verdict
        rows.append(
            [
                name,
                f"{norms.loss:.4g}",
                f"{layers[0].gradient:.2e}",
                f"{layers[-1].gradient:.2e}",
                f"{verdict.per_layer:.3g}",
                f"{verdict.over_all:.2g}",
                _percent(dead),
                verdict.health,
            ]
        )
    columns = ["state", "loss", "first gradient", "last", "signal per layer", "over all", "dead", "gradients"]
    return console.table(columns, rows)


def _logged(log: Sequence[tuple[int, float]]) -> str:
    (first, a), (last, b) = log[0], log[-1]
    middle = sorted(norm for _, norm in log)[len(log) // 2]
    return (
        f"The whole gradient's norm in the run's log: {a:.3g} at step {first}, {b:.3g} at step {last}; median "
        f"{middle:.3g}, largest {max(norm for _, norm in log):.3g}."
    )


def to_json(found: Subject, diagnosis: Diagnosis) -> dict[str, Any]:
    """All of it as plain values."""
    field = diagnosis.field
    return {
        "name": found.name,
        "about": found.told,
        "input_shape": list(found.images.shape),
        "activations": [row.to_json() for row in diagnosis.activations],
        "gradients": diagnosis.gradients.to_json(),
        "over_the_run": [
            {"state": name, "dead_units": dead, **norms.to_json()} for name, norms, dead in diagnosis.over
        ],
        "logged_gradient_norms": [{"step": step, "norm": norm} for step, norm in found.log],
        "field": field
        and {**field.to_json(), "theoretical": diagnosis.box and [list(ends) for ends in diagnosis.box]},
    }
