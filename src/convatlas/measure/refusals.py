"""Why a network does not take an input: where its pass failed, what was said there, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from convatlas.errors import ConvAtlasError, UsageError

# What an error of the pass says -> what to do.
_ADVICE = (
    (("Output size is too small", "size can't be greater", "output size is too small", "should be greater than"),
     "the image is too small for the network: give it a larger one"),
    (("required keyword-only argument",),
     "inputs are handed over by position alone: give that argument a default, or wrap the network in a module that "
     "sets it"),
    (("missing", "required positional argument"),
     "the network takes several arguments: give a list with a shape for each, such as [(3, 64, 64), (10,)]"),
    (("meta tensor", "Tensor.item()", "is_nonzero", "data-dependent", "equal' on", "on meta", "meta device",
      "register_meta", "unallocated storage"),
     "the network reads the values of its input, or of a tensor of its own, and a pass without values cannot follow: "
     "take the decision out of `forward`, or measure its parts"),
    (("'indices' to have one of the following scalar types",),
     "an Embedding takes whole numbers, and a shape stands for broken ones: from Python give the tokens, as in "
     "`measure(network, torch.zeros(1, 12, dtype=torch.long))`; the command line cannot say them"),
    (("(unbatched)", "expected 4D input", "expected 5D input"),
     "a shape is given without the batch, such as (3, 224, 224)"),
    (("channels, but got", "Invalid channel dimensions"),
     "the image has another number of channels than the network expects"),
    (("shapes cannot be multiplied", "mat1 and mat2", "invalid for input of size", "Wrong image"),
     "the network expects images of another size"),
)  # fmt: skip


@contextmanager
def refusals(
    model: nn.Module, inputs: Sequence[Tensor], place: Callable[[], str] = lambda: ""
) -> Generator[None]:
    """Say of a pass over a batch that fails where it did, `place()`, and what to do, as a `UsageError`.

    A lack of memory is no fault of the images, and passes.
    """
    try:
        yield
    except ConvAtlasError:
        raise
    except Exception as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
            raise
        name, said = type(model).__name__, str(error).strip().splitlines() or [type(error).__name__]
        shapes = " and ".join(str(tuple(tensor.shape[1:])) for tensor in inputs)
        advice = next((text for words, text in _ADVICE if any(word in str(error) for word in words)), "")
        raise UsageError(
            f"{name} cannot take an image of shape {shapes}; in {place() or name!r}: {said[0].rstrip('.')}"
            f"{f' ({advice})' if advice else ''}."
        ) from error
