"""Locks on files, which keep two processes from writing into one folder at once.

A lock ends with the process that holds it, however that ends.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Makes an empty file, and locks it until this block ends.

    Raises BlockingIOError if another process holds the lock, unless it is to `wait`; OSError if the
    file cannot be made. A file system that has no locks will do.
    """
    with open(path, "a") as file:
        try:
            if fcntl:
                # unlike flock, not shared with forked workers, which may outlive a killed parent
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError):
            raise BlockingIOError(f"{path} is locked by another process") from None
        except OSError:
            pass
        yield
