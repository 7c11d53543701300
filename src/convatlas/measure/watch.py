"""Seeing every operation of a pass: what the inspector's recorders have in common."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Watch(TorchDispatchMode):
    """A mode of PyTorch's dispatch that does not load PyTorch's compiler.

    PyTorch keeps its compiler out of `__torch_dispatch__` by a decorator, which imports it: over a second and 150 MB
    for a report that takes hundredths of a second. Nothing is compiled while an inspector looks on.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
