"""Fill a network from a checkpoint, by name.

Tensors never find their places by order: a safetensors file keeps none, and layers of equal shape would trade
places unseen (ResNet-50's third convolution and its projection are both 256x64x1x1). For a checkpoint of another
library the network gives the substitutions from its names to theirs (`key_rules`); they must lead to exactly the
other's names, with equal shapes. Auxiliary heads alone may be absent, in the checkpoint or in the network: they serve
training, many checkpoints are published without them, and the network's answer is the same. One difference of shape is
none of function: a linear layer on a flattened map is the convolution whose kernel is the whole map, with the same
numbers in the same order. timm's VGG has it so; such a weight is taken reshaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from convatlas.errors import BadCheckpoint, UsageError, did_you_mean
from convatlas.weights.foreign import SUFFIXES, read_foreign
from convatlas.weights.tensors import read_weights

Origin = Literal["ours", "torchvision", "timm", "auto"]
ORIGINS = ("ours", "torchvision", "timm")
COUNTER = ".num_batches_tracked"  # old checkpoints lack it, and no network here uses it
AUXILIARY = "auxiliary."  # where `Classifier` keeps heads that speak in training only
# torchvision's DenseNet files are older than its code: what is `norm1` now is `norm.1` there
OLD_NAMES = (re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)"), r"\1")


def load_weights(
    model: nn.Module, source: str | Path | Mapping[str, Tensor], *, origin: Origin = "auto"
) -> None:
    """Fill a network with the weights of a file or a state dict, or leave it as it was and say why.

    A checkpoint without any auxiliary head leaves those of the network as they are; a network without any leaves out
    those of the checkpoint. A linear weight (K, C·h·w) and the convolution (K, C, h, w) over the whole map stand for
    each other.

    Args:
        model: the network; its precision and device stay.
        source: a safetensors file, a `.pt` or `.pth` file, or tensors by name.
        origin: whose names they are; "auto" takes the set of names that fits best.

    Raises:
        BadCheckpoint: for a damaged file, a name without counterpart, an unequal shape or a number that is not
            finite; the message names the first such pair.
        UsageError: if the network does not exist in the library named, or the source is neither a path nor a mapping.

    Examples:
        >>> twice = nn.Linear(1, 1, bias=False)
        >>> load_weights(twice, {"weight": torch.tensor([[2.0]])})
        >>> twice.weight.item()
        2.0
    """
    if origin not in (*ORIGINS, "auto"):
        raise UsageError(f"origin={origin!r} is not known; {', '.join(ORIGINS)} and auto are.")
    if isinstance(source, (str, Path)):
        fill(model, read_any(Path(source)), origin, str(source))
    else:
        fill(model, modern(_tensors_by_name(source)), origin, "the state dict")


def _tensors_by_name(source: object) -> Mapping[str, Tensor]:
    """`source`, if it is a state dict; the errors of `load_weights` if not."""
    if not isinstance(source, Mapping):
        raise UsageError(
            f"weights came as {type(source).__name__} {source!r:.60}; a file's path is expected, or tensors by name."
        )
    for name, tensor in cast(Mapping[object, object], source).items():
        if not isinstance(name, str):
            raise BadCheckpoint(
                f"the state dict has the name {name!r:.60}; names are text, as state_dict() has them."
            )
        if not isinstance(tensor, Tensor):
            raise BadCheckpoint(
                f"the state dict has {name!r} as {type(tensor).__name__} {tensor!r:.60}; a tensor is expected."
            )
    return cast(Mapping[str, Tensor], source)


def fill(model: nn.Module, theirs: Mapping[str, Tensor], origin: str, what: str) -> None:
    """`load_weights` from tensors that are called `what` in messages."""
    ours = model.state_dict()
    names = names_of(model, ours, theirs, origin)
    spared = absent_heads(names, theirs)
    chosen: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        other = names[name]
        if name in spared:
            chosen[name] = tensor
            continue
        if other not in theirs:
            if name.endswith(COUNTER):
                chosen[name] = torch.zeros_like(tensor)
                continue
            near = did_you_mean(other, theirs, limit=1)
            raise BadCheckpoint(
                f"{what} has no {other!r}, which {type(model).__name__} needs for {name!r}.{near}"
            )
        chosen[name] = _fitting(name, tensor, other, theirs[other], what)
    surplus = sorted(set(theirs) - set(names.values()) - surplus_heads(model, names, theirs))
    if surplus:
        raise BadCheckpoint(
            f"{what} has {surplus[0]!r} of shape {tuple(theirs[surplus[0]].shape)}, for which {type(model).__name__} "
            f"has no place ({len(surplus)} such names)."
        )
    model.load_state_dict(chosen)


def read_any(path: Path) -> dict[str, Tensor]:
    """Tensors of a file, by its suffix. Raises `BadCheckpoint` if it cannot be read safely."""
    if path.suffix == ".safetensors":
        return modern(read_weights(path))
    if path.suffix.lower() in SUFFIXES:
        return modern(read_foreign(path))
    raise BadCheckpoint(
        f"{path}: weights are read from .safetensors, .pt and .pth files, not {path.suffix!r}."
    )


def modern(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names that their library uses now."""
    return {OLD_NAMES[0].sub(OLD_NAMES[1], name): tensor for name, tensor in state.items()}


def absent_heads(names: Mapping[str, str], theirs: Mapping[str, Tensor]) -> set[str]:
    """Our names of the auxiliary heads, if the checkpoint has nothing of any of them."""
    heads = {name for name in names if name.startswith(AUXILIARY)}
    return set() if any(names[name] in theirs for name in heads) else heads


def names_of(
    model: nn.Module, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], origin: str
) -> dict[str, str]:
    """For each of our names the one to look for; each of theirs at most once."""
    candidates = {"ours": {name: name for name in ours}}
    for other, rules in _rules(model).items():
        candidates[other] = {name: _renamed(name, rules) for name in ours}
    if origin not in candidates and origin != "auto":
        raise UsageError(f"{type(model).__name__} has no counterpart in {origin}.")
    if origin != "auto":
        names = candidates[origin]
    else:
        names = max(candidates.values(), key=lambda names: len(set(names.values()) & set(theirs)))
    if len(set(names.values())) != len(names):
        raise BadCheckpoint(
            f"two parameters of {type(model).__name__} would take the same name of the checkpoint."
        )
    return names


def surplus_heads(model: nn.Module, names: Mapping[str, str], theirs: Mapping[str, Tensor]) -> set[str]:
    """Names of the checkpoint's auxiliary heads, if the network was built without any."""
    if any(name.startswith(AUXILIARY) for name in names):
        return set()
    prefixes = {AUXILIARY}
    for rules in _rules(model).values():
        prefixes |= {
            other for pattern, other in rules if pattern.startswith(r"^auxiliary\.") and "\\" not in other
        }
    return {name for name in theirs if name.startswith(tuple(prefixes))} - set(names.values())


def _rules(model: nn.Module) -> dict[str, list[tuple[str, str]]]:
    """The network's substitutions for each library in which it exists."""
    rules_of: Callable[[str], list[tuple[str, str]] | None] | None = getattr(model, "key_rules", None)
    found = {other: rules_of(other) for other in ORIGINS[1:]} if rules_of is not None else {}
    return {other: rules for other, rules in found.items() if rules is not None}


def _renamed(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _fitting(name: str, tensor: Tensor, other: str, value: Tensor, what: str) -> Tensor:
    """The checkpoint's tensor, if it can stand where ours stands; between linear layer and convolution reshaped."""
    if {value.dim(), tensor.dim()} == {2, 4} and value.flatten(1).shape == tensor.flatten(1).shape:
        value = value.reshape(tensor.shape)
    if value.shape != tensor.shape:
        raise BadCheckpoint(
            f"{what} has {other!r} of shape {tuple(value.shape)}, but {name!r} is {tuple(tensor.shape)}."
        )
    if value.is_floating_point() != tensor.is_floating_point() or value.is_complex() != tensor.is_complex():
        raise BadCheckpoint(f"{what} has {other!r} as {value.dtype}, but {name!r} is {tensor.dtype}.")
    if value.is_floating_point() and not bool(torch.isfinite(value.to(tensor.dtype)).all()):
        raise BadCheckpoint(f"{what} has {other!r} with values that are not finite numbers ({name!r}).")
    return value
