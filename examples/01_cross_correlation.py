"""Cross-correlation: its definition, its matrix, its cost, and one, two and three dimensions.

A convolutional layer is a fully connected layer in which most weights are zero and the rest are a
few numbers, repeated. Look for the diagonals in the matrix, the two counts of parameters, and what
the same few lines find in a signal, in a picture and in a stack of frames.

In the course, Dive into Deep Learning: "From Fully Connected Layers to Convolutions" and
"Convolutions for Images".
"""

import numpy as np
from gallery import keep, largest_difference, parser, photograph, run
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from minicnn import Conv2D, Linear, corr2d
from minicnn.reference.convolutions import toeplitz

X = np.arange(9.0).reshape(3, 3)
K = np.array([[0.0, 1], [2, 3]])

BLUES = ["#08519c", "#4292c6", "#9ecae1"]
ORANGES = ["#a63603", "#f16913", "#fdae6b"]
GREYS = ["#252525", "#737373", "#bdbdbd"]


def correlate(X, K):
    """Y[p] = sum over a of K[a] * X[p + a], for any number of axes."""
    Y = np.zeros(np.subtract(X.shape, K.shape) + 1)
    for tap in np.ndindex(K.shape):
        Y += K[tap] * X[tuple(slice(a, a + size) for a, size in zip(tap, Y.shape))]
    return Y


def definition():
    """Lay the kernel over each window of the image, multiply, and add up."""
    print("An image X and a kernel K:")
    print(X, K, sep="\n")
    print("Lay K over each window of X and add up the products, corr2d(X, K):")
    print(corr2d(X, K))
    print("The first of them is 0*0 + 1*1 + 3*2 + 4*3 = 19.\n")


def as_a_fully_connected_layer():
    """The same numbers come from a matrix that is mostly zeros."""
    matrix = toeplitz(K[None, None], (1, 1, 3, 3))
    print("The same as a matrix, with a row for each output and a column for each pixel:")
    print(matrix.astype(int))
    layer = Linear(9, 4, bias=False)
    layer.params["weight"] = matrix
    difference = largest_difference(layer(X.reshape(1, 9)), corr2d(X, K).reshape(1, 4))
    print(f"A fully connected layer with these weights, less corr2d: {difference}")
    ones = toeplitz(np.ones((1, 1, 2, 2)), (1, 1, 3, 3))
    used = int(ones.sum())
    print(f"Of its {matrix.size} weights {matrix.size - used} are zero, as a window is local.")
    print(f"The other {used} are {K.size} numbers, the same for each window.\n")


def cost():
    """What is saved by repeating a few weights, for a picture of 3000 x 4000 pixels."""
    height, width = 3000, 4000
    pixels = height * width
    layer = Conv2D(1, 1, 3, padding=1, bias=False)
    multiply_adds = layer.multiply_adds((1, 1, height, width))
    print(f"A picture of {height} x {width} = {pixels:,} pixels, to a map of the same size:")
    print(f"{'':16}{'parameters':>20}{'multiply-adds':>22}")
    print(f"{'3 x 3 kernel':16}{layer.params['weight'].size:20,}{multiply_adds:22,}")
    print(f"{'fully connected':16}{pixels**2:20,}{pixels**2:22,}")
    print(f"In float32 that matrix would take {4 * pixels**2 / 1e12:,.0f} TB.\n")


def convolution():
    """Convolution is cross-correlation with the kernel rotated by 180 degrees."""
    print("Convolution rotates the kernel by 180 degrees first:")
    print(corr2d(X, K[::-1, ::-1]))
    point = np.zeros((3, 3))
    point[1, 1] = 1
    print("Of a single 1 it makes a copy of the kernel, and cross-correlation a rotated copy:")
    print(corr2d(point, K[::-1, ::-1]), corr2d(point, K), sep="\n")
    print("A layer that learns its kernel finds one or the other: nothing is lost.\n")


def any_number_of_axes(signal, kernel):
    """The definition is the same for a signal, a picture and a film."""
    print("The definition takes any number of axes. correlate differs at most by this much from")
    correlated, convolved = (f(signal, kernel, "valid") for f in (np.correlate, np.convolve))
    difference = largest_difference(correlate(signal, kernel), correlated)
    print(f"  np.correlate in 1-D: {difference:.0e}")
    difference = largest_difference(correlate(signal, kernel[::-1]), convolved)
    print(f"  np.convolve in 1-D, with the kernel rotated: {difference:.0e}")
    print(f"  corr2d in 2-D: {largest_difference(correlate(X, K), corr2d(X, K)):.0e}")


def noisy_step():
    """0 up to position 59, and 1 from position 60 on, with noise."""
    step = (np.arange(120) >= 60).astype(float)
    return step + 0.25 * np.random.default_rng(0).standard_normal(120)


def film(background):
    """Three frames, (3, H, W): a white disc moves over a still background."""
    frames = np.repeat(background[None], 3, axis=0)
    rows, columns = np.indices(background.shape)
    for t, frame in enumerate(frames):
        frame[np.hypot(rows - 65 - 15 * t, columns - 25 - 45 * t) < 12] = 1
    return frames


def matrix_picture():
    """The matrix for a 3 x 3 kernel on a 6 x 8 image, each weight in a colour of its own."""
    tap = np.arange(1.0, 10).reshape(1, 1, 3, 3)
    colours = ListedColormap(["#f4f4f4", *BLUES, *ORANGES, *GREYS])
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 6))
    left.imshow(tap[0, 0], cmap=colours, vmin=0, vmax=9)
    for i, j in np.ndindex(3, 3):
        left.text(j, i, f"$k_{{{i}{j}}}$", ha="center", va="center", color="wwk"[j], fontsize=14)
    left.set(title="kernel, 3 x 3", xticks=[], yticks=[])
    right.imshow(toeplitz(tap, (1, 1, 6, 8)), cmap=colours, vmin=0, vmax=9)
    right.set(xlabel="pixel of the 6 x 8 image, row by row", ylabel="output of 4 x 6, row by row")
    right.set(title="the same as a fully connected layer, 24 x 48", xticks=range(0, 48, 8))
    right.set_yticks(range(0, 24, 6))
    return figure


def dimensions_picture(signal, smoothed, slope, face, edges, frames, change):
    """What the kernels find in one, two and three dimensions."""
    figure = Figure(figsize=(9, 7.6), layout="constrained")
    parts = figure.subfigures(3, 1, height_ratios=(2.2, 3, 2))
    first = parts[0].subplots()
    first.plot(signal, ".", color="0.6", label="signal")
    first.plot(np.arange(len(smoothed)) + 7, smoothed, "C0", label="mean of 15")
    first.plot(np.arange(len(slope)) + 8, slope, "C1", label="mean of 8, less the mean of 8 before")
    first.set(xlabel="position", ylabel="value", title="1-D: smoothing, and finding a step")
    first.legend(loc="upper left")
    left, right = parts[1].subplots(1, 2)
    left.imshow(face, cmap="gray")
    right.imshow(edges, cmap="RdBu_r", vmin=-abs(edges).max(), vmax=abs(edges).max())
    left.set_title("2-D: a picture")
    right.set_title("its change along each row (red: brighter to the right)")
    below = parts[2].subplots(1, 5)
    for t, axes in enumerate(below[::2]):
        axes.imshow(frames[t], cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"3-D: frame {t}" if t == 0 else f"frame {t}")
    for t, axes in enumerate(below[1::2]):
        axes.imshow(change[t], cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set_title(f"frame {t + 1} less frame {t}")
    for axes in (left, right, *below):
        axes.set_axis_off()
    return figure


def main(argv=None):
    args = parser(__doc__).parse_args(argv)
    definition()
    as_a_fully_connected_layer()
    cost()
    convolution()

    # A signal with noise, and a kernel for steps: the mean of 8 values, less that of the 8 before.
    signal = noisy_step()
    rise = np.repeat([-1 / 8, 1 / 8], 8)
    any_number_of_axes(signal, rise)

    # In one dimension, a step comes out of the noise.
    slope = correlate(signal, rise)
    print(f"1-D: a step of 1 between 59 and 60, under noise. Found: {slope.max():.2f}", end=" ")
    print(f"between {slope.argmax() + 7} and {slope.argmax() + 8}.")
    # In two dimensions, Sobel's kernel finds the edges between left and right.
    face = photograph(150)
    sobel = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    edges = correlate(face, sobel)
    print(f"2-D: a picture {face.shape} gives a map of its edges {edges.shape}.")
    # In three, the kernel subtracts each frame of a film from the next.
    frames = film(face)
    change = correlate(frames, np.array([-1.0, 1]).reshape(2, 1, 1))
    print(f"3-D: frames {frames.shape} give their changes {change.shape}, of which", end=" ")
    print(f"{(change == 0).mean():.1%} are\nexactly 0: the background is gone, what moves is left.")

    smoothed = correlate(signal, np.full(15, 1 / 15))
    keep(matrix_picture(), "01_matrix", args)
    figure = dimensions_picture(signal, smoothed, slope, face, edges, frames, change)
    keep(figure, "01_dimensions", args)


if __name__ == "__main__":
    run(main)
