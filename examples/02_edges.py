"""Edges: what kernels made by hand find in an image.

A kernel of two weights, 1 and -1, responds where neighbours in a row differ. Look for the edges
that it misses, and in the gallery for the sign: red and blue are the two directions of a change.

In the course, Dive into Deep Learning: "Convolutions for Images", "Object Edge Detection in
Images", and the exercises there.
"""

import numpy as np
from gallery import keep, largest_difference, parser, photograph, run
from matplotlib.figure import Figure

from minicnn import corr2d

K = np.array([[1, -1]])

GREY = {
    "identity": [[1]],
    "blur: the sum of 5 x 5 pixels": [[1] * 5] * 5,
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
    "emboss": [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
    "integral: a running sum of 5": [[1] * 5],
}
SIGNED = {
    "difference along a diagonal": [[-1, 0], [0, 1]],
    "first derivative, along a row": [[-1, 1]],
    "first derivative, down a column": [[-1], [1]],
    "Sobel: a smoothed derivative": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "second derivative, along a row": [[1, -2, 1]],
    "second derivative, down a column": [[1], [-2], [1]],
    "Laplacian: the sum of both": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
}


def show(text, array):
    print(text)
    print(np.asarray(array).astype(int))


def straight_edges():
    """The kernel [[1, -1]] finds vertical edges, and its transpose finds horizontal ones."""
    X = np.ones((6, 8))
    X[:, 2:6] = 0
    show("A black bar on white, X:", X)
    show("With K = [[1, -1]], 1 is an edge from white to black, and -1 one back:", corr2d(X, K))
    show("K finds nothing in X transposed, where neighbours in a row are equal:", corr2d(X.T, K))
    show("K transposed finds those edges:", corr2d(X.T, K.T))
    print()


def diagonal_edges():
    """A diagonal edge is found by both, but not by the kernel along it."""
    X = np.tri(5)
    show("A diagonal edge, X:", X)
    show("K meets it once in each row but the last, which is all white:", corr2d(X, K))
    show("In X transposed it goes from black to white:", corr2d(X.T, K))
    show("K transposed meets it once in each column but the first:", corr2d(X, K.T))
    show(
        "[[1, 0], [0, -1]] compares neighbours along the edge, and misses it:",
        corr2d(X, np.diag([1, -1])),
    )
    print()


def derivatives():
    """Applied d times, the kernel [-1, 1] is the derivative of order d."""
    print("A derivative of order d takes d + 1 weights: the kernel [-1, 1] applied d times is one")
    print("kernel, too. Of 0^d, 1^d, 2^d, ... it makes d!, as it should:")
    kernel, j = np.array([1]), np.arange(8.0)
    for d in range(1, 5):
        kernel = np.convolve(kernel, [-1, 1])
        print(f"d = {d}: {kernel} gives {corr2d(j[None] ** d, kernel[None])[0].astype(int)}")


def integral(picture):
    """A running sum undoes the first derivative."""
    rises = corr2d(picture, [[-1, 1]])
    width = rises.shape[1]
    sums = corr2d(np.pad(rises, ((0, 0), (width - 1, 0))), np.ones((1, width)))
    difference = largest_difference(sums, picture[:, 1:] - picture[:, :1])
    print("A row of ones is the integral. The running sum of the picture's first derivative is the")
    print(f"picture again, less its first column: the largest difference is {difference:.0e}.")


def draw_kernel(axes, kernel):
    """The weights, each in a square of the size that a 5 x 5 kernel would have."""
    rows, columns = kernel.shape
    edges = (np.arange(columns + 1) - columns / 2, np.arange(rows + 1) - rows / 2)
    limit = 1.5 * max(2, np.abs(kernel).max())
    axes.pcolormesh(*edges, kernel, cmap="RdBu_r", vmin=-limit, vmax=limit, edgecolor="0.5")
    for (i, j), weight in np.ndenumerate(kernel):
        at = edges[0][j] + 0.5, edges[1][i] + 0.5
        axes.text(*at, weight, ha="center", va="center", fontsize=9)
    axes.set(xlim=(-2.6, 2.6), ylim=(2.6, -2.6), aspect="equal")
    axes.set_axis_off()


def gallery(picture):
    """Grey: black is 0, white what a white picture gives. Signed: white is 0."""
    figure = Figure(figsize=(9, 8.6), layout="constrained")
    for cell, (name, kernel) in zip(figure.subfigures(4, 3).flat, (GREY | SIGNED).items()):
        left, right = cell.subplots(1, 2, width_ratios=(1, 1.9))
        kernel, result = np.array(kernel), corr2d(picture, kernel)
        draw_kernel(left, kernel)
        if name in GREY:
            right.imshow(result, cmap="gray", vmin=0, vmax=kernel.sum())
        else:
            limit = np.percentile(np.abs(result), 99.5)
            right.imshow(result, cmap="RdBu_r", vmin=-limit, vmax=limit)
        right.set_axis_off()
        cell.suptitle(name, fontsize=11)
    return figure


def main(argv=None):
    args = parser(__doc__).parse_args(argv)
    straight_edges()
    diagonal_edges()
    derivatives()
    picture = photograph(150)
    integral(picture)
    keep(gallery(picture), "02_gallery", args)


if __name__ == "__main__":
    run(main)
