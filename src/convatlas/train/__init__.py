"""Training: recipes, the loop, checkpoints and runs."""

from convatlas.train.compute import Compute
from convatlas.train.observer import Observer
from convatlas.train.recipe import Recipe, read_toml
from convatlas.train.recipes import recipes
from convatlas.train.run import RunFolder
from convatlas.train.safety import Safety
from convatlas.train.start import begin, resume

__all__ = ["Compute", "Observer", "Recipe", "RunFolder", "Safety", "begin", "read_toml", "recipes", "resume"]
