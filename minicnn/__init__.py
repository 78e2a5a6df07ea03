"""minicnn: a convolutional network in pure NumPy, every gradient written out and proven."""

import importlib
from types import ModuleType

from minicnn._moved import MOVED
from minicnn._version import __version__ as __version__
from minicnn.datasets import digits, fashion_mnist, mnist
from minicnn.gradcheck import check_gradients
from minicnn.layers import (
    AvgPool2D,
    Conv2D,
    Flatten,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
)
from minicnn.losses import softmax, softmax_cross_entropy, squared_error
from minicnn.models import lenet, lenet_relu
from minicnn.optimizers import SGD, cosine
from minicnn.reference import (
    corr2d,
    corr2d_multi_in,
    corr2d_multi_in_out,
    corr2d_multi_in_out_1x1,
    pool2d,
)
from minicnn.training import evaluate, fit

__all__ = [
    "AvgPool2D",
    "Conv2D",
    "Flatten",
    "Layer",
    "Linear",
    "MaxPool2D",
    "ReLU",
    "SGD",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "check_gradients",
    "corr2d",
    "corr2d_multi_in",
    "corr2d_multi_in_out",
    "corr2d_multi_in_out_1x1",
    "cosine",
    "digits",
    "evaluate",
    "fashion_mnist",
    "fit",
    "lenet",
    "lenet_relu",
    "mnist",
    "pool2d",
    "softmax",
    "softmax_cross_entropy",
    "squared_error",
]


def __getattr__(name: str) -> ModuleType:
    """`minicnn.parallel`, say, as in version 0.1."""
    if name in MOVED:
        return importlib.import_module(f"minicnn.{name}")
    raise AttributeError(f"module 'minicnn' has no attribute {name!r}")
