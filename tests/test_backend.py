"""Where arrays live. No GPU is needed: a stand-in for CuPy fails in each of the ways it can."""

import ast
import builtins
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import minicnn
from minicnn.backend import (
    DeviceError,
    array_module,
    choose_device,
    device_of,
    gpu_problem,
    to_device,
)


def test_only_the_backend_imports_cupy():
    def imports(path):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module or ""

    package = Path(minicnn.__file__).parent
    files = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(name.partition(".")[0] in ("cupy", "cupyx") for name in imports(path))
    }
    assert files == {"backend.py"}


@pytest.fixture
def install(monkeypatch):
    """A function that puts a module, or None for none, in place of CuPy, and packages in
    place of those installed."""

    def put(cupy, *packages):
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        found = [SimpleNamespace(metadata={"Name": name}) for name in ("numpy", *packages)]
        monkeypatch.setattr("importlib.metadata.distributions", lambda: found)

    gpu_problem.cache_clear()
    yield put
    gpu_problem.cache_clear()


class NoProduct(np.ndarray):
    """Kernels run on it, a matrix product does not: CUDA without its libraries."""

    def __matmul__(self, other):
        raise RuntimeError("libcublas.so.12 not found")


def fake_cupy(ones=np.ones, driver=12040, runtime=12090):
    class Array:
        """A device array as far as moving it goes."""

        def __init__(self, values):
            self.values = values

        def get(self):
            return self.values

    Array.__module__ = "cupy"
    versions = {
        "driverGetVersion": lambda: driver,
        "runtimeGetVersion": lambda: runtime,
    }
    cuda = SimpleNamespace(
        runtime=SimpleNamespace(**versions),
        memory=SimpleNamespace(OutOfMemoryError=MemoryError),
    )
    return SimpleNamespace(ones=ones, asarray=Array, cuda=cuda)


def fail(error):
    def ones(shape, dtype):
        raise error

    return ones


TOO_OLD = fail(RuntimeError("cudaErrorInsufficientDriver"))


FAULTY = {
    "not installed": (None, r"cannot be imported .*pip install 'minicnn\[cuda12\]'.*nvidia-smi"),
    "no driver": (
        fake_cupy(TOO_OLD, driver=0),
        "no NVIDIA driver on this machine; install .* with sudo ubuntu-drivers install, or .* "
        "container with --gpus all",
    ),
    "driver too old": (
        fake_cupy(TOO_OLD, runtime=13010),
        r"supports CUDA 12 but .* for CUDA 13; update the driver, or install .*: "
        r"pip install 'minicnn\[cuda12\]'",
    ),
    "driver older than any CuPy": (
        fake_cupy(TOO_OLD, driver=11080),
        "supports CUDA 11 but CuPy needs 12; update the driver$",
    ),
    "GPU hidden": (
        fake_cupy(fail(RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected"))),
        "shows no GPU to this process; .* nvidia-smi -L lists.*: unset CUDA_VISIBLE_DEVICES",
    ),
    "no kernel compiler": (
        fake_cupy(fail(OSError("libnvrtc.so.13 not found")), driver=13020, runtime=13010),
        r"OSError: libnvrtc.so.13 not found.*missing: pip install 'cupy-cuda13x\[ctk\]'",
    ),
    "no cuBLAS": (
        fake_cupy(lambda shape, dtype: np.ones(shape, dtype).view(NoProduct)),
        r"RuntimeError: libcublas.so.12 not found.*missing: pip install 'cupy-cuda12x\[ctk\]'",
    ),
    "memory full": (
        fake_cupy(fail(MemoryError("7 of 8 GB"))),
        r"full \(7 of 8 GB\); stop other programs on it \(see nvidia-smi\)",
    ),
    "memory full before CuPy has any": (
        fake_cupy(fail(RuntimeError("cudaErrorMemoryAllocation: out of memory"))),
        r"full \(cudaErrorMemoryAllocation: out of memory\)",
    ),
    "memory full for cuBLAS": (
        fake_cupy(fail(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"))),
        r"full \(CUBLAS_STATUS_ALLOC_FAILED\)",
    ),
    "wrong product": (fake_cupy(np.zeros), "it computed a 2x2 matrix product wrongly"),
}


@pytest.mark.parametrize("cupy, sentence", FAULTY.values(), ids=FAULTY)
def test_a_gpu_that_does_not_work_is_refused_with_reason_and_remedy(cupy, sentence, install):
    install(cupy)
    with pytest.raises(DeviceError, match=f"^no GPU can be used: .*{sentence}"):
        choose_device("gpu")
    with pytest.raises(DeviceError, match=sentence):
        to_device(np.ones(2), "gpu")
    assert choose_device("auto") == "cpu"
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("cupy, sentence", FAULTY.values(), ids=FAULTY)
def test_the_command_line_and_the_doctor_say_so_too(cupy, sentence, install, run_command):
    install(cupy)
    status, _, err = run_command("train", "--device", "gpu")
    assert status == 2 and re.match(f"minicnn: no GPU can be used: .*{sentence}", err)
    status, out, _ = run_command("doctor")
    assert status == 0 and re.match(f"GPU  +.*{sentence}", out.splitlines()[-1])


@pytest.mark.parametrize(
    "cupy, packages, sentence",
    [
        (
            fake_cupy(TOO_OLD, runtime=13010),
            ["cupy-cuda13x"],
            "supports CUDA 12 but .*: pip uninstall -y cupy-cuda13x && "
            r"pip install 'minicnn\[cuda12\]'$",
        ),
        (
            fake_cupy(fail(OSError("undefined symbol")), driver=14000),
            ["cupy-cuda13x", "cupy-cuda12x"],
            "cupy-cuda12x and cupy-cuda13x are both installed, and each has overwritten .*: "
            r"pip uninstall -y cupy-cuda12x cupy-cuda13x && pip install 'minicnn\[cuda13\]'$",
        ),
        (
            None,
            ["cupy-cuda12x"],
            "cannot be imported .* pip uninstall -y cupy-cuda12x && pip install 'minicnn.*'",
        ),
    ],
    ids=["driver too old", "two packages", "broken package"],
)
def test_what_is_wrongly_installed_is_to_be_removed(cupy, packages, sentence, install):
    install(cupy, *packages)
    with pytest.raises(DeviceError, match=f"^no GPU can be used: .*{sentence}"):
        choose_device("gpu")


def test_why_cupy_cannot_be_imported_is_told_in_one_line(install, monkeypatch):
    """CuPy wraps the error in a banner of several lines."""
    imported = builtins.__import__

    def broken(name, *args):
        if name != "cupy":
            return imported(name, *args)
        raise ImportError("\n====\nFailed to import CuPy.\n") from OSError("libz.so.1 not found")

    install(None)
    monkeypatch.setattr(builtins, "__import__", broken)
    problem = gpu_problem()
    monkeypatch.undo()
    assert "imported (libz.so.1 not found); install it with" in problem


def test_an_error_of_many_lines_is_told_in_one(install):
    """As that of the package which looks for the libraries of CUDA."""
    error = RuntimeError(
        "\n=====\nFailure finding libcublas.so:\n  listdir /usr/lib:\n    libz.so\n"
    )
    install(fake_cupy(fail(error)))
    assert "failed (RuntimeError: Failure finding libcublas.so:); the CUDA" in gpu_problem()
    gpu_problem.cache_clear()
    install(fake_cupy(fail(RuntimeError())))
    assert "failed (RuntimeError: RuntimeError); the CUDA" in gpu_problem()


class FakeDevice:
    """A GPU by its number; `used` lists those that were made the current one, `tried` those that
    something ran on."""

    used, tried = [], []

    def __init__(self, number):
        self.number = number

    def use(self):
        self.used.append(self.number)

    def __enter__(self):
        self.tried.append(self.number)

    def __exit__(self, *_):
        pass


def test_one_of_several_gpus_is_chosen_by_its_number(install):
    cupy = fake_cupy()
    cupy.cuda.Device, cupy.cuda.runtime.getDeviceCount = FakeDevice, lambda: 2
    FakeDevice.used.clear(), FakeDevice.tried.clear()
    install(cupy)
    assert [choose_device(name) for name in ("gpu:1", "gpu:0", "gpu:1", "gpu")] == 4 * ["gpu"]
    assert (FakeDevice.tried, FakeDevice.used) == ([1, 0], [1, 0, 1])
    with pytest.raises(DeviceError, match="no gpu:2, because this process sees 2, counted from 0;"):
        choose_device("gpu:2")
    assert FakeDevice.used == [1, 0, 1]


@pytest.mark.parametrize(
    "name", ["gpu:", "gpu:x", "gpu:-1", "gpu:1.0", "gpu:99999", "cpu:0", "auto:1"]
)
def test_what_numbers_no_gpu_is_refused(name):
    with pytest.raises(DeviceError, match=f"but got {name!r}: of several GPUs, .* as in gpu:1$"):
        choose_device(name)


def test_a_gpu_that_works_is_used_if_it_is_asked_for(install):
    install(fake_cupy())
    assert [choose_device(name) for name in ("cpu", "gpu", "auto")] == ["cpu", "gpu", "gpu"]


@pytest.mark.parametrize("name", ["tpu", "GPU", "", None])
def test_a_device_that_does_not_exist_is_refused(name):
    with pytest.raises(DeviceError, match=f"expected a device of cpu, gpu, auto but got {name!r}"):
        choose_device(name)


def test_arrays_know_their_module_and_move_between_devices(install):
    cupy = fake_cupy()
    install(cupy)
    host = np.ones(2)
    there = to_device(host, "gpu")
    assert (array_module(host), device_of(host)) == (np, "cpu")
    assert (array_module(there), device_of(there)) == (cupy, "gpu")
    assert array_module(host.sum()) is np
    assert to_device(there, "gpu") is there
    assert to_device(host, "cpu") is to_device(there, "cpu") is host


@pytest.mark.parametrize("x", [[1.0, 2.0], 1.0, None])
def test_what_is_no_array_is_refused(x):
    with pytest.raises(ValueError, match=f"but got {type(x).__name__}: .*numpy.asarray"):
        array_module(x)
