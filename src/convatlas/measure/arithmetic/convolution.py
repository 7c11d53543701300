"""Convolution by its definition, in both conventions, with its gradients: slow, exact, in any number of dimensions.

    cross-correlation   y[r] = sum over t of w[t] x[r + t]      the kernel slides as it is written
    convolution         y[r] = sum over t of w[t] x[r - t]      the kernel is flipped first

What frameworks call convolution is cross-correlation; a learnt kernel does not care, a given one does. Each function
is one loop over the taps of the kernel: tap t meets the input at places r s + t d, for all outputs r at once.
With whole numbers the results are exact.

Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", 2018, section 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from convatlas.errors import UsageError
from convatlas.measure.arithmetic.output_size import conv_size

# The worked example of the lectures: a 5x5 image and a 3x3 kernel.
IMAGE = ((3, 3, 2, 1, 0), (0, 0, 1, 3, 1), (3, 1, 2, 2, 3), (2, 0, 0, 2, 2), (2, 0, 0, 0, 1))
KERNEL = ((0, 1, 2), (2, 2, 0), (0, 1, 2))

FIXED_KERNELS = {
    "identity": ((0, 0, 0), (0, 1, 0), (0, 0, 0)),
    "edges": ((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)),
    "sharpen": ((0, -1, 0), (-1, 5, -1), (0, -1, 0)),
    "Laplacian": ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
    "Gaussian blur": ((1 / 16, 2 / 16, 1 / 16), (2 / 16, 4 / 16, 2 / 16), (1 / 16, 2 / 16, 1 / 16)),
}

Numbers = Tensor | Sequence[object]


def cross_correlation(
    x: Numbers, w: Numbers, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """A kernel slid over a signal as it is written: y[r] = sum over t of w[t] x[r s + t d - p].

    One channel: x (L), w (K) or x (H, W), w (h, w) or x (D, H, W), ... -> as many dimensions. Geometry is the same
    along all of them. Raises `UsageError` for different ranks, and for a kernel larger than the padded signal.

    Examples:
        >>> cross_correlation(IMAGE, KERNEL).tolist()
        [[12, 12, 17], [10, 17, 19], [9, 6, 14]]
    """
    x, w = _tensors(x, w)
    sides = _sides(x.shape, w.shape, stride, padding, dilation)
    room = _padded(x, padding)
    y = room.new_zeros(sides)
    for tap in _taps(w.shape):
        y += w[tap] * room[_seen(tap, sides, stride, dilation)]
    return y


def convolution(x: Numbers, w: Numbers, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    """The convolution of mathematics, where it is defined without padding: the same with a flipped kernel.

    Examples:
        >>> convolution(IMAGE, KERNEL)[0].tolist()
        [18, 20, 19]
    """
    return cross_correlation(x, flipped(w), stride=stride, padding=padding, dilation=dilation)


def flipped(w: Numbers) -> Tensor:
    """The kernel turned round along every axis, which takes one convention to the other."""
    w = torch.as_tensor(w)
    return w.flip(*range(w.dim()))


def conv_layer(
    x: Tensor, w: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """A layer of a network: x (C_in, ...), w (C_out, C_in, ...) -> (C_out, ...), by cross-correlation.

    Every map of the output is the sum over the input's maps, each with a kernel of its own.

    Examples:
        >>> x = torch.ones(3, 28, 28)
        >>> [tuple(conv_layer(x, torch.ones(c_out, 3, 5, 5)).shape) for c_out in (1, 4)]
        [(1, 24, 24), (4, 24, 24)]
    """
    if w.dim() != x.dim() + 1 or w.shape[1] != x.shape[0]:
        raise UsageError(
            f"a layer's kernels are (C_out, C_in, ...) for an input (C_in, ...); {tuple(w.shape)} and "
            f"{tuple(x.shape)} came."
        )
    maps = [
        torch.stack(
            [
                cross_correlation(channel, kernel, stride=stride, padding=padding, dilation=dilation)
                for channel, kernel in zip(x, kernels, strict=True)
            ]
        ).sum(0)
        for kernels in w
    ]
    y = torch.stack(maps)
    return y if bias is None else y + bias.view(-1, *[1] * (y.dim() - 1))


def kernel_gradient(
    x: Numbers,
    upstream: Tensor,
    kernel: Sequence[int],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """dL/dw of a cross-correlation: dL/dw[t] = sum over r of dL/dy[r] x[r s + t d - p].

    A weight meets many pixels, so its gradient is a sum over all places: again a cross-correlation, of the input with
    the upstream gradient. `upstream` is dL/dy, and `kernel` the kernel's sides. For a true convolution flip the result.
    """
    room = _padded(torch.as_tensor(x).to(upstream.dtype), padding)
    gradient = upstream.new_zeros(tuple(kernel))
    for tap in _taps(kernel):
        gradient[tap] = (upstream * room[_seen(tap, upstream.shape, stride, dilation)]).sum()
    return gradient


def input_gradient(
    upstream: Tensor, w: Numbers, size: Sequence[int], *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """dL/dx of a cross-correlation: every dL/dy[r] is handed back to the pixels r s + t d - p, w[t] times.

    This is the transposed convolution of `upstream`. `size` are the input's sides. For a true convolution pass
    `flipped(w)`.
    """
    w = torch.as_tensor(w).to(upstream.dtype)
    room = upstream.new_zeros([side + 2 * padding for side in size])
    for tap in _taps(w.shape):
        room[_seen(tap, upstream.shape, stride, dilation)] += w[tap] * upstream
    return room[tuple(slice(padding, padding + side) for side in size)]


def transposed_convolution(
    x: Numbers,
    w: Numbers,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    output_padding: int = 0,
) -> Tensor:
    """What takes the small map back to the large one's size: every input pixel paints the kernel, and paints add up.

    Output side (w - 1)s - 2p + k_eff + output_padding. It undoes the shape, not the numbers.

    Examples:
        >>> transposed_convolution([1, 10], [1, 2, 3], stride=2).tolist()
        [1, 2, 13, 20, 30]
    """
    x, w = _tensors(x, w)
    size = [
        (side - 1) * stride - 2 * padding + dilation * (taps - 1) + 1 + output_padding
        for side, taps in zip(x.shape, w.shape, strict=True)
    ]
    return input_gradient(x, w, size, stride=stride, padding=padding, dilation=dilation)


def centred(template: Numbers) -> Tensor:
    """A template as a kernel that finds it: its mean taken off, so that plain brightness gives 0.

    Examples:
        >>> cross_correlation([[7.0] * 4] * 4, centred(((1, 0), (0, 1)))).abs().max().item()
        0.0
    """
    template = torch.as_tensor(template).double()
    return template - template.mean()


# --- places -------------------------------------------------------------------------------------------------


def _tensors(x: Numbers, w: Numbers) -> tuple[Tensor, Tensor]:
    x, w = torch.as_tensor(x), torch.as_tensor(w)
    kind = torch.promote_types(x.dtype, w.dtype)
    return x.to(kind), w.to(kind)


def _sides(x: Sequence[int], w: Sequence[int], stride: int, padding: int, dilation: int) -> tuple[int, ...]:
    if len(x) != len(w):
        raise UsageError(
            f"signal and kernel have as many dimensions; {len(x)} and {len(w)} came. With channels, use conv_layer."
        )
    return tuple(
        conv_size(side, taps, stride=stride, padding=padding, dilation=dilation).size
        for side, taps in zip(x, w, strict=True)
    )


def _padded(x: Tensor, padding: int) -> Tensor:
    room = x.new_zeros([side + 2 * padding for side in x.shape])
    room[tuple(slice(padding, padding + side) for side in x.shape)] = x
    return room


def _taps(kernel: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return product(*(range(side) for side in kernel))


def _seen(tap: Sequence[int], sides: Sequence[int], stride: int, dilation: int) -> tuple[slice, ...]:
    """The pixels of the padded input that one tap meets, for all places of the output."""
    return tuple(
        slice(t * dilation, t * dilation + (side - 1) * stride + 1, stride)
        for t, side in zip(tap, sides, strict=True)
    )
