"""The papers' initialisations against their laws, on networks of the canon."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import convatlas
from convatlas.errors import NumericError, UsageError
from convatlas.hooks import capture
from convatlas.layers.init import INITIALISATIONS, initialise
from convatlas.layers.init.data_dependent import rates_of_change
from convatlas.layers.init.fixup import Scalar, residual_branches
from convatlas.layers.init.in_order import normalised
from convatlas.layers.init.random_walk import scale
from convatlas.layers.init.variance import fans, weight_layers
from convatlas.models import create_model
from convatlas.models.highway import HighwayLayer

LOOK_AT_DATA = {"whitening", "lsuv", "data-dependent", "data-dependent-pca", "data-dependent-kmeans"}


def chain(depth: int, width: int, activation: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    """Linear layers of equal width in float64, each with an activation."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width, dtype=torch.float64), *([activation()] if activation else [])]
    return nn.Sequential(*layers)


def outputs_of(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each weight layer gives, in evaluation mode."""
    names = [name for name, _ in weight_layers(network)]
    with torch.no_grad(), capture(network, names) as outputs:
        network.eval()(x)
    return {name: outputs[name] for name in names}


# --- variance from shapes -----------------------------------------------------------------------------------

VARIANCES = {
    "small-gaussian": lambda fan_in, fan_out: 0.01**2,
    "xavier": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "xavier-normal": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "xavier-fan-in": lambda fan_in, fan_out: 1 / fan_in,
    "glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "he": lambda fan_in, fan_out: 2 / fan_out,
    "he-fan-in": lambda fan_in, fan_out: 2 / fan_in,
    "random-walk": lambda fan_in, fan_out: scale(fan_in, "relu") ** 2 / fan_in,
}


@pytest.mark.parametrize("name", VARIANCES)
def test_variance_of_the_weights(name: str) -> None:
    torch.manual_seed(0)
    network = create_model("squeezenet1_1", init=name)
    compared = 0
    for _, layer in weight_layers(network):
        weight = layer.weight.detach()
        expected = VARIANCES[name](weight[0].numel(), weight.shape[0] * weight[0, 0].numel())
        if weight.numel() > 5000:
            assert float(weight.var()) == pytest.approx(expected, rel=0.06)
            assert abs(float(weight.mean())) < 4 * (expected / weight.numel()) ** 0.5
            compared += 1
        assert layer.bias is not None
        assert not layer.bias.any()
    assert compared == 18


def test_uniform_weights_are_uniform() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(400, 200)
    initialise(layer, "xavier")
    bound = math.sqrt(6 / 600)
    assert float(layer.weight.detach().abs().max()) == pytest.approx(bound, rel=1e-3)
    counts = torch.histc(layer.weight.detach(), 10, -bound, bound) / layer.weight.numel()
    torch.testing.assert_close(counts, torch.full((10,), 0.1), atol=0.01, rtol=0)


def test_groups_count_only_connections_that_exist() -> None:
    assert fans(nn.Conv2d(8, 16, 3, groups=4)) == (2 * 9, 4 * 9)
    assert fans(nn.ConvTranspose2d(8, 16, 3)) == (8 * 9, 16 * 9)


@pytest.mark.parametrize(
    ("name", "activation"), [("he-fan-in", nn.ReLU), ("xavier", nn.Tanh), ("xavier-fan-in", None)]
)
def test_signals_keep_their_scale_forwards(name: str, activation: type[nn.Module] | None) -> None:
    """Over ten layers of 512: the mean square of what layers give, small enough for tanh to be linear."""
    torch.manual_seed(0)
    network = chain(10, 512, activation)
    initialise(network, name)
    x = 0.01 * torch.randn(64, 512, dtype=torch.float64)
    squares = [float(y.square().mean()) for y in outputs_of(network, x).values()]
    assert squares[-1] / squares[0] == pytest.approx(1, abs=0.25)


def test_xavier_halves_signals_at_every_relu_and_small_gaussians_lose_them() -> None:
    """The lecture's figures: ReLU with Xavier, RMS 0.0071 to 0.00125; tanh with N(0, 0.01^2), 0.0064 to 0.00069."""
    x = 0.01 * torch.randn(16, 4096)
    for name, activation, first, last in (
        ("xavier-fan-in", nn.ReLU, 0.0071, 0.00125),
        ("small-gaussian", nn.Tanh, 0.0064, 0.00069),
    ):
        torch.manual_seed(0)
        layers = [layer for _ in range(6) for layer in (nn.Linear(4096, 4096, bias=False), activation())]
        network = nn.Sequential(*layers)
        initialise(network, name)
        with torch.no_grad(), capture(network, ["1", "11"]) as outputs:
            network(x)
        rms = [float(y.square().mean().sqrt()) for y in outputs.values()]
        assert rms == pytest.approx([first, last], rel=0.1)


@pytest.mark.parametrize(("name", "drifts"), [("he", False), ("xavier-fan-in", True)])
def test_gradients_keep_their_scale_backwards(name: str, drifts: bool) -> None:
    torch.manual_seed(0)
    network = chain(10, 512)
    initialise(network, name)
    x = torch.randn(64, 512, dtype=torch.float64, requires_grad=True)
    top = torch.randn(64, 512, dtype=torch.float64)
    network(x).backward(top)
    assert x.grad is not None
    ratio = float(x.grad.square().mean() / top.square().mean())
    assert ratio == pytest.approx(2.0**-10 if drifts else 1, rel=0.4)


def test_constant_weights_keep_the_units_of_a_layer_equal() -> None:
    """The question of the lecture: all units compute the same, and training cannot part them."""
    network = create_model("lenet5", init="constant", init_options={"value": 0.05}).double()
    optimiser = torch.optim.SGD(network.parameters(), 1.0)
    for step in range(5):
        torch.manual_seed(step)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(torch.rand(8, 1, 32, 32).double()), torch.arange(8)).backward()
        optimiser.step()
    hidden = [layer for _, layer in weight_layers(network)][:-1]
    for layer in hidden:
        assert torch.equal(layer.weight, layer.weight[:1].expand_as(layer.weight))
    assert not torch.equal(hidden[0].weight, torch.full_like(hidden[0].weight, 0.05))


# --- orthogonal ---------------------------------------------------------------------------------------------


def test_orthogonal_matrices() -> None:
    torch.manual_seed(0)
    gain = 1.5
    network = create_model("shufflenet_v2_x0_5", init="orthogonal", init_options={"gain": gain}).double()
    for _, layer in weight_layers(network):
        groups = getattr(layer, "groups", 1)
        for weight in layer.weight.detach().chunk(groups):
            w = weight.flatten(1)
            product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
            expected = gain**2 * torch.eye(len(product), dtype=torch.float64)
            torch.testing.assert_close(product, expected, atol=1e-5, rtol=0)


def test_a_deep_linear_network_is_an_isometry() -> None:
    torch.manual_seed(0)
    network = chain(40, 64, None)
    lengths = {}
    for name in ("orthogonal", "xavier-fan-in"):
        initialise(network, name)
        values = torch.linalg.svdvals(network(torch.eye(64, dtype=torch.float64)).detach())
        lengths[name] = float(values[0] / values[-1])
    assert lengths["orthogonal"] == pytest.approx(1, abs=1e-6)
    assert lengths["xavier-fan-in"] > 1e6


# --- random walk --------------------------------------------------------------------------------------------


def drift(
    name: str, activation: type[nn.Module] | None, seeds: int = 40, **options: str
) -> tuple[float, float]:
    """Mean over `seeds` of log(|gradient below| / |gradient above|) in 100 layers of 32, and its standard error."""
    walks = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        network = chain(100, 32, activation)
        initialise(network, name, **options)
        x = torch.randn(1, 32, dtype=torch.float64, requires_grad=True)
        y = network(x)
        top = torch.randn_like(y)
        y.backward(top)
        assert x.grad is not None
        walks.append(float((x.grad.norm() / top.norm()).log()))
    found = torch.tensor(walks)
    return float(found.mean()), float(found.std() / seeds**0.5)


def test_the_random_walk_of_gradients_is_unbiased_in_linear_networks() -> None:
    mean, error = drift("random-walk", None, nonlinearity="linear")
    assert abs(mean) < 3 * error
    biased, error = drift("xavier-fan-in", None)
    assert biased < -3 * error


def test_the_random_walk_of_gradients_hardly_drifts_through_relu() -> None:
    """The paper's formula is a fit; He's factor loses e^3 over the same 100 layers."""
    mean, error = drift("random-walk", nn.ReLU)
    biased, _ = drift("he", nn.ReLU)
    assert abs(mean) < 3 * error + 0.5
    assert biased < mean - 2


def test_the_factors_of_the_paper() -> None:
    assert scale(10, "linear") == pytest.approx(math.exp(0.05))
    assert scale(100, "relu") == pytest.approx(math.sqrt(2) * math.exp(1.2 / 97.6))
    assert scale(2, "relu") == scale(6, "relu")
    with pytest.raises(UsageError, match="'relu' and 'linear'"):
        initialise(nn.Linear(2, 2), "random-walk", nonlinearity="tanh")


# --- from data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vgg11", "nin_cifar10", "squeezenet1_1_cifar", "lenet5"])
def test_lsuv_gives_every_layer_unit_variance(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name, **({"hidden": 64} if name == "vgg11" else {}))
    x = torch.randn(16, network.in_channels, 32, 32) * 3 + 1
    before = [float(y.var()) for y in outputs_of(network, x).values()]
    assert max(abs(v - 1) for v in before) > 0.5
    network.train()
    initialise(network, "lsuv", batch=x)
    assert all(module.training for module in network.modules())
    for layer, y in outputs_of(network, x).items():
        assert float(y.var()) == pytest.approx(1, abs=0.1), layer


def test_lsuv_keeps_the_directions_orthogonal() -> None:
    torch.manual_seed(0)
    network = create_model("lenet5")
    initialise(network, "lsuv", batch=torch.randn(8, 1, 32, 32))
    for _, layer in weight_layers(network):
        w = layer.weight.detach().flatten(1).double()
        product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
        torch.testing.assert_close(
            product / product[0, 0], torch.eye(len(product)).double(), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("filters", ["random", "pca", "kmeans"])
def test_channels_have_mean_0_and_variance_1_within_layers(filters: str) -> None:
    torch.manual_seed(0)
    network = create_model("lenet5")
    x = torch.randn(64, 1, 32, 32) + 0.5
    initialise(network, "data-dependent", batch=x, filters=filters, rounds=0)
    for y in outputs_of(network, x).values():
        by_channel = y.transpose(0, 1).flatten(1)
        torch.testing.assert_close(by_channel.mean(1), torch.zeros(len(by_channel)), atol=1e-4, rtol=0)
        torch.testing.assert_close(by_channel.std(1), torch.ones(len(by_channel)), atol=1e-3, rtol=0)


def test_pca_filters_are_the_principal_components_of_patches() -> None:
    """Images of stripes: the strongest 2x2 filter of the first layer is the stripe."""
    torch.manual_seed(0)
    stripes = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    x = torch.randn(64, 1, 1, 1) * stripes.repeat(4, 4) + 0.01 * torch.randn(64, 1, 8, 8)
    network = nn.Sequential(nn.Conv2d(1, 2, 2, stride=2))
    initialise(network, "data-dependent-pca", batch=x, rounds=0)
    first = network[0].weight.detach()[0, 0]
    torch.testing.assert_close((first / first[0, 0]), stripes, atol=0.05, rtol=0)


@pytest.mark.parametrize("filters", ["random", "kmeans"])
def test_all_layers_change_at_equal_rates(filters: str) -> None:
    """The paper's criterion: gradients relative to weights are equally large in all layers."""
    network = create_model("lenet5", num_classes=10)
    torch.manual_seed(0)
    x, top = torch.randn(64, 1, 32, 32), torch.randn(64, 10)
    before = rates_of_change(network, x, top)
    assert max(before.values()) / min(before.values()) > 5
    initialise(network, "data-dependent", batch=x, filters=filters)
    after = rates_of_change(network, x, top)  # another `top` than that it was made for
    assert len(after) == 5
    assert max(after.values()) / min(after.values()) < 1.6


def test_equal_rates_to_one_percent_without_changing_the_outputs_scale() -> None:
    """In a network of ReLU and max-pooling the product of all factors is 1."""
    convs: list[nn.Module] = []
    for c_in, c_out in pairwise((3, 8, 16, 24)):
        convs += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*convs, nn.Flatten(), nn.Linear(24 * 4, 5))
    torch.manual_seed(0)
    x = torch.randn(32, 3, 16, 16)
    initialise(network, "data-dependent", batch=x, rounds=0)
    kept = float(network(x).detach().std())
    torch.manual_seed(1)
    initialise(network, "data-dependent", batch=x, tolerance=0.001)
    torch.manual_seed(1)
    for _, layer in weight_layers(network):
        torch.randn(layer.weight.shape)  # what is drawn before the gradient of the output
    rates = rates_of_change(network, x, torch.randn(32, 5))
    assert max(rates.values()) / min(rates.values()) < 1.01
    assert float(network(x).detach().std()) == pytest.approx(kept, rel=0.05)


# --- fixup --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["resnet20_cifar", "resnet50", "resnet110_preact_cifar", "mobilenet_v2_x0_35"]
)
def test_fixup_starts_branches_at_zero_and_scales_the_rest(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name, init="fixup")
    branches = [branch for _, branch in residual_branches(network)]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    for branch in branches:
        layers = [layer for _, layer in weight_layers(branch)]
        assert not layers[-1].weight.any()
        for layer in layers[:-1]:
            _, fan_out = fans(layer)
            expected = (2 / fan_out) ** 0.5 * len(branches) ** (-1 / (2 * len(layers) - 2))
            assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.12)
        scalars = [module for module in branch if isinstance(module, Scalar)]
        assert [s.scale is not None for s in scalars] == [False] * (len(scalars) - 1) + [True]
        x = torch.randn(1, layers[0].in_channels, 8, 8)
        assert not branch(x).any()
    assert not network.get_classifier().weight.any()


def resnet(layers: int) -> nn.Module:
    torch.manual_seed(0)
    return create_model(f"resnet{layers}_cifar", init="fixup")


def test_with_fixup_the_function_at_the_start_is_that_of_any_depth() -> None:
    """With shortcuts A, all that is left is the stem, padded and subsampled."""
    x = torch.randn(2, 3, 32, 32)
    stem = resnet(20).features.get_submodule("conv1").state_dict()
    found = []
    for layers in (20, 56, 110):
        network = resnet(layers).eval()
        network.features.get_submodule("conv1").load_state_dict(stem)
        found.append(network.forward_features(x))
        assert not network(x).any()
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found[0].any()


def test_with_fixup_a_step_changes_the_function_equally_much_at_any_depth() -> None:
    """Two steps of SGD (after one, branches are still silent); with He's weights the change explodes with depth."""
    torch.manual_seed(1)
    x, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    changes = []
    for layers in (20, 56):
        network = resnet(layers)
        optimiser = torch.optim.SGD(network.parameters(), 0.01)
        for _ in range(3):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x), labels).backward()
            optimiser.step()
        changes.append(float(network(x).detach().norm()))
    assert 0 < changes[0] < 100
    assert changes[1] == pytest.approx(changes[0], rel=0.5)


def test_fixup_is_for_residual_networks() -> None:
    for name in ("vgg11_bn", "plain20_cifar"):
        with pytest.raises(UsageError, match=r"no residual branches. Take 'lsuv'"):
            create_model(name, init="fixup", **({"hidden": 8} if name == "vgg11_bn" else {}))


# --- networks with BatchNorm, and images too few -----------------------------------------------------------------


def normed(after: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Two convolutions with BatchNorm after them and two layers without."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), after(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), after(),
        nn.Conv2d(8, 8, 3), after(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def test_layers_before_batchnorm_keep_unit_variance_and_the_others_change_equally() -> None:
    torch.manual_seed(0)
    network, x, top = normed(), torch.randn(32, 3, 16, 16), torch.randn(32, 5)
    assert normalised(network, x) == {"0", "3"}
    initialise(network, "data-dependent", batch=x)
    outputs = outputs_of(network, x)
    for name in ("0", "3"):
        deviation = outputs[name].transpose(0, 1).flatten(1).std(1)
        torch.testing.assert_close(deviation, torch.ones(8), atol=1e-3, rtol=0)
    rates = rates_of_change(network, x, top)
    assert rates["6"] / rates["10"] == pytest.approx(1, rel=0.5)
    assert rates["0"] / rates["10"] > 3  # in training its scale, and so this number, is free


def test_a_network_of_batchnorm_keeps_its_scale_on_three_small_images() -> None:
    torch.manual_seed(5)
    x = torch.randn(3, 3, 32, 32)
    for name in ("data-dependent", "data-dependent-kmeans"):
        network = create_model("bn_inception", init=name, init_batch=x).eval()
        assert 0.1 < float(network(x).detach().std()) < 10


def test_channels_that_hardly_vary_are_refused_and_the_network_stays() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 4, 8, 8)
    x[:, 1] = 3 + 1e-6 * x[:, 1]
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UsageError, match=r"1 of 4 channels of '0' hardly vary on these 16 images: give more"):
        initialise(network, "data-dependent", batch=x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("factor", [1e5, float("nan"), float("inf")])
def test_outputs_far_too_large_are_refused_and_the_network_stays(factor: float) -> None:
    class Amplified(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return factor * x

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Amplified())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name in sorted(LOOK_AT_DATA):
        with pytest.raises(NumericError, match=r"outputs of deviation.*stays as it was. Give more images"):
            initialise(network, name, batch=torch.randn(8, 3, 16, 16))
        assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


# --- by name ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_every_name_makes_other_weights_and_says_when_it_needs_images(name: str) -> None:
    torch.manual_seed(0)
    network = create_model("resnet20_cifar" if name == "fixup" else "lenet5")
    first = next(iter(weight_layers(network)))[1].weight
    before = first.clone()
    x = torch.randn(8, network.in_channels, 32, 32)
    if name in LOOK_AT_DATA:
        with pytest.raises(UsageError, match="looks at images"):
            convatlas.initialise(network, name)
        convatlas.initialise(network, name, batch=x)
    else:
        with pytest.raises(UsageError, match="looks at no images"):
            convatlas.initialise(network, name, batch=x)
        convatlas.initialise(network, name)
    assert not torch.equal(first, before)
    assert torch.isfinite(network(x)).all()


@pytest.mark.parametrize("name", sorted(set(INITIALISATIONS) - LOOK_AT_DATA - {"fixup"}))
def test_those_that_look_at_no_images_work_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        create_model("resnet18", init=name)


def test_a_layer_whose_paper_fixes_its_start_keeps_it() -> None:
    x = torch.randn(4, 1, 28, 28)
    for name in ("he", "lsuv", "data-dependent"):
        batch = x if name in LOOK_AT_DATA else None
        options = {"rounds": 1} if name == "data-dependent" else None
        network = create_model("highway10_mnist", init=name, init_batch=batch, init_options=options)
        gates = [m.gate.get_submodule("conv").bias for m in network.modules() if isinstance(m, HighwayLayer)]
        assert len(gates) == 8
        assert all((bias == -1).all() for bias in gates)


def test_create_model_passes_name_batch_and_options_on() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 1, 32, 32)
    network = create_model("lenet5", init="lsuv", init_batch=x)
    assert all(float(y.var()) == pytest.approx(1, abs=0.1) for y in outputs_of(network, x).values())
    wide = create_model("lenet5", init="small-gaussian", init_options={"std": 3.0})
    assert float(wide.get_classifier().weight.detach().std()) == pytest.approx(3, rel=0.1)
    own = create_model("vgg11", hidden=8, init="paper")  # a name of the family
    assert float(own.features[0][0].weight.detach().std()) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "lsvu"}, r"no initialisation 'lsvu'. Did you mean 'lsuv'"),
        ({"init": "lsuv"}, r"init_batch=x"),
        ({"init": "he", "init_options": {"fann": "in"}}, r"no option 'fann'. Did you mean 'fan'"),
        ({"init_batch": torch.zeros(1)}, r"came without its name"),
        ({"init": "lsuv", "init_batch": [1]}, r"a tensor \(N, C, H, W\), not list \[1\]"),
        ({"init": "small-gaussian", "init_options": {"std": -1}}, r"std=-1 came; a deviation is 0 or more"),
        ({"init": "small-gaussian", "init_options": {"std": "a"}}, r"std='a' came.*a finite number"),
        ({"init": "he", "init_options": {"slope": float("nan")}}, r"slope=nan came.*a finite number"),
        ({"init": "lsuv", "init_batch": torch.zeros(4, 1, 32, 32)}, r"does not vary"),
        ({"init": "lsuv", "init_batch": torch.randn(4, 3, 32, 32)}, r"\(4, 3, 32, 32\) does not go through"),
        (
            {
                "init": "data-dependent",
                "init_batch": torch.randn(4, 1, 32, 32),
                "init_options": {"filters": "dct"},
            },
            "'pca'",
        ),
    ],
)
def test_what_cannot_be_initialised(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_model("lenet5", **settings)  # pyright: ignore[reportArgumentType]


def test_images_do_not_go_through_a_meta_network() -> None:
    with torch.device("meta"):
        network = create_model("lenet5")
    with pytest.raises(UsageError, match="meta device"):
        initialise(network, "lsuv", batch=torch.randn(2, 1, 32, 32))
