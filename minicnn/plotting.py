"""Every picture, drawn with matplotlib and without a display."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from minicnn.checkpoint import write_atomically
from minicnn.training import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curves(history: History) -> "Figure":
    """Loss and accuracy against epochs, as the course draws them: training a few times an epoch,
    the test set after each epoch."""
    from matplotlib.figure import Figure  # here: importing it takes longer than all of minicnn

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs, loss, accuracy = zip(*history.curve)
    left.plot(epochs, loss, label="train loss")
    right.plot(epochs, accuracy, "C0", label="train accuracy")
    if history.test_accuracy:
        done = range(1, len(history.test_accuracy) + 1)
        left.plot(done, history.test_loss, "C1o--", markersize=4, label="test loss")
        right.plot(done, history.test_accuracy, "C1o--", markersize=4, label="test accuracy")
    left.set_ylim(bottom=0)
    right.set_ylim(0, 1)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def save_figure(figure: "Figure", path: Path | str) -> None:
    """Writes a picture; the ending of `path`, such as .png, names its format."""
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format=Path(path).suffix[1:])
    write_atomically(path, content.getvalue())
