"""What several test files share: a little data and a network that learns it in no time."""

import numpy as np
import pytest

from minicnn import Conv2D, Flatten, Linear, ReLU, Sequential, digits


@pytest.fixture(scope="session")
def small_digits():
    """1,000 digits to train with and 300 to test with."""
    return digits(1000, 300)


@pytest.fixture
def new_net():
    """A function seed -> network of four layers; one seed gives the same weights each time."""

    def build(seed=0):
        rng = np.random.default_rng(seed)
        return Sequential(
            Conv2D(1, 4, 5, stride=3, rng=rng), ReLU(), Flatten(), Linear(256, 10, rng=rng)
        )

    return build
