"""Comments on a training loss: whether a plateau is normal, and how a run of the course's network
compares with the published ones."""

import dataclasses
import math

from minicnn.runs.settings import Origin, Settings
from minicnn.training.history import History

COURSE = Settings(epochs=10, batch_size=256, lr=0.9)
LARGE = 50_000  # images, as many as those of which these hints speak
COURSE_RUNS, COURSE_LOSS = 313, (0.449, 0.525)  # published, with PyTorch, MXNet and TensorFlow


def plateau(origin: Origin, history: History) -> str | None:
    """A comment on a sigmoid LeNet that does not learn yet, or None."""
    classes = len(origin.classes)
    if origin.model != "lenet" or origin.data == "digits":
        return None
    if history.train_loss[-1] < math.log(classes) - 0.01:
        return None
    epoch, level = len(history.train_loss), f"ln {classes} = {math.log(classes):.3f}"
    is_large = history.images >= LARGE
    if epoch == 1:
        time = "most of the first epoch" if is_large else "hundreds of steps"
        return f"normal at first: the sigmoid LeNet sits at {level} for {time}"
    if epoch >= 3:
        remedy = "a learning rate of 0.9, or another seed" if is_large else "--model lenet-relu"
        return (
            f"no longer normal: train loss {history.train_loss[-1]:.3f} is no better than "
            f"guessing, {level}; try {remedy}"
        )
    return None


def among_published(origin: Origin, settings: Settings, history: History) -> str | None:
    """How a run with the course's settings compares with the published ones, or None."""
    of_the_course = origin.model == "lenet" and origin.data == "fashion-mnist"
    if not of_the_course or dataclasses.replace(settings, seed=COURSE.seed) != COURSE:
        return None
    low, high = COURSE_LOSS
    loss = history.train_loss[-1]
    place = "inside" if low <= round(loss, 3) <= high else "outside"
    return (
        f"train loss {loss:.3f} is {place} {low} to {high}, where the {COURSE_RUNS} published runs "
        "of the course's builds ended (train acc about 0.82)"
    )
