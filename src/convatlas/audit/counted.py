"""One network, built without content and measured once: what every check asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import nn

from convatlas.hooks import watched
from convatlas.layers.blueprint import blueprint
from convatlas.measure import Measurement, Row, measure
from convatlas.measure.depth import weight_layers
from convatlas.measure.trace import tensors_in
from convatlas.models import create_model, find
from convatlas.models.classifier import Classifier


@dataclass(frozen=True)
class Counted:
    """A network on the meta device, and what it costs for one image (C, H, W) of `image`."""

    network: nn.Module
    image: tuple[int, int, int]

    @cached_property
    def measurement(self) -> Measurement:
        """Its rows and sums."""
        return measure(self.network, self.image)

    @cached_property
    def params(self) -> int:
        """Trained parameters, those of the auxiliary heads left out."""
        apart = self.network.auxiliary if isinstance(self.network, Classifier) else nn.Module()
        return _trained(self.network) - _trained(apart)

    @property
    def macs(self) -> int:
        """Multiply-adds of a prediction."""
        return self.measurement.macs

    @cached_property
    def layers(self) -> int:
        """Weight layers on the longest path from the image to the logits."""
        return weight_layers(self.network, self.image)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What each module gives, without the batch dimension, by the module's path."""
        found: dict[str, tuple[int, ...]] = {}

        def leave(name: str, module: nn.Module, output: object) -> None:
            del module
            if tensors := tensors_in(output):
                found[name] = tuple(tensors[0].shape[1:])

        with watched(self.network, lambda *_: None, leave), torch.no_grad(), torch.device("meta"):
            training = self.network.training
            self.network.eval()(torch.empty(1, *self.image))
            self.network.train(training)
        return found

    def params_of(self, path: str) -> int:
        """Parameters of one module."""
        return sum(p.numel() for p in self.network.get_submodule(path).parameters())

    def weights_of(self, path: str) -> int:
        """Parameters of one module without its biases and its normalisation."""
        return sum(p.numel() for p in self.network.get_submodule(path).parameters() if p.dim() > 1)

    def rows_of(self, path: str) -> list[Row]:
        """The rows of one module and of what it holds."""
        return [row for row in self.measurement.rows if _within(row.name, path)]

    def macs_of(self, path: str) -> int:
        """Multiply-adds of one module."""
        return sum(row.macs for row in self.rows_of(path))


@cache
def counted(name: str) -> Counted:
    """The network of that name at its paper's image size. Raises `UsageError` if there is none."""
    spec = find(name)
    with blueprint():
        network = create_model(name)
    return Counted(network, (spec.channels, spec.image, spec.image))


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _within(row: str, path: str) -> bool:
    name = row.split(" (")[0]
    return name == path or name.startswith(path + ".")
