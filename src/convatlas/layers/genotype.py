"""Cells as data: what a search finds is a table, and a network is built from the table (Zoph et al., 2017, section 3).

A cell has two inputs, 0, the output of the cell before the last, and 1, that of the last cell. Each step takes two
earlier maps, applies an operation to each, and adds the results; the sums are numbered 2, 3, ... The cell's output is
the concatenation of some of the maps.
"""

from __future__ import annotations

from dataclasses import dataclass

from convatlas.errors import UsageError

Branch = tuple[str, int]  # an operation's name, and the number of the map that it reads


@dataclass(frozen=True, slots=True)
class Genotype:
    """A cell: its steps, each two branches, and the numbers of the maps that are concatenated.

    Raises:
        UsageError: for a branch that reads a later step, or a step that is neither read nor concatenated.

    Examples:
        >>> Genotype(steps=((("sep3", 1), ("same", 0)),), concat=(0, 2)).operations
        ('same', 'sep3')
    """

    steps: tuple[tuple[Branch, Branch], ...]
    concat: tuple[int, ...]

    def __post_init__(self) -> None:
        read: set[int] = set()
        for i, step in enumerate(self.steps, start=2):
            for operation, source in step:
                if not 0 <= source < i:
                    raise UsageError(
                        f"step {i} reads map {source} ({operation!r}); it can read 0 to {i - 1}."
                    )
                read.add(source)
        maps = range(2, 2 + len(self.steps))
        if not self.concat or not all(0 <= source < maps.stop for source in self.concat):
            raise UsageError(f"the output joins the maps {self.concat}; there are 0 to {maps.stop - 1}.")
        lost = [i for i in maps if i not in read and i not in self.concat]
        if lost:
            raise UsageError(f"nothing takes the maps {lost}; add them to the output.")

    @property
    def operations(self) -> tuple[str, ...]:
        """The names of all operations, each once."""
        return tuple(sorted({operation for step in self.steps for operation, _ in step}))
