"""Three ways to watch a training: bars in a terminal, lines in a log, JSON for a program."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from convatlas.cli import console
from convatlas.train.observer import Observer

LINE_SECONDS = 10.0  # between two lines of one epoch


def clock(seconds: float) -> str:
    """A duration for people: "0:07", "12:30", "1:02:03".

    Examples:
        >>> clock(7.4), clock(750), clock(3723)
        ('0:07', '12:30', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Watch(Observer):
    """Counts what every view shows: the loss, smoothed, images per second, and the time that is left.

    Validation counts as time but not as speed, so that the rate is the training's own and the remaining
    time is the run's.
    """

    def __init__(self) -> None:
        self.steps = self.per_epoch = self.epochs = self.step = self.first = self.images = 0
        self.loss = float("nan")
        self.training_seconds = 0.0
        self.begin = self.before = time.monotonic()

    def started(self, *, steps: int, steps_per_epoch: int, epochs: int, step: int) -> None:
        """Training begins at `step`."""
        self.steps, self.per_epoch, self.epochs = steps, steps_per_epoch, epochs
        self.step = self.first = step
        self.begin = self.before = time.monotonic()

    def stepped(self, *, step: int, epoch: int, loss: float, lr: float, images: int) -> None:
        """One more step."""
        now = time.monotonic()
        self.training_seconds += now - self.before
        self.before = now
        self.step, self.images = step, self.images + images
        self.loss = loss if self.loss != self.loss else 0.95 * self.loss + 0.05 * loss

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Validation is over: the clock of training goes on from here."""
        self.before = time.monotonic()

    @property
    def images_per_second(self) -> float:
        """Of training, validation left out; 0 before the first step."""
        return self.images / self.training_seconds if self.training_seconds else 0.0

    @property
    def seconds_left(self) -> float:
        """What the remaining steps will take at the pace so far; 0 before the first step."""
        done = self.step - self.first
        return (time.monotonic() - self.begin) / done * (self.steps - self.step) if done else 0.0

    def validation(self, record: Mapping[str, Any]) -> str:
        """One line for an epoch that has been validated."""
        best = "  best so far" if record.get("best") else ""
        return (
            f"epoch {record['epoch']}/{self.epochs}  train loss {self.loss:.3f}  "
            f"val loss {record['loss']:.3f}  val top-1 {100 * record['top1']:.2f} %{best}"
        )


class Lines(Watch):
    """Plain lines: one an epoch, and one every ten seconds in between."""

    def __init__(self) -> None:
        super().__init__()
        self.said = time.monotonic()

    def stepped(self, *, step: int, epoch: int, loss: float, lr: float, images: int) -> None:
        """Say where the training stands, now and then."""
        super().stepped(step=step, epoch=epoch, loss=loss, lr=lr, images=images)
        if time.monotonic() - self.said >= LINE_SECONDS:
            self.said = time.monotonic()
            console.write(
                f"epoch {epoch}/{self.epochs}  step {step}/{self.steps}  loss {self.loss:.3f}  lr {lr:.2g}  "
                f"{self.images_per_second:,.0f} images/s  {clock(self.seconds_left)} left\n"
            )

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Say how the epoch went."""
        super().evaluated(record)
        self.said = time.monotonic()
        console.write(f"{self.validation(record)}  {self.images_per_second:,.0f} images/s\n")

    def noted(self, message: str) -> None:
        """Pass a note on."""
        console.say(message)


class JsonLines(Observer):
    """One JSON object per line and event on stdout; `event` says which."""

    def started(self, **values: Any) -> None:
        """`steps`, `steps_per_epoch`, `epochs`, `step`."""
        console.write_json({"event": "started", **values}, indent=None)

    def stepped(self, **values: Any) -> None:
        """`step`, `epoch`, `loss`, `lr`, `images`."""
        console.write_json({"event": "step", **values}, indent=None)

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """The line of metrics.jsonl."""
        console.write_json({"event": "validated", **record}, indent=None)

    def noted(self, message: str) -> None:
        """`message`."""
        console.write_json({"event": "note", "message": message}, indent=None)


class _Speed(ProgressColumn):
    """Loss, speed and remaining time, from the `Watch` that stands in the task's fields."""

    def render(self, task: Task) -> Text:
        watch: Watch = task.fields["watch"]
        if not watch.images:
            return Text("")
        return Text(
            f"loss {watch.loss:.3f}  {watch.images_per_second:,.0f} images/s  {clock(watch.seconds_left)} left",
            style="cyan",
            no_wrap=True,
        )


class Bars(Watch):
    """A bar for the epoch that is under way; finished epochs stay above it as lines."""

    def __init__(self) -> None:
        super().__init__()
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
            _Speed(),
            console=console.terminal(),
            transient=True,
        )
        self.bar = self.progress.add_task("", total=1, watch=self)

    def started(self, *, steps: int, steps_per_epoch: int, epochs: int, step: int) -> None:
        """Show the bar."""
        super().started(steps=steps, steps_per_epoch=steps_per_epoch, epochs=epochs, step=step)
        self.progress.update(self.bar, total=steps_per_epoch)
        self.progress.start()

    def stepped(self, *, step: int, epoch: int, loss: float, lr: float, images: int) -> None:
        """Move the bar."""
        super().stepped(step=step, epoch=epoch, loss=loss, lr=lr, images=images)
        done = step - (epoch - 1) * self.per_epoch
        self.progress.update(self.bar, completed=done, description=f"epoch {epoch}/{self.epochs}")

    def evaluating(self, *, epoch: int) -> None:
        """Say what takes the time."""
        self.progress.update(self.bar, description=f"epoch {epoch}/{self.epochs}, validation")

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Leave a line for the epoch."""
        super().evaluated(record)
        self.progress.console.print(self.validation(record))

    def noted(self, message: str) -> None:
        """Leave a line for the note."""
        self.progress.console.print(console.printable(message))

    def close(self) -> None:
        """Take the bar away, also after an error."""
        self.progress.stop()
