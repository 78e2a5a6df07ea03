"""Dropout: training sets each entry to 0 with probability p, and scales up the others.

    keep[i] = 1 with probability 1 - p, else 0                                             (1)
    y = x * keep / (1 - p)                                                                 (2)
    dx = dy * keep / (1 - p)                                                               (3)

With this scaling the mean of y over all keep is x, so inference is y = x. Backward must use the
keep of its own forward pass.

The numbers follow from a key, so forward is a function like any other: the same key and x give the
same y. `fit` gives each pass a key of its own, with `at`.

Source: N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
JMLR 15, 2014.
"""

import copy
from typing import TypeVar

import numpy as np
from numpy.random import Generator

from minicnn.arguments import fraction, generator, is_integer, require
from minicnn.backend import Array, along_memory, array_module, masked
from minicnn.checks import check_float, check_gradient
from minicnn.layers.base import Key, Layer, Result

Self = TypeVar("Self", bound="Dropout")


class Dropout(Layer):
    """Any shape in, the same shape out, no parameters; p is from 0 to below 1.

    Outside `fit` all passes use the key that is drawn from `rng` here, and so set the same entries
    to 0; `layer.at(key)` sets others. Without `rng` the key differs from run to run.
    """

    def __init__(self, p: float = 0.5, *, rng: Generator | None = None) -> None:
        super().__init__()
        self.p = fraction("p", p)
        rng = np.random.default_rng() if rng is None else generator(rng)
        self.key: Key = (int(rng.integers(1 << 62)),)

    def at(self: Self, key: Key) -> Self:
        is_key = isinstance(key, tuple) and all(is_integer(k) and k >= 0 for k in key)
        require(is_key, "key must be a tuple of integers >= 0, such as (0, 1)", key)
        same = copy.copy(self)
        same.key = key
        return same

    def __call__(self, x: Array) -> Array:
        check_float(self, x)
        return x

    def forward(self, x: Array) -> tuple[Array, Array]:
        check_float(self, x)
        # on the host, so that a GPU gets the same numbers, and batch-last, as x lies in memory
        rng, shape = np.random.default_rng(self.key), (*x.shape[1:], *x.shape[:1])
        keep = rng.random(shape, np.float32) >= self.p  # (1)
        keep = array_module(x).asarray(keep.transpose(np.roll(range(x.ndim), 1)))
        return along_memory(self._scaled, x, keep), keep  # (2)

    def backward(self, dy: Array, saved: Array, need_dx: bool = True) -> Result:
        keep = saved
        check_gradient(self, dy, keep.shape, keep)
        return (along_memory(self._scaled, dy, keep) if need_dx else None), {}  # (3)

    def _scaled(self, x: Array, keep: Array) -> Array:
        kept = masked(x, keep)
        kept *= 1 / (1 - self.p)
        return kept
