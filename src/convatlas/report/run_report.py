"""report.html: what a run's folder says, for people. One file, nothing loaded from elsewhere.

The order is that of the questions: how good, trained on what, how it went, on what it fails, what it saw,
what it costs, and how to do it again. The page is made from the folder, so it can be made again at any
time; pictures need the images too, and are left out, saying so, where these are not given.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from convatlas import __version__
from convatlas.data import Data, Preprocessing
from convatlas.errors import BadCheckpoint
from convatlas.files import write_durable
from convatlas.infer import Evaluation, Run
from convatlas.infer.views import VIEWS
from convatlas.measure import measure, table
from convatlas.models import find
from convatlas.report import charts, pictures
from convatlas.report.pace import pace
from convatlas.train import processes
from convatlas.train.limit import limit_of
from convatlas.train.origin import sentences
from convatlas.train.recipe import Recipe
from convatlas.train.run import RunFolder
from convatlas.train.speed import Speed

LARGEST_MATRIX = 120  # classes; a larger confusion matrix is not drawn
NUMBERS_UP_TO = 24  # classes; up to here each cell of the matrix shows its count
STRONG_MISTAKE = 0.1  # of a row
LEFT_OUT_SHOWN = 50


def write_report(
    folder: RunFolder, data: Data | None = None, evaluations: Mapping[str, Evaluation] | None = None
) -> Path:
    """Write report.html into the run's folder, and give its path.

    `data`: the images of the run, for the pictures; others, told by their fingerprint, are not shown.
    `evaluations`: by split; those in the folder if None. Raises `BadCheckpoint` if the folder is no whole run.
    """
    write_durable(folder.report_path, render(folder, data, evaluations).encode("utf-8", "backslashreplace"))
    return folder.report_path


def render(
    folder: RunFolder, data: Data | None = None, evaluations: Mapping[str, Evaluation] | None = None
) -> str:
    """The page as text."""
    run = Run.load(folder.path)
    decided = folder.read_run()
    found = evaluations if evaluations is not None else _evaluations(folder)
    metrics, timing = folder.metrics(), folder.timing()
    shown = found.get("test") or found.get("val")
    summary = decided.get("data") or {}
    cost = measure(run.model, (run.preprocessing.channels, *run.preprocessing.size))
    page: dict[str, Any] = {
        "name": folder.path.resolve().name,
        "where": Path(str(decided.get("where") or summary.get("where") or "images")).name,
        "spec": find(run.spec.model),
        "decided": decided,
        "version": __version__,
        "found": found,
        "shown": shown,
        "best": run.spec,
        "start": _start(decided),
        "epochs_run": max((line["epoch"] for line in metrics if "epoch" in line), default=0),
        "weights_kind": next((line.get("weights") for line in metrics if line.get("best")), "model"),
        "recipe_changes": _changes(decided),
        "all_settings": {
            name: value for name, value in decided["recipe"].items() if name not in ("name", "source")
        },
        "curves": charts.curves(metrics, top5=len(run.classes) > 10),
        "lr_test": charts.learning_rate_test(decided["lr_finder"]) if decided.get("lr_finder") else None,
        "matrix": _matrix(shown) if shown and len(shown.classes) <= LARGEST_MATRIX else None,
        "numbers": bool(shown) and len(shown.classes) <= NUMBERS_UP_TO,
        "pairs": _pairs(shown) if shown else [],
        "mistake_count": len(shown.mistakes) if shown else 0,
        "baseline": _baseline(shown),
        "cost": cost,
        "cost_rows": Markup(table.html_rows(cost)),  # noqa: S704 - escaped there
        "cost_header": table.header(cost),
        "facts": table.facts(cost, find(run.spec.model)),
        "created": _date(decided.get("created")),
        "geometry": _geometry(run.preprocessing),
        "harder": _harder(decided["recipe"]),
        "machine": _machine(decided.get("machine") or {}),
        "published": any(paper for _, _, paper in table.facts(cost, find(run.spec.model))),
        "speed": Speed.of_run(decided),
        "limit": limit_of(folder.limit()),
        "processes": processes.sentences(decided),
        "command": shlex.join([*map(str, decided.get("command", [])), *processes.options(decided)]),
        "left_out": [_left_out(bad) for bad in data.bad[:LEFT_OUT_SHOWN]] if data else [],
        "left_out_count": len(data.bad) if data else None,
        **pace(timing, decided),
        **_counts(summary, run.classes),
        **_pictures(folder, run, decided, data, shown),
    }
    return _template(page)


def _evaluations(folder: RunFolder) -> dict[str, Evaluation]:
    """What the folder holds, by split."""
    found: dict[str, Evaluation] = {}
    for split in ("test", "val"):
        value = folder.evaluation(split)
        if value is not None:
            try:
                found[split] = Evaluation.from_json(value)
            except BadCheckpoint as error:
                raise BadCheckpoint(f"{folder.path / 'evaluation' / (split + '.json')}: {error}") from error
    return found


def _start(decided: Mapping[str, Any]) -> dict[str, Any]:
    """What the run started from, for the top of the page."""
    start: Mapping[str, Any] = decided.get("start") or {}
    if not start:  # a run of the first version
        weights = decided.get("weights")
        return {"scratch": not weights, "title": weights or "random weights", "facts": [], "held": []}
    return {
        "scratch": start["kind"] == "scratch",
        "title": start["title"],
        "facts": sentences(decided),
        "held": list(start.get("held") or ()),
    }


def _left_out(bad: Any) -> dict[str, str]:
    """A file that was left out."""
    return {"key": bad.key, "reason": bad.reason, "detail": bad.detail}


def _changes(decided: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the recipe that are not a recipe's plain default: what makes this recipe itself."""
    plain = Recipe().to_json()
    return {
        name: value
        for name, value in decided["recipe"].items()
        if name not in ("name", "source") and name in plain and _plain(value) != _plain(plain[name])
    }


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _matrix(evaluation: Evaluation) -> list[list[tuple[int, str]]]:
    """For each cell its count and shade, by its share of the row: "d1".."d9" right, "e1".."e9" wrong, "" for none.

    Mistakes are rarer, so theirs ends at the largest of them, or at `STRONG_MISTAKE` where all are small.
    """
    shares = evaluation.confusion / np.maximum(evaluation.confusion.sum(axis=1, keepdims=True), 1)
    off = shares * (1 - np.eye(len(shares)))
    strength = np.where(off > 0, off / max(off.max(), STRONG_MISTAKE), shares)
    shades = np.clip(np.rint(9 * np.sqrt(strength)), 1, 9).astype(int)
    return [
        [
            (count, f"{'d' if row == column else 'e'}{shades[row, column]}" if count else "")
            for column, count in enumerate(counts)
        ]
        for row, counts in enumerate(evaluation.confusion.tolist())
    ]


def _pairs(evaluation: Evaluation) -> list[tuple[str, str, int, float]]:
    """Label, prediction, times, share of the label's images."""
    counts = {score.name: score.count for score in evaluation.per_class}
    return [(label, said, times, times / counts[label]) for label, said, times in evaluation.confused_pairs()]


def _counts(summary: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Images by class and split, for splits that have any."""
    counts: Mapping[str, Mapping[str, int]] = summary.get("per_class") or {}
    by_split = {name: counts[name] for name in ("train", "val", "test") if sum(counts.get(name, {}).values())}
    rows = [{"name": name, "counts": [of.get(name, 0) for of in by_split.values()]} for name in classes]
    return {
        "splits": list(by_split),
        "counted": rows if by_split else [],
        "totals": [sum(of.values()) for of in by_split.values()],
        "few_classes": len(classes) <= 12 and sum(len(name) for name in classes) <= 90,
        "test_count": sum(by_split.get("test", {}).values()),
    }


def _date(text: Any) -> str:
    """An ISO time as "20 November 2026, 18:44 UTC"."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text or "")
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()


def _geometry(preprocessing: Preprocessing) -> str:
    """The preprocessing in a sentence."""
    height, width = preprocessing.size
    how = {
        "crop": f"the shorter side to {width / preprocessing.crop_ratio:.0f} px, then the middle {width} × {height}",
        "pad": f"shrunk or padded to {width} × {height} px, nothing cut off",
        "squash": f"both sides to {width} × {height} px",
    }[preprocessing.resize]
    mean, std = (
        ", ".join(f"{value:.3f}" for value in values) for values in (preprocessing.mean, preprocessing.std)
    )
    return f"{preprocessing.resize}: {how}; mean {mean}, deviation {std}"


def _harder(recipe: Mapping[str, Any]) -> str:
    """What makes the training loss larger than the validation loss."""
    mixed = recipe.get("mixup") or recipe.get("cutmix")
    augmented = (
        mixed or recipe.get("trivial") or recipe.get("erasing") or recipe.get("crop", "none") != "none"
    )
    parts = ["mixed pictures" if mixed else "augmented pictures" if augmented else ""]
    parts += [
        "smoothed labels" if recipe.get("label_smoothing") else "",
        "dropout" if recipe.get("dropout", 0) > 0 else "",
    ]
    return " with ".join(part for part in parts if part)


def _machine(machine: Mapping[str, Any]) -> str:
    """Processor, cores and memory in a line."""
    memory = machine.get("memory_bytes")
    parts = [
        machine.get("processor"),
        f"{machine['cores']} cores" if machine.get("cores") else None,
        table.bytes_text(memory) if isinstance(memory, int) else None,
        machine.get("accelerator") or "no accelerator",
        machine.get("system"),
    ]
    return ", ".join(str(part) for part in parts if part)


def _baseline(evaluation: Evaluation | None) -> tuple[str, float] | None:
    """The most frequent class, and the accuracy of always naming it."""
    if evaluation is None:
        return None
    most = max(evaluation.per_class, key=lambda score: score.count)
    return most.name, most.count / evaluation.count


def _pictures(
    folder: RunFolder, run: Run, decided: Mapping[str, Any], data: Data | None, shown: Evaluation | None
) -> dict[str, Any]:
    """Galleries, or empty ones with the reason in `no_pictures`."""
    layer, kernels = pictures.first_filters(run.model.state_dict())
    page: dict[str, Any] = {
        "mistakes": [], "hits": [], "augmented": [], "filters": kernels, "filter_layer": layer, "no_pictures": "",
    }  # fmt: skip
    if data is None:
        page["no_pictures"] = "The images were not at hand when this page was made, so none are shown."
    elif data.fingerprint != decided.get("fingerprint"):
        page["no_pictures"] = (
            "The images given when this page was made are not those of the run, so none are shown."
        )
    else:
        if shown is not None:
            split = {"train": data.train, "val": data.val, "test": data.test}[shown.split]
            page["mistakes"] = pictures.gallery(shown, split, shown.mistakes)
            page["hits"] = pictures.gallery(shown, split, shown.unsure_hits)
        page["augmented"] = pictures.augmented(
            data, Recipe.from_json(decided["recipe"]), run.preprocessing, decided["seed"]
        )
    return page


# --- setting the page -------------------------------------------------------------------------------------


def _template(page: Mapping[str, Any]) -> str:
    """Every word is escaped, and control characters are shown, not obeyed; the script is allowed by its hash."""
    environment = Environment(
        loader=PackageLoader("convatlas.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {
        "pct": percent,
        "duration": duration,
        "count": table.count_text,
        "bytes": table.bytes_text,
        "value": value_text,
        "date": _date,
    }
    script, style = (_source(name) for name in ("sort.js", "style.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    ours = {"script": Markup(script), "style": Markup(style), "views": VIEWS}  # noqa: S704 - files of this package
    return environment.get_template("template.html.j2").render(**page, **ours, script_hash=digest)


def _source(name: str) -> str:
    return (resources.files("convatlas.report") / name).read_text(encoding="utf-8").strip()


def _visible(value: Any) -> Any:
    """Text from outside with its control and direction characters made visible."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(
        each if each.isprintable() or each in "\n\xa0" else each.encode("unicode_escape").decode()
        for each in value
    )


def percent(share: float | None, digits: int = 1) -> str:
    r"""0.9812 as "98.1 %", with a space that does not break; a dash for None. Never rounded up to 100 or down to 0.

    Examples:
        >>> percent(0.98123), percent(0.99996), percent(1.0), percent(None)
        ('98.1\xa0%', '99.9\xa0%', '100\xa0%', '–')
    """
    if share is None:
        return "–"
    if share in (0, 1):
        return f"{100 * share:.0f}\xa0%"
    step = 10.0**-digits
    return f"{min(max(100 * share, step), 100 - step):.{digits}f}\xa0%"


def duration(seconds: float) -> str:
    """Seconds for people.

    Examples:
        >>> duration(7.25), duration(192), duration(7380)
        ('7.2 s', '3 min 12 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def value_text(value: Any) -> str:
    """A setting as it is written after `--set name=`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(value_text(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
