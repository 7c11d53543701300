"""Checkpoints of others: converted by another process, within its limits."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from convatlas.errors import BadCheckpoint
from convatlas.models import create_model
from convatlas.weights import load_weights, read_foreign

STATE = OrderedDict(
    weight=torch.arange(6.0).view(2, 3), bias=torch.tensor([1.5, -2.5]), steps=torch.tensor(7)
)


def equal(found: dict[str, torch.Tensor]) -> bool:
    return set(found) == set(STATE) and all(
        torch.equal(found[name], tensor) for name, tensor in STATE.items()
    )


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_usual_forms(wrapper: str | None, zipped: bool, tmp_path: Path) -> None:
    content = (
        STATE if wrapper is None else {wrapper: {f"module.{k}": v for k, v in STATE.items()}, "epoch": 3}
    )
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert equal(read_foreign(tmp_path / "w.pt"))


def test_load_weights_takes_it(tmp_path: Path) -> None:
    source, target = create_model("lenet5"), create_model("lenet5")
    torch.save(source.state_dict(), tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert all(map(torch.equal, source.state_dict().values(), target.state_dict().values()))


def test_views_and_tied_weights(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    torch.save({"t": base.T, "tied": base, "row": base[1], "wide": base[:1].expand(5, 4)}, tmp_path / "w.pt")
    read = read_foreign(tmp_path / "w.pt")
    assert torch.equal(read["t"], base.T)
    assert torch.equal(read["tied"], base)
    assert torch.equal(read["row"], base[1])
    assert torch.equal(read["wide"], base[:1].expand(5, 4))


def test_whole_modules_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(BadCheckpoint, match=r"asks for torch\.nn\.modules\.linear\.Linear.*state_dict alone"):
        read_foreign(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "content",
    [{}, [1, 2], {"epoch": 3}, {1: torch.ones(2)}, torch.ones(3), {"a": torch.eye(3).to_sparse()}],
    ids=["empty", "list", "no tensors", "numbers for names", "one tensor", "sparse"],
)
def test_other_content_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(BadCheckpoint, match="not a checkpoint that can be read safely"):
        read_foreign(tmp_path / "w.pt")


def test_a_tensor_that_claims_a_terabyte_breaks_the_memory_limit(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(2**38)}, tmp_path / "w.pt")
    assert (tmp_path / "w.pt").stat().st_size < 10_000
    with pytest.raises(BadCheckpoint, match="asks for more memory than"):
        read_foreign(tmp_path / "w.pt")


def test_compressed_zeros_break_the_memory_limit(tmp_path: Path) -> None:
    """A half gigabyte of zeros in half a megabyte: legal as a zip, more than twice the file and 200 MB."""
    torch.save({"a": torch.zeros(2**17)}, tmp_path / "small.pt")
    claimed = 2**29
    with (
        zipfile.ZipFile(tmp_path / "small.pt") as small,
        zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in small.namelist():
            content = small.read(name)
            if name.endswith("data.pkl"):
                content = content.replace((2**17).to_bytes(4, "little"), (claimed // 4).to_bytes(4, "little"))
            if name.endswith("data/0"):
                with bomb.open(name, "w") as record:
                    for _ in range(claimed // 2**20):
                        record.write(bytes(2**20))
            else:
                bomb.writestr(name, content)
    assert (tmp_path / "w.pt").stat().st_size < 2**20
    with pytest.raises(BadCheckpoint, match="asks for more memory than"):
        read_foreign(tmp_path / "w.pt")


def test_a_deadline(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pt")
    with pytest.raises(BadCheckpoint, match="was not read within"):
        read_foreign(tmp_path / "w.pt", seconds=0.01)


def test_pipes_and_absent_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pt")
    with pytest.raises(BadCheckpoint, match="a pipe"):
        read_foreign(tmp_path / "w.pt")
    with pytest.raises(BadCheckpoint, match="does not exist"):
        read_foreign(tmp_path / "none.pt")


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    torch.save(STATE, tmp_path / "w.pt")
    before = os.getcwd()
    assert equal(read_foreign(tmp_path / "w.pt"))
    assert list(scratch.iterdir()) == []
    assert os.getcwd() == before
