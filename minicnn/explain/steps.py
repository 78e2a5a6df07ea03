"""One pass forward and back through a network, taken apart into steps that can be explained.

A step is a layer, or the loss, with all the arrays in its equations. The page itself works out the
terms of each cell, in formulas.js; this module only says which formula a layer has, and what the
formula needs. If a layer has none, measured.py measures the slopes of y.
"""

import functools
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minicnn.arguments import FLOATS, Shape, require, shown
from minicnn.backend import Array
from minicnn.explain.measured import is_finite, measure
from minicnn.gradcheck import check_gradients
from minicnn.layers import (
    AvgPool2D,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
)
from minicnn.layers.composite import Composite
from minicnn.losses import softmax, softmax_cross_entropy
from minicnn.windows import Window

Numbers = dict[str, tuple[int, ...]]
CONVOLUTION: Numbers = {"y": (1,), "dx": (3, 4), "dweight": (2,), "dbias": (5,)}
TRANSPOSED: Numbers = {"y": (1, 2), "dx": (3,), "dweight": (4,), "dbias": (5,)}
LINEAR: Numbers = {"y": (1,), "dx": (2,), "dweight": (3,), "dbias": (4,)}
CROSS_ENTROPY: Numbers = {"p": (1,), "loss": (2,), "dx": (3,)}
SQUARED_ERROR: Numbers = {"loss": (7,), "dx": (8,)}


def _pass(y: int, dx: int) -> Numbers:
    return {"y": (y,), "dx": (dx,)}


KINDS: dict[type[Layer], tuple[str, Numbers]] = {  # the formula, and the module's equations for it
    Conv2D: ("convolution", CONVOLUTION),
    ConvTranspose2D: ("transposed", TRANSPOSED),
    Linear: ("linear", LINEAR),
    MaxPool2D: ("maximum", _pass(1, 2)),
    AvgPool2D: ("average", _pass(3, 4)),
    GlobalAvgPool2D: ("global average", _pass(5, 6)),
    Sigmoid: ("sigmoid", _pass(1, 2)),
    Tanh: ("tanh", _pass(3, 4)),
    ReLU: ("relu", _pass(5, 6)),
    LeakyReLU: ("leaky", _pass(7, 8)),
    Flatten: ("flatten", _pass(1, 2)),
    Dropout: ("dropout", _pass(2, 3)),
    Residual: ("residual", _pass(1, 2)),
}


@dataclass(frozen=True)
class Step:
    """One layer, or the loss, in one pass.

    name: as in the names of the network's parameters, "0" or "3.body.1"; "loss" for the loss
    kind: the formula, a key of FORMULAS in formulas.js
    arrays: "x", "y", "dy", "dx", each parameter and its gradient, "d" before its name, and others
    geometry: what else a formula needs
    equations: for each array, a list of (number, equation, line of code, place of that line)
    shapes: the shapes of those gradients that came out of backward in a wrong shape
    noise: if slopes are measured, how much rounding changes them, and in float32 each gradient
    findings: what the gradient checker says, if the layer was checked
    """

    name: str
    layer: str
    kind: str
    arrays: dict[str, Array]
    geometry: dict[str, Any] = field(default_factory=dict)
    equations: dict[str, list[tuple[int, str, str, str]]] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    @property
    def output(self) -> str:
        """The name of its output array."""
        return "loss" if "loss" in self.arrays else "y"


Back = Callable[[Array], tuple[Array, list[Step]]]


def forward(layer: Layer, x: Array, name: str = "") -> tuple[Array, Back]:
    """y, and a function that takes dy back to (dx, the steps in the order of forward)."""
    kind = type(layer)
    if kind.forward is Sequential.forward and kind.backward is Sequential.backward:
        backs = []
        for part_name, part in layer.parts.items():  # type: ignore[attr-defined]
            x, part_back = forward(part, x, join(name, part_name))
            backs.append(part_back)
        return x, lambda dy: _through(backs, dy)
    if isinstance(layer, Residual):
        return _residual(layer, x, name)
    y, saved = layer.forward(x.copy("K"))  # a wrong layer may write into its input

    def back(dy: Array) -> tuple[Array, list[Step]]:
        dx, grads = _backward(layer, dy, saved)
        arrays = {"x": x, "y": y, "dy": dy, "dx": dx, **_parameters(layer, x, grads)}
        return dx, [_step(layer, name, arrays)]

    return y, back


def _backward(layer: Layer, dy: Array, saved: Any) -> tuple[Array, dict[str, Array]]:
    result = layer.backward(dy.copy("K"), saved)
    try:
        dx, grads = result
        is_pair = all(hasattr(array, "shape") for array in (dx, *grads.values()))
    except (TypeError, ValueError, AttributeError):
        is_pair = False
    sentence = f"backward of {title(layer)} must return (dx, grads), an array and a dict of arrays"
    require(is_pair, sentence, result)
    return dx, grads


def _through(backs: list[Back], dy: Array) -> tuple[Array, list[Step]]:
    steps: list[Step] = []
    for back in reversed(backs):
        dy, earlier = back(dy)
        steps = earlier + steps
    return dy, steps


def _residual(layer: Residual, x: Array, name: str) -> tuple[Array, Back]:
    """The steps of both branches, and the one in which they meet."""
    same: tuple[Array, Back] = (x, lambda dy: (dy, []))
    parts = layer.parts
    body, shortcut = (
        forward(parts[part], x, join(name, part)) if part in parts else same
        for part in ("body", "shortcut")
    )
    y, saved = layer.forward(x.copy("K"))

    def back(dy: Array) -> tuple[Array, list[Step]]:
        by_body, of_body = body[1](dy)
        by_shortcut, of_shortcut = shortcut[1](dy)
        dx, _ = layer.backward(dy.copy("K"), saved)
        arrays = {"x": x, "body": body[0], "shortcut": shortcut[0], "y": y, "dy": dy}
        arrays |= {"dx by body": by_body, "dx by shortcut": by_shortcut, "dx": dx}
        return dx, [*of_body, *of_shortcut, _step(layer, name, arrays)]

    return y, back


def loss_step(loss: Callable, scores: Array, target: Array) -> tuple[Array, Step]:
    """dL/dscores, and the step: softmax with cross-entropy for integers (N,), else squared
    error."""
    sentence = "loss must be a function without settings: the page has no equation for them"
    require(not isinstance(loss, functools.partial), sentence, loss)
    is_integer = np.issubdtype(target.dtype, np.integer)
    sentence = "labels must be integers for softmax_cross_entropy; for floats give squared_error"
    require(is_integer or loss is not softmax_cross_entropy, sentence, target)
    value, dscores = loss(scores, target)
    arrays = {"x": scores, "loss": np.asarray([value], scores.dtype), "dx": dscores}
    if is_integer:
        arrays |= {"p": softmax(scores), "labels": target.astype(np.float32)}
        kind, numbers = "cross-entropy", CROSS_ENTROPY
    else:
        arrays["target"] = target.astype(scores.dtype)
        kind, numbers = "squared error", SQUARED_ERROR
    name, geometry = getattr(loss, "__name__", shown(loss)), {"divisor": scores.size}
    return dscores, Step("loss", name, kind, arrays, geometry, equations(softmax, numbers))


def _step(layer: Layer, name: str, arrays: dict[str, Array]) -> Step:
    base = next((kind for kind in type(layer).__mro__ if kind in KINDS), None)
    kind, numbers = KINDS[base] if base else ("measured", {})
    measured, noise = measure(layer, arrays) if kind == "measured" else ({}, {})
    if kind == "dropout":
        ones = np.ones_like(arrays["x"])
        arrays["mask"] = Dropout.forward(layer, ones)[0]  # type: ignore[arg-type]
    shapes = {
        name: tuple(array.shape)
        for name, array in arrays.items()
        if name in ("dx", *(f"d{parameter}" for parameter in layer.params))
        and array.shape != arrays[name[1:]].shape
    }
    return Step(
        name,
        title(layer),
        kind,
        {name: _of_floats(array) for name, array in (arrays | measured).items()},
        _geometry(layer, arrays["x"].shape),
        equations(base, numbers) if base else {},
        shapes,
        noise,
        _findings(layer, arrays["x"]) if type(layer) is not base else [],
    )


def _parameters(layer: Layer, x: Array, grads: dict[str, Array]) -> dict[str, Array]:
    taken = sorted(layer.params.keys() & {"x", "y", "dx", "dy"})
    sentence = f"parameters of {title(layer)} must not be named x, y, dx or dy"
    require(not taken, sentence, taken)
    arrays = {name: array.astype(x.dtype, copy=False) for name, array in layer.params.items()}
    return arrays | {f"d{name}": grad for name, grad in grads.items()}


def _geometry(layer: Layer, x_shape: Shape) -> dict[str, Any]:
    window = getattr(layer, "window", None)
    if not isinstance(window, Window):
        return {"slope": getattr(layer, "negative_slope", 0.0)}
    counted, count = window.padding, getattr(layer, "count_include_pad", True)
    if getattr(layer, "ceil_mode", False):
        window = window.extended(x_shape[2:])
    names = ("kernel", "stride", "padding", "dilation")
    of_window = {name: getattr(window, name) for name in names}
    return of_window | {
        "groups": getattr(layer, "groups", 1),
        "counted": counted,
        "count_include_pad": count,
    }


def _findings(layer: Layer, x: Array) -> list[str]:
    """What the checker says about a layer from outside this library, if it is small and finite."""
    inputs = [x, *layer.params.values()]
    is_small = sum(array.size for array in inputs) <= 2000
    if not is_small or not is_finite(inputs):
        return []
    report = check_gradients(layer.astype(np.float64), x.astype(np.float64))
    return [str(finding) for finding in report.findings]


def _of_floats(array: Array) -> Array:
    """The array itself, or a float32 copy if a wrong layer gave it a dtype that the page cannot
    read."""
    return array if array.dtype in FLOATS else array.astype(np.float32)


def equations(owner: Any, numbers: Numbers) -> dict[str, list[tuple[int, str, str, str]]]:
    """For each array the equations with these numbers: the number, the equation as in the docstring
    of the owner's module, the first line of code with its tag, and where that line is."""
    module = sys.modules[owner.__module__]
    equation: dict[int, str] = {}
    line: dict[int, tuple[str, str]] = {}
    for text in (module.__doc__ or "").splitlines():
        if match := re.fullmatch(r"\s*(.*?)\s*\((\d+)\)", text):
            equation[int(match[2])] = match[1]
    for at, text in enumerate(inspect.getsource(module).splitlines(), start=1):
        code, _, tags = text.partition("# ")
        for number in re.findall(r"\((\d+)\)", tags):
            line.setdefault(int(number), (code.strip(), f"{module.__name__}, line {at}"))
    return {name: [(n, equation[n], *line[n]) for n in of] for name, of in numbers.items()}


def join(name: str, part: str) -> str:
    """The name of a part of a layer with this name."""
    return f"{name}.{part}" if name else part


def title(layer: Layer) -> str:
    """The layer's repr; for a block, whose repr takes many lines, only its class."""
    return type(layer).__name__ if isinstance(layer, Composite) else repr(layer)


def check_target(scores: Array, target: Any) -> Array:
    """`target` as labels (N,) or floats in the shape of the scores; ValueError if it is neither."""
    target = np.asarray(target)
    is_labels = target.dtype.kind in "iu" and target.shape == scores.shape[:1] and scores.ndim == 2
    is_like = target.dtype.kind == "f" and target.shape == scores.shape
    either = f"integers ({len(scores)},), or floats in the shape of the scores, {scores.shape}"
    require(is_labels or is_like, f"labels must be {either}", target)
    return target
