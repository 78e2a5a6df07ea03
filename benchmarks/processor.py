"""The processor under a benchmark, and which of its instructions the libraries use.

python benchmarks/processor.py          prints what a process in this environment uses

NumPy, its OpenBLAS and PyTorch each choose kernels for the processor that they find. Environment
variables hold them to older ones, so that a processor with AVX-512 shows what AVX2 alone gives.
"""

import contextlib
import json
import os
import platform
import re
import subprocess
import sys

import numpy as np
import threadpoolctl

HELD_TO = {  # besides NumPy's variable, which names what the processor has beyond it
    "avx2": {
        "OPENBLAS_CORETYPE": "Haswell",
        "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels and torch.compile
        "ONEDNN_MAX_CPU_ISA": "AVX2",  # its convolutions
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # its matrix products
    }
}
NUMPY_VARIABLE = "NPY_DISABLE_CPU_FEATURES"
VARIABLES = (NUMPY_VARIABLE, *HELD_TO["avx2"])
INSTRUCTIONS = {  # of the kernels that are not named after them
    **dict.fromkeys(("SkylakeX", "Cooperlake", "SapphireRapids", "X86_V4"), "AVX512"),
    **dict.fromkeys(("Haswell", "Zen", "X86_V3", "FMA3"), "AVX2"),
}


def hold(level: str) -> None:
    """Starts this process again with the libraries held to `level`, unless it was started so."""
    variables = HELD_TO[level]
    if not variables.items() <= os.environ.items():
        newer = [name for name in _numpy_features() if name.startswith(("AVX512", "X86_V4"))]
        os.environ.update(variables | {NUMPY_VARIABLE: " ".join(newer)})
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def in_use() -> dict:
    """{"kernels": of each library, "held": the variables that hold them}, as a fresh process in
    this environment finds it."""
    command = [sys.executable, __file__]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def instructions(kernels: dict[str, str]) -> str:
    """One name if the libraries agree, such as "AVX2", else one for each of them."""
    names = (
        "AVX512" if name.startswith("AVX512") else INSTRUCTIONS.get(name, name)
        for name in kernels.values()
    )
    return " ".join(dict.fromkeys(names))


def folder(environment: dict) -> str:
    """Where results from this environment belong: a name such as "intel-xeon-avx512", or
    "intel-xeon-held-to-avx2"; that of the GPU if there is one."""
    used = instructions(environment["kernels"])
    text = environment.get("GPU") or f"{environment['CPU']} {used}"
    if environment["held"]:
        text = f"{text.removesuffix(used)} held to {used}"
    noise = r"\((R|TM)\)|\d+-Core|\b(CPU|Processor)\b|@ \S+"
    return "-".join(re.findall("[a-z0-9]+", re.sub(noise, " ", text).lower()))


def held_to(environment: dict) -> str:
    """A sentence if the libraries were held to older instructions, else nothing."""
    if not environment.get("held"):  # which older records lack
        return ""
    variables = ", ".join(f"`{name}={value}`" for name, value in environment["held"].items())
    return f"**Held to {instructions(environment['kernels'])}** by {variables}.\n\n"


def versions(environment: dict) -> str:
    """The libraries and, where the record has them, the kernels that each of them used."""
    kernels = environment.get("kernels", {})
    blas, numpy, torch = (
        f"{kind}{kernels[library]}" if library in kernels else ""
        for library, kind in (("OpenBLAS", ", kernels "), ("NumPy", "SIMD "), ("PyTorch", "SIMD "))
    )
    return (
        f"NumPy {environment['numpy']} ({numpy and numpy + '; '}{environment['BLAS']}{blas}), "
        f"PyTorch {environment['torch']}{torch and f' ({torch})'}, Python {environment['python']}"
    )


def cpu() -> str:
    with contextlib.suppress(FileNotFoundError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _numpy_features() -> list[str]:
    """What NumPy may choose from on this processor, the newest last."""
    return np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])


def _used_here() -> dict:
    kernels = {}
    for library in threadpoolctl.threadpool_info():  # NumPy's, since PyTorch is not loaded yet
        if library["internal_api"] == "openblas":
            kernels["OpenBLAS"] = library["architecture"]
    kernels["NumPy"] = ["none", *_numpy_features()][-1]
    with contextlib.suppress(ImportError, OSError):
        import torch

        kernels["PyTorch"] = torch.backends.cpu.get_cpu_capability()
    return {"kernels": kernels, "held": {k: os.environ[k] for k in VARIABLES if k in os.environ}}


if __name__ == "__main__":
    print(json.dumps(_used_here()))
