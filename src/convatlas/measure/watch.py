"""Seeing every operation of a pass: what the inspector's recorders have in common."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from convatlas.hooks import attributes_kept, eval_mode, watched
from convatlas.measure.refusals import refusals
from convatlas.randomness import preserved


class Watch(TorchDispatchMode):
    """A mode of PyTorch's dispatch that does not load PyTorch's compiler.

    PyTorch keeps its compiler out of `__torch_dispatch__` by a decorator, which imports it: over a second and 150 MB
    for a report that takes hundredths of a second. Nothing is compiled while an inspector looks on.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class Recorder(AbstractContextManager[Any], Protocol):
    """A mode that is told of modules too."""

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """`module`, called `name` in the network, is about to be called."""

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        """It has been called."""


@contextmanager
def watched_pass(
    model: nn.Module, inputs: Sequence[Tensor], recorder: Recorder, place: Callable[[], str]
) -> Generator[None]:
    """`recorder` sees the operations and the modules of a pass in evaluation mode, and `model` is given back as it was.

    Where the pass fails, `place()` says the module. Raises `UsageError` then.
    """
    with (
        preserved(),
        attributes_kept(model),
        eval_mode(model),
        torch.no_grad(),
        watched(model, recorder.enter, recorder.leave),
        refusals(model, inputs, place),
        recorder,
    ):
        yield
