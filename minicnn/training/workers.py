"""A `map` over the cores: this process and forked copies of it each take a share of the jobs.

The workers are processes, not threads: in a small network each call into NumPy takes about 10
microseconds, and threads spend as long handing the interpreter's lock to each other. Forking is
safe only on Linux, and only if Python has its global lock; elsewhere the workers are threads. While
its other threads compute, this process does not fork, and works alone.
"""

import contextlib
import ctypes
import errno
import functools
import multiprocessing
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import numpy as np
import threadpoolctl

from minicnn.training.cores import cores
from minicnn.training.forking import can_fork, quiet_fork

__all__ = ["cores", "worker_map"]

# the system's errors when it allows no more processes, memory or files
REFUSALS = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
FORKING = threading.RLock()  # a copy made meanwhile would keep the other end of a pipe open
is_worker = False  # True in a forked copy, which forks no others
# looked up once: a look-up holds a lock of the loader, and a fork meanwhile would copy it locked
BLAS = threadpoolctl.ThreadpoolController().select(user_api="blas")
_told: str | None = None  # the last refusal that a warning was given for


@contextlib.contextmanager
def worker_map(work: Callable[[Any], Any], workers: int) -> Iterator[Callable[[list], list]]:
    """A `map` of `work` over a list, on `workers` processes including this one, with one BLAS
    thread each; on fewer, with a warning, if the system allows no more."""

    def quick_work(job: Any) -> Any:
        with _quick_ufuncs():
            return work(job)

    _keep_freed_memory()
    with ONE_BLAS_THREAD, contextlib.ExitStack() as stack:
        # such as a process of a pool, which already shares the cores
        daemon = multiprocessing.current_process().daemon
        if workers == 1 or is_worker or daemon:
            yield lambda jobs: list(map(quick_work, jobs))
        elif can_fork():
            pipes = _fork_all(quick_work, workers - 1, stack)
            yield lambda jobs: _scatter(quick_work, pipes, jobs)
        else:
            pool = stack.enter_context(ThreadPoolExecutor(workers))
            yield lambda jobs: list(pool.map(quick_work, jobs))


def _fork_all(
    work: Callable[[Any], Any], count: int, stack: contextlib.ExitStack
) -> list[Connection]:
    """Pipes to `count` forked processes; to fewer, with a warning, if the system refuses more, and
    silently if other threads compute."""
    _flush()
    pipes: list[Connection] = []
    refusal = None
    try:
        while len(pipes) < count:
            pipes.append(stack.enter_context(_forked(work)))
    except _NotQuiet:
        pass
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        refusal = (
            f"the system allows no more processes ({error.strerror}), so {len(pipes) + 1} of "
            f"{count + 1} workers share the work: see ulimit -u and ulimit -n"
        )
    _tell(refusal)
    return pipes


def _flush() -> None:
    """Writes out buffered output, which each copy of this process would otherwise write again."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, BrokenPipeError):  # none, or closed
            stream.flush()


def _tell(refusal: str | None) -> None:
    """Warns, but only once for successive blocks with the same refusal, such as a run's epochs."""
    global _told
    before, _told = _told, refusal
    if refusal not in (None, before):
        warnings.warn(refusal, stacklevel=5)


class _OneBlasThread:
    """A block in which BLAS has one thread. Blocks may overlap, in several threads: the first to
    begin sets the limit, and the last to end restores what was before."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a block may end in the garbage collector, at any line
        self.blocks = 0
        self.limit: Any = None

    def __enter__(self) -> None:
        with self.lock:
            self.blocks += 1
            try:
                if self.limit is None:
                    self._free_control()
                    self.limit = BLAS.limit(limits=1)
            except BaseException:  # such as Ctrl-C
                self.__exit__()
                raise

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.blocks = max(0, self.blocks - 1)
            if self.blocks == 0 and self.limit is not None and _may_start_threads():
                self._free_control()
                self.limit.restore_original_limits()
                self._free_control()
                self.limit = None

    def forget(self) -> None:
        """In the copy of a process, where the blocks of other threads do not continue. The limit is
        copied too, and lifted at the end of the next block."""
        self.lock = threading.RLock()
        self.blocks = 0

    @staticmethod
    def _free_control() -> None:
        """From threadpoolctl 3.8 on, only one thread at a time controls BLAS, and the limits that
        others set are silently ignored."""
        openblas = threadpoolctl.OpenBLASController
        if hasattr(openblas, "clear_controlling_thread"):
            openblas.clear_controlling_thread(force=True)


ONE_BLAS_THREAD = _OneBlasThread()


def _may_start_threads() -> bool:
    """Whether the system allows one more thread, if it has refused a process. If it does not,
    OpenBLAS interrupts the program when it is given several threads again."""
    if _told is not None:
        try:
            threading.Thread(target=int).start()
        except RuntimeError:
            return False
    return True


def _in_a_copy() -> None:
    """Frees locks that other threads held when this process was forked, by any code."""
    global FORKING
    FORKING = threading.RLock()
    ONE_BLAS_THREAD.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_copy)


@dataclass(frozen=True)
class _Failure:
    """What a worker raised; a traceback does not pass through a pipe, but its text does."""

    error: Exception
    traceback: str


def _work_all(work: Callable[[Any], Any], jobs: list) -> "list | _Failure":
    try:
        return [work(job) for job in jobs]
    except Exception as error:
        return _Failure(error, traceback.format_exc())


def _pickled(answer: "list | _Failure") -> bytes:
    """The answer for the pipe or, if it cannot be pickled, a failure that says so."""
    try:
        if isinstance(answer, _Failure):
            pickle.loads(pickle.dumps(answer.error))  # not every exception survives this
        return pickle.dumps(answer)
    except Exception as error:
        if not isinstance(answer, _Failure):
            answer = _Failure(error, traceback.format_exc())
        told = f"{type(answer.error).__name__}: {answer.error}"
        return pickle.dumps(_Failure(RuntimeError(told), answer.traceback))


def _receive(pipe: Connection) -> Any:
    """The next object; polls for a while before it sleeps, since waking up takes 0.1 ms."""
    end = time.monotonic() + 0.001
    poller = select.poll()  # takes a tenth of the time of pipe.poll
    poller.register(pipe, select.POLLIN)
    while not poller.poll(0) and time.monotonic() < end:
        pass
    return pipe.recv()


def _scatter(work: Callable[[Any], Any], pipes: list[Connection], jobs: list) -> list:
    """The results of the jobs, in order. Of n workers, the k-th takes every n-th job from k on. The
    first is this process, so that it need not wait or be woken up."""
    workers = len(pipes) + 1
    try:
        for k, pipe in enumerate(pipes, 1):
            pipe.send_bytes(pickle.dumps(jobs[k::workers]))  # pipe.send first copies a table
        answers = [_work_all(work, jobs[::workers]), *map(_receive, pipes)]
    except BaseException as error:
        for pipe in pipes:  # an unread answer would be taken for the answer to the next jobs
            pipe.close()
        if isinstance(error, (EOFError, ConnectionError)):
            raise ChildProcessError("a worker process died; was it short of memory?") from None
        raise
    results = [None] * len(jobs)
    for k, answer in enumerate(answers):
        if isinstance(answer, _Failure):
            told = RuntimeError(f"in a worker process:\n{answer.traceback}")
            raise answer.error from (told if k else answer.error.__cause__)
        results[k::workers] = answer
    return results


class _NotQuiet(Exception):
    """Other threads are computing, so this process cannot be forked."""


@contextlib.contextmanager
def _forked(work: Callable[[Any], Any]) -> Iterator[Connection]:
    """A copy of this process that answers each list of jobs with the list of their results, or with
    the exception raised. It ends with this block, or when this process does. Raises OSError if the
    system refuses it, and _NotQuiet if other threads are computing."""

    def serve() -> None:
        global is_worker
        is_worker = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        ours.close()
        with ONE_BLAS_THREAD, contextlib.suppress(EOFError, ConnectionError):
            while True:
                theirs.send_bytes(_pickled(_work_all(work, _receive(theirs))))

    with contextlib.ExitStack() as stack:
        with FORKING:
            ours, theirs = multiprocessing.Pipe()
            stack.enter_context(ours)
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                with theirs:
                    if (child := quiet_fork()) == 0:
                        _serve_and_end(serve)
                    if child is None:
                        raise _NotQuiet
                    stack.callback(_end, child)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield ours


def _serve_and_end(serve: Callable[[], None]) -> NoReturn:
    try:
        serve()
    finally:
        os._exit(0)


def _end(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it has been waited for
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextlib.contextmanager
def _quick_ufuncs() -> Iterator[None]:
    """NumPy copies small strided arrays through a buffer of 8,192 entries, which is three times
    slower; with a smaller buffer it does not. Overflow is found in the loss, so it needs no
    warning. Both settings hold for this thread, in this block."""
    with np.errstate(over="ignore", invalid="ignore"):
        np.setbufsize(1024)
        yield


@functools.cache
def _keep_freed_memory() -> None:
    """Tells glibc to keep the memory of freed arrays for new ones. By default arrays of hundreds of
    kilobytes go back to the system, which has to clear their memory before each use. This holds for
    the whole process, from here on."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # not glibc
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    if mallopt(m_mmap_threshold, 32 << 20):  # the most that every glibc takes
        mallopt(m_trim_threshold, 1 << 30)
        mallopt(m_top_pad, 64 << 20)
