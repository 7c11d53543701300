"""`convatlas diagnose`: on noise, on images, on a run; what it says, draws and refuses."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convatlas.cli import main
from convatlas.measure.gradients import gradients
from convatlas.models import create_model
from convatlas.randomness import key

Run = Callable[..., str]


@pytest.fixture
def convatlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """What a command prints, run in an empty folder; on stderr where it fails with `code`."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as left:
            main.run(words)
        shown = capsys.readouterr()
        assert left.value.code == code, shown.err
        return shown.err if code else shown.out

    return run


def told(convatlas: Run, *words: str) -> Any:
    return json.loads(convatlas("diagnose", *words, "--json"))


def test_noise_is_called_noise(convatlas: Run) -> None:
    text = convatlas("diagnose", "resnet20_cifar", "--batch", "4")
    assert text.startswith("4 images of noise, N(0, 1), 3x32x32, with labels drawn at random")
    rows = text.split("\n\n")[1].splitlines()
    assert rows[0].split() == [
        "layer",
        "kind",
        "mean",
        "std",
        "dead",
        "channels",
        "signal",
        "gradient",
        "rate",
    ]
    assert len(rows) == 1 + 20 + 19
    assert "gradients  healthy: signal x 1.1" in text
    assert "over 20 layers" in text
    assert "of the units of 19 ReLUs" in text


def test_json_holds_what_python_gives(convatlas: Run) -> None:
    """The network is the one that `convatlas train --seed 3` starts from."""
    found = told(convatlas, "lenet5", "--batch", "6", "--seed", "3")
    assert found["input_shape"] == [6, 1, 32, 32]
    with torch.random.fork_rng():
        torch.manual_seed(key(3, "weights"))
        network = create_model("lenet5")
    images = torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    labels = [row["name"] for row in found["gradients"]["layers"]]
    assert labels == [layer.name for layer in gradients(network, images, torch.zeros(6).long()).layers]
    first = found["activations"][0]
    with torch.no_grad():
        output = network.get_submodule("features.C1.conv")(images)
    assert first["mean"] == pytest.approx(output.mean().item(), rel=1e-4, abs=1e-6)
    assert first["std"] == pytest.approx(output.std(correction=0).item(), rel=1e-5)
    assert sum(first["histogram"]) == output.numel()
    assert told(convatlas, "lenet5", "--batch", "6", "--seed", "3") == found


def test_a_bad_initialisation_is_named(convatlas: Run) -> None:
    words = ("diagnose", "cifar100_study", "--batch", "2", "--init", "small-gaussian", "--init-option")
    assert "gradients  vanishing" in (small := convatlas(*words, "std=0.01"))
    assert "Weights by small-gaussian, std = 0.01." in small
    assert "gradients  exploding" in convatlas(*words, "std=1.0")
    assert "gradients  healthy" in convatlas(
        "diagnose", "cifar100_study", "--batch", "4", "--init", "lsuv", "--image-size", "32"
    )


def test_networks_from_elsewhere_and_auxiliary_heads(convatlas: Run, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(num_classes=3):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Sigmoid(), nn.Linear(5, num_classes))\n"
    )
    words = ("diagnose", "net.py:make", "--batch", "2")
    assert "saturated  0.0% of 2, the most of 1 sigmoids" in convatlas(*words)
    small = ("--batch", "2", "--image-size", "64")
    assert "over 21 layers" in convatlas("diagnose", "torchvision:resnet18", *small)
    text = convatlas("diagnose", "googlenet", *small)
    assert text.count("training only") == 6
    assert "over 58 layers" in text, "without the heads"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 12 coloured pictures each."""
    pixels = np.random.default_rng(0)
    for label in ("cat", "dog"):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for i in range(12):
            Image.fromarray(pixels.integers(0, 256, (40, 52, 3), np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_a_folder_of_images(convatlas: Run, photos: Path) -> None:
    found = told(convatlas, "resnet20_cifar", "--data", "photos", "--batch", "8")
    assert found["about"] == ["8 of the 20 train images of photos, without augmentation."]
    assert found["input_shape"] == [8, 3, 32, 32]
    assert found["activations"][-1]["shape"] == [2], "as many classes as there are"
    assert 0.2 < found["gradients"]["loss"] < 5
    fewer = told(convatlas, "torchvision:resnet18", "--data", "photos", "--image-size", "32", "--batch", "2")
    assert fewer["input_shape"] == [2, 3, 32, 32]
    all_of_them = told(convatlas, "resnet20_cifar", "--data", "photos", "--batch", "500")
    assert all_of_them["input_shape"][0] == 20


def test_the_picture_of_a_field(convatlas: Run, photos: Path) -> None:
    over = ("--field", "out/field.png", "--image", "photos/cat/3.png", "--layer", "features.conv2_x")
    text = convatlas("diagnose", "resnet20_cifar", "--batch", "4", *over)
    lines = {line.split()[0]: line for line in text.split("\n\n")[-1].splitlines()}
    assert lines["field"] == "field of     features.conv2_x, unit (16, 16), mean of 4 images"
    assert lines["theoretical"].split()[1:] == ["15", "x", "15", "px"]
    assert lines["picture"].split()[1] == "out/field.png"
    drawn = np.asarray(Image.open("out/field.png"))
    assert drawn.shape[2] == 3
    assert min(drawn.shape[:2]) >= 500
    grey = convatlas("diagnose", "resnet20_cifar", "--batch", "4", *over[:2], *over[4:])
    assert grey.splitlines()[-1].startswith("picture")
    assert (np.asarray(Image.open("out/field.png")) != drawn).any(), "another ground"


def test_a_field_in_numbers(convatlas: Run) -> None:
    field = told(convatlas, "resnet20_cifar", "--batch", "4", "--layer", "features.conv1.conv")["field"]
    assert field["theoretical"] == [[15.0, 17.0], [15.0, 17.0]]
    assert field["reached"] == [[15, 17], [15, 17]]
    assert field["side_of_95.45_percent"] == 3
    assert told(convatlas, "resnet20_cifar", "--batch", "2")["field"] is None


@pytest.fixture
def run(convatlas: Run) -> str:
    convatlas(
        "train", "digits", "--model", "lenet5", "--epochs", "3", "--workers", "0", "--quiet", "--out", "run"
    )
    return "run"


def test_a_run_is_told_from_start_to_best(convatlas: Run, run: str) -> None:
    found = told(convatlas, run)
    assert found["about"] == ["16 of the 1293 train images of digits, without augmentation."]
    states = [state["state"] for state in found["over_the_run"]]
    assert states[0] == "start"
    assert [state.split()[0] for state in states] == ["start", "step", "step", "best,"]
    losses = [state["loss"] for state in found["over_the_run"]]
    assert losses[0] == pytest.approx(math.log(10), rel=0.1)
    assert losses[-1] < losses[0] / 2
    assert found["gradients"]["layers"] == found["over_the_run"][-1]["layers"]
    logged = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    norms = [line["grad_norm"] for line in logged if line["kind"] == "train"]
    assert [each["norm"] for each in found["logged_gradient_norms"]] == norms
    text = convatlas("diagnose", run, "--curves", "out/curves.svg")
    drawn = Path("out/curves.svg").read_text()
    assert all(f">{state}</text>" in drawn for state in states), "a curve for each"
    assert "The whole gradient's norm in the run's log" in text
    assert text.count("healthy  ") >= 4


def test_a_runs_folder_is_left_alone_and_damage_is_told(convatlas: Run, run: str) -> None:
    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in Path(run).rglob("*") if path.is_file()}

    before = content()
    told(convatlas, run)
    assert content() == before
    newest = max(Path(run, "checkpoints").iterdir())
    (newest / "model.safetensors").write_bytes(b"damaged")
    found = told(convatlas, run)
    assert f"{newest.name} is damaged and was passed over." in found["about"]
    assert len(found["over_the_run"]) == 3


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("lenet6",), 2, "there is no network 'lenet6'. Did you mean 'lenet5'"),
        (("lenet5", "--batch", "1"), 2, "batch"),
        (("lenet5", "--field", "field.svg"), 2, "the picture is a PNG"),
        (("lenet5", "--curves", "curves.png"), 2, "the curves are an SVG"),
        (("lenet5", "--image", "a.png"), 2, "say where to: --field PICTURE.png"),
        (("lenet5", "--layer", "features.C4"), 2, "has no layer 'features.C4'. Did you mean"),
        (("lenet5", "--layer", "head.F6"), 2, "gives no map (N, C, H, W)"),
        (("lenet5", "--image-size", "8"), 2, "features"),
        (("lenet5", "--init", "small-gausian"), 2, "Did you mean 'small-gaussian'"),
        (("lenet5", "--init-option", "std=1"), 2, "name it by --init"),
        (("lenet5", "--data", "nowhere"), 3, "nowhere"),
        (("lenet5", "--field", "f.png", "--image", "nowhere.png"), 3, "nowhere.png does not exist"),
        (("lenet5", "--data", "digits", "--classes", "4"), 2, "has 10 classes, but lenet5 tells 4 apart"),
        (("empty",), 4, "is not a run"),
        (("sound.py:make", "--batch", "2"), 2, "logits (1, K)"),
    ],
)
def test_what_cannot_be_is_refused(
    words: tuple[str, ...], code: int, complaint: str, convatlas: Run, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "sound.py").write_text("from torch import nn\ndef make():\n    return nn.Conv2d(3, 4, 3)\n")
    message = convatlas("diagnose", *words, code=code)
    assert complaint in message
    assert "Traceback" not in message


def test_a_run_has_its_own_settings(convatlas: Run, run: str) -> None:
    for words in (("--classes", "3"), ("--init", "he"), ("--image-size", "64"), ("--option", "dropout=0.5")):
        assert f"leave {words[0]} out" in convatlas("diagnose", run, *words, code=2)


# --- the page in the documentation -------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "diagnosis.md").read_text()
BLOCKS = re.findall(r"```console\n\$ convatlas diagnose (.*?)\n(.*?)```", PAGE, re.DOTALL)


def without_digits(line: str) -> str:
    """What does not depend on the machine's arithmetic."""
    return re.sub(r"\s+", " ", re.sub(r"-?\d[\d.e+-]*", "0", line)).strip()


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=[command.split()[0] for command, _ in BLOCKS])
def test_a_command_prints_what_the_documentation_says(
    command: str, shown: str, convatlas: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line by line, "..." standing for any number of lines."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if command.startswith("runs/"):
        trained = re.search(r"`convatlas (train .*?)`\.", PAGE)
        assert trained
        convatlas(*trained[1].split(), "--quiet", "--workers", "0")
    printed = [without_digits(line) for line in convatlas("diagnose", *command.split()).splitlines()]
    parts = re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE)
    expected = [[without_digits(line) for line in part.splitlines()] for part in parts]
    assert printed[: len(expected[0])] == expected[0]
    assert printed[-len(expected[-1]) :] == expected[-1]
    assert "vanishing" in shown or "vanishing" not in " ".join(printed)


def test_the_documentation_has_three() -> None:
    assert len(BLOCKS) == 3
