"""CSV files of pixels, as on Kaggle: one line for each image, with its label and H*H numbers."""

import gzip
import io
import itertools
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np

from minicnn.backend import Array
from minicnn.datasets.arrays import labelled
from minicnn.datasets.cache import cached
from minicnn.datasets.found import MAX_BYTES, Found
from minicnn.datasets.idx import REMEDY, DataError

LABELS = {"label", "labels", "class", "target", "y", "category"}
LONGEST = 1 << 20  # characters of a line
RATIO = 100  # characters for each byte of a compressed file; pixels take about 10
SMALLEST = 4  # pixels in a row: with fewer, it is more likely not a table of pixels
ROWS = 1000  # lines that are parsed at a time


def read_table(path: Path, progress: bool = False) -> Found:
    """The images in a CSV file, plain or gzipped, not split.

    The label is in the column that a header names, else in the first, or in the last if the first
    is the same in all lines, like a pixel of the border. Raises DataError if a line does not have
    as many numbers as the first.
    """
    values = cached([path], "table", lambda: _parse(path, progress))
    (train,) = labelled([(values["pixels"], values["labels"])], path)
    return Found(train, None)


def is_unlabelled(path: Path) -> bool:
    """Whether a CSV file has a header without a label, like the test set of a competition."""
    names = _header(path)
    return names is not None and not LABELS & set(names)


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file, plain or gzipped, that are not blank. Raises DataError if it cannot
    be read or does not consist of lines of text."""
    try:
        limit = RATIO * path.stat().st_size + LONGEST
        with open(path, "rb") as file:
            gzipped = file.peek(2)[:2] == b"\x1f\x8b"
            content = cast(IO[bytes], gzip.open(file) if gzipped else file)
            text = io.TextIOWrapper(content, "utf-8-sig", "surrogateescape")
            while line := text.readline(LONGEST):
                limit -= len(line)
                if len(line) == LONGEST or limit < 0:
                    raise DataError(f"{path} is not a CSV file of pixels: it has too much text")
                if line.strip():
                    yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}): {REMEDY}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def first_lines(path: Path) -> list[str]:
    """The first line or two. Raises DataError if there is none."""
    first = list(itertools.islice(lines(path), 2))
    if not first:
        raise DataError(f"{path} is empty, expected lines of numbers or of pictures: {REMEDY}")
    return first


def _header(path: Path) -> list[str] | None:
    """The names of the columns; None if the first line has numbers."""
    fields = [field.strip().strip('"').lower() for field in first_lines(path)[0].split(",")]
    try:
        [float(field) for field in fields]
    except ValueError:
        return fields
    return None


def _numbers(path: Path, block: list[str], done: int) -> Array:
    """The numbers in some lines: bytes if they fit, else float32."""
    try:
        values = np.loadtxt(block, np.float32, comments=None, delimiter=",", ndmin=2, quotechar='"')
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is damaged after line {done + 1}: {reason}; {REMEDY}") from error
    with np.errstate(invalid="ignore"):
        small = values.astype(np.uint8)
    return small if np.array_equal(small, values) else values


def _label_column(names: list[str] | None, values: Array) -> int:
    known = [k for k, name in enumerate(names or ()) if name in LABELS]
    if known:
        return known[0]
    first, last = values[:, 0], values[:, -1]
    return values.shape[1] - 1 if (first == first[0]).all() and (last != last[0]).any() else 0


def _parse(path: Path, progress: bool) -> dict[str, Array]:
    from tqdm import tqdm

    names = _header(path)
    rows, done, size = lines(path), 0, 0
    blocks: list[Array] = []
    if names is not None:
        next(rows)
    with tqdm(desc=path.name, unit=" lines", disable=not progress, leave=False) as bar:
        while block := list(itertools.islice(rows, ROWS)):
            values = _numbers(path, block, done)
            if blocks and values.shape[1] != blocks[0].shape[1]:
                raise DataError(
                    f"{path}, from line {done + 1} on: {values.shape[1]} numbers in a line, "
                    f"expected {blocks[0].shape[1]} as in the first; {REMEDY}"
                )
            blocks.append(values)
            done, size = done + len(block), size + values.nbytes
            if size > MAX_BYTES:
                raise DataError(f"{path} holds more than {MAX_BYTES:,} bytes of pixels: split it")
            bar.update(len(block))
    if not blocks:
        raise DataError(f"{path} holds no images")
    values = np.concatenate(blocks)
    del blocks
    column = _label_column(names, values)
    side = math.isqrt(values.shape[1] - 1)
    if side * side != values.shape[1] - 1 or side < SMALLEST:
        raise DataError(
            f"{path} has {values.shape[1]} numbers in a line, expected a label and H*H pixels, as "
            f"785 for 28x28, with H at least {SMALLEST}; a list of pictures must give the whole "
            "names of their files, such as 1.png"
        )
    return {"pixels": np.delete(values, column, axis=1), "labels": values[:, column]}
