"""The training loop, and the code that spreads a batch over the cores. What goes into files belongs
in runs/, the arithmetic of a step in optimizers.py."""

from minicnn.training.history import (
    History,
    Position,
    TrainingError,
)
from minicnn.training.loop import (
    check_fit,
    estimate_seconds,
    evaluate,
    fit,
)

__all__ = [
    "History",
    "Position",
    "TrainingError",
    "check_fit",
    "estimate_seconds",
    "evaluate",
    "fit",
]
