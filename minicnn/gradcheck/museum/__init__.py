"""The museum of wrong gradients: mistakes, each in a layer or loss that is otherwise right.

About half were found in published projects or asked about, and say where; the rest were made up.
Many of them still train. The checker must catch every one, and name the mistake for most.
"""

from minicnn.gradcheck.museum import (
    activations,
    convolution,
    linear,
    losses,
    normalization,
    pooling,
)
from minicnn.gradcheck.museum.fault import Fault

FAULTS: list[Fault] = [
    *pooling.FAULTS,
    *convolution.FAULTS,
    *linear.FAULTS,
    *activations.FAULTS,
    *normalization.FAULTS,
    *losses.FAULTS,
]

globals().update({fault.name: fault.wrong for fault in FAULTS})  # to import each from here
