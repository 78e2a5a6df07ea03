"""Pictures, drawn with matplotlib; no display is needed. The training curves are those of the
History in training/history.py."""

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.arguments import are_strings, flag, integer, numbers, positive, require
from minicnn.backend import Array
from minicnn.datasets import Dataset
from minicnn.files import as_path, write_atomically
from minicnn.notebook import new_figure, notebook_cell, rendered
from minicnn.training.history import training_curves as training_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def image_grid(
    images: Sequence[Array],
    titles: Sequence[str] | None = None,
    columns: int = 8,
    signed: bool = False,
    size: float = 1.3,
) -> "Figure":
    """Images (H, W) or (H, W, 3) side by side, `columns` in a row, each `size` inches wide.

    Each is scaled to its own range of values, from black to white; if `signed`, all share one scale
    from blue (negative) through white (zero) to red.
    """
    is_some = isinstance(images, (list, tuple, np.ndarray)) and len(images) > 0
    require(is_some, "images must be a list of one or more images", images)
    images = [numbers("an image", image) for image in images]
    for image in images:
        is_image = image.size > 0 and (image.ndim == 2 or image.shape[2:] in ((3,), (4,)))
        require(is_image, "an image must be of shape (H, W) or (H, W, 3)", image)
    if titles is not None:
        is_titles = are_strings(titles) and len(titles) == len(images)
        require(is_titles, f"titles must be a list of {len(images)} strings", titles)
    flag("signed", signed)
    positive("size", size)
    columns = min(integer("columns", columns, 1), len(images))
    rows = math.ceil(len(images) / columns)
    height, width = images[0].shape[:2]
    lines = 1 + max(title.count("\n") for title in titles) if titles else 0
    cell = size * height / width + 0.1 + 0.15 * lines
    figure = new_figure(figsize=(columns * size, rows * cell), layout="constrained")
    style: dict[str, Any] = {"cmap": "gray"}
    if signed:
        limit = max(float(abs(image).max()) for image in images) or 1.0
        style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if i < len(images):
            axes.imshow(images[i], **style)
            if titles:
                axes.set_title(titles[i], fontsize=8, parse_math=False)
    return figure


def labelled_images(data: Dataset, index: Sequence[int] | Array, columns: int = 8) -> "Figure":
    """The images of a data set at those indices, each below the name of its class. One axes holds
    them all, which is drawn in a tenth of the time that one for each would take."""
    require(isinstance(data, Dataset), "data must be a Dataset, as digits() gives two", data)
    chosen, labels = data.to("cpu").batch(np.asarray(index))  # (n, C, H, W)
    require(len(labels) > 0, "index must be that of one or more images", index)
    columns = min(integer("columns", columns, 1), len(labels))
    rows, (height, width) = math.ceil(len(labels) / columns), chosen.shape[2:]
    gap, between = math.ceil(height / 4), math.ceil(width / 8)  # above and beside each image
    mosaic = np.ones((rows * (height + gap), columns * (width + between), 3), np.float32)
    cell = 1 + 1 / 8  # inches
    size = columns * cell, rows * cell * (height + gap) / (width + between)
    figure = new_figure(figsize=size)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for i, (image, label) in enumerate(zip(chosen, labels)):
        row, column = divmod(i, columns)
        top, left = row * (height + gap) + gap, column * (width + between) + between // 2
        mosaic[top : top + height, left : left + width] = image.transpose(1, 2, 0)
        name = data.classes[label]
        axes.text(
            left + width / 2 - 0.5,
            top - 0.5 - gap / 8,
            name if len(name) <= 16 else f"{name[:14]}...",
            ha="center",
            va="bottom",
            fontsize=8,
            parse_math=False,
        )
    axes.imshow(mosaic, aspect="auto", interpolation="nearest")
    return figure


def confusion_matrix(counts: Array, classes: Sequence[str]) -> "Figure":
    """Counts (K, K) of images, with true classes in rows and predicted classes in columns. Colour
    shows the share of the row, so that classes of different sizes can be compared."""
    is_names = are_strings(classes) and len(classes) > 0
    require(is_names, "classes must be a list of names", classes)
    counts, k = numbers("counts", counts), len(classes)
    require(counts.shape == (k, k), f"counts must be of shape ({k}, {k})", counts)
    figure = new_figure(figsize=(2 + 0.6 * k, 1.6 + 0.5 * k), layout="constrained")
    axes = figure.subplots()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i in range(k):
        for j in range(k):
            colour = "white" if shares[i, j] > 0.5 else "black" if counts[i, j] else "lightgrey"
            axes.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", color=colour)
    axes.set_xticks(range(k), classes, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(k), classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    return figure


class LiveFigure:
    """Shows figures, each replacing the one before: below the cell of a notebook, in a window, or,
    without a display, in the PNG file `path`. `place` says which."""

    def __init__(self, path: Path | str) -> None:
        path = as_path(path)
        if cell := notebook_cell():
            self.place, self._show = "the notebook", cell
        elif window := _window():
            self.place, self._show = "a window", window
        else:
            self.place, self._show = str(path), partial(write_atomically, path)

    def show(self, figure: "Figure") -> None:
        self._show(rendered(figure, "png"))


def _window() -> Callable[[bytes], None] | None:
    """A function that shows a PNG in a new window; None without a display. The window is plain Tk,
    since matplotlib shows only figures that come from pyplot, with its global state."""
    try:
        import tkinter
    except ImportError:  # many systems package it separately
        return None
    try:
        window = tkinter.Tk(className="minicnn")
    except tkinter.TclError:  # no display
        return None
    label = tkinter.Label(window)
    label.pack()

    def show(png: bytes) -> None:
        with contextlib.suppress(tkinter.TclError):  # closed by hand; training continues
            image = tkinter.PhotoImage(master=window, data=png)
            label.image = image  # type: ignore[attr-defined]  # Tk keeps no reference to it
            label.configure(image=image)
            window.update()

    return show


def save_figure(figure: "Figure", path: Path | str) -> None:
    """Writes a picture; the ending of `path`, such as .png, names its format."""
    path = as_path(path)
    write_atomically(path, rendered(figure, path.suffix[1:]))
