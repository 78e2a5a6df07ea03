"""What to think of a training loss: whether a plateau is normal, and where a run of the course's
network stands among the published ones."""

import math

from minicnn.training.history import History

COURSE = {
    "model": "lenet",
    "data": "fashion-mnist",
    "lr": 0.9,
    "epochs": 10,
    "batch_size": 256,
    "momentum": 0.0,
    "nesterov": False,
    "weight_decay": 0.0,
    "schedule": "constant",
}
COURSE_RUNS, COURSE_LOSS = 313, (0.449, 0.525)  # published, with PyTorch, MXNet and TensorFlow


def plateau(config: dict, history: History) -> str | None:
    """What to think of a sigmoid LeNet that does not learn yet, where there is something to say."""
    chance = math.log(len(config["classes"]))
    if config["model"] != "lenet" or config["data"] == "digits":
        return None
    if history.train_loss[-1] < chance - 0.01:
        return None
    epoch, level = len(history.train_loss), f"ln {len(config['classes'])} = {chance:.3f}"
    if epoch == 1:
        return f"normal at first: the sigmoid LeNet sits at {level} for most of the first epoch"
    if epoch >= 3:
        return (
            f"no longer normal: train loss {history.train_loss[-1]:.3f} is no better than that of "
            f"guessing, {level}; try --lr 0.9 or another --seed"
        )
    return None


def among_published(config: dict, history: History) -> str | None:
    """Where a run with the course's settings stands among the published ones."""
    if any(config[name] != value for name, value in COURSE.items()):
        return None
    low, high = COURSE_LOSS
    loss = history.train_loss[-1]
    place = "inside" if low <= round(loss, 3) <= high else "outside"
    return (
        f"train loss {loss:.3f} is {place} {low} to {high}, where the {COURSE_RUNS} published runs "
        "of the course's builds ended (train acc about 0.82)"
    )
