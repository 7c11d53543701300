"""The peers' loops train, as a plain loop in PyTorch does with the same settings; so does our side."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_gate import Asker
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from convatlas.bench import feeds, ours, peers
from convatlas.bench.cell import Cell
from convatlas.bench.gate import Gate, Over
from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.train.speed import Device, Speed, rule

SHAPE, CLASSES, BATCH = (3, 12, 12), 4, 6
CELL = Cell("tiny", SHAPE, CLASSES, BATCH, True, dtype="fp32", channels_last=False)
AMP = Cell("tiny", SHAPE, CLASSES, BATCH, True, peer_amp=True, dtype="bf16", channels_last=True)
SIDES = ("convatlas", *peers.LOOPS)


def tiny() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def train(side: str, model: nn.Module, cell: Cell, folder: Path, *steps: int) -> Asker:
    """So many blocks of steps through the gate."""
    asker = Asker(*steps)
    gate = Gate(asker, {})
    loop = ours.training if side == "convatlas" else peers.LOOPS[side]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries: pinned memory without an accelerator, few workers
        with pytest.raises(Over):
            loop(model, cell, gate, folder)  # pyright: ignore[reportArgumentType]
    return asker


def plainly(
    model: nn.Module, steps: int, *, nesterov: bool, decay: float, bare: bool, smoothing: float
) -> None:
    """The same written out; with `bare`, vectors are not decayed."""
    vectors = [each for each in model.parameters() if each.ndim < 2 and bare]
    others = [each for each in model.parameters() if not (each.ndim < 2 and bare)]
    optimiser = torch.optim.SGD(
        [{"params": others, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-3,
        momentum=0.9,
        nesterov=nesterov,
    )
    images, labels = feeds.noise(CELL)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels, label_smoothing=smoothing).backward()
        optimiser.step()


@pytest.mark.parametrize("side", SIDES)
def test_three_steps_are_those_of_a_plain_loop(side: str, tmp_path: Path) -> None:
    model, plain = tiny(), tiny()
    before = deepcopy(model.state_dict())
    train(side, model, CELL, tmp_path, 3)
    theirs = side == "timm"
    plainly(
        plain,
        3,
        nesterov=theirs,
        decay=2e-5 if theirs else 1e-4,
        bare=theirs,
        smoothing=0.1 if theirs else 0.0,
    )
    for name, expected in plain.state_dict().items():
        found = model.state_dict()[name]
        torch.testing.assert_close(
            found, expected, rtol=1e-5, atol=1e-7, msg=lambda text, n=name: f"{n}: {text}"
        )
        assert name.endswith("num_batches_tracked") or not torch.equal(found, before[name])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("cell", [CELL, AMP], ids=["default", "amp"])
def test_the_loss_falls(side: str, cell: Cell, tmp_path: Path) -> None:
    asker = train(side, tiny(), cell, tmp_path, 1, 120)
    first, last = (told["loss"] for told in asker.told if "loss" in told)
    assert last < first - 0.05
    facts = asker.told[0]["ready"]
    assert facts["precision"] == ("bf16 autocast" if cell.peer_amp else "fp32")
    assert facts["layout"] == ("channels-last" if cell.peer_amp else "NCHW")
    assert "noise" in facts["loader"]


@pytest.mark.parametrize("side", SIDES)
def test_amp_computes_in_bf16_and_channels_last(side: str, tmp_path: Path) -> None:
    seen: set[tuple[torch.dtype, bool]] = set()
    model = tiny()

    def watch(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if module.training:  # not where a rule looks at the network
            seen.add((output.dtype, output.is_contiguous(memory_format=torch.channels_last)))

    model[0].register_forward_hook(watch)  # pyright: ignore[reportIndexIssue]
    train(side, model, AMP, tmp_path, 2)
    assert seen == {(torch.bfloat16, True)}


def test_our_side_computes_by_the_rule_of_train(tmp_path: Path) -> None:
    cell = Cell("resnet20_cifar", (3, 32, 32), 10, 2, True)
    told = train("convatlas", create_model("resnet20_cifar"), cell, tmp_path, 1).told[0]["ready"]
    expected = rule(create_model("resnet20_cifar"), (2, 3, 32, 32), Device.here())
    assert Speed.from_json(told["speed"]) == expected
    by_hand = Cell("tiny", SHAPE, CLASSES, 2, True, dtype="fp32", channels_last=False)
    assert ours.speed_for(tiny(), by_hand).precision == "32"
    assert not ours.speed_for(tiny(), by_hand).channels_last


# --- real pictures --------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes told apart by their colour, larger than what is held in memory."""
    random = np.random.default_rng(0)
    for label, colour in (("blue", (20, 20, 200)), ("red", (200, 20, 20))):
        for number in range(12):
            place = tmp_path / "photos" / "train" / label / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.normal(colour, 20, (90, 100, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place, quality=95)
    return tmp_path / "photos"


@pytest.mark.parametrize("side", SIDES)
def test_pictures_from_a_folder(side: str, photos: Path, tmp_path: Path) -> None:
    cell = Cell("tiny", (3, 72, 72), 2, 4, True, data=str(photos), augmentation="box", dtype="fp32")
    model = tiny()
    model[-1] = nn.Linear(8, 2)  # pyright: ignore[reportIndexIssue]
    asker = train(side, model, cell, tmp_path, 2, 3, 3, 3)  # over several epochs of five or six steps
    told = [each for each in asker.told if "steps" in each]
    assert [each["images"] for each in told] == [8, 12, 12, 12]
    assert np.isfinite([each["loss"] for each in told]).all()
    assert "2 workers" in asker.told[0]["ready"]["loader"] or feeds.workers(2) == 1


@pytest.mark.parametrize("side", list(peers.LOOPS))
@pytest.mark.parametrize(("channels", "augmentation"), [(1, "none"), (3, "shift")])
def test_small_pictures_in_memory(side: str, channels: int, augmentation: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (20, 10, 10, channels), dtype=np.uint8)
    np.savez(tmp_path / "held.npz", images=images, labels=np.arange(20) % 4)
    cell = Cell(
        "tiny",
        (channels, 12, 12),
        4,
        5,
        True,
        data="somewhere",
        held=str(tmp_path / "held.npz"),
        augmentation=augmentation,
    )
    model = tiny()
    model[0] = nn.Conv2d(channels, 8, 3)  # pyright: ignore[reportIndexIssue]
    asker = train(side, model, cell, tmp_path, 2, 2)
    assert [told["images"] for told in asker.told if "steps" in told] == [10, 10]


def test_held_pictures_are_those_that_were_given(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    np.savez(tmp_path / "held.npz", images=images, labels=[2, 0, 1])
    held = feeds.Held(tmp_path / "held.npz", np.asarray)
    assert [held[row][1] for row in range(len(held))] == [2, 0, 1]
    for row in range(3):
        np.testing.assert_array_equal(held[row][0], images[row])


def test_a_peer_must_be_known_and_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="known: torchvision, timm, lightning"):
        peers.needed("keras")
    find: Callable[[str], None] = lambda name: None  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", find)
    with pytest.raises(UsageError, match=r"pip install 'convatlas\[bench\]'"):
        peers.needed("timm")
