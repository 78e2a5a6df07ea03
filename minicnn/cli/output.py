"""What commands print: encoded as the terminal can, with messages and warnings in a line."""

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO


def complain(message: object) -> None:
    print(f"minicnn: {message}", file=sys.stderr)


class _Escaping:
    """Passes text on to `stream`, with escapes for what that cannot encode; to nowhere if None."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = io.StringIO() if stream is None else stream

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except UnicodeEncodeError:  # it encodes otherwise than it says
            self._stream.write(text.encode("ascii", "backslashreplace").decode())
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def anything_printable() -> Iterator[None]:
    """Until it ends, whatever the terminal cannot encode is printed with escapes. The streams stay
    as they are: those of a notebook, say, cannot be reconfigured."""
    out, err = _Escaping(sys.stdout), _Escaping(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


@contextlib.contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Until it ends, a warning is printed like any other message."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        from PIL.Image import DecompressionBombWarning  # here: only `predict` needs Pillow

        if category is not DecompressionBombWarning:  # such a picture is refused, which says more
            complain(message)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


def close_stdout() -> None:
    """Lets the interpreter end quietly when the reader of our output, `head` say, has gone."""
    with contextlib.suppress(io.UnsupportedOperation):  # a notebook's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
