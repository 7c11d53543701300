"""Receptive fields: the figures that are known, and the gradient of a probed unit for whatever graph."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from canon import CLASSIFIERS, cost, params, sides
from convatlas.layers.blueprint import blueprint
from convatlas.measure import measure
from convatlas.measure.probe import probe
from convatlas.measure.receptive import Field, windows
from convatlas.measure.receptive.seen import Seen
from convatlas.measure.span import PIXELS, window
from convatlas.models import create_model, find
from convatlas.models.classifier import Classifier
from convatlas.registry import Spec

KNOWN = {
    "vgg16": 212, "alexnet_paper": 195, "zfnet": 171, "resnet18": 435, "resnet34": 899, "resnet50_v1": 483,
    "resnet50": 427, "mobilenet_v1": 315, "bagnet9": 9, "bagnet17": 17, "bagnet33": 33,
}  # fmt: skip


def last_field(model: nn.Module, shape: tuple[int, ...]) -> Field | None:
    return measure(model, shape).field


@pytest.mark.parametrize("name", KNOWN)
def test_known_sizes(name: str) -> None:
    with blueprint():
        model = create_model(name)
    side = find(name).image
    field = last_field(model, (3, side, side))
    assert field is not None
    assert field.size == (KNOWN[name], KNOWN[name])


# --- every network of the canon up to 30 million parameters -----------------------------------------------------

PROBED = [spec for spec in CLASSIFIERS if params(spec) <= 30_000_000]


def strip_cost(spec: Spec) -> float:
    """Multiply-adds of a strip that is as long as the field, roughly."""
    field_in_images = 1 if spec.image > 40 else 4
    return cost(spec) * field_in_images * (spec.image / sides(spec)[0]) ** 2


LATE = {spec.name for spec in PROBED if strip_cost(spec) > 1.5e8}


@pytest.mark.parametrize(
    "spec",
    [pytest.param(s, id=s.name, marks=[pytest.mark.slow] if s.name in LATE else []) for s in PROBED],
)
def test_every_stage_agrees_with_the_gradient(spec: Spec) -> None:
    model = create_model(spec.name).double()
    assert isinstance(model, Classifier)
    found = probe(model, spec.channels, [f"features.{stage.name}" for stage in model.stages])
    assert len(found) >= 4
    assert [each for each in found if not each.agrees] == []


# --- random graphs ------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Two ways from one map to another, concatenated or summed."""

    def __init__(self, one: nn.Module, other: nn.Module, concatenate: bool) -> None:
        super().__init__()
        self.one, self.other = one, other
        self.mixed = nn.Conv2d(4, 2, 1) if concatenate else None

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.one(x), self.other(x)
        sides = [min(a, b) for a, b in zip(one.shape[2:], other.shape[2:], strict=True)]
        one, other = (each[:, :, : sides[0], : sides[1]] for each in (one, other))
        return one + other if self.mixed is None else self.mixed(torch.cat([one, other], 1))


Numbers = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def layers(draw: st.DrawFn, stride: int) -> nn.Module:
    """A layer of two channels that keeps its stride."""
    kind = draw(st.sampled_from(("conv", "depthwise", "max", "average", "norm")))
    kernel, dilation = draw(Numbers), draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, side // 2)) for side in kernel)
    if kind == "norm":
        return nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())
    if kind in ("conv", "depthwise"):
        groups = 2 if kind == "depthwise" else 1
        return nn.Conv2d(2, 2, kernel, stride, padding, dilation, groups)
    if kind == "max":
        return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=draw(st.booleans()))
    return nn.AvgPool2d(kernel, stride, padding, ceil_mode=draw(st.booleans()))


@st.composite
def graphs(draw: st.DrawFn) -> nn.Module:
    """Chains of layers and of branches whose strides agree."""
    parts: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        stride = draw(st.sampled_from((1, 1, 2, 3)))
        if draw(st.booleans()):
            ways = [
                nn.Sequential(
                    draw(strided(stride)), *(draw(layers(1)) for _ in range(draw(st.integers(0, 2))))
                )
                for _ in range(2)
            ]
            parts.append(Branches(*ways, concatenate=draw(st.booleans())))
        else:
            parts.append(draw(strided(stride)))
    return nn.Sequential(*parts)


@st.composite
def strided(draw: st.DrawFn, stride: int) -> nn.Module:
    """A layer that certainly has a stride."""
    layer = draw(layers(stride))
    return layer if stride == 1 or not isinstance(layer, nn.Sequential) else nn.AvgPool2d(2, stride)


@settings(max_examples=200, deadline=None)
@given(graph=graphs())
def test_random_graphs_agree_with_the_gradient(graph: nn.Sequential) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), graph).double()
    found = probe(model, 1, ["1"], whole=256)
    assert {each.axis for each in found} == {0, 1}
    assert [each for each in found if not each.agrees] == []


# --- what else there is -------------------------------------------------------------------------------------------


class Applied(nn.Module):
    """A function behind a convolution of four channels."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv, self.last, self.function = nn.Conv2d(3, 4, 3, 2), nn.ReLU(), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.conv(x)))


def shifted_slice(x: Tensor) -> Tensor:
    return x[:, :, 1:, 2::3]


REARRANGED = {
    "transposed": nn.ConvTranspose2d(4, 4, 3, 2, 1),
    "transposed with holes": nn.ConvTranspose2d(4, 4, 4, 2),
    "dilated": nn.Conv2d(4, 4, 3, dilation=4),
    "nearest": nn.Upsample(scale_factor=3),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bicubic": nn.Upsample(scale_factor=2, mode="bicubic"),
    "upsampled, then seen": nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3), nn.MaxPool2d(3, 3)),
    "pixels from channels": nn.PixelShuffle(2),
    "channels from pixels": lambda x: nn.PixelUnshuffle(2)(x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]),
    "padded": nn.ZeroPad2d((3, 1, 2, 0)),
    "sliced": shifted_slice,
    "transposed axes": lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2),
    "shuffled channels": lambda x: x.view(1, 2, 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
    "split and joined": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "stacked": lambda x: torch.stack([x, x.relu()], 2).flatten(1, 2),
    "channels last": lambda x: functional.linear(x.permute(0, 2, 3, 1), MIX).permute(0, 3, 1, 2),
    "a product over positions": lambda x: (MIX.to(x.device) @ x.flatten(2)).view(x.shape),
    "an Einstein sum": lambda x: torch.einsum("nchw,co->nohw", x, MIX.to(x.device)),
    "every second row by a view": lambda x: pairs(x)[:, :, :, 0],
    "every second row by a view, from the second": lambda x: pairs(x)[:, :, :, 1],
    "pixels from channels from pixels": lambda x: nn.PixelShuffle(2)(nn.PixelUnshuffle(2)(x[..., 1:7, 1:7])),
    "rows as images": lambda x: rows(x),
    "windows as channels": lambda x: functional.unfold(x, 3, 1, (2, 1), (2, 1)).view(
        1, 36, (x.shape[2] + 1) // 2 + 1, x.shape[3]
    ),
    "windows by a view": lambda x: x.unfold(2, 3, 2).mean(-1),
    "nearest-exact, half": lambda x: functional.interpolate(x, scale_factor=0.5, mode="nearest-exact"),
    "nearest-exact, twice": lambda x: functional.interpolate(x, scale_factor=2, mode="nearest-exact"),
    "a factor that does not divide": lambda x: functional.interpolate(x, scale_factor=1.5, mode="bilinear"),
    "a factor below 1": lambda x: functional.interpolate(x, scale_factor=0.4),
    "cubic by a factor": lambda x: functional.interpolate(x, scale_factor=0.6, mode="bicubic"),
    "corners aligned": lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
    "zeros filled": lambda x: filled(x, torch.zeros(1, 4, *x.shape[2:], dtype=x.dtype)),
    "zeros like it filled": lambda x: filled(x, torch.zeros_like(x)),
    "channels put": lambda x: put(x),
    "shifted into zeros": lambda x: shifted(x),
    "written through a view": lambda x: through(x),
    "normalised over channels": lambda x: x.norm(dim=1, keepdim=True).expand(-1, 4, -1, -1),
}  # fmt: skip

MIX, WEIGHT = torch.full((4, 4), 1 / 4).double(), torch.full((4, 4, 3), 1 / 12).double()


def pairs(x: Tensor) -> Tensor:
    """Rows in pairs: (N, C, H / 2, 2, W)."""
    assert x.shape[2] >= 6, "too few rows"
    x = x[:, :, : x.shape[2] // 2 * 2]
    return x.view(*x.shape[:2], -1, 2, x.shape[3])


def rows(x: Tensor) -> Tensor:
    """A convolution along each row, as if it were an image."""
    n, c, h, w = x.shape
    found = functional.conv1d(x.permute(0, 2, 1, 3).reshape(n * h, c, w), WEIGHT.to(x.device))
    return found.view(n, h, c, w - 2).permute(0, 2, 1, 3)


def filled(x: Tensor, zeros: Tensor) -> Tensor:
    zeros[:, :2] = functional.avg_pool2d(x, 5, 1, 2)[:, :2]
    zeros[:, 2:] = x[:, 2:]
    return zeros


def put(x: Tensor) -> Tensor:
    zeros = torch.zeros(1, 4, *x.shape[2:], dtype=x.dtype)
    zeros[:, [0, 1, 2, 3]] = functional.avg_pool2d(x, 5, 1, 2)
    return zeros


def shifted(x: Tensor) -> Tensor:
    zeros = torch.zeros_like(x)
    zeros[:, :2, :-1] = x[:, :2, 1:]
    zeros[:, 2:] = x[:, 2:]
    return zeros


def through(x: Tensor) -> Tensor:
    y = x.clone()
    y.view(1, 2, 2, *x.shape[2:])[:, 0] = functional.avg_pool2d(x, 7, 1, 3)[:, :2]
    return y


@pytest.mark.parametrize("name", REARRANGED)
def test_rearranged_maps_agree_with_the_gradient(name: str) -> None:
    model = Applied(REARRANGED[name]).double()
    found = probe(model, 3, ["last"])
    assert len(found) == 4
    assert [each for each in found if not each.agrees] == []


def test_a_wrong_dilation_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, dilation=2)).double()
    assert all(each.agrees for each in probe(model, 1, ["1"]))
    monkeypatch.setattr(windows, "window", lambda kernel, padding, dilation: window(kernel, padding, 1))
    assert not any(each.agrees for each in probe(model, 1, ["1"]))


@pytest.mark.parametrize("fault", [{"stride": 1}, {"padding": 0}, {"kernel": 1}])
def test_every_part_of_the_geometry_is_seen(fault: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stride, a padding or a kernel that the walk gets wrong makes a difference to one of two neighbours."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.Conv2d(2, 2, 3, 1, 1)).double()
    original = Seen.slid

    def wrong(seen: Any, dim: int, shifted: Any, step: int = 1) -> Any:
        if "stride" in fault:
            return original(seen, dim, shifted, 1)
        moved = [[at + 1 for at in each] if "padding" in fault else list(each)[:-1] for each in shifted]
        return original(seen, dim, moved, step)

    monkeypatch.setattr(Seen, "slid", wrong)
    assert not all(each.agrees for each in probe(model, 1, ["1"]))


class Excited(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


@pytest.mark.parametrize(
    ("layer", "printed"),
    [
        (Excited(), "3 + global"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), "3 + global"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4)), "3 + global"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), "global"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 196, 5)), "global"),
        (nn.Sequential(nn.Conv2d(3, 4, 16), nn.Flatten(), nn.Linear(4, 5)), "16"),
        (nn.Sequential(nn.Conv2d(3, 4, (3, 1)), nn.Conv2d(4, 4, (5, 2))), "7 x 2"),
        (Applied(lambda x: x.mean(3, keepdim=True)), "3 x all"),
        (Applied(lambda x: x.flip(2)), "?"),
        (Applied(lambda x: x.flatten(2).transpose(1, 2) @ x.flatten(2)), "global"),
    ],
)
def test_as_it_is_printed(layer: nn.Module, printed: str) -> None:
    assert str(measure(layer, (3, 16, 16)).rows[-1].field) == printed


def test_what_no_rule_knows_is_named() -> None:
    field = measure(Applied(lambda x: x.flip(2)), (3, 16, 16)).rows[-1].field
    assert field is not None
    assert field.unknown == "flip"


def test_a_part_of_a_map_that_is_written_is_not_followed() -> None:
    """The first rows alone see more: neither the old field nor the new one is that of all."""

    def written(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, :, :2] = functional.avg_pool2d(x, 5, 1, 2)[:, :, :2]
        return x * 1

    assert str(measure(Applied(written), (3, 32, 32)).rows[-1].field) == "?"


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.stack(x.unbind(2), 2),
        lambda x: torch.stack([x[:, :, row] for row in reversed(range(x.shape[2]))], 2),
        lambda x: torch.cat(x.chunk(2, 2)[::-1], 2),
        lambda x: torch.cat(x.chunk(2, 2), 0),
        lambda x: x.index_select(2, torch.arange(3)),
        lambda x: x.cumsum(2),
    ],
)
def test_positions_in_another_order_are_not_known(function: Any) -> None:
    assert str(measure(Applied(function), (3, 17, 17)).rows[-1].field) == "?"


class TwoImages(nn.Module):
    """A 3x3 and a 7x7 branch, each with an image of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 7, padding=3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        y = self.other(y)
        return self.one(x) + y[:, :, : x.shape[2], : x.shape[3]]


def test_several_images() -> None:
    """Of one size their fields are joined; what comes from another size is not known."""
    assert str(measure(TwoImages(), [(3, 16, 16), (3, 16, 16)]).rows[-1].field) == "7"
    other = measure(TwoImages(), [(3, 16, 16), (3, 20, 20)]).rows[-1].field
    assert other is not None
    assert other.unknown == "an input of another size"


class Windowed(nn.Module):
    """Attention within windows of 4 x 4 positions, moved by `shift`; everywhere without windows."""

    def __init__(self, size: int, shift: int, *, fused: bool) -> None:
        super().__init__()
        self.size, self.shift, self.fused = size, shift, fused
        self.tokens, self.queries = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 24)
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        n, c, h, w = x.shape
        s = self.size or h
        x = x.roll((-self.shift, -self.shift), (2, 3)).view(n, c, h // s, s, w // s, s)
        windows = x.permute(0, 2, 4, 3, 5, 1).reshape(-1, s * s, c)
        queries, keys, values = self.queries(windows).chunk(3, -1)
        if self.fused:
            found = functional.scaled_dot_product_attention(queries, keys, values)
        else:
            found = (queries @ keys.transpose(1, 2)).softmax(-1) @ values
        found = found.view(n, h // s, w // s, s, s, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)
        return self.last(found.roll((self.shift, self.shift), (2, 3)))


@pytest.mark.parametrize("fused", [False, True])
def test_attention(fused: bool) -> None:
    """Of all positions, and of windows: unit i sees the 8 pixels of its window, moved by 2 pixels a place of shift."""
    field = measure(Windowed(0, 0, fused=fused), (3, 32, 32)).rows[-1].field
    assert str(field) == "global"
    for shift in (0, 1):
        field = measure(Windowed(4, shift, fused=fused), (3, 32, 32)).rows[-1].field
        assert field is not None
        for span in field.spans:
            assert span is not None
            for unit in range(6):
                first = 2 * ((unit - shift) // 4 * 4 + shift)
                assert span.of(unit) == (first, first + 7)


OTHERS = {
    "torchvision:convnext_tiny": "1688", "torchvision:swin_t": "952 + global", "torchvision:vit_b_16": "16 + global",
    "timm:convnext_atto": "1136", "timm:xcit_nano_12_p8_224": "399 + global", "timm:swiftformer_xs": "583 + global",
    "torchvision:swin_v2_t": "960 + global", "timm:davit_tiny": "1187 + global",
    "timm:edgenext_xx_small": "1088 + global", "timm:efficientformer_l1": "503 + global",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_others_are_followed(name: str) -> None:
    library, _, network = name.partition(":")
    models = pytest.importorskip(library)
    with torch.device("meta"):
        model = models.models.get_model(network) if library == "torchvision" else models.create_model(network)
    rows = measure(model, (3, 224, 224)).rows
    assert [row.name for row in rows if row.field and row.field.unknown] == []
    assert str(measure(model, (3, 224, 224)).field) == OTHERS[name]


class LastAndBack(nn.Module):
    """A block of ConvNeXt: depthwise, then a perceptron over the last dimension."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.narrow(functional.gelu(self.wide(y))).permute(0, 3, 1, 2)


def test_blocks_of_convnext_agree_with_the_gradient() -> None:
    stem = nn.Conv2d(3, 4, 4, 4)
    model = nn.Sequential(stem, LastAndBack(4), nn.Conv2d(4, 6, 2, 2), LastAndBack(6)).double()
    found = probe(model, 3, ["1", "3"])
    assert len(found) == 8
    assert [each for each in found if not each.agrees] == []


def test_branches_that_do_not_meet_are_reported() -> None:
    padded = Branches(nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 3, padding=1), concatenate=False)
    unpadded = Branches(nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 3), concatenate=False)
    apart = [
        max(row.field.apart for row in measure(m, (3, 9, 9)).rows if row.field) for m in (padded, unpadded)
    ]
    assert apart == [0, 1]


@pytest.mark.parametrize(
    ("model", "shape", "sizes"),
    [
        (nn.Sequential(nn.Conv1d(2, 3, 5, 2), nn.MaxPool1d(2)), (2, 40), (7,)),
        (nn.Sequential(nn.Conv3d(1, 2, (1, 3, 5)), nn.MaxPool3d(2)), (1, 8, 16, 16), (2, 4, 6)),
    ],
)
def test_signals_and_volumes(model: nn.Module, shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    field = measure(model, shape).field
    assert field is not None
    assert field.size == sizes


def test_size_stride_and_centre() -> None:
    """conv 3 / 2 with padding 1, then a pool 2 / 2: units see 5 pixels, 4 apart, unit 0 those from -1 to 3."""
    field = measure(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(2)), (3, 32, 32)).field
    assert field is not None
    assert (field.size, field.stride, field.centre) == ((5, 5), (Fraction(4), Fraction(4)), (1.0, 1.0))


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 2), st.integers(1, 3), st.integers(1, 3)), max_size=4
    )
)
def test_chains_follow_the_formula(steps: list[tuple[int, int, int, int]]) -> None:
    """r += (k - 1) d j and j *= s, layer by layer."""
    span, size, jump, first = PIXELS, 1, 1, 0
    for kernel, padding, dilation, stride in steps:
        span = span.slide(window(kernel, padding, dilation), stride)
        first -= padding * jump
        size, jump = size + (kernel - 1) * dilation * jump, jump * stride
    assert (span.size, span.stride, span.of(0)[0]) == (size, jump, first)
