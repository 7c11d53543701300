"""Watching a training: rates, remaining time, and the three ways to print them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import pytest

from convatlas.cli import progress

VALIDATED = {"epoch": 1, "step": 10, "loss": 0.5, "top1": 0.875, "top5": 1.0, "best": True, "weights": "ema"}


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that goes on only when it is told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def train(watch: progress.Observer, passing: Callable[[float], None], first: int = 0) -> None:
    """Ten steps of 32 images, 0.5 s each, then 5 s of validation, of a run of 20 steps in two epochs."""
    watch.started(steps=20, steps_per_epoch=10, epochs=2, step=first)
    for step in range(first + 1, 11):
        passing(0.5)
        watch.stepped(step=step, epoch=1, loss=2.0, lr=0.1, images=32)
    watch.evaluating(epoch=1)
    passing(5.0)
    watch.evaluated(VALIDATED)


@pytest.mark.parametrize("first", [0, 6])
def test_speed_is_the_trainings_and_the_time_left_is_the_runs(
    passing: Callable[[float], None], first: int
) -> None:
    watch = progress.Watch()
    passing(30.0)  # reading the data is neither
    train(watch, passing, first)
    assert watch.images_per_second == pytest.approx(64)
    done, seconds = 10 - first, 0.5 * (10 - first) + 5
    assert watch.seconds_left == pytest.approx(seconds / done * 10)
    assert watch.loss == pytest.approx(2.0)


def test_lines_say_where_it_stands_every_ten_seconds(
    passing: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    watch = progress.Lines()
    watch.started(steps=100, steps_per_epoch=50, epochs=2, step=0)
    for step in range(1, 31):
        passing(1.0)
        watch.stepped(step=step, epoch=1, loss=1.25, lr=0.1, images=8)
    watch.evaluated(VALIDATED)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "epoch 1/2  step 10/100  loss 1.250  lr 0.1  8 images/s  1:30 left"
    assert [line.split()[3] for line in lines[:3]] == ["10/100", "20/100", "30/100"]
    assert (
        lines[3] == "epoch 1/2  train loss 1.250  val loss 0.500  val top-1 87.50 %  best so far  8 images/s"
    )
    assert len(lines) == 4


def test_json_is_one_object_per_line(
    passing: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    watch = progress.JsonLines()
    train(watch, passing)
    watch.noted("rolled back")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["started", *["step"] * 10, "validated", "note"]
    assert events[1] == {"event": "step", "step": 1, "epoch": 1, "loss": 2.0, "lr": 0.1, "images": 32}
    assert events[-2] == {"event": "validated", **VALIDATED}


def test_bars_leave_a_line_for_each_epoch(
    passing: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    bars = progress.Bars()
    try:
        train(bars, passing)
        bars.noted("a note with [red]brackets[/red]")
    finally:
        bars.close()
    shown = screen.getvalue()
    assert "epoch 1/2  train loss 2.000  val loss 0.500  val top-1 87.50 %  best so far" in shown
    assert "a note with [red]brackets[/red]" in shown
    assert "64 images/s" in shown
    assert not bars.progress.live.is_started
