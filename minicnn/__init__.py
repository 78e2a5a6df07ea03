"""minicnn: a convolutional network in pure NumPy, every gradient written out and tested."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from minicnn._moved import MOVED
from minicnn._version import __version__ as __version__
from minicnn.adam import Adam, AdamW
from minicnn.datasets import Augmentation, digits, fashion_mnist, mnist
from minicnn.gradcheck import check_gradients
from minicnn.layers import (
    GELU,
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
)
from minicnn.losses import softmax, softmax_cross_entropy, squared_error
from minicnn.models import lenet, lenet_relu
from minicnn.optimizers import SGD, cosine, warmup
from minicnn.reference import (
    corr2d,
    corr2d_multi_in,
    corr2d_multi_in_out,
    corr2d_multi_in_out_1x1,
    pool2d,
)
from minicnn.training import evaluate, fit

__all__ = [
    "Adam",
    "AdamW",
    "Augmentation",
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
    "load",
    "mnist",
    "pool2d",
    "softmax",
    "softmax_cross_entropy",
    "squared_error",
    "warmup",
]


def __getattr__(name: str) -> ModuleType | Callable[..., Any]:
    """`load`, for which much is imported; and modules under the names of version 0.1, such as
    `minicnn.parallel`."""
    if name == "load":
        return importlib.import_module("minicnn.use").load
    if name in MOVED:
        return importlib.import_module(f"minicnn.{name}")
    raise AttributeError(f"module 'minicnn' has no attribute {name!r}")
