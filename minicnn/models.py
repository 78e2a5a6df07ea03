"""LeNet, as courses build it and as you would build it today; zoo.py has wider networks."""

from numpy.random import Generator

from minicnn.arguments import Shape
from minicnn.layers import (
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    Flatten,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    Sequential,
    Sigmoid,
)

IMAGE = (1, 28, 28)  # (C, H, W), those of MNIST and its kind
Rng = Generator | None


def lenet(rng: Rng = None, *, input_shape: Shape = IMAGE, classes: int = 10) -> Sequential:
    """x (N, 1, 28, 28) -> logits (N, 10): two convolutions, three linear layers, sigmoids and
    average pooling; 61,706 parameters.

    Source: Y. LeCun et al., "Gradient-based learning applied to document recognition", 1998, in
    the simpler form of today's courses: no Gaussian output, every channel sees every channel.
    """
    return _lenet(Sigmoid, AvgPool2D, rng, input_shape, classes)


def lenet_relu(rng: Rng = None, *, input_shape: Shape = IMAGE, classes: int = 10) -> Sequential:
    """LeNet with ReLU instead of sigmoids and maximum instead of average pooling; the same
    parameters."""
    return _lenet(ReLU, MaxPool2D, rng, input_shape, classes)


def lenet_bn(rng: Rng = None, *, input_shape: Shape = IMAGE, classes: int = 10) -> Sequential:
    """LeNet with batch normalisation after both convolutions, which then need no bias; 61,728
    parameters."""
    return _lenet(Sigmoid, AvgPool2D, rng, input_shape, classes, normalised=True)


def _lenet(
    activation: type[ReLU | Sigmoid],
    pooling: type[AvgPool2D | MaxPool2D],
    rng: Rng,
    input_shape: Shape,
    classes: int,
    normalised: bool = False,
) -> Sequential:
    front = (
        *convolution(input_shape[0], 6, 5, rng, normalised, padding=2),
        activation(),
        pooling(2),
        *convolution(6, 16, 5, rng, normalised),
        activation(),
        pooling(2),
        Flatten(),
    )
    return Sequential(
        *front,
        Linear(features(front, input_shape), 120, rng=rng),  # 16 * 5 * 5
        activation(),
        Linear(120, 84, rng=rng),
        activation(),
        Linear(84, classes, rng=rng),
    )


def features(layers: tuple[Layer, ...], input_shape: Shape) -> int:
    """How many numbers of an image reach the linear layers."""
    return Sequential(*layers).output_shape((1, *input_shape))[1]


def convolution(
    in_channels: int,
    channels: int,
    kernel: int,
    rng: Rng,
    normalised: bool = True,
    **geometry: int,
) -> list[Layer]:
    """A convolution; with batch normalisation after it, its bias is left to that."""
    conv = Conv2D(in_channels, channels, kernel, bias=not normalised, rng=rng, **geometry)
    return [conv, BatchNorm2D(channels)] if normalised else [conv]
