"""The thought experiment behind residual networks: a deeper network can do what a shallower one does.

Take a trained network A and put layers into it that are identities; the deeper network B gives the same outputs, bit
for bit. So a deeper plain network has no reason to have a larger training error, and where it has, it was the
optimiser that did not find B (He, Zhang, Ren & Sun, 2015, section 1).

Behind a ReLU an identity layer is a 3x3 convolution whose kernels are 1 in the middle of their own channel, with a
ReLU of its own, which changes nothing: relu(relu(x)) = relu(x).
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.hooks import eval_mode, watched
from convatlas.measure.trace import tensors_in
from convatlas.randomness import preserved


def identity_layer(output: Tensor) -> nn.Sequential:
    """A weight layer and a ReLU that give back what a ReLU gave: (N, C, H, W) or (N, C), the same shape."""
    channels = output.shape[1]
    if output.ndim == 4:
        layer: nn.Module = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.dirac_(layer.weight)
    else:
        layer = nn.Linear(channels, channels)
        nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return nn.Sequential(layer, nn.ReLU()).to(output.device, output.dtype)


def deepened(network: nn.Module, layers: int, image: Tensor) -> nn.Module:
    """A copy of `network` with `layers` more weight layers, all identities, spread evenly behind its ReLUs.

    `image` (N, C, H, W) is sent through once to know the shapes; the network itself stays as it is.

    Raises:
        UsageError: fewer than one layer is asked for, or no ReLU module of the network is called exactly once.

    Examples:
        >>> a = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> x = torch.randn(5, 1, 4, 4)
        >>> b = deepened(a, 3, x)
        >>> sum(isinstance(module, nn.Conv2d) for module in b.modules()), torch.equal(a(x), b(x))
        (4, True)
    """
    if layers < 1:
        raise UsageError(f"{layers} more layers were asked for; one or more are possible.")
    outputs = _behind_relus(network, image)
    if not outputs:
        raise UsageError(
            f"{type(network).__name__} calls no nn.ReLU module exactly once, so there is no place for a layer that is "
            "an identity behind a ReLU."
        )
    names = list(outputs)
    places = Counter(names[i * len(names) // layers % len(names)] for i in range(layers))
    deeper = copy.deepcopy(network)
    with preserved():  # a layer draws weights before it is made an identity
        for name, count in places.items():
            added = [identity_layer(outputs[name]) for _ in range(count)]
            deeper.set_submodule(name, nn.Sequential(deeper.get_submodule(name), *added))
    return deeper.train(network.training)


def _behind_relus(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Outputs of the ReLU modules that are called once, by name."""
    outputs: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def enter(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None: ...

    def leave(name: str, module: nn.Module, output: Any) -> None:
        if type(module) is nn.ReLU and name:
            calls[name] += 1
            outputs[name] = tensors_in(output)[0]

    with preserved(), eval_mode(network), torch.no_grad(), watched(network, enter, leave):
        network(image)
    return {name: output for name, output in outputs.items() if calls[name] == 1 and output.ndim in (2, 4)}
