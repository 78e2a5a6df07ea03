"""Your own files: this module finds out what they are, and makes a data set of what a reader gives.

If there is no test set, one with the share s takes, from each class of n images,

    max(1, round(s * n)) images, but never all                                             (1)
"""

import dataclasses
import math
import re
import warnings
from pathlib import Path

import numpy as np

from minicnn.arguments import flag, integer, require, share
from minicnn.backend import Array
from minicnn.datasets.cifar import is_cifar, read_cifar
from minicnn.datasets.dataset import Dataset
from minicnn.datasets.folders import read_folder
from minicnn.datasets.found import Found, Labelled, check_claim, names_in, some
from minicnn.datasets.idx import DataError
from minicnn.datasets.idx_family import is_idx_file, is_idx_folder, read_idx_folder, set_name
from minicnn.datasets.images import fitted
from minicnn.datasets.listed import is_list, read_list
from minicnn.datasets.npz import is_npz_folder, read_npz, read_npz_folder
from minicnn.datasets.pictures import Decoder
from minicnn.datasets.preparation import Preparation
from minicnn.datasets.table import is_unlabelled, read_table
from minicnn.files import as_path

SIZE = 28  # of pictures in files of their own, by default
TEST_SHARE = 0.2
NAMED = ("fashion-mnist", "mnist", "digits")  # data sets that are found by name
INSTEAD = {
    ".pkl": "a pickle can run any code and is never loaded: save arrays x and y with numpy.savez",
    ".npy": "it holds one array: save images and labels together, with numpy.savez(path, x=x, y=y)",
    ".mat": "use the IDX files of the data set, or save arrays x and y with numpy.savez",
    ".parquet": "export its pictures into a folder for each class",
    ".h5": "save arrays x and y with numpy.savez",
    ".zip": "unpack it, and give the folder",
    ".tar": "unpack it, and give the folder",
    ".gz": "unpack it, and give the folder",
    ".tgz": "unpack it, and give the folder",
}


def open_data(
    path: Path | str,
    *,
    size: int | None = None,
    colour: bool | None = None,
    test_share: float | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    invert: bool = False,
    progress: bool = False,
) -> tuple[Dataset, Dataset]:
    """The labelled images in `path`, to train and to test with.

    `path` is a folder with a subfolder of pictures for each class, or with such folders in train/
    and test/; a CSV file of filename,label or of label and pixels, or a folder with two such files,
    train and test; a folder of IDX files, or the training images in it; an .npz file; or a folder
    of CIFAR's binary files. No pickle is ever loaded.

    size: height and width of the images; if None, 28 for pictures, and unchanged otherwise
    colour: red, green and blue, or grey; if None, grey for pictures, and unchanged otherwise
    test_share: how much of each class is the test set, if the files have none (0.2); `seed` chooses
    skip_bad: whether pictures that cannot be read are left out, with a warning, or refused
    invert: whether to exchange bright and dark, in training and in new pictures: for dark digits on
        bright paper to look like MNIST's
    progress: whether to show a bar for work that takes long

    Files that take long to decode are kept, decoded, in the user's cache: see `datasets.cache`.
    Raises DataError for files that are incomplete or unknown; a damaged file is never guessed at.
    """
    path = as_path(path)
    size = None if size is None else integer("size", size, 1)
    colour = None if colour is None else flag("colour", colour)
    integer("seed", seed, 0)
    test_share = None if test_share is None else checked_share(test_share)
    flag("invert", invert)
    of_pictures = Preparation((size or SIZE,) * 2, bool(colour), invert=False)
    found = _read(
        path, Decoder(of_pictures, flag("skip_bad", skip_bad), flag("progress", progress))
    )
    train, test = found.train, found.test
    if test is None:
        train, test = _split(train, TEST_SHARE if test_share is None else test_share, seed)
        if not len(test.labels):
            raise DataError(f"{path} has no class with two images: none is left to test with")
    elif test_share is not None:
        raise DataError(f"{path} has a test set of its own: leave out test_share")
    if train.images.shape[1:] != test.images.shape[1:]:
        shapes = f"{train.images.shape[1:]} and {test.images.shape[1:]}"
        raise DataError(f"{path} holds images of different shapes, {shapes}: give those of one")
    values = sorted(found.names or set(train.labels.tolist()))
    if len(values) < 2:
        raise DataError(f"{path} holds images of one class only: there is nothing to tell apart")
    names = [(found.names or {}).get(value, str(value)) for value in values]

    def dataset(part: Labelled) -> Dataset:
        index = np.searchsorted(values, part.labels).clip(0, len(values) - 1)
        strange = np.array(values)[index] != part.labels
        if strange.any():
            label = part.labels[strange.argmax()]
            raise DataError(f"{path} has label {label}, which is none of {some(names, 12)}")
        images = _resized(path, part.images, size, colour)
        images = 255 - images if invert else images
        of_new = None if found.invert is None else invert
        prepared = Preparation(images.shape[2:], images.shape[1] == 3, of_new)
        return Dataset(images, index, tuple(names), _name(path), prepared, part.files)

    return dataset(train), dataset(test)


def checked_share(test_share: float) -> float:
    """`test_share` as a float; ValueError if it is not a number in (0, 1)."""
    value = share("test_share", test_share)
    require(0 < value < 1, "test_share must be in (0, 1), as 0.2", test_share)
    return value


def _read(path: Path, decoder: Decoder) -> Found:
    """What the right reader finds in `path`."""
    if path.is_dir():
        return _read_directory(path, decoder)
    if not path.exists():
        raise DataError(f"{path} does not exist: give a path, or one of {', '.join(NAMED)}")
    if is_idx_file(path.name):
        return read_idx_folder(path)
    if path.suffix.lower() == ".npz":
        return read_npz(path)
    if path.name.lower().endswith((".csv", ".csv.gz")):
        return read_list(path, decoder) if is_list(path) else read_table(path, decoder.progress)
    reason = INSTEAD.get(path.suffix.lower().replace(".pickle", ".pkl"))
    if "-labels" in path.name and "idx" in path.name:
        reason = "it holds labels only: give its folder, or the training images in it"
    raise DataError(
        f"{path} cannot be used: {reason or 'expected a folder, or a .csv, .npz or IDX file'}"
    )


def _read_directory(folder: Path, decoder: Decoder) -> Found:
    files = names_in(folder)
    if is_idx_folder(files):
        return read_idx_folder(folder)
    if is_cifar(files):
        return read_cifar(folder)
    if is_npz_folder(files):
        return read_npz_folder(folder)
    tables = sorted(name for name in files if name.lower().endswith((".csv", ".csv.gz")))
    single = tables or sorted(name for name in files if name.lower().endswith(".npz"))
    if not single:
        return read_folder(folder, decoder)
    if len(single) == 1:
        return _read(folder / single[0], decoder)
    words = {name: re.split("[^a-z]+", name.lower()) for name in tables}
    train, test = ([name for name in tables if part in words[name]] for part in ("train", "test"))
    if len(train) != 1 or len(test) != 1:
        raise DataError(f"{folder} holds {some(single, 5)}: give the path of one of them")
    found = _read(folder / train[0], decoder)
    if is_unlabelled(folder / test[0]):
        warnings.warn(f"{folder / test[0]} has no labels and is not used", stacklevel=3)
        return found
    other = _read(folder / test[0], decoder)
    if found.names == other.names:
        return dataclasses.replace(found, test=other.train)
    raise DataError(f"{train[0]} and {test[0]} in {folder} do not name the same classes")


def _split(whole: Labelled, part: float, seed: int) -> tuple[Labelled, Labelled]:
    """(train, test), both in the order of the whole."""
    rng, chosen = np.random.default_rng(seed), np.zeros(len(whole.labels), bool)
    for label in np.unique(whole.labels):
        (members,) = (whole.labels == label).nonzero()
        count = min(max(1, round(part * len(members))), len(members) - 1)  # (1)
        chosen[rng.permutation(members)[:count]] = True

    def of(mask: Array) -> Labelled:
        files = tuple(file for file, is_in in zip(whole.files, mask) if is_in)
        return Labelled(whole.images[mask], whole.labels[mask], files)

    return of(~chosen), of(chosen)


def _resized(path: Path, images: Array, size: int | None, colour: bool | None) -> Array:
    """Images (N, C, H, W) in the requested size and colours."""
    from PIL import Image  # here, so that minicnn can be imported without it

    n, channels, height, width = images.shape
    wanted = (height, width) if size is None else (size, size)
    mode = "RGB" if (channels == 3 if colour is None else colour) else "L"
    if (height, width) == wanted and (channels == 3) == (mode == "RGB"):
        return images
    shape = (n, 3 if mode == "RGB" else 1, *wanted)
    check_claim(path, math.prod(shape))
    resized = np.empty(shape, np.uint8)
    for i, image in enumerate(images):
        pixels = image[0] if channels == 1 else image.transpose(1, 2, 0)
        plain = Image.fromarray(np.ascontiguousarray(pixels)).convert(mode)
        resized[i] = fitted(plain, wanted, invert=False)
    return resized


def _name(path: Path) -> str:
    """The name of the data set: that of the folder, or of the file without its endings."""
    path = path.resolve()
    name = path.name if path.is_dir() else path.name.split(".")[0]
    if is_idx_file(path.name):
        name = set_name(path.name) or path.parent.name
    return f"my-{name}" if name in NAMED or not name else name
