"""Weights that were learnt for other classes, or for other channels, in a network of ours.

What cannot be taken over is replaced in the checkpoint by what the network was drawn with: its classifiers, where
the classes are others; and the first convolution is folded, where the channels are others. What is left must
align to the last name, as in `load_weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from torch import Tensor, nn

from convatlas.errors import BadCheckpoint, UsageError, did_you_mean
from convatlas.weights.align import Origin, absent_heads, fill, modern, names_of, read_any, surplus_heads
from convatlas.weights.official import LIBRARIES, find_official, is_library, read_official

Head = Literal["keep", "fit", "new"]


class WithClassifier(Protocol):
    """What is asked of a network: `Classifier` has it."""

    classifier_name: Any
    head: nn.Sequential
    auxiliary: nn.ModuleDict


@dataclass(frozen=True)
class Transferred:
    """What was done beside copying: names of the checkpoint that were left out, and names of ours that are new."""

    left_out: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    folded: str | None = None  # "3 -> 1", channels of the first convolution


def transfer(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    *,
    origin: Origin = "auto",
    head: Head = "fit",
    fold: bool = False,
    what: str | None = None,
) -> Transferred:
    """Fill a classifier with weights, all but what belongs to the old classes, or leave it and say why not.

    Args:
        model: the network, with its new classifiers drawn.
        source: as in `load_weights`.
        origin: as in `load_weights`.
        head: "keep" takes the classifier over, "new" leaves it out, auxiliary ones too; "fit" takes it over if it
            has as many classes.
        fold: adapt the first convolution from three channels to those of the network (`folded`).
        what: how messages call the source.

    Raises:
        BadCheckpoint: as `load_weights`, with the first pair that does not align.
    """
    theirs = modern(source) if isinstance(source, Mapping) else read_any(Path(source))
    what = what or ("the state dict" if isinstance(source, Mapping) else str(source))
    ours = model.state_dict()
    names = names_of(model, ours, theirs, origin)
    absent = absent_heads(names, theirs)
    classifiers = set[str]() if head == "keep" else classifier_names(model) - absent
    if head == "fit" and all(_fits(ours[name], theirs.get(names[name])) for name in classifiers):
        classifiers = set[str]()
    left_out = [names[name] for name in ours if name in classifiers and names[name] in theirs]
    left_out += sorted(surplus_heads(model, names, theirs))
    theirs |= {names[name]: ours[name] for name in classifiers}
    first = next((name for name, parameter in model.named_parameters() if parameter.ndim == 4), None)
    changed = None
    if fold and first is not None and (kernel := theirs.get(names[first])) is not None and kernel.ndim == 4:
        before, after = kernel.shape[1], ours[first].shape[1]
        if before != after:
            theirs[names[first]] = folded(kernel, after, what)
            changed = f"{before} -> {after}"
    fill(model, theirs, origin, what)
    drawn = tuple(name for name in ours if name in classifiers or name in absent)
    return Transferred(tuple(left_out), drawn, changed)


def take(
    model: nn.Module, weights: str | Path, peers: Mapping[str, str], name: str, *, head: Head, fold: bool
) -> Transferred:
    """`transfer` from official weights ("torchvision", "timm:TAG") of the network `name`, or from a file.

    Raises `UsageError` for a word that is neither, and what `read_official` and `transfer` raise.
    """
    if isinstance(weights, str) and is_library(weights):
        official = find_official(weights, peers, name)
        state, _ = read_official(official)
        return transfer(model, state, origin=official.library, head=head, fold=fold, what=official.title)
    check_file(weights)
    return transfer(model, weights, head=head, fold=fold)


def check_file(weights: str | Path) -> None:
    """Raise `UsageError` for a word that names no file and looks like none."""
    path = Path(weights)
    if not path.suffix and not path.exists():
        near = did_you_mean(str(weights), LIBRARIES)
        raise UsageError(f"weights {str(weights)!r} are no file, and not {' or '.join(LIBRARIES)}.{near}")


def classifier_names(model: nn.Module) -> set[str]:
    """Names in a `Classifier`'s state that belong to its last layer, and to those of its auxiliary heads."""
    if not hasattr(model, "classifier_name"):
        raise UsageError(f"{type(model).__name__} has no classifier that could be drawn anew.")
    network = cast(WithClassifier, model)
    last = network.classifier_name
    prefixes = [f"head.{last}.", *(f"auxiliary.{name}.{last}." for name in network.auxiliary)]
    return {name for name in model.state_dict() if name.startswith(tuple(prefixes))}


def folded(kernel: Tensor, channels: int, what: str = "the checkpoint") -> Tensor:
    """A first convolution (K, 3, h, w) for images of `channels` channels: (K, channels, h, w), as timm does it.

    For one channel the three are summed, so that a grey image gives what its three equal channels gave. For more
    they are repeated in turn, and scaled so that the answer keeps its size.

    Raises `BadCheckpoint` for a kernel that does not read three channels: what others mean is not known.
    """
    found = kernel.shape[1]
    if found != 3:
        raise BadCheckpoint(
            f"{what} is of a network for images of {found} channels; only weights for 3 can be adapted to {channels}."
        )
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    turns = -(-channels // 3)
    return kernel.repeat(1, turns, 1, 1)[:, :channels] * (3 / channels)


def _fits(ours: Tensor, theirs: Tensor | None) -> bool:
    """Whether the checkpoint has this tensor of the classifier, for as many classes (its first size)."""
    return theirs is not None and theirs.shape[:1] == ours.shape[:1]
