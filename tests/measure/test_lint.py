"""The rules: they part the networks of the paper's tables, and each is broken alone by a network made for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convatlas.layers.blueprint import blueprint
from convatlas.measure.lint import Lint, lint, markdown, rich_table, summary
from convatlas.measure.principles import GROWTH, PRINCIPLES
from convatlas.models import create_model, find
from convatlas.models.simpnet import SimpNet

EXPANSION, GROUPS, CORRELATION, INFORMATION, PERFORMANCE, BALANCE, DROPOUT = (
    principle.name for principle in PRINCIPLES
)
SIX = [EXPANSION, GROUPS, CORRELATION, INFORMATION, PERFORMANCE, BALANCE]


def canon(name: str) -> Lint:
    spec = find(name)
    with blueprint():
        model = create_model(name)
    return lint(model, (spec.channels, spec.image, spec.image))


def broken(linted: Lint) -> set[str]:
    return {finding.principle for finding in linted.broken}


def planned(plan: str) -> set[str]:
    """What a network of the words of a SimpNet plan breaks; it has no dropout."""
    with blueprint():
        model = SimpNet(plan)
    return broken(lint(model, (3, 32, 32))) - {DROPOUT}


# --- the networks of the paper ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simpnet_slim_600k", "simpnet_slim_1m", "simpnet_5m", "simpnet_8_9m"])
def test_simpnet_follows_its_principles(name: str) -> None:
    assert broken(canon(name)) == set()


def test_slim_300k_was_released_without_dropout() -> None:
    assert broken(canon("simpnet_slim_300k")) == {DROPOUT}


@pytest.mark.parametrize("depth", [8, 9, 10, 13])
def test_the_networks_of_table_2_are_told_apart_by_depth_alone(depth: int) -> None:
    """The one of 13 layers has the plan of slim 300K: no rule on plans can follow one and break the other."""
    finding = canon(f"simpnet_t2_{depth}").findings[0]
    assert finding.verdict == "follows"
    assert finding.numbers["layers"] == depth


@pytest.mark.parametrize(
    ("better", "worse", "parted_by"),
    [
        ("simpnet_t3_10", "simpnet_t3_6", {EXPANSION, BALANCE}),
        ("simpnet_t4_10_balanced", "simpnet_t4_10_wide", {BALANCE}),
        ("simpnet_t4_13_balanced", "simpnet_t4_13_wide", {EXPANSION, BALANCE}),
        ("simpnet_t6_15_pool", "simpnet_t6_15_strided", {INFORMATION}),
        ("simpnet_t6_15_pool_relu", "simpnet_t6_15_strided_relu", {INFORMATION}),
        ("simpnet_t6_resnet32_pool", "simpnet_t6_resnet32_strided", {INFORMATION}),
        ("simpnet_slim_300k", "squeezenet1_1_cifar", {CORRELATION, BALANCE}),
    ],
)
def test_pairs_of_the_tables(better: str, worse: str, parted_by: set[str]) -> None:
    assert broken(canon(worse)) - broken(canon(better)) == parted_by


def test_early_pools_of_table_5() -> None:
    """53K parameters; 77.34, 79.09 and 79.44 % (authors' files)."""
    early = "6 12 12 P 12 19 19 19 19 19 28 P 28 35 43"
    usual = "6 12 12 12 19 P 19 19 19 19 28 P 28 35 43"
    late = "6 12 12 12 19 19 19 P 19 19 28 P 28 35 43"
    with blueprint():
        assert sum(param.numel() for param in SimpNet(early).parameters()) == pytest.approx(53e3, rel=0.02)
    assert [planned(plan) for plan in (early, usual, late)] == [{INFORMATION}, set(), set()]


def test_early_1x1_of_table_8() -> None:
    """128K parameters: 1x1 in the first three layers, 87.71 % (authors' files); the same with 3x3."""
    early = "21x1 32x1 32x1 32 32 P 32 32 32 32 P 37 48 49 50"
    assert planned(early) == {CORRELATION}
    assert planned(early.replace("x1", "")) == set()


def test_late_1x1_of_table_4_preserves() -> None:
    finding = canon("simpnet_t4_13_balanced").findings[2]
    assert finding.verdict == "follows"
    assert (finding.numbers["pointwise"], finding.numbers["first"]) == (2, 12)


def test_kernels_of_table_7() -> None:
    """The 8 layers of table II with larger kernels."""

    def network(kernels: list[int]) -> nn.Module:
        model = SimpNet("41 43 70 P 70 70 70 85 P 90")
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        for module, kernel in zip(convolutions, kernels, strict=True):
            module.weight = nn.Parameter(torch.empty(*module.weight.shape[:2], kernel, kernel))
            module.padding = (kernel // 2,) * 2
        return model

    for kernels in ([5] * 8, [7] * 8, [7, 7, 3, 3, 3, 3, 3, 3]):
        with blueprint():
            assert PERFORMANCE in broken(lint(network(kernels), (3, 32, 32))), kernels
    with blueprint():
        assert broken(lint(network([3] * 8), (3, 32, 32))) == {DROPOUT}


# --- each principle alone ---------------------------------------------------------------------------------


def plain(
    widths: str, *, kernel: Callable[[int], int] = lambda _: 3, dropout: float = 0.2, stride: bool = False
) -> nn.Module:
    """Convolutions of these widths, a pool (or a stride) at each bar, dropout after each, a classifier."""
    layers: list[nn.Module] = []
    channels, number, step = 3, 0, 1
    for word in widths.split():
        if word == "|":
            if stride:
                step = 2
            else:
                layers.append(nn.MaxPool2d(2))
            continue
        side = kernel(number)
        layers += [nn.Conv2d(channels, int(word), side, step, side // 2), nn.ReLU(), nn.Dropout(dropout)]
        channels, number, step = int(word), number + 1, 1
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


GOOD = "32 48 48 48 | 64 64 64 64 | 80 80 80 80"


def test_the_network_that_the_others_are_made_of_follows_all() -> None:
    linted = lint(plain(GOOD), (3, 32, 32))
    assert [finding.verdict for finding in linted.findings] == ["follows"] * 7
    assert summary(linted) == "7 of 7 followed"


@pytest.mark.parametrize(
    ("network", "principle", "where"),
    [
        (plain("32 48 48 48 | 64 64 64 64 | 60 60 60 60"), EXPANSION, "26"),
        (plain("12 12 12 48 | 64 64 64 64 | 80 80 80 80"), EXPANSION, "9"),
        (plain("32 48 48 48 | 64 | 80 | 96 | 112", kernel=lambda _: 3), GROUPS, "13"),
        (plain(GOOD, kernel=lambda n: 1 if n == 2 else 3), CORRELATION, "6"),
        (plain("32 32 | 48 48 48 48 48 | 80 80 80 80 80"), INFORMATION, "6"),
        (plain(GOOD, stride=True), INFORMATION, "12"),
        (plain(GOOD, kernel=lambda _: 5), PERFORMANCE, "0"),
        (plain("20 24 24 24 | 24 24 24 24 | 48 99 99 99"), BALANCE, "35"),
        (plain(GOOD, dropout=0.0), DROPOUT, "0 to 9"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_principle_is_broken_alone(network: nn.Module, principle: str, where: str) -> None:
    linted = lint(network, (3, 32, 32))
    assert broken(linted) == {principle}
    assert where in linted.broken[0].where


def test_dropout_in_the_head_is_not_dropout_of_the_layers() -> None:
    assert DROPOUT in broken(canon("vgg16"))
    numbers = canon("vgg16").findings[-1].numbers
    assert len(numbers["dropouts"]) == 2
    assert numbers["groups_without"] == 5


def test_a_shortcut_is_no_early_1x1() -> None:
    assert CORRELATION not in broken(canon("resnet18"))
    assert CORRELATION in broken(canon("resnet50"))


def test_a_separable_convolution_is_no_early_1x1() -> None:
    assert CORRELATION not in broken(canon("mobilenet_v1"))
    assert CORRELATION in broken(canon("mobilenet_v2"))


def test_what_does_not_apply() -> None:
    perceptron = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))
    assert {finding.verdict for finding in lint(perceptron, (3, 2, 2)).findings} == {"does not apply"}
    lone = lint(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), (3, 4, 4))
    assert {each.principle for each in lone.findings if each.verdict == "does not apply"} == {
        *(EXPANSION, GROUPS, INFORMATION, PERFORMANCE, BALANCE)
    }


# --- laws -------------------------------------------------------------------------------------------------

LEVELS = st.lists(
    st.lists(st.integers(4, 60), min_size=1, max_size=4), min_size=1, max_size=4
)  # widths, level by level


@settings(max_examples=80, deadline=None)
@given(LEVELS)
def test_expansion_is_what_the_widths_say(levels: list[list[int]]) -> None:
    """Levels that narrow, or a step of more than 2.5 times, break it; rising widths do neither."""
    widths = [width for level in levels for width in level]
    if len(widths) < 2:
        return
    finding = lint(plain(" | ".join(" ".join(map(str, level)) for level in levels)), (3, 32, 32)).findings[0]
    steps = [widths[place] / max(widths[:place]) for place in range(1, len(widths))]
    narrows = any(max(after) < max(before) for before, after in pairwise(levels))
    sizes = [9 * a * b + b for a, b in zip([3, *widths], widths, strict=False)]
    expected = narrows or max(steps) > GROWTH or max(sizes) / sum(sizes) > 0.4
    assert (finding.verdict == "breaks") == expected
    assert finding.numbers["largest_growth"] == pytest.approx(max(1, *steps), abs=5e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(20, 24), min_size=6, max_size=12))
def test_rising_widths_follow(widths: list[int]) -> None:
    findings = lint(plain(" ".join(map(str, sorted(widths)))), (3, 16, 16)).findings
    assert {each.principle for each in findings if each.verdict == "follows"} == {*SIX, DROPOUT} - {
        INFORMATION
    }
    assert findings[3].verdict == "does not apply"


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 14), st.data())
def test_a_later_pool_never_hurts(depth: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, depth - 1))

    def earliest(after: int) -> float:
        words = ["16"] * depth
        words.insert(after, "|")
        return lint(plain(" ".join(words)), (3, 16, 16)).findings[3].numbers["earliest_of_even_place"]

    assert earliest(first) < earliest(first + 1)
    assert earliest(first) == pytest.approx(2 * first / depth, abs=5e-4)


# --- printed ----------------------------------------------------------------------------------------------


def test_every_finding_says_what_it_rests_on() -> None:
    for finding in canon("googlenet").findings:
        assert finding.rule
        assert "section" in finding.source
        assert finding.ours
        assert finding.says
        assert finding.numbers


def test_the_formats_say_the_same() -> None:
    linted = canon("alexnet")
    plainly = json.loads(json.dumps(linted.to_json()))
    assert [each["verdict"] for each in plainly["findings"]] == [each.verdict for each in linted.findings]
    text = markdown(linted)
    rows = [line.split(" | ") for line in text.splitlines()[2:9]]
    assert [row[1] for row in rows] == [each.verdict for each in linted.findings]
    assert all(each.says in text and each.rule in text for each in linted.findings)
    assert rich_table(linted).row_count >= 7 * 5


def test_the_network_is_given_back_as_it_was() -> None:
    model = plain(GOOD).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lint(model, (3, 32, 32))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
