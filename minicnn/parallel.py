"""One batch cut into chunks that fit in cache, spread over the cores.

The loss is a mean over the n images of the batch, so with n_c images in chunk c

    loss = sum_c (n_c / n) * loss_c                                                        (1)
    dparam = sum_c (n_c / n) * dparam_c                                                    (2)

Each chunk goes forward and back through the whole network before its core takes the next one.
NumPy releases the interpreter's lock while it works, so threads do, and one network serves them
all. Chunks are cut and added up in the same way for any number of workers, so the result is the
same, bit for bit. A GPU takes the batch whole.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import threadpoolctl

from minicnn.backend import Array, device_of
from minicnn.checks import integer
from minicnn.datasets import Dataset
from minicnn.layers.base import Gradients, Layer
from minicnn.losses import softmax_cross_entropy

CHUNK_SIZE = 64  # images: large enough for long rows, small enough for the cache


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextlib.contextmanager
def worker_map(workers: int | None = None) -> Iterator[Callable]:
    """A `map` that works on `workers` threads (all cores if None), with one BLAS thread each.

    It yields results in the order of its arguments.
    """
    workers = cores() if workers is None else integer("workers", workers, 1)
    _keep_freed_memory()
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        if workers == 1:
            yield map
        else:
            with ThreadPoolExecutor(workers) as pool:
                yield pool.map


def batch_gradients(
    net: Layer, data: Dataset, index: Array, map_: Callable = map
) -> tuple[Array, Array, Gradients]:
    """(loss, correct, grads) of the images that `index` names: the mean loss, how many are
    classified correctly, and dloss/dparam. Numbers stay on the device of the data."""

    def chunk_gradients(chunk: Array) -> tuple[Array, Array, Gradients]:
        with _quick_ufuncs():
            x, labels = data.batch(chunk, net.dtype)
            logits, saved = net.forward(x)
            loss, dlogits = softmax_cross_entropy(logits, labels)
            share = len(chunk) / len(index)
            _, grads = net.backward(dlogits * share, saved, need_dx=False)  # (2)
            return loss * share, _correct(logits, labels), grads  # (1)

    first, *others = map_(chunk_gradients, _chunks(data, index))
    loss, correct, total = first
    for chunk_loss, chunk_correct, grads in others:
        loss = loss + chunk_loss  # (1)
        correct = correct + chunk_correct
        for name, grad in grads.items():
            total[name] += grad  # (2)
    return loss, correct, total


def batch_loss(
    net: Layer, data: Dataset, index: Array, map_: Callable = map
) -> tuple[Array, Array]:
    """(loss, correct) of the images that `index` names, as `batch_gradients` has them."""

    def chunk_loss(chunk: Array) -> tuple[Array, Array]:
        with _quick_ufuncs():
            x, labels = data.batch(chunk, net.dtype)
            logits = net(x)
            loss, _ = softmax_cross_entropy(logits, labels)
            return loss * (len(chunk) / len(index)), _correct(logits, labels)  # (1)

    losses, corrects = zip(*map_(chunk_loss, _chunks(data, index)))
    return sum(losses), sum(corrects)  # (1)


def _chunks(data: Dataset, index: Array) -> list[Array]:
    size = CHUNK_SIZE if device_of(data.images) == "cpu" else len(index)
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
