"""The speedrun recipe in the ordinary loop, on a few hundred real images."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
import torch

from convatlas import api
from convatlas.data import Data, open_data
from convatlas.errors import DataError, UsageError
from convatlas.infer import Run
from convatlas.kernels import compiled
from convatlas.models import create_model
from convatlas.train import Compute, RunFolder, begin, params, recipes
from convatlas.train.observer import Observer
from convatlas.train.plan import check_wishes, plan, to_read
from convatlas.weights import read_weights

CPU = Compute(accelerator="cpu", workers=0)
SMALL = {"epochs": 2, "batch_size": 60, "accumulate": 1, "init_images": 100}

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The first 40 training images of each class of CIFAR-10."""
    path = tmp_path_factory.mktemp("cifar") / "small.zip"
    with (
        zipfile.ZipFile(Path(os.environ["CONVATLAS_DATA"]) / "cifar10.zip") as whole,
        zipfile.ZipFile(path, "w") as part,
    ):
        names = sorted(name for name in whole.namelist() if "train/" in name and name.endswith(".webp"))
        taken: dict[str, int] = {}
        for name in names:
            folder = name.rsplit("/", 1)[0]
            taken[folder] = taken.get(folder, 0) + 1
            if taken[folder] <= 40:
                part.writestr("/".join(name.split("/")[-2:]), BytesIO(whole.read(name)).getvalue())
    return open_data(path, seed=0)


@pytest.fixture(scope="module")
def run(cifar: Data, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("runs") / "run"
    return begin(cifar, recipe="speedrun", settings=SMALL, out=out, compute=CPU)


def test_it_brings_its_network_and_learns(cifar: Data, run: RunFolder) -> None:
    decided = run.read_run()
    assert decided["model"] == "speedrun_cifar"
    assert decided["choice"] == "the network that the recipe is for"
    lines = run.metrics()
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 2 * (len(cifar.train) // 60)
    assert losses[-1] < 0.9 * losses[0]
    assert [line["epoch"] for line in lines if line["kind"] == "val"] == [2]  # the last one always
    assert decided["options"]["norm_momentum"] == 0.12
    assert decided["options"]["winograd"]


def test_the_first_layer_whitens_training_images_and_is_never_trained(cifar: Data, run: RunFolder) -> None:
    trained = Run.load(run.path)
    images = torch.stack(
        [trained.preprocessing.fit(cifar.train.image(i)) for i in range(0, len(cifar.train), 4)]
    )
    x = trained.preprocessing.normalise(images)
    layer = trained.model.features.whiten.conv
    with torch.no_grad():
        y = torch.nn.functional.conv2d(x, layer.weight).transpose(0, 1).flatten(1)
    variances = (y @ y.T / y.shape[1]).diag()
    assert float(variances[:4].min()) > 0.7
    assert float(variances.max()) < 1.4
    first = sorted((run.checkpoints).iterdir())[-1]
    assert torch.equal(read_weights(first / "model.safetensors")["features.whiten.conv.weight"], layer.weight)
    assert not torch.equal(create_model("speedrun_cifar").features.whiten.conv.weight, layer.weight)


def test_filters_keep_their_norm_and_the_optimisers_state_lies_in_the_checkpoint(run: RunFolder) -> None:
    newest = sorted((run.checkpoints).iterdir())[-1]
    state = read_weights(newest / "optimizer.safetensors")
    weights = read_weights(newest / "model.safetensors")
    filters = [name for name in weights if name.endswith((".conv1.weight", ".conv2.weight"))]
    assert len(filters) == 6
    for name in filters:
        assert state[f"{name}/momentum_buffer"].shape == weights[name].shape
        assert float(weights[name].norm()) == pytest.approx(len(weights[name]) ** 0.5, rel=0.2)
    assert "features.whiten.conv.weight/momentum_buffer" not in state


def test_the_papers_rates_for_the_mean_of_a_batch() -> None:
    """The source minimises the sum over a batch of 2000, at 0.24, 0.67 and 0.053, and decays by 2e-6 a sample."""
    recipe, net = recipes()["speedrun-2024"], create_model("speedrun_cifar")
    optimiser = params.optimizer(net, recipe)
    params.set_rates(optimiser, recipe, 0.0)
    name_of = {id(p): name for name, p in net.named_parameters()}
    rates = {name_of[id(p)]: group["lr"] for group in optimiser.param_groups for p in group["params"]}
    decays = {
        name_of[id(p)]: group["lr"] * group["weight_decay"]
        for group in optimiser.param_groups
        for p in group["params"]
    }
    assert rates["features.block2.conv1.weight"] == pytest.approx(0.24)
    assert rates["head.fc.weight"] == pytest.approx(0.67 * 2000)
    assert rates["features.whiten.conv.bias"] == rates["features.block3.norm2.bias"] == pytest.approx(106)
    assert decays["head.fc.weight"] == decays["features.block1.norm1.bias"] == pytest.approx(2e-6 * 2000)
    assert recipe.rate(0.5) == pytest.approx(0.12)
    params.set_rates(optimiser, recipe, 3 / 16)  # half of the whitening's own time
    of = {name_of[id(p)]: group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert of["features.whiten.conv.bias"] == pytest.approx(53)
    assert of["features.block1.norm1.bias"] == pytest.approx(106 * 13 / 16)


def test_the_recipe_is_kept_whole_in_run_json(run: RunFolder) -> None:
    kept = json.loads((run.path / "run.json").read_text())["recipe"]
    expected = json.loads(json.dumps(recipes()["speedrun"].to_json())) | SMALL
    assert {key: kept[key] for key in ("rates", "hold_from", "sizes", "optimizer", "init")} == {
        key: expected[key] for key in ("rates", "hold_from", "sizes", "optimizer", "init")
    }


def test_for_another_network_it_says_what_does_not_fit(cifar: Data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"features\.whiten.*leave it out"):
        begin(
            cifar, model="resnet20_cifar", recipe="speedrun", settings=SMALL, out=tmp_path / "r", compute=CPU
        )


def test_images_smaller_than_the_network_takes_are_refused_before_a_run_exists(
    cifar: Data, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="8x8"):
        begin(
            cifar, recipe="speedrun", settings={**SMALL, "sizes": [[0, 8]]}, out=tmp_path / "r", compute=CPU
        )
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("every", "validated"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_validated_after_every_so_many_epochs_and_the_last(
    tmp_path: Path, every: int, validated: list[int]
) -> None:
    settings = {"epochs": 5, "batch_size": 512, "validate_every": every, "early_stopping": 5}
    folder = begin("digits", model="lenet5", settings=settings, out=tmp_path / "run", compute=CPU)
    assert [line["epoch"] for line in folder.metrics() if line["kind"] == "val"] == validated
    assert Run.load(folder.path).spec.epoch in validated
    assert [line["epoch"] for line in folder.timing() if line["kind"] == "epoch"] == [1, 2, 3, 4, 5]


def test_what_is_named_and_set_wins_over_the_recipes_network_and_options(cifar: Data) -> None:
    other = plan(cifar, "resnet20_cifar", "speedrun")
    assert other.model == "resnet20_cifar"
    assert "norm_momentum" not in other.options
    assert plan(cifar, None, "speedrun", options={"norm_momentum": 0.4}).options["norm_momentum"] == 0.4
    assert plan(cifar, None, "quick", {"network": "lenet5"}).model == "lenet5"
    check_wishes(None, "speedrun", None, options={"norm_momentum": 0.4})  # no --model is needed
    with pytest.raises(UsageError, match="speedrun_cifar has no option 'norm_momentun'"):
        check_wishes(None, "speedrun", None, options={"norm_momentun": 0.4})
    with pytest.raises(UsageError, match="no network"):
        plan(cifar, None, "quick", {"network": "lenet55"})


def test_a_recipe_says_what_is_held_out_unless_it_is_said(
    cifar: Data, run: RunFolder, tmp_path: Path
) -> None:
    assert to_read("speedrun", None, {"on_bad": "skip"}) == {"val_share": 0, "on_bad": "skip"}
    assert to_read("speedrun", {"val_share": "0.2"}, {})["val_share"] == 0.2
    assert to_read("speedrun", None, {"val_share": 0.3})["val_share"] == 0.3
    assert to_read("quick", None, {})["val_share"] == 0.1
    assert run.read_run()["command"][-2:] == ["--val-share", "0.1"]  # as those images had been read
    settings = {**SMALL, "epochs": 1}
    whole = api.train(cifar.where, recipe="speedrun", settings=settings, out=tmp_path / "whole", compute=CPU)
    decided = whole.folder.read_run()
    assert decided["data"]["counts"]["train"] == len(cifar.train) + len(cifar.val) == 360  # 40 are test
    assert "--val-share" not in decided["command"]
    assert (
        api.train(from_run=whole.folder.path, out=tmp_path / "again", compute=CPU).folder.read_run()[
            "fingerprint"
        ]
        == decided["fingerprint"]
    )
    some = api.train(from_run=whole.folder.path, val_share=0.2, out=tmp_path / "some", compute=CPU)
    assert some.folder.read_run()["data"]["counts"]["val"] == 70  # and not what that run had: none


def test_without_images_to_validate_with_the_last_weights_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"epochs": 2, "batch_size": 512, "ema": 0.9}
    reading = {"val_share": 0}
    run = api.train("digits", "lenet5", settings=settings, reading=reading, out=tmp_path / "run", compute=CPU)
    assert run.folder.evaluation("val") is None
    assert run.spec.epoch == 2
    assert run.spec.score == {}
    assert run.folder.read_run()["data"]["counts"]["val"] in (0, {})
    page = (tmp_path / "run" / "report.html").read_text()
    assert "the weights are those of the last epoch, 2" in page
    before = run.folder.metrics_path.read_bytes()
    api.resume(tmp_path / "run", compute=CPU)
    assert run.folder.metrics_path.read_bytes() == before
    assert api.evaluate(run).count == 359
    kept = read_weights(sorted(run.folder.checkpoints.iterdir())[-1] / "ema.safetensors")
    assert all(torch.equal(value, run.model.state_dict()[name]) for name, value in kept.items())
    with pytest.raises(UsageError, match="early_stopping = 3"):
        api.train("digits", "lenet5", settings={"early_stopping": 3}, reading=reading, compute=CPU)
    with pytest.raises(DataError, match="validate with"):
        begin(open_data("digits", val_share=0), model="lenet5", out=tmp_path / "other", compute=CPU)


def test_going_on_without_numba_says_that_bits_differ(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    class Listener(Observer):
        def noted(self, message: str) -> None:
            notes.append(message)

    for with_numba in (True, False):
        copy = shutil.copytree(run.path, tmp_path / str(with_numba))
        monkeypatch.setattr(compiled, "installed", lambda with_numba=with_numba: with_numba)
        api.resume(copy, compute=CPU, observer=Listener())
        changed = [note for note in notes if "changed since the checkpoint: torch" in note]
        assert bool(changed) != with_numba
        assert all("with numba" in note for note in changed)
