"""What the protocol of `layers/base.py` promises beyond the gradients, checked for any layer.

Nothing that is passed in is changed; nothing of a batch stays in the layer; without `need_dx` only
dx is left out; float32 in, float32 out; and inputs of a thousand do not overflow.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from minicnn.backend import Array
from minicnn.diagnosis import Finding
from minicnn.layers import Layer
from minicnn.summary import arrays_in


def contract_findings(layer: Layer, x: Array, dy: Array) -> list[Finding]:
    """What the layer breaks, for an input and an upstream gradient of float64. Only the first kind
    of breach is reported, since it may cause others."""
    with np.errstate(all="ignore"):
        float32 = layer.astype(np.float32), x.astype(np.float32)
        return (
            list(_output_findings(layer, x))
            or list(_change_findings(layer, x.copy(), dy.copy()))
            or list(_memory_findings(layer, x, dy))
            or list(_dtype_findings(*float32))
            or list(_overflow_findings(*float32))
        )


def linearity_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    """Whether backward depends on dy as the chain rule does, in proportion. A layer that does not
    may still be right for one dy, by chance."""
    _, saved = layer.forward(x.copy())
    turned = _gradients(layer, -dy, saved)
    for name, gradient in _gradients(layer, dy, saved).items():
        if not _same(turned[name], -gradient):
            message = f"with dy of opposite sign, d{name} should have the opposite sign"
            yield Finding(name, message, "not linear in the upstream gradient")


def _output_findings(layer: Layer, x: Array) -> Iterator[Finding]:
    y, again = (layer.forward(x.copy())[0] for _ in range(2))
    shape = layer.output_shape(x.shape)
    if shape != y.shape:
        message = f"output_shape says {shape} but y has {y.shape}"
        yield Finding("y", message, "output_shape is wrong")
    elif not _same(y, again):
        message = "the same x gives another y the second time, so there is no slope to compare with"
        yield Finding("y", message, "random numbers in forward")


def _change_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    def snapshot(**objects: Any) -> dict[str, list[Array]]:
        return {name: [array.copy() for array in arrays_in(o)] for name, o in objects.items()}

    before = snapshot(x=x, **layer.params)
    _, saved = layer.forward(x)
    before |= snapshot(saved=saved, dy=dy)
    layer.backward(dy, saved)
    after = snapshot(x=x, saved=saved, dy=dy, **layer.params)
    for name, arrays in before.items():
        if not all(map(_same, arrays, after[name])):
            yield Finding(name, f"{name} was written into", "argument changed")


def _memory_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    _, saved = layer.forward(x.copy())
    first = _gradients(layer, dy, saved)
    second = _gradients(layer, dy, saved)
    layer.forward(1 - x)
    after_other_forward = _gradients(layer, dy, saved)
    _, without_dx = layer.backward(dy.copy(), saved, need_dx=False)
    for name, expected in first.items():
        if not _same(second[name], expected):
            yield Finding(name, f"a second backward gives another d{name}", "gradients pile up")
        elif not _same(after_other_forward[name], expected):
            message = f"after a forward pass of another batch, backward gives another d{name}"
            yield Finding(name, message, "a batch kept in the layer")
        elif name != "x" and not (name in without_dx and _same(without_dx[name], expected)):
            yield Finding(name, f"need_dx=False gives another d{name}", "need_dx misread")


def _dtype_findings(layer: Layer, x: Array) -> Iterator[Finding]:
    for name, array in _results(layer, x).items():
        if array.dtype != np.float32:
            yield Finding(name, f"float32 in, but {_title(name)} is {array.dtype}", "dtype lost")


def _overflow_findings(layer: Layer, x: Array) -> Iterator[Finding]:
    usual = _results(layer, x)
    for name, array in _results(layer, 1000 * x).items():
        if np.isfinite(usual[name]).all() and not np.isfinite(array).all():
            message = f"for inputs of about 1000 {_title(name)} is not finite"
            yield Finding(name, message, "overflow")


def _gradients(layer: Layer, dy: Array, saved: Any) -> dict[str, Array]:
    dx, grads = layer.backward(dy.copy(), saved)
    return {"x": dx, **grads}


def _results(layer: Layer, x: Array) -> dict[str, Array]:
    y, saved = layer.forward(x.copy())
    return {"y": y, **_gradients(layer, np.ones_like(y), saved)}


def _title(name: str) -> str:
    return "y" if name == "y" else f"d{name}"


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-12, atol=0, equal_nan=True)
