"""Pictures in folders: a subfolder for each class, with the name of the class."""

import os
import warnings
from pathlib import Path

from minicnn.datasets.found import Found, Labelled, some
from minicnn.datasets.idx import DataError
from minicnn.datasets.pictures import Decoder, check_inside, is_picture
from minicnn.text import number

TEST_NAMES = ("test", "val", "valid", "validation")
HIDDEN = {"thumbs.db", "desktop.ini", "__macosx"}


def read_folder(root: Path, decoder: Decoder) -> Found:
    """The pictures in `root`: in train/CLASS and test/CLASS, or in CLASS, not split.

    Raises DataError for pictures that cannot be read, for a folder inside that of a class, for
    links that lead out of `root`, and for fewer than two classes.
    """
    listing = _Listing(root)
    folders = listing.folders(".")
    named = {name.lower(): name for name in folders}
    tests = [named[name] for name in TEST_NAMES if name in named]
    parts = ["."]
    if "train" in named and listing.folders(named["train"]):
        tests = [name for name in tests if listing.folders(name)]  # without, they have no labels
        parts = [named["train"], *tests[:1]]
        listing.left_out += [name for name in folders if name not in parts]
    elif "train" in named and len(folders) == 1 + len(tests):  # it is not a class among others
        raise DataError(
            f"{root / named['train']} has no folders in it: put the pictures of each class into "
            "one with its name"
        )
    classes = listing.folders(parts[0])
    if len(classes) < 2:
        raise DataError(
            f"{root / parts[0]} has {number(len(classes), 'folder')} in it, expected one with the "
            f"pictures of each class, for at least two classes{_instead(root / parts[0], classes)}"
        )
    found = [_read(listing, part, classes, decoder) for part in parts]
    if listing.left_out:
        count, names = len(listing.left_out), some(listing.left_out, 5)
        sentence = f"{count:,} files or folders are not pictures and are left out: {names}"
        warnings.warn(f"{root}: {sentence}", stacklevel=4)
    train, *test = found
    return Found(train, test[0] if test else None, dict(enumerate(classes)), invert=False)


class _Listing:
    """What is in a folder of pictures; `left_out` collects hidden and useless entries."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: list[str] = []

    def folders(self, inside: str) -> list[str]:
        return self._entries(inside)[0]

    def pictures(self, inside: str) -> list[str]:
        """The names of the pictures in the folder of a class."""
        folders, files, others = self._entries(inside)
        if folders:
            raise DataError(
                f"{self.root / inside} is the folder of a class, but there are folders in it, "
                f"{some(folders)}: move their pictures up"
            )
        if not files:
            raise DataError(f"{self.root / inside} has no pictures in it: remove this folder")
        self.left_out += others
        return files

    def _entries(self, inside: str) -> tuple[list[str], list[str], list[str]]:
        """(folders, pictures, others), each sorted."""
        folders, pictures, others = [], [], []
        try:
            names = sorted(os.listdir(self.root / inside))
        except OSError as error:
            raise DataError(f"{self.root / inside} cannot be read: {error.strerror}") from error
        for name in names:
            path = self.root / inside / name
            check_inside(path, self.root)
            if name.startswith(".") or name.lower() in HIDDEN:
                others.append(name)
            elif path.is_dir():
                folders.append(name)
            elif is_picture(name) and not (path.exists() and not path.is_file()):
                pictures.append(name)
            else:
                others.append(name)
        return folders, pictures, others


def _instead(folder: Path, folders: list[str]) -> str:
    """What to give instead of a folder with too few folders in it."""
    return f"; if the data are in {folders[0]}, give {folder / folders[0]}" if folders else ""


def _read(listing: _Listing, part: str, classes: list[str], decoder: Decoder) -> Labelled:
    found = listing.folders(part)
    if strangers := sorted(set(found) - set(classes)):
        raise DataError(
            f"{listing.root / part} has {some(strangers)}, but the classes of the training set are "
            f"{some(classes, 5)}"
        )
    files, labels = [], []
    for label, name in enumerate(classes):
        if name in found:
            inside = listing.pictures(os.path.join(part, name))
            files += [os.path.normpath(os.path.join(part, name, file)) for file in inside]
            labels += [label] * len(inside)
    return decoder.read(listing.root, files, labels)
