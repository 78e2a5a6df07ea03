"""The layers, one idea a file: each has an explicit forward and backward, under the protocol of
`base.Layer`. Nothing here knows of optimizers, workers, data or devices."""

from minicnn.layers.activations import (
    GELU,
    LeakyReLU,
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
from minicnn.layers.conv_transpose import (
    ConvTranspose2D,
)
from minicnn.layers.dropout import (
    Dropout,
)
from minicnn.layers.linear import (
    Linear,
)
from minicnn.layers.normalization import (
    BatchNorm2D,
)
from minicnn.layers.pooling import (
    AvgPool2D,
    GlobalAvgPool2D,
    MaxPool2D,
)
from minicnn.layers.reshaping import (
    Flatten,
)
from minicnn.layers.residual import (
    Residual,
)
from minicnn.layers.sequential import (
    Sequential,
)

__all__ = [
    "AvgPool2D",
    "BatchNorm2D",
    "Conv2D",
    "ConvTranspose2D",
    "Dropout",
    "Flatten",
    "GELU",
    "GlobalAvgPool2D",
    "Layer",
    "LeakyReLU",
    "Linear",
    "MaxPool2D",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Tanh",
]
