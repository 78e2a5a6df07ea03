"""The trace of one training step: what goes through each layer, forward and back, and what the step
does to the weights and the loss.

The step is taken on a copy. With the update u = w_after - w_before of each parameter, however the
optimizer computed it, the loss after the step is to first order

    predicted = loss + sum_w sum_i (dL/dw[i]) * u[i]                                       (1)

The derivative of a sigmoid is at most 1/4, that of tanh at most 1. An entry is called saturated if
its derivative is below a share SATURATED of that:

    sigmoid   y*(1 - y) < SATURATED * 1/4                                                  (2)
    tanh      1 - y**2 < SATURATED                                                         (3)

A unit of a ReLU, one place of y[n], is called dead if it is 0 for every image of the batch:

    ReLU      y[n] = 0 for all n                                                           (4)

report.py defines what a trace holds, and what it says.
"""

import copy
import math
from typing import Any

import numpy as np

from minicnn.arguments import require
from minicnn.backend import Array
from minicnn.checks import check_float
from minicnn.explain.report import LayerTrace, ParameterTrace, Spread, Trace
from minicnn.explain.steps import join, title
from minicnn.gradcheck.protocol import new_bytes
from minicnn.layers import Layer, ReLU, Sequential, Sigmoid, Tanh
from minicnn.layers.base import Result
from minicnn.losses import softmax_cross_entropy
from minicnn.optimizers import Optimizer
from minicnn.training.parallel import Loss

SATURATED = 0.01  # of the largest derivative


class _Watched(Layer):
    """Takes the place of a layer, and notes what goes through it."""

    def __init__(self, layer: Layer, name: str, seen: set[int]) -> None:
        self.layer, self.name, self.seen = layer, name, seen
        self.params, self.state = layer.params, layer.state
        self.notes: dict[str, Any] = {}

    def forward(self, x: Array) -> tuple[Array, Any]:
        y, saved = self.layer.forward(x)
        self.notes = {
            "name": self.name,
            "layer": title(self.layer),
            "output_shape": y.shape,
            "multiply_adds": int(self.layer.multiply_adds(x.shape)),
            "kept_bytes": new_bytes(saved, self.seen),
            "y": Spread.of(y),
            "saturated": _saturated(self.layer, y),
            "dead": _dead(self.layer, y),
        }
        return y, saved

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Result:
        self.notes["dy"] = Spread.of(dy)
        return self.layer.backward(dy, saved, need_dx)


def trace(
    net: Layer,
    x: Array,
    labels: Array,
    optimizer: Optimizer,
    *,
    loss: Loss = softmax_cross_entropy,
) -> Trace:
    """The trace of the step that `optimizer` would take now on this batch. The network and the
    optimizer are copied, and do not change.

    x: the network's input, floats (N, ...) with N >= 1; it goes through in one piece, while `fit`
        cuts it into chunks, which matters only to a layer that mixes images
    labels: whatever the loss takes
    loss: a function (scores, labels) -> (loss, dscores)

    Random numbers, such as Dropout's, are the same in every trace, before and after the step.
    Raises ValueError for arguments that do not fit.
    """
    require(isinstance(net, Layer), "net must be a layer, such as lenet()", net)
    check_float("trace", x)
    require(x.ndim > 1 and x.size > 0, "x must be a batch (N, ...) of one image or more", x)
    is_optimizer = hasattr(optimizer, "lr") and hasattr(optimizer, "step")
    require(is_optimizer, "optimizer must be an optimizer, such as SGD(0.9)", optimizer)
    require(callable(loss), "loss must be a function, such as softmax_cross_entropy", loss)
    net = net.map_arrays(lambda array: array.copy()).at((0,))
    watched: list[_Watched] = []
    whole = _watch(net, "", watched, set())
    with np.errstate(all="ignore"):  # what is not finite stands in the trace
        scores, saved = whole.forward(x)
        before, dscores = loss(scores, labels)
        _, grads = whole.backward(dscores, saved)  # with dx, so that it reaches every layer
        weights = {name: w.copy() for name, w in net.params.items()}
        copy.deepcopy(optimizer).step(net.params, grads)
        updates = {name: w - weights[name] for name, w in net.params.items()}
        predicted = float(before) + sum(_dot(grads[name], updates[name]) for name in weights)  # (1)
        after, _ = loss(net.forward(x)[0], labels)
        parameters = [
            _parameter(name, weights[name], grads[name], updates[name]) for name in weights
        ]
    rows = tuple(
        LayerTrace(
            **layer.notes,
            parameters=tuple(p for p in parameters if p.name.startswith(join(layer.name, ""))),
        )
        for layer in watched
    )
    is_guess = getattr(loss, "func", loss) is softmax_cross_entropy and labels.ndim == 1
    guessing = math.log(scores.shape[1]) if is_guess else None
    return Trace(rows, float(before), predicted, float(after), guessing)


def _watch(layer: Layer, name: str, watched: list[_Watched], seen: set[int]) -> Layer:
    """The layer, watched; for a Sequential, each of its layers."""
    kind = type(layer)
    if kind.forward is Sequential.forward and kind.backward is Sequential.backward:
        same = copy.copy(layer)
        same.parts = {  # type: ignore[attr-defined]
            part: _watch(inner, join(name, part), watched, seen)
            for part, inner in layer.parts.items()  # type: ignore[attr-defined]
        }
        return same
    watched.append(_Watched(layer, name, seen))
    return watched[-1]


def _saturated(layer: Layer, y: Array) -> float | None:
    if isinstance(layer, Sigmoid):
        return float((y * (1 - y) < SATURATED / 4).mean())  # (2)
    return float((1 - y * y < SATURATED).mean()) if isinstance(layer, Tanh) else None  # (3)


def _dead(layer: Layer, y: Array) -> float | None:
    return float((y == 0).all(axis=0).mean()) if isinstance(layer, ReLU) else None  # (4)


def _dot(a: Array, b: Array) -> float:
    return float((a.astype(np.float64) * b).sum())


def _norm(array: Array) -> float:
    return math.sqrt(_dot(array, array))


def _parameter(name: str, weight: Array, gradient: Array, update: Array) -> ParameterTrace:
    norm = _norm(weight)
    ratios = (_norm(change) / norm if norm else None for change in (gradient, update))
    return ParameterTrace(name, weight.shape, Spread.of(gradient), *ratios)
