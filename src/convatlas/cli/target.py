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
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convatlas.cli import zoo
from convatlas.cli.wish import Shape, Target, Wish, build
from convatlas.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

__all__ = ["HELP", "Shape", "Target", "parse_shape", "resolve"]

HELP = "A network of `convatlas list`, torchvision:NAME, timm:NAME, FILE.py:FUNCTION, or the folder of a run."


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
        return zoo.of_torchvision(name, wish)
    if colon and source == "timm":
        return zoo.of_timm(name, wish)
    if re.search(r"\.py(:|$)", text):
        return _file(text, wish)
    from convatlas.models import list_models

    if text in list_models():
        return _canon(text, wish)
    if text and Path(text).is_dir():
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
