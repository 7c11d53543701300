"""Borrowing a network: every change made to look inside is undone, also when an error passes through.

This is the only file that registers hooks. What it hands out are context managers, so that nothing
can be forgotten on a network that belongs to somebody else.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Enter = Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any]], None]
Leave = Callable[[str, nn.Module, Any], None]


@contextmanager
def eval_mode(model: nn.Module) -> Generator[nn.Module, None, None]:
    """`model` in evaluation mode; afterwards every module has the mode that it had, each its own."""
    with _modes_kept(model):
        yield model.eval()


@contextmanager
def train_mode(model: nn.Module) -> Generator[nn.Module, None, None]:
    """`model` in training mode; afterwards every module has the mode that it had, each its own."""
    with _modes_kept(model):
        yield model.train()


@contextmanager
def _modes_kept(model: nn.Module) -> Generator[None, None, None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def attributes_kept(model: nn.Module) -> Generator[None, None, None]:
    """What a pass writes into its modules, such as a table that `forward` makes once and keeps, is undone.

    Attributes are set back to the objects that they held, and so are the entries of their lists and dictionaries. Not
    followed: objects of other classes, and what lies outside the network.
    """
    held: dict[int, tuple[Any, Any]] = {}

    def hold(container: Any) -> None:
        if id(container) not in held:
            held[id(container)] = container, container.copy()
            for value in container.values() if isinstance(container, dict) else container:
                if type(value) in _CONTAINERS:
                    hold(value)

    for module in model.modules():
        attributes = module.__dict__
        held[id(attributes)] = attributes, attributes.copy()
        for name, value in attributes.items():
            if name not in _HOOKS and type(value) in _CONTAINERS:
                hold(value)
    try:
        yield
    finally:
        for container, before in held.values():
            if isinstance(container, list):
                container[:] = before
            elif len(container) != len(before) or not all(map(is_, container.values(), before.values())):
                container.clear()
                container.update(before)


_CONTAINERS = frozenset((dict, list, OrderedDict, defaultdict))
_HOOKS = frozenset(name for name in nn.Module().__dict__ if "hook" in name)


@contextmanager
def watched(model: nn.Module, enter: Enter, leave: Leave) -> Generator[None, None, None]:
    """Call `enter(name, module, args, kwargs)` before and `leave(name, module, output)` after every module's call.

    A module that hangs in the network twice is reported by its first name, once per call.
    """
    handles: list[RemovableHandle] = []
    try:
        for name, module in model.named_modules():

            def before(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                enter(name, module, args, kwargs)

            def after(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                leave(name, module, output)

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture(model: nn.Module, names: Sequence[str]) -> Generator[dict[str, Tensor], None, None]:
    """A dictionary that holds, after each forward pass, the last output of the modules of those names.

    Raises `KeyError` with the name that the network does not have.

    Examples:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> with capture(model, ["0"]) as outputs:
        ...     final = model(torch.ones(1, 3))
        >>> torch.equal(final, outputs["0"].relu())
        True
    """
    modules = dict(model.named_modules())
    outputs: dict[str, Tensor] = {}
    handles: list[RemovableHandle] = []
    try:
        for name in names:

            def keep(module: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
                outputs[name] = output

            handles.append(modules[name].register_forward_hook(keep))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
