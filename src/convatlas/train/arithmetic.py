"""How much arithmetic a training is: multiply-adds of all its steps, counted and not measured.

A layer's multiply-adds are made once forward, once more for the gradient of its weights where they learn, and once
more for the gradient of its input where anything before it learns. So it matters what is held and from when on, and
how large the images are in which epoch. Where Winograd's algorithm computes a layer, its multiply-adds are counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from convatlas.layers.winograd import Winograd2d, multiplications, tile
from convatlas.measure import measure
from convatlas.measure.cost import Row
from convatlas.train import params
from convatlas.train.recipe import Recipe


@dataclass(frozen=True)
class StepRow:
    """What a row of a network does in a training step for one image.

    `macs`: multiply-adds forward and backward. `passes`: over its tensors, a forward pass being one; backward is
    another for the gradient of the input, and another for that of the weights.
    """

    row: Row
    macs: int
    passes: int


def step_rows(
    network: nn.Module, shape: tuple[int, int, int], held: frozenset[str] = frozenset()
) -> list[StepRow]:
    """The rows of `measure` for one image of `shape` (C, H, W), as a training step goes through them.

    `held` names parameters that do not learn, beside those that require no gradient. What comes later in a forward pass
    counts as behind what comes earlier, also on branches side by side.
    """
    weighted = {name.rpartition(".")[0] for name, _ in network.named_parameters()}
    learns = {
        name.rpartition(".")[0]: name.endswith("weight")
        for name, parameter in sorted(network.named_parameters())
        if parameter.requires_grad and name not in held
    }
    modules = dict(network.named_modules())
    rows: list[StepRow] = []
    behind = False
    for row in measure(network, shape).rows:
        name = row.name.split(" ")[0]
        weights, work = learns.get(name, False), _work(modules.get(name), row)
        macs = work.forward + behind * work.to_input + weights * work.to_weights
        macs += (behind or weights) * work.to_both
        # without weights the way back is charged twice that forward: the gradient comes, meets what is kept, and goes
        rows.append(StepRow(row, macs, 1 + behind + (weights if name in weighted else behind)))
        behind = behind or name in learns
    return rows


def step_macs(network: nn.Module, shape: tuple[int, int, int], held: frozenset[str] = frozenset()) -> int:
    """Multiply-adds of one image, forward and backward. See `step_rows`."""
    return sum(each.macs for each in step_rows(network, shape, held))


@dataclass(frozen=True)
class _Work:
    """Multiply-adds of a layer for an image: forward, for the gradient of its input, of its weights, and for both."""

    forward: int
    to_input: int
    to_weights: int
    to_both: int = 0


def _work(module: nn.Module | None, row: Row) -> _Work:
    """What a row of the measurement costs in training."""
    direct = _Work(row.macs, row.macs, row.macs)
    if not isinstance(module, Winograd2d):
        return direct
    _, height, width = row.output_shape
    if not (side := tile(height, width)):
        return direct
    c, k, places = module.in_channels, module.out_channels, multiplications(height, width, side)
    products, inputs, outputs = places * c * k, places * (side + 2) ** 2 * c, places * side**2 * k
    return _Work(inputs + products + outputs, products + inputs, products, outputs)


def steps_of_epoch(
    network: nn.Module, recipe: Recipe, shape: tuple[int, int, int], epoch: int, steps: int
) -> Counter[tuple[tuple[int, int, int], frozenset[str]]]:
    """How many of an epoch's steps have images of which shape and which parameters held; epochs count from 0."""
    side = next((side for first, side in reversed(recipe.sides()) if epoch >= first), max(shape[1:]))
    smaller = (shape[0], min(shape[1], side), min(shape[2], side))
    total = recipe.epochs * steps
    return Counter(
        (smaller, params.held_at(network, recipe, (epoch * steps + step) / total)) for step in range(steps)
    )


def training_macs(network: nn.Module, recipe: Recipe, shape: tuple[int, int, int], images: int) -> int:
    """Multiply-adds of a whole training on so many images, of `shape` (C, H, W) where the recipe has no smaller ones.

    Those of the optimiser and of validation are left out. Twice this number is what papers call FLOP.
    """
    steps = max(images // recipe.batch_size, 1)
    kinds = sum(
        (steps_of_epoch(network, recipe, shape, epoch, steps) for epoch in range(recipe.epochs)), Counter()
    )
    seen = min(recipe.batch_size, images)
    return seen * sum(count * step_macs(network, sized, held) for (sized, held), count in kinds.items())
