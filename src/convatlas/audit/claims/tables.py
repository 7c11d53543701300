"""Tables that the lectures print row by row: VGG-16's ledger, GoogLeNet's table, and what their figures are made of."""

from __future__ import annotations

from convatlas.audit.claims.quantities import Count, counted
from convatlas.audit.claims.rules import Computed, Rule
from convatlas.audit.lectures import entries
from convatlas.measure import Row
from convatlas.models.printed import value as number_of

# --- VGG-16: activations and weights without biases, row by row ------------------------------------------------


def ledger() -> list[Row]:
    """The rows of VGG-16 that keep numbers: the image, 13 convolutions, 5 poolings, 3 linear layers."""
    return [row for row in counted("vgg16").measurement.rows if row.activations]


def ledger_row(number: int) -> Count:
    """[numbers kept, weights without biases] of one row."""

    def count() -> list[int]:
        row = ledger()[number]
        return [row.activations, counted("vgg16").weights_of(row.name) if row.params else 0]

    return count


def weights_without_biases() -> int:
    """Weights of all rows of VGG-16."""
    return sum(counted("vgg16").weights_of(row.name) for row in ledger() if row.params)


# --- GoogLeNet: shape, parameters and multiply-adds, row by row -------------------------------------------------

K = 1024  # the table's unit of parameters: 112K are 114,688, and 1000K 1,024,000
ROWS = (
    "conv1",
    "conv2",
    *(f"inception{name}" for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")),
)
ROUGH = "K is 1,024; most rows of the table are 1 or 2 % off their own channels"
INCONSISTENT = {"conv1": 2, "inception4c": 3, "inception5a": 3}  # the entry's errors


def googlenet_row(path: str) -> Count:
    """["28x28x256", weights in K written as thousands, multiply-adds] of one row."""

    def count() -> list[object]:
        of = counted("googlenet_paper")
        channels, *sides = of.shapes[path] if len(of.shapes[path]) == 3 else (*of.shapes[path], 1, 1)
        return [f"{sides[0]}x{sides[1]}x{channels}", of.weights_of(path) / K * 1000, of.macs_of(path)]

    return count


def sum_of_the_printed_rows() -> int:
    """Parameters that the table's own rows add up to."""
    rows = [claim.value for claim in entries()["googlenet"].claims if claim.what.startswith("row ")]
    return sum(int(number_of(row[1])) for row in rows)


def widths(name: str) -> Count:
    """Channels of a module's six convolutions in the order of the table's columns."""

    def count() -> list[int]:
        from convatlas.models.googlenet import TABLE_1

        return list(TABLE_1[name])

    return count


RULES: dict[str, Rule] = {
    **{
        f"vgg16-memory-ledger {number + 1}": Computed(
            ledger_row(number), within=(0.004, 0), why="thousands cut or rounded"
        )
        for number in range(22)
    },
    "vgg16-memory-ledger 23": Computed(lambda: counted("vgg16").measurement.activations, slip=1),
    "vgg16-memory-ledger 25": Computed(weights_without_biases, digits=3),
    "googlenet 7": Computed(sum_of_the_printed_rows, why="the sum of the printed rows, K being 1,000"),
    **{
        f"googlenet {number}": Computed(
            googlenet_row(f"features.{name}"), within=0.02, slip=INCONSISTENT.get(name, 0), why=ROUGH
        )
        for number, name in enumerate(ROWS, start=11)
    },
    "googlenet 22": Computed(googlenet_row("head.fc"), within=0.03, why=ROUGH),
    **{
        f"googlenet {number}": Computed(widths(name))
        for number, name in enumerate(("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"), start=23)
    },
}

CORRECTIONS: dict[str, list[tuple[str, object]]] = {
    "vgg16-memory-ledger error 1": [
        ("15.24 M", lambda: counted("vgg16").measurement.activations),
        ("61", lambda: counted("vgg16").measurement.activation_bytes / 1e6),
        ("58", lambda: counted("vgg16").measurement.activation_bytes / 2**20),
    ],
}
