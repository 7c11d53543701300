"""Operators: worked examples, output sizes, receptive fields, and what one layer costs against another."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from convatlas.audit.claims.formula import gives
from convatlas.audit.claims.quantities import conv, counted, side_after, weights
from convatlas.audit.claims.rules import Computed, Rule, Stated, Tried
from convatlas.measure.arithmetic.calculators import (
    REDUCED,
    factorised_5x5,
    factorised_nxn,
    inception_naive,
    inception_reduced,
    printed_358m,
)
from convatlas.measure.arithmetic.convolution import (
    IMAGE,
    KERNEL,
    Numbers,
    convolution,
    cross_correlation,
    flipped,
    kernel_gradient,
)
from convatlas.measure.arithmetic.matrix import ConvMatrix, conv_matrix
from convatlas.measure.arithmetic.walk import receptive_fields
from convatlas.models import create_model

GIVEN = Stated("the input of a worked example")


def correlated(image: Numbers, kernel: Numbers) -> list[list[int]]:
    """A kernel moved over an image as it is written, in plain numbers: (H, W), (h, w) -> (H-h+1, W-w+1)."""
    return cross_correlation(image, kernel).tolist()


def pooled(pool: nn.Module) -> list[list[float]]:
    """2x2 pooling of the numbers 1 to 16."""
    return pool(torch.arange(1.0, 17.0).view(1, 1, 4, 4))[0, 0].tolist()


def kernel_gradient_is_the_printed_sum(_: object) -> bool:
    """dL/dw_ij = sum over r, c of dL/da_rc x_(r-i, c-j), for a true convolution, against autograd."""
    draw = torch.Generator().manual_seed(0)
    x, upstream = (torch.randn(size, generator=draw, dtype=torch.float64) for size in ((6, 6), (4, 4)))
    kernel = torch.randn(3, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    output = functional.conv2d(x[None, None], kernel.flip(0, 1)[None, None])[0, 0]
    (gradient,) = torch.autograd.grad((output * upstream).sum(), kernel)
    by_hand = flipped(kernel_gradient(x, upstream, (3, 3)))
    return torch.allclose(gradient, by_hand)


def toeplitz(size: int) -> ConvMatrix:
    """The matrix of a 1-D kernel of three weights with zero padding: rows b c 0 .. / a b c 0 .. / .. a b."""
    return conv_matrix(torch.tensor([2.0, 3.0, 5.0]), (size,), padding=1)


def the_matrix_is_banded(_: object) -> bool:
    """Many zeros, and each weight of the kernel on a whole diagonal."""
    matrix = toeplitz(8)
    bands = [matrix.dense.diagonal(offset).unique().tolist() for offset in (-1, 0, 1)]
    return bands == [[2.0], [3.0], [5.0]] and (matrix.zeros, matrix.distinct) == (64 - 3 * 8 + 2, 3)


def input_gradient_is_the_transposed_matrix(_: object) -> bool:
    """dL/dx = W^T dL/dy, which is a transposed convolution."""
    matrix, x = toeplitz(8), torch.arange(8.0).requires_grad_()
    kernel = matrix.weight
    y = functional.conv1d(x[None, None], kernel[None, None], padding=1)[0, 0]
    upstream = torch.linspace(-1, 1, 8)
    (gradient,) = torch.autograd.grad((y * upstream).sum(), x)
    transposed = functional.conv_transpose1d(upstream[None, None], kernel[None, None], padding=1)[0, 0]
    return torch.allclose(matrix.transposed(upstream), gradient) and torch.allclose(transposed, gradient)


def normalised_as_printed(_: object) -> bool:
    """BatchNorm in training mode is gamma (x - mean) / sqrt(biased variance + eps) + beta."""
    x, norm = torch.linspace(-2, 3, 24, dtype=torch.float64).view(6, 4).square(), nn.BatchNorm1d(4).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 5.0))
        norm.bias.copy_(torch.arange(4.0))
        by_hand = (x - x.mean(0)) / (x.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
        return torch.allclose(norm(x), by_hand)


def linear_over_pixels(_: object = None) -> int:
    """By how many pixels a 1x1 convolution widens what is seen."""
    return receptive_fields([(3, 1), (1, 1)])[1] - receptive_fields([(3, 1)])[0]


def macs_of_naive() -> list[int]:
    """Multiply-adds of the naive module's convolutions: 1x1, 3x3, 5x5."""
    return list(inception_naive().macs_of.values())


def bottleneck_block() -> nn.Module:
    """ResNet's 256-64-64-256 block."""
    return counted("resnet50_v1").network.get_submodule("features.conv2_x.1")


def identity_when_the_residual_is_zero(_: object) -> bool:
    """H(x) = F(x) + x, so a block whose F is 0 is the identity (for inputs that ReLU keeps)."""
    block = create_model("resnet20_cifar").get_submodule("features.conv2_x.0").eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
    x = torch.rand(1, 16, 6, 6)
    return torch.equal(block(x), x)


def jacobians_multiply(_: object) -> bool:
    """The gradient of the first weight is the product of the Jacobians after it."""
    weights_ = [
        torch.randn(4, 4, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(3)
    ]
    first = weights_[0].clone().requires_grad_()
    x = torch.ones(4, dtype=torch.float64)
    hidden = [first @ x]
    for weight in weights_[1:]:
        hidden.append(torch.tanh(weight @ hidden[-1]))
    (gradient,) = torch.autograd.grad(hidden[-1].sum(), first)
    product = torch.ones(4, dtype=torch.float64)
    for weight, output in zip(reversed(weights_[1:]), reversed(hidden[1:]), strict=True):
        product = (product * (1 - output.detach() ** 2)) @ weight
    return torch.allclose(gradient, torch.outer(product, x))


def finds_edges(kernel: list[list[int]]) -> bool:
    """Nothing on a flat image, and something where its brightness steps."""
    flat, step = [[7] * 5] * 5, [[0, 0, 0, 9, 9]] * 5
    return not any(map(any, correlated(flat, kernel))) and any(map(any, correlated(step, kernel)))


def _minus_identity(kernel: list[list[int]]) -> list[list[int]]:
    return [[number - (i == j == 1) for j, number in enumerate(row)] for i, row in enumerate(kernel)]


def _same_side(padding: int, dilation: int) -> bool:
    return nn.Conv2d(1, 1, 3, 1, padding, dilation)(torch.zeros(1, 1, 7, 7)).shape[-1] == 7


def _field_of_dilation(dilation: int) -> int:
    """Pixels that a dilated 3x3 kernel spans, by the image that gives one pixel."""
    conv = nn.Conv2d(1, 1, 3, dilation=dilation)
    return next(
        side for side in range(1, 20) if side > 2 * dilation and conv(torch.zeros(1, 1, side, side)).numel()
    )


def _stack(alpha: float, n: float, *kernels: tuple[int, int]) -> int:
    """Weights of two layers n -> sqrt(alpha) n -> alpha n."""
    middle = math.isqrt(round(alpha * n * n))
    return weights(conv(n, middle, kernels[0]), conv(middle, alpha * n, kernels[1]))


SQUARES = ({"alpha": 1, "n": 8}, {"alpha": 4, "n": 16})  # sqrt(alpha) n has to be whole
STUDY_ROWS = ((3, 1), (3, 1)), ((3, 1), (3, 1)), ((3, 2),), ((3, 1), (3, 1)), ((3, 1), (3, 1)), ((3, 2),)


def study_fields() -> list[int]:
    """The receptive field after each of the six rows of the CIFAR-100 study."""
    ends, found = 0, receptive_fields([layer for row in STUDY_ROWS for layer in row])
    fields: list[int] = []
    for row in STUDY_ROWS:
        ends += len(row)
        fields.append(found[ends - 1])
    return fields


RULES: dict[str, Rule] = {
    # --- convolution -----------------------------------------------------------------------------------------
    "conv2d-definition 1": GIVEN,
    "conv2d-definition 2": GIVEN,
    "conv2d-definition 3": Computed(lambda: correlated(IMAGE, KERNEL), why="as cross-correlation"),
    "conv2d-definition 4": Tried(
        lambda _: (
            correlated([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[1, 10, 100], [0, 0, 0], [0, 0, 1000]]) == [[9321]]
        )
    ),
    "conv-multichannel 1": GIVEN,
    "conv-multichannel 2": Computed(
        lambda: ["x".join(map(str, nn.Conv2d(3, c, 5).weight.shape[c == 1 :])) for c in (1, 2, 3, 4)]
    ),
    "conv-multichannel 3": Computed(
        lambda: [
            "x".join(map(str, nn.Conv2d(3, c, 5)(torch.zeros(1, 3, 28, 28)).shape[1:])) for c in (1, 2, 3, 4)
        ]
    ),
    "conv-output-size 1": Tried(
        gives(
            lambda w, k, p, s: side_after(nn.Conv2d, w, k=k, s=s, p=p)(),
            {"w": 4, "k": 2, "p": 1, "s": 2},
            {"w": 227, "k": 11, "p": 0, "s": 4},
            {"w": 28, "k": 5, "p": 2, "s": 1},
        )
    ),
    "conv-output-size 2": Computed(side_after(nn.Conv2d, 4, k=2)),
    "conv-output-size 3": Computed(side_after(nn.Conv2d, 4, k=2, s=2)),
    "conv-output-size 4": Computed(side_after(nn.Conv2d, 4, k=2, s=2, p=1), slip=1),
    "conv-output-size 5": Computed(side_after(nn.Conv2d, 227, k=11, s=4)),
    "fixed-kernels 1": Tried(
        lambda kernel: correlated(IMAGE, kernel) == [list(row[1:4]) for row in IMAGE[1:4]]
    ),
    "fixed-kernels 2": Tried(finds_edges),
    "fixed-kernels 3": Tried(
        lambda kernel: sum(map(sum, kernel)) == 1 and finds_edges(_minus_identity(kernel))
    ),
    "dilated-convolution 1": Computed(
        lambda: "k=3 pad=1 stride=1" if _same_side(1, 1) else "another padding"
    ),
    "dilated-convolution 2": Tried(lambda _: _field_of_dilation(2) == 5 and _field_of_dilation(1) == 3),
    "conv-gradients 1": Tried(kernel_gradient_is_the_printed_sum),
    "tensor-layout 1": Computed(lambda: torch.empty(1, 3, 8, 8).dim()),
    "tensor-layout 3": Computed(
        lambda: nn.Conv1d(1, 4, 3)(torch.zeros(1, 8)).dim(), why="no batch of one channel"
    ),
    "tensor-layout 2": Computed(lambda: nn.Conv1d(3, 4, 3)(torch.zeros(1, 3, 8)).dim()),
    "toeplitz-convolution 1": Tried(lambda _: toeplitz(4).dense[1].tolist() == [2, 3, 5, 0]),
    "toeplitz-convolution 2": Tried(the_matrix_is_banded),
    "transposed-convolution 1": Tried(input_gradient_is_the_transposed_matrix),
    "conv1x1 1": Computed(linear_over_pixels),
    "flatten-vs-gap 1": Computed(lambda: weights(nn.Linear(224 * 224 * 3, 1000, device="meta")), digits=2),
    "cnn-as-sparse-fc 1": Computed(lambda: weights(nn.Linear(224 * 224 * 3, 1000, device="meta")), digits=2),
    # --- pooling, normalisation --------------------------------------------------------------------------------
    "pooling-max-avg 1": GIVEN,
    "pooling-max-avg 2": Computed(lambda: pooled(nn.AvgPool2d(2))),
    "pooling-max-avg 3": Computed(lambda: pooled(nn.MaxPool2d(2))),
    "pooling-max-avg 4": Computed(lambda: sum(p.numel() for p in nn.MaxPool2d(2).parameters())),
    "batch-norm 1": Tried(normalised_as_printed),
    "batch-norm 2": Tried(normalised_as_printed),
    # --- small kernels instead of large ones -------------------------------------------------------------------
    "stacked-3x3 1": Computed(lambda: "{0}x{0}".format(receptive_fields([(3, 1)] * 2)[-1])),
    "stacked-3x3 2": Computed(lambda: "{0}x{0}".format(receptive_fields([(3, 1)] * 3)[-1])),
    "stacked-3x3 3": Tried(gives(lambda C: 3 * weights(conv(C, C, 3)), {"C": 8}, {"C": 64})),
    "stacked-3x3 4": Tried(gives(lambda C: weights(conv(C, C, 7)), {"C": 8}, {"C": 64})),
    "stacked-3x3 5": Tried(
        gives(lambda C: 3 * weights(conv(C, C, 3)), {"C": 8}), ours="27C^2 versus 49C^2", slip=1
    ),
    "stacked-3x3 6": Tried(gives(lambda K: weights(conv(K, K, 5)), {"K": 8}, {"K": 64})),
    "stacked-3x3 7": Tried(gives(lambda K: 2 * weights(conv(K, K, 3)), {"K": 8}, {"K": 64})),
    "stacked-3x3 8": Computed(
        lambda: len([conv(1, 1, 3)] * 3) - len([conv(1, 1, 7)]), slip=2, why="a ReLU a layer"
    ),
    "factorised-5x5 1": Tried(gives(lambda alpha, n: weights(conv(n, alpha * n, 5)), *SQUARES)),
    "factorised-5x5 2": Tried(gives(lambda alpha, n: _stack(alpha, n, (3, 3), (3, 3)), *SQUARES)),
    "factorised-5x5 3": Computed(lambda: factorised_5x5(2).saving_pct, digits=2),
    "factorised-asymmetric 1": Tried(gives(lambda alpha, n: weights(conv(n, alpha * n, 3)), *SQUARES)),
    "factorised-asymmetric 2": Tried(gives(lambda alpha, n: _stack(alpha, n, (1, 3), (3, 1)), *SQUARES)),
    "factorised-asymmetric 3": Computed(lambda: factorised_nxn(3, 2).saving_pct, digits=2, slip=1),
    "fc-to-conv 1": Computed(lambda: "conv {0}x{0}".format(counted("vgg16").shapes["features.pool5"][-1])),
    # --- modules and blocks ------------------------------------------------------------------------------------
    "inception-module-naive 1": GIVEN,
    "inception-module-naive 2": GIVEN,
    "inception-module-naive 3": Computed(lambda: inception_naive().output_shape[0]),
    "inception-module-naive 4": Computed(lambda: math.prod(inception_naive().output_shape), digits=3, slip=1),
    **{f"inception-module-naive {5 + i}": Tried(gives(lambda i=i: macs_of_naive()[i])) for i in range(3)},
    "inception-module-naive 8": Computed(lambda: inception_naive().macs),
    "inception-module-reduced 1": Computed(lambda: f"1x1 conv, {REDUCED.reduce3} filters, three times"),
    "inception-module-reduced 2": GIVEN,
    "inception-module-reduced 3": Computed(lambda: inception_reduced().macs, slip=1),
    "residual-basic-block 2": Tried(identity_when_the_residual_is_zero),
    "residual-bottleneck-block 1": Computed(lambda: _widths_of_a_bottleneck()),
    "residual-bottleneck-block 2": GIVEN,
    "vanishing-gradient-demo 1": Tried(jacobians_multiply),
    "resnext 1": Tried(gives(lambda: weights(bottleneck_block()))),
    "resnext 2": Tried(
        gives(
            lambda C, d: weights(
                conv(256, C * d, 1), conv(C * d, C * d, 3, groups=int(C)), conv(C * d, 256, 1)
            ),
            {"C": 32, "d": 4},
            {"C": 1, "d": 64},
        )
    ),
    # --- receptive fields --------------------------------------------------------------------------------------
    "receptive-field-theoretical 1": Computed(
        lambda: _sides_after((3, 1, 1), (3, 1, 1), (4, 2, 1), (5, 2, 1)),
        why="3x3, 3x3, 4x4/2, 5x5/2, each padded by 1",
    ),
    "receptive-field-theoretical 4": Computed(
        lambda: [1, *receptive_fields([(3, 1), (3, 1), (2, 2), (5, 1)])], why="3x3, 3x3, 2x2/2, 5x5"
    ),
    "receptive-field-theoretical 3": Computed(
        lambda: [28, 28, 28, *(side_after(nn.MaxPool2d, 28, k=2)() for _ in range(2))], slip=1, why="padded"
    ),
    "receptive-field-theoretical 2": Computed(
        lambda: [1, *receptive_fields([(3, 1), (3, 1), (4, 2), (5, 1)])], why="with a 4x4 kernel of stride 2"
    ),
    "cifar100-case-study 5": Computed(
        lambda: _study_rows(study_fields()), slip=1, why="a ConvBlock is two 3x3, Sub one of stride 2"
    ),
    "roi-pool 1": GIVEN,
    "roi-pool 2": GIVEN,
    "roi-pool 3": GIVEN,
}


def _sides_after(*layers: tuple[int, int, int]) -> list[int]:
    """Sides from a map of 28 pixels on, after layers of (kernel, stride, padding)."""
    sides = [28]
    for kernel, stride, padding in layers:
        sides.append(side_after(nn.Conv2d, sides[-1], k=kernel, s=stride, p=padding)())
    return sides


def _widths_of_a_bottleneck() -> list[int]:
    convs = [module for module in bottleneck_block().modules() if isinstance(module, nn.Conv2d)]
    return [convs[0].in_channels, *(module.out_channels for module in convs)]


def _study_rows(fields: list[int]) -> list[list[object]]:
    operators = ("ConvBlock", "ConvBlock", "Sub", "ConvBlock", "ConvBlock", "Sub")
    sides, widths = (32, 32, 16, 16, 16, 8), (32, 32, 32, 128, 128, 128)
    rows: list[list[object]] = [[*row] for row in zip(operators, sides, fields, widths, strict=True)]
    return [*rows, ["AvgPool", 1, None, 128], ["Linear", 100, None, None]]


CORRECTIONS: dict[str, list[tuple[str, object]]] = {
    "conv2d-definition error 1": [("18", lambda: int(convolution(IMAGE, KERNEL)[0, 0]))],
    "conv-output-size error 1": [("3", side_after(nn.Conv2d, 4, k=2, s=2, p=1))],
    "factorised-asymmetric error 1": [("29.3", lambda: -factorised_nxn(3, 2).saving_pct)],
    "inception-module-naive error 1": [("526,848", lambda: math.prod(inception_naive().output_shape))],
    "inception-module-reduced error 1": [
        ("271.35 M", lambda: inception_reduced().macs),
        ("86.7 M", lambda: printed_358m()[0] - inception_reduced().macs),
        ("358.06 M", lambda: printed_358m()[0]),
    ],
    "receptive-field-theoretical error 1": [
        ("14", lambda: receptive_fields([(3, 1), (3, 1), (2, 2), (5, 1)])[-1])
    ],
    "cifar100-case-study error 1": [
        (str(field), lambda i=i: study_fields()[i]) for i, field in ((2, 11), (3, 19), (4, 27))
    ],
}
