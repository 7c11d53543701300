"""Gradient norms against plain backward, and verdicts on networks whose gradient is known."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from convatlas.errors import UsageError
from convatlas.layers.init import initialise
from convatlas.measure.gradient_chart import curves
from convatlas.measure.gradients import Gradients, gradients, gradients_over
from convatlas.measure.verdict import LIMIT, STEP, judge
from convatlas.models import create_model
from measure.borrowed import given_back

LABELS = torch.arange(8) % 10


def canon(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=10, **options)


def noise(side: int, channels: int = 3, count: int = 8) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1))


def orthogonal_chain(depth: int, factor: float, width: int = 12) -> nn.Sequential:
    """Linear layers each of which multiplies every length by `factor`."""
    chain = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)))
    for layer in chain:
        nn.init.orthogonal_(layer.weight, gain=factor)
    return chain.double()


# --- norms ------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Two convolutions with an in-place ReLU behind the first, a BatchNorm, and a linear layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3, bias=False)
        self.relu, self.norm, self.twice = nn.ReLU(inplace=True), nn.BatchNorm2d(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.b(self.relu(self.a(x)))).mean((2, 3))
        return self.twice(self.twice(x).tanh())


def test_norms_are_those_of_a_plain_backward_pass() -> None:
    torch.manual_seed(0)
    network, images, labels = Small(), noise(9), torch.arange(8) % 6
    found = gradients(network, images, labels)
    z = network.a(images)
    z.retain_grad()
    middle = network.norm(network.b(z.relu())).mean((2, 3))
    first = network.twice(middle)
    last = network.twice(first.tanh())
    first.retain_grad()
    last.retain_grad()
    loss = cross_entropy(last, labels)
    loss.backward()
    rows = {layer.name: layer for layer in found.layers}
    assert list(rows) == ["a", "b", "twice"]
    assert found.loss == pytest.approx(loss.item())
    for name in rows:
        weight = network.get_submodule(name).weight
        assert rows[name].gradient == pytest.approx(weight.grad.norm().item(), rel=1e-5)
        assert rows[name].weight == pytest.approx(weight.norm().item(), rel=1e-6)
        assert rows[name].rate == pytest.approx((weight.grad.norm() / weight.norm()).item(), rel=1e-5)
    assert rows["a"].signal == pytest.approx(z.grad.norm().item(), rel=1e-5), (
        "what the in-place ReLU has not cut"
    )
    both = torch.cat([first.grad, last.grad]).norm().item()
    assert rows["twice"].signal == pytest.approx(both, rel=1e-5)


def test_any_loss_and_evaluation_mode() -> None:
    chain = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9), nn.Linear(3, 2)).double()
    x, target = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    found = gradients(chain, x, target, nn.functional.mse_loss, training=False)
    chain.eval()
    nn.functional.mse_loss(chain(x), target).backward()
    assert [layer.gradient for layer in found.layers] == pytest.approx(
        [chain[0].weight.grad.norm().item(), chain[2].weight.grad.norm().item()]
    )
    assert not found.training


def test_a_run_is_the_same_batch_for_every_state() -> None:
    network, images = canon("lenet5"), noise(32, 1)
    trained = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(network(images), LABELS).backward()
        optimizer.step()
    over = gradients_over(
        [("start", trained), ("now", network.state_dict())], canon("lenet5"), images, LABELS
    )
    assert list(over) == ["start", "now"]
    assert over["now"].loss < over["start"].loss
    assert over["now"] == gradients(network, images, LABELS)
    with pytest.raises(UsageError, match="is it another's"):
        gradients(network, images, LABELS, state={"features.nowhere": torch.ones(1)})


def test_auxiliary_heads_speak_and_stand_beside() -> None:
    network, images = canon("googlenet"), noise(64, count=2)
    found = gradients(network, images, LABELS[:2])
    beside = [layer.name for layer in found.layers if layer.beside]
    assert beside
    assert all(name.startswith("auxiliary.") for name in beside)
    assert found.verdict.layers == len(found.layers) - len(beside)
    assert found.verdict.health == "healthy"
    quiet = gradients(network, images, LABELS[:2], training=False)
    assert not any(layer.beside for layer in quiet.layers)
    torch.manual_seed(0)
    spoken = network.eval()(images)
    assert quiet.loss == pytest.approx(cross_entropy(spoken, LABELS[:2]).item(), rel=1e-4)


def test_the_loss_is_that_of_training_with_weighted_heads() -> None:
    network, images = canon("googlenet", dropout=0.0, aux_dropout=0.0), noise(64, count=2)
    found = gradients(network, images, LABELS[:2])
    logits, (first, second) = network.train()(images)
    losses = [cross_entropy(each, LABELS[:2]).item() for each in (logits, first, second)]
    assert found.loss == pytest.approx(losses[0] + 0.3 * (losses[1] + losses[2]), rel=1e-5)


def test_another_librarys_tuple_counts_by_its_first_tensor() -> None:
    torch.manual_seed(0)
    network = torchvision.models.googlenet(weights=None, num_classes=10, init_weights=False)
    images = noise(64, count=2)
    found = gradients(network, images, LABELS[:2])
    with torch.random.fork_rng():
        assert found.loss == pytest.approx(
            gradients(network, images, LABELS[:2], lambda out, y: cross_entropy(out.logits, y)).loss
        )
    assert found.verdict.health == "healthy"


class Token(nn.Module):
    """Holds a number for itself beside layers, an attention among them."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.inner = nn.Parameter(torch.zeros(1, 1, 6)), nn.Linear(6, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), 1, 6), self.inner(x)], 1)
        return self.attention(x, x, x)[0][:, 0]


def test_what_only_holds_layers_is_none_itself() -> None:
    found = gradients(Token(), torch.randn(4, 3, 6), torch.arange(4))
    assert [layer.name for layer in found.layers] == ["inner", "attention"]


def test_everything_is_given_back() -> None:
    for training in (True, False):
        convolved = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout())
        network = nn.Sequential(convolved, nn.Flatten(), nn.Linear(36, 10))
        with given_back(network):
            first = gradients(network, noise(5), LABELS, training=training)
            assert gradients(network, noise(5), LABELS, training=training) == first, "dropout by its own seed"
        with given_back(network), pytest.raises(UsageError):
            gradients(network, noise(7), LABELS, training=training)


@pytest.mark.parametrize(
    ("images", "labels", "complaint"),
    [
        (noise(32, 3), LABELS, r"cannot take an image of shape \(3, 32, 32\).*in 'features"),
        (noise(32, 1), LABELS + 5, "the loss cannot take.*bounds"),
        (noise(32, 1), LABELS[:3], "the loss cannot take"),
    ],
)
def test_what_does_not_fit_is_refused(images: Tensor, labels: Tensor, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        gradients(canon("lenet5"), images, labels)


def test_a_loss_must_be_one_number_of_the_weights() -> None:
    with pytest.raises(UsageError, match=r"its shape is \(8,\)"):
        gradients(canon("lenet5"), noise(32, 1), LABELS, partial(cross_entropy, reduction="none"))
    with pytest.raises(UsageError, match="depends on none"):
        gradients(canon("lenet5"), noise(32, 1), LABELS, lambda output, labels: torch.tensor(1.0))
    with torch.device("meta"):
        hollow = create_model("lenet5")
    with pytest.raises(UsageError, match="meta device"):
        gradients(hollow, noise(32, 1), LABELS)


# --- verdicts -------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(depth=st.integers(2, 40), factor=st.floats(0.05, 20))
def test_a_chain_of_isometries_has_exactly_its_factor(depth: int, factor: float) -> None:
    """Every layer multiplies lengths by `factor`: the verdict is arithmetic."""
    torch.manual_seed(depth)
    chain = orthogonal_chain(depth, factor)
    x, target = torch.randn(3, 12, dtype=torch.float64), torch.randn(3, 12, dtype=torch.float64)
    verdict = gradients(chain, x, target, lambda y, t: (y * t).sum()).verdict
    assert verdict.per_layer == pytest.approx(factor, rel=1e-6)
    assert verdict.over_all == pytest.approx(factor ** (depth - 1), rel=1e-4)
    if abs(abs((depth - 1) * math.log(factor)) - math.log(LIMIT)) > 1e-6:
        far = abs((depth - 1) * math.log(factor)) > math.log(LIMIT) and abs(math.log(factor)) > math.log(STEP)
        assert verdict.health == ("healthy" if not far else "vanishing" if factor < 1 else "exploding")


@settings(max_examples=10)
@given(depth=st.integers(10, 40))
def test_sigmoids_vanish_at_any_depth_beyond_ten(depth: int) -> None:
    """The derivative is at most 1/4, and weights of Xavier's do not make up for it."""
    torch.manual_seed(depth)
    chain = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.Sigmoid()) for _ in range(depth)))
    initialise(chain, "xavier")
    verdict = gradients(chain, torch.randn(8, 16), LABELS).verdict
    assert verdict.health == "vanishing"
    assert verdict.per_layer < 0.3


@pytest.mark.parametrize(
    ("gain", "health"), [(0.3, "vanishing"), (2**0.5, "healthy"), (5.0, "exploding"), (1e20, "exploding")]
)
def test_plain_convolutions_live_by_their_initialisation(gain: float, health: str) -> None:
    """He's gain of sqrt(2) keeps a stack of ReLU layers; below it signals vanish, above they explode."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3 if not i else 16, 16, 3, padding=1) for i in range(14)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=gain / (layer.in_channels * 9) ** 0.5)
    stack = nn.Sequential(*(nn.Sequential(layer, nn.ReLU()) for layer in layers))
    network = nn.Sequential(stack, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    assert gradients(network, noise(12), LABELS).verdict.health == health


@pytest.mark.parametrize("std", [0.01, 1.0])
def test_rates_do_not_tell_what_signals_tell(std: float) -> None:
    """Without biases W · dL/dW is the same sum for every layer of a ReLU stack: the reason for looking at signals."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 64, bias=False) for _ in range(12)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=std)
    chain = nn.Sequential(*(nn.Sequential(layer, nn.ReLU()) for layer in layers[:-1]), layers[-1]).double()
    x = torch.randn(8, 64, dtype=torch.float64)
    found = gradients(chain, x, torch.arange(8))
    rates = [layer.rate for layer in found.layers]
    assert max(rates) / min(rates) < 20
    assert found.verdict.health == ("vanishing" if std < 0.1 else "exploding")


@pytest.mark.parametrize(
    ("name", "side", "health"),
    [
        ("resnet20_cifar", 32, "healthy"),
        ("resnet56_cifar", 32, "healthy"),
        ("resnet110_cifar", 16, "healthy"),
        ("resnet18", 64, "healthy"),
        ("plain20_cifar", 32, "healthy"),
        ("plain56_cifar", 32, "exploding"),  # what its paper calls degradation; x 1.2 a layer by BatchNorm
        ("squeezenet1_0", 64, "healthy"),
    ],
)
def test_the_canon_at_its_own_initialisation(name: str, side: int, health: str) -> None:
    assert gradients(canon(name), noise(side), LABELS).verdict.health == health


@pytest.mark.parametrize(("std", "health"), [(0.01, "vanishing"), (1.0, "exploding")])
def test_a_plain_network_at_a_bad_initialisation(std: float, health: str) -> None:
    """A network of 27 layers that has no BatchNorm to hide it; with BatchNorm the scale of weights means nothing."""
    network = canon("cifar100_study")
    assert gradients(network, noise(32), LABELS).verdict.health == "healthy"
    initialise(network, "small-gaussian", std=std)
    assert gradients(network, noise(32), LABELS).verdict.health == health
    hidden = canon("plain20_cifar")
    initialise(hidden, "small-gaussian", std=std)
    assert gradients(hidden, noise(32), LABELS).verdict.health == "healthy"


def test_depth_brings_the_factor_of_batchnorm_and_relu() -> None:
    """sqrt(pi / (pi - 1)) = 1.211 per layer (Yang et al., 2019, "A Mean Field Theory of Batch Normalization")."""
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU()) for _ in range(20)
    ]
    verdict = gradients(nn.Sequential(*blocks), torch.randn(256, 512), torch.arange(256) % 10).verdict
    assert verdict.per_layer == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), rel=0.03)


def test_judging_by_hand() -> None:
    assert judge([1.0]).health == "undecided"
    assert judge([0.0, 0.0, 1.0]).health == "undecided"
    assert "2 of 3 signals are exactly 0" in judge([0.0, 0.0, 1.0]).rule
    assert judge([1.0, float("inf")]).health == "exploding"
    assert judge([float("nan"), 1.0]).health == "exploding"
    assert judge([0.0, 1e-9, 0.0, 1e-3, 1.0]).health == "vanishing"
    assert judge([1.0, 1e6, 1.0, 1.0, 1.0, 1.0]).health == "healthy", "one step decides nothing"
    assert judge([1e-3, 1e-2, 1e-1, 1.0], limit=100).health == "vanishing"
    steady = [1.01**-i for i in range(2000)]
    assert judge(steady).health == "healthy", "1 % a layer"
    assert judge(steady, step=1.001).health == "exploding"


def test_curves_are_the_norms() -> None:
    found = {name: gradients(canon(name), noise(32), LABELS) for name in ("plain20_cifar", "resnet20_cifar")}
    for of in ("signal", "gradient", "rate"):
        axes = curves(found, of).axes[0]
        assert axes.get_yscale() == "log"
        for line, (name, each) in zip(axes.get_lines(), found.items(), strict=True):
            assert line.get_label() == name
            assert list(line.get_xdata()) == list(range(1, 21))
            assert list(line.get_ydata()) == [getattr(layer, of) for layer in each.layers]
    with pytest.raises(UsageError, match="5 were asked for"):
        curves(dict.fromkeys("abcde", found["plain20_cifar"]))
    with_heads = gradients(canon("googlenet"), noise(64, count=2), LABELS[:2])
    (line,) = curves({"googlenet": with_heads}).axes[0].get_lines()
    assert len(line.get_xdata()) == 58


def test_json_has_no_number_that_json_lacks() -> None:
    chain = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    nn.init.constant_(chain[0].weight, math.nan)
    nn.init.zeros_(chain[1].weight)
    value = gradients(chain, torch.ones(2, 3), torch.tensor([0, 1])).to_json()
    assert value["loss"] is None
    assert value["layers"][1]["rate"] is None
    assert value["verdict"]["health"] == "exploding"
    assert isinstance(gradients(canon("lenet5"), noise(32, 1), LABELS), Gradients)
