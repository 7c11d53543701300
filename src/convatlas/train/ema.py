"""An exponential moving average of the weights, to evaluate with (Polyak & Juditsky, 1992)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """The running mean of every floating-point entry of a state dict; other entries are copied.

    The decay grows as min(decay, (1 + step) / (10 + step)), so that early weights are forgotten soon.
    """

    def __init__(self, model: nn.Module, decay: float, held: Sequence[str] = ()) -> None:
        """`held`: modules whose state never changes; it is not averaged, which could turn -0 into 0."""
        self.decay = decay
        self.shadow = {name: value.detach().clone() for name, value in model.state_dict().items()}
        # the network's own tensors, which keep their places: asking for a state dict takes longer than the mean
        self._means: list[Tensor] = []
        self._values: list[Tensor] = []
        self._copied: list[tuple[Tensor, Tensor]] = []
        for name, value in model.state_dict().items():
            if name.startswith(tuple(f"{each}." for each in held)):
                continue
            if value.is_floating_point():
                self._means.append(self.shadow[name])
                self._values.append(value)
            else:
                self._copied.append((self.shadow[name], value))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the mean towards the weights after optimiser step number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._means, self._values, 1 - decay)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        for mean, value in self._copied:
            mean.copy_(value)

    @torch.no_grad()
    def load(self, shadow: dict[str, Tensor]) -> None:
        """Take the mean from a checkpoint with the same names and shapes."""
        for name, value in self.shadow.items():
            value.copy_(shadow[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Generator[None]:
        """Let the model hold the mean for the time of a `with` block."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.shadow)
        try:
            yield
        finally:
            model.load_state_dict(own)
