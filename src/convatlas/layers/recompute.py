"""Trade time for memory: keep a module's inputs only, and compute the rest again for the backward pass."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]


def recompute(module: nn.Module, *inputs: object) -> Tensor:
    """`module(*inputs)`; gradients, random draws and BatchNorm statistics are those of the ordinary pass.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=partial(_contexts, module))  # pyright: ignore[reportReturnType]


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first and of the second forward pass."""
    return nullcontext(), _statistics_kept(module)


@contextmanager
def _statistics_kept(module: nn.Module) -> Generator[None]:
    """The second forward pass must not move BatchNorm's running statistics once more."""
    norms = [child for child in module.modules() if isinstance(child, nn.modules.batchnorm._BatchNorm)]  # pyright: ignore[reportPrivateUsage]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
