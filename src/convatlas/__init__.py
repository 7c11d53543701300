"""convatlas: the canon of convolutional networks as working software."""

__version__ = "0.1.0"
