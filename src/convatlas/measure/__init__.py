"""What a network costs, by running it without content: `measure(model, (3, 224, 224))`."""

from convatlas.measure.cost import Measurement, Row, measure

__all__ = ["Measurement", "Row", "measure"]
