"""A run is loaded whole or refused, with the file and the reason."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convatlas.data import Data
from convatlas.errors import BadCheckpoint
from convatlas.files import newest
from convatlas.infer import Run, SavedSpec
from convatlas.models import create_model
from convatlas.weights import read_weights, save_weights


def best(run: Path) -> Path:
    folder, _ = newest(run / "best")
    assert folder is not None
    return folder


def rewrite(run: Path, name: str, content: bytes) -> None:
    """Replace a file of best/ and its hash in the manifest: damage that no hash gives away."""
    folder = best(run)
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def respec(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    spec = json.loads((best(run) / "spec.json").read_text())
    change(spec)
    rewrite(run, "spec.json", json.dumps(spec).encode())


def test_loads_the_weights_that_were_saved(trained: Path, run: Run) -> None:
    weights = read_weights(best(trained) / "model.safetensors")
    state = run.model.state_dict()
    assert set(state) == set(weights)
    assert all(torch.equal(state[name], weights[name]) for name in weights)
    assert all(not tensor.is_meta for tensor in (*run.model.parameters(), *run.model.buffers()))
    assert all(parameter.requires_grad for parameter in run.model.parameters())
    assert (run.spec.model, run.classes, run.preprocessing.size) == ("lenet5", tuple("0123456789"), (32, 32))


def test_loading_leaves_the_random_state(trained: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Run.load(trained)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_with_computed_buffers(copied: Path, digits: Data) -> None:
    """LeNet-5 of 1998 has a buffer (which kernels exist) that no file holds: it is made, not left without content."""
    model = create_model("lenet5_1998").eval()
    respec(copied, lambda spec: spec.update(model="lenet5_1998"))
    rewrite(copied, "model.safetensors", save_weights(model.state_dict()))
    run = Run.load(copied)
    assert not any(buffer.is_meta for buffer in run.model.buffers())
    images = run.preprocessing.normalise(torch.stack([run.preprocessing.fit(digits.test.image(0))]))
    assert torch.equal(run.model(images), model(images))


def test_no_run_and_half_a_run(tmp_path: Path, copied: Path) -> None:
    with pytest.raises(BadCheckpoint, match="no such folder"):
        Run.load(tmp_path / "nowhere")
    with pytest.raises(BadCheckpoint, match=r"no run\.json"):
        Run.load(tmp_path)
    for part in ("model.safetensors", "spec.json", "manifest.json"):
        damaged = Path(shutil.copytree(copied, tmp_path / part))
        for folder in (damaged / "best").iterdir():  # the last two are kept, and either would do
            (folder / part).write_bytes((folder / part).read_bytes()[:-9])
        with pytest.raises(BadCheckpoint, match="no usable best weights"):
            Run.load(damaged)


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "format": lambda spec: spec.update(format=7),
    "format true": lambda spec: spec.update(format=True),
    "task": lambda spec: spec.update(task="divination"),
    "task type": lambda spec: spec.update(task=["classification"]),
    "model": lambda spec: spec.update(model="lenet6"),
    "other model": lambda spec: spec.update(model="resnet20_cifar"),
    "no classes": lambda spec: spec.update(classes=[]),
    "classes twice": lambda spec: spec.update(classes=["0"] * 10),
    "class type": lambda spec: spec["classes"].__setitem__(3, 3),
    "too few classes": lambda spec: spec["classes"].pop(),
    "more classes everywhere": lambda spec: (
        spec["classes"].append("x"),
        spec["options"].update(num_classes=11),
    ),
    "num_classes": lambda spec: spec["options"].update(num_classes=10.0),
    "huge": lambda spec: spec["options"].update(num_classes=10**12),
    "channels": lambda spec: spec["options"].update(in_channels=3),
    "unknown option": lambda spec: spec["options"].update(wings=2),
    "option list": lambda spec: spec["options"].update(dropout=[0.1] * 10_000),
    "option object": lambda spec: spec["options"].update(dropout={"a": 1}),
    "option type": lambda spec: spec["options"].update(dropout="much"),
    "option nothing": lambda spec: spec.update(options=None),
    "preprocessing": lambda spec: spec["preprocessing"].update(size=[0, 0]),
    "preprocessing missing": lambda spec: spec.pop("preprocessing"),
    "epoch": lambda spec: spec.update(epoch=-1),
    "score": lambda spec: spec.update(score="good"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_spec_that_makes_no_sense(copied: Path, name: str) -> None:
    respec(copied, WRONG[name])
    with pytest.raises(BadCheckpoint, match=r"spec\.json|model\.safetensors"):
        Run.load(copied)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"format": NaN}', b'{"a":1,"a":2}', b"[" * 100_000]
)
def test_a_spec_that_is_no_spec(copied: Path, content: bytes) -> None:
    rewrite(copied, "spec.json", content)
    with pytest.raises(BadCheckpoint, match=r"spec\.json"):
        Run.load(copied)


def test_weights_that_do_not_fit(copied: Path) -> None:
    good = read_weights(best(copied) / "model.safetensors")
    first = next(iter(good))
    bad: dict[str, dict[str, torch.Tensor]] = {
        "missing": {name: tensor for name, tensor in good.items() if name != first},
        "unknown": {**good, "extra.weight": torch.zeros(1)},
        "torch.float32 ": {**good, first: good[first][:1].clone()},
        "torch.float64": {**good, first: good[first].double()},
        "not finite": {**good, first: torch.full_like(good[first], float("nan"))},
    }
    for match, weights in bad.items():
        rewrite(copied, "model.safetensors", save_weights(weights))
        with pytest.raises(BadCheckpoint, match=match):
            Run.load(copied)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("touched").touch, ())


def test_nothing_is_unpickled(copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    rewrite(copied, "model.safetensors", pickle.dumps({"weight": Trap()}))
    with pytest.raises(BadCheckpoint):
        Run.load(copied)
    assert not (tmp_path / "touched").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def good_spec(trained: Path) -> dict[str, Any]:
    return json.loads((best(trained) / "spec.json").read_text())


@pytest.mark.reliability
@settings(max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_value_anywhere_is_read_or_refused(good_spec: dict[str, Any], data: st.DataObject) -> None:
    spec = json.loads(json.dumps(good_spec))
    place = data.draw(st.sampled_from([spec, spec["options"], spec["preprocessing"]]))
    place[data.draw(st.sampled_from([*place, "new"]))] = data.draw(JSON)
    try:
        read = SavedSpec.from_json(spec)
    except BadCheckpoint:
        return
    assert len(read.classes) == read.options["num_classes"]
    assert read.preprocessing.channels == read.options["in_channels"]
