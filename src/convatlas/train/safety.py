"""What happens to a step whose numbers are not finite: the run stops, leaves the step out, or goes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from convatlas.errors import NumericError
from convatlas.train.checkpoint import State

SKIPS_IN_A_ROW = 10  # so many steps without a finite number, and there is nothing left to save
ROLLBACKS = 5


@dataclass(frozen=True)
class Safety:
    """What happens when a number is not finite, and how often a checkpoint is written within an epoch."""

    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    checkpoint_steps: int = 0  # 0: only after epochs and after `checkpoint_seconds`
    checkpoint_seconds: float = 600.0


class RolledBack(Exception):  # noqa: N818
    """The state is that of an earlier checkpoint now."""


def stopped(message: str) -> NumericError:
    """The end of a run whose policy is to stop."""
    return NumericError(
        f"{message} Nothing of this step was kept. Lower the learning rate, clip gradients "
        "(--set clip_norm=1), or go on with --on-nan skip or --on-nan rollback."
    )


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the running statistics, which a forward pass can spoil."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@torch.no_grad()
def leave_out(state: State, model: nn.Module, before: dict[str, Tensor], message: str) -> None:
    """Leave the step out of `state`, and give the network its `statistics` from before it.

    Raises `NumericError` if it is the tenth in a row.
    """
    for name, buffer in model.named_buffers():
        buffer.copy_(before[name])
    state.skipped.append(state.step)
    state.step += 1
    last = state.skipped[-SKIPS_IN_A_ROW:]
    if len(last) == SKIPS_IN_A_ROW and last[-1] - last[0] == SKIPS_IN_A_ROW - 1:
        raise NumericError(f"{message} It was the {SKIPS_IN_A_ROW}th step in a row that had to be skipped.")


def carry_over(broken: State, restored: State) -> None:
    """After a rollback: the rate is halved, and the step that broke is left out when it comes again."""
    restored.rollbacks = broken.rollbacks + 1
    restored.lr_scale = broken.lr_scale / 2
    restored.skipped = [*broken.skipped, broken.step]
