"""What several test files share: a little data, a network that learns it fast, and a browser."""

import os

import numpy as np
import pytest

from minicnn import Conv2D, Flatten, Linear, ReLU, Sequential, digits
from minicnn.cli.commands import main

BROWSER = os.environ.get("MINICNN_BROWSER", "/usr/bin/chromium")
REQUIRED = bool(os.environ.get("MINICNN_REQUIRE_BROWSER"))  # as in CI: then nothing is skipped


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


@pytest.fixture(scope="module")  # other tests count the processes that are left
def browser():
    if not REQUIRED:
        pytest.importorskip("playwright", reason="needs the extra `browser`")
        if not os.path.exists(BROWSER):
            pytest.skip(f"needs a browser, and there is none at {BROWSER}; see MINICNN_BROWSER")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # --no-sandbox, since tests may run as root, which Chromium's sandbox does not allow
        running = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()
