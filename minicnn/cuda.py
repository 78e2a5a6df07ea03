"""Which GPU is used; why one cannot be used, and what to do about it. `backend` passes in CuPy;
nothing here imports it."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

DEVICES = ("cpu", "gpu", "auto")

CUDAS = (12, 13)  # the versions that CuPy 14 is built for, oldest first


class DeviceError(ValueError):
    """The device that was asked for cannot be used."""


def named(device: str) -> tuple[str, str]:
    """(kind, number) of the name of a device, such as ("gpu", "1"); the number may be empty."""
    kind, colon, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    is_number = number.isascii() and number.isdecimal() and len(number) < 5
    if kind not in DEVICES or (colon and not (kind == "gpu" and is_number)):
        given = repr(device) if isinstance(device, str) else type(device).__name__
        raise DeviceError(
            f"expected a device of {', '.join(DEVICES)} but got {given}: of several GPUs, choose "
            "one by its number, as in gpu:1"
        )
    return kind, number


def choose(
    name: str, problem_of: Callable[[str], str | None], load_cupy: Callable[[], ModuleType]
) -> str:
    """As `backend.choose_device` says; `problem_of` tells why the GPU of a number does not work."""
    kind, number = named(name)
    if kind == "cpu":
        return "cpu"
    found = problem_of(number)
    if found and kind == "gpu":
        raise DeviceError(f"no GPU can be used: {found}")
    if number:
        load_cupy().cuda.Device(int(number)).use()
    return "cpu" if found else "gpu"


def findings(cupy: ModuleType) -> list[tuple[str, str]]:
    """As `backend.gpu_findings` says, of a GPU that works."""
    runtime = cupy.cuda.runtime
    number, count = runtime.getDevice(), runtime.getDeviceCount()
    free, total = runtime.memGetInfo()
    driver, built = (
        f"{version // 1000}.{version % 1000 // 10}"
        for version in (runtime.driverGetVersion(), runtime.runtimeGetVersion())
    )
    folder = Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")
    is_warm = folder.is_dir() and any(folder.iterdir())
    kernels = "kept" if is_warm else "none yet, so the first run compiles them, which takes seconds"
    return [
        ("GPU", f"{runtime.getDeviceProperties(number)['name'].decode()}, gpu:{number} of {count}"),
        ("GPU memory", f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"),
        ("CuPy", f"{cupy.__version__} with CUDA {built}; the driver supports CUDA {driver}"),
        ("GPU kernels", f"in {folder}: {kernels}"),
    ]


def problem(load_cupy: Callable[[], ModuleType], number: str = "") -> str | None:
    """Why no GPU can be used, with the remedy, in one sentence; None if one kernel and one matrix
    product ran on it (a driver without the CUDA libraries passes any lesser test). It is the GPU of
    this number, or the current one if that is empty."""
    try:
        cupy = load_cupy()
        _ = cupy.cuda.runtime  # a broken installation lacks it
    except (ImportError, AttributeError) as error:
        return (
            f"CuPy cannot be imported ({_line(error.__cause__ or error)}); install it with "
            f"{_uninstall(_wheels())}pip install 'minicnn[cuda12]' or 'minicnn[cuda13]', to match "
            "the CUDA version that nvidia-smi shows"
        )
    try:
        if number and int(number) >= (count := cupy.cuda.runtime.getDeviceCount()):
            return (
                f"there is no gpu:{number}, because this process sees {count}, counted from 0; "
                "nvidia-smi -L lists all, of which CUDA_VISIBLE_DEVICES may choose some"
            )
        with cupy.cuda.Device(int(number)) if number else contextlib.nullcontext():
            x = cupy.ones((2, 2), dtype="float32") + 1
            is_right = float((x @ x).sum()) == 32
    except Exception as error:  # CuPy's errors share no base class below Exception
        return _explain(cupy, error)
    return None if is_right else "it computed a 2x2 matrix product wrongly"


def _explain(cupy: ModuleType, error: Exception) -> str:
    """The sentence for `error`, raised by the GPU's first work."""
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
        return f"its memory is full ({_line(error)}); stop other programs on it (see nvidia-smi)"
    return (
        f"its first kernel or matrix product failed ({type(error).__name__}: {_line(error)}); "
        f"the CUDA libraries may be missing: pip install 'cupy-cuda{wheel}x[ctk]'"
    )


def _line(error: BaseException) -> str:
    """The first line of the error's message that is not a rule or empty; some have a dozen."""
    lines = (line.strip(" =-.") for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


def _wheels() -> list[str]:
    """The installed packages of CuPy; there should be one."""
    from importlib import metadata  # here, since it takes a tenth of the time to import minicnn

    names = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    return sorted(names & {"cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x"})


def _uninstall(wheels: list[str]) -> str:
    return f"pip uninstall -y {' '.join(wheels)} && " if wheels else ""
