"""Schedules against PyTorch's own, and their laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convatlas.train import schedule

STEPS = 200


def rates_of(scheduler_class: type, **options: object) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = scheduler_class(optimizer, **options)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_is_pytorchs() -> None:
    theirs = rates_of(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=STEPS)
    ours = [schedule.cosine()(step / STEPS) for step in range(STEPS)]
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_steps_are_pytorchs() -> None:
    theirs = rates_of(torch.optim.lr_scheduler.MultiStepLR, milestones=[100, 150], gamma=0.1)
    ours = [schedule.steps([0.5, 0.75])(step / STEPS) for step in range(STEPS)]
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_onecycle_is_pytorchs() -> None:
    theirs = rates_of(
        torch.optim.lr_scheduler.OneCycleLR,
        max_lr=1.0,
        total_steps=STEPS + 1,
        pct_start=61 / (STEPS + 1),  # its peak is one step before this share
        div_factor=25,
        final_div_factor=400,  # of the initial rate: 1 / 25 / 400 = 1e-4
        cycle_momentum=False,
    )
    ours = [schedule.onecycle(0.3, 0.04, 1e-4)(step / STEPS) for step in range(STEPS)]
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_warm_up_is_linear_then_the_schedule() -> None:
    factor = schedule.warmed_up(schedule.cosine(), 0.1, start=0.2)
    assert factor(0) == 0.2
    assert factor(0.05) == pytest.approx(0.6)
    assert factor(0.1) == pytest.approx(1.0)
    assert factor(0.55) == pytest.approx(0.5)
    assert factor(1.0) == pytest.approx(0.0)


def test_levels_follow_the_printed_table() -> None:
    factor = schedule.levels([(0, 1.0), (0.1, 0.4), (0.25, 0.2)])
    assert [factor(p) for p in (0, 0.099, 0.1, 0.24, 0.25, 1)] == [1.0, 1.0, 0.4, 0.4, 0.2, 0.2]


@given(st.floats(0, 1), st.floats(0, 0.9), st.floats(0, 1))
def test_factors_stay_between_zero_and_one(progress: float, share: float, start: float) -> None:
    for base in (schedule.constant(), schedule.cosine(), schedule.onecycle(), schedule.steps([0.3, 0.6])):
        assert -1e-12 <= schedule.warmed_up(base, share, start)(progress) <= 1 + 1e-12


def test_linear_is_pytorchs_and_a_triangle_with_a_warm_up() -> None:
    theirs = rates_of(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=1e-9, total_iters=STEPS)
    ours = [schedule.linear()(step / STEPS) for step in range(STEPS)]
    assert ours == pytest.approx(theirs, abs=1e-6)
    triangle = schedule.warmed_up(schedule.linear(), 0.25)
    assert [triangle(p) for p in (0, 0.125, 0.25, 0.625, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])
