"""A classifier over a larger image: its linear layers become convolutions, and one pass gives a map of logits.

The first linear layer sees all of a map, h x w places with C channels; the same weights are a convolution with an h x w
kernel, which a larger map lets slide. Further linear layers see one place: 1x1 convolutions. A mean over the whole map
is a mean over a window that slides. So one pass over a larger image gives what the network would say at every place,
without computing the overlap of its windows again and again.

At the native size the map has one place, and it is the network's answer. On a larger image a place is what the network
would say about the crop there, if its convolutions were not padded; with padding the crop has a border of zeros that
the large image does not have. What looks at the whole image (squeeze and excitation) goes on to do so.

Sources: Sermanet et al., "OverFeat", 2013, section 3.5; Simonyan & Zisserman, "Very Deep Convolutional Networks", 2014,
section 3.2; Long et al., "Fully Convolutional Networks", 2015, section 3.1.
"""

from __future__ import annotations

import copy as copies
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convatlas.errors import UsageError
from convatlas.hooks import eval_mode
from convatlas.measure.arithmetic.convert import converted
from convatlas.measure.arithmetic.head import Head, find_head
from convatlas.measure.trace import tensors_in


class DenseClassifier(nn.Module):
    """Images (N, C, H, W) -> logits (N, num_classes, rows, columns), one for every place of the classifier's window.

    It runs in evaluation mode, whatever the network's mode is, and gives that mode back.

    Attributes:
        network: the classifier, whose layers before the head are run as they are.
        head: the head as convolutions, layer by layer.
        native: sides (H, W) of the window.
        stride: pixels from one place to the next, (vertical, horizontal).
    """

    def __init__(self, network: nn.Module, head: nn.Sequential, found: Head) -> None:
        super().__init__()
        self.network, self.head = network, head
        self.native, self.stride = found.native, found.stride
        self._number = found.calls[0].number
        self._skipped = [(call.name, call.output) for call in found.calls]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_classes, rows, columns).

        Raises `UsageError` for images smaller than the native size.
        """
        if any(side < least for side, least in zip(x.shape[-2:], self.native, strict=True)):
            raise UsageError(
                f"images of {tuple(x.shape[-2:])} came; the network's window is {self.native}, so give at least that."
            )
        with eval_mode(self):
            return self.head(self.last_map(x))

    def last_map(self, x: Tensor) -> Tensor:
        """What the head receives: (N, C, H, W) -> (N, channels, h, w)."""
        with eval_mode(self.network), _UpToHead(self._number, self._skipped) as pass_:
            self.network(x)
        if pass_.last_map is not None:
            return pass_.last_map
        raise UsageError(
            f"{type(self.network).__name__} takes another way for an image of {tuple(x.shape[-2:])} than for its "
            "native one; its head was not reached."
        )

    def window(self, row: int, column: int) -> tuple[int, int, int, int]:
        """The pixels that a place of the map speaks of, as a box xyxy: the crop at this place."""
        y, x = row * self.stride[0], column * self.stride[1]
        return x, y, x + self.native[1], y + self.native[0]

    def heat_map(self, x: Tensor, label: int) -> Tensor:
        """Probability of one class at every place: (N, C, H, W) -> (N, rows, columns)."""
        return self(x).softmax(1)[:, label]


def dense(
    model: nn.Module, image: tuple[int, int, int] = (3, 224, 224), *, copy: bool = False
) -> DenseClassifier:
    """A classifier made fully convolutional, for images of its native size (C, H, W) and larger ones.

    Any network that goes from one map by pooling or flattening to linear layers will do, written as modules or as
    functions; activations, dropout (which evaluation leaves out) and BatchNorm may stand between. The weights are the
    network's own, so nothing of it changes and nothing is held twice.

    Args:
        model: gives logits (N, num_classes).
        image: its native size; the head's first kernel depends on it.
        copy: work on a copy of the network, with weights of its own.

    Raises:
        UsageError: if the head is none of that, with what stands in the way.

    Examples:
        >>> import torch
        >>> features = [nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        >>> lenet = nn.Sequential(*features, nn.Linear(6 * 4 * 4, 20), nn.ReLU(), nn.Linear(20, 10))
        >>> over = dense(lenet, (1, 12, 12))
        >>> over.head
        Sequential(
          (linear1): SlidingLinear(6, 20, kernel_size=(4, 4))
          (relu): Pointwise(relu)
          (linear2): SlidingLinear(20, 10, kernel_size=(1, 1))
        )
        >>> tuple(over(torch.zeros(1, 1, 32, 20)).shape), over.window(1, 2)
        ((1, 10, 11, 5), (4, 2, 16, 14))
    """
    if copy:
        model = copies.deepcopy(model)
    found = find_head(model, image)
    return DenseClassifier(model, converted(model, found), found)


# --- the network up to its head ---------------------------------------------------------------------------------


class _UpToHead(TorchFunctionMode):
    """Keeps what the head's first call receives, and makes none of its calls.

    They return what they returned on meta, tensors with a shape and no content. So nothing is computed twice, and
    every module still ends its call, for those who watch.

    Args:
        number: the how-many-th call of its name the head's first is.
        skipped: the head's calls, by name, and what each returned.
    """

    def __init__(self, number: int, skipped: list[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.left, self.skipped = number, skipped
        self.done = 0
        self.last_map: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.done == len(self.skipped) or getattr(func, "__name__", "") != self.skipped[self.done][0]:
            return func(*args, **kwargs)
        if self.done == 0 and self.left > 0:
            output = func(*args, **kwargs)
            self.left -= bool(tensors_in(output))
            return output
        if self.last_map is None:
            self.last_map = args[0] if args else kwargs["input"]
        self.done += 1
        return self.skipped[self.done - 1][1]
