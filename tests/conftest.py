"""What several test files share: a little data and a network that learns it fast."""

import numpy as np
import pytest

from minicnn import Conv2D, Flatten, Linear, ReLU, Sequential, digits
from minicnn.cli.commands import main


@pytest.fixture(scope="session")
def small_digits():
    """1,000 digits to train with and 300 to test with."""
    return digits(1000, 300)


@pytest.fixture
def run_command(capsys):
    """A function that runs one command of the command line: (status, stdout, stderr)."""

    def run(*args):
        try:
            status = main([str(arg) for arg in args])
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def new_net():
    """A function seed -> network of four layers; the same seed gives the same weights each time."""

    def build(seed=0):
        rng = np.random.default_rng(seed)
        return Sequential(
            Conv2D(1, 4, 5, stride=3, rng=rng), ReLU(), Flatten(), Linear(256, 10, rng=rng)
        )

    return build
