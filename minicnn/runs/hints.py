"""Hints at what may have gone wrong in a run. Each function returns a sentence, or None. Those that
look at a history return it in the first epoch in which it holds, so that it is told once, even if
the run was resumed in between."""

import math
from collections.abc import Callable

import numpy as np

from minicnn.backend import Array, to_device
from minicnn.datasets import Dataset
from minicnn.layers.base import Layer
from minicnn.training.history import History

SAMPLE = 2000  # images are looked at, so that a hint takes a fraction of a second
BATCH = 128


def _sample(data: Dataset) -> Array:
    """Numbers of up to SAMPLE images from all over the data, which may be sorted."""
    return np.random.default_rng(0).permutation(len(data))[:SAMPLE]


def nearly_equal(data: Dataset) -> str | None:
    """All pictures look the same: they were read wrongly, or the wrong files were given."""
    pixels = to_device(data.images[_sample(data)], "cpu")
    if len(pixels) < 2 or pixels.std(axis=0).mean() >= 1:  # of 255
        return None
    look = "are all black" if not pixels.any() else "are nearly equal"
    return f"the images of {data.name} {look}: look at them with minicnn data"


def dark_on_bright(data: Dataset) -> str | None:
    """The pictures are dark on bright, and not bright on dark as the images of MNIST and its kind,
    from which training starts."""
    pixels = to_device(data.images[_sample(data)], "cpu")
    sides = pixels[..., [0, -1], :], pixels[..., [0, -1]]
    borders = np.concatenate([side.reshape(len(pixels), -1) for side in sides], axis=1)
    if (borders.mean(axis=1) > 127).mean() <= 0.5:
        return None
    return (
        f"most images of {data.name} have a bright border, but the run to start from was trained "
        "on bright on dark: --invert exchanges them"
    )


def parted(history: History) -> str | None:
    """The network learns the training images by heart: the loss on the test set rises. A single
    such epoch is noise, two in a row are not."""
    columns = history.train_accuracy, history.test_accuracy, history.test_loss

    def apart(k: int) -> bool:
        return columns[0][k] - columns[1][k] >= 0.15 and columns[2][k] >= 1.2 * min(columns[2][:k])

    if not _first(len(history.test_loss), lambda k: k >= 2 and apart(k - 1) and apart(k)):
        return None
    return (
        f"overfitting: accuracy is {history.train_accuracy[-1]:.3f} on the training set but "
        f"{history.test_accuracy[-1]:.3f} on the test set, whose loss rises; more images, --shift, "
        "--weight-decay or fewer epochs may help"
    )


def below_chance(history: History, classes: int, images: int) -> str | None:
    """What was learned is wrong on the test set, of so many images, more often than guessing."""
    chance = 1 / classes
    least = chance - 4 * math.sqrt(chance * (1 - chance) / images)

    def below(k: int) -> bool:
        return history.train_accuracy[k] >= 0.5 and history.test_accuracy[k] < least

    if not _first(len(history.test_accuracy), below):
        return None
    return (
        f"accuracy on the test set, {history.test_accuracy[-1]:.3f}, is below that of guessing, "
        f"{chance:.3f}: its labels may be shifted or in another order than those of the training "
        "set"
    )


def _first(epochs: int, holds: Callable[[int], bool]) -> bool:
    """Whether the last epoch is the first, counted from 0, for which this holds."""
    return next(filter(holds, range(epochs)), None) == epochs - 1 and epochs > 0


def never_predicted(net: Layer, data: Dataset, history: History) -> str | None:
    """Some classes are in the data, but the network never names them; for the end of a run. A
    network that is wrong more often than right has not learned yet, whatever it names."""
    if history.train_accuracy[-1] < 0.5:
        return None
    index = _sample(data)
    labels = to_device(data.labels, "cpu")[index]
    data = data.to(net.device)
    found: set[int] = set()
    for first in range(0, len(index), BATCH):
        x, _ = data.batch(index[first : first + BATCH], net.dtype)
        found |= set(to_device(net(x).argmax(axis=1), "cpu").tolist())
    counts = np.bincount(labels, minlength=len(data.classes)).tolist()
    missed = [name for k, name in enumerate(data.classes) if counts[k] >= 10 and k not in found]
    if not missed:
        return None
    return f"never predicted on the test set: {', '.join(missed)}; are there enough images of them?"
