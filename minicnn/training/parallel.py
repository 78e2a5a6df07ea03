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

from minicnn.backend import Array
from minicnn.checks import integer
from minicnn.datasets import Dataset
from minicnn.layers.base import Gradients, Layer
from minicnn.losses import softmax_cross_entropy
from minicnn.training.cores import cores
from minicnn.training.workers import worker_map

CHUNK_SIZE = 64  # images: large enough for long rows, small enough for the cache
EVALUATION_CHUNK_SIZES = {"cpu": 128, "gpu": 4096}  # without a tape there is room for more

BatchGradients = Callable[[Array], tuple[Array, Array, Gradients]]


def worker_count(net: Layer, images: int, workers: int | None, size: int = CHUNK_SIZE) -> int:
    """How many workers share `images` images: as many as there are chunks of `size`, up to
    `workers`; one for a GPU."""
    workers = cores() if workers is None else integer("workers", workers, 1)
    return 1 if net.device == "gpu" else min(workers, len(_chunks(net, range(images), size)))


def gradients(
    net: Layer, data: Dataset, index: Array, share: float = 1.0
) -> tuple[Array, Array, Gradients]:
    """(share * loss, correct, share * dloss/dparam) of the images that `index` names: the loss is
    their mean, `correct` how many are classified correctly. Numbers stay on the device."""
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
    shares the work out to up to `workers` processes (all cores if None)."""
    workers = worker_count(net, min(batch_size, len(data)), workers)
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
            chunks = _chunks(net, index, CHUNK_SIZE)
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

    def work(chunk: range) -> tuple[Array, Array]:
        x, labels = data.batch(slice(chunk.start, chunk.stop), net.dtype)
        logits = net(x)
        loss, _ = softmax_cross_entropy(logits, labels)
        return loss * (len(chunk) / len(data)), _correct(logits, labels)  # (1)

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
