"""A recipe: everything about a training that a paper would print, as one frozen record."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from convatlas.data import Augment, Split
from convatlas.data.colour import Components, components
from convatlas.data.dataset import VAL_SHARE
from convatlas.errors import BadCheckpoint, DataError, UsageError, did_you_mean
from convatlas.files import read_untrusted
from convatlas.layers.init import INITIALISATIONS
from convatlas.train import schedule

Number = tuple[float, ...]
MOVED = {"precision": "--precision", "channels_last": "--tune full"}  # how it is computed: see `speed.py`
Named = tuple[tuple[str, float], ...]
Options = tuple[tuple[str, bool | float], ...]
STARTS = [
    name for name in INITIALISATIONS if name != "fixup"
]  # which exchanges layers: build such a network first
MAX_TOML_BYTES = 2**14  # parsing a dotted key takes time with the square of its length


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train, whatever the network and the images.

    Every field can be replaced by `--set field=value` or in a TOML file. Rates and shares are plain
    numbers; `milestones`, `levels` and `warmup` are shares of the whole training, in [0, 1].
    """

    name: str = "custom"
    source: str = ""  # paper and section

    # length
    epochs: int = 20
    batch_size: int = 64
    accumulate: int = 1  # a batch is worked through in this many pieces

    # optimiser
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    muon_momentum: float = 0.95  # of the matrices; what is none moves by SGD with `momentum`
    muon_steps: int = 5  # of Newton and Schulz's iteration
    muon_keeps_norm: bool = False  # filters are brought back to the norm sqrt(K) at every step
    rates: Named = ()  # (pattern of parameters' names, factor of the rate); the first that fits holds
    weight_decay: float = 0.0
    decay_all: bool = True  # False: biases and normalisation are not decayed
    clip_norm: float = 0.0  # 0: gradients are not clipped

    # schedule
    schedule: Literal["constant", "cosine", "linear", "onecycle", "steps", "levels"] = "constant"
    warmup: float = 0.0
    warmup_start: float = 0.0  # first factor of the warm-up
    milestones: Number = ()
    gamma: float = 0.1
    levels: tuple[tuple[float, float], ...] = ()  # (progress at which it starts, factor)

    # loss
    loss: Literal["cross-entropy", "map"] = "cross-entropy"
    label_smoothing: float = 0.0
    balance: Literal["none", "sampling", "weights"] = "none"

    # images
    image_size: int = 0  # 0: the network's own
    resize: Literal["crop", "pad", "squash"] = "crop"
    crop_ratio: float = 0.875
    mean: Number = ()  # one number, or one a channel; empty: of the training images
    std: Number = ()

    # augmentation, the fields of `Augment`
    crop: Literal["none", "shift", "resized", "scale-jitter"] = "none"
    shift_px: int = 4
    resized_scale: tuple[float, float] = (0.35, 1.0)
    scale_jitter: tuple[int, int] = (256, 512)
    edge: Literal["zero", "reflect"] = "zero"
    flip: bool = False
    alternate_flip: bool = False
    affine: Number = ()  # empty, or largest rotation in degrees, change of scale, shear in degrees
    trivial: bool = False
    pca: float = 0.0  # standard deviation of the colour shift along the training set's components
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    sizes: tuple[tuple[float, int], ...] = ()  # (progress from which on, side in px): smaller training images
    shrink: Literal["window", "resample"] = "window"  # how they get smaller

    # network
    network: str = ""  # the one that the recipe is for, if no other is named; empty: chosen by the images
    options: Options = ()  # settings of that network, which --option replaces
    init: str = ""  # how weights are drawn, a name of `layers.init`; empty: as the family starts
    init_images: int = 500  # training images that an initialisation may look at
    dropout: float = -1.0  # below 0: the network's own
    body_lr: float = (
        1.0  # factor of the rate for all but the classifier; 0: held, with BatchNorm as in evaluation
    )
    freeze: str = ""  # what is held: up to and with the stage of this name, or the first so many stages
    batch_norm: Literal["local", "sync"] = (
        "local"  # with several processes: statistics of each share, or of all
    )
    hold_from: Named = ()  # (pattern of parameters' names, progress from which on they are held)

    # what is kept and when to stop
    val_share: float = VAL_SHARE  # held out where the data have no val and nobody says how much
    ema: float = 0.0  # decay; 0: no average
    validate_every: int = 1  # epochs; the last one is always validated
    early_stopping: int = 0  # epochs without a better validation score; 0: never

    def __post_init__(self) -> None:
        for field, (low, high) in _RANGES.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise UsageError(f"{field} = {value!r} is outside [{low}, {high}].")
        for field, (low, high) in _PAIRS.items():
            pair = getattr(self, field)
            if not low <= pair[0] <= pair[1] <= high:
                raise UsageError(
                    f"{field} = {pair!r}: two numbers in rising order in [{low}, {high}] are expected."
                )
        if self.affine and len(self.affine) != 3:
            raise UsageError(f"affine = {self.affine!r}: degrees, change of scale and shear are expected.")
        if self.schedule == "levels" and (not self.levels or self.levels[0][0] != 0):
            raise UsageError(
                "schedule = 'levels' needs levels that start at progress 0, e.g. [[0, 1], [0.5, 0.1]]."
            )
        if self.accumulate > self.batch_size:
            raise UsageError(f"accumulate = {self.accumulate} is more than batch_size = {self.batch_size}.")
        if any(std <= 0 for std in self.std):
            raise UsageError(f"std = {self.std}: numbers above 0 are expected.")
        if self.nesterov and not self.momentum:
            raise UsageError("nesterov needs a momentum above 0.")
        for field, (low, high) in _NAMED.items():
            for name, value in getattr(self, field):
                if not low <= value <= high:
                    raise UsageError(f"{field}: {value!r} for {name!r} is outside [{low}, {high}].")
        starts = [start for start, _ in self.sizes]
        if starts != sorted(set(starts)) or any(
            not (0 <= start <= 1 and 8 <= side <= 8192) for start, side in self.sizes
        ):
            raise UsageError(
                f"sizes = {self.sizes!r}: pairs (progress in [0, 1], side in px from 8) in rising order are expected, "
                "e.g. [[0, 24], [0.5, 32]]."
            )
        if self.init and self.init not in STARTS:
            raise UsageError(
                f"init = {self.init!r} is no start of a training.{did_you_mean(self.init, STARTS)} "
                f"Known: {', '.join(STARTS)}."
            )

    def rate(self, progress: float) -> float:
        """The learning rate at `progress` in [0, 1]."""
        return self.lr * self._schedule()(progress)

    def _schedule(self) -> schedule.Schedule:
        match self.schedule:
            case "constant":
                base = schedule.constant()
            case "cosine":
                base = schedule.cosine()
            case "linear":
                base = schedule.linear()
            case "onecycle":
                return schedule.onecycle(self.warmup or 0.3)
            case "steps":
                base = schedule.steps(self.milestones, self.gamma)
            case "levels":
                base = schedule.levels(self.levels)
        return schedule.warmed_up(base, self.warmup, self.warmup_start)

    def augment(self, train: Split, known: Components | None = None) -> Augment:
        """The recipe's augmentation; the colour shift is along the `known` components, or those of these images."""
        own: dict[str, Any] = dataclasses.asdict(self) | {"affine": self.affine or None}
        shared = {field.name: own[field.name] for field in dataclasses.fields(Augment) if field.name in own}
        if self.pca:
            shared["components"] = tuple(map(tuple, known)) if known else components(train)
        shared["sides"] = self.sides()
        return Augment(**shared)

    def sides(self) -> tuple[tuple[int, int], ...]:
        """`sizes` by epochs: (first epoch, side in pixels)."""
        return tuple((math.ceil(start * self.epochs - 1e-9), side) for start, side in self.sizes)

    def with_settings(self, settings: Mapping[str, Any]) -> Recipe:
        """The same recipe with fields replaced; text is read as the field's type.

        Raises `UsageError` for an unknown field (with the nearest ones) and for a value of a wrong type
        or outside its range.

        Examples:
            >>> Recipe().with_settings({"lr": "0.05", "flip": "true"}).lr
            0.05
        """
        return dataclasses.replace(self, **read_settings(settings))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for run.json."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(value: Any) -> Recipe:
        """The recipe that `to_json` gave. Raises `BadCheckpoint` if it is not one."""
        if not isinstance(value, dict):
            raise BadCheckpoint(f"a recipe is a table of settings, not {value!r}.")
        try:
            settings = {str(key): item for key, item in value.items() if key not in MOVED}
            return Recipe().with_settings(settings)
        except UsageError as error:
            raise BadCheckpoint(f"the recipe of this run cannot be read: {error}") from error


def read_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with their values as the fields' types. Raises `UsageError` as `with_settings` does."""
    hints = get_type_hints(Recipe)
    for key in settings:
        if key in MOVED:
            raise UsageError(
                f"{key} is no setting of a recipe: it says how the same arithmetic is computed. See {MOVED[key]}."
            )
        if key not in hints:
            raise UsageError(
                f"a recipe has no setting {key!r}.{did_you_mean(key, hints)} Known: {', '.join(sorted(hints))}."
            )
    return {key: _read(key, value, hints[key]) for key, value in settings.items()}


_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "val_share": (0, 0.9),
    "batch_size": (1, 1_000_000),
    "accumulate": (1, 1_000_000),
    "lr": (0, 1_000),
    "momentum": (0, 1),
    "weight_decay": (0, 10),
    "clip_norm": (0, 1e9),
    "warmup": (0, 1),
    "warmup_start": (0, 1),
    "gamma": (0, 1),
    "label_smoothing": (0, 0.999),
    "image_size": (0, 8192),
    "crop_ratio": (0.1, 1),
    "shift_px": (0, 4096),
    "pca": (0, 10),
    "erasing": (0, 1),
    "mixup": (0, 100),
    "cutmix": (0, 100),
    "dropout": (-1, 0.999),
    "body_lr": (0, 1_000),
    "ema": (0, 0.999999),
    "early_stopping": (0, 100_000),
    "validate_every": (1, 100_000),
    "muon_momentum": (0, 0.99999),
    "muon_steps": (1, 20),
    "init_images": (2, 100_000),
}
_NAMED: dict[str, tuple[float, float]] = {"rates": (0, 1e9), "hold_from": (0, 1)}
_PAIRS: dict[str, tuple[float, float]] = {
    "resized_scale": (0.001, 1),
    "scale_jitter": (1, 8192),
    "betas": (0, 0.99999),
}


def _read(key: str, value: Any, kind: Any) -> Any:
    """`value` as the field's type; text comes from a command line."""
    if isinstance(value, str) and kind is not str and get_origin(kind) is not Literal:
        value = _from_text(key, value, kind)
    if isinstance(kind, UnionType):
        kind = bool if isinstance(value, bool) else float
    if get_origin(kind) is Literal:
        if str(value) not in get_args(kind):
            known = ", ".join(get_args(kind))
            raise UsageError(
                f"{key} = {value!r} is not known.{did_you_mean(str(value), get_args(kind))} Known: {known}."
            )
        return str(value)
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{key} = {value!r}: a list is expected, e.g. {key}=[0.5, 0.75].")
        inner = get_args(kind)
        if inner[-1] is Ellipsis:
            return tuple(_read(key, item, inner[0]) for item in value)
        if len(value) != len(inner):
            raise UsageError(f"{key} = {value!r}: {len(inner)} values are expected.")
        return tuple(_read(key, item, of) for item, of in zip(value, inner, strict=True))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"{key} = {value!r}: {kind.__name__} is expected, not {type(value).__name__}.")
    return value


def _from_text(key: str, text: str, kind: Any) -> Any:
    """What a TOML file would hold after `key =`; so lists and booleans are written as there."""
    if len(text) > 10_000:
        raise UsageError(f"{key}: a value of {len(text):,} characters is too long.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        name = getattr(kind, "__name__", "a list")
        raise UsageError(f"{key} = {text!r}: {name} is expected.") from error
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a user's recipe file, unchecked: `Recipe.with_settings` checks them.

    Raises `UsageError` if the file is missing, larger than 16 KB or no TOML.
    """
    try:
        return tomllib.loads(read_untrusted(path, max_bytes=MAX_TOML_BYTES).decode())
    except (DataError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not a recipe in TOML: {error}") from error
