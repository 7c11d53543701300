"""What a run starts from: another run, a file, official weights, nothing; told in run.json, the same after a stop."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

from convatlas.cli import main
from convatlas.data import Data, open_data
from convatlas.errors import BadCheckpoint, Interrupted, ResourceError, UsageError
from convatlas.files import newest
from convatlas.models import create_model, find
from convatlas.train import Compute, Observer, Recipe, RunFolder, begin, params, resume
from convatlas.train.origin import check_wish, settle
from convatlas.train.plan import plan
from convatlas.weights import official, save_weights
from convatlas.weights.official import Official

CPU = Compute(accelerator="cpu", workers=0)
SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 8, "image_size": 16, "optimizer": "sgd", "lr": 0.05}
STILL = {**SHORT, "lr": 0.0, "weight_decay": 0.0, "ema": 0.0}  # the weights at the end are those of the start


def folder_of(path: Path, classes: str, side: int = 16, each: int = 12, channels: int = 3) -> Path:
    """Noise around a level of its own for each class."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes.split()):
        (path / name).mkdir(parents=True)
        for index in range(each):
            shape = (side, side, 3) if channels == 3 else (side, side)
            pixels = rng.integers(60 * number, 60 * number + 60, shape, np.uint8)
            Image.fromarray(pixels).save(path / name / f"{index:02}.png")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("origin")


@pytest.fixture(scope="module")
def three(place: Path) -> Data:
    return open_data(folder_of(place / "three", "ant bee cow"), seed=0)


@pytest.fixture(scope="module")
def two(place: Path) -> Data:
    return open_data(folder_of(place / "two", "red tan"), seed=0)


@pytest.fixture(scope="module")
def source(place: Path, three: Data) -> RunFolder:
    """A run on three classes, from scratch."""
    settings = {**SHORT, "mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.1], "resize": "pad"}
    return begin(three, model="resnet20_cifar", settings=settings, out=place / "source", compute=CPU)


def trained(data: Data, out: Path, weights: Any, **more: Any) -> RunFolder:
    given = {"model": "resnet20_cifar", "settings": STILL, "compute": CPU, **more}
    return begin(data, out=out, weights=str(weights) if weights else None, **given)


def best(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.best / "model.safetensors")


def told(run: RunFolder) -> dict[str, Any]:
    return run.read_run()["start"]


def differing(run: RunFolder, other: dict[str, torch.Tensor]) -> set[str]:
    """Parameters that are not those of `other`: statistics move in training."""
    own = best(run)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return {n for n in own if not n.endswith(statistics) and not torch.equal(own[n], other[n])}


HEAD = {"head.fc.weight", "head.fc.bias"}


# --- from another run ---------------------------------------------------------------------------------------


def test_other_classes_get_a_new_head_and_the_preprocessing_of_the_weights(
    source: RunFolder, two: Data, tmp_path: Path
) -> None:
    run = trained(two, tmp_path / "run", source.path, model=None)
    decided = run.read_run()
    assert decided["model"] == "resnet20_cifar", "the network of the run"
    assert "source" in decided["choice"]
    theirs = best(source)
    own = best(run)
    assert {name for name in theirs if theirs[name].shape != own[name].shape} == HEAD
    body = {name: tensor for name, tensor in own.items() if name not in HEAD}
    assert differing(run, {**theirs, **{name: own[name] for name in HEAD}}) == set()
    assert body
    start = told(run)
    assert (start["kind"], start["head"], set(start["left_out"])) == ("run", "new", HEAD)
    assert start["sha256"] == official.sha256(source.best / "model.safetensors")
    assert "three" in start["title"], "the images that it learnt from"
    prepared, theirs_prepared = decided["preprocessing"], source.read_run()["preprocessing"]
    assert prepared == theirs_prepared
    assert decided["recipe"]["body_lr"] == 0.1
    drawn = trained(two, tmp_path / "scratch", None)
    assert all(torch.equal(best(drawn)[name], own[name]) for name in HEAD), "drawn by the seed"


def test_the_same_classes_keep_their_head(source: RunFolder, three: Data, tmp_path: Path) -> None:
    run = trained(three, tmp_path / "run", source.path)
    assert differing(run, best(source)) == set()
    assert (told(run)["head"], told(run)["left_out"]) == ("kept", [])


def test_as_many_other_classes_do_not(source: RunFolder, tmp_path: Path) -> None:
    others = open_data(folder_of(tmp_path / "images", "ant bee dog"), seed=0)
    run = trained(others, tmp_path / "run", source.path)
    assert told(run)["head"] == "new"
    assert differing(run, best(source)) == HEAD


def test_what_the_user_sets_wins_over_what_belongs_to_the_weights(source: RunFolder, two: Data) -> None:
    decided = plan(two, None, "quick", {"mean": [0.1], "body_lr": 1.0}, 0, str(source.path))
    assert decided.preprocessing.mean == (0.1,) * 3
    assert decided.preprocessing.std == (0.3, 0.2, 0.1)
    assert decided.recipe.body_lr == 1
    own = Recipe(lr=0.5)
    assert plan(two, None, own, None, 0, str(source.path)).recipe.body_lr == 1, "a recipe of one's own stays"


def test_options_of_the_network_come_along(two: Data, three: Data, tmp_path: Path) -> None:
    first = trained(
        three, tmp_path / "first", None, options={"shortcut": "B"}, settings={**STILL, "dropout": 0.5}
    )
    assert first.read_run()["options"]["shortcut"] == "B"
    run = trained(two, tmp_path / "run", first.path, model=None)
    options = run.read_run()["options"]
    assert options["shortcut"] == "B"
    assert "dropout" not in options, "a wish of that recipe"
    assert told(run)["head"] == "new"


def test_grey_images_become_what_coloured_weights_read(source: RunFolder, tmp_path: Path) -> None:
    grey = open_data(folder_of(tmp_path / "grey", "dark light", channels=1), seed=0)
    assert grey.channels == 1
    run = trained(grey, tmp_path / "run", source.path, settings={**STILL, "pca": 0.1})
    assert run.read_run()["options"]["in_channels"] == run.read_run()["preprocessing"]["channels"] == 3
    assert torch.equal(best(run)["features.conv1.conv.weight"], best(source)["features.conv1.conv.weight"])


def test_coloured_images_become_what_grey_weights_read(two: Data, tmp_path: Path) -> None:
    grey = open_data(folder_of(tmp_path / "grey", "dark light", channels=1), seed=0)
    first = trained(grey, tmp_path / "first", None)
    run = trained(two, tmp_path / "run", first.path)
    assert run.read_run()["options"]["in_channels"] == 1
    assert set(told(run)["left_out"]) == HEAD


# --- from a file --------------------------------------------------------------------------------------------


def test_a_file_keeps_a_head_of_as_many_classes(
    source: RunFolder, two: Data, three: Data, tmp_path: Path
) -> None:
    file = shutil.copy(source.best / "model.safetensors", tmp_path / "weights.safetensors")
    run = trained(three, tmp_path / "three", file)
    assert (told(run)["kind"], told(run)["head"]) == ("file", "kept")
    assert differing(run, best(source)) == set()
    other = trained(two, tmp_path / "two", file)
    assert (told(other)["head"], set(told(other)["left_out"])) == ("new", HEAD)


def test_a_file_of_another_network_is_refused_with_the_first_pair(two: Data, tmp_path: Path) -> None:
    file = tmp_path / "resnet34.safetensors"
    file.write_bytes(save_weights(torchvision.models.resnet34().state_dict()))
    with pytest.raises(BadCheckpoint, match=r"'(conv1|features)\S*' .*features\.conv1"):
        trained(two, tmp_path / "run", file)
    assert not (tmp_path / "run").exists()


# --- held parts ---------------------------------------------------------------------------------------------

HOLDING = {**SHORT, "epochs": 2, "ema": 0.9, "weight_decay": 0.01, "batch_size": 4}


@pytest.mark.parametrize(
    ("hold", "count"), [({"freeze": "conv3_x"}, 3), ({"freeze": "1"}, 2), ({"body_lr": 0.0}, 4)]
)
def test_held_parts_keep_every_byte(
    source: RunFolder, two: Data, tmp_path: Path, hold: dict[str, Any], count: int
) -> None:
    run = trained(two, tmp_path / "run", source.path, settings={**HOLDING, **hold})
    held = told(run)["held"]
    assert held == ["features.conv1", "features.conv2_x", "features.conv3_x", "features.conv4_x"][:count]
    checkpoint, _ = newest(run.checkpoints)
    assert checkpoint is not None
    theirs = best(source)
    inside = {name for name in theirs if name.startswith(tuple(f"{each}." for each in held))}
    for file in (
        run.best / "model.safetensors",
        checkpoint / "model.safetensors",
        checkpoint / "ema.safetensors",
    ):
        own = load_file(file)
        same = {n for n in own if n not in HEAD and own[n].numpy().tobytes() == theirs[n].numpy().tobytes()}
        assert same == inside, file


def test_a_lower_rate_for_the_body() -> None:
    torch.manual_seed(0)
    network = create_model("resnet20_cifar")
    recipe = Recipe(lr=0.1, body_lr=0.1, weight_decay=0.01, decay_all=False)
    optimiser = params.optimizer(network, recipe)
    params.set_rate(optimiser, 0.5)
    of = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        head = name.startswith("head.fc.")
        assert of[id(parameter)]["lr"] == pytest.approx(0.5 if head else 0.05), name
        assert of[id(parameter)]["weight_decay"] == (0.01 if parameter.ndim > 1 else 0.0), name
    assert len(of) == len(list(network.parameters()))
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()  # the first step of SGD: rate * (gradient + decay * weight)
    moved = {
        name: (before[name] - parameter).flatten()[0].item() for name, parameter in network.named_parameters()
    }
    assert moved["head.fc.bias"] == pytest.approx(0.5, rel=1e-4)
    assert moved["features.conv1.bn.bias"] == pytest.approx(0.05, rel=1e-4)


def test_the_learning_rate_test_knows_what_is_held(source: RunFolder, two: Data, tmp_path: Path) -> None:
    run = trained(two, tmp_path / "run", source.path, settings={**STILL, "body_lr": 0.0}, find_rate=True)
    assert run.read_run()["lr_finder"]["rates"]
    inside = {name for name in best(source) if name.startswith("features.")}
    assert all(torch.equal(best(run)[name], best(source)[name]) for name in inside)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"freeze": "conv9"}, r"no such part\. Did you mean 'conv.*1 to 3"),
        ({"freeze": "0"}, "3 stages: conv2_x, conv3_x, conv4_x"),
        ({"freeze": "4"}, "3 stages"),
        ({"body_lr": -1}, "outside"),
        ({"freeze": 2}, "str is expected"),
    ],
)
def test_parts_that_cannot_be_held(two: Data, tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        trained(two, tmp_path / "run", None, settings={**STILL, **settings})
    assert not (tmp_path / "run").exists()


# --- stopped before the first checkpoint --------------------------------------------------------------------


class StopAtOnce(Observer):
    """A signal in the first step."""

    def stepped(self, **_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def test_a_run_that_lost_its_checkpoints_begins_from_the_same_weights(
    source: RunFolder, two: Data, tmp_path: Path
) -> None:
    file = shutil.copy(source.best / "model.safetensors", tmp_path / "weights.safetensors")
    whole = trained(two, tmp_path / "whole", file, settings=SHORT)
    with pytest.raises(Interrupted):
        trained(two, tmp_path / "cut", file, settings=SHORT, observer=StopAtOnce())
    shutil.rmtree(tmp_path / "cut" / "checkpoints")
    resumed = resume(tmp_path / "cut", where=two, compute=CPU)
    assert (resumed.best / "model.safetensors").read_bytes() == (
        whole.best / "model.safetensors"
    ).read_bytes()
    assert resumed.metrics_path.read_bytes() == whole.metrics_path.read_bytes()

    shutil.rmtree(tmp_path / "cut" / "checkpoints")
    shutil.rmtree(tmp_path / "cut" / "best")
    Path(file).write_bytes(save_weights(create_model("resnet20_cifar", num_classes=3).state_dict()))
    with pytest.raises(BadCheckpoint, match="not the file that the run began from"):
        resume(tmp_path / "cut", where=two, compute=CPU)
    Path(file).unlink()
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        resume(tmp_path / "cut", where=two, compute=CPU)


# --- official weights ---------------------------------------------------------------------------------------


def photographs(count: int = 500, side: int = 300, channels: int = 3) -> Any:
    return SimpleNamespace(train=range(count), channels=channels, typical_side=lambda: side)


@pytest.mark.parametrize(
    ("data", "model", "kind", "says"),
    [
        (photographs(), "resnet50", "official", "500 colour .* 300 px, and resnet50 has official"),
        (photographs(side=64), "resnet50", "scratch", "not the photographs"),
        (photographs(channels=1), "resnet50", "scratch", "500 grey"),
        (photographs(count=1_000_000), "resnet50", "scratch", "enough to learn from"),
        (photographs(), "lenet5", "scratch", "no official weights of lenet5"),
    ],
)
def test_auto_is_a_function_of_images_and_network(data: Any, model: str, kind: str, says: str) -> None:
    start = settle("auto", data, find(model))
    assert start.kind == kind
    assert re.search(says, start.reason)
    if kind == "official":
        assert start.official is not None
        assert start.official.library == "torchvision"


def test_nothing_is_asked_for_unless_it_is() -> None:
    for wish in (None, "none"):
        assert settle(wish, photographs(), find("resnet50")).kind == "scratch"


@pytest.fixture
def photos(tmp_path: Path) -> Data:
    return open_data(folder_of(tmp_path / "photos", "ant bee", side=80), seed=0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """torchvision's resnet18 as if it had been fetched by hand; no server answers."""
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.manual_seed(1)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "made.pth")
    digest = official.sha256(tmp_path / "made.pth")[:8]
    original = official._torchvision

    def moved(name: str, tag: str) -> Official:
        found = original(name, tag)
        gone = {"url": "http://127.0.0.1:9/nothing.pth", "file": f"resnet18-{digest}.pth", "hash": digest}
        return Official(**{**vars(found), **gone})

    monkeypatch.setattr(official, "_torchvision", moved)
    (tmp_path / "cache" / "torchvision").mkdir(parents=True)
    shutil.copy(tmp_path / "made.pth", tmp_path / "cache" / "torchvision" / f"resnet18-{digest}.pth")
    return state


@pytest.mark.parametrize("wish", ["auto", "torchvision"])
def test_official_weights_in_a_run(
    here: dict[str, torch.Tensor], photos: Data, tmp_path: Path, wish: str
) -> None:
    settings = {**STILL, "image_size": 32}
    run = trained(photos, tmp_path / "run", wish, model="resnet18", settings=settings)
    start, decided = told(run), run.read_run()
    assert (start["kind"], start["names"], start["head"]) == ("official", "torchvision", "new")
    assert start["confirmed"] is True
    assert start["left_out"] == ["fc.weight", "fc.bias"]
    assert start["source"] == "torchvision:IMAGENET1K_V1"
    assert wish in start["reason"]
    assert decided["weights"] == wish
    assert wish in decided["command"]
    prepared = decided["preprocessing"]
    assert prepared["mean"] == [0.485, 0.456, 0.406]
    assert prepared["size"] == [32, 32], "as the user said"
    assert prepared["crop_ratio"] == 224 / 256
    assert torch.equal(best(run)["features.conv5_x.1.residual.conv2.weight"], here["layer4.1.conv2.weight"])

    shutil.rmtree(run.path / "checkpoints")
    shutil.rmtree(run.path / "best")
    metrics = run.metrics_path.read_bytes()
    resume(run.path, where=photos, compute=CPU)
    assert run.metrics_path.read_bytes() == metrics


def test_the_size_is_that_of_the_weights(here: dict[str, torch.Tensor], photos: Data) -> None:
    decided = plan(photos, "resnet18", weights="torchvision")
    assert decided.preprocessing.size == (224, 224)
    assert decided.preprocessing.resize == "crop"
    timm = plan(photos, "resnet18", weights="timm")
    assert (timm.preprocessing.interpolation, timm.preprocessing.crop_ratio) == ("bicubic", 0.95)


def test_offline_it_is_a_clear_error_and_no_silent_start_from_scratch(
    here: dict[str, torch.Tensor], photos: Data, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "cache")
    for wish in ("auto", "torchvision"):
        with pytest.raises(ResourceError, match=r"http://127\.0\.0\.1:9/nothing\.pth[\s\S]*--weights FILE"):
            trained(photos, tmp_path / "run", wish, model="resnet18")
    assert not (tmp_path / "run").exists()


# --- wishes that are wrong, before any image is read --------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (
            {"weights": "torchvison"},
            UsageError,
            "none of none, auto, torchvision, timm.*Did you mean 'torchvision'",
        ),
        ({"weights": "missing.safetensors"}, UsageError, "no such file or folder"),
        ({"weights": "{place}"}, BadCheckpoint, "is not a run"),
        ({"weights": "{place}/bare"}, BadCheckpoint, "no usable best weights"),
        ({"weights": "torchvision", "model": "lenet5"}, UsageError, "does not exist in torchvision"),
        ({"weights": "torchvision:V9", "model": "resnet18"}, UsageError, "IMAGENET1K_V1"),
        ({"options": {"shortcut": "A"}}, UsageError, "--model"),
        ({"options": {"shortcuts": "A"}, "model": "resnet18"}, UsageError, "no option 'shortcuts'"),
        ({"options": {"num_classes": 3}, "model": "resnet18"}, UsageError, "no option 'num_classes'"),
        ({"options": {"dropout": {"a": 1}}, "model": "resnet18"}, UsageError, "a number, a word"),
    ],
)
def test_refused_before_images_are_read(
    place: Path, source: RunFolder, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    bare = place / "bare"
    bare.mkdir(exist_ok=True)
    shutil.copy(source.path / "run.json", bare / "run.json")
    given = {k: v.format(place=place) if isinstance(v, str) else v for k, v in arguments.items()}
    with pytest.raises(error, match=says):
        begin("/nowhere/at/all", compute=CPU, **given)


def test_a_damaged_start_is_refused(source: RunFolder, tmp_path: Path) -> None:
    for change, says in (
        ({"start": 3}, "start is 3"),
        ({"start": {"kind": 1}}, "kind is 1"),
        ({"start": {"x": 1}}, "'x'"),
    ):
        value = json.loads((source.path / "run.json").read_text()) | change
        (tmp_path / "run.json").write_text(json.dumps(value))
        with pytest.raises(BadCheckpoint, match=says):
            RunFolder(tmp_path).read_run()


def test_a_run_of_the_first_version_has_no_start(source: RunFolder, tmp_path: Path) -> None:
    value = json.loads((source.path / "run.json").read_text())
    del value["start"], value["recipe"]["body_lr"], value["recipe"]["freeze"]
    (tmp_path / "run.json").write_text(json.dumps(value))
    assert Recipe.from_json(RunFolder(tmp_path).read_run()["recipe"]).body_lr == 1


def test_check_wish_leaves_open_what_images_decide() -> None:
    assert check_wish("auto", find("resnet50")) is None
    assert check_wish("torchvision", None) is None


# --- the command --------------------------------------------------------------------------------------------


def test_the_command_does_it_again_with_its_weights_and_options(
    source: RunFolder, two: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"{name}={value}" for name, value in SHORT.items()]
    words = ["train", two.where, "--model", "resnet20_cifar", "--weights", str(source.path)]
    for setting in settings:
        words += ["--set", setting]
    words += [
        "--freeze",
        "1",
        "--option",
        "shortcut=A",
        "--option",
        "dropout=0.25",
        "--workers",
        "0",
        "--accelerator",
        "cpu",
    ]

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as left:
            main.run(words)
        shown = capsys.readouterr()
        assert left.value.code == 0, shown.err
        return shown.out

    shown = run(*words, "--out", str(tmp_path / "first"))
    assert "start    the run" in shown
    assert "All but the classifier learns at 0.1 of the rate." in shown
    assert "The classifier is new; left out: head.fc.weight, head.fc.bias." in shown
    assert "Held as they are: features.conv1, features.conv2_x" in shown
    first = RunFolder(tmp_path / "first")
    decided = first.read_run()
    assert decided["options"] == {"num_classes": 2, "in_channels": 3, "shortcut": "A", "dropout": 0.25}
    command = decided["command"]
    again = [*command[1:], "--out", str(tmp_path / "again"), "--workers", "0", "--accelerator", "cpu", "-q"]
    run(*again)
    second = RunFolder(tmp_path / "again")
    assert second.metrics_path.read_bytes() == first.metrics_path.read_bytes()
    assert second.read_run()["options"] == decided["options"]
    assert "RANDOM WEIGHTS" in run(*words[:4], *words[6:], "--out", str(tmp_path / "scratch"))


def test_images_too_small_for_the_network_are_refused_before_a_run_exists(two: Data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"vgg11 cannot be trained on images of 7x7.*--image-size.*pool3"):
        begin(two, model="vgg11", settings={**SHORT, "image_size": 7}, out=tmp_path / "run", compute=CPU)
    sizes = {**SHORT, "image_size": 32, "sizes": ((0.0, 8), (0.5, 32))}
    with pytest.raises(
        UsageError, match=r"images of 8x8 pixels; the recipe's sizes begin.*sizes=\[\].* at 32 alone"
    ):
        begin(two, model="vgg11", settings=sizes, out=tmp_path / "run", compute=CPU)
    assert not (tmp_path / "run").exists()
