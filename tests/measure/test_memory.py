"""Memory: what is predicted without content is what a pass with content takes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convatlas.errors import UsageError
from convatlas.layers.blueprint import blueprint
from convatlas.measure.memory import OPTIMIZERS, observed, predict
from convatlas.models import create_model, find

LIGHT = (
    "lenet5",
    "resnet20_cifar",
    "densenet_40_12_cifar",
    "squeezenet1_1",
    "mobilenet_v2_x0_35",
    "shufflenet_v2_x0_5",
)
HEAVY = ("googlenet", "resnet18", "efficientnet_b0", "densenet121", "resnet50", "alexnet")
# networks, image sides
CASES = [
    *((name, min(find(name).image, 64)) for name in LIGHT),
    *(pytest.param(name, 128, marks=pytest.mark.slow) for name in HEAVY),
]


def images(name: str, side: int, batch: int) -> Tensor:
    return torch.randn(batch, find(name).channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", [2, 8])
@pytest.mark.parametrize(("name", "side"), CASES)
def test_prediction_is_what_a_step_takes(name: str, side: int, batch: int) -> None:
    with blueprint():
        ghost = create_model(name)
    model = create_model(name)
    batches = images(name, side, batch)
    for training, optimizer in ((False, "sgd"), (True, "momentum"), (True, "adamw")):
        settings = {"training": training, "optimizer": optimizer}
        ours = predict(ghost, tuple(batches.shape[1:]), batch=batch, **settings)
        found = observed(model, batches, **settings)
        assert abs(ours.peak / found.peak - 1) < 0.05
        assert (ours.parameters, ours.buffers, ours.gradients) == (
            found.parameters,
            found.buffers,
            found.gradients,
        )
        assert ours.optimizer == found.optimizer


def test_a_linear_layer_by_hand() -> None:
    """Weights 12 x 4 bytes; 5 inputs of 3 and 5 outputs of 4 numbers."""
    layer = nn.Linear(3, 4, bias=False)
    assert predict(layer, (3,), batch=5).peak == 4 * (12 + 15 + 20)
    assert predict(layer, (3,), batch=5, dtype=torch.float64).peak == 8 * (12 + 15 + 20)
    training = predict(layer, (3,), batch=5, training=True, optimizer="momentum")
    assert (training.parameters, training.gradients, training.optimizer) == (48, 48, 48)
    assert training.passing >= 48 + 4 * (15 + 20)


@pytest.mark.parametrize(
    ("optimizer", "states"), [("sgd", 0), ("momentum", 1), ("adam", 2), ("adamw", 2), ("rmsprop", 2)]
)
def test_states_of_an_optimizer(optimizer: str, states: int) -> None:
    found = predict(nn.Conv2d(3, 100, 9), (3, 9, 9), training=True, optimizer=optimizer)
    assert (
        abs(found.optimizer - states * found.parameters) <= 8
    )  # Adam also counts its steps, tensor by tensor


def test_frozen_parts_have_no_gradients_and_keep_less() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(6)))
    whole = predict(model, (3, 32, 32), batch=4, training=True)
    model[:5].requires_grad_(False)
    part = predict(model, (3, 32, 32), batch=4, training=True)
    assert part.gradients * 6 == whole.gradients
    assert part.passing < whole.passing


def test_recomputing_keeps_less() -> None:
    with blueprint():
        model = create_model("resnet20_cifar")
    usual = predict(model, (3, 32, 32), batch=16, training=True).peak
    model.set_grad_checkpointing()
    assert predict(model, (3, 32, 32), batch=16, training=True).peak < 0.8 * usual


def test_the_network_is_given_back() -> None:
    model = create_model("resnet20_cifar")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.head.eval()
    predict(model, (3, 32, 32), batch=2, training=True)
    observed(model, images("resnet20_cifar", 32, 2), training=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert model.training
    assert not model.head.training


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"optimizer": "adagrad"}, {"batch": -1, "training": True}])
def test_wrong_wishes(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"batch of|is not known"):
        predict(nn.Linear(2, 2), (2,), **wrong)  # pyright: ignore[reportArgumentType]
    assert "momentum" in OPTIMIZERS


def test_too_small_an_image() -> None:
    with pytest.raises(UsageError, match="too small"):
        predict(nn.MaxPool2d(4), (3, 2, 2))


RESIDENT = """
import json, sys, torch
from convatlas.models import create_model, find
from convatlas.measure import memory
from torch.nn import functional

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

name, side, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
small = create_model("resnet20_cifar")  # what the first step of a process loads, whatever the network
first = memory.OPTIMIZERS["momentum"](small.parameters())
memory._loss(small(torch.zeros(2, 3, 32, 32))).backward()
first.step()
del small, first
base = peak()
model = create_model(name).train()
rule = memory.OPTIMIZERS["momentum"](model.parameters())
x = torch.randn(batch, find(name).channels, side, side)
for _ in range(2):
    rule.zero_grad()
    memory._loss(model(x)).backward()
    rule.step()
print(json.dumps(peak() - base))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("batch", [8, 16])
@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet34", "resnet50", "googlenet", "densenet121", "vgg11_bn", "mobilenet_v2", "efficientnet_b0",
     "squeezenet1_0", "shufflenet_v2_x1_0", "inception_v3", "wide_resnet16_4_cifar"],
)  # fmt: skip
def test_resident_memory_of_a_step(name: str, batch: int) -> None:
    side = 32 if find(name).image <= 40 else 299 if name == "inception_v3" else 160
    with blueprint():
        ours = predict(create_model(name), (3, side, side), batch=batch, training=True).resident
    command = [sys.executable, "-c", RESIDENT, name, str(side), str(batch)]
    resident = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    )
    print(name, batch, ours, resident, round(ours / resident, 3))
    assert ours is not None
    assert abs(ours / resident - 1) < 0.25


# --- kernels that keep other things than their parts would --------------------------------------------------------


class Attending(nn.Module):
    """Attention over tokens, with a mask of one of four kinds."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear, self.kind = nn.Linear(32, 96), kind
        self.mask = nn.Parameter(torch.zeros(40, 40), requires_grad=kind == "learnt")

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.linear(x).view(len(x), -1, 3, 4, 8).permute(2, 0, 3, 1, 4)
        masks = {"learnt": self.mask, "fixed": self.mask, "booleans": self.mask > 0}
        attend = nn.functional.scaled_dot_product_attention
        causal = self.kind == "causal"
        return attend(query, key, value, masks.get(self.kind), is_causal=causal).flatten(1)


class Encoded(nn.Module):
    """Two layers of a transformer as PyTorch has them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x, x, x, need_weights=False)[0]
        return x.mean(1)


class Recurrent(nn.Module):
    """An LSTM and a linear layer over its last state."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.layers = nn.LSTM(32, 64, **settings)
        self.last = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x)[0][:, -1])


FUSED = {
    **{
        f"attention, {kind} mask": (lambda kind=kind: Attending(kind))
        for kind in ("no", "learnt", "fixed", "booleans", "causal")
    },
    "multi-head attention": Encoded,
    "lstm": lambda: Recurrent(num_layers=2, batch_first=True),
    "lstm without biases": lambda: Recurrent(bias=False, batch_first=True),
    "lstm, both ways": lambda: Recurrent(num_layers=3, bidirectional=True, dropout=0.2),
}  # fmt: skip


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch", [2, 8])
@pytest.mark.parametrize("name", FUSED)
def test_fused_kernels(name: str, batch: int, training: bool) -> None:
    model, tokens = FUSED[name](), torch.randn(batch, 40, 32)
    model(tokens)  # so that lazy layers have shapes
    ours = predict(model, (40, 32), batch=batch, training=training)
    assert abs(ours.peak / observed(model, tokens, training=training).peak - 1) < 0.02


def test_layers_whose_memory_is_rough_are_named() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64)
    assert predict(layer, (5, 32)).unsure == "TransformerEncoderLayer"
    assert predict(nn.GRU(32, 8), (5, 32)).unsure == "GRU"
    assert predict(nn.LSTM(32, 8), (5, 32), dtype=torch.float64).unsure == "LSTM"
    assert predict(nn.LSTM(32, 8), (5, 32)).unsure == ""


# --- recomputing --------------------------------------------------------------------------------------------------


class Recomputed(nn.Module):
    """Blocks that are computed again on the way back."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant, self.stem, self.last = reentrant, nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.last(x.mean((2, 3)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputing_with_content(reentrant: bool) -> None:
    model, batches = Recomputed(reentrant), torch.randn(4, 3, 24, 24)
    ours = predict(model, (3, 24, 24), batch=4, training=True)
    assert all(parameter.grad is None for parameter in model.parameters())
    found = observed(model, batches, training=True)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert abs(ours.peak / found.peak - 1) < 0.02


class RecomputedAttention(nn.Module):
    """Attention that is computed again on the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Attending("no")

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def test_recomputed_attention() -> None:
    model, tokens = RecomputedAttention(), torch.randn(4, 40, 32)
    ours = predict(model, (40, 32), batch=4, training=True)
    assert abs(ours.peak / observed(model, tokens, training=True).peak - 1) < 0.02


def test_recomputing_of_the_canon_with_content() -> None:
    model = create_model("resnet20_cifar")
    model.set_grad_checkpointing()
    ours = predict(model, (3, 32, 32), batch=4, training=True).peak
    assert abs(ours / observed(model, torch.randn(4, 3, 32, 32), training=True).peak - 1) < 0.02
