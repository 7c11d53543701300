"""safetensors files: equal bytes for equal content, and what is not whole is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from convatlas.errors import BadCheckpoint
from convatlas.weights import read_weights, save_weights

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
SAVE = """
import hashlib, torch
from convatlas.weights import save_weights
tensors = {f"t{i}": torch.arange(i + 1.0) for i in range(20)}
print(hashlib.sha256(save_weights(tensors, {f"key {i}": "value" for i in range(20)})).hexdigest())
"""


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=5),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 100),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    state = {f"layer.{i}": torch.randint(0, 2, shape).to(dtype) for i, shape in enumerate(shapes)}
    file = tmp_path_factory.getbasetemp() / "w.safetensors"
    file.write_bytes(save_weights(state))
    read = read_weights(file)
    assert set(read) == set(state)
    for name, tensor in state.items():
        assert read[name].dtype == dtype
        assert torch.equal(read[name], tensor)


def test_bytes_are_equal_in_every_process() -> None:
    digests = {
        subprocess.run([sys.executable, "-c", SAVE], capture_output=True, check=True, text=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1


def test_metadata_are_read_by_the_library(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(save_weights({"a": torch.ones(2)}, {"network": "lenet5", "epoch": "3"}))
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"network": "lenet5", "epoch": "3"}
        assert opened.get_tensor("a").tolist() == [1, 1]


def test_layout_and_sharing_do_not_reach_the_file(tmp_path: Path) -> None:
    """Views, tied weights, channels-last and parameters with gradients are written as plain numbers."""
    weight = torch.nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    base = torch.arange(10.0)
    file = tmp_path / "w.safetensors"
    state = {
        "weight": weight,
        "tied": weight,
        "part": base[2:5],
        "every": base[::2],
        "wide": base[:1].expand(3),
    }
    file.write_bytes(save_weights(state))
    read = read_weights(file)
    for name, tensor in state.items():
        assert torch.equal(read[name], tensor.detach())
        assert read[name].is_contiguous()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        b"\0" * 8,
        (2**63).to_bytes(8, "little") + b"{}",
        (100).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}more",
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": 1}\n',
    ],
)
def test_what_is_not_whole(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    with pytest.raises(BadCheckpoint, match="is not a whole safetensors file"):
        read_weights(file)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2]},
    ],
)
def test_a_table_of_contents_that_lies(entry: dict[str, object], tmp_path: Path) -> None:
    header = json.dumps({"a": entry}).encode()
    file = tmp_path / "w.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(BadCheckpoint, match="is not a whole safetensors file"):
        read_weights(file)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="does not exist"):
        read_weights(tmp_path / "none.safetensors")
    with pytest.raises(BadCheckpoint, match="a folder"):
        read_weights(tmp_path)


def test_a_limit_of_bytes(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(save_weights({"a": torch.zeros(1000)}))
    with pytest.raises(BadCheckpoint, match="at most 1,000"):
        read_weights(file, max_bytes=1000)
