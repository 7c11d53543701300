"""The training loop: one for every task, network and recipe.

At each step it seeds every generator from (seed, step, rank), asks the task for the losses of the batch,
and makes one optimiser step. After each epoch, or as rarely as the recipe says, it validates and keeps the best
weights; it commits a checkpoint. It can be stopped at any moment; going on from there gives the same bits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn
from torchmetrics import Metric

from convatlas.data import Batch, Batches
from convatlas.errors import Interrupted, NumericError
from convatlas.files import commit, forget_after, make_folder
from convatlas.kernels import compiled
from convatlas.layers.winograd import Winograd2d
from convatlas.measure.machine import machine, versions
from convatlas.models.classifier import Classifier
from convatlas.randomness import preserved, seed_step
from convatlas.train import checkpoint, params
from convatlas.train.checkpoint import State
from convatlas.train.computed import computed, laid_out
from convatlas.train.ema import Ema
from convatlas.train.logs import Clock, Logs
from convatlas.train.observer import Observer
from convatlas.train.recipe import Recipe
from convatlas.train.run import RunFolder
from convatlas.train.safety import ROLLBACKS, RolledBack, Safety, carry_over, leave_out, statistics, stopped
from convatlas.train.signals import StopRequest, listening
from convatlas.train.speed import Speed
from convatlas.train.step import NotFinite, Step
from convatlas.train.task import Task
from convatlas.weights import save_weights

LINES_PER_EPOCH = 20  # of the training loss in metrics.jsonl


class Loop:
    """One training: `run` returns when the last epoch is validated, or early stopping says so."""

    def __init__(
        self,
        *,
        task: Task,
        model: nn.Module,
        recipe: Recipe,
        speed: Speed,
        train: Batches,
        val: Batches,
        folder: RunFolder,
        fabric: Fabric,
        spec: Mapping[str, Any],
        seed: int = 0,
        safety: Safety | None = None,
        observer: Observer | None = None,
    ) -> None:
        """`spec` is what best/spec.json says beside the score: model, options, preprocessing, task."""
        self.task, self.recipe, self.train_batches, self.val_batches = task, recipe, train, val
        self.folder, self.fabric, self.spec, self.seed = folder, fabric, dict(spec), seed
        self.safety = safety or Safety()
        self.observer = observer if observer and fabric.is_global_zero else Observer()
        self.total_steps = recipe.epochs * train.steps
        self.log_every = max(1, train.steps // LINES_PER_EPOCH)
        self.speed = speed
        self.plain = model = laid_out(
            model, speed
        )  # without the engine's wrapper: its names are those of the checkpoint
        held = params.hold(model, recipe)
        self.model, self.optimizer = fabric.setup(model, params.optimizer(model, recipe, speed))
        self.step = Step(task, self.model, self.plain, recipe, fabric)
        self.ema = Ema(model, recipe.ema, held) if recipe.ema else None
        self.logs = Logs(folder, writes=fabric.is_global_zero)
        self.state = State()
        self._saved_at = time.monotonic()

    def run(self) -> State:
        """Train from where the folder stands to the end.

        Raises `Interrupted` after a signal (with a checkpoint written), `NumericError` when a number is
        not finite and the policy is to stop, `ResourceError` when the disk refuses.
        """
        with (
            preserved(),
            computed(self.plain, self.speed),
            listening() as stop,
            closing(self.train_batches),
            closing(self.val_batches),
            closing(self.logs),
        ):
            self._restore()
            self.logs.open(self.state)
            self.observer.started(
                steps=self.total_steps,
                steps_per_epoch=self.train_batches.steps,
                epochs=self.recipe.epochs,
                step=self.state.step,
            )
            if self.state.step == 0:
                self._save()  # so that there is always something to go on from
            while not self.state.stopped_early and self.state.validated < self.recipe.epochs:
                try:
                    self._epoch(stop)
                except RolledBack:
                    continue
            self.observer.ended()
        if self.state.best_epoch is None:
            raise NumericError(
                "the validation loss was not finite after any epoch; there are no weights to keep."
            )
        return self.state

    def _epoch(self, stop: StopRequest) -> None:
        """What is left of the epoch in which the state stands: steps, validation, checkpoint."""
        state, epoch = self.state, self.state.validated
        self.observer.begun(epoch=epoch + 1)
        clock = Clock()
        self.model.train()
        if isinstance(self.plain, Classifier):
            self.plain.set_progress(epoch / self.recipe.epochs)
        start = state.step - epoch * self.train_batches.steps
        with closing(self.train_batches.epoch(epoch, start)) as batches:
            for batch in clock.waiting(batches):
                self._step(batch.to(self.fabric.device), epoch)
                clock.images += len(batch) * self.fabric.world_size
                due = self._checkpoint_due() if self.fabric.is_global_zero else False
                stopping, saving = self._agreed(bool(stop), due)
                if stopping:
                    self._stop(stop)
                if saving and state.step < (epoch + 1) * self.train_batches.steps:
                    self._save()
        trained = clock.seconds()
        self._conclude(epoch, stop)
        if clock.images:
            here = machine()
            self.logs.time(
                kind="epoch",
                epoch=epoch + 1,
                seconds=round(trained, 4),
                images=clock.images,
                images_per_second=round(clock.images / trained, 1),
                waiting_share=round(clock.waited / trained, 4),
                validation_seconds=round(clock.seconds() - trained, 4),
                device=self.fabric.device.type,
                world=self.fabric.world_size,
                processor=here["processor"],
                cores=here["cores"],
            )
        self._save()

    # --- one step ---------------------------------------------------------------------------------------

    def _step(self, batch: Batch, epoch: int) -> None:
        """One optimiser step, or the policy for numbers that are not finite."""
        state = self.state
        seed_step(self.seed, state.step, self.fabric.global_rank)
        progress = state.step / self.total_steps
        lr = params.set_rates(self.optimizer, self.recipe, progress, state.lr_scale)
        if (
            self.fabric.world_size == 1
        ):  # several processes wait for every gradient; there the rate alone is 0
            params.hold_over(self.optimizer, progress)
        self.optimizer.zero_grad(set_to_none=True)
        if state.step in state.skipped:  # known to break, since a rollback
            state.step += 1
            return
        before = statistics(self.plain) if self.safety.on_nan == "skip" else {}
        try:
            loss, norm = self.step.gradients(batch)
        except NotFinite as problem:
            self._not_finite(str(problem), batch, before)
            return
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(state.step)
        state.step += 1
        state.window_loss += loss
        state.window_count += 1
        if state.step % self.log_every == 0:
            mean, state.window_loss, state.window_count = state.window_loss / state.window_count, 0.0, 0
            self.logs.metric(kind="train", epoch=epoch + 1, step=state.step, loss=mean, lr=lr, grad_norm=norm)
        self.observer.stepped(
            step=state.step, epoch=epoch + 1, loss=loss, lr=lr, images=len(batch) * self.fabric.world_size
        )

    def _not_finite(self, problem: str, batch: Batch, before: dict[str, Tensor]) -> None:
        """Stop, skip or roll back. The weights have not been touched by this step."""
        state, broken = self.state, self.state.step + 1
        message = f"step {broken}: {problem}. The batch was: {', '.join(self._files(batch))}."
        match self.safety.on_nan:
            case "stop":
                raise stopped(message)
            case "skip":
                self.optimizer.zero_grad(set_to_none=True)
                leave_out(state, self.plain, before, message)
                self.logs.metric(kind="skipped", step=broken, reason=problem)
                self.observer.noted(f"skipped {message}")
            case "rollback":
                if state.rollbacks == ROLLBACKS:
                    raise NumericError(f"{message} {ROLLBACKS} rollbacks did not help.")
                self._restore()
                carry_over(state, self.state)
                back, scale = self.state.step, self.state.lr_scale
                self.logs.open(self.state)
                self.logs.metric(kind="rollback", step=broken, to=back, lr_scale=scale, reason=problem)
                self.observer.noted(f"rolled back to step {back}, learning rate halved: {message}")
                raise RolledBack

    def _files(self, batch: Batch, limit: int = 8) -> list[str]:
        split = self.train_batches.split
        key_of = dict(zip(split.ids.tolist(), split.keys, strict=True))
        keys = [key_of[number] for number in batch.ids.tolist()]
        return keys[:limit] + ([f"and {len(keys) - limit} more"] if len(keys) > limit else [])

    # --- validation -------------------------------------------------------------------------------------

    def _conclude(self, epoch: int, stop: StopRequest) -> None:
        """Validate an epoch where it is due: the last one always. Without images for it the last weights are kept."""
        last = epoch + 1 == self.recipe.epochs
        if not len(self.val_batches.split):
            if last:
                self._share_buffers()
                self.state.best_epoch = epoch + 1
                with self.ema.applied(self.plain) if self.ema else nullcontext():
                    self._keep_best(epoch, {})
        elif last or (epoch + 1) % self.recipe.validate_every == 0:
            self._validate(epoch, stop)
            return
        self.state.validated = epoch + 1

    @torch.no_grad()
    def _validate(self, epoch: int, stop: StopRequest) -> None:
        """Measure on the validation split, with averaged weights where the recipe has them; keep the best."""
        state = self.state
        self.observer.evaluating(epoch=epoch + 1)
        self._share_buffers()
        self.model.eval()
        metrics = {name: metric.to(self.fabric.device) for name, metric in self.task.metrics().items()}
        better, values = False, dict[str, float]()
        with self.ema.applied(self.plain) if self.ema else nullcontext():
            if complete := self._measured(metrics, stop):
                values = {name: float(metric.compute()) for name, metric in metrics.items()}
                if better := self._is_best(values, epoch):
                    self._keep_best(epoch, values)
        self.model.train()
        if not complete:
            self._stop(stop)
        state.validated = epoch + 1
        record = {
            "epoch": epoch + 1,
            "step": state.step,
            "best": better,
            "weights": "ema" if self.ema else "model",
        }
        self.logs.metric(kind="val", **record, **values)
        self.observer.evaluated({**record, **values})
        waited = state.validated - (state.best_epoch or 0)
        if self.recipe.early_stopping and waited >= self.recipe.early_stopping:
            state.stopped_early = True
            self.observer.noted(f"stopped early: {waited} epochs without a better {self.task.score} on val")

    def _measured(self, metrics: Mapping[str, Metric], stop: StopRequest) -> bool:
        """Update the metrics with the whole validation split; False if a signal came before its end."""
        with closing(self.val_batches.epoch(0)) as batches:
            for batch in batches:
                if len(batch):
                    self.task.measure(self.model, batch.to(self.fabric.device), metrics)
                if self._agreed(bool(stop))[0]:
                    return False
        return True

    def _is_best(self, values: Mapping[str, float], epoch: int) -> bool:
        """Whether the score is higher than ever, or equal with a lower loss. Raises `NumericError` on NaN."""
        state, score, loss = self.state, values[self.task.score], values["loss"]
        if not (np.isfinite(score) and np.isfinite(loss)):
            if self.safety.on_nan == "stop":
                raise NumericError(
                    f"after epoch {epoch + 1} the validation loss is {loss}; these weights are not kept."
                )
            return False
        if state.best_score is not None and (score, -loss) <= (state.best_score, -(state.best_loss or 0.0)):
            return False
        state.best_score, state.best_loss, state.best_epoch = score, loss, epoch + 1
        return True

    def _keep_best(self, epoch: int, values: Mapping[str, float]) -> None:
        if self.fabric.is_global_zero:
            score = {"split": "val", **values} if values else {}
            spec = {"format": 1, **self.spec, "epoch": epoch + 1, "score": score}
            parts = {
                "model.safetensors": save_weights(self.plain.state_dict()),
                "spec.json": (json.dumps(spec, indent=2, sort_keys=True) + "\n").encode(),
            }
            commit(make_folder(self.folder.path / "best"), f"epoch-{epoch + 1:04d}", parts)

    # --- stopping, saving, going on ---------------------------------------------------------------------

    def _stop(self, stop: StopRequest) -> NoReturn:
        stop.noticed()
        self._save()
        name = stop.signal.name if stop.signal else "a signal at another process"
        raise Interrupted(
            f"stopped by {name} after step {self.state.step} of {self.total_steps}; nothing is lost. "
            f"Go on with: convatlas train --resume {self.folder.path}",
            stop.exit_code,
        )

    def _checkpoint_due(self) -> bool:
        every = self.safety.checkpoint_steps
        if every and self.state.step % every == 0:
            return True
        return time.monotonic() - self._saved_at > self.safety.checkpoint_seconds

    def _save(self) -> None:
        """Commit a checkpoint, on rank 0; the others wait."""
        self.observer.saving(step=self.state.step)
        if self.fabric.is_global_zero:
            self.logs.sync(self.state)
            for what, now in self._here().items():
                setattr(self.state, what, now)
            folder = make_folder(self.folder.checkpoints)
            checkpoint.save(folder, self.state, self.plain, self.optimizer, self.ema)
        self._saved_at = time.monotonic()
        self.fabric.barrier()

    def _restore(self) -> None:
        """Take the newest whole checkpoint, if there is one; forget what lies after it."""
        state, damaged = checkpoint.load(self.folder.checkpoints, self.plain, self.optimizer, self.ema)
        self.fabric.barrier()  # all have looked before rank 0 writes or forgets: they find the same
        for folder in damaged:
            self.observer.noted(f"{folder.name} is damaged and was passed over")
        if state is None:
            return
        self.state = state
        changed = [
            f"{what} {getattr(state, what)} -> {now}"
            for what, now in self._here().items()
            if getattr(state, what) != now
        ]
        if changed:
            self.observer.noted(
                f"changed since the checkpoint: {', '.join(changed)}; equal in statistics, not in bits"
            )
        if self.fabric.is_global_zero:
            forget_after(self.folder.checkpoints, state.step)
            forget_after(self.folder.path / "best", state.validated)

    def _here(self) -> dict[str, Any]:
        """What the bits depend on, beside the run's own settings; fields of `State`."""
        return {
            "device": self.fabric.device.type,
            "world": self.fabric.world_size,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__ + self._kernels(),
        }

    def _kernels(self) -> str:
        """What computes in place of PyTorch here, with other rounding."""
        if any(isinstance(module, Winograd2d) for module in self.plain.modules()) and compiled.installed():
            return f" with numba {versions()['numba']}"
        return ""

    # --- several processes ------------------------------------------------------------------------------

    def _share_buffers(self) -> None:
        """Give every process the running statistics of rank 0, its own and averaged: those that are saved."""
        if self.fabric.world_size == 1:
            return
        for name, buffer in self.plain.named_buffers():
            dist.broadcast(buffer, 0)
            if self.ema is not None and name in self.ema.shadow:
                dist.broadcast(self.ema.shadow[name], 0)

    def _agreed(self, *flags: bool) -> list[bool]:
        """Each flag, true if it is true in any process: all of them stop and save at the same step."""
        if self.fabric.world_size == 1:
            return list(flags)
        total = self.fabric.all_reduce(
            torch.tensor(flags, dtype=torch.float32, device=self.fabric.device), reduce_op="sum"
        )
        return [bool(flag) for flag in total.tolist()]  # pyright: ignore[reportAttributeAccessIssue]
