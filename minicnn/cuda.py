"""Why a GPU cannot be used, and what to do about it: the diagnosis of an installation, for which
`backend` hands CuPy over. Nothing here imports it."""

from collections.abc import Callable
from types import ModuleType

CUDAS = (12, 13)  # the versions that there is a CuPy 14 for, oldest first


def problem(load_cupy: Callable[[], ModuleType]) -> str | None:
    """Why no GPU can be used, with the remedy, in one sentence; None if one kernel and one matrix
    product ran on it (a driver without the CUDA libraries passes any lesser test)."""
    try:
        cupy = load_cupy()
        _ = cupy.cuda.runtime  # which a broken installation lacks
    except (ImportError, AttributeError) as error:
        return (
            f"CuPy cannot be imported ({error.__cause__ or error}); install it with "
            f"{_uninstall(_wheels())}pip install 'minicnn[cuda12]' or 'minicnn[cuda13]', after the "
            "CUDA version that nvidia-smi shows"
        )
    try:
        x = cupy.ones((2, 2), dtype="float32") + 1
        is_right = float((x @ x).sum()) == 32
    except Exception as error:  # CuPy's errors share no base class below Exception
        return _explain(cupy, error)
    return None if is_right else "a 2x2 matrix product came out wrong on it"


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
    from importlib import metadata  # here, since it takes a tenth of the time to import minicnn

    names = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    return sorted(names & {"cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x"})


def _uninstall(wheels: list[str]) -> str:
    return f"pip uninstall -y {' '.join(wheels)} && " if wheels else ""
