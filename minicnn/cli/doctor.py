"""What this machine offers: versions, BLAS and its threads, data and GPU; also for bug reports."""

import platform
from importlib import metadata

import threadpoolctl

from minicnn._version import __version__
from minicnn.backend import gpu_findings, gpu_problem
from minicnn.datasets.sources import FASHION_MNIST, MNIST, cache_problem, chosen_problem, find
from minicnn.text import align
from minicnn.training.cores import cores

PACKAGES = ("numpy", "threadpoolctl", "safetensors", "pooch", "tqdm", "matplotlib", "Pillow")


def report() -> str:
    """One line per finding; needs no network connection and changes nothing."""
    lines = [
        ("minicnn", __version__),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        *((package, metadata.version(package)) for package in PACKAGES),
        ("cores", str(cores())),
    ]
    for blas in threadpoolctl.threadpool_info():
        if blas["user_api"] == "blas":
            kind = f"{blas['internal_api']} {blas['version']}, {blas.get('architecture', '')}"
            lines.append(("BLAS", f"{kind}, {blas['num_threads']} threads"))
    absent = "not on this machine" + ("" if cache_problem() else "; will be downloaded")
    for source in (FASHION_MNIST, MNIST):
        lines.append((source.title, str(find(source) or absent)))
    problems = (chosen_problem(FASHION_MNIST), chosen_problem(MNIST), cache_problem())
    lines += [("warning", problem) for problem in problems if problem]
    gpu = gpu_problem()
    lines += [("GPU", gpu)] if gpu else [*gpu_findings(), ("GPU", "works")]
    return "\n".join(align(lines, "<<"))
