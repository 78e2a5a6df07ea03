"""MNIST and Fashion-MNIST: found on this machine or downloaded, and verified.

Both have 60,000 training and 10,000 test images, 28x28 and grey, in four IDX files with the same
names. Only their content tells them apart, by its SHA-256 after decompression, because packages
may compress it differently.

Sources: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking
machine learning algorithms", 2017; Y. LeCun et al., "Gradient-based learning applied to document
recognition", 1998.
"""

import contextlib
import dataclasses
import hashlib
import os
import struct
import textwrap
import warnings
from pathlib import Path

import numpy as np

from minicnn.backend import Array
from minicnn.datasets.dataset import Dataset
from minicnn.datasets.download import download
from minicnn.datasets.idx import REMEDY, DataError, read_idx
from minicnn.files import as_path

SHAPES = {
    "train-images-idx3-ubyte": (60000, 28, 28),
    "train-labels-idx1-ubyte": (60000,),
    "t10k-images-idx3-ubyte": (10000, 28, 28),
    "t10k-labels-idx1-ubyte": (10000,),
}
FASHION_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
SYSTEM_FOLDER = Path("/usr/share/datasets")


class DatasetNotFound(DataError):
    """A data set is in none of the places that were searched."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Facts about a data set. `name` is the name of its folder, `sha256` has the hashes of the
    decompressed files, `md5` those of the files as the mirrors serve them, and `package` is the
    package of Debian and Ubuntu that contains them."""

    title: str
    name: str
    classes: tuple[str, ...]
    sha256: dict[str, str]
    mirrors: tuple[str, ...]
    md5: dict[str, str]
    package: str | None = None


FASHION_MNIST = Source(
    title="Fashion-MNIST",
    name="fashion-mnist",
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    sha256=FASHION_SHA256,
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    md5={
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    package="dataset-fashion-mnist",
)
MNIST = Source(
    title="MNIST",
    name="mnist",
    classes=tuple("0123456789"),
    sha256=MNIST_SHA256,
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    md5={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
)


def fashion_mnist(folder: Path | str | None = None) -> tuple[Dataset, Dataset]:
    """Fashion-MNIST, to train and to test with.

    If `folder` is given, its four files, plain or gzipped, must be there. Otherwise minicnn looks
    in $MINICNN_DATA or its subfolder fashion-mnist, in the user's cache and in
    /usr/share/datasets/fashion-mnist, and if none has them, downloads them into the cache.

    Warns if $MINICNN_DATA has no such files, and if it skips a wrong file. Raises DatasetNotFound,
    which says what was tried and what helps, DataError for a wrong file in `folder` or
    $MINICNN_DATA, and ValueError for a `folder` below an unknown home folder.
    """
    return _load(FASHION_MNIST, folder)


def mnist(folder: Path | str | None = None) -> tuple[Dataset, Dataset]:
    """MNIST, to train and to test with; found as in `fashion_mnist`, under the name mnist."""
    return _load(MNIST, folder)


def find(source: Source) -> Path | None:
    """The first folder on this machine that has the four files, which are not opened; None if none
    has."""
    return next((folder for folder, _ in _places(source, None) if not _problem(folder)), None)


def chosen_problem(source: Source) -> str | None:
    """Why $MINICNN_DATA cannot be used for this data set; None if it can, or is not set."""
    value = os.environ.get("MINICNN_DATA")
    try:
        folder = _chosen(source)
        if folder is None or not (problem := _problem(folder)):
            return None
        if str(folder) != value:
            problem = f"{folder}: {problem}"
    except ValueError as error:
        problem = str(error)
    return f"MINICNN_DATA is {value}, which does not have the files of {source.title} ({problem})"


def cache_problem() -> str | None:
    """Why nothing can be downloaded on this machine; None if there is a folder for it."""
    try:
        _cache(FASHION_MNIST)
    except DataError as error:
        return str(error)
    return None


def _load(source: Source, folder: Path | str | None) -> tuple[Dataset, Dataset]:
    failures = []
    if folder is None and (problem := chosen_problem(source)):
        warnings.warn(f"{problem}: searching other places", stacklevel=3)
        failures.append(problem)
    for place, chosen_by_user in _places(source, folder):
        try:
            return _read_folder(source, place)
        except DatasetNotFound as error:
            failures.append(str(error))
        except DataError as error:
            if chosen_by_user:
                raise
            warnings.warn(f"skipping a data set: {error}", stacklevel=3)
            failures.append(str(error))
    if folder is None:
        try:
            cache = _cache(source)
            download(source.mirrors, source.md5, cache)
            return _read_folder(source, cache)
        except DataError as error:
            failures.append(str(error))
    raise DatasetNotFound(_explain(source, failures))


def _places(source: Source, folder: Path | str | None) -> list[tuple[Path, bool]]:
    """The folders to search, in order, each with whether the user chose it."""
    if folder is not None:
        return [(as_path(folder), True)]
    places = []
    if not chosen_problem(source) and (chosen := _chosen(source)):
        places.append((chosen, True))
    with contextlib.suppress(DataError):
        places.append((_cache(source), False))
    return [*places, (SYSTEM_FOLDER / source.name, False)]


def _chosen(source: Source) -> Path | None:
    """The folder that $MINICNN_DATA names, if it is set, or the data set's subfolder, if there
    is one. Raises ValueError if its home folder is not known."""
    value = os.environ.get("MINICNN_DATA")
    if not value:
        return None
    inside = as_path(value) / source.name
    return inside if os.path.isdir(inside) else as_path(value)


def _cache(source: Source) -> Path:
    """The folder to download into. Raises DataError if there is no place for the user's cache."""
    import pooch  # here: importing it takes half as long as all of minicnn

    try:
        return as_path(pooch.os_cache("minicnn")) / source.name
    except (RuntimeError, ValueError) as error:
        raise DataError(
            "there is no cache folder to download into, because the home folder is not known: set "
            "HOME or XDG_CACHE_HOME to a folder"
        ) from error


def _read_folder(source: Source, folder: Path) -> tuple[Dataset, Dataset]:
    if problem := _problem(folder):
        raise DatasetNotFound(f"{folder}: {problem}")
    arrays = [_read_file(source, folder, file) for file in SHAPES]
    train, test = (
        Dataset(images[:, np.newaxis], labels, source.classes, source.name)
        for images, labels in (arrays[:2], arrays[2:])
    )
    return train, test


def _problem(folder: Path) -> str | None:
    """Why a folder does not hold the four files, which are not opened; None if it does."""
    try:
        os.stat(os.path.join(folder, "."))  # this needs the permission to open a file in it
    except (FileNotFoundError, ValueError):
        return "no such folder exists"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    missing = [file for file in SHAPES if not _path_of(folder, file)]
    return f"{', '.join(missing)} not in it" if missing else None


def _path_of(folder: Path, file: str) -> Path | None:
    """The path of `file`, gzipped or plain, or spelled like train-images.idx3-ubyte; gzipped first,
    so that a download replaces a damaged plain file."""
    for name in (file, file.replace("-idx", ".idx")):
        for path in (folder / f"{name}.gz", folder / name):
            if os.path.isfile(path):
                return path
    return None


def _read_file(source: Source, folder: Path, file: str) -> Array:
    path = _path_of(folder, file)
    if path is None:  # just removed
        raise DatasetNotFound(f"{folder}: {file} not in it")
    array = read_idx(path, SHAPES[file])
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    sha256 = hashlib.sha256(header + array.tobytes()).hexdigest()
    if sha256 == source.sha256[file]:
        return array
    for other in (FASHION_MNIST, MNIST):
        if sha256 == other.sha256[file]:
            raise DataError(
                f"{path} belongs to {other.title}, not to {source.title}, whose files have the "
                "same names: keep each data set in a folder of its own"
            )
    raise DataError(
        f"{path} is not the official file of {source.title}, whose content has a different "
        f"SHA-256: {REMEDY}"
    )


def _explain(source: Source, failures: list[str]) -> str:
    remedies = [
        "give the folder that holds its files, as the argument folder",
        "set $MINICNN_DATA to that folder",
        f"download {', '.join(source.md5)} from {source.mirrors[0]} into it",
    ]
    if source.package:
        remedies.append(f"on Debian or Ubuntu: apt-get install {source.package}")
    return (
        f"{source.title} was not found:\n{_listed(failures)}\n"
        f"Any one of these helps:\n{_listed(remedies)}"
    )


def _listed(lines: list[str]) -> str:
    return textwrap.indent("\n".join(lines), "  ")
