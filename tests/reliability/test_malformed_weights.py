"""R12: whatever a weights file contains, it is loaded or refused with `BadCheckpoint`, in bounded memory.

2,000 files at a landing, made by changing a good one: bytes, lengths, the table of contents, values, network.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convatlas.errors import BadCheckpoint
from convatlas.models import create_model
from convatlas.weights import load_weights, read_weights, save_weights

pytestmark = pytest.mark.reliability
MIB = 2**20

torch.manual_seed(0)
GOOD = save_weights(create_model("lenet5").state_dict())
HEADER_BYTES = int.from_bytes(GOOD[:8], "little")
HEADER: dict[str, Any] = json.loads(GOOD[8 : 8 + HEADER_BYTES])
NAMES = sorted(name for name in HEADER if name != "__metadata__")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
numbers = st.sampled_from([0, 1, -1, 4, 2**31, 2**32, 2**63, 2**64, len(GOOD)]) | st.integers(-(2**65), 2**65)
dtypes = st.sampled_from(
    ["F64", "F16", "BF16", "I64", "I8", "BOOL", "U8", "F8_E4M3", "F4", "C64", "f32", "", "F32 "]
)
shapes = st.lists(numbers, max_size=5)


@st.composite
def changed_bytes(draw: st.DrawFn) -> bytes:
    """Cut short, made longer, or a few bytes changed anywhere, most often in the table of contents."""
    content = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 4))):
        end = draw(st.sampled_from([8, 8 + HEADER_BYTES, len(content)]))
        content[draw(st.integers(0, max(0, min(end, len(content)) - 1)))] = draw(st.integers(0, 255))
    cut = draw(st.none() | st.integers(1, len(content)))
    return bytes(content[:cut]) + draw(st.binary(max_size=9))


@st.composite
def changed_length(draw: st.DrawFn) -> bytes:
    """Another length of the table of contents."""
    return draw(numbers.filter(lambda n: 0 <= n < 2**64)).to_bytes(8, "little") + GOOD[8:]


@st.composite
def changed_header(draw: st.DrawFn) -> bytes:
    """A table of contents with other types, shapes, offsets, names, repeated or nested entries."""
    header = copy.deepcopy(HEADER)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(NAMES))
        entry = header.get(name)
        field = draw(
            st.sampled_from(["dtype", "shape", "data_offsets", "entry", "drop", "add", "metadata", "swap"])
        )
        if field == "entry" or not isinstance(entry, dict):
            header[name] = draw(json_values)
        elif field == "drop":
            entry.pop(draw(st.sampled_from(["dtype", "shape", "data_offsets"])), None)
        elif field == "add":
            header[draw(st.text(max_size=5) | st.just(name + ".more"))] = copy.deepcopy(entry)
        elif field == "metadata":
            header["__metadata__"] = draw(json_values)
        elif field == "swap":
            header[name], header[NAMES[0]] = header.get(NAMES[0]), entry
        else:
            value = {"dtype": dtypes, "shape": shapes, "data_offsets": st.lists(numbers, max_size=3)}[field]
            entry[field] = draw(value | json_values)
    text = json.dumps(header).encode()
    if draw(st.booleans()):  # the same name twice
        text = text[:-1] + b"," + text[1:]
    return len(text).to_bytes(8, "little") + text + GOOD[8 + HEADER_BYTES :]


@st.composite
def changed_values(draw: st.DrawFn) -> bytes:
    """A whole, well-formed file: other numbers, shapes, names, classes or another network."""
    network = create_model(
        "lenet5", num_classes=draw(st.integers(1, 12)), in_channels=draw(st.integers(1, 3))
    )
    state = dict(network.state_dict() if draw(st.booleans()) else create_model("lenet5_1998").state_dict())
    name = draw(st.sampled_from(sorted(state)))
    change = draw(st.sampled_from(["number", "shape", "name", "dtype", "drop", "nothing"]))
    if change == "number":
        state[name] = state[name].clone()
        state[name].view(-1)[0] = draw(
            st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e38, 0.0])
        )
    elif change == "shape":
        state[name] = torch.zeros(draw(st.lists(st.integers(0, 6), max_size=4)))
    elif change == "name":
        state[draw(st.text(max_size=10))] = state.pop(name)
    elif change == "dtype":
        state[name] = state[name].to(
            draw(st.sampled_from([torch.int64, torch.float64, torch.bool, torch.bfloat16]))
        )
    elif change == "drop":
        del state[name]
    return save_weights(state)


@pytest.mark.parametrize(
    ("files", "share"),
    [(changed_bytes(), 0.3), (changed_length(), 0.05), (changed_header(), 0.5), (changed_values(), 0.15)],
    ids=["bytes", "length", "header", "values"],
)
def test_loaded_or_refused(
    files: st.SearchStrategy[bytes], share: float, cases: Callable[[int, int], int], tmp_path: Path
) -> None:
    """Nothing but `BadCheckpoint` comes out; what was loaded is finite and fits, what was refused changed nothing."""
    target, file = create_model("lenet5"), tmp_path / "w.safetensors"
    outcomes: Counter[str] = Counter()

    @hypothesis.settings(
        max_examples=round(cases(2_000, 100_000) * share), suppress_health_check=list(hypothesis.HealthCheck)
    )
    @given(files)
    def run(content: bytes) -> None:
        file.write_bytes(content)
        before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
        refusal = ""
        try:
            load_weights(target, file)
        except BadCheckpoint as error:
            refusal = str(error)
        outcomes["refused" if refusal else "loaded"] += 1
        after = target.state_dict()
        if refusal:
            assert refusal.isprintable()
            assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
        else:
            assert all(torch.isfinite(tensor).all() for tensor in after.values())

    run()
    assert outcomes["refused"] > 0
    assert outcomes.total() >= round(2_000 * share) * 0.9, (
        outcomes
    )  # hypothesis stops where all has been tried


MEMORY = """
import resource, sys
import torch
from convatlas.errors import BadCheckpoint
from convatlas.weights import read_weights
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, outcome = peak(), "read"
try:
    tensors = read_weights(sys.argv[1])
except BadCheckpoint:
    outcome = "refused"
print(outcome, peak() - before)
"""


def entry(shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def with_header(text: bytes, size: int, claimed: int | None = None) -> bytes:
    """A file of `size` bytes."""
    return (
        (len(text) if claimed is None else claimed).to_bytes(8, "little") + text + bytes(size - 8 - len(text))
    )


def greedy_files() -> dict[str, bytes]:
    size = 64 * MIB
    many = {f"n{i}": entry([0], 0, 0) for i in range(200_000)}
    whole = json.dumps({"a": entry([(size - 256) // 4], 0, size - 256)}).encode().ljust(248)
    return {
        "whole": with_header(whole, size),
        "cut": with_header(whole, size)[: size // 2],
        "claims a petabyte": with_header(json.dumps({"a": entry([2**48], 0, 2**50)}).encode(), MIB),
        "claims a header of 100 MB": with_header(b"{", MIB, claimed=100 * MIB),
        "header of 60 MB": with_header(b" " * (60 * MIB) + b"{}", size),
        "names without data": with_header(json.dumps(many).encode(), 16 * MIB),
        "deep": with_header(b"[" * (8 * MIB), 16 * MIB),
        "long name": with_header(json.dumps({"n" * (15 * MIB): entry([0], 0, 0)}).encode(), 16 * MIB),
    }


@pytest.mark.parametrize("kind", list(greedy_files()))
def test_memory_is_bounded(kind: str, tmp_path: Path) -> None:
    """A process that reads the file grows by at most twice its size and 200 MB."""
    file = tmp_path / "w.safetensors"
    file.write_bytes(greedy_files()[kind])
    command = [sys.executable, "-c", MEMORY, str(file)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.split()
    assert answer[0] == ("read" if kind == "whole" else "refused")
    assert int(answer[1]) <= 2 * file.stat().st_size + 200 * MIB


def test_the_good_file_is_good(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(GOOD)
    assert sorted(read_weights(tmp_path / "w.safetensors")) == NAMES
