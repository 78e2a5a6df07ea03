"""What the protocol of `layers/base.py` promises beyond the gradients, checked for any layer.

The same x gives the same y, of the predicted shape, whatever other images are in the batch and
however x lies in memory. Nothing that is passed in is changed, state included, and nothing of a
batch stays in the layer. The updates that a pass asks for fit the state, and with the same key a
pass draws the same numbers. `need_dx=False` leaves out dx and nothing else. Float32 in gives
float32 out, within a hundredth of the float64 values, and without overflow where these can be
represented. `layer(x)` mixes no images, and equals y, unless the layer has state or draws numbers,
or what `inference` gives. Two threads may use the same layer.

Each check is a function of a layer, an input and an upstream gradient in float64 that yields what
is wrong; CHECKS lists them by name.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np

from minicnn.backend import Array, device_of
from minicnn.gradcheck.report import Finding, frames
from minicnn.layers import Layer
from minicnn.layers.sequential import Sequential

THREAD_SECONDS = 0.01  # for two threads to meet: Python switches between them every 5 ms


def structure_findings(layer: Layer, result: Any) -> Iterator[Finding]:
    """Whether what backward returned is dx and a gradient for each parameter."""
    parts = result if isinstance(result, tuple) else [result]
    if len(parts) != 2 or not isinstance(parts[1], dict):
        types = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(f"expected (dx, grads), an array and a dict, but got ({types})")
    dx, grads = result
    missing = [name for name in layer.params if grads.get(name) is None]
    for name in [*(["x"] if dx is None else []), *missing]:
        yield Finding(name, f"backward gave no d{name}", "never computed")
    for name in grads.keys() - layer.params.keys():
        yield Finding(name, f"backward gave d{name} but there is no parameter {name}", None)


def draws(layer: Layer) -> bool:
    """Whether `forward` draws random numbers."""
    return layer.at((0,)) is not layer


def left_out(layer: Layer, x: Array, inference: bool) -> Iterator[str]:
    """What the checks leave out for this layer and input, and why; `inference` says whether the
    right value of layer(x) is known."""
    if not inference and (layer.state or draws(layer)):
        yield "values of layer(x) (they differ from y: pass inference= to say what they should be)"
    if draws(layer):
        y, *others = (layer.at((key,)).forward(x.copy())[0] for key in range(8))
        if all(_same(y, other) for other in others):
            yield "whether y depends on the key (eight keys gave the same y)"
    if layer.mixes_images:
        yield "images_apart, batch_size (mixes_images is True)"
    elif len(x) < 2:
        yield "images_apart (x has fewer than two images)"
    if isinstance(layer, Sequential):
        yield "values of float32 against those of float64 (rounding adds up in a network)"


def inference_findings(layer: Layer, x: Array, expected: Array, source: str) -> Iterator[Finding]:
    """Whether layer(x) is `expected`, which comes from `source`: forward or inference."""
    given, arrays = x.copy(), {name: array.copy() for name, array in layer.arrays.items()}
    y, is_forward = layer(given), source == "forward"
    changed = [name for name, array in layer.arrays.items() if not _same(array, arrays[name])]
    if not np.array_equal(given, x):
        yield Finding("x", "layer(x) wrote into x", "argument changed")
    elif changed:
        yield Finding(changed[0], f"layer(x) wrote into {changed[0]}", "argument changed")
    elif np.shape(y) != expected.shape:
        message = f"layer(x) has shape {np.shape(y)}, but {source} gives {expected.shape}"
        yield Finding("y", message, _of_inference(is_forward))
    elif not _same(y, expected, 1e-9):
        most = np.argmax(np.nan_to_num(np.abs(y - expected), nan=np.inf))
        at = tuple(int(i) for i in np.unravel_index(most, y.shape))
        message = f"layer(x) is {y[at]:.6g} at {list(at)}, but {source} gives {expected[at]:.6g}"
        yield Finding("y", message, _of_inference(is_forward))
    elif np.ndim(y) and len(y) == len(x) > 1 and not _same(layer(x[:1].copy()), y[:1], 1e-9):
        message = "layer(x) of one image depends on the others, but inference must not mix images"
        yield Finding("y", message, "images of a batch mixed")
    elif (dtype := layer.astype(np.float32)(x.astype(np.float32)).dtype) != np.float32:
        yield Finding("y", f"float32 in, but layer(x) is {dtype}", "dtype lost")


def _of_inference(is_forward: bool) -> str | None:
    return "__call__ differs from forward" if is_forward else "inference is wrong"


def linearity_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    """Whether backward is linear in dy, as the chain rule is: dy is made a thousand times as large,
    with the opposite sign. If it is not linear, it may be right for one dy by chance."""
    _, saved = layer.forward(x.copy())
    expected = _gradients(layer, dy, saved)
    for name, gradient in _gradients(layer, -1024 * dy, saved).items():
        if not _same(gradient, -1024 * expected[name]):
            message = f"with -1024 times dy, d{name} should be -1024 times as large"
            yield Finding(name, message, "not linear in the upstream gradient")


def _shape_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    shape = layer.output_shape(x.shape)
    if shape != dy.shape:
        message = f"output_shape says {shape} but y has {dy.shape}"
        yield Finding("y", message, "output_shape is wrong")


def _repeat_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    y, again = (layer.forward(x.copy())[0] for _ in range(2))
    if not _same(y, again):
        message = "the same x gives a different y the second time, so no slope can be measured"
        yield Finding("y", message, "random numbers in forward")


def _image_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    if len(x) < 2 or layer.mixes_images:
        return
    y, other = layer.forward(x.copy())[0], x.copy()
    other[0] = -x[0] - np.copysign(1, x[0])
    first, rest = layer.forward(x[:1].copy())[0], layer.forward(other)[0][1:]
    alone = draws(layer) or _same(first, y[:1], 1e-9)  # its numbers depend on the shape of x
    if not (alone and _same(rest, y[1:], 1e-9)):
        message = "y of one image depends on another image, but mixes_images is False"
        yield Finding("y", message, "images of a batch mixed")


def _argument_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    def snapshot(**objects: Any) -> dict[str, list[Array]]:
        return {name: [array.copy() for array in arrays_in(o)] for name, o in objects.items()}

    x, dy = x.copy(), dy.copy()
    before = snapshot(x=x, **layer.arrays)
    _, saved = layer.forward(x)
    before |= snapshot(saved=saved, dy=dy)
    layer.backward(dy, saved)
    layer.updates(saved)
    after = snapshot(x=x, saved=saved, dy=dy, **layer.arrays)
    for name, arrays in before.items():
        if not all(map(_same, arrays, after[name])):
            yield Finding(name, f"{name} was written into", "argument changed")


def _updates_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    _, saved = layer.forward(x.copy())
    first, second = layer.updates(saved), layer.updates(saved)
    if first.keys() != layer.state.keys():
        message = f"updates gives {sorted(first)}, but the state is {sorted(layer.state)}"
        yield Finding("y", message, "state and updates differ")
        return
    for name, array in layer.state.items():
        new = first[name]
        if (np.shape(new), new.dtype) != (array.shape, array.dtype):
            message = (
                f"updates gives {name} as {new.dtype} {np.shape(new)}, but in the state it is "
                f"{array.dtype} {array.shape}"
            )
            yield Finding(name, message, "state and updates differ")
        elif not _same(new, second[name]):
            yield Finding(name, f"a second updates gives a different {name}", "updates pile up")


def _key_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    before = layer.forward(x.copy())[0]
    first, second = (layer.at((3, 1, 4)) for _ in range(2))
    if any(first.arrays[name] is not array for name, array in layer.arrays.items()):
        yield Finding("y", "at(key) gives a layer with arrays of its own", "key not understood")
    elif not _same(first.forward(x.copy())[0], second.forward(x.copy())[0]):
        yield Finding("y", "the same key gives a different y the second time", "key not understood")
    elif not _same(before, layer.forward(x.copy())[0]):
        yield Finding("y", "at(key) changes the layer itself", "key not understood")


def _state_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    _, saved = layer.forward(x.copy())
    first = {name: gradient.copy() for name, gradient in _gradients(layer, dy, saved).items()}
    second = _gradients(layer, dy, saved)
    layer.forward(-x - np.copysign(1, x))  # every entry differs, and has the opposite sign
    after_other_forward = _gradients(layer, dy, saved)
    for name, expected in first.items():
        if not _same(second[name], expected):
            yield Finding(name, f"a second backward gives a different d{name}", "gradients pile up")
        elif not _same(after_other_forward[name], expected):
            message = f"after a forward pass of another batch, backward gives a different d{name}"
            yield Finding(name, message, "a batch kept in the layer")


def _need_dx_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    _, saved = layer.forward(x.copy())
    expected = _gradients(layer, dy, saved)
    _, without_dx = layer.backward(dy.copy(), saved, need_dx=False)
    for name in expected:
        if name != "x" and not (name in without_dx and _same(without_dx[name], expected[name])):
            yield Finding(name, f"need_dx=False gives a different d{name}", "need_dx misread")


def _size_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    if layer.mixes_images:
        return  # the target of a loss has the size of this batch
    _, saved = layer.forward(x.copy())
    layer.forward(x.repeat(2, axis=0))
    try:
        layer.backward(dy.copy(), saved)
    except Exception as error:
        message = f"after a forward pass of a larger batch, backward raises {error!r}"
        yield Finding("x", message, "a batch kept in the layer", traceback=frames(error))


def _layout_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    expected = _results(layer, x, dy)
    for name, array in _results(layer, _batch_last(x), _batch_last(dy)).items():
        if not _same(array, expected[name], 1e-9):
            message = f"{_title(name)} differs if x and dy lie in memory with the batch last"
            yield Finding(name, message, "depends on the order in memory")


def _float32_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    x, dy = x.astype(np.float32), dy.astype(np.float32)
    for scale in (1, 100):
        results = _results(layer.astype(np.float32), scale * x, dy)
        exact = _results(layer, scale * x.astype(np.float64), dy.astype(np.float64))
        for name, array in results.items():
            title, wanted = _title(name), exact[name]
            representable = np.isfinite(wanted) & (np.abs(wanted) < np.finfo(np.float32).max)
            if array.dtype != np.float32:
                yield Finding(name, f"float32 in, but {title} is {array.dtype}", "dtype lost")
            elif wanted.dtype != np.float64:
                yield Finding(name, f"float64 in, but {title} is {wanted.dtype}", "dtype lost")
            elif not np.isfinite(array[representable]).all():
                message = f"for inputs {scale} times as large, {title} in float32 is not finite"
                yield Finding(name, message, "overflow")
            elif scale == 1 and _differs(array, wanted) and not isinstance(layer, Sequential):
                message = f"{title} has other values in float32 than in float64"
                yield Finding(name, message, "float32 computed differently")


def _cast_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    if layer.params:
        for name, array in _results(layer, x.astype(np.float32), dy.astype(np.float32)).items():
            if array.dtype != np.float32:
                message = f"float32 in and float64 parameters, but {_title(name)} is float64"
                yield Finding(name, message, "parameter not cast to the dtype of x")


def _thread_findings(layer: Layer, x: Array, dy: Array) -> Iterator[Finding]:
    inputs = x, x / 2
    expected = [_results(layer, each, dy) for each in inputs]
    start = Barrier(2)

    def differing(which: int) -> set[str]:
        names: set[str] = set()
        start.wait()
        end = time.perf_counter() + THREAD_SECONDS
        with np.errstate(all="ignore"):  # each thread has its own
            while not names:
                for name, array in _results(layer, inputs[which], dy).items():
                    if not _same(array, expected[which][name], 1e-9):
                        names.add(name)
                if time.perf_counter() > end:
                    break
        return names

    with ThreadPoolExecutor(2) as threads:
        names = set().union(*threads.map(differing, (0, 1)))
    for name in expected[0]:
        if name in names:
            message = f"{_title(name)} differs when two threads use the layer at once"
            yield Finding(name, message, "not safe for two threads")


CHECKS: dict[str, Callable[[Layer, Array, Array], Iterator[Finding]]] = {
    "output_shape": _shape_findings,
    "repeatable": _repeat_findings,
    "images_apart": _image_findings,
    "arguments_unchanged": _argument_findings,
    "nothing_kept": _state_findings,
    "updates": _updates_findings,
    "key": _key_findings,
    "need_dx": _need_dx_findings,
    "batch_size": _size_findings,
    "memory_order": _layout_findings,
    "dtype": _float32_findings,
    "parameters_cast": _cast_findings,
    "two_threads": _thread_findings,
}
"""The checks by name, ordered so that the first to fail may be the cause of the others."""


def _gradients(layer: Layer, dy: Array, saved: Any) -> dict[str, Array]:
    dx, grads = layer.backward(dy.copy(order="K"), saved)
    return {name: np.asarray(gradient) for name, gradient in {"x": dx, **grads}.items()}


def _results(layer: Layer, x: Array, dy: Array) -> dict[str, Array]:
    y, saved = layer.forward(x.copy(order="K"))
    return {"y": y.copy(), **_gradients(layer, dy, saved)}


def _batch_last(array: Array) -> Array:
    if array.ndim < 2:
        return array
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0)


def _title(name: str) -> str:
    return "y" if name == "y" else f"d{name}"


def _same(a: Array, b: Array, rtol: float = 1e-12) -> bool:
    """Whether all entries are equal, to within `rtol` of the largest."""
    atol = rtol * np.max(np.abs(b), initial=0)
    return np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=0, atol=atol, equal_nan=True)


def _differs(a: Array, b: Array) -> bool:
    return np.linalg.norm(a - b) > 1e-2 * np.linalg.norm(b) + 1e-6


def arrays_in(saved: Any) -> Iterator[Array]:
    """The arrays in what a layer saved: an array, or nested lists, tuples and dicts of arrays."""
    if isinstance(saved, np.ndarray) or type(saved).__module__.partition(".")[0] == "cupy":
        yield saved
    elif isinstance(saved, dict):
        yield from arrays_in(list(saved.values()))
    elif isinstance(saved, (list, tuple)):
        for part in saved:
            yield from arrays_in(part)


def new_bytes(saved: Any, seen: set[int]) -> int:
    """The bytes of the arrays in what a layer saved, except those at an address in `seen`, to which
    their addresses are added."""
    count = 0
    for array in arrays_in(saved):
        if device_of(array) == "gpu":
            address = array.data.ptr  # type: ignore[attr-defined]
        else:
            address = array.__array_interface__["data"][0]
        count += 0 if address in seen else array.nbytes
        seen.add(address)
    return count
