"""The block diagrams: current, whole, and without overlapping boxes."""

from __future__ import annotations

import importlib.util
import re
import sys
from itertools import combinations
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def diagrams() -> ModuleType:
    spec = importlib.util.spec_from_file_location("diagrams", DOCS / "diagrams.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["diagrams"] = importlib.util.module_from_spec(
        spec
    )  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_drawings_are_current(diagrams: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert diagrams.main(["--check"]) == 0, capsys.readouterr().out


class Residual(nn.Module):
    """A block with a side path, a gate and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.gate, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return torch.cat([self.last(y * self.gate(y).sigmoid()) + x, x], dim=1)


def test_boxes_and_their_ways_are_those_of_the_forward_pass(diagrams: ModuleType) -> None:
    with torch.device("meta"):
        nodes = diagrams.graph(Residual(), (torch.empty(1, 4, 8, 8),))
    words = [" / ".join(node.lines) for node in nodes]
    ways = {words[i]: sorted(words[j] for j in node.inputs) for i, node in enumerate(nodes)}
    first = "conv 3x3, 4 / BN · ReLU"
    assert ways[first] == ["input 4 × 8 × 8"]
    assert ways["×"] == sorted([first, "conv 1x1, 4 / sigmoid"])
    assert ways["concat"] == ["+", "input 4 × 8 × 8"]
    assert ways["output 8 × 8 × 8"] == ["concat"]


@pytest.mark.parametrize(
    "file", sorted((DOCS / "families" / "diagrams").glob("*.svg")), ids=lambda file: file.stem
)
def test_nothing_overlaps_and_words_fit_their_boxes(file: Path) -> None:
    root = ElementTree.fromstring(file.read_text())
    space = "{http://www.w3.org/2000/svg}"
    width = float(root.attrib["width"])
    assert width <= 800, "shrunk to the page's 700 pixels, the words can still be read"
    boxes = [
        (float(r.attrib["x"]), float(r.attrib["y"]), float(r.attrib["width"]), float(r.attrib["height"]))
        for r in root.iter(f"{space}rect")
        if "x" in r.attrib
    ]
    for (x, y, w, h), (a, b, c, d) in combinations(boxes, 2):
        assert x + w <= a + 0.2 or a + c <= x + 0.2 or y + h <= b + 0.2 or b + d <= y + 0.2, (
            file.stem,
            x,
            y,
            a,
            b,
        )
    lines: dict[tuple[int, int], float] = {}
    for text in root.iter(f"{space}text"):
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        home = [i for i, (a, b, c, d) in enumerate(boxes) if a <= x <= a + c and b <= y <= b + d]
        if not home:
            continue
        room = lines.setdefault((home[0], round(y)), boxes[home[0]][2])
        lines[home[0], round(y)] = room - len(text.text or "") * float(text.attrib["font-size"]) * 0.56
    assert min(lines.values(), default=0) >= 0, file.stem


def test_a_stale_drawing_is_seen(
    diagrams: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "lenet.md"
    page.write_text("Text.\n\n<!-- diagram: lenet -->\n\nMore.\n")
    monkeypatch.setattr(diagrams, "PAGES", tmp_path)
    assert diagrams.main(["--check"]) == 1
    assert diagrams.main([]) == 0
    assert re.search(r"<!-- diagram: lenet -->\n!\[[^\]]+\]\(diagrams/lenet.svg\)\n\nMore", page.read_text())
    assert diagrams.main(["--check"]) == 0
    drawing = tmp_path / "diagrams" / "lenet.svg"
    drawing.write_text(drawing.read_text().replace("linear 84", "linear 85"))
    assert diagrams.main(["--check"]) == 1
