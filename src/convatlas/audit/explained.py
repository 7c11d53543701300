"""Why a printed figure is not ours: each reason with the code that gives the printed figure.

A row of `EXPLAINED` is (network, figure) -> (why, a function of the counted network). What the function gives must
be the printed figure at the printed precision; otherwise the row explains nothing, and the difference stays one. A
reason is of one figure: it says what gives it, and other rows of a paper's table may be counted in another way.

A row of `SLIPS` names the error of a lecture that shows this very figure, with what is right. A row of `RECORDED` is a
figure that no way of counting gives, with what is known of it: it is set apart from what is explained. Both are tied to
the printed text and to ours, so that neither excuses another number.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import NamedTuple

from torch import nn

from convatlas.audit.counted import Counted, counted
from convatlas.measure import measure
from convatlas.models.printed import agrees, rounded


class Explanation(NamedTuple):
    """A sentence, and the number that follows from it."""

    why: str
    reproduce: Callable[[Counted], float]

    def gives(self, printed: str, of: Counted) -> bool:
        """Whether the printed figure follows."""
        return agrees(self.reproduce(of), printed)


class Known(NamedTuple):
    """A difference as it is known: what is printed, ours at that precision, and why or what a remark is called."""

    printed: str
    ours: str
    why: str

    def fits(self, printed: str, exact: int) -> bool:
        """Whether it is this very difference."""
        return (self.printed, self.ours) == (printed, rounded(exact, printed))


# --- ways of counting ---------------------------------------------------------------------------------------


def cut(count: float, to: float) -> float:
    """Digits below `to` cut off where we round.

    Examples:
        >>> cut(25_557_032, 1e5)
        25500000.0
    """
    return count // to * to


def without_normalisation(of: Counted) -> int:
    """Weights and biases of convolutions and linear layers alone."""
    norms = (nn.BatchNorm2d, nn.GroupNorm)
    return of.params - sum(
        p.numel() for m in of.network.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)
    )


def without_classifier(of: Counted) -> int:
    """All but the last layer, whose size follows the data set."""
    classifier = of.network.get_classifier()  # pyright: ignore[reportCallIssue]
    return of.params - sum(p.numel() for p in classifier.parameters())


def convolutions(of: Counted) -> int:
    """Convolutions, those of shortcuts among them, and no linear layer."""
    return sum(isinstance(module, nn.Conv2d) for module in of.network.modules())


def with_statistics(of: Counted) -> int:
    """Parameters and BatchNorm's running means and variances, which some frameworks call parameters too."""
    running = (b for n, b in of.network.named_buffers() if "running_" in n and not n.startswith("auxiliary"))
    return of.params + sum(buffer.numel() for buffer in running)


def with_normalisation(of: Counted) -> int:
    """Multiply-adds with one for every number that BatchNorm gives."""
    return of.macs + sum(prod(row.output_shape) for row in of.measurement.rows if "BatchNorm" in row.kind)


def at(side: int) -> Callable[[Counted], int]:
    """Multiply-adds for images of another side."""
    return lambda of: measure(of.network, (of.image[0], side, side)).macs


def with_excitations(of: Counted, *, sums: bool) -> int:
    """Multiply-adds with one for every number that an excitation scales and a shortcut adds; `sums`: means take."""
    scaled = sum(prod(r.output_shape) for r in of.measurement.rows if r.name.endswith("se (multiply)"))
    added = sum(prod(r.output_shape) for r in of.measurement.rows if r.name.endswith("(add)"))
    return of.macs + scaled + added + (scaled if sums else 0)


def in_kibi(path: str, to: float = 1.0) -> Callable[[Counted], float]:
    """Weights of a module in units of 1,024, cut: GoogLeNet's table 1 counts so, without biases."""
    return lambda of: cut(of.weights_of(path) / 1024, to) * 1000


def of_the_authors_blocks(of: Counted) -> int:
    """Multiply-adds of ShuffleNetV2 as its authors' code builds it, with one for every number that is averaged.

    There the first block of all splits its C channels into 24, the width of its input, and C - 24; here into halves.
    """
    block = of.network.get_submodule("features.stage2.0")
    channels, height, width = of.shapes["features.stage2.0"]
    c_in = next(block.parameters()).shape[0]
    averaged = prod(of.shapes["features.conv5"])
    return of.macs + (channels // 2 - c_in) ** 2 * height * width + averaged


# --- the rows -----------------------------------------------------------------------------------------------

CUT = "digits are cut off here where we round"
BARE = "convolutions and linear layers alone, without BatchNorm"
BARE_AND_CUT = "without BatchNorm, and digits are cut off where we round"
STATISTICS = "with BatchNorm's running statistics"
SEPARABLE = (
    "fits a first convolution of 8 maps a channel and 1x1 behind them, as the authors' later code has it; "
    "the 7x7 convolution of the table's own row has 9,408 weights"
)
FEWER = 3 * 64 * 7 * 7 - (3 * 8 * 7 * 7 + 24 * 64)  # weights than that


def _cut(to: float) -> Explanation:
    return Explanation(CUT, lambda of: cut(of.params, to))


def _macs_cut(to: float) -> Explanation:
    return Explanation(CUT, lambda of: cut(of.macs, to))


EXPLAINED: dict[tuple[str, str], Explanation] = {
    ("alexnet_2gpu", "params"): _cut(1e6),
    ("resnet50", "params"): _cut(1e5),
    ("resnet50_v1", "macs"): _macs_cut(1e8),
    ("mobilenet_v1_r160", "macs"): _macs_cut(1e6),
    ("mobilenet_v2", "macs"): _macs_cut(1e6),
    ("mobilenet_v3_large", "params"): _cut(1e5),
    ("mobilenet_v3_small", "macs"): _macs_cut(1e6),
    ("highway10_mnist", "params"): _cut(1e3),
    ("mobilenet_v2", "params"): Explanation(BARE_AND_CUT, lambda of: cut(without_normalisation(of), 1e5)),
    ("efficientnet_b1", "macs"): Explanation("one multiply-add a number of BatchNorm", with_normalisation),
    ("efficientnet_b4", "macs"): Explanation("the paper prints no image size; 368 pixels cost this", at(368)),
    ("efficientnet_b7", "macs"): _macs_cut(1e9),
    ("nas_v1", "layers"): Explanation("convolutions alone, without the linear layer", convolutions),
    ("resnet1001_preact_cifar", "params"): Explanation(BARE, without_normalisation),
    ("nasnetalarge_paper", "params"): Explanation(STATISTICS, with_statistics),
    ("efficientnet_b2", "params"): Explanation(STATISTICS, with_statistics),
    ("bn_inception_paper", "macs"): Explanation(
        "with GoogLeNet's 7x7 convolution in place of the separable one",
        lambda of: (
            of.macs + counted("googlenet_paper").macs_of("features.conv1") - of.macs_of("features.conv1")
        ),
    ),
    ("googlenet_paper", "params of features.conv1"): Explanation(
        SEPARABLE, lambda of: of.weights_of("features.conv1") - FEWER
    ),
    ("googlenet_paper", "macs of features.conv1"): Explanation(
        SEPARABLE, lambda of: of.macs_of("features.conv1") - FEWER * 112 * 112
    ),
    ("googlenet_paper", "macs of features.inception4a"): Explanation(
        CUT, lambda of: cut(of.macs_of("features.inception4a"), 1e6)
    ),
}
EXPLAINED["googlenet_paper", "params of features.inception3b"] = Explanation(
    "K is 1,024 in this column, and biases are counted in this row",
    lambda of: of.params_of("features.inception3b") / 1024 * 1000,
)
for path in ("features.conv2", "features.inception3a", "head.fc"):
    EXPLAINED["googlenet_paper", f"params of {path}"] = Explanation(
        "K is 1,024 in this column, and biases are left out", in_kibi(path)
    )
for name, sums in (
    ("resnet50", False),
    ("resnet101", True),
    ("resnet152", False),
    ("resnext50_32x4d", True),
    ("resnext101_32x4d", True),
):
    EXPLAINED[f"se_{name}_paper", "macs"] = Explanation(
        "one multiply-add a number that an excitation scales and that a shortcut adds"
        + (", and that a mean takes in" if sums else ""),
        partial(with_excitations, sums=sums),
    )
for factor in ("0_5", "1_0", "1_5", "2_0"):
    EXPLAINED[f"shufflenet_v2_x{factor}", "macs"] = Explanation(
        "the authors' code has unequal halves in its first block, and the mean over pixels is counted",
        of_the_authors_blocks,
    )
for name in ("wide_resnet16_4", "wide_resnet16_8", "wide_resnet28_10", "wide_resnet40_4"):
    EXPLAINED[f"{name}_cifar", "layers"] = Explanation(
        "the paper counts all convolutions, those of shortcuts too", convolutions
    )
for name in ("slim_300k", "t2_8", "t2_9", "t2_10", "t2_13", "t4_13_wide", "t4_13_balanced", "t6_13_pool"):
    EXPLAINED[f"simpnet_{name}", "params"] = Explanation(BARE, without_normalisation)
for name in ("slim_600k", "t3_10", "t6_15_pool", "t6_15_strided", "t6_15_pool_relu", "t6_15_strided_relu"):
    EXPLAINED[f"simpnet_{name}", "params"] = _cut(1e4)
for name in ("pool", "strided"):
    EXPLAINED[f"simpnet_t6_resnet32_{name}", "params"] = Explanation(
        "the size of He et al.'s ResNet-32, whose shortcuts have no weights",
        lambda _: cut(counted("resnet32_cifar").params, 1e4),
    )

# What a lecture shows and is recorded as an error, by the key of the error.
SLIPS: dict[tuple[str, str], Known] = {
    ("googlenet_paper", "params of features.inception4c"): Known("463K", "510K", "googlenet error 3"),
    ("googlenet_paper", "params of features.inception5a"): Known("1072K", "1043K", "googlenet error 3"),
    ("googlenet_paper", "macs of features.inception5a"): Known("54M", "51M", "googlenet error 3"),
    ("squeezenet1_1_cifar", "params"): Known("768K", "728K", "squeezenet error 2"),
    ("fractalnet21_cifar", "params"): Known("38.6M", "33.7M", "fractalnet error 1"),
}

ABOUT = "the paper's table prints it as about so much"
ROUGH = "the column is rough: with K as 1,024 and without biases its rows are within 2 % of ours"
SCALED = "no rounding of channels, depths and pixels gives it (recorded as scaling-ablation ambiguous 1)"
REPOSITORY = "the authors' repository prints {} for this network"
NASNET = "table 2 of the NASNet paper, from the same group, prints {} for this network"
RECORDED: dict[tuple[str, str], Known] = {
    ("all_cnn_base_a", "params"): Known("0.9M", "0.8M", ABOUT),
    ("strided_cnn_a", "params"): Known("0.9M", "0.8M", ABOUT),
    ("convpool_cnn_a", "params"): Known("1.28M", "1.25M", ABOUT),
    ("all_cnn_a", "params"): Known("1.28M", "1.25M", ABOUT),
    ("convpool_cnn_b", "params"): Known("1.35M", "1.30M", ABOUT),
    ("all_cnn_b", "params"): Known("1.35M", "1.30M", ABOUT),
    ("all_cnn_base_c", "params"): Known(
        "1.3M", "1.0M", f"{ABOUT}; it does not follow from the printed layers"
    ),
    ("strided_cnn_c", "params"): Known(
        "1.3M", "1.0M", f"{ABOUT}; it does not follow from the printed layers"
    ),
    ("googlenet_paper", "params of features.inception4a"): Known("364K", "376K", ROUGH),
    ("googlenet_paper", "params of features.inception4b"): Known("437K", "449K", ROUGH),
    ("googlenet_paper", "params of features.inception4d"): Known("580K", "605K", ROUGH),
    ("googlenet_paper", "params of features.inception4e"): Known("840K", "868K", ROUGH),
    ("googlenet_paper", "params of features.inception5b"): Known("1388K", "1444K", ROUGH),
    ("bn_inception_paper", "params"): Known("13.6M", "11.2M", NASNET.format("11.2M, which is ours,")),
    ("inception_v3", "macs"): Known(
        "4.8×10^9", "5.7×10^9", NASNET.format("5.72 billion, which is ours with BatchNorm's,")
    ),
    ("mobilenet_v2_x1_4", "params"): Known(
        "6.9M", "6.1M", REPOSITORY.format("6.06M, ours without BatchNorm,")
    ),
    ("mobilenet_v2_x1_4", "macs"): Known("585M", "582M", REPOSITORY.format("582M, which is ours,")),
    ("mobilenet_v3_large", "macs"): Known("219M", "217M", REPOSITORY.format("217M, which is ours,")),
    ("efficientnet_b5", "macs"): Known(
        "9.9B", "10.3B", "no image size gives it: 448 pixels cost 9.4, 449 cost 10.2"
    ),
    ("efficientnet_b0_d4", "macs"): Known("1.8B", "1.6B", SCALED),
    ("efficientnet_b0_w2", "macs"): Known("1.8B", "1.4B", SCALED),
    ("efficientnet_b0_r2", "macs"): Known("1.9B", "1.5B", SCALED),
}
