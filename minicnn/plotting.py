"""Every picture, drawn with matplotlib and without a display."""

from pathlib import Path

from matplotlib.figure import Figure

from minicnn.training import History


def training_curves(history: History) -> Figure:
    """Loss and accuracy against epochs, as the course draws them: training a few times an epoch,
    the test set after each epoch."""
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


def save_figure(figure: Figure, path: Path | str) -> None:
    """Writes a picture; the ending of `path` names its format."""
    figure.savefig(path, dpi=120)
