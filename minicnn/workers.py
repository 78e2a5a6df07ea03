"""A `map` over the cores: this process and forked copies of it each take a share of the jobs.

Processes and not threads, since calls into NumPy take about 10 microseconds each in a small
network, and threads spend as long on handing the interpreter's lock to each other. Only Linux forks
safely; elsewhere the workers are threads.
"""

import contextlib
import ctypes
import multiprocessing
import os
import pickle
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
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

FORKING = threading.Lock()  # a copy made meanwhile would keep the other end of a pipe open
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # microseconds of a core, in so many microseconds


def cores() -> int:
    """How many cores this process may use: those it is bound to, and no more than its control
    group has time for."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only, as is the file
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = CPU_MAX.read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no control groups, or a quota of "max"
        return count


@contextlib.contextmanager
def worker_map(work: Callable[[Any], Any], workers: int) -> Iterator[Callable[[list], list]]:
    """A `map` of `work` over a list, on `workers` processes, this one among them, with one BLAS
    thread each."""

    def quick_work(job: Any) -> Any:
        with _quick_ufuncs():
            return work(job)

    _keep_freed_memory()
    with threadpoolctl.threadpool_limits(1, user_api="blas"), contextlib.ExitStack() as stack:
        if workers == 1 or multiprocessing.current_process().daemon:  # which may have no children
            yield lambda jobs: list(map(quick_work, jobs))
        elif sys.platform != "linux":
            pool = stack.enter_context(ThreadPoolExecutor(workers))
            yield lambda jobs: list(pool.map(quick_work, jobs))
        else:
            pipes = [stack.enter_context(_forked(quick_work)) for _ in range(workers - 1)]
            yield lambda jobs: _scatter(quick_work, pipes, jobs)


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
    """The answer for the pipe, or if it does not go through, a failure that says so."""
    try:
        if isinstance(answer, _Failure):
            pickle.loads(pickle.dumps(answer.error))  # which not every exception survives
        return pickle.dumps(answer)
    except Exception as error:
        if not isinstance(answer, _Failure):
            answer = _Failure(error, traceback.format_exc())
        told = f"{type(answer.error).__name__}: {answer.error}"
        return pickle.dumps(_Failure(RuntimeError(told), answer.traceback))


def _receive(pipe: Connection) -> Any:
    """What comes next; asks for it for a while before it sleeps, since waking up takes 0.1 ms."""
    end = time.monotonic() + 0.001
    while not pipe.poll() and time.monotonic() < end:
        pass
    return pipe.recv()


def _scatter(work: Callable[[Any], Any], pipes: list[Connection], jobs: list) -> list:
    """The results of the jobs, in order. Of n workers the k-th takes every n-th from k on. The
    first is this process, so that it need not wait, nor be woken up."""
    workers = len(pipes) + 1
    try:
        for k, pipe in enumerate(pipes, 1):
            pipe.send(jobs[k::workers])
        answers = [_work_all(work, jobs[::workers]), *map(_receive, pipes)]
    except BaseException as error:
        for pipe in pipes:  # an answer left unread would be taken for one to the next jobs
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


@contextlib.contextmanager
def _forked(work: Callable[[Any], Any]) -> Iterator[Connection]:
    """A copy of this process that answers each list of jobs with the list of their results, or
    with what was raised. It ends with this block, or when this process does."""

    def serve() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        ours.close()
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                theirs.send_bytes(_pickled(_work_all(work, _receive(theirs))))

    process = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
    try:
        with FORKING:
            ours, theirs = multiprocessing.Pipe()
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                with warnings.catch_warnings():
                    # Python 3.12 on warns of threads; BLAS stops and starts its own around a fork
                    warnings.simplefilter("ignore", DeprecationWarning)
                    process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        yield ours
    finally:
        if process.pid is not None:
            process.kill()
            process.join()
            ours.close()


@contextlib.contextmanager
def _quick_ufuncs() -> Iterator[None]:
    """NumPy works through small strided arrays by way of a buffer of 8,192 entries, three times
    slower than without; a smaller buffer leaves that out. Overflow is found in the loss, so no
    warning is due. Both settings hold for this thread, in this block."""
    with np.errstate(over="ignore", invalid="ignore"):
        np.setbufsize(1024)
        yield


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed arrays for the next ones; by default those of hundreds of
    kilobytes go back to the system, which has to clear them again before each use. This holds for
    the whole process, from here on."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # no glibc, no such trouble
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    if mallopt(m_mmap_threshold, 32 << 20):  # the most that every glibc takes
        mallopt(m_trim_threshold, 1 << 30)
        mallopt(m_top_pad, 64 << 20)
