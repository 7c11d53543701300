"""Every network of the canon. Importing this package registers all families."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from convatlas.errors import UsageError, did_you_mean
from convatlas.layers.init import INITIALISATIONS, initialise
from convatlas.models import (
    alexnet,
    all_cnn,
    bagnet,
    bn_inception,
    cifar100_study,
    deeply_supervised,
    densenet,
    efficientnet,
    fractalnet,
    googlenet,
    highway,
    inception_resnet_v2,
    inception_v3,
    inception_v4,
    lenet,
    mcdnn,
    mnasnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    nas,
    nasnet,
    nin,
    preact,
    resnet,
    resnext,
    senet,
    shufflenet_v2,
    simpnet,
    simpnet_resnet32,
    speedrun,
    squeezenet,
    stochastic_depth,
    vgg,
    wide_resnet,
    zfnet,
)
from convatlas.registry import Spec, find, list_models, specs
from convatlas.weights import take

__all__ = [
    "alexnet",
    "all_cnn",
    "bagnet",
    "bn_inception",
    "cifar100_study",
    "create_model",
    "deeply_supervised",
    "densenet",
    "efficientnet",
    "find",
    "fractalnet",
    "googlenet",
    "highway",
    "inception_resnet_v2",
    "inception_v3",
    "inception_v4",
    "lenet",
    "list_models",
    "mcdnn",
    "mnasnet",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3",
    "nas",
    "nasnet",
    "nin",
    "overrides",
    "preact",
    "resnet",
    "resnext",
    "senet",
    "shufflenet_v2",
    "simpnet",
    "simpnet_resnet32",
    "specs",
    "speedrun",
    "squeezenet",
    "stochastic_depth",
    "vgg",
    "wide_resnet",
    "zfnet",
]


def create_model(
    name: str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    *,
    init: str | None = None,
    init_batch: Tensor | None = None,
    init_options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> nn.Module:
    """Build the network of that name, in training mode.

    Args:
        name: as `list_models` gives it.
        num_classes: the spec's own number if None; 0 leaves the classifier out.
        in_channels: the spec's own number if None.
        weights: "torchvision" or "timm" for official weights of ImageNet, fetched at the first use; or a file for
            `convatlas.weights.load_weights`. The classifier is left out, and stays freshly drawn, only if
            `num_classes` asks for others than the weights have; the first convolution is adapted as timm does it only
            if `in_channels` does.
        init: how the weights are drawn, a name of `convatlas.layers.init.INITIALISATIONS`; as the family starts if
            None. A family may have names of its own besides (`overrides` lists `init` then).
        init_batch: images (N, in_channels, H, W) for initialisations that look at data.
        init_options: further arguments of the initialisation, such as `{"std": 0.1}`.
        settings: what else the network's constructor takes; `overrides` lists it.

    Raises:
        UsageError: for an unknown name or setting, or a value that cannot be.
        BadCheckpoint: for weights that are damaged or do not fit.
        ResourceError: for official weights that cannot be had.

    Examples:
        >>> create_model("lenet5", num_classes=26).num_classes
        26
    """
    spec = find(name)
    known = overrides(spec)
    if init is not None and init not in INITIALISATIONS and "init" in known:
        settings, init = settings | {"init": init}, None
    for setting in settings:
        if setting not in known:
            raise UsageError(
                f"{name} has no setting {setting!r}.{did_you_mean(setting, known)} "
                f"It has: {', '.join(known)}."
            )
        value = settings[setting]
        numbers = cast(Sequence[object], value) if isinstance(value, (list, tuple)) else (value,)
        if any(isinstance(number, float) and math.isnan(number) for number in numbers):
            raise UsageError(
                f"{name} with {setting}={value!r} cannot be built: a number is expected, not nan."
            )
    classes = spec.classes if num_classes is None else num_classes
    channels = spec.channels if in_channels is None else in_channels
    if not (_is_count(classes) and _is_count(channels)) or classes < 0 or channels < 1:
        raise UsageError(
            f"{name} with {classes!r} classes and {channels!r} input channels cannot be built: "
            "whole numbers are expected."
        )
    try:
        model = spec.build(num_classes=max(classes, 1), in_channels=channels, **settings)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError, OverflowError) as error:
        raise UsageError(f"{name} cannot be built with {settings}: {error}.") from error
    if any(parameter.numel() == 0 for parameter in model.parameters()):
        raise UsageError(f"{name} with {settings} has layers without weights; larger settings are expected.")
    if init is not None:
        initialise(model, init, batch=init_batch, **(init_options or {}))
    elif init_batch is not None or init_options:
        raise UsageError(
            f"a batch or options for the initialisation of {name} came without its name; give init=."
        )
    if weights is not None:
        head = "keep" if num_classes is None else "fit"
        take(model, weights, spec.peers, name, head=head, fold=in_channels is not None)
    if classes == 0:
        model.reset_classifier(0)  # pyright: ignore[reportCallIssue]
    return model


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def overrides(spec: Spec) -> list[str]:
    """Names of the settings that `create_model` takes for this network, besides classes and channels."""
    parameters = inspect.signature(spec.build).parameters.values()
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return [name for name in named if name not in ("num_classes", "in_channels")]
