"""The requested data in plain values, which a run keeps to find the same data again."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from minicnn.arguments import flag, integer, require
from minicnn.datasets.dataset import Dataset
from minicnn.datasets.digits import digits
from minicnn.datasets.opening import NAMED, checked_share, open_data
from minicnn.datasets.sources import fashion_mnist, mnist
from minicnn.files import as_path

OPTIONS = ("size", "colour", "test_share", "skip_bad", "invert")  # of a path, without the seed


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The requested data.

    source: a name in NAMED, or a path; "./mnist" is a folder of that name. A path is made absolute,
        so that --resume and `evaluate` find the data from any folder
    size, colour, test_share, seed, skip_bad, invert: as for `open_data`; only for a path

    Raises ValueError for values out of range.
    """

    source: str
    size: int | None = None
    colour: bool | None = None
    test_share: float | None = None
    seed: int = 0
    skip_bad: bool = False
    invert: bool = False

    def __post_init__(self) -> None:
        is_source = isinstance(self.source, str) and bool(self.source)
        require(is_source, "source must be the name of a data set or a path", self.source)
        plain: dict[str, Any] = {
            "seed": integer("seed", self.seed, 0),
            "skip_bad": flag("skip_bad", self.skip_bad),
            "invert": flag("invert", self.invert),
        }
        if self.size is not None:
            plain["size"] = integer("size", self.size, 1)
        if self.colour is not None:
            plain["colour"] = flag("colour", self.colour)
        if self.test_share is not None:
            plain["test_share"] = checked_share(self.test_share)
        if self.source not in NAMED:
            plain["source"] = os.path.abspath(as_path(self.source))
        elif given := [name for name, value in self.options().items() if value]:
            raise ValueError(f"{self.source} is used as it is: leave out {' and '.join(given)}")
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def options(self) -> dict[str, Any]:
        """How a path is opened, without the seed."""
        return {name: getattr(self, name) for name in OPTIONS}

    def load(
        self, folder: Path | str | None = None, progress: bool = False
    ) -> tuple[Dataset, Dataset]:
        """The data to train and to test with; `folder` holds the files of a data set by name."""
        flag("progress", progress)
        if self.source == "fashion-mnist":
            return fashion_mnist(folder)
        if self.source == "mnist":
            return mnist(folder)
        if folder is not None:
            raise ValueError(f"{self.source} needs no folder: leave out {folder}")
        if self.source == "digits":
            return digits()
        return open_data(self.source, seed=self.seed, progress=progress, **self.options())
