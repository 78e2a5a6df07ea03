"""One batch cut into chunks that fit in cache, spread over the cores.

The loss is a mean over the n images of the batch, so with n_c images in chunk c

    loss = sum_c (n_c / n) * loss_c                                                        (1)
    dparam = sum_c (n_c / n) * dparam_c                                                    (2)

Each chunk goes forward and back through the whole network before its core takes the next one.
Chunks are of equal size, but for an image, and are cut and added up in the same way for any number
of workers, so the result is the same, bit for bit. A GPU takes the batch whole, unless images are
mixed or numbers drawn: then it takes the chunks that a CPU would, to compute the same.

Random numbers follow from a key, (seed, epoch, step) in `fit`, to which the number of the chunk is
added. State, as of batch normalisation, becomes the mean of what the chunks ask for:

    state = sum_c (n_c / n) * state_c                                                      (3)

Weights, state and gradients pass through memory that all workers share.
"""

import contextlib
import functools
import math
import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from minicnn.arguments import integer
from minicnn.backend import Array, array_module
from minicnn.datasets import Dataset
from minicnn.layers.base import Key, Layer
from minicnn.layers.parameters import weighted_mean
from minicnn.losses import softmax_cross_entropy
from minicnn.training.cores import cores
from minicnn.training.workers import worker_map

CHUNK_SIZE = 64  # images: large enough for long rows, small enough for the cache
EVALUATION_CHUNK_SIZES = {"cpu": 128, "gpu": 4096}  # without a tape there is room for more
CHUNKS_AT_ONCE = 4  # for each worker: a batch of 256 is one round of jobs, even for one worker

Loss = Callable[[Array, Array], tuple[Array, Array]]
"""(logits, labels) -> (loss, dlogits), where the loss is a mean over the images"""

Augment = Callable[[Array, np.random.Generator], Array]
"""(images, rng) -> other images, both of bytes (N, C, H, W)"""


class BatchGradients(NamedTuple):
    """What a step needs to know of a batch: the loss, a mean over the images; how many of them are
    classified correctly; dloss/dparam; new values of the state. Numbers stay on the device."""

    loss: float | Array
    correct: int | Array
    grads: dict[str, Array]
    state: dict[str, Array]


def worker_count(net: Layer, images: int, workers: int | None, size: int = CHUNK_SIZE) -> int:
    """How many workers share `images` images: as many as there are chunks of `size`, up to
    `workers`; one for a GPU."""
    workers = cores() if workers is None else integer("workers", workers, 1)
    return 1 if net.device == "gpu" else min(workers, math.ceil(images / size))


@contextlib.contextmanager
def batch_gradients(
    net: Layer,
    data: Dataset,
    batch_size: int,
    workers: int | None = None,
    loss: Loss = softmax_cross_entropy,
    augment: Augment | None = None,
) -> Iterator[Callable[..., BatchGradients]]:
    """A function (index, key=()) -> BatchGradients for batches of up to `batch_size` images, that
    shares the work out to up to `workers` processes (all cores if None)."""
    workers = worker_count(net, min(batch_size, len(data)), workers)
    if net.device == "gpu":
        yield functools.partial(_on_gpu, net, data, loss, augment)
        return
    chunks = _Chunks(net, data, loss, augment, CHUNKS_AT_ONCE * workers)
    with worker_map(chunks.work, workers) as map_:
        yield functools.partial(chunks.sum_over, map_)


def gradients(
    net: Layer,
    data: Dataset,
    loss_function: Loss,
    augment: Augment | None,
    index: Array,
    key: Key,
    share: float = 1.0,
) -> BatchGradients:
    """Those of the images that `index` names, times `share`, but for the state."""

    def changed(images: Array) -> Array:
        return augment(images, np.random.default_rng((*key, 0))) if augment else images

    x, labels = data.batch(index, net.dtype, changed)
    net = net.at((*key, 1))
    logits, saved = net.forward(x)
    loss, dlogits = loss_function(logits, labels)
    _, grads = net.backward(dlogits * share, saved, need_dx=False)
    return BatchGradients(loss * share, _correct(logits, labels), grads, net.updates(saved))


def _on_gpu(
    net: Layer,
    data: Dataset,
    loss: Loss,
    augment: Augment | None,
    index: Array,
    key: Key = (),
) -> BatchGradients:
    cut = augment or net.mixes_images or net.at((0,)) is not net
    chunks = _equal_chunks(index) if cut else [index]
    shares = [len(chunk) / len(index) for chunk in chunks]
    found = (
        gradients(net, data, loss, augment, chunk, (*key, c), share)
        for c, (chunk, share) in enumerate(zip(chunks, shares))
    )
    return next(found) if len(chunks) == 1 else _sum(net, shares, found)


class _Chunks:
    """The gradients of `slots` chunks at once, each in a slot of memory that the workers share."""

    def __init__(
        self, net: Layer, data: Dataset, loss: Loss, augment: Augment | None, slots: int
    ) -> None:
        self.net, self.settings = net, (data, loss, augment)
        self.arrays = _shared(net.arrays)
        self.slots = [_shared(net.params) for _ in range(slots)]
        self.shapes = {name: parameter.shape for name, parameter in net.params.items()}
        shared = {id(array): self.arrays[name] for name, array in net.arrays.items()}
        self.worker_net = net.map_arrays(lambda array: shared[id(array)])

    def work(self, job: tuple[int, Array, Key, float]) -> BatchGradients:
        """In a worker: those of a chunk, but for dloss/dparam, which goes to its slot."""
        slot, chunk, key, share = job
        found = gradients(self.worker_net, *self.settings, chunk, key, share)  # (1), (2)
        given = {name: grad.shape for name, grad in found.grads.items()}
        if given != self.shapes:  # others would be broadcast, or leave what was in the slot
            raise ValueError(f"expected gradients of shapes {self.shapes} but got {given}")
        for name, grad in found.grads.items():
            self.slots[slot][name][...] = grad
        return found._replace(grads={})

    def sum_over(self, map_: Callable[[list], list], index: Array, key: Key = ()) -> BatchGradients:
        """Those of the batch, with the weights and the state that the network has now."""
        for name, array in self.net.arrays.items():
            self.arrays[name][...] = array
        chunks = _equal_chunks(index)
        shares = [len(chunk) / len(index) for chunk in chunks]
        jobs = [
            (c % len(self.slots), chunk, (*key, c), share)
            for c, (chunk, share) in enumerate(zip(chunks, shares))
        ]
        return _sum(self.net, shares, self._found(jobs, map_))

    def _found(self, jobs: list, map_: Callable[[list], list]) -> Iterator[BatchGradients]:
        for first in range(0, len(jobs), len(self.slots)):
            for grads, found in zip(self.slots, map_(jobs[first : first + len(self.slots)])):
                yield found._replace(grads=grads)


def _sum(net: Layer, shares: list[float], chunks: Iterable[BatchGradients]) -> BatchGradients:
    """The gradients of a batch from those of its chunks, in their order."""
    loss: float | Array = 0.0
    correct: int | Array = 0
    grads = {name: array_module(p).zeros_like(p) for name, p in net.params.items()}
    states = []
    for chunk in chunks:
        loss += chunk.loss  # (1)
        correct += chunk.correct
        states.append(chunk.state)
        for name, grad in chunk.grads.items():
            grads[name] += grad  # (2)
    state = {name: weighted_mean([s[name] for s in states], shares) for name in states[0]}  # (3)
    return BatchGradients(loss, correct, grads, state)


def loss_and_correct(
    net: Layer, data: Dataset, workers: int | None = None, loss: Loss = softmax_cross_entropy
) -> tuple[float, int]:
    """(mean loss, how many are classified correctly) of all images of `data`."""

    def work(chunk: range) -> tuple[Array, Array]:
        x, labels = data.batch(slice(chunk.start, chunk.stop), net.dtype)
        logits = net(x)
        chunk_loss, _ = loss(logits, labels)
        return chunk_loss * (len(chunk) / len(data)), _correct(logits, labels)  # (1)

    size = EVALUATION_CHUNK_SIZES[net.device]
    with worker_map(work, worker_count(net, len(data), workers, size)) as map_:
        images = range(len(data))
        chunks = [images[first : first + size] for first in images[::size]]
        losses, corrects = zip(*map_(chunks))
    return float(sum(losses)), int(sum(corrects))  # (1)


def _shared(arrays: dict[str, Array]) -> dict[str, Array]:
    """Arrays like these, in memory that forked processes share with this one."""
    return {
        name: np.frombuffer(mmap.mmap(-1, a.nbytes), a.dtype).reshape(a.shape)
        for name, a in arrays.items()
    }


def _equal_chunks(index: Array) -> list[Array]:
    """As few as CHUNK_SIZE allows; statistics of a small last chunk would be poor ones."""
    count = math.ceil(len(index) / CHUNK_SIZE)
    bounds = [c * len(index) // count for c in range(count + 1)]
    return [index[first:stop] for first, stop in zip(bounds, bounds[1:])]


def _correct(logits: Array, labels: Array) -> Array:
    return (logits.argmax(axis=1) == labels).sum()
