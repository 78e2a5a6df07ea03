"""How training went, and where it stands."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from minicnn.arguments import require
from minicnn.backend import Array, array_module, to_device
from minicnn.notebook import new_figure, rendered
from minicnn.text import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Unread = tuple[int, float | Array, int | Array, int]  # step, loss, correct, images


class TrainingError(ValueError):
    """Training cannot continue: a loss or a weight is no longer a finite number."""


class NotFinite(TrainingError):
    """The loss of a step, counted from 1, is not finite."""

    def __init__(self, epoch: int, step: int, loss: float) -> None:
        super().__init__(f"the loss is {loss} in epoch {epoch}, step {step}")
        self.step = step


@dataclass
class History:
    """How training went. Lists have one entry per epoch; training losses and accuracies are means
    over the epoch while the weights were changing, those of the test set are measured after it.
    Accuracies are from 0 to 1."""

    images: int
    device: str
    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    train_seconds: list[float] = field(default_factory=list)
    curve: list[tuple[float, float, float]] = field(default_factory=list)
    """(epochs done, training loss, training accuracy), a few times per epoch"""

    @property
    def images_per_second(self) -> float:
        """Over all epochs, including the cutting of batches but not evaluation."""
        return self.images * len(self.train_seconds) / sum(self.train_seconds)

    def summary(self) -> str:
        """Two lines: loss and accuracy, and speed."""
        test = f", test acc {self.test_accuracy[-1]:.3f}" if self.test_accuracy else ""
        return (
            f"loss {self.train_loss[-1]:.3f}, train acc {self.train_accuracy[-1]:.3f}{test}\n"
            f"{self.images_per_second:.1f} examples/sec on {self.device}"
        )

    def _repr_png_(self) -> bytes | None:
        """For Jupyter: the training curves."""
        return rendered(training_curves(self), "png") if self.curve else None


def training_curves(history: History) -> "Figure":
    """Loss and accuracy against epochs: on the training set a few times an epoch, on the test set
    after each epoch."""
    is_history = isinstance(history, History) and bool(history.curve)
    require(is_history, "history must be what fit returns after one epoch or more", history)

    figure = new_figure(figsize=(9, 3.6), layout="constrained")
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


@dataclass
class Position:
    """Where training stands: the finished epochs in `history`, and in the current epoch the steps
    taken, sums over their images, and seconds. `read` brings the sums up to date."""

    history: History
    step: int = 0
    seen: int = 0
    loss_sum: float = 0.0
    correct_sum: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._unread: list[Unread] = []

    def keep(self, loss: float | Array, correct: int | Array, images: int) -> None:
        """Keeps the numbers of the step after `step`, to be read later."""
        self._unread.append((self.step + 1, loss, correct, images))

    def read(self) -> None:
        """Adds the kept numbers to the sums. If they are on a GPU, this holds up its work. Raises
        TrainingError for a loss that is not finite."""
        for step, loss, correct, images in _on_host(self._unread):
            if not math.isfinite(loss):
                raise NotFinite(len(self.history.train_loss) + 1, step, loss)
            self.seen += images
            self.loss_sum += loss * images
            self.correct_sum += correct
        self._unread.clear()

    @property
    def place(self) -> str:
        """In words, such as "2 epochs and 3 steps"."""
        epochs = len(self.history.train_loss)
        words = [
            number(count, noun) for count, noun in ((epochs, "epoch"), (self.step, "step")) if count
        ]
        return " and ".join(words) or "no step"

    @property
    def means(self) -> tuple[float, float]:
        """(loss, accuracy) over the images seen so far in this epoch."""
        return self.loss_sum / self.seen, self.correct_sum / self.seen


def _on_host(unread: list[Unread]) -> list[tuple[int, float, int, int]]:
    """The same with Python's numbers. Those on a GPU are read together, as float64, which holds a
    float32 and a count exactly."""
    if all(isinstance(correct, (int, np.generic, np.ndarray)) for _, _, correct, _ in unread):
        return [(step, float(loss), int(correct), n) for step, loss, correct, n in unread]
    steps, losses, corrects, images = zip(*unread)
    xp = array_module(corrects[0])
    arrays = xp.stack([xp.asarray(loss) for loss in losses]), xp.stack(corrects)
    losses, corrects = to_device(xp.stack(arrays), "cpu").tolist()
    return [*zip(steps, losses, map(int, corrects), images)]
