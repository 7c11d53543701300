"""The command that does a run again, also one that Python began: it stands in run.json and in the report."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convatlas.data import Data
from convatlas.errors import UsageError
from convatlas.train.compute import Compute
from convatlas.train.plan import to_read
from convatlas.train.recipe import Recipe
from convatlas.train.run import RunFolder
from convatlas.train.safety import Safety


def command_for(
    data: Data,
    model: str | None,
    recipe: str | Recipe,
    settings: Mapping[str, Any] | None,
    seed: int,
    weights: str | None,
    options: Mapping[str, Any] | None,
    safety: Safety,
    reading: Mapping[str, Any],
    find_rate: bool,
    compute: Compute,
    like: str | os.PathLike[str] | None,
) -> list[str]:
    """The words of the command with these arguments of `begin`. A folder for the run is not named."""
    fields = dict(settings or {})
    if isinstance(recipe, Recipe):
        fields = recipe.to_json() | fields
        del fields["name"], fields["source"]
    words = ["convatlas", "train", str(data.where)]
    words += ["--model", model] if model else []
    words += ["--recipe", recipe] if isinstance(recipe, str) else []
    for option, chosen in (("--set", fields), ("--option", options or {})):
        for field, value in chosen.items():
            words += [option, f"{field}={value if isinstance(value, str) else json.dumps(value)}"]
    words += ["--seed", str(seed)]
    said = {name: value for name, value in reading.items() if name != "apart"}  # follows from the machines
    given = {**said, "cache": compute.cache, "on_nan": safety.on_nan, "weights": weights}
    usual = {"on_bad": "error", "on_nan": "stop", **to_read(recipe, settings, {})}
    for option, value in given.items():
        if value is not None and value != usual.get(option):
            words += [f"--{option.replace('_', '-')}", str(value)]
    words += ["--precision", compute.precision] if compute.precision != "auto" else []
    words += ["--from-run", str(like)] if like is not None else []
    flags = {"--find-lr": find_rate, "--checkpoint-activations": compute.checkpoint_activations}
    return words + [flag for flag, given in flags.items() if given]


def check_same_command(out: Path, command: list[str]) -> None:
    """Raise `UsageError` if the run at `out` was begun by another command."""
    decided = RunFolder.open(out).read_run()
    begun = decided.get("asked") or decided["command"]
    if begun != command:
        raise UsageError(
            f"{out} holds a run that another command has begun: {shlex.join(map(str, begun))}. Choose another --out, "
            f"or go on with that one: convatlas train --resume {out}"
        )
