"""SIGINT and SIGTERM during training: the step is finished and saved before training stops."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from minicnn.training.history import Position


class Stopped(Exception):
    """A signal has stopped training, which is saved: `signal`, and the `place` in words."""

    def __init__(self, number: int, place: str) -> None:
        self.signal, self.place = signal.Signals(number), place
        super().__init__(f"stopped by {self.signal.name} after {place}, and saved")


class StopSignals:
    """Notes SIGINT and SIGTERM, so that training can stop where it can be saved."""

    number: int | None = None

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Handles signals in the main thread, the only one that can; does nothing elsewhere."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in handlers.items():
            if handler != signal.SIG_IGN:  # ignored, for example, in the background of a script
                signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def check(self, position: Position) -> None:
        """Raises Stopped if a signal has arrived."""
        if self.number:
            raise Stopped(self.number, position.place)

    def _note(self, number: int, frame: object) -> None:
        self.number = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)  # a second one stops at once
