"""Why gradients vanish: the gradient of a layer is a product of Jacobians, one per layer above it.

For a chain a^l = f_l(a^(l-1); w^l) and a loss L of its output, the chain rule says

    dL/dw^l = dL/da^L · da^L/da^(L-1) · ... · da^(l+1)/da^l · da^l/dw^l

Here every factor is computed by itself, as a matrix, and multiplied out; the result is held against what autograd
gives for the whole chain at once. A singular value of a Jacobian says by how much the layer stretches a direction;
where the largest is below 1, as with sigmoids, every further layer makes the product smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from convatlas.errors import UsageError
from convatlas.hooks import eval_mode
from convatlas.randomness import preserved

LARGEST = 4096  # rows or columns of a Jacobian that are worth writing out


@dataclass(frozen=True, slots=True)
class Factor:
    """One layer l of the chain.

    Attributes:
        name: of the module.
        size: numbers in a^l.
        singular_values: of da^l/da^(l-1), the largest first.
        signal: norm of dL/da^l, the product of the Jacobians above.
        gradient: norm of dL/dw^l from that product; 0 without weights.
        difference: the largest difference of it to autograd's, over the largest number of autograd's.
    """

    name: str
    size: int
    singular_values: tuple[float, ...]
    signal: float
    gradient: float
    difference: float


def chain_rule(chain: nn.Sequential, image: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Factor, ...]:
    """Every layer of a small chain with its Jacobian, for one input (1, ...), in the precision of chain and input.

    Take float64 to see that both sides are equal; the matrices have (size of a^l) x (size of a^(l-1)) numbers.

    Raises:
        UsageError: there are several images, no layers, or a layer too large to write its matrix out.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> chain = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 2)).double()
        >>> factors = chain_rule(chain, torch.ones(1, 3, dtype=torch.float64), lambda y: y.square().sum())
        >>> max(factors[1].singular_values) <= 0.25, max(factor.difference for factor in factors) < 1e-12
        (True, True)
    """
    if len(image) != 1 or not len(chain):
        raise UsageError(
            f"the chain rule is shown for one input and one layer or more; here are {len(image)} inputs and "
            f"{len(chain)} layers."
        )
    with preserved(), eval_mode(chain), torch.enable_grad():
        inputs = [image.detach()]
        for name, layer in chain.named_children():
            inputs.append(layer(inputs[-1]).detach())
            if inputs[-1].numel() > LARGEST:
                raise UsageError(
                    f"layer {name!r} gives {inputs[-1].numel()} numbers; matrices of more than {LARGEST} rows are not "
                    "written out. Take a smaller image or fewer channels."
                )
        expected = _by_autograd(chain, image, loss)
        signal = cast(Tensor, jacrev(loss)(inputs[-1])).detach().reshape(1, -1)
        factors: list[Factor] = []
        layers = list(chain.named_children())
        for place in range(len(layers) - 1, -1, -1):
            name, layer = layers[place]
            factor, signal = _factor(name, layer, inputs[place], inputs[place + 1], signal, expected)
            factors.append(factor)
    return tuple(reversed(factors))


def _factor(
    name: str, layer: nn.Module, before: Tensor, after: Tensor, signal: Tensor, expected: dict[str, Tensor]
) -> tuple[Factor, Tensor]:
    """The layer's row, and the signal below it."""
    jacobian = cast(Tensor, jacrev(layer)(before)).detach().reshape(after.numel(), before.numel())
    params = {key: value.detach() for key, value in layer.named_parameters()}
    squares, worst, scale = 0.0, 0.0, 0.0
    if params:
        by_weight = cast(
            "dict[str, Tensor]", jacrev(lambda own: functional_call(layer, own, (before,)))(params)
        )
        for key, value in params.items():
            gradient = (signal @ by_weight[key].reshape(after.numel(), -1)).reshape(value.shape)
            squares += float(gradient.square().sum())
            worst = max(worst, float((gradient - expected[f"{name}.{key}"]).abs().max()))
            scale = max(scale, float(expected[f"{name}.{key}"].abs().max()))
    stretched = tuple(torch.linalg.svdvals(jacobian).tolist())
    difference = worst / scale if scale else worst
    row = Factor(name, after.numel(), stretched, float(signal.norm()), math.sqrt(squares), difference)
    return row, signal @ jacobian


def _by_autograd(chain: nn.Module, image: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """dL/dw of the whole chain, by PyTorch's backward pass."""
    params = {key: value.detach().requires_grad_() for key, value in chain.named_parameters()}
    value = loss(functional_call(chain, params, (image.detach(),)))
    if not params:
        return {}
    found = torch.autograd.grad(value, list(params.values()), materialize_grads=True, allow_unused=True)
    return dict(zip(params, found, strict=True))
