"""One step of training: the gradients of a batch, and what they change."""

import contextlib
from collections.abc import Callable
from typing import Any

from minicnn.backend import Array
from minicnn.layers.base import Key, Layer
from minicnn.optimizers import Optimizer
from minicnn.training.parallel import BatchGradients


class Step:
    """Steps that the host starts operation by operation.

    gradients: a function (index, key) -> BatchGradients
    frozen: names of the parameters and state that keep their values
    """

    def __init__(
        self, net: Layer, optimizer: Optimizer, gradients: Callable, frozen: set[str]
    ) -> None:
        self.net, self.optimizer, self.frozen = net, optimizer, frozen
        self._gradients = gradients

    def epoch(
        self, batches: list[Array], rates: list[float], first: int
    ) -> contextlib.AbstractContextManager:
        """A context for the steps of an epoch from number `first` on: their images and learning
        rates."""
        return contextlib.nullcontext()

    def gradients(self, index: Array, key: Key) -> BatchGradients:
        """Those of the images `index`; the last number of the key is that of the step."""
        return self._gradients(index, key)

    def update(self, batch: BatchGradients, rate: float) -> None:
        """Changes weights and state by what `gradients` returned."""
        self.optimizer.lr = rate
        self._update(batch, self.optimizer.step)

    def _update(self, batch: BatchGradients, optimize: Callable) -> None:
        optimize(self._moving(self.net.params), self._moving(batch.grads))
        state = self.net.state if batch.state else {}  # gathered, which takes a while
        for name, array in self._moving(batch.state).items():
            state[name][...] = array

    def _moving(self, arrays: dict[str, Any]) -> dict[str, Any]:
        return {n: a for n, a in arrays.items() if n not in self.frozen} if self.frozen else arrays
