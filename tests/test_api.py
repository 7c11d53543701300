"""The public names: lazy, and right whatever was imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest

import convatlas


@pytest.mark.parametrize(
    "before",
    [
        "import convatlas",
        "import convatlas.train",
        "import convatlas.measure.cost, convatlas.train.recipe",
        "from convatlas import train, measure",
        "import convatlas.api",
    ],
)
def test_a_name_is_the_function_and_the_package(before: str) -> None:
    code = f"""{before}
import convatlas, convatlas.train.recipe as recipe, convatlas.measure.cost as cost
from torch import nn
assert convatlas.measure(nn.Linear(3, 4), (3,)).params == 16
assert convatlas.measure.cost is cost and convatlas.train.recipe is recipe
try: convatlas.train("nowhere")
except TypeError: raise
except convatlas.errors.ConvAtlasError as error: assert error.exit_code in (2, 3)
else: raise SystemExit("trained on nothing")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    from convatlas import api

    for name in convatlas.__all__:
        assert callable(getattr(convatlas, name)), name
        assert name in dir(convatlas)
        assert name in api.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = convatlas.trian
