"""What a verb is asked about: `resolve("vgg16")`, `"timm:dla34"`, `"net.py:make_net"` or a run's folder, as a network.

| written | the network |
|---|---|
| `vgg16` | of the canon |
| `torchvision:swin_t` | of torchvision, not its weights |
| `timm:dla34` | of timm, where that is installed, not its weights |
| `path/net.py:make_net` | what a function, a class or a module in a file of the user's gives |
| `runs/digits` | of a run, with the size of its preprocessing |

A network is built without content where its constructor allows that: first with all tensors on the meta device, then
with weights alone there, then as it is. Networks that are not of the canon are not registered in it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from convatlas.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from convatlas.registry import Spec

Shape = tuple[int, ...]
Origin = Literal["canon", "torchvision", "timm", "file", "run"]
HELP = "A network of `convatlas list`, torchvision:NAME, timm:NAME, FILE.py:FUNCTION, or the folder of a run."


@dataclass(frozen=True, slots=True)
class Target:
    """A network and the input it is asked about: `input_shape` is (C, H, W), or whatever it takes, without batch.

    `model` may lie on the meta device. `spec` is the canon's, with the paper's figures; None elsewhere.
    """

    name: str
    model: nn.Module
    input_shape: Shape
    spec: Spec | None
    origin: Origin


@dataclass(frozen=True, slots=True)
class Wish:
    """How the network is to differ from what it is by itself; None and empty: as it is."""

    image_size: int | None = None
    channels: int | None = None
    classes: int | None = None
    input_shape: Shape | None = None
    options: Mapping[str, Any] | None = None
    real: bool = False

    def refuse(self, name: str, why: str, *fields: str) -> None:
        """Raise `UsageError` if one of these was asked for."""
        given = {"channels": self.channels, "classes": self.classes, "options": self.options or None}
        for field in fields:
            if given[field] is not None:
                raise UsageError(f"{name} cannot be given other {field}: {why}")

    def shape(self, channels: int, side: int) -> Shape:
        """The input of a network of images that is at home with these."""
        return self.input_shape or (self.channels or channels, *(self.image_size or side,) * 2)


def resolve(
    text: str,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    input_shape: Shape | None = None,
    options: Mapping[str, Any] | None = None,
    real: bool = False,
) -> Target:
    """The network that `text` names; see the table at this file's head.

    Args:
        text: as on the command line.
        image_size: side of a square image in pixels; the network's own if None.
        channels: of the image; the network is built for them where it can be.
        classes: the same for the number of classes.
        input_shape: instead of size and channels, without batch: (1, 16000) for a network of sound.
        options: settings of the constructor, by name.
        real: build it with content; a run then has its best weights, everything else those it starts from.

    Raises:
        UsageError: there is no such network, or it cannot be built so.
        BadCheckpoint: the run's files are damaged.
    """
    if input_shape is not None and (image_size is not None or channels is not None):
        raise UsageError(
            "an input shape says size and channels already; leave --image-size and --channels out."
        )
    wish = Wish(image_size, channels, classes, input_shape, options, real)
    source, colon, name = text.partition(":")
    if colon and source == "torchvision":
        return _torchvision(name, wish)
    if colon and source == "timm":
        return _timm(name, wish)
    if re.search(r"\.py(:|$)", text):
        return _file(text, wish)
    from convatlas.models import list_models

    if text in list_models():
        return _canon(text, wish)
    if Path(text).is_dir():
        return _run(text, wish)
    raise UsageError(_unknown(text))


def parse_shape(text: str) -> Shape:
    """What `--input-shape` says: "3,224,224" is (3, 224, 224). Raises `UsageError`.

    Examples:
        >>> parse_shape("1,16000"), parse_shape("3x16x112x112")
        ((1, 16000), (3, 16, 112, 112))
    """
    words = re.split(r"\s*[,x]\s*", text.strip(" ()"))
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(
            f"--input-shape {text!r}: positive whole numbers are expected, such as 3,224,224; the batch is left out."
        )
    return tuple(int(word) for word in words)


def build(make: Callable[[], nn.Module], *, real: bool = False) -> nn.Module:
    """What `make` gives, with as little content as its constructor allows; random generators stay as they were.

    An error is the one that it raises when it is built as it is.
    """
    from convatlas.layers.blueprint import blueprint, outline
    from convatlas.randomness import preserved

    for light in () if real else (blueprint, outline):
        with preserved(), warnings.catch_warnings(), light():
            warnings.filterwarnings(
                "ignore", ".*copying from a non-meta parameter"
            )  # weights that make() loads
            try:
                return make()
            except Exception:  # noqa: S112 - whatever it is, the last attempt tells
                continue
    with nullcontext() if real else preserved():
        return make()


def _unknown(text: str) -> str:
    """Nothing has that name: what has nearly that name, and what else a name can be."""
    import torchvision

    from convatlas.models import list_models

    canon, elsewhere = list_models(), torchvision.models.list_models()
    if text in elsewhere:
        return f"the canon has no network {text!r}, but torchvision has: torchvision:{text}."
    near = did_you_mean(text, [*canon, *(f"torchvision:{name}" for name in elsewhere)])
    return (
        f"there is no network {text!r}.{near} `convatlas list` prints all {len(canon)}; torchvision:NAME, timm:NAME, "
        "FILE.py:FUNCTION and the folder of a run are networks too."
    )


# --- where networks come from ---------------------------------------------------------------------------------


def _canon(name: str, wish: Wish) -> Target:
    from convatlas.models import create_model, find

    spec = find(name)
    if wish.input_shape and len(wish.input_shape) != 3:
        raise UsageError(f"{name} takes images; an input shape such as 3,224,224 is expected.")
    channels = wish.input_shape[0] if wish.input_shape else wish.channels
    model = build(
        lambda: create_model(name, wish.classes, channels, **dict(wish.options or {})), real=wish.real
    )
    return Target(name, model, wish.shape(spec.channels, spec.image), spec, "canon")


def _run(text: str, wish: Wish) -> Target:
    from convatlas.infer.run import SPEC, Run
    from convatlas.models import create_model, find
    from convatlas.train.run import RunFolder
    from convatlas.train.saved_spec import SavedSpec

    wish.refuse(text, "a run's network is as it was trained.", "channels", "classes", "options")
    if wish.real:
        run = Run.load(text, device="cpu")
        saved, model = run.spec, run.model
    else:
        saved = SavedSpec.read(RunFolder.open(text).best / SPEC)
        model = build(lambda: create_model(saved.model, **saved.options))
    prepared = saved.preprocessing
    own = (prepared.channels, *prepared.size)
    shape = wish.shape(prepared.channels, prepared.size[0]) if wish.image_size or wish.input_shape else own
    return Target(text, model, shape, find(saved.model), "run")


# Where torchvision's constructors want to know the side of the image, and under which name.
_SIDED = {"vit_": "image_size", "maxvit_": "input_size"}


def _torchvision(name: str, wish: Wish) -> Target:
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
    model = _made(f"torchvision:{name}", lambda: builder(**settings), wish)
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


def _timm(name: str, wish: Wish) -> Target:
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
    model = _made(f"timm:{name}", lambda: timm.create_model(name, **settings), wish)
    shape = wish.input_shape or (
        wish.channels or channels,
        *((wish.image_size,) * 2 if wish.image_size else (height, width)),
    )
    return Target(f"timm:{name}", model, shape, None, "timm")


def _made(name: str, make: Callable[[], nn.Module], wish: Wish) -> nn.Module:
    """`build`, where what a constructor does not like is a wish of the user's."""
    try:
        return build(make, real=wish.real)
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
        wishes = dict(wish.options or {}) or "these settings"
        raise UsageError(f"{name} cannot be built with {wishes}: {error}.") from error


def _file(text: str, wish: Wish) -> Target:
    from convatlas.cli.user_file import read, takes

    make, name = read(text)
    settings = dict(wish.options or {})
    for keyword, value in (("num_classes", wish.classes), ("in_channels", wish.channels)):
        if value is not None and takes(make, keyword):
            settings.setdefault(keyword, value)
        elif keyword == "num_classes" and value is not None:
            raise UsageError(f"{name} takes no num_classes, so --classes cannot be handed on; leave it out.")
    model = build(lambda: make(**settings), real=wish.real)
    return Target(name, model, wish.input_shape or _guessed_shape(name, model, wish), None, "file")


def _guessed_shape(name: str, model: nn.Module, wish: Wish) -> Shape:
    """The channels of the first convolution, and 224 pixels; the inputs of a network of linear layers.

    Raises `UsageError` where the weights do not say it.
    """
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return wish.shape(module.in_channels, 224)
        if isinstance(module, (nn.Conv1d, nn.Conv3d)):
            break
    else:
        first = next((module for module in model.modules() if isinstance(module, nn.Linear)), None)
        if first is not None and wish.image_size is None and wish.channels is None:
            return (first.in_features,)
        if wish.image_size is not None:
            return wish.shape(3, 224)
    raise UsageError(
        f"the layers of {name} do not say what it takes; say it without the batch: --input-shape 3,224,224."
    )
