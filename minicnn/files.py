"""Files: paths as people write them, atomic writes, and locks."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

PART = ".part"  # the ending of a file that is still being written


def as_path(path: Path | str) -> Path:
    """`path` with the home folder in place of a leading ~ or ~user, as in a shell.

    If there is no such user, `~user` means the file of that name. Raises ValueError for anything
    but a path, and if the home folder is not known.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        given = repr(text) if isinstance(text, str) else type(path).__name__
        raise ValueError(f"expected a path, a string or a Path, but got {given}")
    text = os.path.expanduser(text)
    if text.startswith("~") and not os.path.lexists(text):
        user = text.replace(os.sep, "/").split("/")[0]
        raise ValueError(
            f"{text} cannot be found: the home folder of {user} is not known; give the full path"
        )
    found = Path(text)  # which drops the ./ of ./~user
    return found.absolute() if str(found).startswith("~") else found


def write_atomically(path: Path | str, content: bytes) -> None:
    """Writes `content` to `path`, which holds the old file or the new one, never a part of it.

    Raises OSError, with the path and the reason, and leaves an old file as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Makes a rename survive a power failure, where the system can flush a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, waiting: str | None = None) -> Iterator[None]:
    """Makes an empty file, and locks it until this block ends.

    If another process holds the lock, prints `waiting` and waits; raises BlockingIOError if that
    is None. Raises OSError if the file cannot be made. On a file system without locks it goes ahead
    without one. A lock ends with the process that holds it, however that ends, and when that
    process closes the file anywhere. It does not exclude other threads of the same process.
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
