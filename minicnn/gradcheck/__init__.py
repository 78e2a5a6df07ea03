"""Is a gradient right? Central differences, a guess at the mistake, checks of the protocol, and a
museum of mistakes. It looks at layers from outside; no layer imports it."""

from minicnn.gradcheck.check import LossLayer, check_gradients
from minicnn.gradcheck.differences import numerical_gradient
from minicnn.gradcheck.report import (
    Comparison,
    Finding,
    Report,
    table,
)

__all__ = [
    "Comparison",
    "Finding",
    "LossLayer",
    "Report",
    "check_gradients",
    "numerical_gradient",
    "table",
]
