"""What several tests of runs share."""

import pytest

from minicnn.files import write_atomically
from minicnn.runs import run_folder


@pytest.fixture
def no_picture(monkeypatch):
    """Runs write a few bytes in place of their curves, which take longer to draw than to train."""
    monkeypatch.setattr(run_folder, "training_curves", lambda history: b"curves")
    monkeypatch.setattr(
        run_folder, "save_figure", lambda figure, path: write_atomically(path, figure)
    )


@pytest.fixture
def data(small_digits):
    return [part[:130] for part in small_digits]
