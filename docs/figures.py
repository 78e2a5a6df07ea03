"""Draws the figures of the documentation: `python docs/figures.py` all, with names only those.

Those that move are in figures_moving.py.
"""

import sys
from pathlib import Path

import figures_chain_rule
import figures_channels
import matplotlib
import numpy as np
from drawing import BLUE, FRAMES, GREEN, GREY, ORANGE, PLAIN, draw_matrix, outline
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from minicnn import (
    GELU,
    SGD,
    Augmentation,
    BatchNorm2D,
    Conv2D,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
    corr2d,
    fashion_mnist,
    softmax,
    softmax_cross_entropy,
)
from minicnn.gradcheck import LossLayer
from minicnn.gradcheck.checklist import STEPS, step_errors

FOLDER = Path(__file__).parent / "figures"


def linear_uses():
    """The product X A^T: where an entry of X is used, and where an entry of A."""
    x = np.array([[1, 2], [3, -1], [-2, 1]])
    weight = np.array([[2, 1], [-1, 3], [1, 2], [3, -2]])
    panels = [
        (
            "$x_{0,1}$ is used in row 0 of $Y$,\nwith the factors $a_{o,1}$",
            ([((0, 1), ORANGE)], [(np.s_[1, :], BLUE)], [(np.s_[0, :], ORANGE)]),
        ),
        (
            "$a_{2,0}$ is used in column 2 of $Y$,\nwith the factors $x_{n,0}$",
            ([(np.s_[:, 0], BLUE)], [((0, 2), ORANGE)], [(np.s_[:, 2], ORANGE)]),
        ),
    ]
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    for axes, (title, (of_x, of_weight, of_product)) in zip(figure.subplots(1, 2), panels):
        draw_matrix(axes, x, (0, 3), "$X$", of_x)
        draw_matrix(axes, weight.T, (3, 0), "$A^T$", of_weight)
        draw_matrix(axes, x @ weight.T, (3, 3), "$X A^T$", of_product)
        axes.set(xlim=(-0.2, 7.2), ylim=(6.2, -0.9), aspect="equal")
        axes.set_title(title)
        axes.axis("off")
    return figure


def activations():
    """The activations with their derivatives, and the entries that the page computes."""
    panels = [
        ("sigmoid", Sigmoid(), np.log([1 / 3, 1, 3, 4])),
        ("tanh", Tanh(), np.log([1 / 2, 1, 3])),
        ("ReLU", ReLU(), np.array([-2.0, -1, 0, 1, 2, 3])),
        ("leaky ReLU, slope 1/2", LeakyReLU(0.5), np.array([-2.0, 0, 1, 2, 3])),
        ("GELU", GELU(), np.array([-1.0, 0, 1])),
    ]
    left, right = np.linspace(-4, 0, 200), np.linspace(1e-9, 4, 200)
    figure = Figure(figsize=(9, 6.8), layout="constrained")
    *grid, empty = figure.subplots(2, 3, sharey=True).flat
    for axes, (title, layer, entries) in zip(grid, panels):
        for x, styles in (left, ("-", "--")), (right, ("-", "--")), (entries, ("o", "o")):
            y, saved = layer.forward(x)
            dx, _ = layer.backward(np.ones_like(x), saved)
            axes.plot(x, y, styles[0], color="tab:blue", label="$f(x)$")
            axes.plot(x, dx, styles[1], color="tab:orange", label="$f\\,'(x)$")
        axes.set(xlim=(-4, 4), ylim=(-1.1, 3.2), xlabel="$x$", title=title)
        axes.grid(alpha=0.3)
    empty.legend(handles=axes.lines[:2], loc="center")
    empty.axis("off")
    return figure


def max_pooling():
    """Maximum pooling, 2x2 side by side: which entries win, and where the gradient goes."""
    x = np.array(
        [[1, 3, 2, 0, 5, 1], [4, 0, -1, 3, 2, 4], [2, 6, 1, 1, -3, 0], [-1, 5, 4, 2, 1, -2]]
    )
    dy = np.array([[2, -1, 3], [4, 1, -2]])
    layer = MaxPool2D(2)
    y, saved = layer.forward(x[None, None].astype(float))
    dx, _ = layer.backward(dy[None, None].astype(float), saved)
    y, dx = y[0, 0].astype(int), dx[0, 0].astype(int)
    colours = [(np.s_[i : i + 2, j : j + 2], BLUE) for i, j in [(0, 0), (0, 4), (2, 2)]]
    colours += [(tuple(winner), ORANGE) for winner in np.argwhere(dx)]
    figure = Figure(figsize=(9, 2.1), layout="constrained")
    panels = [(x, "$X$", y, "$Y$"), (dx, "$dX$", dy, "$dY$")]
    for axes, (image, name, pooled, pooled_name) in zip(figure.subplots(1, 2), panels):
        draw_matrix(axes, image, (0, 0), name, colours)
        draw_matrix(axes, pooled, (7, 1), pooled_name, [(np.s_[:], ORANGE)])
        axes.set(xlim=(-0.2, 10.2), ylim=(4.2, -0.9), aspect="equal")
        axes.axis("off")
    return figure


def convolution_rotation():
    """Stride 1: the weights over one entry of x, window by window, and the rotated kernel on dy."""
    weight, dy = np.array([[1, 2, -1], [3, -2, 1]]), np.array([[1, -1], [2, 3]])
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(5, 6))
    for (p, q), axes in zip(np.ndindex(2, 2), top.subplots(1, 4)):
        image = np.full((3, 4), "", dtype=object)
        image[p : p + 2, q : q + 3] = weight
        window = np.s_[p : p + 2, q : q + 3]
        draw_matrix(axes, image, (0, 0), "", [(window, BLUE), ((1, 1), ORANGE)])
        axes.set_title(f"window of $y_{{{p},{q}}}$")
        factors = f"weight {weight[1 - p, 1 - q]}, $dy_{{{p},{q}}} = {dy[p, q]}$"
        axes.text(2, 3.2, factors, ha="center", va="top")
        axes.set(xlim=(-0.2, 4.2), ylim=(3.8, -0.2), aspect="equal")
    top.suptitle("$x_{1,1}$ (orange) lies in four windows, each time under another weight of $K$")
    around = np.pad(dy, ((1, 1), (2, 2)))
    axes = bottom.subplots()
    draw_matrix(axes, around, (0, 0), "$dy$ with zeros around it", [(np.s_[1:3, 1:4], BLUE)])
    axes.text(7, 2, r"$\star$", ha="center", va="center", fontsize=26)
    draw_matrix(axes, weight[::-1, ::-1], (8, 1), "$K$ rotated by 180°", [(np.s_[:, :], BLUE)])
    total = r"$(-2) \cdot 1 + 3 \cdot (-1) + 2 \cdot 2 + 1 \cdot 3 = 2 = dx_{1,1}$"
    axes.text(5.5, 4.3, total, ha="center", va="top", fontsize=13)
    axes.set(xlim=(-0.2, 11.2), ylim=(5, -1), aspect="equal")
    for axes in figure.axes:
        axes.axis("off")
    return figure


def convolution_stride():
    """Stride 2, padding 1: the windows in the padded image, and the kernel times dy in each."""
    x = np.array([[1, 2, 0, -1], [3, -1, 2, 1], [0, 1, -2, 3]])
    weight, dy = np.array([[1, 2, -1], [3, -2, 1]]), np.array([[1, -1], [2, 3]])
    sums = np.full((5, 6), "", dtype=object)
    for p, q, i, j in np.ndindex(2, 2, 2, 3):
        term, at = dy[p, q] * weight[i, j], (2 * p + i, 2 * q + j)
        sums[at] = f"{sums[at]}{term:+d}" if sums[at] else f"{term}"
    sums[sums == ""] = "0"
    border = [(np.s_[:, :], GREY), (np.s_[1:4, 1:5], PLAIN)]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = [
        ("padded image", np.pad(x, 1), "$y_{%d,%d}$"),
        ("its gradient", sums, "$dy_{%d,%d} K$"),
    ]
    for axes, (title, matrix, label) in zip(figure.subplots(1, 2), panels):
        draw_matrix(axes, matrix, (0, 0), "", border)
        for (p, q), colour in zip(np.ndindex(2, 2), FRAMES):
            outline(axes, (2 * q, 2 * p), weight.shape, colour)
            x_text, y_text, side = (1, 4)[q], (-0.1, 5.1)[p], ("bottom", "top")[p]
            text = axes.text(x_text, y_text, label % (p, q), ha="center", va=side, fontsize=13)
            text.set_color(colour)
        axes.set(xlim=(-0.2, 6.2), ylim=(5.8, -0.8), aspect="equal")
        axes.set_title(title)
        axes.axis("off")
    return figure


def im2col_columns():
    """A window becomes a column, and what one tap reads at every output becomes a row."""
    x = np.array([[1, 2, 0, -1], [3, -1, 2, 1], [0, 1, -2, 3]])
    padded, taps = np.pad(x, 1), list(np.ndindex(2, 3))
    columns = np.array([padded[i : i + 3 : 2, j : j + 3 : 2].ravel() for i, j in taps])
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    window, tap, both = np.s_[0:2, 2:5], np.s_[1:4:2, 0:3:2], (1, 2)
    colours = [(np.s_[:, :], GREY), (np.s_[1:4, 1:5], PLAIN)]
    colours += [(window, BLUE), (tap, ORANGE), (both, GREEN)]
    draw_matrix(axes, padded, (0, 0.5), "padded image", colours)
    colours = [(np.s_[:, 1], BLUE), (np.s_[3, :], ORANGE), ((3, 1), GREEN)]
    draw_matrix(axes, columns, (10, 0), "", colours)
    axes.text(12, -0.9, "columns", ha="center", va="bottom", fontsize=13)
    for row, (i, j) in enumerate(taps):
        axes.text(9.8, row + 0.5, f"tap ({i}, {j})", ha="right", va="center")
    for column, (p, q) in enumerate(np.ndindex(2, 2)):
        axes.text(column + 10.5, -0.15, f"$y_{{{p},{q}}}$", ha="center", va="bottom")
    axes.set(xlim=(-0.2, 14.2), ylim=(6.2, -1.7), aspect="equal")
    axes.axis("off")
    return figure


def im2col_matrix():
    """The 0/1 matrix of im2col: for each entry of the columns, the entry of the image it copies."""
    entries = np.arange(30).reshape(5, 6)
    taps = [entries[i : i + 3 : 2, j : j + 3 : 2] for i, j in np.ndindex(2, 3)]
    copied = np.concatenate([tap.ravel() for tap in taps])
    figure = Figure(figsize=(9, 7.4), layout="constrained")
    axes = figure.subplots()
    inside = np.pad(np.ones((3, 4), bool), 1).ravel()
    for entry in range(30):
        fill = PLAIN if inside[entry] else GREY
        axes.add_patch(Rectangle((entry, 0), 1, 24, facecolor=fill))
    for row, entry in enumerate(copied):
        axes.add_patch(Rectangle((entry, row), 1, 1, facecolor="black"))
    axes.hlines(range(25), 0, 30, colors="white", linewidths=0.8)
    axes.vlines(range(31), 0, 24, colors="white", linewidths=0.8)
    axes.hlines(range(0, 25, 4), 0, 30, colors="black", linewidths=1)
    axes.vlines(range(0, 31, 6), 0, 24, colors="black", linewidths=1)
    for k, (i, j) in enumerate(np.ndindex(2, 3)):
        axes.text(-0.3, 4 * k + 2, f"tap ({i}, {j})", ha="right", va="center")
    for row in range(5):
        axes.text(6 * row + 3, -0.3, f"image row {row}", ha="center")
    axes.set(xlim=(-3.6, 30.2), ylim=(24.2, -1.3), aspect="equal")
    axes.axis("off")
    return figure


def sgd_paths():
    """Twenty steps of plain SGD, momentum and Nesterov momentum in an elongated bowl."""
    start, curvature = np.array([-10.0, 3.0]), np.array([1.0, 16.0])
    x, y = np.meshgrid(np.linspace(-11, 8, 200), np.linspace(-3.7, 3.7, 100))
    bowl = (curvature[0] * x**2 + curvature[1] * y**2) / 2
    runs = [
        ("plain", SGD(0.05)),
        ("momentum 0.8", SGD(0.05, momentum=0.8)),
        ("Nesterov momentum 0.8", SGD(0.05, momentum=0.8, nesterov=True)),
    ]
    figure = Figure(figsize=(8, 9), layout="constrained")
    for axes, (name, optimizer) in zip(figure.subplots(3, 1, sharex=True), runs):
        w, path = start.copy(), [start]
        for _ in range(20):
            optimizer.step({"w": w}, {"w": curvature * w})
            path.append(w.copy())
        axes.contour(x, y, bowl, [0.5, 2, 8, 24, 50, 90], colors="#bdbdbd", linewidths=1)
        axes.plot(*np.transpose(path), ".-", color="#d95f0e", markersize=8)
        axes.plot(0, 0, "+", color="black", markersize=12)
        axes.set_title(f"{name}: loss {(curvature * w**2).sum() / 2:.2g} after 20 steps")
        axes.set(ylabel="curvature 16", aspect="equal")
    axes.set_xlabel("curvature 1")
    return figure


def glorot_layers():
    """Standard deviation of activations and gradients through ten layers, for three scales."""
    features, depth = 256, 10
    glorot = np.sqrt(6 / (2 * features))
    runs = [
        ("U(±1/sqrt(fan_in)), a third of Glorot's variance", 3**-0.5, "#3182bd", "v"),
        ("Glorot", 1, "black", "o"),
        ("nine times Glorot's variance", 3, "#d95f0e", "^"),
    ]
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    forward_axes, backward_axes = figure.subplots(1, 2, sharey=True)
    for name, scale, colour, marker in runs:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((256, features))
        outputs, tape = [x.std()], []
        for _ in range(depth):
            weight = rng.uniform(-scale * glorot, scale * glorot, (features, features))
            x = np.tanh(x @ weight.T)
            outputs.append(x.std())
            tape.append((weight, x))
        dx = rng.standard_normal(x.shape)
        gradients = [dx.std()]
        for weight, y in reversed(tape):
            dx = dx * (1 - y**2) @ weight
            gradients.append(dx.std())
        style = {"color": colour, "marker": marker}
        forward_axes.semilogy(outputs, label=name, **style)
        backward_axes.semilogy(gradients[::-1], **style)
    forward_axes.set(title="activations, left to right", ylabel="standard deviation")
    backward_axes.set(title="gradients, right to left")
    for axes in forward_axes, backward_axes:
        axes.set(xlabel="after layer (0: the input)", xticks=range(depth + 1))
        axes.grid(color="#dddddd")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def two_convolutions():
    """Two convolutions in a row: each kernel's gradient, and the two arrays that it is made of."""
    image = np.array([[-1, 1, 0, 2, 2], [1, 2, -1, 0, 0], [2, 0, -1, 1, 0], [0, 1, 2, 2, -1]])
    weights = [np.array([[1, 2], [-1, 1]]), np.array([[2, -1], [1, 3]])]
    forward, backward, dweights = [image], [np.array([[1, 2, -1], [0, -1, 2]])], []
    for weight in weights:
        forward.append(corr2d(forward[-1], weight).astype(int))
    for weight, x in zip(weights[::-1], forward[1::-1]):
        dweights.insert(0, corr2d(x, backward[0]).astype(int))
        dx = corr2d(np.pad(backward[0], 1), weight[::-1, ::-1])
        backward.insert(0, dx.astype(int))
    corners, top, middle, bottom = [0, 8.5, 16], 0, 5.3, 9
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    axes = figure.subplots()

    def arrow(start, end, label=""):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "linewidth": 1.5})
        x, y = (start[0] + end[0]) / 2, start[1] - 0.2
        axes.text(x, y, label, ha="center", va="bottom", fontsize=13)

    for i, (x, of_forward, of_backward) in enumerate(zip(corners, forward, backward)):
        is_input, is_upstream = (BLUE, PLAIN)[i == 2], (PLAIN, ORANGE)[i > 0]
        draw_matrix(axes, of_forward, (x, top), f"$x_{i}$", [(np.s_[:, :], is_input)])
        draw_matrix(axes, of_backward, (x, bottom), f"$dx_{i}$", [(np.s_[:, :], is_upstream)])
    for i, dweight in enumerate(dweights):
        left, right = corners[i] + forward[i].shape[1], corners[i + 1]
        centre = (left + right) / 2
        draw_matrix(axes, dweight, (centre - 1, middle), f"$dK_{i + 1}$")
        arrow((left + 0.3, top + 1.5), (right - 0.3, top + 1.5), rf"$\star\ K_{i + 1}$")
        arrow((right - 0.3, bottom + 1.5), (left + 0.3, bottom + 1.5), rf"$\ast\ K_{i + 1}$")
        arrow((left - 0.3, top + len(forward[i]) + 0.2), (centre - 1.2, middle + 0.6))
        arrow((right + 0.3, bottom - 0.2), (centre + 1.2, middle + 1.4))
    axes.set(xlim=(-0.2, 19.2), ylim=(13.2, -1), aspect="equal")
    axes.axis("off")
    return figure


def secants():
    """The tangent of x**3 at 2, and the secants to the right, to the left and across, for h = 1."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    x = np.linspace(0.6, 3.2, 200)
    axes.plot(x, x**3, color="black", linewidth=1.5)
    axes.axline((2, 8), slope=12, color="black", linestyle="--", label="tangent, slope 12")
    for left, right, colour, side in [
        (2, 3, "#d95f0e", "to the right"),
        (1, 2, "#3182bd", "to the left"),
        (1, 3, "#31a354", "across, the central difference"),
    ]:
        slope = (right**3 - left**3) / (right - left)
        label = f"{side}, slope {slope:g}"
        axes.plot([left, right], [left**3, right**3], "o-", color=colour, label=label)
    axes.set(xlim=(0.6, 3.2), ylim=(-4, 31), xlabel="$x$", xticks=[1, 2, 3])
    axes.set_ylabel("$f(x) = x^3$")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure


def steps():
    """The error of central differences against the step, for three layers."""
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((3, 5)), rng.integers(0, 5, 3)
    layers = [
        ("softmax with cross-entropy", LossLayer(softmax_cross_entropy, labels), "#d95f0e", "o"),
        ("Tanh", Tanh(), "#3182bd", "^"),
        ("Linear", Linear(5, 4, rng=rng), "#31a354", "s"),
    ]
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for name, layer, colour, marker in layers:
        errors = step_errors(layer, x, STEPS)
        axes.loglog(STEPS, errors, color=colour, marker=marker, markersize=5, label=name)
    for (h, error), slope, side in [((1e-2, 1e-4), 2, "right"), ((1e-8, 1e-6), -1, "left")]:
        ends = np.array([h / 10, h * 10])
        axes.loglog(ends, error * (ends / h) ** slope, "--", color="black", linewidth=1)
        axes.text(h, 3 * error, f"slope {slope}", ha=side, va="bottom")
    axes.axvline(1e-5, color="#999999", linewidth=1)
    axes.text(1.2e-5, 2e-15, "the checker's step", color="#666666")
    axes.set(xlabel="step $h$", ylabel="largest relative error", ylim=(1e-16, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center")
    return figure


def augmentation():
    """Ten images of Fashion-MNIST, one of each class, and what augmentation makes of them."""
    train, _ = fashion_mnist()
    images = train.images[[int((train.labels == k).argmax()) for k in range(10)]]
    both = Augmentation(mirror=True, shift=2, erase=0.5)
    rows = [
        ("images", Augmentation()),
        ("mirror=True", Augmentation(mirror=True)),
        ("shift=4", Augmentation(shift=4)),
        ("erase=1.0", Augmentation(erase=1.0)),
        ("mirror=True,\nshift=2,\nerase=0.5", both),
        ("again", both),
        ("and again", both),
    ]
    rng = np.random.default_rng(1)
    figure = Figure(figsize=(9, 5.7))
    edges = {"left": 0.13, "right": 1, "bottom": 0, "top": 1, "hspace": 0.1}
    for axes, (name, augment) in zip(figure.subplots(len(rows), 1, gridspec_kw=edges), rows):
        framed = np.pad(augment(images, rng)[:, 0], ((0, 0), (0, 0), (1, 1)), constant_values=255)
        row = np.concatenate(framed, axis=1)
        # each pixel four times each way: viewers blur what they enlarge
        axes.imshow(row.repeat(4, 0).repeat(4, 1), cmap="gray", interpolation="none")
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[], frame_on=False)
    return figure


def batch_norm_paths():
    """The three paths from a number of a channel to its normalised numbers."""
    count, chosen, boxes_at, right = 6, 1, 4.6, 9
    boxes = {"mean": (2, "#d95f0e"), "var": (4, "#2ca02c")}
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axes = figure.subplots()

    def arrow(start, end, colour, width=1.8):
        style = {"color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", end, start, arrowprops=style | {"arrowstyle": "->"})

    def label(x, y, text, colour):
        frame = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(x, y, text, ha="center", va="center", fontsize=13, color=colour, bbox=frame)

    for name, (y, colour) in boxes.items():
        for m in range(count):
            is_chosen = m == chosen
            arrow((0.4, m), (boxes_at - 0.65, y), *((colour,) if is_chosen else (GREY, 1)))
            arrow((boxes_at + 0.65, y), (right - 0.4, m), colour, 1)
        box = Rectangle((boxes_at - 0.6, y - 0.3), 1.2, 0.6, facecolor=PLAIN, edgecolor="black")
        axes.add_patch(box)
        axes.text(boxes_at, y, name, ha="center", va="center", fontsize=13)
    arrow((0.4, chosen), (right - 0.4, chosen), FRAMES[0])
    for m in range(count):
        fill = ORANGE if m == chosen else PLAIN
        for x, name, colour in (0, "x", fill), (right, r"\hat{x}", BLUE):
            axes.add_patch(Circle((x, m), 0.34, facecolor=colour, edgecolor="black", zorder=3))
            axes.text(x, m, f"${name}_{m}$", ha="center", va="center", fontsize=13, zorder=4)
    label(boxes_at, chosen, "$s$", FRAMES[0])
    label(2.1, 1.48, "$1/M$", boxes["mean"][1])
    label(6.6, 2, "$-s$", boxes["mean"][1])
    label(2.1, 2.44, r"$2\,(x_1 - \mathrm{mean})/M$", boxes["var"][1])
    label(6.6, 4, r"$-\hat{x}_m s^2/2$", boxes["var"][1])
    axes.set(xlim=(-0.5, right + 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
    axes.axis("off")
    return figure


def softmax_gradient():
    """A row of logits, its probabilities, and the gradient, which they become at the label."""
    z = np.log([[1.0, 2, 5]])
    p, (_, dz) = softmax(z), softmax_cross_entropy(z, np.array([1]))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    titles = (
        "logits $z$",
        "probabilities $p$, which add up to 1",
        "$dz = p - 1$ at the label, else $p$",
    )
    for each, values, title in zip(axes, (z[0], p[0], dz[0]), titles):
        colours = [ORANGE if k == 1 else BLUE for k in range(3)]
        bars = each.bar(range(3), values, color=colours, edgecolor="black")
        each.bar_label(bars, fmt="%.3f", padding=3)
        each.axhline(0, color="black", linewidth=0.8)
        each.set(title=title, xticks=range(3))
        each.set_xticklabels(["class 0", "class 1,\nthe label", "class 2"])
        each.margins(y=0.2)
        each.spines[["top", "right"]].set_visible(False)
    return figure


def residual_gradients():
    """The size of the gradient through twenty layers, without shortcuts and with them."""
    channels, depth = 16, 20

    def layer(rng, normalised):
        first = [BatchNorm2D(channels)] if normalised else []
        return Sequential(*first, ReLU(), Conv2D(channels, channels, 3, padding=1, rng=rng))

    runs = [
        ("ReLU, convolution", False, False, "#3182bd", "v"),
        ("the same with a shortcut", True, False, "#d95f0e", "^"),
        ("batch norm, ReLU, convolution, with a shortcut", True, True, "black", "o"),
    ]
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    for name, shortcut, normalised, colour, marker in runs:
        rng = np.random.default_rng(0)
        layers = [layer(rng, normalised) for _ in range(depth)]
        layers = [Residual(body) for body in layers] if shortcut else layers
        x, tape = rng.standard_normal((16, channels, 16, 16)), []
        for each in layers:
            x, saved = each.forward(x)
            tape.append(saved)
        dx = rng.standard_normal(x.shape)
        sizes = [dx.std()]
        for each, saved in zip(layers[::-1], tape[::-1]):
            dx, _ = each.backward(dx, saved)
            sizes.append(dx.std())
        axes.semilogy(sizes[::-1], label=name, color=colour, marker=marker, markersize=5)
    axes.set(xlabel="after layer (0: the input)", xticks=range(0, depth + 1, 2))
    axes.set(ylabel="standard deviation of the gradient")
    axes.grid(color="#dddddd")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


FIGURES = {
    figure.__name__: figure
    for figure in [
        linear_uses,
        activations,
        max_pooling,
        convolution_stride,
        convolution_rotation,
        im2col_columns,
        im2col_matrix,
        sgd_paths,
        glorot_layers,
        two_convolutions,
        secants,
        steps,
        augmentation,
        batch_norm_paths,
        residual_gradients,
        softmax_gradient,
        *figures_chain_rule.FIGURES,
        *figures_channels.FIGURES,
    ]
}


def main(names):
    matplotlib.rcParams["svg.hashsalt"] = "the same file each time"
    FOLDER.mkdir(exist_ok=True)
    for name in names or FIGURES:
        path = FOLDER / f"{name}.svg"
        FIGURES[name]().savefig(path, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1:])
