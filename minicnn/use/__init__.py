"""What a trained network is good for: predictions, a report on its mistakes, other formats."""

from minicnn.use.predictor import Prediction, Predictor, load

__all__ = ["Prediction", "Predictor", "load"]
