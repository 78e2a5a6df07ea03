"""The settings of a run, and the origin of its weights."""

import functools
from dataclasses import dataclass
from typing import Any

from minicnn.adam import Adam, AdamW
from minicnn.arguments import are_strings, integer, require, share, sizes
from minicnn.datasets import Augmentation, DataSpec, Preparation
from minicnn.losses import softmax_cross_entropy
from minicnn.optimizers import SCHEDULES, SGD, Optimizer
from minicnn.training.parallel import Loss

OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


@dataclass(frozen=True)
class Settings:
    """How a run trains: all that decides its result besides the network and the data. Raises
    ValueError for values out of range.

    optimizer: a name in OPTIMIZERS, "sgd", "adam" or "adamw"
    lr, weight_decay, decay_biases, clip_norm: of the optimizer
    momentum, nesterov: of SGD
    schedule: a name in `optimizers.SCHEDULES`, such as "cosine"
    label_smoothing: of softmax cross-entropy
    mirror, shift, erase: of the images, as in `datasets.Augmentation`
    freeze: names of layers or parameters that do not change, as in `fit`
    seed: of the order of the images, and of all other random numbers
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
    freeze: tuple[str, ...] = ()

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
        names_of = isinstance(self.freeze, tuple) and are_strings(self.freeze)
        require(names_of, "freeze must be a tuple of names, such as ('0', '3')", self.freeze)
        for name, value in plain.items():  # as Python's own types, which JSON can hold
            object.__setattr__(self, name, value)

    def new_optimizer(self) -> Optimizer:
        """A new optimizer, which has taken no step."""
        of_sgd = {"momentum": self.momentum, "nesterov": self.nesterov}
        if self.optimizer != "sgd":
            sentence = f"{self.optimizer} has no momentum or nesterov: leave them out"
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
        """Softmax cross-entropy, with smoothed labels if `label_smoothing` is set."""
        if not self.label_smoothing:
            return softmax_cross_entropy
        return functools.partial(softmax_cross_entropy, label_smoothing=self.label_smoothing)

    def augment(self) -> Augmentation | None:
        """The augmentation; None if the images are not changed."""
        augment = Augmentation(self.mirror, self.shift, self.erase)
        return None if augment == Augmentation() else augment


@dataclass(frozen=True)
class Recipe:
    """The name of a network in zoo.MODELS, with the settings to train it."""

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
"""fast90 reaches 90 % on the test set of Fashion-MNIST in the shortest time that we found; the
README says how it was chosen"""


@dataclass(frozen=True)
class Origin:
    """What weights belong to, and what it takes to use them.

    model: the network's name, or the place of the function that builds it, FILE.py:function
    data: the name of the data set
    classes: the names of its classes
    network: its layers, as networks.py describes them; empty if some are not of minicnn
    source_sha256: of the file that builds it; empty if that is not needed
    input_shape: (C, H, W) of an image
    preparation: how a picture becomes an image
    spec: the data that the command line asked for; None elsewhere
    started_from: the run whose weights it began with; empty if it began with new ones
    """

    model: str
    data: str
    classes: tuple[str, ...]
    network: str = ""
    source_sha256: str = ""
    input_shape: tuple[int, int, int] = (1, 28, 28)
    preparation: Preparation = Preparation()
    spec: DataSpec | None = None
    started_from: str = ""

    def __post_init__(self) -> None:
        require(isinstance(self.model, str), "expected the name of a network", self.model)
        require(isinstance(self.data, str), "expected the name of a data set", self.data)
        names = isinstance(self.classes, tuple) and are_strings(self.classes)
        require(names, "expected a tuple of class names", self.classes)
        for name in ("network", "source_sha256", "started_from"):
            text = getattr(self, name)
            require(isinstance(text, str), f"{name} must be a string, empty if there is none", text)
        shape = sizes("input_shape", self.input_shape, 1)
        require(len(shape) == 3, "input_shape must be (C, H, W)", shape)
        object.__setattr__(self, "input_shape", shape)
        known = isinstance(self.preparation, Preparation)
        require(known, "preparation must be a Preparation", self.preparation)
        known = self.spec is None or isinstance(self.spec, DataSpec)
        require(known, "spec must be a DataSpec or None", self.spec)
