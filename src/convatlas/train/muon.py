"""Muon: momentum whose matrices are made orthogonal before each step (Jordan et al., 2024).

The gradient of a weight matrix is nearly of low rank: a few directions would take all of a step. Muon replaces the
momentum U S V^T of every matrix by U V^T, so that all directions move equally far. Newton and Schulz's iteration
finds it with a few products of matrices.

Why not `torch.optim.Muon`: it takes matrices only, so that filters (K, C, h, w) would need a second set of parameters,
and copies where they lie in channels-last order; and the vectors beside them would need another optimiser. Here a
filter is the matrix (K, rest) in whatever order its numbers lie, and one optimiser moves all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # chosen for a steep start; singular values end between about 0.7 and 1.2


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """U V^T of a matrix U S V^T, roughly: (R, C) -> (R, C) with singular values near 1, in the same type.

    Small singular values need more steps: each makes them 3.4 times larger. Source: Jordan et al., "Muon: an optimizer
    for hidden layers in neural networks", 2024; the iteration is Higham's, "Functions of Matrices", 2008, chapter 8.

    Examples:
        >>> matrix = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
        >>> values = torch.linalg.svdvals(orthogonalised(matrix))
        >>> bool((values > 0.5).all() and (values < 1.3).all())
        True
    """
    a, b, c = COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T.contiguous() if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Muon for groups with `matrix=True`, SGD for the others; both with momentum, of Nesterov's kind if `nesterov`.

    A step is `lr` times the orthogonalised momentum, times sqrt(R / C) for a matrix (R, C) with more rows than columns.
    Weight decay of a matrix is `lr * weight_decay` of its weights. In other groups it joins the gradient.

    Args:
        groups: dicts with `params`, `lr`, `momentum`, `weight_decay` and `matrix`.
        nesterov: look ahead by one step of the momentum.
        steps: of the iteration.
        keeps_norm: before each step, weights are brought to the norm sqrt(R), so that the rate is the angle by which
            they turn. For filters in front of a normalisation, whose length does not matter; they are not decayed.
        dtype: of the iteration; bfloat16 pays where the processor multiplies it fast.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        nesterov: bool = True,
        steps: int = 5,
        keeps_norm: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(groups, {})
        self.nesterov, self.steps, self.keeps_norm, self.dtype = nesterov, steps, keeps_norm, dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient; a group with rate 0 stays, as does its momentum."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"] if group["lr"] else ():
                if parameter.grad is not None:
                    (self._turn if group["matrix"] else self._descend)(parameter, group)
        return loss

    def _momentum(self, parameter: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        """The direction of the step; the running sum is kept."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        running = state["momentum_buffer"].mul_(momentum).add_(gradient)
        return gradient.add(running, alpha=momentum) if self.nesterov else running

    def _descend(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """SGD."""
        assert parameter.grad is not None  # noqa: S101
        gradient = parameter.grad
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        parameter.sub_(self._momentum(parameter, gradient, group["momentum"]), alpha=group["lr"])

    def _turn(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Muon."""
        assert parameter.grad is not None  # noqa: S101
        direction = self._momentum(parameter, parameter.grad, group["momentum"])
        rows, columns = len(parameter), parameter[0].numel()
        if self.keeps_norm:
            parameter.mul_(rows**0.5 / parameter.norm())
        elif group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        turned = orthogonalised(as_matrix(direction).to(self.dtype), self.steps)
        length = group["lr"] * max(1.0, rows / columns) ** 0.5
        parameter.sub_(as_filters(turned, direction).to(parameter.dtype), alpha=length)


def as_matrix(tensor: Tensor) -> Tensor:
    """A weight (K, ...) as (K, rest), its rest in the order in which it lies in memory, so that nothing is copied.

    With its columns in another order a matrix is the same one times a permutation, and so is what is made of it.
    """
    return tensor.permute(0, 2, 3, 1).flatten(1) if _channels_last(tensor) else tensor.flatten(1)


def as_filters(matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_matrix(like)`: (K, rest) -> the shape of `like`."""
    if not _channels_last(like):
        return matrix.view(like.shape)
    k, c, h, w = like.shape
    return matrix.view(k, h, w, c).permute(0, 3, 1, 2)


def _channels_last(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
