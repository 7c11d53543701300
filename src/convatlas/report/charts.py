"""A run's logs as drawings: loss, accuracy and learning rate over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from convatlas.plots import Series, line_chart, svg

Records = Sequence[Mapping[str, Any]]


def curves(metrics: Records, *, top5: bool) -> list[dict[str, Any]]:
    """Loss, accuracy and learning rate, as far as the log has them: `{"title": ..., "svg": ...}` each.

    The x axis counts epochs: a training line stands where its step lies within its epoch. `top5`: draw it too.
    """
    train = [line for line in metrics if line.get("kind") == "train"]
    val = [line for line in metrics if line.get("kind") == "val"]
    x_train = [line["step"] / _steps_per_epoch(train, val) for line in train]
    x_val = [line["epoch"] for line in val]
    best = max((line["epoch"] for line in val if line.get("best")), default=None)
    limits = (0.0, max([1.0, *x_train, *x_val]))
    x_label = "epoch" if best is None else f"epoch (kept: {best})"
    drawn: list[dict[str, Any]] = []

    def draw(title: str, series: list[Series], **settings: Any) -> None:
        series = [each for each in series if any(y is not None for y in each.y)]
        if series:
            figure = line_chart(
                series, title=title, x_label=x_label, mark_x=best, x_limits=limits, **settings
            )
            drawn.append({"title": title, "svg": Markup(svg(figure, themed=True))})  # noqa: S704 - drawn here

    draw(
        "Loss",
        [
            Series("training", x_train, [line.get("loss") for line in train], "series-2", faint=True),
            Series("validation", x_val, [line.get("loss") for line in val], "series-1", marks=True),
        ],
    )
    accuracy = [
        Series("training, top-1", x_train, [line.get("top1") for line in train], "series-2", faint=True),
        Series("validation, top-1", x_val, [line.get("top1") for line in val], "series-1", marks=True),
    ]
    if top5:
        accuracy.append(
            Series("validation, top-5", x_val, [line.get("top5") for line in val], "series-3", faint=True)
        )
    draw("Accuracy", accuracy, percent=True)
    draw("Learning rate", [Series("learning rate", x_train, [line.get("lr") for line in train], "series-4")])
    return drawn


def _steps_per_epoch(train: Records, val: Records) -> float:
    if val and val[-1].get("step"):
        return val[-1]["step"] / val[-1]["epoch"]
    return max((line["step"] for line in train), default=1) / max(
        (line["epoch"] for line in train), default=1
    )


def learning_rate_test(found: Mapping[str, Any]) -> Markup:
    """The range test that chose the learning rate: loss over the rate."""
    series = Series("loss", found["rates"], found["losses"], "series-4")
    figure = line_chart(
        [series],
        title="Learning-rate test",
        x_label=f"learning rate (chosen: {found['suggestion']:g})",
        x_scale="log",
        mark_x=found["suggestion"],
    )
    return Markup(svg(figure, themed=True))  # noqa: S704 - drawn here
