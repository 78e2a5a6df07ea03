"""IDX files of MNIST's family in a folder: images and labels, to train and to test with.

The known names are those of MNIST, Fashion-MNIST and KMNIST; those of EMNIST, which begin with the
name of a split; and those of QMNIST, whose extended labels are eight 4-byte integers for each
image, the first of which is the class.

EMNIST's pictures are stored transposed; its mapping file gives the ASCII codes of each class.

Sources: G. Cohen, S. Afshar, J. Tapson, A. van Schaik, "EMNIST: an extension of MNIST to
handwritten letters", 2017; C. Yadav, L. Bottou, "Cold case: the lost MNIST digits", 2019.
"""

import hashlib
import re
import struct
from pathlib import Path

import numpy as np

from minicnn.backend import Array
from minicnn.datasets.arrays import labelled
from minicnn.datasets.found import Found, check_claim, names_in, some
from minicnn.datasets.idx import REMEDY, DataError, read_idx
from minicnn.datasets.sources import FASHION_MNIST, MNIST

IMAGES = re.compile(r"(?P<set>.*?)(?P<part>train|t10k|test)-images[-.]idx3-ubyte(\.gz)?")
LABELS = "(-labels[-.]idx1-ubyte|-labels[-.]idx2-int)(\\.gz)?"
PARTS = {"train": "train", "t10k": "test", "test": "test"}


def is_idx_file(name: str) -> bool:
    return IMAGES.fullmatch(name) is not None


def set_name(name: str) -> str:
    """The start of the name of a file of images, as emnist-letters; empty for MNIST's own names."""
    match = IMAGES.fullmatch(name)
    return match["set"].rstrip("-") if match else ""


def is_idx_folder(files: set[str]) -> bool:
    return any(map(is_idx_file, files))


def read_idx_folder(path: Path) -> Found:
    """The data set in a folder, or that of one file of images if there are several data sets in a
    folder, like EMNIST's splits. Raises DataError if it is not complete."""
    chosen = IMAGES.fullmatch(path.name) if not path.is_dir() else None
    folder = path if chosen is None else path.parent
    files = names_in(folder)
    found = [match for name in sorted(files) if (match := IMAGES.fullmatch(name))]
    sets = {match["set"] for match in found} if chosen is None else {chosen["set"]}
    if len(sets) > 1:
        first = [match[0] for match in found if PARTS[match["part"]] == "train"]
        raise DataError(
            f"{folder} holds {len(sets)} data sets: give the path of the images of one, "
            f"of {some(first, 9)}"
        )
    (name,) = sets
    pairs: dict[str, tuple[Array, Array]] = {}
    for match in found:
        if match["set"] == name:
            pairs.setdefault(PARTS[match["part"]], _pair(folder, files, match))
    if "train" not in pairs:
        raise DataError(f"{folder} has no images to train with, {name}train-images-idx3-ubyte")
    parts = [pairs[part] for part in ("train", "test") if part in pairs]
    train, *test = labelled(parts, folder)
    return Found(train, test[0] if test else None, _classes(folder, name, parts[0][1]))


def _pair(folder: Path, files: set[str], match: re.Match) -> tuple[Array, Array]:
    form = re.compile(re.escape(match["set"] + match["part"]) + LABELS)
    names = [name for name in sorted(files) if form.fullmatch(name)]
    if not names:
        raise DataError(f"{folder / match[0]} has no labels beside it: put its label file there")
    images, path = read_idx(folder / match[0]), folder / names[0]
    if images.ndim != 3:
        raise DataError(f"{folder / match[0]} has {images.ndim} dimensions, expected 3: {REMEDY}")
    if "idx2-int" in path.name:
        labels = read_idx(path, dtype=np.int32)
        if labels.ndim != 2:
            raise DataError(f"{path} has {labels.ndim} dimensions, expected 2: {REMEDY}")
        labels = labels[:, 0]
    else:
        labels = read_idx(path)
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{path} holds labels {labels.shape} for {len(images)} images, expected "
            f"({len(images)},): {REMEDY}"
        )
    if match["set"].startswith("emnist"):
        images = images.transpose(0, 2, 1)
    return images, labels


def _classes(folder: Path, name: str, labels: Array) -> dict[int, str] | None:
    """The names of the classes: from EMNIST's mapping file, or those of Fashion-MNIST if these are
    its labels."""
    path = folder / f"{name}mapping.txt"
    if path.is_file():
        return _mapping(path)
    header = struct.pack(">4BI", 0, 0, 8, 1, len(labels))
    sha256 = hashlib.sha256(header + labels.astype(np.uint8).tobytes()).hexdigest()
    for source in (FASHION_MNIST, MNIST):
        if sha256 == source.sha256["train-labels-idx1-ubyte"]:
            return dict(enumerate(source.classes))
    return None


def _mapping(path: Path) -> dict[int, str]:
    """A label and the codes of its letters on each line."""
    check_claim(path, path.stat().st_size, 1 << 16)
    names = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        fields = line.split()
        try:
            if fields:
                label, *codes = map(int, fields)
                names[label] = "/".join(map(chr, codes))
                if not codes or not names[label].isprintable():
                    raise ValueError
        except (ValueError, OverflowError):
            raise DataError(
                f"{path}, line {number}: expected a label and the codes of its letters"
            ) from None
    return names
