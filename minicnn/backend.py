"""Where arrays live: NumPy on the host, CuPy on a GPU. The only file that imports CuPy."""

import functools
import sys
from importlib import metadata
from types import ModuleType

import numpy as np

DEVICES = ("cpu", "gpu", "auto")
CUDAS = (12, 13)  # the versions that there is a CuPy 14 for, oldest first

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
        import cupy

        return cupy
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
    if device == "cpu":
        return x.get()
    import cupy

    return cupy.asarray(x)


def aligned_empty(size: int, like: Array) -> Array:
    """An unset array (size,) of the type of `like`, where that lives, which begins with a line of
    the cache: so a BLAS is up to a third faster at small products than where NumPy puts arrays."""
    if device_of(like) == "gpu":
        return array_module(like).empty(size, like.dtype)
    memory = np.empty(size * like.itemsize + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size * like.itemsize].view(like.dtype)


def scratch_bytes(x: Array) -> int:
    """How many bytes of intermediate results are worth making at once where `x` lives: what stays
    in a CPU core's cache; far more on a GPU, which wants few and large pieces of work."""
    return 1 << 18 if device_of(x) == "cpu" else 1 << 28


def small_product(x: Array) -> int:
    """How many multiplications a small product of matrices has, where `x` lives: on processors with
    AVX-512 OpenBLAS copies the matrices of a larger one before it starts. On a GPU all products
    count as small."""
    return 1_000_000 if device_of(x) == "cpu" else sys.maxsize


def masked(x: Array, mask: Array) -> Array:
    """x where `mask`, else 0: the bits of x times 0 or 1, since infinity times 0 is nan. `where` is
    ten times slower on a CPU if the mask is irregular."""
    return (x.view(f"i{x.itemsize}") * mask).view(x.dtype)


def synchronize(device: str) -> None:
    """Waits until `device` has done all that it was given; do so before reading a clock."""
    if device == "gpu":
        import cupy

        cupy.cuda.get_current_stream().synchronize()


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
    """Why no GPU can be used, with the remedy, in one sentence; None if one kernel and one
    matrix product ran on it (a driver without the CUDA libraries passes any lesser test)."""
    try:
        import cupy

        cupy.cuda.runtime
    except (ImportError, AttributeError) as error:
        return (
            f"CuPy cannot be imported ({error.__cause__ or error}); install it with "
            f"{_uninstall(_wheels())}pip install 'minicnn[cuda12]' or 'minicnn[cuda13]', after the "
            "CUDA version that nvidia-smi shows"
        )
    try:
        x = cupy.ones((2, 2), dtype=np.float32) + 1
        if float((x @ x).sum()) == 32:
            return None
        return "a 2x2 matrix product came out wrong on it"
    except Exception as error:  # CuPy's errors share no base class below Exception
        return _explain(cupy, error)


def _explain(cupy: ModuleType, error: Exception) -> str:
    """The sentence for `error`, raised by the first work given to the GPU."""
    driver = cupy.cuda.runtime.driverGetVersion() // 1000
    wheel = cupy.cuda.runtime.runtimeGetVersion() // 1000
    if driver == 0:
        return (
            "there is no NVIDIA driver on this machine; install the one for your GPU, on Ubuntu "
            "with sudo ubuntu-drivers install, or start a container with --gpus all"
        )
    wheels = _wheels()
    change = f"{_uninstall(wheels)}pip install 'minicnn[cuda{min(driver, CUDAS[-1])}]'"
    if driver < CUDAS[0]:
        return f"the driver supports CUDA {driver} but CuPy needs {CUDAS[0]}; update the driver"
    if len(wheels) > 1:
        return (
            f"{' and '.join(wheels)} are both installed, and each has overwritten files of the "
            f"other; keep the one for this driver: {change}"
        )
    if driver < wheel:
        return (
            f"the driver supports CUDA {driver} but CuPy was built for CUDA {wheel}; update the "
            f"driver, or install the CuPy for that CUDA: {change}"
        )
    if "cudaErrorNoDevice" in str(error):
        return (
            "the driver shows no GPU to this process; see what nvidia-smi -L lists, and whether "
            "CUDA_VISIBLE_DEVICES hides it: unset CUDA_VISIBLE_DEVICES"
        )
    full = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")  # of the driver and of its libraries
    is_full = any(words in str(error) for words in full)
    if is_full or isinstance(error, cupy.cuda.memory.OutOfMemoryError):
        return f"its memory is full ({error}); stop what else runs on it, which nvidia-smi lists"
    return (
        f"its first kernel or matrix product failed ({type(error).__name__}: {error}); the CUDA "
        f"libraries may be missing: pip install 'cupy-cuda{wheel}x[ctk]'"
    )


def _wheels() -> list[str]:
    """The packages of CuPy that are installed; there should be one."""
    names = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    return sorted(names & {"cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x"})


def _uninstall(wheels: list[str]) -> str:
    return f"pip uninstall -y {' '.join(wheels)} && " if wheels else ""
