"""How the tests start several ranks, with mpi4py and an mpiexec, as `pip install "minicnn[mpi]"`
brings them."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

LIMIT_SECONDS = 120  # for a job, which takes a few


def find_mpiexec() -> str | None:
    """The one beside this Python, else the first in PATH."""
    beside = str(Path(sys.executable).parent)
    return shutil.which("mpiexec", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))


def needs_mpi() -> None:
    pytest.importorskip("mpi4py")
    if find_mpiexec() is None:
        pytest.skip("there is no mpiexec: pip install mpich")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
