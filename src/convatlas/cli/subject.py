"""What `convatlas diagnose` looks at: a network with content, a batch of images with labels, the states of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convatlas.cli import target
from convatlas.errors import BadCheckpoint, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from convatlas.data import Data, Preprocessing, Split


@dataclass
class Subject:
    """A network and a batch for it.

    Attributes:
        name: as it was asked for.
        model: with content.
        images: (N, C, H, W), ready for the network, or whatever shape it takes.
        labels: (N,).
        told: one sentence for each thing that the reader has to know about network and batch.
        preprocessing: of the images, where there are any.
        shown: the first image as (H, W, C) uint8, where there is one.
        states: of a run: names and weights in the order of training, the network's own last.
        log: of a run: (step, norm of the whole gradient), from metrics.jsonl.
    """

    name: str
    model: nn.Module
    images: Tensor
    labels: Tensor
    told: list[str]
    preprocessing: Preprocessing | None = None
    shown: NDArray[np.uint8] | None = None
    states: list[tuple[str, Mapping[str, Tensor]]] = field(
        default_factory=list["tuple[str, Mapping[str, Tensor]]"]
    )
    log: list[tuple[int, float]] = field(default_factory=list["tuple[int, float]"])


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line says beside the target."""

    data: str | None = None
    batch: int = 16
    image_size: int | None = None
    channels: int | None = None
    classes: int | None = None
    options: Mapping[str, Any] | None = None
    init: str | None = None
    init_options: Mapping[str, Any] | None = None
    seed: int = 0
    input_shape: target.Shape | None = None


def subject(name: str, wish: Wish) -> Subject:
    """Network and batch for `name`, a target of `cli.target`. Raises what is wrong with either."""
    from convatlas.models import list_models

    if wish.init is None and wish.init_options:
        raise UsageError("--init-option is an option of an initialisation; name it by --init.")
    if name not in list_models() and Path(name).is_dir():
        return _of_run(name, wish)
    found = _with_noise(name, wish) if wish.data is None else _with_data(name, wish, wish.data)
    if wish.init is not None:
        _initialise(found, wish.init, wish)
    return found


# --- networks that have not been trained here -------------------------------------------------------------------


def _with_noise(name: str, wish: Wish) -> Subject:
    import torch

    from convatlas.measure.effective import noise

    found = _built(name, wish, wish.classes)
    shape = found.input_shape
    labels = _drawn_labels(_outputs(found.model, shape), wish)
    told = [
        f"{wish.batch} images of noise, N(0, 1), {'x'.join(map(str, shape))}, with labels drawn at random; give your "
        "own with --data."
    ]
    images = noise(shape, wish.batch, wish.seed).to(next(found.model.parameters(), torch.zeros(1)).dtype)
    return Subject(name, found.model, images, labels, told)


def _with_data(name: str, wish: Wish, where: str) -> Subject:
    from convatlas.api import open_data
    from convatlas.models import list_models

    data = open_data(where, seed=wish.seed)
    many = len(data.classes) > 1
    if name in list_models() and many and (wish.classes, wish.channels, wish.input_shape) == (None,) * 3:
        model, preprocessing = _as_for_training(name, data, wish)
    else:
        found = _built(name, wish, wish.classes or (len(data.classes) if many else None))
        model = found.model
        preprocessing = _prepared(name, data, found.input_shape)
    images, labels, shown = _batch(data.train, preprocessing, wish)
    outputs = _outputs(model, tuple(images.shape[1:]))
    told = [f"{len(images)} of the {len(data.train)} train images of {where}, without augmentation."]
    if not many:
        labels = _drawn_labels(outputs, wish, len(images))
        told.append("The images have no classes; labels are drawn at random.")
    elif len(data.classes) > outputs:
        raise UsageError(
            f"{where} has {len(data.classes)} classes, but {name} tells {outputs} apart; choose --classes."
        )
    return Subject(name, model, images, labels, told, preprocessing, shown)


def _built(name: str, wish: Wish, classes: int | None) -> target.Target:
    """The target with content; its weights are those that `convatlas train --seed` begins with."""
    import torch

    from convatlas.randomness import key, preserved

    with preserved():
        torch.manual_seed(key(wish.seed, "weights"))
        return target.resolve(
            name,
            image_size=wish.image_size,
            channels=wish.channels,
            classes=classes,
            input_shape=wish.input_shape,
            options=wish.options,
            real=True,
        )


def _as_for_training(name: str, data: Data, wish: Wish) -> tuple[nn.Module, Preprocessing]:
    """Network and preprocessing as `convatlas train` would choose them for these images."""
    import torch

    from convatlas.models import create_model
    from convatlas.randomness import key, preserved
    from convatlas.train.plan import check_wishes, plan

    settings = {"image_size": wish.image_size} if wish.image_size else {}
    check_wishes(name, "quick", settings, None, wish.options)
    decided = plan(data, name, settings=settings, seed=wish.seed, options=wish.options)
    with preserved():
        torch.manual_seed(key(wish.seed, "weights"))
        return create_model(name, **decided.options), decided.preprocessing


def _prepared(name: str, data: Data, shape: tuple[int, ...]) -> Preprocessing:
    """The middle of each picture in the network's size, normalised by mean and deviation of the train images."""
    from dataclasses import replace

    from convatlas.data import Preprocessing, statistics

    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UsageError(f"{name} takes {shape}, and no images of 1 or 3 channels; leave --data out.")
    plain = Preprocessing((shape[1], shape[2]), "crop", shape[0])
    mean, std = statistics(data.train, plain)
    return replace(plain, mean=mean, std=std)


def _initialise(found: Subject, init: str, wish: Wish) -> None:
    """Give the network other weights, from the same seed."""
    import inspect

    import torch

    from convatlas.layers.init import INITIALISATIONS, initialise
    from convatlas.randomness import key, preserved

    options = dict(wish.init_options or {})
    known = INITIALISATIONS.get(init)
    if known is not None and "batch" in inspect.signature(known).parameters:
        options["batch"] = found.images
    with preserved():
        torch.manual_seed(key(wish.seed, "weights"))
        initialise(found.model, init, **options)
    given = "".join(f", {name} = {value}" for name, value in (wish.init_options or {}).items())
    found.told.append(f"Weights by {init}{given}.")


# --- runs -------------------------------------------------------------------------------------------------------------


def _of_run(name: str, wish: Wish) -> Subject:
    from convatlas.api import Run, images_for

    for option, value in (
        ("--image-size", wish.image_size),
        ("--channels", wish.channels),
        ("--input-shape", wish.input_shape),
        ("--classes", wish.classes),
        ("--option", wish.options or None),
        ("--init", wish.init),
    ):
        if value is not None:
            raise UsageError(f"{name} is a run, and its network is as it was trained; leave {option} out.")
    run = Run.load(name, device="cpu")
    data = images_for(run, wish.data)
    role = "train" if len(data.train) else "test"
    split = data.train if role == "train" else data.test
    images, labels, shown = _batch(split, run.preprocessing, wish)
    told = [f"{len(images)} of the {len(split)} {role} images of {data.where}, without augmentation."]
    states = _states(run, told)
    log = [
        (int(line["step"]), float(line["grad_norm"]))
        for line in run.folder.metrics()
        if line.get("kind") == "train" and isinstance(line.get("grad_norm"), (int, float))
    ]
    return Subject(name, run.model, images, labels, told, run.preprocessing, shown, states, log)


def _states(run: Any, told: list[str]) -> list[tuple[str, Mapping[str, Tensor]]]:
    """The start, the checkpoints that were kept, and the best weights."""
    import torch

    from convatlas.files import whole
    from convatlas.models import create_model
    from convatlas.randomness import key, preserved
    from convatlas.train.checkpoint import MODEL
    from convatlas.weights import read_weights

    decided = run.folder.read_run()
    states: list[tuple[str, Mapping[str, Tensor]]] = []
    if decided.get("start", {}).get("kind", "scratch") == "scratch":
        with preserved():
            torch.manual_seed(key(decided["seed"], "weights"))
            states.append(("start", create_model(decided["model"], **decided["options"]).state_dict()))
    else:
        told.append("The run began with weights of others; its start is not among the states.")
    kept = run.folder.checkpoints
    for folder in sorted(kept.glob("step-*")) if kept.is_dir() else []:
        if not whole(folder):
            told.append(f"{folder.name} is damaged and was passed over.")
            continue
        step = int(folder.name.split("-")[1])
        if step or not states:
            states.append((f"step {step}", read_weights(folder / MODEL)))
    states.append((f"best, epoch {run.spec.epoch}", run.model.state_dict()))
    own = run.model.state_dict().keys()
    for name, state in states:
        if state.keys() != own:
            raise BadCheckpoint(f"{run.folder.path}: the weights of {name} are those of another network.")
    return states


# --- batches ------------------------------------------------------------------------------------------------------


def _batch(
    split: Split, preprocessing: Preprocessing, wish: Wish
) -> tuple[Tensor, Tensor, NDArray[np.uint8]]:
    """Images and labels drawn by the seed, and the first image as it is shown."""
    import numpy as np
    import torch

    from convatlas.errors import DataError
    from convatlas.randomness import generator

    count = min(wish.batch, len(split))
    if count < 2:
        raise DataError(f"there are {len(split)} images to look with; two or more are needed.")
    chosen = generator(wish.seed, "diagnose").permutation(len(split))[:count]
    fitted = torch.stack([preprocessing.fit(split.image(int(i))) for i in chosen])
    labels = torch.from_numpy(np.asarray(split.labels)[chosen])
    return preprocessing.normalise(fitted), labels, fitted[0].numpy().transpose(1, 2, 0)


def _outputs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """K of the logits (N, K). Raises `UsageError` for a network that gives something else."""
    from convatlas.measure.trace import trace

    output = trace(model, shape).output
    if output is None or output.ndim != 2:
        given = "no tensor" if output is None else f"a tensor of shape {tuple(output.shape)}"
        raise UsageError(
            f"{type(model).__name__} gives {given} for one image; a diagnosis needs logits (1, K) for a cross-entropy. "
            "Other losses: `convatlas.measure.gradients.gradients` takes any."
        )
    return output.shape[1]


def _drawn_labels(outputs: int, wish: Wish, count: int | None = None) -> Tensor:
    import torch

    from convatlas.randomness import generator

    drawn = generator(wish.seed, "labels").integers(0, outputs, count or wish.batch)
    return torch.from_numpy(drawn)
