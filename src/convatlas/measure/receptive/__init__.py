"""The theoretical receptive field of every unit, for any graph.

The operations of a trace are walked in order, and every tensor gets what its units see of the image: along each axis a
`Span`, exact in size, stride and offset, and where the places of that axis lie in the tensor's dimensions. Branches
that meet take the union. What mixes all
positions (a global pool, a linear layer over a map) is *global*; what multiplies a map by such a thing, or
normalises it over positions (squeeze-excitation, GroupNorm), leaves the map's own field and is *global besides*:
"35 + global".

The channels of a map are taken together: of two branches that are concatenated the wider one counts, also for a layer
that later picks channels of the narrower. An operation that no rule knows gives an unknown field, "?", with its name:
nothing is guessed.

Source: the arithmetic of Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016); for graphs
with several paths Araujo, Norris & Sim, "Computing Receptive Fields of Convolutional Neural Networks" (Distill, 2019).
"""

from convatlas.measure.receptive.field import Field
from convatlas.measure.receptive.walk import fields

__all__ = ["Field", "fields"]
