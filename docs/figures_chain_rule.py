"""Draws the figures of the pages on the chain rule and on one pass through a small network."""

import numpy as np
from drawing import BLUE, ORANGE, PLAIN, draw_matrix
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from minicnn import AvgPool2D, Conv2D, Flatten, Linear, Sequential, Sigmoid, softmax_cross_entropy

VALUE, GRADIENT = "#1f5fa8", "#c2410c"


def _wire(axes, start, end, value, gradient):
    """An arrow with the value that goes along it above, and the gradient that comes back below."""
    style = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)
    middle, along = (np.add(start, end)) / 2, np.subtract(end, start)
    aside = np.array([-along[1], along[0]]) / np.hypot(*along) * 0.24
    for text, sign, colour in (value, 1, VALUE), (gradient, -1, GRADIENT):
        place = middle + sign * aside
        axes.text(*place, text, ha="center", va="center", fontsize=13, color=colour, weight="bold")


def circuit():
    """L = x * max(x + b, c) as a circuit, with the value and the gradient on each wire."""
    x, b, c = 3, 2, 1
    s = x + b
    m = max(s, c)
    dm, dx_product = x, m
    ds, dc = (dm, 0) if s > c else (0, dm)
    nodes = {
        "$x$": (0, 0, PLAIN),
        "copy": (2.2, 0, BLUE),
        "$b$": (2.2, -2.9, PLAIN),
        "+": (4.2, -1.7, BLUE),
        "$c$": (4.2, -3.4, PLAIN),
        "max": (6.4, -1.7, BLUE),
        r"$\times$": (8.6, 0, BLUE),
        "$L$": (10.8, 0, PLAIN),
    }
    wires = [
        ("$x$", "copy", x, ds + dx_product),
        ("copy", r"$\times$", x, dx_product),
        ("copy", "+", x, ds),
        ("$b$", "+", b, ds),
        ("+", "max", s, ds),
        ("$c$", "max", c, dc),
        ("max", r"$\times$", m, dm),
        (r"$\times$", "$L$", x * m, 1),
    ]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, (left, top, colour) in nodes.items():
        axes.add_patch(Circle((left, top), 0.42, facecolor=colour, edgecolor="black", zorder=3))
        axes.text(left, top, name, ha="center", va="center", fontsize=12, zorder=4)
    for start, end, value, gradient in wires:
        ends = np.array([nodes[start][:2], nodes[end][:2]])
        step = ends[1] - ends[0]
        inset = 0.42 * step / np.hypot(*step)
        _wire(axes, ends[0] + inset, ends[1] - inset, value, gradient)
    axes.text(7.4, -2.9, "forward: values", color=VALUE, fontsize=12, weight="bold")
    axes.text(7.4, -3.4, "backward: gradients", color=GRADIENT, fontsize=12, weight="bold")
    axes.set(xlim=(-0.5, 11.3), ylim=(-3.9, 0.5), aspect="equal")
    axes.axis("off")
    return figure


def window_and_tap():
    """One output of a cross-correlation: its window in the image, and one tap of the kernel."""

    def named(letter, *shape):
        entries = np.empty(shape, dtype=object)
        for index in np.ndindex(shape):
            entries[index] = f"${letter}_{{{index[0]},{index[1]}}}$"
        return entries

    figure = Figure(figsize=(9, 2.5), layout="constrained")
    axes = figure.subplots()
    window = np.s_[0:2, 1:3]
    draw_matrix(axes, named("x", 3, 4), (0, 0), "$x$", [(window, BLUE), ((1, 1), ORANGE)])
    draw_matrix(axes, named("K", 2, 2), (6.5, 0.5), "$K$", [((1, 0), ORANGE)])
    draw_matrix(axes, named("y", 2, 3), (11, 0.5), "$y$", [((0, 1), BLUE)])
    for place, text in [(5.25, r"$\star$"), (9.75, "$=$")]:
        axes.text(place, 1.5, text, ha="center", va="center", fontsize=20)
    for place, text in [
        (2, "the window of output (0, 1)\nand the pixel under tap (1, 0)"),
        (7.5, "tap (1, 0)"),
        (12.5, "output (0, 1)"),
    ]:
        axes.text(place, 3.2, text, ha="center", va="top", fontsize=11)
    axes.set(xlim=(-0.8, 14.2), ylim=(4.5, -0.9), aspect="equal")
    axes.axis("off")
    return figure


def one_pass():
    """The network of the page: forward down on the left, backward up on the right."""
    image = np.array([[0.0, 1, 2, 1, 0], [1, 0, 1, 1, 0], [1, 0, 0, 2, 2]])
    net = Sequential(Conv2D(1, 1, 2), Sigmoid(), AvgPool2D(2), Flatten(), Linear(2, 3))
    net = net.astype(np.float64)
    params = {
        "0.weight": np.array([[[[1.0, -1], [0, 1]]]]),
        "0.bias": np.array([-1.0]),
        "4.weight": np.array([[1.0, -1], [0, 2], [-2, 1]]),
        "4.bias": np.array([0.0, 0, 1]),
    }
    net.load_params(params)
    x, forward, tape = image[None, None], [image], []
    for layer in net.layers:
        x, saved = layer.forward(x)
        forward.append(np.atleast_2d(x.squeeze()))
        tape.append(saved)
    loss, dx = softmax_cross_entropy(x, np.array([0]))
    backward, grads = [dx], {}
    for i, (layer, saved) in reversed(list(enumerate(zip(net.layers, tape)))):
        dx, layer_grads = layer.backward(dx, saved)
        backward.insert(0, np.atleast_2d(dx.squeeze()))
        grads |= {f"{i}.{name}": grad for name, grad in layer_grads.items()}

    def rounded(matrix):
        matrix = np.atleast_2d(np.squeeze(matrix))
        whole = np.array_equal(matrix, matrix.round())
        return np.vectorize(lambda number: f"{number:.0f}" if whole else f"{number:.3f}")(matrix)

    width, left, right, centre = 1.6, 8, 17.4, 12.7
    figure = Figure(figsize=(9, 7.6), layout="constrained")
    axes = figure.subplots()

    def put(matrix, middle, top, name, colour=PLAIN):
        matrix = rounded(matrix)
        corner = middle - matrix.shape[1] * width / 2, top
        draw_matrix(axes, matrix, corner, name, [(np.s_[:, :], colour)], width)

    def arrow(start, end, colour):
        style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.8}
        axes.annotate("", end, start, arrowprops=style)

    steps = [
        (0, 0, r"$\star\,K + b$"),
        (1, 5.2, "sigmoid"),
        (2, 9.4, "mean of 2×2"),
        (4, 13.6, "linear"),
        (5, 16.8, "softmax,\ncross-entropy"),
    ]
    tops = [top for _, top, _ in steps[1:]] + [20]
    for (index, top, step), following in zip(steps, tops):
        name = "x_3, x_4" if index == 4 else f"x_{index}"
        put(forward[index], left, top, f"${name}$", BLUE)
        put(backward[index], right, top, f"${name.replace('x', 'dx')}$", ORANGE)
        below = top + len(forward[index])
        arrow((left, below + 0.1), (left, following - 0.9), VALUE)
        arrow((right, following - 0.9), (right, below + 0.1), GRADIENT)
        axes.text(centre, (below + following - 0.7) / 2, step, ha="center", va="center")
    put(np.array(loss), left, 20, "$L$", BLUE)
    put(np.array(1), right, 20, "$dL$", ORANGE)
    for middle, values, letter in (1.8, params, ""), (23.9, grads, "d"):
        put(values["0.weight"], middle, 0.5, f"${letter}K$")
        put(values["0.bias"], middle, 3.7, f"${letter}b$")
        put(values["4.weight"], middle, 12.6, f"{letter}weight")
        put(values["4.bias"], middle, 16.8, f"{letter}bias")
    axes.set(xlim=(-0.8, 26.5), ylim=(21.2, -1.2), aspect="equal")
    axes.axis("off")
    return figure


FIGURES = [circuit, window_and_tap, one_pass]
