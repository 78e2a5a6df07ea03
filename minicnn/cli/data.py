"""The data sets by their names on the command line."""

import argparse

from minicnn.cli.output import complain
from minicnn.datasets import Dataset, DatasetNotFound, digits, fashion_mnist, mnist

HINT = "on the command line that folder is given with --data-folder"


def _digits(folder: str | None) -> tuple[Dataset, Dataset]:
    if folder is not None:
        raise ValueError("the digits are drawn, not read from files: leave out --data-folder")
    return digits()


DATA = {"fashion-mnist": fashion_mnist, "mnist": mnist, "digits": _digits}


def load(name: str | None, args: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """The data set of that name; for None the default, or if that cannot be had, the digits."""
    try:
        return (fashion_mnist if name is None else DATA[name])(args.data_folder)
    except DatasetNotFound as error:
        if name is not None or args.data_folder is not None:
            raise DatasetNotFound(f"{error}\n{HINT}") from None
        complain(
            f"{error}\n{HINT}\n\nTRAINING ON THE BUILT-IN DIGITS INSTEAD, which are far easier\n"
        )
        return digits()
