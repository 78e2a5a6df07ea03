"""The layers, one idea a file: each has an explicit forward and backward, under the protocol of
`base.Layer`. Nothing here knows of optimizers, workers, data or devices."""

from minicnn.layers.activations import (
    ReLU,
    Sigmoid,
    Tanh,
)
from minicnn.layers.base import (
    Layer,
)
from minicnn.layers.conv import (
    Conv2D,
)
from minicnn.layers.linear import (
    Linear,
)
from minicnn.layers.pooling import (
    AvgPool2D,
    MaxPool2D,
)
from minicnn.layers.reshaping import (
    Flatten,
)
from minicnn.layers.sequential import (
    Sequential,
)

__all__ = [
    "AvgPool2D",
    "Conv2D",
    "Flatten",
    "Layer",
    "Linear",
    "MaxPool2D",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
]
