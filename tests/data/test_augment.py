"""Augmentation against torchvision and Pillow, its laws, and its independence of everything but the key."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as oracle

from convatlas.data import trivial, warp
from convatlas.data.augment import ERASED_AREA, Augment
from convatlas.errors import UsageError


def pictures(
    count: int = 6, channels: int = 3, height: int = 33, width: int = 41, seed: int = 0
) -> torch.Tensor:
    """Smooth colours, noise, and one flat picture at the end: uint8 (N, C, H, W)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    shape = (count, channels, 1, 1)
    waves = np.sin(random.uniform(2, 9, shape) * x + random.uniform(0, 6, shape))
    waves = waves + np.cos(random.uniform(2, 9, shape) * y)
    images = waves * random.uniform(10, 55, shape) + random.uniform(90, 160, shape)
    images = images + random.normal(0, 8, images.shape)
    images[-1] = 77
    return torch.from_numpy(np.clip(images, 0, 255).astype(np.uint8))


def many_ids(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64) * 3 + 5


def agrees(two: tuple[np.ndarray, np.ndarray], limit: float = 1.95) -> bool:
    """Two-sample Kolmogorov-Smirnov: false once in about 1,000 times when the laws are equal."""
    a, b = (np.sort(sample) for sample in two)
    both = np.concatenate([a, b])
    gap = np.abs(
        np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b)
    ).max()
    return bool(gap < limit * math.sqrt((len(a) + len(b)) / (len(a) * len(b))))


# ---- TrivialAugment: each operation, all 31 strengths, both signs -------------------------------------------

corner = {"center": [0.0, 0.0]}
affine = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
ORACLES: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "identity": lambda x, m: x,
    "autocontrast": lambda x, m: oracle.autocontrast(x),
    "equalize": lambda x, m: oracle.equalize(x),
    "rotate": lambda x, m: oracle.rotate(x, 135 * m),
    "posterize": lambda x, m: oracle.posterize(x, round(8 - abs(m) * 6)),
    "solarize": lambda x, m: oracle.solarize(x, 255 * (1 - abs(m))),
    "colour": lambda x, m: oracle.adjust_saturation(x, 1 + 0.99 * m),
    "contrast": lambda x, m: oracle.adjust_contrast(x, 1 + 0.99 * m),
    "brightness": lambda x, m: oracle.adjust_brightness(x, 1 + 0.99 * m),
    "sharpness": lambda x, m: oracle.adjust_sharpness(x, 1 + 0.99 * m),
    "shear x": lambda x, m: oracle.affine(
        x, **(affine | {"shear": [math.degrees(math.atan(0.99 * m)), 0.0]} | corner)
    ),
    "shear y": lambda x, m: oracle.affine(
        x, **(affine | {"shear": [0.0, math.degrees(math.atan(0.99 * m))]} | corner)
    ),
    "translate x": lambda x, m: oracle.affine(x, **(affine | {"translate": [int(32 * m), 0]})),
    "translate y": lambda x, m: oracle.affine(x, **(affine | {"translate": [0, int(32 * m)]})),
}
GEOMETRY = ("rotate", "shear x", "shear y", "translate x", "translate y")


def test_the_operations_are_torchvisions_fourteen() -> None:
    theirs = {name.lower().replace("color", "colour") for name in v2.TrivialAugmentWide._AUGMENTATION_SPACE}
    assert {name.replace(" ", "") for name in trivial.NAMES} == theirs
    assert sorted(ORACLES) == sorted(trivial.NAMES)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(ORACLES))
def test_operation_equals_torchvisions(name: str, channels: int) -> None:
    images = pictures(channels=channels)
    steps = np.concatenate([-np.arange(30, 0, -1), np.arange(31)]) / 30
    for strength in steps:
        ours = trivial.apply(name, images, np.full(len(images), strength)).int()
        theirs = ORACLES[name](images, float(strength)).int()
        difference = (ours - theirs).abs()
        if name in GEOMETRY:  # a pixel that lies halfway may go to either neighbour
            assert (difference > 0).float().mean() < 0.01, (strength, (difference > 0).float().mean())
        else:
            assert difference.max() <= 1, strength


def test_strengths_of_a_group_belong_to_their_images() -> None:
    images = pictures(5)
    strength = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    for name in trivial.NAMES:
        together = trivial.apply(name, images, strength)
        alone = [trivial.apply(name, images[i : i + 1], strength[i : i + 1]) for i in range(5)]
        assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("name", [name for name in ORACLES if name not in ("autocontrast", "equalize")])
def test_strength_zero_changes_nothing(name: str) -> None:
    images = pictures()
    images[images == 255] = 254  # solarize inverts what is as bright as its threshold
    assert torch.equal(trivial.apply(name, images, np.zeros(len(images))), images)


def test_colour_leaves_grey_pictures_alone() -> None:
    images = pictures(channels=1)
    assert torch.equal(trivial.apply("colour", images, np.full(len(images), 0.9)), images)


def test_a_small_picture_is_not_moved_out_by_more_than_its_side() -> None:
    images = pictures(height=8, width=8)
    moved = trivial.apply("translate x", images, np.full(len(images), 0.5))
    assert torch.equal(moved[..., 4:], images[..., :4])


def test_tiny_pictures_pass_through_every_operation() -> None:
    for height, width in ((1, 1), (2, 2), (1, 7), (3, 3)):
        images = pictures(4, 3, height, width)
        for name in trivial.NAMES:
            assert trivial.apply(name, images, np.array([-1.0, -0.3, 0.3, 1.0])).shape == images.shape


def test_operations_and_strengths_are_uniform() -> None:
    """14 equally frequent operations, 31 equally frequent strengths, two equally frequent signs."""
    count = 40_000
    chosen, strength = trivial.draw(0, 0, many_ids(count))
    steps = np.rint(strength * 30).astype(int)
    np.testing.assert_allclose(steps / 30, strength)
    for values, kinds in ((chosen, 14), (np.abs(steps), 31)):
        counts = np.bincount(values)
        assert len(counts) == kinds
        assert (np.abs(counts - count / kinds) < 4.5 * math.sqrt(count / kinds)).all()
    assert abs(np.sign(steps).mean()) < 4.5 / math.sqrt(count)
    assert abs(np.corrcoef(chosen, steps)[0, 1]) < 4.5 / math.sqrt(count)


def test_augment_applies_what_was_drawn() -> None:
    images = pictures(200, height=9, width=9)
    chosen, strength = trivial.draw(5, 6, many_ids(200))
    assert set(chosen) == set(range(14))
    for i, result in enumerate(trivial.augment(images, 5, 6, many_ids(200))):
        expected = trivial.apply(trivial.NAMES[chosen[i]], images[i : i + 1], strength[i : i + 1])
        assert torch.equal(result, expected[0])


# ---- crop, flip, affine -------------------------------------------------------------------------------------


def test_flip_mirrors_about_half_of_the_samples() -> None:
    images = pictures(400, height=3, width=5)[:-1]
    flipped = Augment(flip=True)(images, 1, 2, many_ids(399))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, images, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 150 < sum(mirrored) < 250


def test_alternate_flip_shows_both_sides_in_any_two_epochs() -> None:
    images, ids = pictures(400), many_ids(400)
    augment = Augment(flip=True, alternate_flip=True)
    shown = [augment(images, 1, epoch, ids) for epoch in range(4)]
    assert torch.equal(shown[0], shown[2])
    assert torch.equal(shown[1], shown[3])
    assert torch.equal(shown[0].flip(3), shown[1])
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(shown[0], images, strict=True)]
    assert 140 < sum(mirrored) < 260
    assert not torch.equal(augment(images, 2, 0, ids), shown[0])


def test_smaller_sides_from_an_epoch_on() -> None:
    images, ids = pictures(5, height=32, width=32), many_ids(5)
    for shrink in ("window", "resample"):
        augment = Augment(sides=((1, 24), (3, 28), (4, 99)), shrink=shrink)
        sides = [augment(images, 0, epoch, ids).shape[2:] for epoch in range(5)]
        assert sides == [(32, 32), (24, 24), (24, 24), (28, 28), (32, 32)]
    window = Augment(sides=((0, 28),))(images, 0, 0, ids)
    assert torch.equal(window, images[:, :, 2:30, 2:30])
    by_pillow = [
        np.asarray(Image.fromarray(one.permute(1, 2, 0).numpy()).resize((24, 24), Image.Resampling.BILINEAR))
        for one in images
    ]
    ours = Augment(sides=((0, 24),), shrink="resample")(images, 0, 0, ids).permute(0, 2, 3, 1).numpy()
    assert np.abs(ours.astype(int) - np.stack(by_pillow).astype(int)).max() <= 1


def test_a_window_after_a_shift_as_far_as_it_is_smaller_needs_no_border() -> None:
    """Then it is a window of the picture at a random place, whatever the edge."""
    images, ids = pictures(50, height=32, width=32), many_ids(50)
    both = [
        Augment(crop="shift", shift_px=2, edge=edge, sides=((0, 28),))(images, 3, 1, ids)
        for edge in ("zero", "reflect")
    ]
    assert torch.equal(*both)
    places = set()
    for window, image in zip(both[0], images, strict=True):
        found = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if torch.equal(window, image[:, y : y + 28, x : x + 28])
        ]
        assert found
        places.add(found[0])
    assert len(places) > 15


@pytest.mark.parametrize("sides", [((0, 0),), ((2, 24), (1, 28))])
def test_sides_in_disorder_are_refused(sides: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(UsageError, match="rising order"):
        Augment(sides=sides)


@pytest.mark.parametrize("edge", ["zero", "reflect"])
def test_shift_is_padding_and_cutting(edge: warp.Edge) -> None:
    images = pictures(81, height=7, width=6)
    by = np.array([(dx, dy) for dx in range(-4, 5) for dy in range(-4, 5)])
    shifted = warp.shift(images, by, edge)
    mode = {"zero": "constant", "reflect": "reflect"}[edge]
    padded = functional.pad(images.float(), (4, 4, 4, 4), mode=mode).to(torch.uint8)
    for i in range(81):
        x, y = 4 - by[i]
        assert torch.equal(shifted[i], padded[i, :, y : y + 7, x : x + 6])


def test_reflection_works_beyond_the_whole_picture() -> None:
    images = torch.arange(3, dtype=torch.uint8).view(1, 1, 1, 3)
    shifted = warp.shift(images, np.array([[5, 0]]), "reflect")
    assert shifted.flatten().tolist() == [1, 0, 1]  # ... 0 1 2 1 0 1 2 1 | 0 1 2
    one = torch.full((1, 1, 1, 1), 9, dtype=torch.uint8)
    assert warp.shift(one, np.array([[4, -3]]), "reflect").item() == 9


def test_all_shifts_are_equally_frequent() -> None:
    count = 20_000
    dot = torch.zeros(count, 1, 5, 5, dtype=torch.uint8)
    dot[:, :, 2, 2] = 1
    where = Augment(crop="shift", shift_px=2)(dot, 0, 0, many_ids(count)).flatten(1).argmax(1)
    counts = torch.bincount(where, minlength=25)
    assert len(counts) == 25
    assert ((counts - count / 25).abs() < 4.5 * math.sqrt(count / 25)).all()


@pytest.mark.parametrize(("degrees", "scale", "shear"), [(20.0, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, 20.0)])
def test_affine_is_one_of_torchvisions_within_the_range(degrees: float, scale: float, shear: float) -> None:
    """Each part alone: some strength in the range gives torchvision's picture."""
    images = pictures(5)[:-1]
    moved = Augment(affine=(degrees, scale, shear))(images, 0, 0, many_ids(4)).float()
    for image, ours in zip(images, moved, strict=True):
        best = 255.0
        for t in np.linspace(-1, 1, 161):
            theirs = oracle.affine(
                image.float(),
                angle=degrees * t,
                translate=[0, 0],
                scale=1 + scale * t,
                shear=[shear * t, 0.0],
                interpolation=v2.InterpolationMode.BILINEAR,
            )
            best = min(best, (ours - theirs)[:, 2:-2, 2:-2].abs().mean().item())
        assert best < 1.0


def test_bilinear_maps_are_pillows() -> None:
    image = pictures(2, height=30, width=24)[:1]
    maps = (0.9, 0.2, -1.3, -0.1, 1.1, 0.7)
    ours = warp.bilinear(image, torch.tensor([maps], dtype=torch.float64))[0].permute(1, 2, 0).numpy()
    # Pillow counts from the corner of a pixel: c' = c + (a + b - 1) / 2 moves its centre to ours
    a, b, c, d, e, f = maps
    theirs = Image.fromarray(image[0].permute(1, 2, 0).numpy()).transform(
        (24, 30),
        Image.Transform.AFFINE,
        (a, b, c + (1 - a - b) / 2, d, e, f + (1 - d - e) / 2),
        Image.Resampling.BILINEAR,
    )
    y, x = np.mgrid[:30, :24]
    inside = (np.abs(a * x + b * y + c - 11.5) < 11.5) & (np.abs(d * x + e * y + f - 14.5) < 14.5)
    assert inside.mean() > 0.6
    assert np.abs(ours.astype(int) - np.asarray(theirs))[inside].max() <= 2


def test_cutting_a_box_is_pillows_resize() -> None:
    images = pictures(4, height=32, width=32)
    boxes = torch.tensor([[0, 0, 32, 32], [3, 5, 20, 27], [10.5, 2.25, 31, 30], [0, 0, 17, 16]])
    cut = warp.cut(images, boxes, (32, 32))
    assert torch.equal(cut[0], images[0])
    for image, box, ours in zip(images, boxes.tolist(), cut, strict=True):
        source = Image.fromarray(image.permute(1, 2, 0).numpy())
        theirs = np.asarray(source.resize((32, 32), Image.Resampling.BILINEAR, box=tuple(box))).astype(int)
        assert np.abs(ours.permute(1, 2, 0).numpy() - theirs).max() <= 2


# ---- boxes --------------------------------------------------------------------------------------------------


def test_resized_boxes_follow_inceptions_law() -> None:
    count, scale, ratio = 4000, (0.2, 1.0), (3 / 4, 4 / 3)
    sizes = np.tile([320, 240], (count, 1))
    augment = Augment(crop="resized", resized_scale=scale, resized_ratio=ratio)
    boxes = augment.boxes(sizes, (64, 64), 0, 0, many_ids(count))
    image = torch.empty(3, 240, 320)
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(64, scale, ratio)
    params = [crop.make_params([image]) for _ in range(count)]
    theirs = np.array([[p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]] for p in params])
    for column in range(4):
        assert agrees((boxes[:, column], theirs[:, column]))
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    tw, th = theirs[:, 2] - theirs[:, 0], theirs[:, 3] - theirs[:, 1]
    assert agrees((w * h, tw * th))
    assert agrees((w / h, tw / th))
    assert not agrees((w * h, 0.9 * tw * th))  # the test can fail


def test_resized_boxes_of_extreme_pictures_are_the_centre() -> None:
    augment = Augment(crop="resized", resized_scale=(1.0, 1.0))
    box = augment.boxes(np.array([[1000, 10]]), (8, 8), 0, 0, many_ids(1))[0]
    crop = v2.RandomResizedCrop(8, (1.0, 1.0)).make_params([torch.empty(1, 10, 1000)])
    expected = [crop["left"], crop["top"], crop["left"] + crop["width"], crop["top"] + crop["height"]]
    assert box.tolist() == pytest.approx(expected, abs=1)


def test_scale_jitter_follows_vggs_law() -> None:
    """Resize the shorter side to S in 256..512, cut 224 at random: seen from the source picture."""
    count = 4000
    sizes = np.tile([600, 400], (count, 1))
    boxes = Augment(crop="scale-jitter").boxes(sizes, (224, 224), 0, 0, many_ids(count))
    random = np.random.default_rng(1)
    short = random.integers(256, 513, count)
    scale = short / 400
    left = random.integers(0, np.rint(600 * scale).astype(int) - 224 + 1) / scale
    top = random.integers(0, short - 224 + 1) / scale
    for column, theirs in enumerate((left, top, left + 224 / scale, top + 224 / scale)):
        assert agrees((boxes[:, column], theirs))
    scales = 400 * 224 / (boxes[:, 2] - boxes[:, 0]) / 400
    assert set(np.rint(scales * 400).astype(int)) == set(range(256, 513))
    np.testing.assert_allclose(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def test_scale_jitter_of_another_size_is_in_proportion() -> None:
    sizes = np.array([[320, 320]])
    large = Augment(crop="scale-jitter", scale_jitter=(448, 448)).boxes(sizes, (224, 224), 0, 0, many_ids(1))[
        0
    ]
    small = Augment(crop="scale-jitter", scale_jitter=(448, 448)).boxes(sizes, (32, 32), 0, 0, many_ids(1))[0]
    assert large[2] - large[0] == pytest.approx(small[2] - small[0]) == 160


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.sampled_from(["resized", "scale-jitter"]),
    st.integers(0, 2**40),
)
def test_boxes_lie_inside_and_are_not_empty(
    width: int, height: int, out: tuple[int, int], crop: str, identity: int
) -> None:
    sizes = np.array([[width, height]])
    box = Augment(crop=crop).boxes(sizes, out, 3, 1, np.array([identity]))[0]  # type: ignore[arg-type]
    x0, y0, x1, y1 = box
    assert 0 <= x0 < x1 <= width + 1e-9
    assert 0 <= y0 < y1 <= height + 1e-9


def test_boxes_are_only_for_crops_that_resample() -> None:
    with pytest.raises(UsageError, match="shift"):
        Augment(crop="shift").boxes(np.array([[4, 4]]), (2, 2), 0, 0, many_ids(1))


# ---- erasing ------------------------------------------------------------------------------------------------


def test_erasing_fills_one_rectangle_of_the_papers_area_with_noise() -> None:
    count, side = 3000, 32
    images = torch.full((count, 3, side, side), 100, dtype=torch.uint8)
    erased = Augment(erasing=0.5)(images, 0, 0, many_ids(count))
    touched = (erased != 100).any(dim=1)  # noise is 100 in all three channels once in 16 million times
    share = touched.flatten(1).any(1).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.04)
    areas = []
    for mask in touched[touched.flatten(1).any(1)]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        area = len(rows) * len(columns)
        assert mask.sum() >= area - 1
        assert rows[-1] - rows[0] == len(rows) - 1
        areas.append(area / side**2)
    low, high = ERASED_AREA
    assert low - 0.01 < min(areas) < 0.03
    assert high - 0.04 < max(areas) < high + 0.02
    noise = erased[touched[:, None].expand_as(erased)].float()
    assert noise.mean() == pytest.approx(127.5, abs=1)
    assert noise.std() == pytest.approx(73.9, abs=1)


def test_erased_rectangles_hold_different_noise() -> None:
    images = torch.zeros(50, 1, 20, 20, dtype=torch.uint8)
    erased = Augment(erasing=1.0)(images, 0, 0, many_ids(50))
    assert len({row.numpy().tobytes() for row in erased}) == 50


# ---- a function of (seed, epoch, id) and nothing else -------------------------------------------------------

EVERYTHING = Augment(crop="shift", flip=True, affine=(15, 0.1, 10), trivial=True, erasing=0.5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 31, 64])
def test_a_sample_does_not_depend_on_its_batch(channels: int, side: int) -> None:
    images, ids = pictures(60, channels, side, side), many_ids(60)
    together = EVERYTHING(images, 4, 2, ids)
    alone = torch.cat([EVERYTHING(images[i : i + 1], 4, 2, ids[i : i + 1]) for i in range(60)])
    assert torch.equal(together, alone)
    order = np.random.default_rng(0).permutation(60)
    assert torch.equal(EVERYTHING(images[order], 4, 2, ids[order]), together[order])


def test_threads_do_not_matter() -> None:
    images, ids = pictures(64, 3, 48, 48), many_ids(64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = EVERYTHING(images, 0, 0, ids)
        torch.set_num_threads(2)
        two = EVERYTHING(images, 0, 0, ids)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, two)


def test_seed_epoch_and_sample_each_matter() -> None:
    images = pictures(2).narrow(0, 0, 1).expand(30, -1, -1, -1)
    results = [EVERYTHING(images, seed, epoch, many_ids(30)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for i, a in enumerate(results):
        assert len({row.numpy().tobytes() for row in a}) > 25  # the same picture under 30 identities
        assert all((a != b).flatten(1).any(1).sum() > 25 for b in results[:i])


def test_inputs_and_global_generators_are_left_alone() -> None:
    images = pictures(20)
    copy, state, numpy_state = images.clone(), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    EVERYTHING(images, 0, 0, many_ids(20))
    for part in (Augment(flip=True), Augment(crop="shift"), Augment(trivial=True), Augment(erasing=1.0)):
        part(images, 0, 0, many_ids(20))
    Augment(mixup=1.0, cutmix=1.0).mix(images.float(), 0, 0, 0)
    assert torch.equal(images, copy)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


def test_the_default_does_nothing() -> None:
    images = pictures(5)
    assert torch.equal(Augment()(images, 0, 0, many_ids(5)), images)


# ---- mixup and CutMix ---------------------------------------------------------------------------------------


def test_mixup_is_the_weighted_sum() -> None:
    images = torch.randn(9, 3, 4, 5, generator=torch.manual_seed(0))
    mixed, partner, weight = Augment(mixup=0.4).mix(images, 1, 2, 3)
    w = weight.view(-1, 1, 1, 1)
    torch.testing.assert_close(mixed, w * images + (1 - w) * images[partner])
    assert sorted(partner.tolist()) == list(range(9))
    assert weight.shape == (9,)
    assert weight.dtype == torch.float32
    assert partner.dtype == torch.int64


def test_cutmix_weighs_by_the_area_that_was_kept() -> None:
    images = torch.arange(7.0)[:, None, None, None].expand(7, 2, 11, 13).clone()
    for step in range(60):
        mixed, partner, weight = Augment(cutmix=1.0).mix(images, 0, 0, step)
        kept = (mixed == images).float().mean(dim=(1, 2, 3))
        pasted = (mixed == images[partner]).all(dim=1)
        other = partner != torch.arange(7)
        torch.testing.assert_close(kept[other], weight[other])
        for mask in pasted[other]:
            rows, columns = mask.any(1).sum(), mask.any(0).sum()
            assert mask.sum() == rows * columns  # one rectangle


@pytest.mark.parametrize(("name", "alpha"), [("mixup", 0.2), ("mixup", 1.0)])
def test_lambda_is_beta(name: str, alpha: float) -> None:
    images = torch.zeros(1, 1, 1, 1)
    ours = np.array([Augment(**{name: alpha}).mix(images, 0, 0, step)[2].item() for step in range(3000)])
    assert agrees((ours, np.random.default_rng(0).beta(alpha, alpha, 3000)))


def test_with_both_on_a_batch_gets_one_of_them() -> None:
    images = torch.arange(2.0)[:, None, None, None].expand(2, 1, 16, 16).clone()
    kinds = []
    for step in range(400):
        mixed, partner, _ = Augment(mixup=1.0, cutmix=1.0).mix(images, 0, 0, step)
        if partner.tolist() == [1, 0]:
            kinds.append(bool(((mixed == 0) | (mixed == 1)).all()))
    assert 0.35 < np.mean(kinds) < 0.65


def test_mixing_is_a_function_of_seed_epoch_and_step() -> None:
    images = torch.randn(16, 1, 4, 4, generator=torch.manual_seed(0))
    both = Augment(mixup=0.5, cutmix=0.5)
    first = both.mix(images, 0, 0, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, both.mix(images, 0, 0, 0), strict=True))
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not torch.equal(first[0], both.mix(images, *other)[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": "center"},
        {"shift_px": -1},
        {"resized_scale": (0.0, 1.0)},
        {"resized_scale": (0.9, 0.5)},
        {"resized_ratio": (2.0, 1.0)},
        {"scale_jitter": (128, 512)},
        {"affine": (10, 1.0, 0)},
        {"edge": "wrap"},
        {"erasing": 1.5},
        {"mixup": -1.0},
        {"cutmix": math.inf},
        {"mixup": math.nan},
    ],
)
def test_nonsense_is_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Augment(**wrong)  # type: ignore[arg-type]
