"""Draws the figures of the page on convolutions with several channels."""

import numpy as np
from drawing import BLUE, FRAMES, GREEN, GREY, ORANGE, draw_matrix, outline
from matplotlib.figure import Figure

PURPLE = "#cab8dd"


def channels_swap():
    """The kernels as forward uses them, and rotated and swapped as backward uses them."""
    weight = np.array(
        [[[[1, 2], [0, -1]], [[0, 1], [2, 1]]], [[[-1, 1], [2, 0]], [[1, 0], [-2, 3]]]]
    )
    fills = np.array([[BLUE, ORANGE], [GREEN, PURPLE]])
    panels = [
        ("forward: $K$ as it is", weight, fills, "K_{%d,%d}", "x", "y"),
        (
            "backward: rotated, and rows and columns swapped",
            weight.swapaxes(0, 1)[..., ::-1, ::-1],
            fills.T,
            "K_{%d,%d}",
            "dy",
            "dx",
        ),
    ]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, (title, kernels, colours, name, read, made) in zip(figure.subplots(1, 2), panels):
        for row, column in np.ndindex(2, 2):
            o, c = (row, column) if read == "x" else (column, row)
            corner = 1.5 + 3.2 * column, 1.5 + 3.4 * row
            fill = [(np.s_[:, :], colours[row, column])]
            label = f"${name % (o, c)}$" + ("" if read == "x" else " rotated")
            draw_matrix(axes, kernels[row, column], corner, label, fill)
        for k in range(2):
            middle = 2.5 + 3.2 * k
            axes.text(middle, -0.35, f"${read}_{k}$", ha="center", va="center", fontsize=15)
            text = f"$\\to\\ {made}_{k}$"
            axes.text(7.3, 2.5 + 3.4 * k, text, ha="left", va="center", fontsize=15)
            axes.text(4.1, 2.5 + 3.4 * k, "$+$", ha="center", va="center", fontsize=15)
            axes.annotate("", (middle, 0.6), (middle, 0), arrowprops={"arrowstyle": "->"})
        axes.set(xlim=(1, 9.2), ylim=(7.2, -0.9), aspect="equal")
        axes.set_title(title)
        axes.axis("off")
    return figure


def channels_padding():
    """The zeros around dy, and between its entries, for a row of 5 pixels and 3 taps."""
    rows = [
        ("$P = 0$: pad with 2", 0, 1),
        ("$P = 1$: pad with 1", 1, 1),
        ("$P = 2$: pad with 0", 2, 1),
        ("$P = 1$, stride 2", 1, 2),
    ]
    size, taps = 5, 3
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    for row, (label, padding, stride) in enumerate(rows):
        outputs = (size + 2 * padding - taps) // stride + 1
        spread = np.full((outputs - 1) * stride + 1, "0", dtype=object)
        spread[::stride] = [f"$dy_{q}$" for q in range(outputs)]
        cells = np.pad(spread, taps - 1 - padding, constant_values="0")[None]
        colours = [(index, GREY if cells[index] == "0" else ORANGE) for index in np.ndindex(1, 7)]
        top = 2.3 * row
        draw_matrix(axes, cells, (0, top), "", colours)
        for first, colour in (0, FRAMES[0]), (4, FRAMES[3]):
            outline(axes, (first, top), (1, taps), colour)
            text = f"$dx_{first}$"
            place = first + 1.5, top + 1.4
            axes.text(*place, text, ha="center", va="center", fontsize=13, color=colour)
        axes.text(-0.4, top + 0.5, label, ha="right", va="center", fontsize=12)
    draw_matrix(axes, np.array([["$K_2$", "$K_1$", "$K_0$"]]), (8.2, 0), "", [(np.s_[:, :], BLUE)])
    axes.text(7.6, 0.5, r"$\star$", ha="center", va="center", fontsize=20)
    axes.text(9.7, 1.4, "the kernel, rotated", ha="center", va="center", fontsize=12)
    axes.set(xlim=(-5, 11.5), ylim=(8.8, -0.3), aspect="equal")
    axes.axis("off")
    return figure


FIGURES = [channels_swap, channels_padding]
