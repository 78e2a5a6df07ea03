"""Files that take long to decode are kept in the user's cache, so that they are decoded only once.

An entry is a file DECODED/KEY.npz in `folder()`; the key is the SHA-256 over the paths, sizes and
times of the files and over the options. An entry is whole or absent, even if a process is killed,
and a damaged one counts as absent. Beyond LIMIT bytes the oldest are removed; to clear the cache,
delete its folder.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from minicnn._version import __version__
from minicnn.backend import Array
from minicnn.datasets.idx import DataError
from minicnn.datasets.npz import read_arrays
from minicnn.files import PART, as_path

LIMIT = 4 << 30
SMALL = 4 << 20  # bytes of files, or a thousand files, take about a second to decode
STALE_SECONDS = 24 * 3600  # after this, half-written files of killed processes are removed


def folder() -> Path:
    """Where the entries are. Raises ValueError if the home folder is not known."""
    import pooch  # here: importing it takes half as long as all of minicnn

    return as_path(pooch.os_cache("minicnn")) / "decoded"


def cached(
    files: Sequence[Path], options: object, decode: Callable[[], dict[str, Array]]
) -> dict[str, Array]:
    """What `decode` returns for these files and options, or what it returned the last time."""
    path = _entry(files, options)
    if path is None:
        return decode()
    with contextlib.suppress(DataError):
        found = read_arrays(path)
        with contextlib.suppress(OSError):
            os.utime(path)  # the oldest entry is the one unused for longest
        return found
    arrays = decode()
    with contextlib.suppress(OSError):
        _write(path, arrays)
    return arrays


def _entry(files: Sequence[Path], options: object) -> Path | None:
    """The place of an entry; None if it is small, or if there is no place for it."""
    total, key = 0, hashlib.sha256(repr((__version__, options)).encode("utf-8", "surrogateescape"))
    try:
        for file in files:
            status = os.stat(file)
            total += status.st_size
            name = (os.path.abspath(file), status.st_size, status.st_mtime_ns)
            key.update(repr(name).encode("utf-8", "surrogateescape"))
        is_small = total < SMALL and len(files) < 1000
        return None if is_small else folder() / f"{key.hexdigest()}.npz"
    except (OSError, RuntimeError, ValueError):
        return None


def _write(path: Path, arrays: dict[str, Array]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _tidy(path.parent)


def _tidy(place: Path) -> None:
    """Removes the oldest entries beyond LIMIT, and half-written files from long ago."""
    entries = sorted(place.glob("*.npz"), key=lambda entry: entry.stat().st_mtime, reverse=True)
    total = 0
    for entry in entries:
        total += entry.stat().st_size
        if total > LIMIT:
            entry.unlink(missing_ok=True)
    for part in place.glob(f".*{PART}"):
        if time.time() - part.stat().st_mtime > STALE_SECONDS:
            part.unlink(missing_ok=True)
