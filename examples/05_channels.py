"""Several input channels, several output channels, and the 1x1 convolution.

Look for: each output channel is a sum over all input channels; a 1x1 convolution multiplies every
pixel's channels by the same matrix; and two right ways to compute it differ in the last bits,
because a sum of floats depends on its order.

In the course, Dive into Deep Learning: "Multiple Input and Multiple Output Channels" and its
exercise on the 1x1 convolution.
"""

import numpy as np
from gallery import convolution, keep, largest_difference, parser, photograph, run
from matplotlib.figure import Figure

from minicnn import corr2d, corr2d_multi_in, corr2d_multi_in_out, corr2d_multi_in_out_1x1

X = np.stack([np.arange(9.0).reshape(3, 3), np.arange(1.0, 10.0).reshape(3, 3)])  # (2, 3, 3)
K = np.array([[[0.0, 1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0, 4.0]]])  # (2, 2, 2)

COLOURS = ("red", "green", "blue")
MIXES = {
    "brightness": (0.299, 0.587, 0.114),
    "red - cyan": (1, -0.5, -0.5),
    "blue - yellow": (-0.5, -0.5, 1),
}


def several_input_channels():
    """Each input channel has a kernel of its own, and the results are added up."""
    print("Two input channels, one kernel with two channels. Each channel on its own gives")
    for x, k in zip(X, K):
        print(corr2d(x, k))
    Y = corr2d_multi_in(X, K)
    print(f"and their sum is the output:\n{Y}")
    print(
        "The layer Conv2D(2, 1, 2) differs by",
        largest_difference(convolution(K[None])(X[None])[0], Y),
    )


def several_output_channels():
    """Each output channel has a kernel for each input channel."""
    kernels = np.stack([K, K + 1, K + 2])  # (3, 2, 2, 2)
    Y = corr2d_multi_in_out(X, kernels)
    print(f"\nThree such kernels, K, K + 1 and K + 2, make three output channels:\n{Y}")
    y = convolution(kernels)(X[None])[0]
    print("The layer Conv2D(2, 3, 2) differs by", largest_difference(y, Y))


def one_by_one():
    """A kernel of one pixel mixes the channels and nothing else."""
    rng = np.random.default_rng(0)
    X, K = rng.standard_normal((3, 3, 3)), rng.standard_normal((2, 3, 1, 1))
    Y1, Y2 = corr2d_multi_in_out_1x1(X, K), corr2d_multi_in_out(X, K)
    print("\nA 1x1 convolution sees one pixel at a time: it is the matrix product")
    print(f"{K.shape[:2]} @ {X.reshape(3, -1).shape} over the channels. Compared with the")
    print(f"general form it differs by at most {largest_difference(Y1, Y2):.1e}. Neither is wrong.")


def order_of_a_sum():
    """Why two right results differ in their last bits."""
    a, b, c = np.float32([1e8, -1e8, 1])
    print("\nFloat addition is not associative. In float32, with a = 1e8, b = -1e8, c = 1:")
    print(f"(a + b) + c = {(a + b) + c}")
    print(f"a + (b + c) = {a + (b + c)}, since the neighbours of 1e8 are {np.spacing(a):.0f} apart")
    print("\nA 1x1 convolution from 256 to 64 channels of 28x28 pixels, summed in two orders: as")
    print("one matrix product, and channel by channel, from the last to the first.")
    rng = np.random.default_rng(0)
    X, K = rng.standard_normal((256, 784)), rng.standard_normal((64, 256))
    for dtype in (np.float32, np.float64):
        x, k = X.astype(dtype), K.astype(dtype)
        product, in_turn = k @ x, np.zeros((64, 784), dtype)
        for c in reversed(range(256)):  # as no BLAS does
            in_turn += k[:, c, None] * x[c]
        differ = (product != in_turn).mean()
        difference = largest_difference(product, in_turn)
        print(f"{dtype.__name__}: {differ:.0%} of the outputs differ, by up to {difference:.1e}")
        if dtype == np.float32:
            precise = k.astype(float) @ x.astype(float)
            errors = [largest_difference(y, precise) for y in (product, in_turn)]
            print("neither is right: from float64 they are up to {:.1e} and {:.1e}".format(*errors))
    print(f"The outputs reach {abs(K @ X).max():.0f}. float64 shrinks the difference, no more.")


def colours_mixed():
    """A photograph's three channels, the matrix, and the three channels that it turns them into."""
    photo, matrix = photograph(160, "RGB").transpose(2, 0, 1), np.array(list(MIXES.values()))
    mixed = convolution(matrix[:, :, None, None])(photo[None])[0]
    figure = Figure(figsize=(8, 4.3), layout="constrained")
    top, bottom = figure.subplots(2, 4)
    top[0].imshow(photo.transpose(1, 2, 0))
    top[0].set_title("photograph")
    for axes, channel, name in zip(top[1:], photo, COLOURS):
        axes.imshow(channel, cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"input: {name}")
    bottom[0].imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    bottom[0].set_title("1x1 kernels")
    for i, j in np.ndindex(matrix.shape):
        colour = "white" if abs(matrix[i, j]) > 0.7 else "black"
        bottom[0].text(j, i, f"{matrix[i, j]}", ha="center", va="center", color=colour)
    bottom[0].set_xticks(range(3), COLOURS)
    bottom[0].set_yticks(range(3), [name.replace(" - ", "\n- ") for name in MIXES])
    bottom[0].tick_params(length=0)
    for axes, channel, name in zip(bottom[1:], mixed, MIXES):
        cmap, lowest, highest = ("gray", 0, 1) if name == "brightness" else ("RdBu_r", -0.6, 0.6)
        axes.imshow(channel, cmap=cmap, vmin=lowest, vmax=highest)
        axes.set_title(f"output: {name}")
    for axes in (*top, *bottom[1:]):
        axes.set_axis_off()
    return figure


def main(argv=None):
    args = parser(__doc__).parse_args(argv)
    several_input_channels()
    several_output_channels()
    one_by_one()
    order_of_a_sum()
    print()
    keep(colours_mixed(), "05_channels", args)


if __name__ == "__main__":
    run(main)
