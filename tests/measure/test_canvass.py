"""Every network counted for a use: against `measure`, and nobody forgotten."""

from __future__ import annotations

import pytest

from convatlas.layers.blueprint import blueprint
from convatlas.measure import canvass as module
from convatlas.measure import measure
from convatlas.measure.advice import Budget
from convatlas.measure.canvass import FAR, Use, canvass
from convatlas.measure.memory import predict
from convatlas.models import create_model, find, list_models

SOME = (
    "alexnet", "resnet18", "resnet20_cifar", "vgg16", "mobilenet_v1", "mobilenet_v1_r128", "mobilenet_v1_r192",
    "efficientnet_b0", "efficientnet_b0_r2", "efficientnet_b3", "efficientnet_b0_compound", "inception_v3", "googlenet",
    "squeezenet1_1", "lenet5",
)  # fmt: skip


@pytest.fixture
def _some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "specs", lambda: [find(name) for name in (*SOME, "densenet121")])


@pytest.mark.usefixtures("_some")
def test_counts_are_those_of_measure() -> None:
    found = canvass(Use(side=96, classes=37), "imagenet")
    names = {each.name for each in found.candidates}
    assert {"resnet18", "vgg16", "googlenet", "squeezenet1_1", "densenet121"} <= names
    for each in found.candidates:
        with blueprint():
            network = create_model(each.name, 37)
        cost = measure(network, (3, 96, 96))
        assert each.macs == cost.macs
        assert each.params == cost.params - cost.unused_params  # googlenet's auxiliary heads are left out
        assert each.memory_bytes == predict(network, (3, 96, 96)).peak
        assert each.memory_bytes >= 4 * each.params


@pytest.mark.usefixtures("_some")
def test_names_of_one_network_are_one_candidate() -> None:
    same = {each.name: each.same for each in canvass(Use(side=96), "imagenet").candidates if each.same}
    assert same == {
        "mobilenet_v1": ("mobilenet_v1_r128", "mobilenet_v1_r192"),  # 224 pixels is nearest to most figures
        "efficientnet_b0": ("efficientnet_b0_r2",),
        "efficientnet_b3": ("efficientnet_b0_compound",),  # it has official weights
    }


def test_of_two_trainings_of_one_network_the_better_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in (["simpnet_t2_13", "simpnet_slim_300k"], ["simpnet_slim_300k", "simpnet_t2_13"]):
        chosen = [*map(find, names), find("densenet121"), find("densenet169")]
        monkeypatch.setattr(module, "specs", lambda chosen=chosen: chosen)
        (only,) = canvass(Use(side=32), "cifar10").candidates
        assert (only.name, only.evidence.error_pct, only.same) == (
            "simpnet_slim_300k",
            6.75,
            ("simpnet_t2_13",),
        )


@pytest.mark.usefixtures("_some")
def test_reasons_are_kept() -> None:
    found = canvass(Use(side=96, classes=10), "imagenet", Budget(max_params=5_000_000))
    assert found.without_evidence == ("resnet20_cifar", "lenet5")
    assert found.too_small_an_image == ("inception_v3",)
    assert list(found.far) == ["alexnet", "vgg16"]
    for name, size in found.far.items():
        assert size == sum(parameter.numel() for parameter in create_model(name, 10).parameters())
    for each in found.candidates:
        assert each.params <= FAR * 5_000_000
    assert found.total == len(SOME) + 1
    small = canvass(Use(side=32, classes=10), "cifar10")
    assert [each.name for each in small.candidates] == ["resnet20_cifar"]


@pytest.mark.usefixtures("_some")
def test_official_weights_are_marked() -> None:
    weights = {each.name: each.weights for each in canvass(Use(side=96), "imagenet").candidates}
    assert weights["resnet18"] == ("torchvision", "timm")
    assert weights["mobilenet_v1"] == ("timm",)
    assert weights["googlenet"] == ("torchvision",)


@pytest.mark.usefixtures("_some")
def test_more_images_and_training_need_more_memory() -> None:
    def memory(**wish: int | bool) -> dict[str, int]:
        found = canvass(Use(side=96, classes=10, **wish), "imagenet", Budget(2_000_000))  # type: ignore[arg-type]
        return {each.name: each.memory_bytes for each in found.candidates if each.memory_bytes is not None}

    one, eight, step = memory(), memory(batch=8), memory(batch=8, train=True)
    assert "squeezenet1_1" in one
    assert "efficientnet_b0" not in one, "over the budget: it decides nothing there"
    for name, bytes_ in one.items():
        assert bytes_ < eight[name] < step[name]
        assert eight[name] < 8 * bytes_  # the weights are there once


def test_the_whole_canon_is_accounted_for() -> None:
    found = canvass(Use(side=128, classes=37), "imagenet", Budget(max_params=5_000_000, max_macs=10**8))
    names = [each for candidate in found.candidates for each in (candidate.name, *candidate.same)]
    names += [*found.without_evidence, *found.too_small_an_image, *found.far]
    assert sorted(names) == sorted(list_models(task="classification"))
    assert found.total == len(names)
