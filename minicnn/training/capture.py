"""A training step recorded once, as a CUDA graph, and then started with one launch.

LeNet's step is well over a hundred launches, and with small batches a GPU waits for the host to
start them. A graph repeats the same work on the same memory, so what differs between steps is read
there: a counter on the device picks the images and the numbers of the optimizer from tables of the
epoch, and the places for loss and count.

No GPU has run this yet. The tests run it on a double of CuPy, where captured and plain steps give
the same bits.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from minicnn.backend import Array, array_module, multiplier, to_device
from minicnn.layers.base import Key, Layer
from minicnn.optimizers import Optimizer
from minicnn.training.cublas import Multiplier
from minicnn.training.parallel import BatchGradients
from minicnn.training.step import Step

EAGER_STEPS = 2  # before the recording, to compile kernels: momentum has others from the second on


def check_capture(net: Layer, optimizer: Optimizer, augment: object, ranks: int) -> None:
    """Raises ValueError for training whose steps cannot be captured."""
    reasons = {
        "it needs a network on a GPU: use net.to('gpu')": net.device != "gpu",
        "ranks add up their gradients on the host: use one": ranks > 1,
        "augmentation draws on the host: leave it out": augment is not None,
        "dropout draws on the host: leave it out": net.at((0,)) is not net,
        "it needs an optimizer of minicnn, such as SGD(0.9)": (
            getattr(type(optimizer), "step", None) is not Optimizer.step
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise ValueError(f"steps cannot be captured, because {reason}")


class CapturedStep(Step):
    """Steps of which those of `batch_size` images are replayed."""

    def __init__(
        self,
        net: Layer,
        optimizer: Optimizer,
        gradients: Callable,
        frozen: set[str],
        batch_size: int,
    ) -> None:
        super().__init__(net, optimizer, gradients, frozen)
        self.batch_size, self.eager = batch_size, EAGER_STEPS
        self.xp = array_module(next(iter(net.params.values())))
        self.stream = self.xp.cuda.Stream(non_blocking=True)
        self.pool = self.xp.cuda.MemoryPool()  # the graph writes into it whenever it runs
        self.multiply = _or_refused(partial(Multiplier, self.xp, self.stream))
        self.row = self.xp.zeros(1, dtype=np.int64)  # of the tables: the step to take
        self.order: Any = None
        self.graph: Any = None
        self.recorded: list[Array] = []

    @contextlib.contextmanager
    def epoch(self, batches: list[Array], rates: list[float], first: int) -> Iterator[None]:
        full = [index for index in batches if len(index) == self.batch_size]
        if full[first:]:
            self._fill_tables(full, rates, first)
        self.xp.cuda.get_current_stream().synchronize()
        token = multiplier.set(self.multiply)
        try:
            with self.stream:
                yield
        finally:
            multiplier.reset(token)
            self.stream.synchronize()

    def _fill_tables(self, full: list[Array], rates: list[float], first: int) -> None:
        xp, numbers = self.xp, []
        for ahead, self.optimizer.lr in enumerate(rates[first : len(full)]):
            numbers.append(self.optimizer._numbers(ahead))
        if self.order is None:  # the graph reads these arrays
            self.order = xp.stack(full)
            self.numbers = xp.zeros((len(full), len(numbers[0])), dtype=self.net.dtype)
            self.losses = xp.zeros(len(full), dtype=self.net.dtype)
            self.corrects = xp.zeros(len(full), dtype=np.int64)
        self.order[...] = xp.stack(full)
        self.numbers[first:] = to_device(np.array(numbers, self.net.dtype), "gpu")
        self.row[...] = first

    def gradients(self, index: Array, key: Key) -> BatchGradients:
        """Of a full batch, loss and count: its gradients have been used."""
        if len(index) != self.batch_size:
            return super().gradients(index, key)
        if self.graph is not None and self._is_outdated():
            self.graph, self.eager = None, EAGER_STEPS
        if self.graph is None and self.eager == 0:
            _or_refused(self._record)
        if self.graph is None:
            with self.xp.cuda.using_allocator(self.pool.malloc):
                self._work()
            self.eager -= 1
        else:
            self.graph.launch(self.stream)
            self.optimizer.steps += 1
        return BatchGradients(self.losses[key[-1]], self.corrects[key[-1]], {}, {})

    def update(self, batch: BatchGradients, rate: float) -> None:
        if batch.grads:
            super().update(batch, rate)

    def _work(self) -> None:
        """What is recorded."""
        index, numbers = self.order[self.row][0], self.numbers[self.row][0]
        batch = super().gradients(index, ())
        numbers = [numbers[i] for i in range(len(numbers))]
        self._update(batch, partial(self.optimizer._step, numbers=numbers))
        self.losses[self.row] = batch.loss
        self.corrects[self.row] = batch.correct
        self.row += 1

    def _record(self) -> None:
        """Makes the graph of a step, and takes none."""
        steps = self.optimizer.steps
        with self.xp.cuda.using_allocator(self.pool.malloc):
            self.stream.begin_capture()
            try:
                self._work()
            finally:
                graph = self.stream.end_capture()
                self.optimizer.steps = steps
        self.graph, self.recorded = graph, self._arrays()

    def _is_outdated(self) -> bool:
        """Whether other arrays have taken the place of those that the graph changes."""
        return any(a is not b for a, b in zip(self._arrays(), self.recorded))

    def _arrays(self) -> list[Array]:
        kept = (getattr(self.optimizer, kind).values() for kind in self.optimizer.kept)
        return [*self.net.arrays.values(), *(array for arrays in kept for array in arrays)]


def _or_refused(work: Callable) -> Any:
    try:
        return work()
    except Exception as error:  # CuPy's errors have no base class of their own
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"steps cannot be captured, because that failed ({type(error).__name__}: {reason}): "
            "train without capture"
        ) from error
