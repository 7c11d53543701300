"""What a measurement must leave as it was: `with given_back(network): ...`."""

from __future__ import annotations

import copy
import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def given_back(network: nn.Module) -> Generator[None]:
    """Modes, weights, statistics, gradients, `requires_grad`, hooks and random generators are as before."""
    next(network.parameters()).requires_grad_(False)  # each module and parameter has its own state
    list(network.modules())[-1].train(not network.training)
    *_, last = network.parameters()
    last.grad = torch.full_like(last, 7.0)
    before = _state(network)
    try:
        yield
    finally:
        after = _state(network)
        for key, value in before.items():
            assert _same(value, after[key]), f"{key} has changed"


def _state(network: nn.Module) -> dict[str, object]:
    params = dict(network.named_parameters())
    return {
        "values": {name: value.clone() for name, value in network.state_dict().items()},
        "identities": [id(value) for value in params.values()],
        "modes": [module.training for module in network.modules()],
        "requires_grad": [value.requires_grad for value in params.values()],
        "grads": {
            name: copy.deepcopy(value.grad) for name, value in params.items() if value.grad is not None
        },
        "hooks": [
            len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
            for module in network.modules()
        ],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1],  # noqa: NPY002
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
    }


def _same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return bool((a == b).all())
    return a == b
