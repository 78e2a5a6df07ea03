"""A batch, cut into chunks that spread over the cores.

The loss is a mean over the n images of the batch, so with n_c images in chunk c

    loss = sum_c (n_c / n) * loss_c                                                        (1)
    dparam = sum_c (n_c / n) * dparam_c                                                    (2)

Each chunk goes forward and back through the whole network before its core takes the next one.
Chunks are cut, as chunks.py tells, and added up in the same way for any number of workers, so the
result is the same, bit for bit. A GPU takes the whole batch at once, unless the network mixes
images or draws numbers: then it takes the same chunks as a CPU, to compute the same result.

Random numbers follow from a key, (seed, epoch, step) in `fit`, to which the number of the chunk is
added. State, such as that of batch normalisation, becomes the mean of what the chunks ask for:

    state = sum_c (n_c / n) * state_c                                                      (3)

Weights, state and gradients pass through memory that all workers share. Several machines divide
the chunks among them, as mpi.py tells; all that this file knows of that is a way to add up numbers
in order.
"""

import contextlib
import functools
import itertools
import math
import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from minicnn.arguments import integer
from minicnn.backend import Array, array_module
from minicnn.datasets import Dataset
from minicnn.layers.base import Key, Layer
from minicnn.losses import softmax_cross_entropy
from minicnn.training.chunks import Cut, evaluation_cut, training_cut
from minicnn.training.cores import cores
from minicnn.training.ordered import OrderedSum, Term
from minicnn.training.workers import worker_map

CHUNKS_AT_ONCE = 4  # for each worker: a batch of 256 is one round of jobs, even for one worker

Loss = Callable[[Array, Array], tuple[Array, Array]]
"""(logits, labels) -> (loss, dlogits), where the loss is a mean over the images"""

Augment = Callable[[Array, np.random.Generator], Array]
"""(images, rng) -> other images, both of bytes (N, C, H, W)"""


class BatchGradients(NamedTuple):
    """What a step needs from a batch: the loss, a mean over the images; how many of them are
    classified correctly; dloss/dparam; new values of the state. Numbers stay on the device."""

    loss: float | Array
    correct: int | Array
    grads: dict[str, Array]
    state: dict[str, Array]


class Alone:
    """All the chunks are this process's own."""

    rank, size = 0, 1
    local_rank = 0  # among those of this machine
    neighbours = 1  # processes that share the cores of this one

    def share(self, count: int) -> range:
        """Which of `count` jobs are this process's own."""
        return range(count)

    def total(self, own: OrderedSum, count: int, device: str) -> Term:
        """The sum of all `count` terms, of which `own` has this process's share, on `device`."""
        return own.total()

    def check_same(self, things: dict[str, Iterable[Array]]) -> None:
        """Raises ValueError, in all processes, if these are not the same in each."""

    def gathered(self, own: Any) -> list:
        """What each process gives, in order."""
        return [own]

    def from_first(self, function: Callable[[], Any]) -> Any:
        """What `function` returns in the first process, which alone calls it."""
        return function()

    def end(self, text: str, status: int) -> None:
        """If there are others, prints `text` and ends all processes, with this status."""


ALONE = Alone()


def worker_count(net: Layer, chunks: list[range], workers: int | None, ranks: Alone = ALONE) -> int:
    """How many workers of a process share its part of `chunks`: as many as it has chunks, up to
    `workers` or, if that is None, its part of the cores; one for a GPU."""
    own_cores = max(1, cores() // ranks.neighbours)
    workers = own_cores if workers is None else integer("workers", workers, 1)
    return 1 if net.device == "gpu" else min(workers, math.ceil(len(chunks) / ranks.size))


@contextlib.contextmanager
def batch_gradients(
    net: Layer,
    data: Dataset,
    batch_size: int,
    workers: int | None = None,
    loss: Loss = softmax_cross_entropy,
    augment: Augment | None = None,
    ranks: Alone = ALONE,
) -> Iterator[Callable[..., BatchGradients]]:
    """A function (index, key=()) -> BatchGradients for batches of up to `batch_size` images. It
    spreads the work over up to `workers` processes (all cores if None) of each of the `ranks`."""
    cut = training_cut(net, data.images.shape[1:])
    workers = worker_count(net, cut(min(batch_size, len(data))), workers, ranks)
    if net.device == "gpu":
        yield functools.partial(_on_gpu, net, data, loss, augment, ranks, cut)
        return
    chunks = _Chunks(net, data, loss, augment, ranks, cut, CHUNKS_AT_ONCE * workers)
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
    """The gradients of the images `index`, with all but the state multiplied by `share`."""

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
    ranks: Alone,
    cut: Cut,
    index: Array,
    key: Key = (),
) -> BatchGradients:
    if not (ranks.size > 1 or augment or net.mixes_images or net.at((0,)) is not net):
        return gradients(net, data, loss, augment, index, (*key, 0))
    jobs = _jobs(cut, index, key)
    own = (
        gradients(net, data, loss, augment, chunk, chunk_key, share)
        for chunk, chunk_key, share in (jobs[c] for c in ranks.share(len(jobs)))
    )
    return _sum(net, jobs, ranks, own)


class _Chunks:
    """The gradients of `slots` chunks at once, each in a slot of memory that the workers share."""

    def __init__(
        self,
        net: Layer,
        data: Dataset,
        loss: Loss,
        augment: Augment | None,
        ranks: Alone,
        cut: Cut,
        slots: int,
    ) -> None:
        self.net, self.settings, self.ranks, self.cut = net, (data, loss, augment), ranks, cut
        self.arrays = _shared(net.arrays)
        self.slots = [_shared(net.params) for _ in range(slots)]
        self.shapes = {name: parameter.shape for name, parameter in net.params.items()}
        shared = {id(array): self.arrays[name] for name, array in net.arrays.items()}
        self.worker_net = net.map_arrays(lambda array: shared[id(array)])

    def work(self, job: tuple[int, Array, Key, float]) -> BatchGradients:
        """In a worker: the gradients of a chunk; dloss/dparam goes into its slot."""
        slot, chunk, key, share = job
        found = gradients(self.worker_net, *self.settings, chunk, key, share)  # (1), (2)
        given = {name: grad.shape for name, grad in found.grads.items()}
        if given != self.shapes:  # they would be broadcast, or leave old values in the slot
            raise ValueError(f"expected gradients of shapes {self.shapes} but got {given}")
        for name, grad in found.grads.items():
            self.slots[slot][name][...] = grad
        return found._replace(grads={})

    def sum_over(self, map_: Callable[[list], list], index: Array, key: Key = ()) -> BatchGradients:
        """The gradients of the batch, with the network's present weights and state."""
        for name, array in self.net.arrays.items():
            self.arrays[name][...] = array
        jobs = _jobs(self.cut, index, key)
        own = [(i % len(self.slots), *jobs[c]) for i, c in enumerate(self.ranks.share(len(jobs)))]
        return _sum(self.net, jobs, self.ranks, self._found(own, map_))

    def _found(self, jobs: list, map_: Callable[[list], list]) -> Iterator[BatchGradients]:
        for first in range(0, len(jobs), len(self.slots)):
            for grads, found in zip(self.slots, map_(jobs[first : first + len(self.slots)])):
                yield found._replace(grads=grads)


def _jobs(cut: Cut, index: Array, key: Key) -> list[tuple[Array, Key, float]]:
    """(chunk, its key, its share of the images) for each chunk of a batch."""
    return [
        (index[chunk.start : chunk.stop], (*key, c), len(chunk) / len(index))
        for c, chunk in enumerate(cut(len(index)))
    ]


def _sum(
    net: Layer, jobs: list[tuple[Array, Key, float]], ranks: Alone, own: Iterable[BatchGradients]
) -> BatchGradients:
    """The gradients of a batch from those of the chunks that are this process's own."""
    numbers = ranks.share(len(jobs))
    sums = OrderedSum(numbers.start)
    for c, (loss, correct, grads, state) in zip(numbers, own):
        _, _, share = jobs[c]
        term = {"loss": loss, "correct": correct} | {f"grads.{n}": a for n, a in grads.items()}
        sums.add(term | {f"state.{name}": share * a for name, a in state.items()})
    total = ranks.total(sums, len(jobs), net.device)  # (1), (2), (3)
    grads, state = (
        {name: total[f"{kind}.{name}"] for name in names if f"{kind}.{name}" in total}
        for kind, names in {"grads": net.params, "state": net.state}.items()
    )
    state = {name: _like(net.state[name], mean) for name, mean in state.items()}
    return BatchGradients(total["loss"], total["correct"], grads, state)


def _like(before: Array, mean: Array) -> Array:
    """In the dtype that it had before; rounded if that is one of integers."""
    mean = mean if before.dtype.kind == "f" else array_module(before).rint(mean)
    return mean.astype(before.dtype, copy=False)


def loss_and_correct(
    net: Layer,
    data: Dataset,
    workers: int | None = None,
    loss: Loss = softmax_cross_entropy,
    ranks: Alone = ALONE,
) -> tuple[float, int]:
    """(mean loss, number of correct answers) over all images of `data`."""

    def work(chunk: range) -> tuple[Array, Array]:
        x, labels = data.batch(slice(chunk.start, chunk.stop), net.dtype)
        logits = net(x)
        chunk_loss, _ = loss(logits, labels)
        return chunk_loss * (len(chunk) / len(data)), _correct(logits, labels)  # (1)

    chunks = evaluation_cut(net, data.images.shape[1:])(len(data))
    with worker_map(work, worker_count(net, chunks, workers, ranks)) as map_:
        own = map_([chunks[c] for c in ranks.share(len(chunks))])
    every = ranks.gathered([(float(a), int(b)) for a, b in own])
    losses, corrects = zip(*itertools.chain(*every))
    return sum(losses), sum(corrects)  # (1)


def _shared(arrays: dict[str, Array]) -> dict[str, Array]:
    """Arrays of the same shapes and dtypes, in memory that forked processes share with this one."""
    return {
        name: np.frombuffer(mmap.mmap(-1, a.nbytes), a.dtype).reshape(a.shape)
        for name, a in arrays.items()
    }


def _correct(logits: Array, labels: Array) -> Array:
    return (logits.argmax(axis=1) == labels).sum()
