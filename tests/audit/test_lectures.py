"""The lectures' claims: every one has a rule or a reason, a wrong number is seen, and the slips are the known ones."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from convatlas.audit import audit, audit_lectures, table
from convatlas.audit.claims import CORRECTIONS, RULES, rule_of
from convatlas.audit.claims.formula import evaluate, gives
from convatlas.audit.claims.rules import Computed, Corrected, Stated, Tried, same, worked_out
from convatlas.audit.lectures import Claim, entries, errors, lectures
from convatlas.audit.slips import Lectures, Verdict, found
from convatlas.errors import UsageError
from convatlas.models import find

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "audit.json"


@pytest.fixture(scope="module")
def audited() -> Lectures:
    return audit_lectures()


# --- the data file ------------------------------------------------------------------------------------------


def test_the_file_is_whole() -> None:
    assert len(entries()) == 178
    assert sum(len(entry.claims) for entry in entries().values()) == 581
    assert len(errors()) == 65
    assert sum(len(entry.ambiguous) for entry in entries().values()) == 36
    assert len(lectures()) == 5
    for entry in entries().values():
        for claim in entry.claims:
            assert claim.lectures
            assert set(claim.lectures) <= set(lectures())


def test_every_lecture_is_named_by_what_it_is() -> None:
    text = (ROOT / "src" / "convatlas" / "audit" / "lectures.json").read_text()
    keys = "|".join(lectures())
    sentences = [c.what for e in entries().values() for c in e.claims] + [
        e.correct for e in errors().values()
    ]
    assert not any(re.search(rf"\b({keys})\b", sentence) for sentence in sentences)
    assert "/" + "work" not in text


# --- the rules ----------------------------------------------------------------------------------------------


def test_rules_name_claims_and_errors_that_exist() -> None:
    claims = {claim.key for entry in entries().values() for claim in entry.claims}
    assert sorted(set(RULES) - claims) == []
    assert sorted(set(CORRECTIONS) - set(errors())) == []


def test_every_claim_has_a_rule_or_a_reason() -> None:
    forgotten = [c.key for entry in entries().values() for c in entry.claims if rule_of(c) is None]
    assert forgotten == []


def test_nothing_differs_without_a_reason(audited: Lectures) -> None:
    assert audited.unexplained == []


def test_every_verdict_occurs(audited: Lectures) -> None:
    assert {f.verdict for f in audited.findings} == {"holds", "slip", "explained", "open", "stated"}


def test_a_rule_that_expects_a_slip_finds_one(audited: Lectures) -> None:
    verdicts = {finding.claim.key: finding.verdict for finding in audited.findings}
    for key, rule in RULES.items():
        if not isinstance(rule, Stated) and getattr(rule, "slip", 0):
            assert verdicts[key] == "slip", key
        if isinstance(rule, Computed) and rule.instead is not None:
            assert verdicts[key] == "explained", key


def test_every_correction_that_is_computed_is_right(audited: Lectures) -> None:
    assert [slip.error.key for slip in audited.slips if slip.wrong] == []
    assert all(slip.checked for slip in audited.slips if slip.error.key in CORRECTIONS)


def test_one_entry() -> None:
    found_here = audit_lectures("vgg16-memory-ledger")
    assert len(found_here.findings) == 26
    assert [slip.checked for slip in found_here.slips] == [("15.24 M", "61", "58")]
    with pytest.raises(UsageError, match="googlenet"):
        audit_lectures("googlenets")


# --- planted faults -----------------------------------------------------------------------------------------


def claim_of(key: str) -> Claim:
    entry, _, number = key.rpartition(" ")
    return entries()[entry].claims[int(number) - 1]


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("conv2d-definition 3", [[12, 12, 17], [10, 17, 19], [9, 6, 15]]),
        ("conv-output-size 5", 54),
        ("conv-output-size 1", "(w - k + p)/s + 1"),
        ("stacked-3x3 6", "24K^2"),
        ("lenet5-original 3", 1517),
        ("alexnet 12", [4096, 4096, 1001]),
        ("vgg-d 2", 139),
        ("vgg16-memory-ledger 20", ["4096", 102760449]),
        ("googlenet 13", ["28x28x257", "159K", "128M"]),
        ("googlenet 23", [64, 96, 128, 16, 32, 33]),
        ("resnet-imagenet 7", [25.6, 44.5, 60.3]),
        ("densenet-imagenet 1", [6, 12, 24, 17]),
        ("efficientnet 1", []),
        ("recipe-vgg 1", 128),
    ],
)  # fmt: skip
def test_a_wrong_number_is_seen(key: str, wrong: object) -> None:
    claim = claim_of(key)
    rule = rule_of(claim)
    assert rule is not None
    assert found(claim, rule).verdict == "holds"
    assert found(replace(claim, value=wrong), rule).verdict == "differs"


WORDS_AND_LISTS: list[object] = [999, 1e40, -1e40, "junk", "", None, [], [[1]], {}, True]


@pytest.mark.parametrize("wrong", WORDS_AND_LISTS, ids=repr)
@pytest.mark.parametrize(
    "key", ["vgg-family 1", "lenet5-simplified 1", "resnet-imagenet 7", "googlenet 13", "stacked-3x3 6"]
)
def test_a_value_of_another_type_differs(key: str, wrong: object) -> None:
    claim = claim_of(key)
    assert found(replace(claim, value=wrong), rule_of(claim)).verdict == "differs"


def test_no_claim_breaks_when_its_value_is_of_another_type() -> None:
    """Here a rule whose number is slow to count stands for itself: its value is worked out once."""
    for key, rule in RULES.items():
        claim = claim_of(key)
        if isinstance(rule, Computed):
            rule = replace(rule, ours=worked_out(rule.ours), instead=worked_out(rule.instead))
        for wrong in WORDS_AND_LISTS:
            assert found(replace(claim, value=wrong), rule).verdict in get_args(Verdict), key


@pytest.mark.parametrize("number", [2, 3, 4])
def test_an_open_number_is_the_stated_one_alone(number: int) -> None:
    claim = claim_of(f"scaling-ablation {number}")
    rule = rule_of(claim)
    assert found(claim, rule).verdict == "open"
    flops, error = claim.value
    assert found(replace(claim, value=[flops + 100_000_000, error]), rule).verdict == "differs"
    assert found(replace(claim, value=[flops, error + 1]), rule).verdict == "differs"


def test_each_kind_of_rule() -> None:
    claim = Claim("alexnet", 1, "a number", 60_000_000, "parameters", ("nndl",))
    assert found(claim, Computed(60_400_000)).verdict == "holds"
    assert found(claim, Computed(lambda: 62_378_344)).verdict == "differs"
    slip = found(claim, Computed(62_378_344, slip=4))
    assert (slip.verdict, slip.ours, slip.slip) == ("slip", "62,378,344", "alexnet error 4")
    assert "62.4 M" in slip.why
    assert found(claim, Computed(62_378_344, slip="squeezenet error 2")).slip == "squeezenet error 2"
    assert found(claim, Computed(62_378_344, instead=60_000_000, why="otherwise")).verdict == "explained"
    assert found(claim, Computed(62_378_344, instead=61_000_000, why="otherwise")).verdict == "differs"
    assert found(claim, Computed(61_000_000, within=0.02)).verdict == "holds"
    assert found(claim, Computed(62_378_344, open=1, stated=60_000_000)).verdict == "open"
    assert found(claim, Computed(62_378_344, open=1, stated=61_000_000)).verdict == "differs"
    assert found(claim, Tried(lambda value: value == 60_000_000)).verdict == "holds"
    assert found(claim, Tried(lambda value: False)).verdict == "differs"
    assert found(claim, Tried(lambda value: False, slip=4)).verdict == "slip"
    assert found(claim, Corrected(2)).why == errors()["alexnet error 2"].correct
    assert found(claim, Stated("a fact")).verdict == "stated"
    assert found(claim, None).verdict == "differs"


@pytest.mark.parametrize(
    ("stated", "ours", "agree"),
    [
        (138, 138.36, True), (138, 138.5, False), (7.3, 7.34, True), (7.3, 7.35, False), (0.0005, 5e-4, True),
        (1_800_000_000, 1_814_073_344, True), (1_800_000_000, 1_750_000_000, True),
        (1_800_000_000, 1_850_000_000, False), (0, 0, True), (0, 1, False), ("159K", 159_400, True),
        ("159K", 159_600, False), ("2.7K", 2_740, True), ("2.7K", 2_760, False), ("about 2M", 2_038_564, True),
        ("64", 64, True), ("3x3", "3x3", True), ("3x3", "5x5", False), ([1, [2, 3]], [1, [2, 3]], True),
        ([1, [2, 3]], [1, [2, 4]], False), ([1, 2], [1], False), ([1, 2.5], [1, None], True),
        (-24, -23.63, True), (-30, -29.29, False),
    ],
)  # fmt: skip
def test_when_numbers_agree(stated: object, ours: object, agree: bool) -> None:
    assert same(stated, ours) is agree


@pytest.mark.parametrize(
    ("text", "values", "result"),
    [
        ("3*(3^2*C^2)", {"C": 2}, 108), ("L(L+1)/2", {"L": 3}, 6), ("28*28*128*1*1*256", {}, 25_690_112),
        ("9*sqrt(alpha)*n^2", {"alpha": 4, "n": 1}, 18), ("(w - k + 2p)/s + 1", {"w": 7, "k": 3, "p": 1, "s": 2}, 4),
        ("-K", {"K": 2}, -2),
    ],
)  # fmt: skip
def test_formulas(text: str, values: dict[str, float], result: float) -> None:
    assert evaluate(text, **values) == result
    assert gives(lambda **_: result, values)(f"{text}; as printed, about 7")
    assert not gives(lambda **_: result + 1, values)(text)


@pytest.mark.parametrize(
    "text", ["__import__('os')", "x.y", "[1][0]", "f(2)", "1 if 1 else 2", "2 +", "q", "'a'*9"]
)
def test_formulas_are_not_code(text: str) -> None:
    with pytest.raises(ValueError, match="is n"):
        evaluate(text)


# --- what is printed ----------------------------------------------------------------------------------------


def test_no_printed_figure_differs_without_a_reason() -> None:
    assert [(check.subject, check.figure) for check in audit() if check.unexplained] == []


def test_counts_are_the_golden_ones(audited: Lectures) -> None:
    counts = {"figures": table.counts(audit()), "lectures": audited.counts}
    if os.environ.get("CONVATLAS_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(counts, indent=2) + "\n")
    assert counts == json.loads(GOLDEN.read_text())


def test_json_is_plain(audited: Lectures) -> None:
    plain = json.loads(json.dumps(audited.to_json()))
    assert Counter(claim["verdict"] for claim in plain["claims"])["slip"] == plain["counts"]["slip"]
    assert len(plain["slips"]) == 65


# --- the pages ----------------------------------------------------------------------------------------------


def test_every_slip_and_every_open_point_is_named_on_a_page() -> None:
    """`<!-- alexnet error 1 -->`: on a family's page, or among the lectures' for what is no network."""
    pages = "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    named = set(re.findall(r"<!-- ([\w-]+ (?:error|ambiguous) \d+) -->", pages))
    wanted = {*errors()} | {
        f"{entry.id} ambiguous {number}"
        for entry in entries().values()
        for number in range(1, len(entry.ambiguous) + 1)
    }
    assert sorted(wanted - named) == []
    assert sorted(named - wanted) == [], "comments that name nothing"


def test_networks_of_rules_exist() -> None:
    source = "".join(file.read_text() for file in (ROOT / "src/convatlas/audit/claims").glob("*.py"))
    for name in re.findall(r'counted\("(\w+)"\)', source):
        find(name)
