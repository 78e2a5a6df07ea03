"""Maximum and average pooling, what they do to a shift, and how to build them from other layers.

Look for: pooling treats every channel by itself; after pooling, an image and its shifted copy are
more alike than before, but not equal; average pooling is a convolution; maximum pooling is not, but
convolutions and ReLUs together can compute it.

In the course, Dive into Deep Learning: "Pooling", with two of its exercises.
"""

import numpy as np
from gallery import convolution, keep, largest_difference, parser, run
from matplotlib.figure import Figure

from minicnn import (
    AvgPool2D,
    Conv2D,
    MaxPool2D,
    ReLU,
    Sequential,
    digits,
    fashion_mnist,
    pool2d,
)

DATA = {"fashion-mnist": fashion_mnist, "digits": digits}
POOLINGS = {
    "not pooled": Sequential(),
    "maximum of 2x2": MaxPool2D(2),
    "average of 2x2": AvgPool2D(2),
    "maximum of 4x4": MaxPool2D(4),
    "average of 4x4": AvgPool2D(4),
}


def windows_of_two_by_two():
    """The course's example, with maxima and with means."""
    X = np.arange(9.0).reshape(3, 3)
    print(f"Windows of 2x2 over\n{X}\nwith a step of one pixel; their maxima and their means:")
    for mode, layer in (("max", MaxPool2D(2, stride=1)), ("avg", AvgPool2D(2, stride=1))):
        Y = pool2d(X, (2, 2), mode)
        print(Y)
        print(f"{layer} differs by {largest_difference(layer(X[None, None]), Y)}")


def padding_and_stride():
    """They mean the same as in a convolution."""
    X = np.arange(16.0).reshape(1, 1, 4, 4)
    print(f"\nMaxima over\n{X[0, 0]}")
    for layer in (
        MaxPool2D(3),
        MaxPool2D(3, padding=1, stride=2),
        MaxPool2D((2, 3), stride=(2, 3), padding=(0, 1)),
    ):
        print(f"{layer}:\n{layer(X)[0, 0]}")
    print("By default the stride is the window's size, so that windows do not overlap.")
    two = np.concatenate([X, X + 1], axis=1)
    layer = MaxPool2D(3, padding=1, stride=2)
    print(f"Each channel is pooled by itself; X and X + 1 give two:\n{layer(two)[0]}")


def vertical_edges(images):
    """How much each pixel differs from its left neighbour, (N, 1, H, W), all >= 0."""
    layer = convolution(np.float32([[[[-1, 1]]]]))
    return abs(layer(np.pad(images, ((0, 0), (0, 0), (0, 0), (1, 0)))))


def shifts(images):
    """For each pooling: (pooled edges, pooled edges of the images one pixel to the right)."""
    border = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))  # 32x32, with room to shift
    edges = vertical_edges(border)
    shifted = vertical_edges(np.roll(border, 1, axis=3))
    return {name: (layer(edges), layer(shifted)) for name, layer in POOLINGS.items()}


def change(before, after):
    """The sum of all differences, as a share of the sum of all values."""
    return abs(after - before).sum() / before.sum()


def a_shift_by_one_pixel(images):
    """How much do the edges in an image change when it moves by one pixel?"""
    print(f"\n{len(images)} images move one pixel to the right. Their vertical edges change by")
    for name, (before, after) in shifts(images).items():
        print(f"  {change(before, after):4.0%}  {name}")
    print("where 200% would be edges that nowhere meet. Pooling does not undo a shift: it makes it")
    print("matter less: the larger the window, the less it matters.")


def picture_of_a_shift(image):
    """Edges, edges of the shifted image and their difference, for each pooling."""
    pooled = shifts(image[None])
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    grid = figure.subplots(3, len(pooled))
    for column, (name, (before, after)) in zip(grid.T, pooled.items()):
        limit = before.max()
        for axes, y in zip(column, (before, after, after - before)):
            axes.imshow(y[0, 0], cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.set_xticks([])
            axes.set_yticks([])
        column[0].set_title(f"{name}\n{before.shape[2]} x {before.shape[3]}", fontsize=10)
        column[2].set_xlabel(f"change: {change(before, after):.0%}")
    for axes, label in zip(grid[:, 0], ("vertical edges", "one pixel\nto the right", "difference")):
        axes.set_ylabel(label)
    return figure


def average_as_convolution(channels):
    """AvgPool2D(2) as a convolution: each channel a group, each weight a quarter."""
    layer = Conv2D(channels, channels, 2, stride=2, groups=channels, bias=False)
    layer.params["weight"][...] = 1 / 4
    return layer


def maximum_from_relus(channels):
    """MaxPool2D(2) from convolutions and ReLUs, by max(a, b) = a + relu(b - a): first for pixels
    side by side, then for these maxima, one above the other.

    A ReLU stops a negative a, so a takes two channels: a = relu(a) - relu(-a).
    """
    parts = np.array([[-1, 1], [1, 0], [-1, 0]])  # (a, b) -> b - a, a, -a
    join = np.array([1, 1, -1])  # their ReLUs -> max(a, b)
    across = Conv2D(channels, 3 * channels, (1, 2), (1, 2), groups=channels, bias=False)
    across.params["weight"][...] = np.tile(parts[:, None, None, :], (channels, 1, 1, 1))
    down = Conv2D(3 * channels, 3 * channels, (2, 1), (2, 1), groups=channels, bias=False)
    both = parts[:, None, :, None] * join[:, None, None]  # joins, then takes the next parts
    down.params["weight"][...] = np.tile(both, (channels, 1, 1, 1))
    last = Conv2D(3 * channels, channels, 1, groups=channels, bias=False)
    last.params["weight"][...] = np.tile(join[:, None, None], (channels, 1, 1, 1))
    return Sequential(across, ReLU(), down, ReLU(), last)


def pooling_from_other_layers():
    """Convolutions and ReLUs that compute the same, forward and backward."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((8, 3, 12, 12)), rng.standard_normal((8, 3, 6, 6))
    print("\nPooling built from other layers, on 3 channels of random numbers in float64:")
    for pooling, built in (
        (AvgPool2D(2), average_as_convolution(3)),
        (MaxPool2D(2), maximum_from_relus(3)),
    ):
        (y, saved), (same_y, same_saved) = pooling.forward(x), built.forward(x)
        dx, same_dx = pooling.backward(dy, saved)[0], built.backward(dy, same_saved)[0]
        print(f"{pooling} and\n{built}")
        print(f"  differ by at most {largest_difference(y, same_y):.1e} in the output,")
        print(f"  by {largest_difference(dx, same_dx):.1e} in the gradient of the input")


def options():
    return parser(__doc__, DATA)


def main(argv=None):
    args = options().parse_args(argv)
    windows_of_two_by_two()
    padding_and_stride()
    _, test = DATA[args.data]()
    images, _ = test.batch(slice(0, 1000))
    print(f"\nImages: {test.name}")
    a_shift_by_one_pixel(images)
    keep(picture_of_a_shift(images[0]), "06_pooling", args)
    pooling_from_other_layers()


if __name__ == "__main__":
    run(main)
