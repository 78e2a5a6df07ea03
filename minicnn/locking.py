"""Locks on files, which keep two processes from writing into one folder at once.

A lock ends with the process that holds it, however that ends, and when that process closes the file
anywhere. It does not keep apart two parts of one process.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None


@contextlib.contextmanager
def locked(path: Path, waiting: str | None = None) -> Iterator[None]:
    """Makes an empty file, and locks it until this block ends.

    Where another process holds the lock, prints `waiting` and waits; raises BlockingIOError if that
    is None. Raises OSError if the file cannot be made. A file system that has no locks will do.
    """
    with open(path, "a") as file:
        try:
            _lock(file, waiting)
        except (BlockingIOError, PermissionError):
            raise BlockingIOError(f"{path} is locked by another process") from None
        except OSError:
            pass
        yield


def _lock(file: TextIO, waiting: str | None) -> None:
    if not fcntl:
        return
    try:
        # unlike flock, not shared with forked workers, which may outlive a killed parent
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        if waiting is None:
            raise
        print(waiting, file=sys.stderr, flush=True)
        fcntl.lockf(file, fcntl.LOCK_EX)
