"""What a training loop tells to whoever watches: a terminal, a notebook, a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Observer:
    """Every method does nothing; override what you want to see. Called on rank 0 only."""

    def started(self, *, steps: int, steps_per_epoch: int, epochs: int, step: int) -> None:
        """Training begins, or goes on, at optimiser step `step` of `steps`."""

    def begun(self, *, epoch: int) -> None:
        """An epoch begins, or goes on; what was before it is on the disk."""

    def stepped(self, *, step: int, epoch: int, loss: float, lr: float, images: int) -> None:
        """One optimiser step was made with `images` images."""

    def evaluating(self, *, epoch: int) -> None:
        """Validation of an epoch begins."""

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Validation ended; `record` is its line of metrics.jsonl."""

    def saving(self, *, step: int) -> None:
        """A checkpoint is about to be written."""

    def noted(self, message: str) -> None:
        """Something a user should know: a skipped step, a rollback, an early stop."""

    def ended(self) -> None:
        """The last epoch is over."""
