"""Every fault of the museum is caught: by the checker, under the right name, and by these tests."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from put_fault import PAIRS

from minicnn.gradcheck import museum
from minicnn.gradcheck.museum import FAULTS
from minicnn.gradcheck.museum.fault import MADE_UP

TESTS = Path(__file__).parents[1]
LAYERS = ["layers", "activations", "conv_transpose", "normalization", "dropout", "residual"]
FILES = [TESTS / f"layers/test_{name}.py" for name in LAYERS]
FILES += [TESTS / "test_losses.py", TESTS / "test_optimizers.py"]
SELECTION = "not equal_the_loops or (float32-float32 and not strided and not last)"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_checker_catches_the_fault_and_names_it(fault, seed):
    report = fault.check(seed)
    assert not report.ok
    assert report.cause == fault.cause, report


def test_most_faults_have_a_name():
    assert len(FAULTS) >= 16
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert sum(fault.cause is not None for fault in FAULTS) > 0.9 * len(FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_fault_sits_in_the_place_of_what_is_right(fault):
    assert fault.wrong.__doc__ != fault.right.__doc__
    if isinstance(fault.right, type):
        assert fault.wrong.__bases__ == (fault.right,)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_fault_says_where_it_was_seen(fault):
    thread = r"(asked in )?[\w.-]+/[\w.-]+#\d+(, of [\w ]+)?"
    assert re.fullmatch(f"{MADE_UP}|{thread}", fault.seen)


def test_each_fault_can_be_imported_from_the_museum():
    assert all(getattr(museum, fault.name) is fault.wrong for fault in FAULTS)


@pytest.fixture(scope="module")
def caught(tmp_path_factory):
    """For each fault the test that fails first when the real layer, loss or optimizer has it."""
    path = tmp_path_factory.mktemp("faults") / "caught.json"
    command = [sys.executable, "-m", "pytest", "-p", "put_fault", "-p", "no:cacheprovider"]
    subprocess.run(
        [*command, "-k", SELECTION, *FILES],
        env=os.environ | {"FAULTS_CAUGHT": str(path), "PYTHONPATH": str(TESTS)},
        capture_output=True,
        check=True,
    )
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forked processes")
@pytest.mark.parametrize("name", ["no fault", *PAIRS])
def test_the_fault_in_the_real_layer_makes_the_tests_fail(caught, name):
    assert (caught[name] is None) == (name == "no fault"), caught[name]
