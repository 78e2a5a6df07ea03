"""Padding and stride: how large the output is, and which pixels no window reads.

Look for the floor in the formula: it cuts off rows and columns at the end. The picture shows, in
each pixel, the number of windows that read it.

In the course, Dive into Deep Learning: "Padding and Stride".
"""

import numpy as np
from gallery import convolution, keep, parser, run
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minicnn import Conv2D

SHAPES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (5, 3), "padding": (2, 1)},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": (3, 5), "padding": (0, 1), "stride": (3, 4)},
    {"kernel_size": 3, "stride": 2},
]

BLUES, ORANGE = colormaps["Blues"], "#fdae6b"


def summing(**geometry):
    """A layer that adds up each window: all its weights are 1."""
    layer = Conv2D(1, 1, bias=False, **geometry)
    layer.params["weight"][...] = 1
    return layer


def written(geometry):
    """In words: kernel_size 3, padding 1."""
    return ", ".join(f"{name} {value}" for name, value in geometry.items())


def course_size(layer, size):
    """The course's formula: its padding is the total of both sides."""
    kernel, stride, padding = layer.window.kernel, layer.window.stride, layer.window.padding
    return tuple((size - k + sum(p) + s) // s for k, p, s in zip(kernel, padding, stride))


def shapes():
    """The size of the output, computed in three ways that agree."""
    print("The output of an 8 x 8 image: from output_shape, by the course's formula, by running:")
    for geometry in SHAPES:
        layer = summing(**geometry)
        told, run = layer.output_shape((1, 1, 8, 8)), layer(np.ones((1, 1, 8, 8))).shape
        print(f"{written(geometry):50}{told[2:]}  {course_size(layer, 8)}  {run[2:]}")
    print()


def two_by_hand():
    """An image that is small enough to check each number."""
    X, K = np.arange(9.0).reshape(1, 1, 3, 3), np.array([[[[0.0, 1], [2, 3]]]])
    print("The image 0..8, 3 x 3, kernel [[0, 1], [2, 3]], padding 1:")
    print(convolution(K, padding=1)(X)[0, 0].astype(int))
    print("With stride (3, 2), every third row and every second column of these:")
    print(convolution(K, padding=1, stride=(3, 2))(X)[0, 0].astype(int))
    print()


def windows_of(layer, size):
    """How many windows read each entry of an image of this size. Each passes 1 to every entry that
    it reads, so backward counts them."""
    y, saved = layer.forward(np.ones((1, 1, *size)))
    return layer.backward(np.ones_like(y), saved)[0][0, 0].astype(int)


def left_out():
    """The floor in the formula leaves out rows and columns at the end."""
    print("output = floor((size + 2*padding - kernel) / stride) + 1, padding on each side.")
    print("With kernel 3 and stride 2, 8 rows give (8 - 3)/2 + 1 = 3.5, so 3: one row is left.")
    print("How many windows read each pixel:")
    print(windows_of(summing(kernel_size=3, stride=2), (8, 8)))
    print("The last row and column are in none. Other kernels and strides, without padding:")
    for kernel, stride in ((3, 1), (3, 2), (3, 3), (5, 4), (2, 3)):
        unread = windows_of(summing(kernel_size=kernel, stride=stride), (8, 8)).sum(axis=1) == 0
        rows = np.flatnonzero(unread)
        print(f"  kernel {kernel}, stride {stride}: rows in no window {rows}, ", end="")
        print(f"at the end (8 - {kernel}) mod {stride} = {(8 - kernel) % stride}")
    print("A stride above the kernel leaves gaps between the windows, too.\n")


def total_or_per_side():
    """The course's padding is the total of both sides, minicnn's is that of each side."""
    print("The course's formula has the total padding p, minicnn's the padding of each side, p/2.")
    print("The size is kept if p = kernel - 1. With equal sides that works for odd kernels only:")
    image = np.ones((1, 1, 8, 8))
    for kernel in (3, 4, 5):
        sizes = [summing(kernel_size=kernel, padding=p)(image).shape[2] for p in (1, 2)]
        print(f"  kernel {kernel}: total padding 2 gives {sizes[0]}, 4 gives {sizes[1]}")
    padded = np.pad(image, ((0, 0), (0, 0), (2, 1), (2, 1)))
    height = summing(kernel_size=4)(padded).shape[2]
    print(f"For kernel 4, np.pad with 2 before and 1 after gives {height}.\n")


def sizes_without_padding(size, kernel):
    """The size after each layer, as long as the kernel fits."""
    while size >= kernel:
        size = summing(kernel_size=kernel).output_shape((1, 1, size, size))[2]
        yield size


def how_deep():
    """Without padding, the image becomes smaller in each layer."""
    print("Without padding, a kernel of k removes k - 1 rows and columns in each layer. Kernel 5:")
    for size in (32, 224):
        sizes = list(sizes_without_padding(size, 5))
        print(f"  {size} x {size}: {len(sizes)} layers, then {sizes[-1]} x {sizes[-1]}", end="")
        print(", too small for one more")
    print()


def frame(axes, corner, shape, **style):
    """A frame just inside `shape` (height, width) cells that begin at `corner` (row, column)."""
    (row, column), (height, width) = np.add(corner, 0.07), np.subtract(shape, 0.14)
    axes.add_patch(Rectangle((column, row), width, height, fill=False, **style))


def draw(axes, geometry):
    """The padded image with three windows, and beside it the output with their results."""
    layer = summing(**geometry)
    (ph, _), (pw, _) = layer.window.padding
    counts = windows_of(summing(**geometry | {"padding": 0}), (8 + 2 * ph, 8 + 2 * pw))
    for (i, j), count in np.ndenumerate(counts):
        inside = ph <= i < ph + 8 and pw <= j < pw + 8
        face = ORANGE if count == 0 else BLUES(0.06 * count) if inside else "0.88"
        axes.add_patch(Rectangle((j - pw, i - ph), 1, 1, facecolor=face, edgecolor="0.7"))
        axes.text(j - pw + 0.5, i - ph + 0.5, count, ha="center", va="center", fontsize=9)
    output = layer.output_shape((1, 1, 8, 8))[2:]
    for i, j in np.ndindex(*output):
        axes.add_patch(Rectangle((11 + j, i), 1, 1, facecolor=BLUES(0.06), edgecolor="0.7"))
    for place, style in (((0, 0), "-"), ((0, 1), "--"), ((1, 0), ":")):
        corner = np.multiply(place, layer.window.stride) - (ph, pw)
        frame(axes, corner, layer.window.kernel, linestyle=style, linewidth=2.2)
        frame(axes, np.add(place, (0, 11)), (1, 1), linestyle=style, linewidth=2.2)
    axes.set_title(f"{written(geometry)}: {output[0]} x {output[1]}", fontsize=11)
    axes.set(xlim=(-1.2, 19.2), ylim=(9.2, -1.2), aspect="equal")
    axes.set_axis_off()


def picture():
    """How many windows read each pixel, for four choices of kernel, padding and stride."""
    figure = Figure(figsize=(9, 5.8), layout="constrained")
    for axes, geometry in zip(figure.subplots(2, 2).flat, (SHAPES[0], *SHAPES[2:])):
        draw(axes, geometry)
    meaning = "Numbers: windows that read this entry. Grey: padding. Orange: in no window."
    figure.suptitle(
        f"Each window of an image (left) gives one output (right).\n{meaning}", fontsize=11
    )
    return figure


def main(argv=None):
    args = parser(__doc__).parse_args(argv)
    shapes()
    two_by_hand()
    left_out()
    total_or_per_side()
    how_deep()
    keep(picture(), "04_windows", args)


if __name__ == "__main__":
    run(main)
