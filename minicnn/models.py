"""Networks: LeNet as the course builds it, and as one would build it today."""

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from minicnn.layers import AvgPool2D, Conv2D, Flatten, Linear, MaxPool2D, ReLU, Sequential, Sigmoid


def lenet(rng: Generator | None = None) -> Sequential:
    """x (N, 1, 28, 28) -> logits (N, 10): two convolutions, three linear layers, sigmoids and
    average pooling; 61,706 parameters.

    Source: Y. LeCun et al., "Gradient-based learning applied to document recognition", 1998, in
    the simpler form of today's courses: no Gaussian output, every channel sees every channel.
    """
    return _lenet(Sigmoid, AvgPool2D, rng)


def lenet_relu(rng: Generator | None = None) -> Sequential:
    """LeNet with ReLU for the sigmoids and maximum for average pooling; the same parameters."""
    return _lenet(ReLU, MaxPool2D, rng)


def _lenet(
    activation: type[ReLU | Sigmoid], pooling: type[AvgPool2D | MaxPool2D], rng: Generator | None
) -> Sequential:
    return Sequential(
        Conv2D(1, 6, 5, padding=2, rng=rng),
        activation(),
        pooling(2),
        Conv2D(6, 16, 5, rng=rng),
        activation(),
        pooling(2),
        Flatten(),
        Linear(16 * 5 * 5, 120, rng=rng),
        activation(),
        Linear(120, 84, rng=rng),
        activation(),
        Linear(84, 10, rng=rng),
    )


@dataclass(frozen=True)
class Model:
    """A network by name on the command line: how to build it, and a learning rate for plain SGD
    with batches of 256 that it trains well with."""

    build: Callable[[Generator | None], Sequential]
    lr: float


INPUT_SHAPE = (1, 1, 28, 28)  # one image, as all of them take it
MODELS = {"lenet": Model(lenet, lr=0.9), "lenet-relu": Model(lenet_relu, lr=0.1)}
