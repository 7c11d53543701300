"""What cannot be measured is said with the true reason; what was borrowed is given back."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.measure import measure
from convatlas.measure.depth import weight_layers
from convatlas.measure.lint import lint
from convatlas.measure.memory import predict
from convatlas.measure.refusals import refusals


class After(nn.Conv2d):
    """A convolution, and what a function of image and features makes of it."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(3, 4, 3)
        self.function = function
        self.constant = torch.tensor([1, 2, 3])

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, super().forward(x))


class Scaled(nn.Conv2d):
    def forward(self, x: Tensor, *, scale: float) -> Tensor:
        return super().forward(x) * scale


def words() -> nn.Module:
    return nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 3))


@pytest.mark.parametrize(
    ("model", "shape", "hints"),
    [
        (After(lambda x, y: y * x.flatten().tolist()[0]), (3, 8, 8), ("values of its input", "take the decision out")),
        (After(lambda x, y: y * x.sum().item()), (3, 8, 8), ("values of its input",)),
        (Scaled(3, 4, 3), (3, 8, 8), ("'scale'", "by position alone", "a default")),
        (nn.Conv2d(3, 4, 3), (1, 3, 8, 8), ("without the batch",)),
        (nn.BatchNorm2d(3), (1, 3, 8, 8), ("without the batch",)),
        (words(), (12,), ("Embedding takes whole numbers", "dtype=torch.long")),
        (nn.DataParallel(nn.Conv2d(3, 4, 3)), (3, 8, 8), (".module",)),
        (nn.Conv2d(3, 4, 3), torch.zeros(2, 3, 8, 8), ("(2, 3, 8, 8)", "batch", "[:1]")),
        (nn.Conv2d(3, 4, 3), torch.zeros(3, 8, 8), ("(3, 8, 8)", "batch")),
    ],
)  # fmt: skip
def test_the_reason_and_the_way_on(
    model: nn.Module, shape: tuple[int, ...] | Tensor, hints: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as refused:
        measure(model, shape)
    for hint in hints:
        assert hint in str(refused.value)


def test_a_constant_is_not_called_the_input() -> None:
    model = After(lambda x, y: y)
    model.function = lambda x, y: y * int(model.constant[1])
    with pytest.raises(UsageError, match="or of a tensor of its own"):
        measure(model, (3, 8, 8))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_refused() -> None:
    compiled = torch.jit.trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
    for model in (compiled, nn.Sequential(compiled)):
        with pytest.raises(UsageError, match="TorchScript"):
            measure(model, (3, 8, 8))


def test_a_lack_of_memory_passes_and_nothing_else_does() -> None:
    model = nn.Conv2d(3, 4, 3)
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ):
        with pytest.raises(type(error)), refusals(model, ()):
            raise error
    with pytest.raises(UsageError), refusals(model, ()):
        raise RuntimeError("a tensor with unallocated storage")


def test_a_batch_of_one_as_a_tensor() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert measure(model, torch.zeros(1, 3, 8, 8)) == measure(model, (3, 8, 8))
    tokens = measure(words(), torch.zeros(1, 12, dtype=torch.long))
    assert (tokens.params, tokens.macs) == (800 + 51, 12 * 48)


def test_a_tensor_stands_for_a_batch_of_any_size() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert predict(model, torch.zeros(1, 3, 8, 8), batch=4) == predict(model, (3, 8, 8), batch=4)


class Remembers(nn.Module):
    """Makes a table, a counter and a dictionary's entry in its first pass, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.table: Tensor | None = None
        self.tables: dict[int, list[Tensor]] = {}
        self.calls = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
            self.register_buffer("late", torch.ones(1, device=x.device), persistent=False)
        kept = self.tables.setdefault(x.shape[-1], [torch.ones(1, device=x.device)])
        self.calls += 1
        return self.conv(x + self.table) * kept[0] * self.late


def _step(model: nn.Module, shape: tuple[int, ...]) -> object:
    return predict(model, shape, batch=2, training=True)


@pytest.mark.parametrize("look", [measure, weight_layers, predict, _step])
def test_what_a_pass_keeps_is_dropped(look: Callable[[nn.Module, tuple[int, ...]], object]) -> None:
    model, x = Remembers(), torch.rand(1, 3, 8, 8)
    look(model, (3, 8, 8))
    assert (model.table, model.tables, model.calls.item()) == (None, {}, 0)
    assert "late" not in dict(model.named_buffers())
    first = model(x)
    look(model, (3, 8, 8))
    assert torch.equal(model(x), first)
    assert model.calls.item() == 2


class Unpools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.unpool(*self.pool(x)))


@pytest.mark.parametrize(
    ("model", "unknown"),
    [(Unpools(), ()), (nn.Sequential(nn.ConvTranspose2d(3, 4, 1, 3, 1, 1), nn.Conv2d(4, 2, 1)), ())],
)
def test_json_of_what_leaves_gaps(model: nn.Module, unknown: tuple[str, ...]) -> None:
    cost = measure(model, (3, 8, 8))
    assert cost.unknown == unknown
    told = json.loads(json.dumps(cost.to_json(), allow_nan=False))
    assert (told["macs"], told["operations"]) == (cost.macs, cost.operations)


def test_the_places_of_maxima_that_a_module_gives_are_kept() -> None:
    """48 numbers and 48 places; the maps that unpooling fills are as large as the image."""
    assert [row.activations for row in measure(Unpools(), (3, 8, 8)).rows] == [192, 96, 192, 72]


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_weights_that_are_computed() -> None:
    cost = measure(nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 8, 3)), nn.ReLU()), (3, 8, 8))
    assert [row.macs for row in cost.rows if row.kind == "conv 3x3, 8"] == [36 * 8 * 27]
    assert cost.params == 8 * 28


class Folds(nn.Module):
    """Maps that are given other axes: a signal as an image, an image as a volume."""

    def __init__(self) -> None:
        super().__init__()
        self.signal, self.image, self.volume = (
            nn.Conv1d(1, 16, 64, 16),
            nn.Conv2d(1, 8, 3),
            nn.Conv3d(2, 4, 3),
        )
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        image = self.image(self.signal(x).unsqueeze(1).reshape(1, 1, 16, -1))
        return self.head(self.volume(image.view(1, 2, 4, *image.shape[2:])).mean((2, 3, 4)))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Folds(), (1, 4000)),
        (nn.Sequential(nn.Conv3d(1, 8, 3), nn.MaxPool3d(2), nn.Conv3d(8, 8, 3)), (1, 16, 16, 16)),
        (
            nn.Sequential(nn.Conv1d(1, 8, 9, 4), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2)),
            (1, 400),
        ),
    ],
)
def test_signals_and_volumes_beside_the_principles(model: nn.Module, shape: tuple[int, ...]) -> None:
    linted = lint(model, shape)
    assert len(linted.findings) == 7
    assert any("convolutions" in finding.says for finding in linted.findings)
