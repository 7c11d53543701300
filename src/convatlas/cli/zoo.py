"""Networks of torchvision and timm by their names there: the size they were published for, not their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convatlas.cli.wish import Shape, Target, Wish, made
from convatlas.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

# Where torchvision's constructors want to know the side of the image, and under which name.
_SIDED = {"vit_": "image_size", "maxvit_": "input_size"}


def of_torchvision(name: str, wish: Wish) -> Target:
    """The classifier, segmenter, detector or video network of that name. Raises `UsageError`."""
    import inspect

    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise UsageError(
            f"torchvision has no network {name!r}.{did_you_mean(name, known)} It has {len(known)}; "
            "`python -c 'import torchvision; print(torchvision.models.list_models())'` prints them."
        )
    wish.refuse(
        f"torchvision:{name}",
        "torchvision's constructors have no such setting; change the first layer in a function of your own and "
        "give FILE.py:FUNCTION.",
        "channels",
    )
    builder = models.get_model_builder(name)
    settings: dict[str, Any] = {"weights": None, **(wish.options or {})}
    if "weights_backbone" in inspect.signature(builder).parameters:
        settings["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        settings.setdefault("init_weights", True)  # it warns where this is left open
    if wish.classes is not None:
        settings["num_classes"] = wish.classes
    for start, setting in _SIDED.items():
        if name.startswith(start) and wish.image_size:
            side = wish.image_size
            settings.setdefault(setting, side if setting == "image_size" else (side, side))
    model = made(f"torchvision:{name}", lambda: builder(**settings), wish)
    return Target(f"torchvision:{name}", model, _torchvision_shape(name, model, wish), None, "torchvision")


def _torchvision_shape(name: str, model: nn.Module, wish: Wish) -> Shape:
    """What the network was published with: the first of its weights say it; a ViT is built for one size alone."""
    from torchvision import models

    if wish.input_shape:
        return wish.input_shape
    presets = list(models.get_model_weights(name))
    settings: Mapping[str, Any] = getattr(presets[0].transforms, "keywords", {}) if presets else {}
    crop = settings.get("crop_size", settings.get("resize_size", 224))
    side = getattr(model, "image_size", None) or (max(crop) if isinstance(crop, tuple) else crop)
    module = type(model).__module__
    if ".detection" in module:
        side = 800  # the shorter side that the detectors bring their images to
    channels, height, width = wish.shape(3, side)
    return (channels, 16, height, width) if ".video" in module else (channels, height, width)


def of_timm(name: str, wish: Wish) -> Target:
    """The network of that name with the input of its default weights. Raises `UsageError`, also without timm."""
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(f"timm:{name} needs timm, which is not installed: pip install timm.") from None
    if not timm.is_model(name):
        raise UsageError(
            f"timm has no network {name!r}.{did_you_mean(name.partition('.')[0], timm.list_models())} "
            "`python -c 'import timm; print(timm.list_models())'` prints them."
        )
    settings: dict[str, Any] = {"pretrained": False, **(wish.options or {})}
    own = timm.get_pretrained_cfg(name)
    channels, height, width = own.input_size if own else (3, 224, 224)
    if wish.input_shape and len(wish.input_shape) == 3:
        settings["in_chans"] = wish.input_shape[0]
    if wish.channels is not None:
        settings["in_chans"] = wish.channels
    if wish.classes is not None:
        settings["num_classes"] = wish.classes
    if wish.image_size and own and own.fixed_input_size:
        settings.setdefault("img_size", wish.image_size)
    model = made(f"timm:{name}", lambda: timm.create_model(name, **settings), wish)
    own_sides = (wish.channels or channels, height, width)
    shape = wish.input_shape or (wish.shape(channels, height) if wish.image_size else own_sides)
    return Target(f"timm:{name}", model, shape, None, "timm")
