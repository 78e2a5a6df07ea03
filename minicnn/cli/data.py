"""The data that a command line asks for: a data set by its name, or your own files."""

import argparse
import dataclasses
import os

from minicnn.cli.output import complain
from minicnn.datasets import Dataset, DatasetNotFound, DataSpec, digits, fashion_mnist, mnist
from minicnn.datasets.spec import OPTIONS
from minicnn.runs.settings import Origin

HINT = "on the command line that folder is given with --data-folder"


def _digits(folder: str | None) -> tuple[Dataset, Dataset]:
    if folder is not None:
        raise ValueError("the digits are drawn, not read from files: leave out --data-folder")
    return digits()


DATA = {"fashion-mnist": fashion_mnist, "mnist": mnist, "digits": _digits}


def asked(args: argparse.Namespace, before: DataSpec | None = None) -> DataSpec | None:
    """The data that the command line asks for; where it is silent, as `before`, say in a run."""
    given = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    if args.data is None:
        spec = before
    elif before is None or {args.data, before.source} & DATA.keys():
        spec = DataSpec(args.data)
    else:  # moved
        spec = dataclasses.replace(before, source=args.data)
    if spec is None:
        if given:
            option = next(iter(given)).replace("_", "-")
            raise ValueError(f"--{option} is for files of your own: give their --data PATH, too")
        return None
    if before is None and spec.source not in DATA and getattr(args, "seed", None) is not None:
        given["seed"] = args.seed
    return dataclasses.replace(spec, **given)


def data_of(origin: Origin, args: argparse.Namespace) -> DataSpec | str:
    """What data a run was trained on. Raises ValueError if that is not known without --data."""
    if origin.spec is None and origin.data not in DATA and args.data is None:
        raise ValueError(f"the run was trained on {origin.data!r}: give that as --data PATH")
    if origin.spec is None or args.data is not None or origin.spec.source in DATA:
        return origin.spec or args.data or origin.data
    if not os.path.exists(origin.spec.source):
        raise ValueError(
            f"{origin.spec.source}, the data of the run, does not exist: give its new place as "
            "--data PATH"
        )
    return origin.spec


def load(what: str | DataSpec | None, args: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """The data of that name or path, with the given options, or of a run; for None the default, or
    the digits if that is not available."""
    if not isinstance(what, DataSpec):
        what = None if what in (None, args.data) else DataSpec(what)
    spec = asked(args, what)
    if spec is not None and spec.source not in DATA:
        return spec.load(args.data_folder, progress=True)
    name = None if spec is None else spec.source
    try:
        return (fashion_mnist if name is None else DATA[name])(args.data_folder)
    except DatasetNotFound as error:
        if name is not None or args.data_folder is not None:
            raise DatasetNotFound(f"{error}\n{HINT}") from None
        complain(
            f"{error}\n{HINT}\n\nTRAINING ON THE BUILT-IN DIGITS INSTEAD, which are far easier\n"
        )
        return digits()
