"""What one way of building a layer costs against another: weights, multiply-adds, pixels seen, non-linearities.

Each function is a formula that papers argue with, worked out for the widths that you give. The costs of the two
Inception modules come from the modules themselves, counted by `measure`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.blueprint import blueprint
from convatlas.measure.arithmetic.walk import receptive_fields
from convatlas.measure.cost import measure
from convatlas.models.googlenet import Widths, naive_module, reduced_module


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two ways to build a layer, without biases. `weights` are also the multiply-adds for one pixel at stride 1.

    Attributes:
        what: the cheaper way against the dearer one, in words.
        formula: the weights of both, in letters.
        weights: of the cheaper way; a fraction where a width between two layers is none.
        against: of the dearer way.
        field: pixels that one output sees, (height, width); the same for both.
        nonlinearities: activations of the cheaper way; the dearer has one.
    """

    what: str
    formula: str
    weights: float
    against: float
    field: tuple[int, int]
    nonlinearities: int

    @property
    def ratio(self) -> float:
        """Cheaper by dearer."""
        return self.weights / self.against

    @property
    def saving_pct(self) -> float:
        """Percent by which the weights change: negative where they become fewer."""
        return 100 * (self.ratio - 1)

    @property
    def sentence(self) -> str:
        """All of it in a sentence."""
        return (
            f"{self.what}: {self.weights:,.10g} weights instead of {self.against:,.10g} ({self.saving_pct:+.2f} %; "
            f"{self.formula}); sees {self.field[0]}x{self.field[1]}, {self.nonlinearities} non-linearities, not 1."
        )


def stacked(layers: int, channels: int, *, kernel: int = 3) -> Comparison:
    """`layers` k x k convolutions against one that sees as much, all from C to C channels.

    Source: Simonyan & Zisserman, "Very Deep Convolutional Networks", 2014, section 2.3. "27C against 49C", as it is
    often printed, is for one output channel of one layer only: C inputs and C outputs give C^2.

    Examples:
        >>> print(stacked(3, 64).sentence)
        3 of 3x3 against 7x7: 110,592 weights instead of 200,704 (-44.90 %; 27C^2 against 49C^2); sees 7x7, 3 non-linearities, not 1.
        >>> stacked(2, 64).formula
        '18C^2 against 25C^2'
    """  # noqa: E501 - a line that is printed
    _positive(layers=layers, channels=channels, kernel=kernel)
    large = receptive_fields([(kernel, 1)] * layers)[-1]
    few, many = layers * kernel**2, large**2
    return Comparison(
        f"{layers} of {kernel}x{kernel} against {large}x{large}",
        f"{few}C^2 against {many}C^2",
        few * channels**2,
        many * channels**2,
        (large, large),
        layers,
    )


def factorised_5x5(alpha: float, n: int = 1) -> Comparison:
    """Two 3x3 convolutions, n -> sqrt(alpha) n -> alpha n, against one 5x5 from n to alpha n.

    Source: Szegedy et al., "Rethinking the Inception Architecture", 2015, section 3.1.

    Examples:
        >>> [round(factorised_5x5(alpha).saving_pct, 2) for alpha in (1, 2)]
        [-28.0, -23.63]
    """
    _positive(alpha=alpha, n=n)
    middle = math.sqrt(alpha) * n
    return Comparison(
        "two 3x3 against 5x5",
        "9 sqrt(a) n^2 + 9 a sqrt(a) n^2 against 25 a n^2",
        9 * n * middle + 9 * middle * alpha * n,
        25 * alpha * n * n,
        (5, 5),
        2,
    )


def factorised_nxn(kernel: int, alpha: float, n: int = 1) -> Comparison:
    """1xk and kx1 convolutions, n -> sqrt(alpha) n -> alpha n, against one k x k from n to alpha n.

    Source: Szegedy et al., 2015, section 3.2. The saving at alpha = 2 is 29.3 % for 3x3; it is often rounded to 30 %.

    Examples:
        >>> [round(factorised_nxn(3, alpha).saving_pct, 2) for alpha in (1, 2)]
        [-33.33, -29.29]
        >>> round(factorised_nxn(7, 1).saving_pct, 2)
        -71.43
    """
    _positive(kernel=kernel, alpha=alpha, n=n)
    middle, k = math.sqrt(alpha) * n, kernel
    return Comparison(
        f"1x{k} and {k}x1 against {k}x{k}",
        f"{k} sqrt(a) n^2 + {k} a sqrt(a) n^2 against {k * k} a n^2",
        k * n * middle + k * middle * alpha * n,
        k * k * alpha * n * n,
        (k, k),
        2,
    )


def separable(c_in: int, c_out: int, *, kernel: int = 3) -> Comparison:
    """A k x k filter for every channel, then 1x1 over the channels, against one full k x k convolution.

    The ratio is 1/N + 1/k^2, for N output channels, whatever comes in. Source: Howard et al., "MobileNets", 2017,
    section 3.1.

    Examples:
        >>> round(separable(512, 512).ratio, 5), round(1 / 512 + 1 / 9, 5)
        (0.11306, 0.11306)
    """
    _positive(c_in=c_in, c_out=c_out, kernel=kernel)
    k = kernel
    return Comparison(
        f"depthwise {k}x{k} and 1x1 against {k}x{k}",
        f"{k * k}M + MN against {k * k}MN",
        k * k * c_in + c_in * c_out,
        k * k * c_in * c_out,
        (k, k),
        2,
    )


# --- the Inception module -----------------------------------------------------------------------------------

# The lectures' module: 28x28 pixels with 256 channels; the channels before the larger kernels are 64.
IMAGE = (256, 28, 28)
NAIVE = (128, 192, 96)  # of 1x1, 3x3, 5x5
REDUCED = Widths(one=128, reduce3=64, three=192, reduce5=64, five=96, pooled=64)


@dataclass(frozen=True, slots=True)
class ModuleCost:
    """An Inception module: multiply-adds of each convolution by its name, their sum, weights and output (C, H, W)."""

    macs_of: dict[str, int]
    weights: int
    output_shape: tuple[int, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds of the module."""
        return sum(self.macs_of.values())


def inception_naive() -> ModuleCost:
    """1x1, 3x3 and 5x5 convolutions and a pooling side by side (Szegedy et al., 2014, figure 2a).

    Examples:
        >>> cost = inception_naive()
        >>> cost.macs, cost.weights, cost.output_shape
        (854196224, 1089536, (672, 28, 28))
    """
    with blueprint():
        return _module_cost(naive_module(IMAGE[0], *NAIVE))


def inception_reduced() -> ModuleCost:
    """The same with 1x1 convolutions before the large kernels and after the pooling (figure 2b).

    Examples:
        >>> cost = inception_reduced()
        >>> cost.macs, cost.weights, cost.output_shape
        (271351808, 346112, (480, 28, 28))
    """
    with blueprint():
        return _module_cost(reduced_module(IMAGE[0], REDUCED))


def printed_358m() -> tuple[int, str]:
    """A figure that is printed for the reduced module, and how it comes about.

    Examples:
        >>> print(printed_358m()[1])
        The six products add up to 271,351,808. 358 M is their sum with the 3x3 convolution's 86,704,128 counted twice: 358,055,936.
    """  # noqa: E501 - a line that is printed
    cost = inception_reduced()
    three = next(macs for name, macs in cost.macs_of.items() if "conv 3x3" in name)
    twice = cost.macs + three
    return twice, (
        f"The six products add up to {cost.macs:,}. {twice / 1e6:.0f} M is their sum with the 3x3 convolution's "
        f"{three:,} counted twice: {twice:,}."
    )


def _module_cost(module: nn.Module) -> ModuleCost:
    cost = measure(module, IMAGE)
    macs_of = {f"{row.name} ({row.kind})": row.macs for row in cost.rows if row.macs}
    weights = sum(p.numel() for p in module.parameters() if p.dim() > 1)
    channels = [row.output_shape for row in cost.rows if row.output_shape][-1]
    return ModuleCost(macs_of, weights, channels)


def _positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if number <= 0:
            raise UsageError(f"{name}={number} was given; it is a number above 0.")
