"""Networks that are wider and deeper than LeNet, and a table of all networks by name."""

from collections.abc import Callable
from dataclasses import dataclass

from minicnn.arguments import Shape
from minicnn.initializers import he_normal
from minicnn.layers import (
    Conv2D,
    Flatten,
    GlobalAvgPool2D,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
)
from minicnn.models import IMAGE, Rng, convolution, features, lenet, lenet_bn, lenet_relu


def lenet_wide(rng: Rng = None, *, input_shape: Shape = IMAGE, classes: int = 10) -> Sequential:
    """x (N, 1, 28, 28) -> logits (N, 10): two 3x3 convolutions with 24 and 48 channels, ReLU,
    maximum pooling and two linear layers, with He's weights; 313,130 parameters."""
    return wide(24, 48, 128, rng, input_shape, classes)


def lenet_fast(rng: Rng = None, *, input_shape: Shape = IMAGE, classes: int = 10) -> Sequential:
    """`lenet_wide` with 12 and 24 channels and 64 hidden units; 78,714 parameters."""
    return wide(12, 24, 64, rng, input_shape, classes)


def wide(
    first: int,
    second: int,
    hidden: int,
    rng: Rng,
    input_shape: Shape,
    classes: int,
) -> Sequential:
    """ReLU preserves order, so it gives the same result after maximum pooling as before it, for a
    quarter of the work."""
    front = (
        Conv2D(input_shape[0], first, 3, padding=1, rng=rng),
        MaxPool2D(2),
        ReLU(),
        Conv2D(first, second, 3, padding=1, rng=rng),
        MaxPool2D(2),
        ReLU(),
        Flatten(),
    )
    net = Sequential(
        *front,
        Linear(features(front, input_shape), hidden, rng=rng),  # second * 7 * 7
        ReLU(),
        Linear(hidden, classes, rng=rng),
    )
    for layer in net.layers:
        if "weight" in layer.params:
            layer.params["weight"] = he_normal(layer.params["weight"].shape, rng)
    return net


def resnet_mini(rng: Rng = None, *, input_shape: Shape = IMAGE, classes: int = 10) -> Sequential:
    """x (N, 1, 28, 28) -> logits (N, 10): three residual blocks with 32, 64 and 96 channels, on
    images of 14, 7 and 4 pixels a side, and a mean over the pixels at the end; 222,570 parameters.

    Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", 2016;
    here with pooling in front, and far smaller.
    """
    return Sequential(
        *convolution(input_shape[0], 32, 3, rng, padding=1),
        ReLU(),
        MaxPool2D(2),
        _block(32, 32, 1, rng),
        ReLU(),
        _block(32, 64, 2, rng),
        ReLU(),
        _block(64, 96, 2, rng),
        ReLU(),
        GlobalAvgPool2D(),
        Linear(96, classes, rng=rng),
    )


def _block(in_channels: int, channels: int, stride: int, rng: Rng) -> Residual:
    """Two 3x3 convolutions with a shortcut around them: x, or a 1x1 convolution of x if the shape
    changes."""
    body = Sequential(
        *convolution(in_channels, channels, 3, rng, stride=stride, padding=1),
        ReLU(),
        *convolution(channels, channels, 3, rng, padding=1),
    )
    if in_channels == channels and stride == 1:
        return Residual(body)
    return Residual(body, Sequential(*convolution(in_channels, channels, 1, rng, stride=stride)))


@dataclass(frozen=True)
class Model:
    """A network that the command line knows by name: how to build it, and a learning rate at which
    plain SGD with batches of 256 trains it well."""

    build: Callable[..., Sequential]
    lr: float


INPUT_SHAPE = (1, *IMAGE)  # one image, for every model
MODELS = {
    "lenet": Model(lenet, lr=0.9),
    "lenet-relu": Model(lenet_relu, lr=0.1),
    "lenet-bn": Model(lenet_bn, lr=0.9),
    "lenet-wide": Model(lenet_wide, lr=0.1),
    "lenet-fast": Model(lenet_fast, lr=0.1),
    "resnet-mini": Model(resnet_mini, lr=0.1),
}
