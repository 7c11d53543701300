"""`convatlas train` as a command: JSON for programs, resume, several processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from convatlas.cli import main
from convatlas.measure.machine import machine
from convatlas.measure.roof import KERNELS, Rate, Roof
from convatlas.train.limit import Limit
from ranks import Ranks

SHORT = ("train", "digits", "--model", "lenet5", "--batch-size", "128", "--epochs", "1", "--workers", "0")


@pytest.fixture
def convatlas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What a command that succeeds prints, run in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as left:
            main.run(words)
        shown = capsys.readouterr()
        assert left.value.code == 0, shown.err
        return shown.out

    return run


def test_json_tells_a_program_everything(
    convatlas: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {name: Rate(1, 1e10, 1e10, 1e10, 5) for name in KERNELS}
    monkeypatch.setattr("convatlas.api.roof_here", lambda: Roof(rates, machine(), {}, ""))
    events = [json.loads(line) for line in convatlas(*SHORT, "--out", "run", "--json").splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds == ["decided", "started", *["step"] * (1293 // 128), "validated", "done"]
    assert events[0]["model"] == "lenet5"
    assert events[0]["data"]["counts"] == {"train": 1293, "val": 145, "test": 359}
    done = events[-1]
    assert Path(done["report"]).is_file()
    assert done["val"]["top1"] == pytest.approx(events[-2]["top1"])
    assert done["limit"] == json.loads(Path("run", "limit.json").read_text())
    assert 0 < done["limit"]["arithmetic_share"] < done["limit"]["share"]

    answer = json.loads(convatlas("eval", "run", "--json"))
    assert (answer["split"], answer["count"], len(answer["keys"])) == ("test", 359, 359)

    said = convatlas("eval", "run", "--views", "shift")
    assert "359 images, each also shown mirrored and shifted by a pixel, in 6 views)" in said
    assert "in 6 views" in Path("run", "report.html").read_text()
    kept = json.loads(Path("run", "evaluation", "test.json").read_text())
    assert (kept["views"], kept["tta"]) == ("shift", True)
    assert "each also shown mirrored" in convatlas("compare", "run", "--json")


def test_images_are_named_by_place_or_by_option(
    convatlas: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", "lenet5", "--batch-size", "128", "--epochs", "1", "--workers", "0", "--out", "run")
    convatlas("train", "--data", "digits", *words)
    assert json.loads(Path("run", "run.json").read_text())["where"] == "digits"
    assert "accuracy on val" in convatlas("train", "--resume", "run", "--data", "digits")
    with pytest.raises(SystemExit) as left:
        main.run(("train", "digits", "--data", "photos"))
    assert left.value.code == 2
    assert "named twice, as digits and as --data photos" in capsys.readouterr().err


def test_options_reach_the_run_and_a_file_yields_to_them(convatlas: Callable[..., str]) -> None:
    Path("mine.toml").write_text("lr = 0.5\nflip = true\nmomentum = 0.5\n")
    convatlas(*SHORT, "--out", "run", "--quiet", "--config", "mine.toml", "--set", "lr=0.25", "--set", "momentum=0.75",
              "--lr", "0.125", "--seed", "3", "--on-nan", "skip", "--val-share", "0.2")  # fmt: skip
    written = json.loads(Path("run", "run.json").read_text())
    recipe = written["recipe"]
    assert (recipe["lr"], recipe["flip"], recipe["momentum"]) == (0.125, True, 0.75), (
        "flag over --set over file"
    )
    assert (recipe["epochs"], recipe["batch_size"]) == (1, 128)
    assert (written["seed"], written["safety"]["on_nan"]) == (3, "skip")
    assert written["data"]["counts"]["val"] > 250


def test_a_finished_run_resumes_to_itself(
    convatlas: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    convatlas(*SHORT, "--out", "run", "--quiet")
    before = Path("run", "metrics.jsonl").read_bytes()
    limit = Limit(830.0, 0.714, 0.53, "bf16", 5e11, 4e10, "2026-11-30T06:00:00+00:00")
    monkeypatch.setattr("convatlas.api.roof_here", lambda: "a roof")
    monkeypatch.setattr("convatlas.api.reached", lambda decided, epochs, roof: limit)
    said = convatlas("train", "--resume", "run")
    assert "accuracy on val" in said
    assert "\nspeed    830 images/s, 71 % of what this machine can do with this network in bf16\n" in said
    assert Path("run", "metrics.jsonl").read_bytes() == before


def test_what_all_processes_meet_is_said_once(ranks: Ranks, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for words, code, told in (
        (["train", "nowhere"], 3, "nowhere does not exist"),
        (["train", "digits", "--batch-size", "63"], 2, "use --batch-size 62 or 64"),
        ([*SHORT, "--out", str(tmp_path / "file")], 6, "a file of that name is in the way"),
    ):
        words = [*words, "--accelerator", "cpu", "--devices", "2"]
        _, printed, codes = ranks.outcome("reliability.group_work:command", 2, words=words)
        assert codes == [code, code], printed
        assert printed[0].count(told) == 1
        assert printed[1] == ""


def test_two_processes_make_one_run_and_one_prints(ranks: Ranks, tmp_path: Path) -> None:
    words = [*SHORT, "--out", str(tmp_path / "run"), "--accelerator", "cpu", "--devices", "2"]
    codes, printed, _ = ranks.outcome("reliability.group_work:command", 2, words=words)
    assert codes == [0, 0], printed
    assert printed[1] == ""
    assert printed[0].count("accuracy on val") == 1
    assert (
        "2 processes on 1 machine (gloo), 64 images each in a step; the network has no BatchNorm"
        in printed[0]
    )
    report = (tmp_path / "run" / "report.html").read_text()
    assert "2 processes on 1 machine (gloo), 64 images each in a step" in report
    assert "--devices 2</pre>" in report
    val = json.loads((tmp_path / "run" / "evaluation" / "val.json").read_text())
    assert val["count"] == 145, "each image counted once"
