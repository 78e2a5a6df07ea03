"""11_side_by_side_with_pytorch: both agree to rounding, and it says how far apart they are."""

import importlib
import sys

import numpy as np
import pytest
from PIL import Image

from minicnn import MaxPool2D, ReLU, Sequential

NAME = "11_side_by_side_with_pytorch"


def test_says_that_pytorch_is_not_there(run_example, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    text = run_example(NAME)
    assert text.startswith("PyTorch is not installed") and text.count("\n") == 1
    assert not list(tmp_path.iterdir())


def rows_after(text, words):
    lines = text.split(words + "\n")[1].split("\n\n")[0].splitlines()
    return [line.split() for line in lines[1:]]


def test_prints_and_draws(run_example, tmp_path):
    pytest.importorskip("torch")
    text = run_example(NAME, "--data", "digits", "--steps", 12)
    for name in "lenet", "lenet-relu":
        title = "gradients at step 1: largest difference, as a share of the largest entry"
        rows = rows_after(text, f"{name}, {title}")
        assert len(rows) == 10
        for _, single, double in rows:
            assert float(single) < 1e-4 and float(double) < 1e-12
        for precision, limit in ("float32", 1e-4), ("float64", 1e-12):
            rows = rows_after(text, f"{name} in {precision}")
            steps = [row for row in rows if row[0].isdigit()]
            assert [row[0] for row in steps] == ["1", "10", "12"]
            # in float32 a rounding may decide a choice at any step; then the example says so
            chose = ["at", "step"] in [row[:2] for row in rows]
            assert not chose or (name, precision) == ("lenet-relu", "float32")
            for row in steps[: 1 if chose else None]:
                loss, theirs, gradients, weights = map(float, row[1:5])
                assert loss == pytest.approx(theirs, abs=2e-6) and 1 < loss < 10
                assert 0 < gradients < limit and 0 < weights < limit and row[5] == "0"
    with Image.open(tmp_path / f"{NAME}.png") as picture:
        assert picture.width == 1080 and len(np.unique(picture)) > 50


@pytest.mark.usefixtures("run_example")
def test_counts_units_that_choose_differently():
    """By hand: ReLU and maximum of one image; zeros tie, and do not count."""
    torch = pytest.importorskip("torch")
    example = importlib.import_module(NAME)

    class Moved(torch.nn.Module):
        """Adds to the first pixel."""

        def forward(self, y):
            y = y.clone()
            y[0, 0, 0, 0] += 2.0
            return y

    x = np.array([[[[-1.0, 0.5, -1.0, -2.0], [0.2, 0.1, -3.0, -4.0]]]])
    ours = Sequential(ReLU(), MaxPool2D(2))
    same = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    assert example.different_choices(ours, same, x) == 0
    moved = torch.nn.Sequential(
        torch.nn.Sequential(Moved(), torch.nn.ReLU()), torch.nn.MaxPool2d(2)
    )
    assert example.different_choices(ours, moved, x) == 2  # above zero, and now the largest


@pytest.mark.usefixtures("run_example")
def test_a_wrong_gradient_shows_in_float64():
    example = importlib.import_module(NAME)
    ours = {"weight": np.array([1.0, -4.0]), "bias": np.array([2.0])}
    theirs = {"weight": np.array([1.0, -3.0]), "bias": np.array([2.0])}
    assert example.differences(ours, theirs) == {"weight": 0.25, "bias": 0.0}
