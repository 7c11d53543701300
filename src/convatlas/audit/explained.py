"""Why a printed figure is not ours: each reason with the code that gives the printed figure.

A row of `EXPLAINED` is (network, figure) -> (why, a function of the counted network). What the function gives must
be the printed figure at the printed precision, near it where the table itself is rough, or the figure that the same
authors printed later; otherwise the row explains nothing, and the difference stays one. A row of `RECORDED` names the
remark on a lecture that shows this very figure: what is right, or that it follows from nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

from torch import nn

from convatlas.audit.counted import Counted, counted
from convatlas.models.printed import agrees, value


class Explanation(NamedTuple):
    """A sentence, and the number that follows from it.

    `within` is the share by which a table is rough. `later` is the figure that the authors printed of the same network
    afterwards: then that one has to follow, at its precision.
    """

    why: str
    reproduce: Callable[[Counted], float]
    within: float = 0.0
    later: str = ""

    def gives(self, printed: str, of: Counted) -> bool:
        """Whether the printed figure follows, or the one that was printed later in its place."""
        found, target = self.reproduce(of), self.later or printed
        return agrees(found, target) or abs(found - float(value(target))) <= self.within * found


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

CUT = "the paper cuts digits where we round"
BARE = "the paper counts convolutions and linear layers, without BatchNorm"
BARE_AND_CUT = "without BatchNorm, and digits are cut where we round"
SEPARABLE = (
    "fits a first convolution of 8 maps a channel and 1x1 behind them, as the authors' later code has it; "
    "the 7x7 convolution of the table's own row has 9,408 weights"
)
SEPARABLE_WEIGHTS = 3 * 8 * 7 * 7 + 24 * 64


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
    ("mobilenet_v2_x1_4", "params"): Explanation(
        "the authors' repository prints 6.06M, without BatchNorm", without_normalisation, later="6.06M"
    ),
    ("mobilenet_v2_x1_4", "macs"): Explanation(
        "the authors' repository prints 582M", lambda of: of.macs, later="582M"
    ),
    ("mobilenet_v3_large", "macs"): Explanation(
        "the authors' repository prints 217M", lambda of: of.macs, later="217M"
    ),
    ("inception_v3", "macs"): Explanation(
        "the authors' group prints 5.72 billion in table 2 of the NASNet paper, one a number of BatchNorm among them",
        with_normalisation,
        later="5.72B",
    ),
    ("bn_inception_paper", "params"): Explanation(
        "the authors' group prints 11.2M in table 2 of the NASNet paper", lambda of: of.params, later="11.2M"
    ),
    ("resnet1001_preact_cifar", "params"): Explanation(BARE, without_normalisation),
    ("nasnetalarge_paper", "params"): Explanation(
        "BatchNorm's running statistics are counted", with_statistics
    ),
    ("efficientnet_b2", "params"): Explanation("BatchNorm's running statistics are counted", with_statistics),
    ("bn_inception_paper", "macs"): Explanation(
        "with GoogLeNet's 7x7 convolution in place of the separable one",
        lambda of: (
            of.macs + counted("googlenet_paper").macs_of("features.conv1") - of.macs_of("features.conv1")
        ),
    ),
    ("se_resnet50_paper", "macs"): Explanation(
        "one multiply-add a number that an excitation scales",
        lambda of: (
            of.macs
            + sum(prod(row.output_shape) for row in of.measurement.rows if row.name.endswith("se (multiply)"))
        ),
    ),
    ("googlenet_paper", "params of features.conv1"): Explanation(SEPARABLE, lambda _: SEPARABLE_WEIGHTS),
    ("googlenet_paper", "macs of features.conv1"): Explanation(
        SEPARABLE, lambda _: SEPARABLE_WEIGHTS * 112 * 112
    ),
    ("googlenet_paper", "macs of features.inception4a"): Explanation(
        CUT, lambda of: cut(of.macs_of("features.inception4a"), 1e6)
    ),
}
for path in ("features.conv2", "features.inception3a", "head.fc"):
    EXPLAINED["googlenet_paper", f"params of {path}"] = Explanation(
        "K is 1,024 in this column, and biases are left out", in_kibi(path)
    )
for module in ("3b", "4a", "4b", "4d", "4e", "5b"):
    path = f"features.inception{module}"
    EXPLAINED["googlenet_paper", f"params of {path}"] = Explanation(
        "K is 1,024 in this column, and the column is rough: within 2 %", in_kibi(path), within=0.02
    )
for size in (1, 4, 5, 7):
    EXPLAINED[f"efficientnet_b{size}", "macs"] = Explanation(
        "the column is rough, up for B1 and down for B4, B5 and B7: within 5 %",
        lambda of: of.macs,
        within=0.05,
    )
for name in ("all_cnn_base_a", "strided_cnn_a", "convpool_cnn_a", "all_cnn_a", "convpool_cnn_b", "all_cnn_b"):
    EXPLAINED[name, "params"] = Explanation(
        "the paper prints it as about so much: within 7.5 %", lambda of: of.params, within=0.075
    )
for name in ("all_cnn_base_c", "strided_cnn_c"):
    EXPLAINED[name, "params"] = Explanation(
        "fits a second 3x3 convolution of 192 maps in the second stage, as ConvPool-CNN-C has and this form has not",
        lambda of: of.params + 3 * 3 * 192 * 192 + 192,
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

# (printed, remark on a lecture that shows the paper's table)
RECORDED: dict[tuple[str, str], tuple[str, str]] = {
    ("googlenet_paper", "params of features.inception4c"): ("463K", "googlenet error 3"),
    ("googlenet_paper", "params of features.inception5a"): ("1072K", "googlenet error 3"),
    ("googlenet_paper", "macs of features.inception5a"): ("54M", "googlenet error 3"),
    ("squeezenet1_1_cifar", "params"): ("768K", "squeezenet error 2"),
    ("efficientnet_b0_d4", "macs"): ("1.8B", "scaling-ablation ambiguous 1"),
    ("efficientnet_b0_w2", "macs"): ("1.8B", "scaling-ablation ambiguous 1"),
    ("efficientnet_b0_r2", "macs"): ("1.9B", "scaling-ablation ambiguous 1"),
}
