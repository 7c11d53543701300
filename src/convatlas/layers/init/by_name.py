"""Every initialisation by its name: `initialise(network, "lsuv", batch=images)`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from convatlas.errors import UsageError, did_you_mean
from convatlas.layers.init.data_dependent import data_dependent
from convatlas.layers.init.fixup import fixup
from convatlas.layers.init.in_order import all_or_nothing
from convatlas.layers.init.lsuv import lsuv
from convatlas.layers.init.orthogonal import orthogonal
from convatlas.layers.init.random_walk import random_walk
from convatlas.layers.init.variance import constant, he, small_gaussian, xavier
from convatlas.layers.init.whitening import whitening

INITIALISATIONS: Mapping[str, Callable[..., None]] = {
    "constant": constant,
    "small-gaussian": small_gaussian,
    "xavier": xavier,
    "xavier-normal": partial(xavier, distribution="normal"),
    "xavier-fan-in": partial(xavier, distribution="normal", fan="in"),
    "glorot": xavier,
    "he": partial(he, fan="out"),
    "he-fan-in": partial(he, fan="in"),
    "orthogonal": orthogonal,
    "random-walk": random_walk,
    "lsuv": lsuv,
    "data-dependent": data_dependent,
    "data-dependent-pca": partial(data_dependent, filters="pca"),
    "data-dependent-kmeans": partial(data_dependent, filters="kmeans"),
    "fixup": fixup,
    "whitening": whitening,
}


def initialise(network: nn.Module, name: str, *, batch: Tensor | None = None, **options: Any) -> None:
    """Give all convolutions and linear layers of a network new weights, drawn from torch's generator.

    Biases become 0, or what a layer's paper asks for; norms stay as they are, except that "fixup" takes BatchNorm out.
    "whitening" changes the first convolution and nothing else.

    Args:
        network: any module; it is changed in place.
        name: a key of `INITIALISATIONS`.
        batch: images (N, C, H, W) for those that look at data.
        options: further arguments of the function of that name, such as `std` of "small-gaussian".

    Raises:
        UsageError: for an unknown name or option, a batch that is missing or not asked for, or a network that this
            initialisation is not for.
        NumericError: where looking at these images leads to outputs that are not finite, or far too large.

    After an error the network is as it was, if the initialisation looks at images.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> initialise(layer, "constant", value=0.5)
        >>> layer.weight.tolist(), layer.bias.tolist()
        ([[0.5, 0.5], [0.5, 0.5]], [0.0, 0.0])
    """
    if name not in INITIALISATIONS:
        raise UsageError(
            f"there is no initialisation {name!r}.{did_you_mean(name, INITIALISATIONS)} "
            f"Known: {', '.join(INITIALISATIONS)}."
        )
    function = INITIALISATIONS[name]
    parameters = inspect.signature(function).parameters
    known = [each for each, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    for option, value in options.items():
        if option not in known:
            raise UsageError(
                f"initialisation {name!r} has no option {option!r}.{did_you_mean(option, known)} "
                f"It has: {', '.join(known) or 'none'}."
            )
        if isinstance(parameters[option].default, float) and not _is_finite(value):
            raise UsageError(
                f"{option}={value!r} came for initialisation {name!r}; a finite number is expected."
            )
    if "batch" not in parameters:
        if batch is not None:
            raise UsageError(f"initialisation {name!r} looks at no images; leave the batch out.")
        function(network, **options)
    elif batch is None:
        raise UsageError(
            f"initialisation {name!r} looks at images: give a batch of them, initialise(network, {name!r}, batch=x) or "
            f"create_model(..., init={name!r}, init_batch=x)."
        )
    elif not isinstance(batch, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(
            f"a batch of images is expected, a tensor (N, C, H, W), not {type(batch).__name__} {batch!r:.60}."
        )
    else:
        with all_or_nothing(network, batch):
            function(network, batch, **options)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
