"""Forking a process in which other threads may be computing.

A fork copies only the thread that forks. A lock held by another thread stays locked in the copy
forever, and OpenBLAS, before a fork, waits for its own threads to end, which they do not do while
they work. Either way the program hangs. So a fork waits until every other thread of Python has been
idle for a millisecond, which is nearly always true of the threads of a notebook's kernel.

A thread that waits for the interpreter's lock cannot continue while this one has it, so the lock
must not be released between checking the threads and the fork. Calls of `ctypes.PyDLL` keep it, and
after a sleep, in which all others had their turn, Python takes it away after 5 ms at the earliest.
"""

import contextlib
import ctypes
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

TRIES = 30  # of a millisecond each
# schedstat begins with the nanoseconds that a thread has computed. A kernel that lacks it leaves
# only the state to go by: stat begins with the thread's number, which does not grow
TIMES = "schedstat" if os.path.exists("/proc/self/schedstat") else "stat"
BUSY_SECONDS = 1e-4  # of computing in this millisecond
# looked up once, because a look-up takes a lock of the loader
PREAD: Any = ctypes.PyDLL(None).pread if sys.platform == "linux" else None


def can_fork() -> bool:
    """Whether this system forks safely, as only Linux does, and Python has its global lock."""
    return sys.platform == "linux" and getattr(sys, "_is_gil_enabled", lambda: True)()


def quiet_fork() -> int | None:
    """os.fork() once all other threads are idle, or None if they are not within TRIES milliseconds.
    Raises OSError if the system refuses another process."""
    for _ in range(TRIES):
        with _other_threads() as threads:
            before = [_seconds(seconds) for _, seconds in threads]
            time.sleep(0.001)
            if not any(
                _runs(state) or _seconds(seconds) - start > BUSY_SECONDS
                for (state, seconds), start in zip(threads, before)
            ):
                with _no_warning():
                    return os.fork()
    return None


@contextlib.contextmanager
def _no_warning() -> Iterator[None]:
    """Silences Python's warning, from 3.12 on, when a process with several threads forks."""
    with contextlib.ExitStack() as stack:
        if sys.version_info >= (3, 12):
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextlib.contextmanager
def _other_threads() -> Iterator[list[tuple[int, int]]]:
    """For each other thread of Python two open files, in which the system shows its state and its
    computing time; for all other threads if some of Python's were not started by `threading`."""
    python = {thread.ident: thread.native_id for thread in threading.enumerate()}
    known = python.keys() >= sys._current_frames().keys()
    chosen = python.values() if known else map(int, os.listdir("/proc/self/task"))
    with contextlib.ExitStack() as files:
        threads = []
        for thread in set(chosen) - {threading.get_native_id(), None}:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                state, seconds = (
                    files.enter_context(open(f"/proc/self/task/{thread}/{name}", "rb", 0)).fileno()
                    for name in ("stat", TIMES)
                )
                threads.append((state, seconds))
        yield threads


def _read(file: int) -> bytes:
    """What the file holds now, read without releasing the interpreter's lock."""
    text = ctypes.create_string_buffer(256)
    PREAD(file, text, 255, ctypes.c_long(0))
    return text.value


def _runs(state: int) -> bool:
    """Whether a thread runs, is about to run, or waits for a disk: "1234 (its name) R ..."."""
    return _read(state).rpartition(b") ")[2][:1] in (b"R", b"D")


def _seconds(seconds: int) -> float:
    """How long a thread has computed: the first of the numbers, in nanoseconds."""
    return int((_read(seconds).split() or [b"0"])[0]) / 1e9
