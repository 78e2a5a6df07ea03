"""One batch cut into chunks that fit in cache, spread over the cores.

The loss is a mean over the n images of the batch, so with n_c images in chunk c

    loss = sum_c (n_c / n) * loss_c                                                        (1)
    dparam = sum_c (n_c / n) * dparam_c                                                    (2)

Each chunk goes forward and back through the whole network before its core takes the next one.
Chunks are cut and added up in the same way for any number of workers, so the result is the same,
bit for bit. A GPU takes the batch whole, and so does a network with a layer that needs it whole.

Workers are forked processes: calls into NumPy take about 10 microseconds each here, and threads
spend as long on handing the interpreter's lock to each other. Weights and gradients pass through
memory that all of them share. Only Linux forks safely; elsewhere the workers are threads.
"""

import contextlib
import ctypes
import mmap
import multiprocessing
import os
import signal
import sys
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

from minicnn.backend import Array
from minicnn.checks import integer
from minicnn.datasets import Dataset
from minicnn.layers.base import Gradients, Layer
from minicnn.losses import softmax_cross_entropy

CHUNK_SIZE = 64  # images: large enough for long rows, small enough for the cache
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # microseconds of a core, in so many microseconds

BatchGradients = Callable[[Array], tuple[Array, Array, Gradients]]


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


def worker_count(net: Layer, images: int, workers: int | None) -> int:
    """How many workers share `images` images: as many as there are chunks, up to `workers`."""
    workers = cores() if workers is None else integer("workers", workers, 1)
    return min(workers, len(_chunks(net, np.arange(images))))


def gradients(
    net: Layer, data: Dataset, index: Array, share: float = 1.0
) -> tuple[Array, Array, Gradients]:
    """(share * loss, correct, share * dloss/dparam) of the images that `index` names: the loss is
    their mean, `correct` how many are classified correctly. Numbers stay on the device."""
    with _quick_ufuncs():
        x, labels = data.batch(index, net.dtype)
        logits, saved = net.forward(x)
        loss, dlogits = softmax_cross_entropy(logits, labels)
        _, grads = net.backward(dlogits * share, saved, need_dx=False)
        return loss * share, _correct(logits, labels), grads


@contextlib.contextmanager
def batch_gradients(
    net: Layer, data: Dataset, batch_size: int, workers: int | None = None
) -> Iterator[BatchGradients]:
    """A function index -> (loss, correct, grads) for batches of up to `batch_size` images, that
    shares the work out to `workers` processes (all cores if None)."""
    workers = worker_count(net, batch_size, workers)
    if net.device == "gpu":
        yield lambda index: gradients(net, data, index)
        return
    weights = _shared(net.params)
    slots = [_shared(net.params) for _ in range(4 * workers)]  # for the gradients of chunks
    arrays = iter(weights.values())
    worker_net = net.map_params(lambda _: next(arrays))

    def work(job: tuple[int, Array, float]) -> tuple[Array, Array]:
        slot, chunk, share = job
        loss, correct, grads = gradients(worker_net, data, chunk, share)  # (1), (2)
        for name, grad in grads.items():
            slots[slot][name][...] = grad
        return loss, correct

    with worker_map(work, workers) as map_:

        def over_the_batch(index: Array) -> tuple[Array, Array, Gradients]:
            for name, parameter in net.params.items():
                weights[name][...] = parameter
            loss, correct = 0.0, 0
            total = {name: np.zeros_like(weight) for name, weight in weights.items()}
            chunks = _chunks(net, index)
            for first in range(0, len(chunks), len(slots)):
                jobs = [
                    (slot, chunk, len(chunk) / len(index))
                    for slot, chunk in enumerate(chunks[first : first + len(slots)])
                ]
                for (slot, _, _), (chunk_loss, chunk_correct) in zip(jobs, map_(jobs)):
                    loss += chunk_loss  # (1)
                    correct += chunk_correct
                    for name, grad in slots[slot].items():
                        total[name] += grad  # (2)
            return loss, correct, total

        yield over_the_batch


def loss_and_correct(net: Layer, data: Dataset, workers: int | None = None) -> tuple[float, int]:
    """(mean loss, how many are classified correctly) of all images of `data`."""

    def work(chunk: Array) -> tuple[Array, Array]:
        with _quick_ufuncs():
            x, labels = data.batch(chunk, net.dtype)
            logits = net(x)
            loss, _ = softmax_cross_entropy(logits, labels)
            return loss * (len(chunk) / len(data)), _correct(logits, labels)  # (1)

    with worker_map(work, worker_count(net, len(data), workers)) as map_:
        losses, corrects = zip(*map_(_chunks(net, np.arange(len(data)))))
    return float(sum(losses)), int(sum(corrects))  # (1)


@contextlib.contextmanager
def worker_map(work: Callable[[Any], Any], workers: int) -> Iterator[Callable[[list], list]]:
    """A `map` of `work` over a list, on `workers` processes with one BLAS thread each. With one
    worker it is this process."""
    _keep_freed_memory()
    with threadpoolctl.threadpool_limits(1, user_api="blas"), contextlib.ExitStack() as stack:
        if workers == 1:
            yield lambda jobs: list(map(work, jobs))
        elif sys.platform != "linux":
            pool = stack.enter_context(ThreadPoolExecutor(workers))
            yield lambda jobs: list(pool.map(work, jobs))
        else:
            pipes = [stack.enter_context(_forked(work)) for _ in range(workers)]
            yield lambda jobs: _scatter(pipes, jobs)


@dataclass(frozen=True)
class _Failure:
    """What a worker raised; a traceback does not pass through a pipe, but its text does."""

    error: Exception
    traceback: str


def _scatter(pipes: list[Connection], jobs: list) -> list:
    """The results of the jobs, in their order; the k-th worker of n takes every n-th from k on."""
    for k, pipe in enumerate(pipes):
        pipe.send(jobs[k :: len(pipes)])
    results = [None] * len(jobs)
    try:
        answers = [pipe.recv() for pipe in pipes]
    except EOFError:
        raise RuntimeError("a worker process died; was it short of memory?") from None
    for k, answer in enumerate(answers):
        if isinstance(answer, _Failure):
            raise answer.error from RuntimeError(f"in a worker process:\n{answer.traceback}")
        results[k :: len(pipes)] = answer
    return results


@contextlib.contextmanager
def _forked(work: Callable[[Any], Any]) -> Iterator[Connection]:
    """A copy of this process that answers each list of jobs with the list of their results, or
    with the exception that was raised. It ends when the pipe does."""
    ours, theirs = multiprocessing.Pipe()

    def serve() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
        ours.close()
        with contextlib.suppress(EOFError):
            while True:
                jobs = theirs.recv()
                try:
                    answer = [work(job) for job in jobs]
                except Exception as error:
                    answer = _Failure(error, traceback.format_exc())
                theirs.send(answer)

    process = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
    with warnings.catch_warnings():
        # Python 3.12 on warns of threads; BLAS has some, and stops and starts them around a fork
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()
        ours.close()


def _shared(params: dict[str, Array]) -> dict[str, Array]:
    """Arrays like the parameters, in memory that forked processes share with this one."""
    return {
        name: np.frombuffer(mmap.mmap(-1, p.nbytes), p.dtype).reshape(p.shape)
        for name, p in params.items()
    }


def _chunks(net: Layer, index: Array) -> list[Array]:
    whole = net.device == "gpu" or net.whole_batch
    size = len(index) if whole else CHUNK_SIZE
    return [index[first : first + size] for first in range(0, len(index), size)]


def _correct(logits: Array, labels: Array) -> Array:
    return (logits.argmax(axis=1) == labels).sum()


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
