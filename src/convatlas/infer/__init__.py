"""Using a trained network: `Run.load(path)`, then `predict` and `evaluate`."""

from convatlas.infer.evaluate import ClassScore, Evaluation
from convatlas.infer.predict import Prediction, Predictions
from convatlas.infer.run import Run
from convatlas.train.saved_spec import SavedSpec

__all__ = ["ClassScore", "Evaluation", "Prediction", "Predictions", "Run", "SavedSpec"]
