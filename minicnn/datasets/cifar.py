"""CIFAR-10 and CIFAR-100 in their binary form: records of labels and a picture, with no header.

    CIFAR-10:  record = label, 3*32*32 bytes                  data_batch_1.bin ..., test_batch.bin
    CIFAR-100: record = coarse label, label, 3*32*32 bytes    train.bin, test.bin

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import re
from pathlib import Path

import numpy as np

from minicnn.datasets.found import Found, Labelled, check_claim, names_in
from minicnn.datasets.idx import REMEDY, DataError

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
PICKLED = {"data_batch_1", "batches.meta", "meta"}


def is_cifar(files: set[str]) -> bool:
    """Whether these are the names of CIFAR's files, the pickled ones included."""
    return bool({"data_batch_1.bin", "train.bin"} & files) or is_pickled(files)


def is_pickled(files: set[str]) -> bool:
    return bool(PICKLED & files) and not any(name.endswith(".bin") for name in files)


def read_cifar(folder: Path) -> Found:
    """The data set in `folder`. Raises DataError for files that do not hold complete records."""
    files = names_in(folder)
    if is_pickled(files):
        raise DataError(
            f"{folder} holds CIFAR in its Python form, pickles, which can run any code and are "
            "never loaded: download its binary form, cifar-10-binary.tar.gz or "
            "cifar-100-binary.tar.gz"
        )
    if "train.bin" in files:
        return _read(folder, ["train.bin"], "test.bin", "fine_label_names.txt", labels=2)
    batches = {name for name in files if re.fullmatch(r"data_batch_[1-9]\.bin", name)}
    train = [f"data_batch_{k}.bin" for k in range(1, 1 + len(batches))]
    return _read(folder, train, "test_batch.bin", "batches.meta.txt", labels=1)


def _read(folder: Path, train: list[str], test: str, names: str, labels: int) -> Found:
    count = {1: 10, 2: 100}[labels]
    parts = [_records(folder / name, labels, count) for name in train]
    joined = Labelled(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )
    classes = _names(folder / names, count)
    return Found(joined, _records(folder / test, labels, count), classes)


def _records(path: Path, labels: int, count: int) -> Labelled:
    try:
        size = path.stat().st_size
        check_claim(path, size)
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    record = labels + PIXELS
    if not size or size % record or len(content) != size:
        raise DataError(
            f"{path} is damaged: expected whole records of {record} bytes, but it has {size:,} "
            f"bytes; {REMEDY}"
        )
    records = content.reshape(-1, record)
    found = records[:, labels - 1]
    if found.max() >= count:
        wrong = int(found.argmax())
        raise DataError(
            f"{path} is damaged: record {wrong} has label {found[wrong]}, expected 0 to "
            f"{count - 1}; {REMEDY}"
        )
    return Labelled(records[:, labels:].reshape(-1, *SHAPE), found)


def _names(path: Path, count: int) -> dict[int, str]:
    """The names of the classes, one per line; their numbers if there is no such file."""
    if not path.is_file():
        return {k: str(k) for k in range(count)}
    check_claim(path, path.stat().st_size, 1 << 16)
    lines = path.read_text("utf-8", "replace").split("\n")
    names = [line.strip() for line in lines if line.strip()]
    if len(names) != count or len(set(names)) != count:
        raise DataError(f"{path} names {len(set(names))} classes, expected {count}: {REMEDY}")
    return dict(enumerate(names))
