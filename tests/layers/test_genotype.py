"""Cells as data: which tables are cells."""

from __future__ import annotations

import pytest

from convatlas.errors import UsageError
from convatlas.layers.genotype import Branch, Genotype

STEP: tuple[Branch, Branch] = (("sep3", 0), ("same", 1))


def test_operations_are_each_named_once() -> None:
    cell = Genotype(steps=(STEP, (("sep3", 2), ("max3", 0))), concat=(3,))
    assert cell.operations == ("max3", "same", "sep3")


@pytest.mark.parametrize(
    ("steps", "concat", "says"),
    [
        (((("sep3", 2), ("same", 0)),), (2,), "step 2 reads map 2"),
        (((("sep3", 0), ("same", -1)),), (2,), "step 2 reads map -1"),
        ((STEP,), (), r"joins the maps \(\)"),
        ((STEP,), (2, 3), "there are 0 to 2"),
        ((STEP, STEP), (3,), r"nothing takes the maps \[2\]"),
    ],
)
def test_tables_that_are_no_cell(
    steps: tuple[tuple[Branch, Branch], ...], concat: tuple[int, ...], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        Genotype(steps, concat)
