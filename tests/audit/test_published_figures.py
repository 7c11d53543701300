"""`audit`: what holds, what differs, and what an explanation has to do to be one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import nn

from convatlas.audit import Check, audit, table
from convatlas.audit.counted import Counted, counted
from convatlas.audit.explained import (
    EXPLAINED,
    RECORDED,
    SLIPS,
    Explanation,
    Known,
    cut,
    in_kibi,
    of_the_authors_blocks,
    with_normalisation,
    without_classifier,
    without_normalisation,
)
from convatlas.errors import UsageError
from convatlas.measure import measure
from convatlas.models import create_model
from convatlas.models.lenet import LeNet5
from convatlas.models.printed import agrees, value
from convatlas.registry import _SPECS, Paper, Published, find, register

Claimed = Callable[..., list[Check]]


@pytest.fixture
def claimed() -> Iterator[Claimed]:
    """Register LeNet-5 with these printed figures, and audit it."""

    def check(name: str = "planted", **figures: object) -> list[Check]:
        published = Published(**figures)  # pyright: ignore[reportArgumentType]
        register(name, LeNet5, paper=Paper("A paper", 2000), family="lenet", image=32, channels=1, classes=10,
                 published=published)  # fmt: skip
        return audit(name)

    yield check
    _SPECS.pop("planted", None)
    counted.cache_clear()


def test_right_figures_hold(claimed: Claimed) -> None:
    checks = claimed(params="61,706", macs="0.42M", layers=5, params_by_layer={"features.C1": "156"},
                     macs_by_layer={"head.F6": "10K"})  # fmt: skip
    assert [check.status for check in checks] == ["holds"] * 5
    assert [check.exact for check in checks] == [61_706, 416_520, 5, 156, 10_080]
    assert [check.ours for check in checks] == ["61,706", "0.42M", "5", "156", "10K"]


@pytest.mark.parametrize(
    ("figure", "printed"),
    [("params", "60,000"), ("macs", "416,521"), ("layers", 6), ("params_by_layer", {"features.C1": "157"})],
)
def test_a_wrong_figure_is_seen(claimed: Claimed, figure: str, printed: object) -> None:
    (check,) = claimed(**{figure: printed})
    assert check.status == check.verdict == "differs"
    assert check.unexplained
    assert {verdict: n for verdict, n in table.counts([check]).items() if n} == {"differs": 1}


def test_errors_need_the_training(claimed: Claimed) -> None:
    checks = claimed(
        top1_error_pct="9.1", error_pct="0.8", test="MNIST test", other_errors_pct={"MNIST, 1 epoch": "2.0"}
    )
    assert {check.status for check in checks} == {"not computable"}
    assert [(check.figure, check.why) for check in checks] == [
        ("top-1 error (MNIST test)", "needs the training"),
        ("error (MNIST test)", "needs the training"),
        ("error (MNIST, 1 epoch)", "needs the training"),
    ]
    assert not any(check.unexplained for check in checks)


@pytest.mark.parametrize(("gives", "verdict"), [(61_000, "explained"), (62_000, "differs")])
def test_an_explanation_has_to_give_the_printed_figure(
    claimed: Claimed, monkeypatch: pytest.MonkeyPatch, gives: int, verdict: str
) -> None:
    row = Explanation("digits are cut off", lambda of: gives)
    monkeypatch.setitem(EXPLAINED, ("planted", "params"), row)
    (check,) = claimed(params="61K")
    assert check.verdict == verdict
    assert check.why == ("digits are cut off" if verdict == "explained" else "")


def test_shufflenets_authors_have_unequal_halves() -> None:
    """Their first block built and measured: 24 channels on one side, the other 92 on the other."""
    of = counted("shufflenet_v2_x1_0")
    with torch.device("meta"):
        network = create_model("shufflenet_v2_x1_0")
        first = network.features.stage2[0]
        first.shortcut.conv.conv = nn.Conv2d(24, 24, 1, bias=False)
        first.shortcut.conv.bn = nn.BatchNorm2d(24)
        first.branch.conv2.conv = nn.Conv2d(58, 92, 1, bias=False)
        first.branch.conv2.bn = nn.BatchNorm2d(92)
    assert of_the_authors_blocks(of) == measure(network, (3, 224, 224)).macs + 1024 * 7 * 7 == 145_864_472


def test_an_explanation_of_what_holds_is_not_used(claimed: Claimed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPLAINED, ("planted", "params"), Explanation("no need", lambda of: of.params))
    (check,) = claimed(params="62K")
    assert (check.verdict, check.why) == ("holds", "")


def test_every_explanation_is_of_a_figure_that_differs() -> None:
    for name, figure in EXPLAINED:
        found = [check for check in audit(name) if check.figure == figure]
        assert [check.verdict for check in found] == ["explained"], (name, figure)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="vgg16"):
        audit("vgg61")


def test_names_and_their_order() -> None:
    checks = audit("vgg16", "lenet5_1998")
    assert list(dict.fromkeys(check.subject for check in checks)) == ["vgg16", "lenet5_1998"]


def test_auxiliary_heads_are_left_out() -> None:
    of = counted("googlenet_paper")
    assert of.params == 6_998_552
    assert sum(p.numel() for p in of.network.parameters()) == 13_378_280


def test_frozen_weights_are_no_parameters() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1))
    network[0].requires_grad_(False)
    of = Counted(network, (3, 8, 8))
    assert (of.params, of.params_of("0"), of.weights_of("0"), of.macs_of("1")) == (25, 16, 12, 20 * 64)
    assert of.shapes["0"] == (4, 8, 8)


def test_ways_of_counting() -> None:
    of = counted("resnet50")
    assert cut(of.params, 1e6) == 25e6
    assert without_classifier(of) == 23_508_032
    assert without_normalisation(of) == of.params - 2 * 26_560
    assert partial(cut, to=1e8)(of.macs) == 4.0e9


def test_json_is_plain() -> None:
    import json

    plain = json.loads(json.dumps(table.to_json(audit("lenet5_1998"))))
    assert plain["counts"]["differs"] == 0
    assert plain["figures"][0] == {
        "subject": "lenet5_1998", "figure": "params", "printed": "60,000", "status": "holds", "ours": "60,000",
        "exact": 60_000, "why": "", "verdict": "holds",
    }  # fmt: skip


def test_an_error_of_a_lecture_excuses_its_own_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slip of 4c is known; another number in its place is not."""
    spec, figure = find("googlenet_paper"), "features.inception4c"
    rows = {**spec.published.params_by_layer, figure: "999K"}
    planted = replace(spec, published=replace(spec.published, params_by_layer=rows))
    found = {check.figure: check for check in audit("googlenet_paper")}
    assert found[f"params of {figure}"].verdict == "explained"
    monkeypatch.setitem(_SPECS, "googlenet_paper", planted)
    found = {check.figure: check for check in audit("googlenet_paper")}
    assert found[f"params of {figure}"].unexplained


@pytest.mark.parametrize("table", [SLIPS, RECORDED])
def test_a_known_difference_excuses_neither_another_print_nor_another_count(
    claimed: Claimed, monkeypatch: pytest.MonkeyPatch, table: dict[tuple[str, str], Known]
) -> None:
    verdict, why = ("explained", "googlenet error 3") if table is SLIPS else ("recorded", "it is so")
    for printed, ours, expected in (
        ("60K", "62K", verdict),
        ("61K", "62K", "differs"),
        ("60K", "63K", "differs"),
    ):
        monkeypatch.setitem(table, ("planted", "params"), Known(printed, ours, why))
        (check,) = claimed(params="60K")
        _SPECS.pop("planted")
        counted.cache_clear()
        assert check.verdict == expected


def test_a_recorded_figure_is_neither_explained_nor_left_without_a_word() -> None:
    for (name, figure), known in RECORDED.items():
        (check,) = [check for check in audit(name) if check.figure == figure]
        assert (check.verdict, check.why, check.unexplained) == ("recorded", known.why, False)
        assert (name, figure) not in EXPLAINED


@pytest.mark.parametrize(
    ("name", "count", "later"),
    [
        ("bn_inception_paper", lambda of: of.params, "11.2M"),
        ("inception_v3", with_normalisation, "5.72B"),
        ("mobilenet_v2_x1_4", without_normalisation, "6.06M"),
        ("mobilenet_v2_x1_4", lambda of: of.macs, "582M"),
        ("mobilenet_v3_large", lambda of: of.macs, "217M"),
    ],
)
def test_what_the_authors_printed_later_is_ours(
    name: str, count: Callable[[Counted], int], later: str
) -> None:
    assert agrees(count(counted(name)), later)


def test_rough_column_of_googlenet() -> None:
    of = counted("googlenet_paper")
    for (name, figure), known in RECORDED.items():
        if name == "googlenet_paper":
            ours = in_kibi(figure.removeprefix("params of "))(of)
            assert ours == pytest.approx(float(value(known.printed)), rel=0.02)


def test_a_broken_network_has_no_explanation() -> None:
    """A row that gives a constant would hide it."""
    broken = SimpleNamespace(weights_of=lambda path: 10**9, macs_of=lambda path: 10**9)
    for figure, printed in (("params of features.conv1", "2.7K"), ("macs of features.conv1", "34M")):
        explanation = EXPLAINED["googlenet_paper", figure]
        assert explanation.gives(printed, counted("googlenet_paper"))
        assert not explanation.gives(printed, cast(Counted, broken))


def test_no_figure_is_left_without_an_explanation() -> None:
    """Over the whole canon: what the exit code of the command says."""
    assert [check for check in audit() if check.unexplained] == []
