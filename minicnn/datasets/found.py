"""What the readers of files return, before it becomes a data set, and what they share."""

import dataclasses
import os
from pathlib import Path

from minicnn.backend import Array
from minicnn.datasets.idx import DataError

MAX_BYTES = 4 << 30  # of images in memory


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Images with labels.

    images: uint8 (N, C, H, W)
    labels: integers (N,)
    files: the file of each image, if each has its own
    """

    images: Array
    labels: Array
    files: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Found:
    """What a reader found.

    train, test: the images; `test` is None if they are not split yet
    names: the class of each label; None if labels are only numbers
    invert: whether to invert a new picture, as in `Preparation`
    """

    train: Labelled
    test: Labelled | None
    names: dict[int, str] | None = None
    invert: bool | None = None


def check_claim(path: Path, size: int, limit: int = MAX_BYTES) -> None:
    """Raises DataError if reading `size` bytes would take more memory than `limit`."""
    if size > limit:
        raise DataError(
            f"{path} would take {size:,} bytes, expected at most {limit:,}: use fewer or smaller "
            "images"
        )


def names_in(folder: Path) -> set[str]:
    """The names in a folder. Raises DataError if it cannot be read."""
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def some(names: list[str], shown: int = 3) -> str:
    """The first names of a list on one line, for a message."""
    first = ", ".join(repr(name) if not name.isprintable() else name for name in names[:shown])
    return first + (f" and {len(names) - shown:,} more" if len(names) > shown else "")
