"""Paths as people write them."""

import os
from pathlib import Path


def as_path(path: Path | str) -> Path:
    """`path` with the home folder in place of a leading ~ or ~user, as in a shell.

    If there is no such user, a file that is named ~user means itself. Raises ValueError for what is
    no path, and where the home folder is not known.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str) or "\0" in text:
        given = repr(text) if isinstance(text, str) else type(path).__name__
        raise ValueError(f"expected a path, a string or a Path, but got {given}")
    text = os.path.expanduser(text)
    if text.startswith("~") and not os.path.lexists(text):
        user = text.replace(os.sep, "/").split("/")[0]
        raise ValueError(
            f"{text} cannot be found: the home folder of {user} is not known; give the whole path"
        )
    found = Path(text)  # which drops the ./ of ./~user
    return found.absolute() if str(found).startswith("~") else found
