"""Networks: LeNet as the course builds it, as one would build it today, and a residual network."""

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from minicnn.initializers import he_normal
from minicnn.layers import (
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
)


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


def lenet_bn(rng: Generator | None = None) -> Sequential:
    """LeNet with batch normalisation behind both convolutions, which then need no bias; 61,728
    parameters."""
    return _lenet(Sigmoid, AvgPool2D, rng, normalised=True)


def lenet_wide(rng: Generator | None = None) -> Sequential:
    """x (N, 1, 28, 28) -> logits (N, 10): two 3x3 convolutions with 24 and 48 channels, ReLU,
    maximum pooling and two linear layers, with He's weights; 313,130 parameters."""
    return _wide(24, 48, 128, rng)


def lenet_fast(rng: Generator | None = None) -> Sequential:
    """`lenet_wide` with 12 and 24 channels and 64 hidden units; 78,714 parameters."""
    return _wide(12, 24, 64, rng)


def _wide(first: int, second: int, hidden: int, rng: Generator | None) -> Sequential:
    """ReLU keeps the order of numbers, so behind maximum pooling it gives the same as before it, at
    a quarter of the work."""
    net = Sequential(
        Conv2D(1, first, 3, padding=1, rng=rng),
        MaxPool2D(2),
        ReLU(),
        Conv2D(first, second, 3, padding=1, rng=rng),
        MaxPool2D(2),
        ReLU(),
        Flatten(),
        Linear(second * 7 * 7, hidden, rng=rng),
        ReLU(),
        Linear(hidden, 10, rng=rng),
    )
    for layer in net.layers:
        if "weight" in layer.params:
            layer.params["weight"] = he_normal(layer.params["weight"].shape, rng)
    return net


def resnet_mini(rng: Generator | None = None) -> Sequential:
    """x (N, 1, 28, 28) -> logits (N, 10): three residual blocks with 32, 64 and 96 channels, on
    images of 14, 7 and 4 pixels a side, and a mean over the pixels at the end; 222,570 parameters.

    Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", 2016,
    here with a pooling in front, and far smaller.
    """
    return Sequential(
        *_convolution(1, 32, 3, rng, padding=1),
        ReLU(),
        MaxPool2D(2),
        _block(32, 32, 1, rng),
        ReLU(),
        _block(32, 64, 2, rng),
        ReLU(),
        _block(64, 96, 2, rng),
        ReLU(),
        GlobalAvgPool2D(),
        Linear(96, 10, rng=rng),
    )


def _block(in_channels: int, channels: int, stride: int, rng: Generator | None) -> Residual:
    """Two 3x3 convolutions, which x goes around; by a 1x1 convolution if its shape changes."""
    body = Sequential(
        *_convolution(in_channels, channels, 3, rng, stride=stride, padding=1),
        ReLU(),
        *_convolution(channels, channels, 3, rng, padding=1),
    )
    if in_channels == channels and stride == 1:
        return Residual(body)
    return Residual(body, Sequential(*_convolution(in_channels, channels, 1, rng, stride=stride)))


def _lenet(
    activation: type[ReLU | Sigmoid],
    pooling: type[AvgPool2D | MaxPool2D],
    rng: Generator | None,
    normalised: bool = False,
) -> Sequential:
    return Sequential(
        *_convolution(1, 6, 5, rng, normalised, padding=2),
        activation(),
        pooling(2),
        *_convolution(6, 16, 5, rng, normalised),
        activation(),
        pooling(2),
        Flatten(),
        Linear(16 * 5 * 5, 120, rng=rng),
        activation(),
        Linear(120, 84, rng=rng),
        activation(),
        Linear(84, 10, rng=rng),
    )


def _convolution(
    in_channels: int,
    channels: int,
    kernel: int,
    rng: Generator | None,
    normalised: bool = True,
    **geometry: int,
) -> list[Layer]:
    """A convolution and, in place of its bias, that of the batch normalisation behind it."""
    conv = Conv2D(in_channels, channels, kernel, bias=not normalised, rng=rng, **geometry)
    return [conv, BatchNorm2D(channels)] if normalised else [conv]


@dataclass(frozen=True)
class Model:
    """A network by name on the command line: how to build it, and a learning rate for plain SGD
    with batches of 256 that it trains well with."""

    build: Callable[[Generator | None], Sequential]
    lr: float


INPUT_SHAPE = (1, 1, 28, 28)  # one image, as all of them take it
MODELS = {
    "lenet": Model(lenet, lr=0.9),
    "lenet-relu": Model(lenet_relu, lr=0.1),
    "lenet-bn": Model(lenet_bn, lr=0.9),
    "lenet-wide": Model(lenet_wide, lr=0.1),
    "lenet-fast": Model(lenet_fast, lr=0.1),
    "resnet-mini": Model(resnet_mini, lr=0.1),
}
