"""One batch cut into chunks that fit in cache, spread over the cores.

The loss is a mean over the n images of the batch, so with n_c images in chunk c

    loss = sum_c (n_c / n) * loss_c                                                        (1)
    dparam = sum_c (n_c / n) * dparam_c                                                    (2)

Each chunk goes forward and back through the whole network before its core takes the next one.
Chunks are cut and added up in the same way for any number of workers, so the result is the same,
bit for bit. A GPU takes the batch whole, though not the whole set in evaluation; and a network with
a layer that needs the batch whole gets it whole.

Weights and gradients pass through memory that all workers share.
"""

import contextlib
import mmap
from collections.abc import Callable, Iterator

import numpy as np

from minicnn.arguments import integer
from minicnn.backend import Array
from minicnn.datasets import Dataset
from minicnn.layers.base import Gradients, Layer
from minicnn.losses import softmax_cross_entropy
from minicnn.training.cores import cores
from minicnn.training.workers import worker_map

CHUNK_SIZE = 64  # images: large enough for long rows, small enough for the cache
EVALUATION_CHUNK_SIZES = {"cpu": 128, "gpu": 4096}  # without a tape there is room for more
CHUNKS_AT_ONCE = 4  # for each worker: a batch of 256 is one round of jobs, even for one worker

BatchGradients = Callable[[Array], tuple[float | Array, int | Array, Gradients]]
Loss = Callable[[Array, Array], tuple[Array, Array]]
"""(logits, labels) -> (loss, dlogits), where the loss is a mean over the images"""


def worker_count(net: Layer, images: int, workers: int | None, size: int = CHUNK_SIZE) -> int:
    """How many workers share `images` images: as many as there are chunks of `size`, up to
    `workers`; one for a GPU."""
    workers = cores() if workers is None else integer("workers", workers, 1)
    return 1 if net.device == "gpu" else min(workers, len(_chunks(net, range(images), size)))


def gradients(
    net: Layer,
    data: Dataset,
    index: Array,
    share: float = 1.0,
    loss_function: Loss = softmax_cross_entropy,
) -> tuple[Array, Array, Gradients]:
    """(share * loss, correct, share * dloss/dparam) of the images that `index` names: the loss is
    their mean, `correct` how many are classified correctly. Numbers stay on the device."""
    x, labels = data.batch(index, net.dtype)
    logits, saved = net.forward(x)
    loss, dlogits = loss_function(logits, labels)
    _, grads = net.backward(dlogits * share, saved, need_dx=False)
    return loss * share, _correct(logits, labels), grads


@contextlib.contextmanager
def batch_gradients(
    net: Layer,
    data: Dataset,
    batch_size: int,
    workers: int | None = None,
    loss: Loss = softmax_cross_entropy,
) -> Iterator[BatchGradients]:
    """A function index -> (loss, correct, grads) for batches of up to `batch_size` images, that
    shares the work out to up to `workers` processes (all cores if None)."""
    workers = worker_count(net, min(batch_size, len(data)), workers)
    if net.device == "gpu":
        yield lambda index: gradients(net, data, index, loss_function=loss)
        return
    chunks = _ChunkGradients(net, data, loss, CHUNKS_AT_ONCE * workers)
    with worker_map(chunks.work, workers) as map_:
        yield lambda index: chunks.sum_over(index, map_)


class _ChunkGradients:
    """The gradients of `slots` chunks at once, each in a slot of memory that the workers share."""

    def __init__(self, net: Layer, data: Dataset, loss: Loss, slots: int) -> None:
        self.net, self.data, self.loss = net, data, loss
        self.weights = _shared(net.params)
        self.slots = [_shared(net.params) for _ in range(slots)]
        arrays = iter(self.weights.values())
        self.worker_net = net.map_params(lambda _: next(arrays))

    def work(self, job: tuple[int, Array, float]) -> tuple[Array, Array]:
        """In a worker: (loss, correct) of a chunk, whose gradients go to its slot."""
        slot, chunk, share = job
        net, data = self.worker_net, self.data
        loss, correct, grads = gradients(net, data, chunk, share, self.loss)  # (1), (2)
        for name, grad in grads.items():
            self.slots[slot][name][...] = grad
        return loss, correct

    def sum_over(
        self, index: Array, map_: Callable[[list], list]
    ) -> tuple[float | Array, int | Array, Gradients]:
        """(loss, correct, grads) of the batch, with the weights that the network has now."""
        for name, parameter in self.net.params.items():
            self.weights[name][...] = parameter
        loss: float | Array = 0.0
        correct: int | Array = 0
        total = {name: np.zeros_like(weight) for name, weight in self.weights.items()}
        chunks = _chunks(self.net, index, CHUNK_SIZE)
        for first in range(0, len(chunks), len(self.slots)):
            jobs = [
                (slot, chunk, len(chunk) / len(index))
                for slot, chunk in enumerate(chunks[first : first + len(self.slots)])
            ]
            for (slot, _, _), (chunk_loss, chunk_correct) in zip(jobs, map_(jobs)):
                loss += chunk_loss  # (1)
                correct += chunk_correct
                for name, grad in self.slots[slot].items():
                    total[name] += grad  # (2)
        return loss, correct, total


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
        losses, corrects = zip(*map_(_chunks(net, range(len(data)), size)))
    return float(sum(losses)), int(sum(corrects))  # (1)


def _shared(params: dict[str, Array]) -> dict[str, Array]:
    """Arrays like the parameters, in memory that forked processes share with this one."""
    return {
        name: np.frombuffer(mmap.mmap(-1, p.nbytes), p.dtype).reshape(p.shape)
        for name, p in params.items()
    }


def _chunks(net: Layer, index: Array | range, size: int) -> list[Array | range]:
    size = len(index) if net.whole_batch else size
    return [index[first : first + size] for first in range(0, len(index), size)]


def _correct(logits: Array, labels: Array) -> Array:
    return (logits.argmax(axis=1) == labels).sum()
