"""What the matrix of configurations reads and prints; its rows take minutes and are run by CI."""

import importlib.machinery
import importlib.util
import os
import signal
import sys
import warnings
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parent.parent
OURS = ("minicnn", "tests", "examples", "benchmarks", "docs")


@pytest.fixture(scope="module")
def matrix():
    loader = importlib.machinery.SourceFileLoader("matrix", str(REPOSITORY / "tests" / "matrix"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("matrix", loader))
    sys.modules["matrix"] = module  # where a dataclass looks for it
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = written
    yield module
    del sys.modules["matrix"]


def test_a_probe_names_the_kernel_in_use(matrix):
    seen = matrix.probe(sys.executable, dict(os.environ))
    assert seen["kernel"]
    assert seen["simd"] == np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    if seen["simd"]:
        off = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(seen["simd"])}
        assert matrix.probe(sys.executable, off) == seen | {"simd": []}


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_instructions_that_the_processor_lacks_are_told_apart_from_a_failure(matrix, monkeypatch):
    monkeypatch.setattr(matrix, "PROBE", f"import os; os.kill(os.getpid(), {signal.SIGILL:d})")
    assert matrix.probe(sys.executable, dict(os.environ)) is None
    monkeypatch.setattr(matrix, "PROBE", "1 / 0")
    with pytest.raises(matrix.Failed, match="ZeroDivisionError"):
        matrix.probe(sys.executable, dict(os.environ))


def test_pythons_start_at_the_oldest_that_setup_cfg_allows(matrix):
    found = matrix.pythons()
    assert found[sys.version_info[:2]] == sys.executable
    assert min(found) >= matrix.OLDEST
    setup = ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    assert setup["options"]["python_requires"] == ">=" + ".".join(map(str, matrix.OLDEST))


def test_time_that_is_over_leaves_rows_out_and_failures_are_named(matrix, monkeypatch, tmp_path):
    def fail(row, tools, folder):
        row.result, row.failures = "FAILED", ["FAILED tests/test_x.py::test_y"]

    monkeypatch.setattr(matrix, "run_row", fail)
    rows = [matrix.Row("python", name) for name in ("first", "second")]
    monkeypatch.setattr(matrix.time, "monotonic", iter(range(0, 1000, 50)).__next__)
    matrix.run_all(rows, tmp_path, tmp_path, minutes=3, jobs=1)
    assert [row.result for row in rows] == ["FAILED", "not run"]
    lines = matrix.table(rows).splitlines()
    assert [line.split()[0] for line in lines] == ["configuration", "first", "second"]
    assert lines[1].endswith("FAILED") and lines[2].endswith("not run")


def test_warnings_that_our_code_causes_are_errors(pytestconfig):
    """Every Python file of ours is named in setup.cfg, and a library is not."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for line in pytestconfig.getini("filterwarnings"):
            action, _, category, *module = f"{line}::".split(":")[:4]
            if not category:
                warnings.filterwarnings(action, module=module[0])
        for path in (path for folder in OURS for path in (REPOSITORY / folder).rglob("*.py")):
            name = "minicnn.x" if path.is_relative_to(REPOSITORY / "minicnn") else path.stem
            with pytest.raises(UserWarning):
                warnings.warn_explicit("ours", UserWarning, str(path), 1, name)
        with warnings.catch_warnings(record=True) as caught:
            warnings.warn_explicit("theirs", UserWarning, "", 1, "matplotlib.testing")
        assert len(caught) == 1
