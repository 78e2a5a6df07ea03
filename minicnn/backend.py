"""Where arrays live: NumPy on the host, CuPy on a GPU. The only file that imports CuPy."""

import functools
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import numpy as np

from minicnn import cuda
from minicnn.cuda import DeviceError as DeviceError

Array = np.ndarray
"""What layers take and return: a `numpy.ndarray` or, on a GPU, a `cupy.ndarray`."""


multiplier: ContextVar[Callable | None] = ContextVar("multiplier", default=None)
"""What multiplies matrices in this thread; None for the arrays' own module."""


def array_module(x: Array) -> ModuleType:
    """`numpy` or `cupy`, whichever `x` belongs to. Raises ValueError for anything but an array."""
    if type(x) is np.ndarray:
        return np
    if isinstance(x, (np.ma.MaskedArray, np.matrix)):
        raise ValueError(
            f"expected a plain array but got a {type(x).__name__}, whose arithmetic differs: make "
            "one with numpy.array(x)"
        )
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    if type(x).__module__.partition(".")[0] == "cupy":
        return _cupy()
    raise ValueError(
        f"expected a NumPy or CuPy array but got {type(x).__name__}: make one with numpy.asarray"
    )


def device_of(x: Array) -> str:
    """`"cpu"` or `"gpu"`: where `x` lives."""
    return "cpu" if array_module(x) is np else "gpu"


def to_device(x: Array, device: str) -> Array:
    """`x` on `device`, `"cpu"` or `"gpu"`: itself if it is there already, else a copy."""
    device = choose_device(device)
    if device_of(x) == device:
        return x
    return x.get() if device == "cpu" else _cupy().asarray(x)  # type: ignore[attr-defined]


def masked(x: Array, mask: Array) -> Array:
    """x where `mask`, else 0. It multiplies the bits of x by 0 or 1, since infinity times 0 is nan;
    `where` is ten times slower on a CPU if the mask is irregular."""
    return (x.view(f"i{x.itemsize}") * mask).view(x.dtype)


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """a @ b, into `out` if that is given: all products go through here. A stack of one matrix is
    multiplied as a matrix, because in stacks CuPy copies what is transposed."""
    if a.ndim == b.ndim == 3 and len(a) == len(b) == 1:
        return matmul(a[0], b[0], None if out is None else out[0])[None]
    return (multiplier.get() or array_module(a).matmul)(a, b, out=out)


def along_memory(function: Any, x: Array, *others: Array) -> Any:
    """function(x, *others), one array or several, of a `function` that treats each entry alone,
    with the batch last in memory: NumPy keeps that order by itself, but CuPy's results are in C
    order, so there the batch becomes the last axis and then the first again."""
    if array_module(x) is np or x.ndim == 0:
        return function(x, *others)
    y = function(*(array.transpose(*range(1, x.ndim), 0) for array in (x, *others)))
    back = -1, *range(x.ndim - 1)
    return tuple(a.transpose(back) for a in y) if isinstance(y, tuple) else y.transpose(back)


def synchronize(device: str) -> None:
    """Waits until `device` has finished all its work; call this before reading a clock."""
    if device == "gpu":
        _cupy().cuda.get_current_stream().synchronize()


def choose_device(name: str) -> str:
    """`"cpu"` or `"gpu"` for `"cpu"`, `"gpu"` or `"auto"`: a GPU if one works, else the CPU; and
    for `"gpu:1"`, which makes the second GPU the one that this thread uses from now on. Choose it
    before anything is on a GPU.

    Raises DeviceError, with the reason and the remedy, if a GPU is asked for and does not work.
    """
    return cuda.choose(name, gpu_problem, _cupy)


@functools.cache
def gpu_problem(number: str = "") -> str | None:
    """Why no GPU, or not the one of this number, can be used, with the remedy, in one sentence;
    None if it can."""
    return cuda.problem(_cupy, number)


def gpu_findings() -> list[tuple[str, str]]:
    """What a GPU that works is, by line, for a report: the first tells which one is used."""
    return cuda.findings(_cupy())


def gpu_count() -> int:
    """How many GPUs this process sees, if one works."""
    return _cupy().cuda.runtime.getDeviceCount()


def _cupy() -> ModuleType:
    import cupy

    return cupy
