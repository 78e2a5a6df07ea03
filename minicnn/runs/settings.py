"""What a run was asked to do, and where its weights come from."""

from dataclasses import dataclass

from minicnn.arguments import are_strings, integer, require
from minicnn.optimizers import SCHEDULES, SGD


@dataclass(frozen=True)
class Settings:
    """How a run trains: all that decides its result besides the network and the data. Raises
    ValueError for what makes no sense.

    lr, momentum, nesterov, weight_decay: of SGD
    schedule: a name in `optimizers.SCHEDULES`, "constant" or "cosine"
    seed: of the order of the images
    """

    epochs: int = 10
    batch_size: int = 256
    lr: float = 0.9
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "constant"
    seed: int = 0

    def __post_init__(self) -> None:
        minima = {"epochs": 1, "batch_size": 1, "seed": 0}
        plain = {name: integer(name, getattr(self, name), minima[name]) for name in minima}
        known = isinstance(self.schedule, str) and self.schedule in SCHEDULES
        require(known, f"schedule must be one of {', '.join(SCHEDULES)}", self.schedule)
        optimizer = self.optimizer()
        for name in ("lr", "momentum", "nesterov", "weight_decay"):
            plain[name] = getattr(optimizer, name)
        for name, value in plain.items():  # of Python's own types, which JSON can hold
            object.__setattr__(self, name, value)

    def optimizer(self) -> SGD:
        """A new one, which has taken no step."""
        return SGD(self.lr, self.momentum, self.nesterov, self.weight_decay)


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
