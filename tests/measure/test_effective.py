"""The effective receptive field against its laws: convolved boxes, growth as the square root, exact Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageColor
from torch import nn

from convatlas.errors import UsageError
from convatlas.measure.effective import effective_field, fit, last_map, noise
from convatlas.measure.effective_picture import HEAT, LINE, picture
from convatlas.models import create_model
from measure.borrowed import given_back


def uniform_stack(depth: int, kernel: int = 3, weight: float = 1.0) -> nn.Sequential:
    layers = [nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False) for _ in range(depth)]
    for layer in layers:
        nn.init.constant_(layer.weight, weight)
    return nn.Sequential(*layers).double()


def zeros(side: int) -> torch.Tensor:
    return torch.zeros(1, 1, side, side, dtype=torch.float64)


def boxes(depth: int, kernel: int = 3) -> np.ndarray:
    """A box of `kernel` convolved with itself: one axis of the map, whole numbers."""
    profile = np.ones(1, dtype=object)
    for _ in range(depth):
        profile = np.convolve(profile, np.ones(kernel, dtype=object))
    return profile


@settings(max_examples=25)
@given(depth=st.integers(1, 12), kernel=st.sampled_from([3, 5]))
def test_a_uniform_stack_is_boxes_convolved(depth: int, kernel: int) -> None:
    """Luo et al., 2016, section 2.1: the map is the n-fold convolution of the kernel."""
    profile = boxes(depth, kernel).astype(float)
    reach = len(profile)
    found = effective_field(uniform_stack(depth, kernel, -0.3), zeros(reach + 6), f"{depth - 1}")
    expected = np.zeros((reach + 6, reach + 6))
    start = (reach + 6) // 2 - reach // 2
    expected[start : start + reach, start : start + reach] = np.outer(profile, profile)
    np.testing.assert_allclose(found.map, expected / expected.sum(), rtol=1e-9, atol=1e-15)
    assert found.reached == ((start, start + reach - 1),) * 2, "the theoretical field, 1 + n (k - 1)"
    variance = depth * (kernel**2 - 1) / 12
    assert found.fit.spread == pytest.approx((math.sqrt(variance),) * 2)


def test_sigma_grows_as_the_square_root_of_depth() -> None:
    depths = (5, 10, 20, 40)
    found = [effective_field(uniform_stack(n), zeros(2 * n + 11), f"{n - 1}") for n in depths]
    for n, field in zip(depths, found, strict=True):
        assert field.fit.sigma == pytest.approx((math.sqrt(2 * n / 3),) * 2, rel=0.25 / n)
        assert field.fit.quality > 1 - 0.02 / n
        assert field.size() / (2 * n + 1) == pytest.approx(
            found[0].size() / 11 * math.sqrt(5 / n), rel=0.12
        ), "a share of the box that shrinks as 1 / sqrt(n)"


@settings(max_examples=25)
@given(sy=st.floats(1.2, 6), sx=st.floats(1.2, 6), cy=st.floats(20, 25), cx=st.floats(20, 30))
def test_the_fit_finds_a_gaussian(sy: float, sx: float, cy: float, cx: float) -> None:
    y, x = np.indices((48, 52))
    heat = np.exp(-(((y - cy) / sy) ** 2) / 2 - ((x - cx) / sx) ** 2 / 2)
    found = fit(heat / heat.sum())
    assert found.sigma == pytest.approx((sy, sx), rel=1e-5)
    assert found.centre == pytest.approx((cy, cx), abs=1e-5)
    assert found.quality == pytest.approx(1, abs=1e-9)


def test_quality_tells_a_gaussian_from_what_is_none() -> None:
    checks = np.indices((40, 40)).sum(0) % 2 / 800.0
    assert fit(checks).quality < 0.05


def test_sizes_by_counting() -> None:
    field = effective_field(uniform_stack(4), zeros(15), "3")
    profile = boxes(4).astype(float)
    plane = np.outer(profile, profile)
    assert field.size() == pytest.approx(math.sqrt((plane > (1 - 0.9545) * plane.max()).sum()))
    assert field.size(0.5) == pytest.approx(math.sqrt((plane > 0.5 * plane.max()).sum()))
    shares = {2 * r + 1: plane[4 - r : 5 + r, 4 - r : 5 + r].sum() / plane.sum() for r in range(5)}
    assert field.side_of() == min(side for side, share in shares.items() if share >= 0.9545)
    assert field.side_of(1.0) == 9
    gaussian = effective_field(uniform_stack(40), zeros(101), "39")
    within = math.sqrt(math.pi * 2 * math.log(1 / (1 - 0.9545)))  # of a Gaussian, in sigmas
    assert gaussian.size() == pytest.approx(within * gaussian.fit.sigma[0], rel=0.01)


def test_axes_strides_and_the_unit() -> None:
    """Rows 5 and columns 3 wide, stride 2: the middle unit of 6 x 6 is (3, 3), at pixel (6, 6)."""
    layer = nn.Conv2d(1, 2, (5, 3), stride=2, padding=(2, 1), bias=False).double()
    nn.init.ones_(layer.weight)
    field = effective_field(nn.Sequential(layer), zeros(12), "0")
    assert field.unit == (3, 3)
    assert field.reached == ((4, 8), (5, 7))
    assert field.fit.spread == pytest.approx((math.sqrt(2), math.sqrt(2 / 3)))


def test_images_are_averaged() -> None:
    """ReLU lets other pixels through for other images; the map is the mean of theirs."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU()).double()
    images = noise((3, 9, 9), 5).double()
    found = effective_field(network, images, "2", batch_size=2)
    total = np.zeros((9, 9))
    for image in images:
        pixels = image[None].clone().requires_grad_()
        network[:3](pixels)[0, :, 2, 2].sum().backward()
        total += pixels.grad.abs()[0].sum(0).numpy()
    np.testing.assert_allclose(found.map, total / total.sum(), rtol=1e-9)
    assert found.images == 5


def test_noise_is_a_function_of_its_seed() -> None:
    assert torch.equal(noise((3, 4, 4), 2), noise((3, 4, 4), 2))
    assert not torch.equal(noise((3, 4, 4), 2), noise((3, 4, 4), 2, seed=1))


def test_residual_networks_answer_to_less_than_they_see() -> None:
    torch.manual_seed(0)
    field = effective_field(create_model("resnet20_cifar"), noise((3, 96, 96), 4))
    assert field.layer == "features.conv4_x.2.relu"
    assert field.reached == ((8, 88), (8, 88)), "81 x 81 pixels, as the sum over its layers has it"
    assert 20 < field.size() < 60
    assert field.fit.quality > 0.8


def test_the_last_map() -> None:
    with torch.device("meta"):
        assert last_map(create_model("lenet5"), (1, 32, 32)).startswith("features.")
        assert last_map(nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1)), (1, 8, 8)) == "0"
    with pytest.raises(UsageError, match="no layer"):
        last_map(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), (1, 8, 8))


def test_images_may_be_larger_than_the_head_allows() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    assert effective_field(network, noise((1, 20, 20), 1), "0").map.shape == (20, 20)


def test_an_in_place_relu_behind_the_layer_changes_nothing() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 3, 3)
    images = noise((1, 7, 7), 2)
    alone = effective_field(nn.Sequential(conv), images, "0")
    followed = effective_field(nn.Sequential(conv, nn.ReLU(inplace=True)), images, "0")
    np.testing.assert_array_equal(alone.map, followed.map)


def test_everything_is_given_back() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(), nn.Conv2d(3, 2, 3))
    with given_back(network):
        effective_field(network, noise((1, 9, 9), 3))
        with torch.no_grad():
            effective_field(network, noise((1, 9, 9), 3))
    with given_back(network), pytest.raises(UsageError):
        effective_field(network, noise((2, 9, 9), 3), "0")


@pytest.mark.parametrize(
    ("layer", "complaint"),
    [
        ("fetures", "no layer 'fetures'.*Did you mean 'features'"),
        ("", "no layer ''"),
        ("head.fc", r"gives no map .*\(8, 10\)"),
        ("auxiliary", "is not called"),
    ],
)
def test_a_layer_that_cannot_be_meant(layer: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        effective_field(create_model("resnet20_cifar"), noise((3, 32, 32), 8), layer)


def test_dead_layers_hollow_networks_and_no_images() -> None:
    dead = nn.Sequential(nn.Conv2d(1, 1, 3))
    nn.init.zeros_(dead[0].weight)
    with pytest.raises(UsageError, match="no pixel has an influence"):
        effective_field(dead, zeros(9).float(), "0")
    with pytest.raises(UsageError, match="meta device"):
        effective_field(nn.Conv2d(1, 1, 3, device="meta"), zeros(9).float())
    with pytest.raises(UsageError, match="are expected"):
        effective_field(dead, torch.zeros(0, 1, 9, 9))


def test_the_picture_shows_box_and_ellipse_where_they_are() -> None:
    field = effective_field(uniform_stack(6), zeros(40), "5")
    image = np.full((40, 40, 3), 128, np.uint8)
    shown = picture(field, image, ((14, 26), (14, 26)), title="six layers")
    scale, left = 520 / 40, (shown.shape[1] - 520) // 2
    blue, orange = (np.array(ImageColor.getrgb(colour)) for colour in (LINE, HEAT))

    def has(colour: np.ndarray, y: float, x: float) -> bool:
        """Whether that colour is found within half a pixel of the image's place (y, x)."""
        row, column = round((y + 0.5) * scale), left + round((x + 0.5) * scale)
        part = shown[row - 6 : row + 7, column - 6 : column + 7].astype(int)
        return bool((abs(part - colour).max(-1) < 24).any())

    assert has(blue, 13.5, 20)
    assert has(blue, 20, 13.5)
    assert has(blue, 26.5, 22)
    assert not has(blue, 10, 20)
    sigma = field.fit.sigma[0]
    assert has(orange, 20 + 2 * sigma, 20)
    assert has(orange, 20, 20 - 2 * sigma)
    assert not has(orange, 20 + 2 * sigma + 1.5, 20)
    assert not has(blue, 38, 38)


def test_a_box_beyond_the_image_makes_room_around_it() -> None:
    field = effective_field(uniform_stack(6), zeros(40), "5")
    inside, beyond = picture(field, None, ((14, 26), (14, 26))), picture(field, None, ((-10, 50), (-10, 50)))
    assert inside.shape == beyond.shape
    top = inside.shape[1] // 2 - 200
    assert beyond[3, top].tolist() != inside[3, top].tolist(), "a ground that is no part of the image"
