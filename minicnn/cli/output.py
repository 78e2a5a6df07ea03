"""What commands print: encoded for the terminal, with messages and warnings on one line."""

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
    """Passes text on to `stream`, with escapes for what it cannot encode; drops it if None."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = io.StringIO() if stream is None else stream

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except UnicodeEncodeError:  # its encoding is not what it says
            self._stream.write(text.encode("ascii", "backslashreplace").decode())
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def anything_printable() -> Iterator[None]:
    """Within this block, whatever the terminal cannot encode is printed with escapes. The streams
    themselves are not changed: a notebook's, for example, cannot be reconfigured."""
    out, err = _Escaping(sys.stdout), _Escaping(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


@contextlib.contextmanager
def quiet_if(quiet: bool) -> Iterator[None]:
    """Drops whatever is printed within this block."""
    with contextlib.ExitStack() as stack:
        if quiet:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


@contextlib.contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Within this block, a warning is printed like any other message."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        from PIL.Image import DecompressionBombWarning  # here: only `predict` needs Pillow

        if category is not DecompressionBombWarning:  # the error for such a picture says more
            complain(message)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


def close_stdout() -> None:
    """Lets the interpreter exit quietly when the reader of our output, such as `head`, has gone."""
    with contextlib.suppress(io.UnsupportedOperation):  # for a notebook's stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
