"""The papers' initialisations, a file per idea, and every one of them by name (`initialise`)."""

from convatlas.layers.init.by_name import INITIALISATIONS, initialise
from convatlas.layers.init.variance import finish, glorot_uniform, he, he_normal, small_gaussian

__all__ = ["INITIALISATIONS", "finish", "glorot_uniform", "he", "he_normal", "initialise", "small_gaussian"]
