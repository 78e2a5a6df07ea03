"""Where arrays live: NumPy on the host, CuPy on a GPU. The only file that imports CuPy."""

import functools
from types import ModuleType

import numpy as np

from minicnn import cuda

DEVICES = ("cpu", "gpu", "auto")

Array = np.ndarray
"""What layers take and give back: a `numpy.ndarray` or, on a GPU, a `cupy.ndarray`."""


class DeviceError(ValueError):
    """The device that was asked for cannot be used."""


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
    """x where `mask`, else 0: the bits of x times 0 or 1, since infinity times 0 is nan. `where` is
    ten times slower on a CPU if the mask is irregular."""
    return (x.view(f"i{x.itemsize}") * mask).view(x.dtype)


def synchronize(device: str) -> None:
    """Waits until `device` has done all that it was given; do so before reading a clock."""
    if device == "gpu":
        _cupy().cuda.get_current_stream().synchronize()


def choose_device(name: str) -> str:
    """`"cpu"` or `"gpu"` for `"cpu"`, `"gpu"` or `"auto"`: a GPU if one works, else the CPU.

    Raises DeviceError, with the reason and the remedy, if `"gpu"` is asked for and none works.
    """
    if not isinstance(name, str) or name not in DEVICES:
        given = repr(name) if isinstance(name, str) else type(name).__name__
        raise DeviceError(f"expected a device of {', '.join(DEVICES)} but got {given}")
    if name == "cpu":
        return "cpu"
    problem = gpu_problem()
    if problem and name == "gpu":
        raise DeviceError(f"no GPU can be used: {problem}")
    return "cpu" if problem else "gpu"


@functools.cache
def gpu_problem() -> str | None:
    """Why no GPU can be used, with the remedy, in one sentence; None if one can."""
    return cuda.problem(_cupy)


def _cupy() -> ModuleType:
    import cupy

    return cupy
