"""A run: one folder that is enough to resume, evaluate, explain, export or serve.

Its tree::

run.json         what was asked for and decided: command, recipe, network, data, seed, versions
metrics.jsonl    deterministic values only: the same run writes the same bytes
timing.jsonl     seconds and images per second
limit.json       how close that came to what the machine can do
samples.csv      every accepted image with its split and hash
checkpoints/     step-00000120/...  the last two, each with a manifest of hashes
best/            epoch-0007/{model.safetensors, spec.json, manifest.json}
evaluation/      val.json, test.json
report.html
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convatlas.errors import BadCheckpoint, DataError, UsageError
from convatlas.files import make_folder, newest, read_json, read_untrusted, write_durable, write_json

FORMAT = 1
RUN = "run.json"
MAYBE = type(None)
FIELDS: dict[str, tuple[type, ...]] = {  # of run.json, and what they may be
    "created": (str,),
    "command": (list,),
    "task": (str,),
    "model": (str,),
    "options": (dict,),
    "weights": (str, MAYBE),
    "choice": (str, MAYBE),
    "recipe_name": (str,),
    "recipe": (dict,),
    "notes": (list,),
    "seed": (int,),
    "where": (str,),
    "reading": (dict,),
    "data": (dict,),
    "fingerprint": (str,),
    "preprocessing": (dict,),
    "safety": (dict,),
    "workers": (int, MAYBE),
    "versions": (dict,),
    "machine": (dict,),
}
# Runs of the first version have none; `tuning` and `asked` are there where candidates were measured, `shares` where
# each machine reads its part of the training images; with them, the `components` of colours that one machine measured.
LATER: dict[str, tuple[type, ...]] = {
    "start": (dict,),
    "speed": (dict,),
    "tuning": (dict,),
    "asked": (list,),
    "processes": (dict,),
    "shares": (list,),
    "components": (list,),
}
START: dict[str, tuple[type, ...]] = {
    "kind": (str,),
    "title": (str,),
    "reason": (str,),
    "source": (str,),
    "file": (str,),
    "sha256": (str,),
    "url": (str,),
    "confirmed": (bool, MAYBE),
    "names": (str,),
    "head": (str,),
    "left_out": (list,),
    "drawn": (list,),
    "held": (list,),
}
PROCESSES: dict[str, tuple[type, ...]] = {
    "world": (int,),
    "nodes": (int,),
    "backend": (str, MAYBE),
    "started_by": (str, MAYBE),
    "batch_norm": (str, MAYBE),
}
READING: dict[str, tuple[type, ...]] = {
    "val_share": (int, float),
    "test_share": (int, float, MAYBE),
    "group_by": (str, MAYBE),
    "on_bad": (str,),
    "apart": (bool,),
}
SAFETY: dict[str, tuple[type, ...]] = {"on_nan": (str,), "checkpoint_steps": (int,)}


class RunFolder:
    """Names and readers of what lies in a run's folder. Writing is the loop's and the verbs' part."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def check_free(path: Path) -> None:
        """Raise `UsageError` if a run is there already: nothing is overwritten."""
        if (path / RUN).exists():
            raise UsageError(
                f"{path} holds a run already. Go on with it (`convatlas train --resume {path}`) "
                "or choose another --out."
            )

    @staticmethod
    def create(path: Path) -> RunFolder:
        """A new, empty run. Raises `UsageError` as `check_free`."""
        RunFolder.check_free(path)
        make_folder(path)
        return RunFolder(path)

    @staticmethod
    def open(path: str | Path) -> RunFolder:
        """An existing run. Raises `BadCheckpoint` if the folder is none."""
        folder = Path(path)
        if not folder.is_dir():
            raise BadCheckpoint(f"there is no run at {folder}: no such folder.")
        if not (folder / RUN).is_file():
            raise BadCheckpoint(
                f"{folder} is not a run: it has no {RUN}. A run is what `convatlas train` writes."
            )
        return RunFolder(folder)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are committed."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The newest whole folder below best/. Raises `BadCheckpoint` if there is none."""
        folder, damaged = newest(self.path / "best")
        if folder is None:
            reason = f"{len(damaged)} are damaged" if damaged else "no epoch has been validated yet"
            raise BadCheckpoint(f"{self.path} has no usable best weights: {reason}.")
        return folder

    @property
    def metrics_path(self) -> Path:
        """Deterministic log."""
        return self.path / "metrics.jsonl"

    @property
    def timing_path(self) -> Path:
        """Log of seconds."""
        return self.path / "timing.jsonl"

    @property
    def limit_path(self) -> Path:
        """How close the run came to what the machine can do."""
        return self.path / "limit.json"

    @property
    def report_path(self) -> Path:
        """The report."""
        return self.path / "report.html"

    def read_run(self) -> dict[str, Any]:
        """run.json. Raises `BadCheckpoint` if it is damaged or of another format."""
        value = read_json(self.path / RUN)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise BadCheckpoint(f"{self.path / RUN} is not a run of format {FORMAT}.")
        _check(value, FIELDS, self.path / RUN, complete=True)
        _check({name: value[name] for name in LATER if name in value}, LATER, self.path / RUN)
        _check(value.get("start", {}), START, self.path / RUN)
        _check(value.get("processes", {}), PROCESSES, self.path / RUN)
        _check(value["reading"], READING, self.path / RUN)
        _check(value["safety"], SAFETY, self.path / RUN)
        for name, kinds in (("shares", (str,)), ("components", (int, float))):
            rows = value.get(name, [])
            if not all(isinstance(row, list) and all(type(each) in kinds for each in row) for row in rows):
                raise BadCheckpoint(f"{self.path / RUN}: {name} is {rows!r}, which no run writes.")
        return value

    def write_run(self, value: dict[str, Any]) -> None:
        """Write run.json."""
        write_json(self.path / RUN, {"format": FORMAT, **value})

    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl."""
        return _lines(self.metrics_path)

    def timing(self) -> list[dict[str, Any]]:
        """Lines of timing.jsonl."""
        return _lines(self.timing_path)

    def limit(self) -> dict[str, Any] | None:
        """limit.json, or None where nothing is known of it, or it is damaged: nothing depends on it."""
        try:
            return read_json(self.limit_path, max_bytes=2**20) if self.limit_path.exists() else None
        except BadCheckpoint:
            return None

    def write_limit(self, value: dict[str, Any]) -> None:
        """Write limit.json."""
        write_json(self.limit_path, value)

    def forget_limit(self) -> None:
        """Remove limit.json, if it is there."""
        self.limit_path.unlink(missing_ok=True)

    def evaluation(self, split: str) -> dict[str, Any] | None:
        """evaluation/SPLIT.json, or None if that split was not evaluated."""
        path = self.path / "evaluation" / f"{split}.json"
        return read_json(path, max_bytes=2**30) if path.exists() else None

    def write_evaluation(self, split: str, value: dict[str, Any]) -> None:
        """Write evaluation/SPLIT.json."""
        make_folder(self.path / "evaluation")
        write_json(self.path / "evaluation" / f"{split}.json", value)

    def write_samples(self, content: bytes) -> None:
        """Write samples.csv."""
        write_durable(self.path / "samples.csv", content)


def _check(
    value: dict[str, Any], fields: dict[str, tuple[type, ...]], path: Path, *, complete: bool = False
) -> None:
    """Raise `BadCheckpoint` for a field that is missing or holds what no run writes; for an unknown one, if not
    `complete` (a part of run.json whose fields become arguments).
    """
    for name, kinds in fields.items():
        if complete and name not in value:
            raise BadCheckpoint(f"{path} lacks {name!r}.")
        if name in value and type(value[name]) not in kinds:
            raise BadCheckpoint(f"{path}: {name} is {value[name]!r}, which no run writes.")
    unknown = value.keys() - fields.keys()
    if unknown and not complete:
        raise BadCheckpoint(f"{path}: {sorted(unknown)[0]!r} is not known.")


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a log; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    try:
        text = read_untrusted(path, max_bytes=2**30)
    except DataError as error:
        raise BadCheckpoint(str(error)) from error
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise BadCheckpoint(f"{path}, line {number}, is not JSON.") from error
        if not isinstance(record, dict):
            raise BadCheckpoint(f"{path}, line {number}, is not a record.")
        lines.append(record)
    return lines
