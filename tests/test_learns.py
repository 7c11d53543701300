"""Every small network learns: 30 steps on one batch of real images bring its loss below 70 % of what it was.

The control permutes every parameter after each step: what a step has taught is lost, and the loss must stay up.
"""

from __future__ import annotations

import math
import os
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from canon import CLASSIFIERS, by_weight, logits_of, params, sides
from convatlas.models import create_model
from convatlas.models.classifier import Classifier
from convatlas.registry import Spec
from convatlas.train.muon import Muon

SMALL = [spec for spec in CLASSIFIERS if params(spec) <= 5_000_000]
# tried in turn: plain stacks differ in what they bear, and BatchNorm after the addition stands in the way of the signal
# (He et al. 2016, section 4.1), so that 110 layers of it move too little under Adam
OPTIMISERS = (("adam", 1e-3), ("adam", 3e-4), ("adam", 3e-3), ("muon", 0.01))
STEPS, CLASSES, PER_CLASS, ENOUGH = 30, 10, 3, 0.7
losses: dict[str, list[tuple[float, float]]] = {}


class Table:
    """Prints the losses at the end of the session."""

    @staticmethod
    def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section(f"loss at first and after {STEPS} steps; the same with shuffled weights")
        for name, pairs in losses.items():
            line = "".join(f"{first:9.3f} ->{last:9.3f}" for first, last in pairs)
            terminalreporter.write_line(f"{name:32}{line}")


@pytest.fixture(scope="module", autouse=True)
def _printed(request: pytest.FixtureRequest) -> None:
    request.config.pluginmanager.register(Table(), "loss-table")
    return


@cache
def batch() -> tuple[Tensor, Tensor]:
    """The first test images of each class of CIFAR-10, standardised: (30, 3, 32, 32), and their labels."""
    with zipfile.ZipFile(Path(os.environ["CONVATLAS_DATA"]) / "cifar10.zip") as archive:
        names = sorted(name for name in archive.namelist() if "test/" in name and name.endswith(".webp"))
        folders = sorted({name.rsplit("/", 1)[0] for name in names})
        chosen = [[name for name in names if name.startswith(f"{f}/")][:PER_CLASS] for f in folders]
        pixels = [np.asarray(Image.open(BytesIO(archive.read(name)))) for names in chosen for name in names]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
    assert images.shape == (CLASSES * PER_CLASS, 3, 32, 32)
    return (images - images.mean()) / images.std(), torch.arange(CLASSES).repeat_interleave(PER_CLASS)


def optimiser_of(network: nn.Module, kind: str, rate: float) -> torch.optim.Optimizer:
    if kind == "adam":
        return torch.optim.Adam(network.parameters(), lr=rate)
    filters = [parameter for parameter in network.parameters() if parameter.ndim == 4]
    others = [parameter for parameter in network.parameters() if parameter.ndim != 4]
    shared = {"momentum": 0.9, "weight_decay": 0.0}
    turned = {"params": filters, "lr": rate, "matrix": True, **shared}
    return Muon([turned, {"params": others, "lr": 30 * rate, "matrix": False, **shared}], keeps_norm=True)


def trained(spec: Spec, kind: str, rate: float, *, shuffled: bool) -> tuple[float, float]:
    """The loss in training mode before and after the steps, dropout off."""
    torch.manual_seed(0)
    network = create_model(spec.name, num_classes=CLASSES, in_channels=3).train()
    assert isinstance(network, Classifier)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images, labels = batch()
    images = interpolate(images, size=sides(spec)[0], mode="bilinear")
    optimiser = optimiser_of(network, kind, rate)
    found: list[float] = []
    for _ in range(STEPS + 1):
        spoken = [cross_entropy(logits, labels) for logits in logits_of(network(images))]
        found.append(float(spoken[0].detach()))
        optimiser.zero_grad()
        (spoken[0] + network.auxiliary_weight * sum(spoken[1:])).backward()
        optimiser.step()
        if shuffled:
            with torch.no_grad():
                for parameter in network.parameters():
                    order = torch.randperm(parameter.numel())
                    parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return found[0], min(found[-3:])


@pytest.mark.data
@pytest.mark.parametrize("spec", by_weight(SMALL, light=0, most=1.5e8))  # one of each family at a landing
def test_learns_one_batch(spec: Spec) -> None:
    for kind, rate in OPTIMISERS:
        first, last = trained(spec, kind, rate, shuffled=False)
        if last < ENOUGH * first:
            break
    first_control, last_control = trained(spec, kind, rate, shuffled=True)
    losses[spec.name] = [(first, last), (first_control, last_control)]
    assert last < ENOUGH * first
    assert last_control >= ENOUGH * min(first_control, math.log(CLASSES))  # or above chance
