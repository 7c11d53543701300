"""report.html: what a run's folder says, for people. One file, nothing loaded from elsewhere.

The order is that of the questions: how good, trained on what, how it went, on what it fails, what it saw,
what it costs, and how to do it again. The page is made from the folder, so it can be made again at any
time; pictures need the images too, and are left out, saying so, where these are not given.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from convatlas import __version__
from convatlas.data import Data
from convatlas.errors import BadCheckpoint
from convatlas.files import write_durable
from convatlas.infer import Evaluation, Run
from convatlas.measure import measure, table
from convatlas.models import find
from convatlas.report import charts, pictures
from convatlas.train.recipe import Recipe
from convatlas.train.run import RunFolder

LARGEST_MATRIX = 120  # classes; a larger confusion matrix is not drawn
NUMBERS_UP_TO = 24  # classes; up to here each cell of the matrix shows its count
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
    cost = measure(run.model, (run.preprocessing.channels, *run.preprocessing.size))
    page: dict[str, Any] = {
        "name": folder.path.resolve().name,
        "decided": decided,
        "version": __version__,
        "found": found,
        "shown": shown,
        "best": run.spec,
        "epochs_run": max((line["epoch"] for line in metrics if line.get("kind") == "val"), default=0),
        "weights_kind": next((line.get("weights") for line in metrics if line.get("best")), "model"),
        "recipe_changes": _changes(decided),
        "curves": charts.curves(metrics),
        "lr_test": charts.learning_rate_test(decided["lr_finder"]) if decided.get("lr_finder") else None,
        "matrix": _matrix(shown) if shown and len(shown.classes) <= LARGEST_MATRIX else None,
        "numbers": bool(shown) and len(shown.classes) <= NUMBERS_UP_TO,
        "pairs": shown.confused_pairs() if shown else [],
        "baseline": _baseline(shown),
        "cost": cost,
        "cost_rows": Markup(table.html_rows(cost)),  # noqa: S704 - escaped there
        "cost_header": table.HEADER,
        "facts": table.facts(cost, find(run.spec.model)),
        "seconds": sum(line.get("seconds", 0) + line.get("validation_seconds", 0) for line in timing),
        "images_per_second": _median([line["images_per_second"] for line in timing if "images_per_second" in line]),
        "command": shlex.join(str(part) for part in decided.get("command", [])),
        "left_out": [vars_of(bad) for bad in data.bad[:LEFT_OUT_SHOWN]] if data else [],
        "left_out_count": len(data.bad) if data else None,
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


def vars_of(bad: Any) -> dict[str, str]:
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
    """For each cell its count and shade: "d1".."d9" right, "e1".."e9" wrong, by share of the row; "" for none."""
    rows: list[list[tuple[int, str]]] = []
    for k, row in enumerate(evaluation.confusion.tolist()):
        total = max(sum(row), 1)
        rows.append(
            [
                (count, f"{'d' if k == column else 'e'}{max(1, round(9 * (count / total) ** 0.5))}" if count else "")
                for column, count in enumerate(row)
            ]
        )
    return rows


def _baseline(evaluation: Evaluation | None) -> tuple[str, float] | None:
    """The most frequent class, and the accuracy of always naming it."""
    if evaluation is None:
        return None
    most = max(evaluation.per_class, key=lambda score: score.count)
    return most.name, most.count / evaluation.count


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


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
        page["no_pictures"] = "The images given when this page was made are not those of the run, so none are shown."
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
    }
    script = environment.get_template("sort.js").render().strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("template.html.j2").render(
        **page, script=Markup(script), script_hash=digest, style=Markup(_style(environment))  # noqa: S704 - our files
    )


def _style(environment: Environment) -> str:
    return environment.get_template("style.css").render()


def _visible(value: Any) -> Any:
    """Text from outside with its control and direction characters made visible."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in value
    )


def percent(share: float | None, digits: int = 1) -> str:
    """0.9812 as "98.1 %"; a dash for None. Never rounded up to 100 or down to 0.

    Examples:
        >>> percent(0.98123), percent(0.99996), percent(1.0), percent(None)
        ('98.1 %', '99.9 %', '100 %', '–')
    """
    if share is None:
        return "–"
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    step = 10.0**-digits
    return f"{min(max(100 * share, step), 100 - step):.{digits}f} %"


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
