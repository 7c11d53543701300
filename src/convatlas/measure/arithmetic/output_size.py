"""How large the output of a window that slides is: out = (w - k_eff + 2p) / s + 1, with every step shown.

Letters, along one axis: w pixels come in; a kernel of k taps with dilation d spans k_eff = k + (k - 1)(d - 1)
pixels; p pixels of padding stand on either side; the window moves by s. Where the division leaves a rest, a
convolution rounds down: the last pixels are then seen by no window. Pooling may round up instead (`ceil`). A transposed
convolution turns the formula round: out = (w - 1)s - 2p + k_eff + output_padding.

Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", 2018, sections 2 to 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from convatlas.errors import UsageError
from convatlas.layers.same_padding import same_padding

Operation = Literal["conv", "pool", "transposed conv"]


@dataclass(frozen=True, slots=True)
class OutputSize:
    """What a layer makes of `width` pixels, and how the formula comes to it.

    Attributes:
        size: pixels of the output.
        remainder: what the division by the stride leaves; 0 where it divides.
        left_over: pixels at the far end of the padded input that no window reaches.
        beyond: pixels by which the last window reaches over the padded input (rounding up only).
        steps: the formula with the numbers put in, a line each.
    """

    operation: Operation
    width: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    output_padding: int
    ceil: bool
    size: int
    remainder: int
    left_over: int
    beyond: int
    steps: tuple[str, ...]

    @property
    def span(self) -> int:
        """Pixels from the first to the last tap of the kernel, k_eff."""
        return effective_kernel(self.kernel, self.dilation)

    @property
    def divides(self) -> bool:
        """Whether the stride goes into the way that the window has."""
        return self.remainder == 0

    @property
    def same(self) -> tuple[int, int]:
        """Padding (before, after) that gives ceil(width / stride) pixels; unequal where the total is odd."""
        return same_padding(self.width, self.span, self.stride)

    @property
    def sentence(self) -> str:
        """What comes out, and what happens at the border, in words."""
        text = f"{self.width} pixels become {self.size}"
        if self.operation == "transposed conv":
            return f"{text}."
        if self.divides:
            return f"{text}: the windows end exactly at the border."
        if self.beyond:
            return f"{text}: the last window reaches {_pixels(self.beyond)} over the border, as sizes are rounded up."
        if self.left_over:
            return f"{text}: no window sees the last {_pixels(self.left_over)}, as sizes are rounded down."
        return f"{text}: rounding up would start a window in the padding, so it is left out."

    def differs_from(self, printed: int) -> str | None:
        """Why another size, printed for this layer, cannot be right; None where it agrees.

        Examples:
            >>> print(conv_size(4, 2, stride=2, padding=1).differs_from(2))
            the formula gives (4 - 2 + 2*1)/2 + 1 = 3, not 2; padding 0 would give 2.
        """
        if printed == self.size:
            return None
        text = f"the formula gives {self.steps[-1]}, not {printed}"
        others = [padding for padding in range(self.span) if self._with(padding) == printed]
        return f"{text}; padding {others[0]} would give {printed}." if others else f"{text}."

    def _with(self, padding: int) -> int | None:
        """The size that another padding gives; None where there is none."""
        if self.operation == "transposed conv":
            return (self.width - 1) * self.stride - 2 * padding + self.span + self.output_padding
        way = self.width + 2 * padding - self.span
        return way // self.stride + 1 if way >= 0 else None


def effective_kernel(kernel: int, dilation: int = 1) -> int:
    """Pixels that a dilated kernel spans: k + (k - 1)(d - 1).

    Dilation is counted as frameworks do: 1 is an ordinary kernel. A drawing that says "dilated by 1" and means one
    inserted zero has d = 2.

    Examples:
        >>> effective_kernel(3, 1), effective_kernel(3, 2), effective_kernel(3, 4)
        (3, 5, 9)
    """
    return kernel + (kernel - 1) * (dilation - 1)


def conv_size(width: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> OutputSize:
    """The output of a convolution, rounded down.

    Raises `UsageError` for a number that is none, and where the kernel is larger than the padded input.

    Examples:
        >>> conv_size(227, 11, stride=4).size
        55
        >>> alexnet = conv_size(224, 11, stride=4)
        >>> alexnet.steps
        ('(224 - 11)/4 + 1 = 54.25', 'floor 54.25 = 54')
        >>> alexnet.sentence
        '224 pixels become 54: no window sees the last 1 pixel, as sizes are rounded down.'
    """
    return _slide("conv", width, kernel, stride, padding, dilation, ceil=False)


def pool_size(
    width: int,
    kernel: int,
    *,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    ceil: bool = False,
) -> OutputSize:
    """The output of a pooling, whose stride is its kernel unless given; with `ceil` sizes are rounded up.

    A window that would start in the padding behind the input is left out, as in PyTorch and Caffe.

    Examples:
        >>> pool_size(112, 3, stride=2).size, pool_size(112, 3, stride=2, ceil=True).size
        (55, 56)
    """
    stride = kernel if stride is None else stride
    found = _slide("pool", width, kernel, stride, padding, dilation, ceil=ceil)
    if 2 * padding > found.span:
        raise UsageError(
            f"a pooling of {found.span} pixels takes a padding of at most {found.span // 2}, not {padding}: "
            "a window could lie in the padding altogether."
        )
    return found


def transposed_size(
    width: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    output_padding: int = 0,
) -> OutputSize:
    """The output of a transposed convolution: (w - 1)s - 2p + k_eff + output_padding.

    It is the size of an input that a convolution of this geometry takes to `width` pixels. With a stride there are
    several such inputs; `output_padding`, smaller than the stride or the dilation, chooses among them.

    Examples:
        >>> [transposed_size(2, 3, stride=2, padding=1, output_padding=extra).size for extra in (0, 1)]
        [3, 4]
    """
    _check(width, kernel, stride, padding, dilation)
    if not 0 <= output_padding < max(stride, dilation):
        raise UsageError(
            f"an output_padding of {output_padding} was given; it must be smaller than the stride ({stride}) or the "
            f"dilation ({dilation}), as it chooses among the inputs that a convolution takes to one size."
        )
    span = effective_kernel(kernel, dilation)
    size = (width - 1) * stride - 2 * padding + span + output_padding
    if size < 1:
        raise UsageError(
            f"a transposed convolution of {width} pixels makes {size + 2 * padding} of them, and a padding of "
            f"{padding} takes away all; use less."
        )
    extra = f" + {output_padding}" if output_padding else ""
    line = f"({width} - 1)*{stride}{f' - 2*{padding}' if padding else ''} + {span}{extra} = {size}"
    return OutputSize(
        "transposed conv", width, kernel, stride, padding, dilation, output_padding, False, size, 0, 0, 0,
        (*_spanned(kernel, dilation), line),
    )  # fmt: skip


def cases(
    width: int, kernels: range, strides: range, paddings: range, dilations: range = range(1, 2)
) -> Iterator[OutputSize]:
    """Every convolution of these geometries that fits, for tables.

    Examples:
        >>> [(each.padding, each.size) for each in cases(4, range(2, 3), range(2, 3), range(3))]
        [(0, 2), (1, 3), (2, 4)]
    """
    for kernel in kernels:
        for dilation in dilations:
            for stride in strides:
                for padding in paddings:
                    if effective_kernel(kernel, dilation) <= width + 2 * padding:
                        yield conv_size(width, kernel, stride=stride, padding=padding, dilation=dilation)


def _slide(
    operation: Operation, width: int, kernel: int, stride: int, padding: int, dilation: int, *, ceil: bool
) -> OutputSize:
    """The formula for windows that move over an input."""
    _check(width, kernel, stride, padding, dilation)
    span, room = effective_kernel(kernel, dilation), width + 2 * padding
    way = room - span
    if way < 0:
        spread = f" ({kernel} taps with dilation {dilation})" if dilation > 1 else ""
        around = f", {room} with its padding," if padding else ""
        raise UsageError(
            f"the kernel spans {span} pixels{spread}, and the input of {width}{around} is smaller; "
            f"use a padding of at least {-(-(span - width) // 2)}, a smaller kernel or a larger input."
        )
    down, remainder = divmod(way, stride)
    size = down + 1
    if ceil and remainder and (down + 1) * stride < width + padding:
        size += 1
    reached = (size - 1) * stride + span
    line = f"({width} - {span}{f' + 2*{padding}' if padding else ''})/{stride} + 1 = {way / stride + 1:.10g}"
    steps = (*_spanned(kernel, dilation), line)
    if remainder:
        steps += (
            f"{'ceil' if ceil else 'floor'} {way / stride + 1:.10g} = {-(-way // stride) + 1 if ceil else size}",
        )
        if ceil and size == down + 1:
            steps += (f"the last window would start in the padding: {size}",)
    return OutputSize(
        operation, width, kernel, stride, padding, dilation, 0, ceil, size, remainder,
        max(room - reached, 0), max(reached - room, 0), steps,
    )  # fmt: skip


def _spanned(kernel: int, dilation: int) -> tuple[str, ...]:
    if dilation == 1:
        return ()
    span = effective_kernel(kernel, dilation)
    return (f"k_eff = {kernel} + ({kernel} - 1)*({dilation} - 1) = {span}",)


def _check(width: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    for name, number in (("width", width), ("kernel", kernel), ("stride", stride), ("dilation", dilation)):
        if number < 1:
            raise UsageError(f"a {name} of {number} was given; it is a whole number from 1 on.")
    if padding < 0:
        raise UsageError(f"a padding of {padding} was given; it is a whole number from 0 on.")


def _pixels(count: int) -> str:
    return f"{count} pixel" if count == 1 else f"{count} pixels"
