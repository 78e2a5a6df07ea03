"""What a run was asked to do, and where its weights come from."""

import functools
from dataclasses import dataclass
from typing import Any

from minicnn.adam import Adam, AdamW
from minicnn.arguments import are_strings, integer, require, share
from minicnn.datasets import Augmentation
from minicnn.losses import softmax_cross_entropy
from minicnn.optimizers import SCHEDULES, SGD, Optimizer
from minicnn.training.parallel import Loss

OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


@dataclass(frozen=True)
class Settings:
    """How a run trains: all that decides its result besides the network and the data. Raises
    ValueError for what makes no sense.

    optimizer: a name in OPTIMIZERS, "sgd", "adam" or "adamw"
    lr, weight_decay, decay_biases, clip_norm: of the optimizer
    momentum, nesterov: of SGD
    schedule: a name in `optimizers.SCHEDULES`, as "cosine"
    label_smoothing: of softmax cross-entropy
    mirror, shift, erase: of the images, as in `datasets.Augmentation`
    seed: of the order of the images, and of all else that is random
    """

    epochs: int = 10
    batch_size: int = 256
    lr: float = 0.9
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "constant"
    seed: int = 0
    optimizer: str = "sgd"
    decay_biases: bool = True
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    mirror: bool = False
    shift: int = 0
    erase: float = 0.0

    def __post_init__(self) -> None:
        minima = {"epochs": 1, "batch_size": 1, "seed": 0}
        plain: dict[str, Any] = {n: integer(n, getattr(self, n), minima[n]) for n in minima}
        names = {"schedule": list(SCHEDULES), "optimizer": list(OPTIMIZERS)}
        for name, known in names.items():
            value = getattr(self, name)
            is_known = isinstance(value, str) and value in known
            require(is_known, f"{name} must be one of {', '.join(known)}", value)
        plain["label_smoothing"] = share("label_smoothing", self.label_smoothing)
        made = self.new_optimizer(), Augmentation(self.mirror, self.shift, self.erase)
        for name in ("lr", "momentum", "nesterov", "weight_decay", "decay_biases", "clip_norm"):
            plain[name] = getattr(made[0], name, getattr(self, name))
        for name in ("mirror", "shift", "erase"):
            plain[name] = getattr(made[1], name)
        for name, value in plain.items():  # of Python's own types, which JSON can hold
            object.__setattr__(self, name, value)

    def new_optimizer(self) -> Optimizer:
        """One that has taken no step."""
        of_sgd = {"momentum": self.momentum, "nesterov": self.nesterov}
        if self.optimizer != "sgd":
            sentence = f"{self.optimizer} has no momentum and no nesterov: leave them out"
            require(not any(of_sgd.values()), sentence, of_sgd)
            of_sgd = {}
        return OPTIMIZERS[self.optimizer](
            self.lr,
            weight_decay=self.weight_decay,
            decay_biases=self.decay_biases,
            clip_norm=self.clip_norm,
            **of_sgd,
        )

    def loss(self) -> Loss:
        """Softmax cross-entropy, with its labels smoothed if that was asked for."""
        if not self.label_smoothing:
            return softmax_cross_entropy
        return functools.partial(softmax_cross_entropy, label_smoothing=self.label_smoothing)

    def augment(self) -> Augmentation | None:
        """None if the images stay as they are."""
        augment = Augmentation(self.mirror, self.shift, self.erase)
        return None if augment == Augmentation() else augment


@dataclass(frozen=True)
class Recipe:
    """A network of models.MODELS, by name, with the settings to train it with."""

    model: str
    settings: Settings


RECIPES = {
    "fast90": Recipe(
        "lenet-fast",
        Settings(
            epochs=3,
            batch_size=128,
            lr=0.15,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            schedule="triangle",
        ),
    )
}
"""fast90: to 90 % on the test set of Fashion-MNIST in the shortest time that was found; see the
README for how it was chosen"""


@dataclass(frozen=True)
class Origin:
    """What weights belong to: the names of the network, of the data set and of its classes."""

    model: str
    data: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        require(isinstance(self.model, str), "expected the name of a network", self.model)
        require(isinstance(self.data, str), "expected the name of a data set", self.data)
        names = isinstance(self.classes, tuple) and are_strings(self.classes)
        require(names, "expected a tuple of the names of the classes", self.classes)
