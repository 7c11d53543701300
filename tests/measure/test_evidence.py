"""Which published figure speaks for a network."""

from __future__ import annotations

import re

import pytest
from torchvision.models import get_model_weights

from convatlas.measure.evidence import crops_gain, evidence, kind_for
from convatlas.models import find, specs

GAIN = 1.5  # not the registry's own: it must come from the argument


def test_the_gain_of_ten_crops_is_what_the_densenets_print() -> None:
    one = {"densenet121": 25.02, "densenet169": 23.80, "densenet201": 22.58, "densenet264": 22.15}
    ten = {"densenet121": 23.61, "densenet169": 22.08, "densenet201": 21.46, "densenet264": 20.80}
    assert crops_gain(specs()) == pytest.approx(sum(one[name] - ten[name] for name in one) / 4)


@pytest.mark.parametrize(
    ("name", "error", "counted", "source", "side"),
    [
        ("efficientnet_b0", 22.9, 22.9, "paper", 224),  # one crop where the test says no more
        ("wide_resnet50_2", 21.9, 21.9, "paper", 224),  # "one crop"
        ("densenet121", 25.02, 25.02, "paper", 224),  # "1-crop"
        ("mobilenet_v1_r128", 35.6, 35.6, "paper", 128),
        ("resnet34", 26.686, 26.686, "torchvision", 224),  # the paper's is of ten crops; torchvision has one
        ("vgg16", 28.408, 28.408, "torchvision", 224),  # the paper's is dense evaluation
        ("resnet18", 30.242, 30.242, "torchvision", 224),  # the paper prints none of this form
        ("resnet34_a", 25.03, 25.03 + GAIN, "paper", 224),  # nothing but ten crops
        ("vgg16_c", 27.3, 27.3 + GAIN, "paper", 224),  # nothing but dense evaluation
    ],
)
def test_imagenet(name: str, error: float, counted: float, source: str, side: int) -> None:
    found = evidence(find(name), "imagenet", GAIN)
    assert found is not None
    assert (found.error_pct, found.counted_pct) == (error, pytest.approx(counted))
    assert (found.source, found.side, found.kind) == (source, side, "imagenet")
    assert found.test


@pytest.mark.parametrize(
    ("name", "error", "test"),
    [
        ("resnet56_cifar", 6.97, "CIFAR-10 test, augmented"),
        ("nin_cifar10", 8.81, "CIFAR-10 test, augmented"),  # not the 10.41 without
        ("all_cnn_a", 10.30, "CIFAR-10 test, not augmented"),
        ("densenet_40_12_cifar", 5.24, "CIFAR-10 test, augmented"),
        ("wide_resnet28_10_cifar", 4.00, "CIFAR-10 test, augmented"),  # not that of whitened images
    ],
)
def test_cifar10(name: str, error: float, test: str) -> None:
    found = evidence(find(name), "cifar10", GAIN)
    assert found is not None
    assert (found.error_pct, found.counted_pct, found.test) == (error, error, test)


@pytest.mark.parametrize("name", ["lenet5", "bagnet33", "nin_cifar100", "plain20_cifar"])
def test_nobody_published_one(name: str) -> None:
    assert evidence(find(name), "imagenet", GAIN) is None


def test_the_kinds_are_never_mixed() -> None:
    """No network is ranked by both but where both were published, and each by a test of its kind."""
    for spec in specs():
        small, large = evidence(spec, "cifar10", GAIN), evidence(spec, "imagenet", GAIN)
        assert not (small and large), spec.name
        assert small is None or small.test.startswith("CIFAR-10 test")
        assert large is None or "ILSVRC" in large.test or "IMAGENET" in large.test
    assert [kind_for(side) for side in (28, 32, 64, 65, 224)] == ["cifar10"] * 3 + ["imagenet"] * 2


def test_every_figure_stands_where_it_is_said_to() -> None:
    for spec in specs():
        for kind in ("imagenet", "cifar10"):
            found = evidence(spec, kind, GAIN)
            if found is None:
                continue
            if found.source == "torchvision":
                first = get_model_weights(spec.peers["torchvision"])["IMAGENET1K_V1"]
                assert found.error_pct == pytest.approx(100 - first.meta["_metrics"]["ImageNet-1K"]["acc@1"])
                continue
            published = spec.published
            printed = [published.top1_error_pct, published.error_pct, *published.other_errors_pct.values()]
            assert found.error_pct in [float(error) for error in printed if error]
            several = re.search(r"\b(\d\d+)-crop|single scale", found.test)
            assert (found.counted_pct > found.error_pct) == bool(several), spec.name
