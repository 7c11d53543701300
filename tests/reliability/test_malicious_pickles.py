"""R13: a file that would run a program runs none, whoever is asked to load it, and nothing here unpickles."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from gadgets import Gadget, gadgets

from convatlas.errors import BadCheckpoint
from convatlas.models import create_model
from convatlas.weights import load_weights, read_foreign, read_weights

pytestmark = pytest.mark.reliability
KINDS = [gadget.name for gadget in gadgets(Path)]


def canary(folder: Path, name: str) -> Path:
    return folder / ("canary-" + "".join(c if c.isalnum() else "-" for c in name)[:40])


def written(folder: Path) -> list[tuple[Gadget, Path]]:
    """Every gadget as a file in `folder`, beside which its canary would appear."""
    files: list[tuple[Gadget, Path]] = []
    for i, gadget in enumerate(gadgets(lambda name: canary(folder, name))):
        file = folder / f"{i}{gadget.suffix}"
        file.write_bytes(gadget.content)
        files.append((gadget, file))
    return files


def trap(*arguments: Any, **settings: Any) -> NoReturn:
    raise AssertionError("a file was unpickled in the main process")


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What every reader of the project answered to every gadget, and which canaries were touched."""
    folder = tmp_path_factory.mktemp("gadgets")
    answers: dict[str, str] = {}

    def load(pair: tuple[Gadget, Path]) -> tuple[str, str]:
        gadget, file = pair
        readers = [read_weights, lambda path: load_weights(create_model("lenet5"), path)]
        if file.suffix not in (".pt", ".pkl", ".tar", ".bin"):  # those go there from load_weights
            readers.append(read_foreign)
        said: list[str] = []
        for reader in readers:
            try:
                reader(file)
                said.append("LOADED")
            except BadCheckpoint as error:
                said.append(str(error))
        return gadget.name, " | ".join(said)

    with pytest.MonkeyPatch.context() as patch:
        for module, function in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
            patch.setattr(module, function, trap)
        with ThreadPoolExecutor(2) as pool:
            answers.update(pool.map(load, written(folder)))
    for name in answers:
        if canary(folder, name).exists():
            answers[name] += " CANARY TOUCHED"
    strays = [path.name for path in folder.iterdir() if "canary" in path.name]
    assert strays == []
    return answers


def test_there_are_forty() -> None:
    assert len(KINDS) == len(set(KINDS)) >= 40


@pytest.mark.parametrize("kind", KINDS)
def test_refused_without_running(kind: str, refusals: dict[str, str]) -> None:
    assert "CANARY" not in refusals[kind]
    assert "LOADED" not in refusals[kind]
    assert "weights_only" not in refusals[kind]  # PyTorch's own message would advise it


CARELESS = """
import contextlib, io, json, pickle, sys, time, warnings
import numpy, torch
warnings.simplefilter("ignore")
for reader, file in json.loads(sys.argv[1]):
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        if reader == "pickle":
            with open(file, "rb") as opened:
                pickle.load(opened)
        elif reader == "torch":
            torch.load(file, weights_only=False)
        else:
            numpy.lib.format.read_array(open(file, "rb"), allow_pickle=True)
time.sleep(0.5)  # for the programs that were started and not waited for
"""


def test_the_gadgets_work_on_a_careless_reader(tmp_path: Path) -> None:
    """Otherwise an untouched canary would say nothing."""
    files = written(tmp_path)
    jobs = [(gadget.fires, str(file)) for gadget, file in files if gadget.fires]
    subprocess.run(
        [sys.executable, "-c", CARELESS, json.dumps(jobs)], check=True, capture_output=True, timeout=120
    )
    working = {gadget.name for gadget, _ in files if canary(tmp_path, gadget.name).exists()}
    assert {gadget.name for gadget, _ in files if gadget.fires} == working
    assert len(working) >= 30


def test_honest_checkpoints_pass_the_trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = create_model("lenet5"), create_model("lenet5")
    torch.save(source.state_dict(), tmp_path / "w.pt")
    for module, function in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, function, trap)
    load_weights(target, tmp_path / "w.pt")
    assert all(map(torch.equal, source.state_dict().values(), target.state_dict().values()))
