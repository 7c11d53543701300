"""Do gradients reach every layer? Norms layer by layer for one batch, and a verdict with its numbers.

Two norms a weight layer, in forward order:

- **signal**, of the loss by the layer's output: dL/da^l = dL/da^L · J^L · ... · J^(l+1), a product of Jacobians.
  This is what vanishes or explodes towards the image (Bengio, Simard & Frasconi, 1994; Glorot & Bengio, 2010).
- **weight**, of the loss by the layer's weights; divided by the norm of the weights it is the layer's `rate`, the
  share of itself by which a step of learning rate 1 would move it.

The verdict is read from signals. Rates cannot tell: in a stack of ReLU layers without biases the sum over W · dL/dW
is the same for every layer (the output is homogeneous of degree 1 in each of them), so weights that are all a
hundred times too small make all rates equally tiny, while the signal shrinks from layer to layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call

from convatlas.errors import UsageError
from convatlas.hooks import eval_mode, train_mode, watched
from convatlas.measure.activations import is_layer
from convatlas.measure.refusals import refusals
from convatlas.measure.trace import tensors_in
from convatlas.measure.verdict import Verdict, judge
from convatlas.models.classifier import Classifier, WithAuxiliary
from convatlas.randomness import preserved, seed_step

Loss = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class LayerGradient:
    """Norms (L2) of one weight layer. `weight` and `gradient` are of its weights, without the bias.

    `beside`: an auxiliary head's, which has a way of its own to the loss; the verdict leaves it out.
    """

    name: str
    signal: float
    gradient: float
    weight: float
    beside: bool = False

    @property
    def rate(self) -> float:
        """Gradient over weight; NaN where all weights are 0."""
        return self.gradient / self.weight if self.weight else math.nan


@dataclass(frozen=True, slots=True)
class Gradients:
    """The weight layers of a network in forward order, and the loss of the batch."""

    model: str
    images: int
    loss: float
    training: bool
    layers: tuple[LayerGradient, ...]

    @property
    def verdict(self) -> Verdict:
        """Vanishing, exploding or healthy; see `judge`."""
        return judge([layer.signal for layer in self.layers if not layer.beside])

    def to_json(self) -> dict[str, Any]:
        """Plain values; a number that is not finite is None."""
        return {
            "model": self.model,
            "images": self.images,
            "loss": _finite(self.loss),
            "mode": "training" if self.training else "evaluation",
            "verdict": {key: _finite(value) for key, value in asdict(self.verdict).items()},
            "layers": [
                {
                    **{key: _finite(value) for key, value in asdict(layer).items()},
                    "rate": _finite(layer.rate),
                }
                for layer in self.layers
            ],
        }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main_loss(model: nn.Module) -> Loss:
    """Cross-entropy, and of networks with auxiliary heads the weighted sum that they are trained with.

    Of any other tuple that a network gives, the first tensor counts.
    """
    weight = float(getattr(model, "auxiliary_weight", 0.0))

    def loss(output: Any, labels: Tensor) -> Tensor:
        if isinstance(output, WithAuxiliary):
            beside = [F.cross_entropy(logits, labels) for logits in output.auxiliary]
            return F.cross_entropy(output.logits, labels) + weight * torch.stack(beside).sum()
        return F.cross_entropy(output if isinstance(output, Tensor) else tensors_in(output)[0], labels)

    return loss


def gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: Loss | None = None,
    *,
    training: bool = True,
    state: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Gradients:
    """Gradient norms of every weight layer for one batch.

    The network is given back as it was: weights, statistics of BatchNorm, `grad`, `requires_grad`, modes and random
    generators. Frozen layers are measured as if they were trained.

    Args:
        model: any network; weight layers are those of `measure.depth` that work with their weights themselves.
        images: (N, C, H, W), ready for the network.
        labels: (N,), or whatever `loss` takes.
        loss: of (output, labels), a scalar; `main_loss` if None.
        training: in training mode, where BatchNorm normalises by the batch and auxiliary heads speak; otherwise in
            evaluation mode.
        state: weights to look at instead of the network's own, such as those of a checkpoint.
        seed: of dropout and the like.

    Raises:
        UsageError: the batch does not go through, or the loss is no scalar that depends on the weights.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> chain = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()) for _ in range(12)))
        >>> gradients(chain, torch.randn(4, 8), torch.arange(4)).verdict.health
        'vanishing'
    """
    watch = _Watch()
    params, buffers = _own_copies(model, state)
    calculate = loss or main_loss(model)
    mode = train_mode(model) if training else eval_mode(model)
    with preserved(), mode, torch.enable_grad():
        seed_step(seed, 0)
        with refusals(model, (images,), lambda: watch.at), watched(model, watch.enter, watch.leave):
            output = functional_call(model, {**params, **buffers}, (images,))
        try:
            value = calculate(output, labels)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            given = " and ".join(str(tuple(tensor.shape)) for tensor in tensors_in(output))
            raise UsageError(
                f"the loss cannot take outputs of shape {given} with labels of shape {tuple(labels.shape)}: {error}"
            ) from error
        if value.ndim or not value.requires_grad:
            raise UsageError(
                f"the loss must be one number that depends on the weights; its shape is {tuple(value.shape)}"
                f"{'' if value.requires_grad else ', and it depends on none of them'}."
            )
        found = _norms(value, params, watch.edges)
    beside = [f"auxiliary.{name}" for name in model.auxiliary] if isinstance(model, Classifier) else []
    return Gradients(
        type(model).__name__,
        len(images),
        float(value.detach()),
        training,
        tuple(
            LayerGradient(name, *norms, any(name.startswith(f"{head}.") for head in beside))
            for name, norms in found.items()
        ),
    )


def gradients_over(
    states: Iterable[tuple[str, Mapping[str, Tensor]]],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: Loss | None = None,
    *,
    training: bool = True,
) -> dict[str, Gradients]:
    """`gradients` of the same batch for each named state of one network: the checkpoints of a run, in their order."""
    return {
        name: gradients(model, images, labels, loss, training=training, state=state) for name, state in states
    }


class _Watch:
    """Remembers where in the graph each weight layer's output arises, before anything overwrites it."""

    def __init__(self) -> None:
        self.edges: dict[str, list[GradientEdge]] = {}
        self.at = ""

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module, args, kwargs
        self.at = name

    def leave(self, name: str, module: nn.Module, output: Any) -> None:
        if not name:
            self.at = ""
        if not is_layer(module) or not _has_weights(module):
            return
        edges = self.edges.setdefault(name, [])
        edges += [get_gradient_edge(tensor) for tensor in tensors_in(output) if tensor.requires_grad]


def _has_weights(module: nn.Module) -> bool:
    """Whether it has something to train beside a bias; LeNet-5's fixed output units have not."""
    return any(
        name != "bias" and value.is_floating_point() for name, value in module.named_parameters(recurse=False)
    )


def _own_copies(
    model: nn.Module, state: Mapping[str, Tensor] | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters as fresh leaves that share memory, and copies of buffers, which training mode may change."""
    given = dict(state or {})
    params = {name: given.pop(name, value) for name, value in model.named_parameters()}
    buffers = {name: given.pop(name, value) for name, value in model.named_buffers()}
    if any(value.is_meta for value in (*params.values(), *buffers.values())):
        raise UsageError("the network is on the meta device; build it with content to look at gradients.")
    shared = set(dict(model.named_parameters(remove_duplicate=False))) | set(
        dict(model.named_buffers(remove_duplicate=False))
    )
    if unknown := given.keys() - shared:
        raise UsageError(
            f"the state holds {min(unknown)!r}, which {type(model).__name__} does not have; is it another's?"
        )
    return (
        {name: value.detach().requires_grad_(value.is_floating_point()) for name, value in params.items()},
        {name: value.detach().clone() for name, value in buffers.items()},
    )


def _norms(
    value: Tensor, params: Mapping[str, Tensor], edges: Mapping[str, list[GradientEdge]]
) -> dict[str, tuple[float, float, float]]:
    """By layer: the norms of dL/d(output), dL/d(weights) and of the weights."""
    own = {name: [key for key in params if _is_own_weight(key, name)] for name in edges}
    wanted: list[Any] = [params[key] for keys in own.values() for key in keys]
    wanted += [edge for each in edges.values() for edge in each]
    found = iter(torch.autograd.grad(value, wanted, allow_unused=True))
    by_weight = {name: [next(found) for _ in keys] for name, keys in own.items()}
    by_output = {name: [next(found) for _ in each] for name, each in edges.items()}
    return {
        name: (
            _norm(by_output[name]),
            _norm(by_weight[name]),
            _norm([params[key].detach() for key in own[name]]),
        )
        for name in edges
    }


def _is_own_weight(key: str, layer: str) -> bool:
    parent, _, last = key.rpartition(".")
    return parent == layer and last != "bias"


def _norm(tensors: Sequence[Tensor | None]) -> float:
    """L2 norm of all numbers together; what is None counts as zeros."""
    kept = [tensor.double() for tensor in tensors if tensor is not None]
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in kept))
