"""NumPy's .npz files with images and labels: a zip archive of arrays, each with a header.

Arrays of Python objects are pickles, which can run any code, and are never loaded.
"""

import contextlib
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from minicnn.backend import Array
from minicnn.datasets.arrays import labelled
from minicnn.datasets.found import Found, check_claim, names_in, some
from minicnn.datasets.idx import DataError

PIECE = 1 << 20
IMAGES = ("x", "images", "image", "imgs", "data")
LABELS = ("y", "labels", "label", "targets", "target")
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(path: Path) -> Found:
    """Images and labels under the usual names: x_train, y_train, x_test, y_test, or x, y, or
    images, labels, or arr_0 ... arr_3 in that order. Raises DataError for anything else."""
    names = _names(path)
    pairs = _pairs(names)
    if not pairs:
        raise DataError(
            f"{path} holds {some(names, 6) or 'no arrays'}: expected x_train, y_train, x_test and "
            "y_test, or x and y, or images and labels"
        )
    arrays = read_arrays(path, [name for pair in pairs for name in pair])
    return _found([(arrays[x], arrays[y]) for x, y in pairs], path)


def is_npz_folder(files: set[str]) -> bool:
    return bool(_files(files, "train"))


def read_npz_folder(folder: Path) -> Found:
    """Images and labels in separate .npz files with one array each, like KMNIST's
    NAME-train-imgs.npz and NAME-train-labels.npz."""
    files = names_in(folder)
    pairs = [_files(files, part) for part in ("train", "test")]
    return _found([(_only(folder / x), _only(folder / y)) for x, y in filter(None, pairs)], folder)


def _files(files: set[str], part: str) -> tuple[str, str] | None:
    """The names of the two files of a part, if there is such a pair."""
    for name in sorted(files):
        labels = name.replace("-imgs.npz", "-labels.npz")
        if name.endswith(f"{part}-imgs.npz") and labels in files:
            return name, labels
    return None


def _found(pairs: list[tuple[Array, Array]], path: Path) -> Found:
    train, *test = labelled(pairs, path)
    return Found(train, test[0] if test else None)


def _pairs(names: list[str]) -> list[tuple[str, str]]:
    """The names of images and labels: of the training set and perhaps the test set, or of all."""
    spelling = {name.lower(): name for name in names}

    def pair(form: str) -> list[tuple[str, str]]:
        x, y = (
            [spelling[name] for word in words if (name := form.format(word)) in spelling]
            for words in (IMAGES, LABELS)
        )
        return list(zip(x, y))[:1]

    for form in ("{}_train", "train_{}"):
        if train := pair(form):
            return train + pair(form.replace("train", "test"))
    numbered = [(f"arr_{k}", f"arr_{k + 1}") for k in (0, 2) if f"arr_{k + 1}" in names]
    return pair("{}") or numbered


def _names(path: Path) -> list[str]:
    with _opened(path) as archive:
        return [name[:-4] for name in archive.namelist() if name.endswith(".npy")]


def _only(path: Path) -> Array:
    names = _names(path)
    if len(names) != 1:
        raise DataError(f"{path} holds {some(names) or 'no arrays'}, expected one array")
    return read_arrays(path, names)[names[0]]


def read_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, Array]:
    """The arrays with these names, or all. Raises DataError, in one sentence, if they are damaged,
    do not hold numbers, or claim more than MAX_BYTES. It takes no memory before there are bytes to
    fill it."""
    with _opened(path) as archive:
        members = [f"{name}.npy" for name in _names(path) if names is None or name in names]
        check_claim(path, sum(archive.getinfo(member).file_size for member in members))
        arrays = {}
        for member in members:
            with archive.open(member) as file:
                arrays[member[:-4]] = _read(file, archive.getinfo(member).file_size, path, member)
        return arrays


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DataError:
        raise
    except Exception as error:  # zipfile, its decoders and NumPy raise many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as a .npz file: {reason}") from error


def _read(file: IO[bytes], size: int, path: Path, member: str) -> Array:
    """One array, in C order, from a file of `size` bytes."""
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise DataError(f"{path}: {member} has a header of version {version}, expected 1.0 or 2.0")
    shape, in_fortran_order, dtype = HEADERS[version](file)
    if dtype.hasobject:
        raise DataError(
            f"{path}: {member} holds Python objects, whose pickles can run any code and are never "
            "loaded: save plain arrays of numbers"
        )
    if dtype.kind not in "buif":
        raise DataError(f"{path}: {member} holds {dtype}, expected numbers")
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed != size - file.tell():
        raise DataError(
            f"{path} is damaged: the header of {member} promises {claimed:,} bytes, and "
            f"{size - file.tell():,} follow"
        )
    values = bytearray()
    while piece := file.read(PIECE):  # to the end, where zipfile checks the sum
        values += piece
    if len(values) != claimed:
        raise DataError(f"{path} is damaged: {member} ends after {len(values):,} bytes")
    array = np.frombuffer(values, dtype).reshape(shape, order="F" if in_fortran_order else "C")
    return np.ascontiguousarray(array)
