"""convatlas: the canon of convolutional networks as working software.

The public names are those of `convatlas.api`, and are imported when they are first used: `import convatlas`
alone loads neither torch nor anything else that is heavy, and changes nothing in the process.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convatlas.api import (
        Run,
        audit,
        create_model,
        find,
        initialise,
        list_models,
        load_weights,
        measure,
        open_data,
        train,
    )

__version__ = "0.1.0"
__all__ = [
    "Run",
    "audit",
    "create_model",
    "find",
    "initialise",
    "list_models",
    "load_weights",
    "measure",
    "open_data",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from convatlas import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Room(ModuleType):
    """A package that shares its name with a public function: calling it calls the function.

    `convatlas.train` has to be both `convatlas.train("photos/")` and the package of `convatlas.train.loop`, and
    Python binds the package to that name as soon as anything in it is imported.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return __getattr__(self.__name__.rpartition(".")[2])(*args, **kwargs)


class _Face(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name in __all__ and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
