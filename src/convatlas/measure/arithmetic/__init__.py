"""Convolutions by hand, held against the layers: sizes, matrices, costs, windows, regions."""
