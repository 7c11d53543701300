"""A network that a verb is asked about, how it is to differ from what it is by itself, and its building."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from convatlas.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from convatlas.registry import Spec

Shape = tuple[int, ...]
Origin = Literal["canon", "torchvision", "timm", "file", "run"]


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


def made(name: str, make: Callable[[], nn.Module], wish: Wish) -> nn.Module:
    """`build`, where what a constructor does not like is a wish of the user's."""
    try:
        return build(make, real=wish.real)
    except (
        TypeError,
        ValueError,
        RuntimeError,
        AssertionError,
        LookupError,
        AttributeError,
        ArithmeticError,
    ) as error:
        wishes = dict(wish.options or {}) or "these settings"
        raise UsageError(f"{name} cannot be built with {wishes}: {error}.") from error
