"""What the figures of the documentation are drawn with: colours, matrices, frames."""

import numpy as np
from matplotlib.patches import Rectangle

BLUE, ORANGE, PLAIN = "#9ecae1", "#fdae6b", "#f4f4f4"
GREEN, GREY = "#a1d99b", "#d0d0d0"
FRAMES = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd"]


def draw_matrix(axes, matrix, corner, name, colours=(), width=1):
    """A grid of numbers whose upper left corner is at (x, y); `colours`: (index, colour) pairs."""
    (x, y), (_, columns) = corner, matrix.shape
    fill = np.full(matrix.shape, PLAIN, dtype=object)
    for index, colour in colours:
        fill[index] = colour
    for (i, j), number in np.ndenumerate(matrix):
        cell = x + j * width, y + i
        axes.add_patch(Rectangle(cell, width, 1, facecolor=fill[i, j], edgecolor="black"))
        axes.text(cell[0] + width / 2, y + i + 0.5, f"{number}", ha="center", va="center")
    axes.text(x + columns * width / 2, y - 0.15, name, ha="center", va="bottom", fontsize=13)


def outline(axes, corner, shape, colour):
    """A frame just inside `shape` (height, width) cells whose upper left corner is at (x, y)."""
    (x, y), (height, width) = np.add(corner, 0.07), np.subtract(shape, 0.14)
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=3))
