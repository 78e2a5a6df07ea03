"""The modules of version 0.1 can still be imported under their names, in silence."""

import importlib
import subprocess
import sys

import pytest

import minicnn
from minicnn._moved import MOVED


@pytest.mark.parametrize("old, new", MOVED.items())
def test_the_old_name_is_the_same_module(old, new):
    module = importlib.import_module(f"minicnn.{old}")
    assert module is importlib.import_module(f"minicnn.{new}") is getattr(minicnn, old)
    assert module.__name__ == module.__spec__.name == f"minicnn.{new}"


NAMES = {
    "cli": "main",
    "gradcheck": "check_gradients numerical_gradient LossLayer",
    "reference": "corr2d pool2d conv2d conv2d_backward max_pool2d softmax_cross_entropy",
    "runs": "check_unused new_run save_config locked save_epoch add_checkpoint open_run",
    "training": "TrainingError History Position fit evaluate estimate_seconds check_fit",
    "workers": "cores worker_map",
    "checkpoint": "write_atomically save_weights load_weights Checkpoint",
    "museum": "FAULTS",
}


@pytest.mark.parametrize("module, names", NAMES.items(), ids=NAMES)
def test_what_was_in_a_module_is_found_there(module, names):
    module = importlib.import_module(f"minicnn.{module}")
    assert all(hasattr(module, name) for name in names.split())


def test_the_first_import_may_be_of_an_old_name():
    program = "import minicnn.parallel as old; from minicnn.training import parallel as new; "
    program += "old is new or 1/0"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_other_names_are_missing_as_ever():
    name = "parallels"
    with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
        getattr(minicnn, name)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"minicnn.{name}")
