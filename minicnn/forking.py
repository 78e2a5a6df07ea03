"""Forking a process in which other threads may be computing.

A fork copies only the thread that forks. A lock that another one holds stays locked in the copy for
ever, and OpenBLAS holds a fork up until it has ended its threads, which never happens while they
work: either way all freezes. So a fork waits for a moment at which every other thread waits, as
those of a notebook's kernel do nearly always.

Threads that wait for the interpreter's lock count as waiting, as they cannot run on while this one
has it. But it must not be given away between the look at the threads and the fork. Calls of
`ctypes.PyDLL` keep it, and after a sleep, in which all others had their turn, Python takes it away
after 5 ms at the earliest.
"""

import contextlib
import ctypes
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator

TRIES = 100  # of a millisecond each; the threads of OpenBLAS stay awake for 30 after their work
FORKING = threading.Lock()  # a copy made meanwhile would keep the other end of a pipe open


def can_fork() -> bool:
    """Whether this system forks safely, which only Linux does, and Python has its lock."""
    return sys.platform == "linux" and getattr(sys, "_is_gil_enabled", lambda: True)()


def quiet_fork() -> int | None:
    """os.fork() when all other threads wait, or None if they do not within a tenth of a second.
    Raises OSError if the system refuses another process."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):  # none, closed, or broken
            stream.flush()  # or the copy would write it too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on warns of any thread
        for _ in range(TRIES):
            with _other_threads() as states:
                time.sleep(0.001)
                if not any(map(_runs, states)):
                    return os.fork()
    return None


@contextlib.contextmanager
def _other_threads() -> Iterator[list[int]]:
    """An open file for each other thread of this process, in which the system tells its state."""
    with contextlib.ExitStack() as files:
        states = []
        for thread in os.listdir("/proc/self/task"):
            if int(thread) != threading.get_native_id():
                with contextlib.suppress(OSError):  # it has ended
                    file = open(f"/proc/self/task/{thread}/stat", "rb", buffering=0)
                    states.append(files.enter_context(file).fileno())
        yield states


def _runs(file: int) -> bool:
    """Whether a thread runs, is about to, or waits for a disk: "1234 (its name) R ..."."""
    text = ctypes.create_string_buffer(256)
    ctypes.PyDLL(None).pread(file, text, 255, ctypes.c_long(0))
    return text.value.rpartition(b") ")[2][:1] in (b"R", b"D")
