"""A checkpoint: all that a run needs to go on as if it had never stopped.

Weights, optimiser state and averaged weights are safetensors keyed by parameter name; the rest is JSON.
Random state is not among them: orders, augmentations and dropout are functions of (seed, epoch, sample)
and (seed, step), so there is nothing to save.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import BadCheckpoint, NumericError
from convatlas.files import commit, newest, read_json
from convatlas.train import params
from convatlas.train.ema import Ema
from convatlas.weights import read_weights, save_weights

MODEL, OPTIMIZER, EMA, STATE = "model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json"


@dataclass
class State:
    """Where a run stands. `step` counts optimiser steps made; offsets are bytes of the two logs."""

    step: int = 0
    validated: int = 0  # epochs that are over, their validation done where it was due
    best_score: float | None = None
    best_loss: float | None = None
    best_epoch: int | None = None
    window_loss: float = 0.0  # sum and count of losses since the last line of metrics.jsonl
    window_count: int = 0
    lr_scale: float = 1.0  # halved by each rollback
    rollbacks: int = 0
    skipped: list[int] = field(default_factory=list)  # steps left out because a number was not finite
    stopped_early: bool = False
    metrics_offset: int = 0
    timing_offset: int = 0
    device: str = ""
    world: int = 1
    threads: int = 0
    torch: str = ""

    @staticmethod
    def from_json(value: Any) -> State:
        """Raises `BadCheckpoint` if a field is missing, unknown or of a wrong type."""
        fresh = dataclasses.asdict(State())
        if not isinstance(value, dict) or value.keys() != fresh.keys():
            raise BadCheckpoint(
                "the checkpoint's state has other fields than this version of convatlas writes."
            )
        state = State(**value)
        counts = (state.step, state.validated, state.window_count, state.metrics_offset, state.timing_offset)
        lists: Any = value["skipped"]
        if not all(type(count) is int and count >= 0 for count in counts) or not isinstance(lists, list):
            raise BadCheckpoint("the checkpoint's state holds values that no run writes.")
        return state


def save(
    parent: Path, state: State, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None
) -> Path:
    """Commit a checkpoint for `state.step`; the last two are kept.

    Raises `NumericError` rather than write weights that are not finite, and `ResourceError` if the disk
    refuses; the checkpoints that were there stay as they are.
    """
    weights = model.state_dict()
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NumericError(
                f"after step {state.step} the weights {name} are not finite; they were not saved."
            )
    parts = {
        MODEL: save_weights(weights),
        OPTIMIZER: save_weights(params.state_by_name(optimizer, model)),
        STATE: json.dumps(dataclasses.asdict(state), indent=2, sort_keys=True).encode(),
    }
    if ema is not None:
        parts[EMA] = save_weights(ema.shadow)
    # a boundary between epochs has two states: before and after its validation
    return commit(parent, f"step-{state.step:08d}-{state.validated:05d}", parts)


def load(
    parent: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None
) -> tuple[State | None, list[Path]]:
    """Restore the newest whole checkpoint; None if there is none. Also gives the damaged ones passed over.

    Raises `BadCheckpoint` if a checkpoint is whole but does not belong to this network or recipe.
    """
    folder, damaged = newest(parent)
    if folder is None:
        return None, damaged
    state = State.from_json(read_json(folder / STATE))
    _restore(model, read_weights(folder / MODEL))
    params.restore_state(optimizer, model, read_weights(folder / OPTIMIZER))
    if ema is not None:
        shadow = read_weights(folder / EMA)
        if shadow.keys() != ema.shadow.keys():
            raise BadCheckpoint(f"{folder / EMA} holds other weights than the network.")
        ema.load(shadow)
    return state, damaged


def world(parent: Path) -> tuple[int, int]:
    """The number of processes that made the newest whole checkpoint, and its step; (1, 0) if there is none."""
    folder, _ = newest(parent)
    if folder is None:
        return 1, 0
    state = State.from_json(read_json(folder / STATE))
    return state.world, state.step


@torch.no_grad()
def _restore(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy into the tensors that are there, which keeps device and memory format."""
    own = model.state_dict()
    if own.keys() != weights.keys():
        raise BadCheckpoint("the checkpoint holds other weights than the network.")
    for name, value in own.items():
        if value.shape != weights[name].shape:
            raise BadCheckpoint(
                f"{name} has shape {tuple(weights[name].shape)} in the checkpoint, {tuple(value.shape)} in the network."
            )
        value.copy_(weights[name])
