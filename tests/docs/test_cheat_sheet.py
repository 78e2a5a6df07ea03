"""The cheat sheet is what its script makes, fits on a page, and is right about the layers."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from minicnn import layers
from minicnn.gradcheck.museum import FAULTS

SCRIPT = Path(__file__).parents[2] / "docs/cheat_sheet.py"
spec = importlib.util.spec_from_file_location("cheat_sheet", SCRIPT)
sheet = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sheet)

SIZES = {"N": 2, "C": 4, "O": 6, "I": 5, "K": 3, "H": 7, "W": 8, "KH": 3, "KW": 2, "G": 2}
OUTPUTS = {"ConvTranspose2D": {"OH": 15, "OW": 16}}
ENTRIES = {getattr(e.kind, "__name__", type(e.kind).__name__): e for e in sheet.ENTRIES}


def read(expression, name):
    """A shape or a count of the sheet in numbers."""
    return eval(expression, SIZES | OUTPUTS.get(name, {"OH": 3, "OW": 4}))


def test_the_sheet_is_up_to_date():
    assert sheet.PAGE.read_text() == sheet.page()


def test_the_sheet_fits_on_a_page():
    lines = sheet.page().splitlines()
    assert len(lines) <= sheet.LINES
    assert max(map(len, lines)) <= sheet.WIDTH


def test_every_layer_is_on_the_sheet():
    assert set(layers.__all__) - set(ENTRIES) == {"Layer", "Sequential"}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_sheet_is_right_about_shapes_and_what_is_saved(name):
    entry = ENTRIES[name]
    shape = (2, 3) if entry.x == sheet.ANY else read(entry.x, name)
    x = np.random.default_rng(0).standard_normal(shape)
    if not isinstance(entry.kind, layers.Layer):
        loss, gradient = entry.kind(x, x + 1 if entry.x == sheet.ANY else np.array([0, 2]))
        assert (loss.shape, gradient.shape) == (read(entry.y, name), shape)
        return
    y, saved = entry.kind.forward(x)
    assert y.shape == (shape if entry.y == sheet.SAME else read(entry.y, name))
    assert entry.kind.multiply_adds(shape) == read(entry.multiply_adds, name)
    known = {"x": lambda: saved is x, "the shape of x": lambda: saved == x.shape}
    known["y"] = lambda: saved is y
    known["x and y"] = lambda: saved[0] is x and np.array_equal(saved[1], y.transpose(1, 2, 3, 0))
    if entry.saved in known:
        assert known[entry.saved]()


@pytest.mark.parametrize("name", [n for n in ENTRIES if n != "GlobalAvgPool2D"])
def test_the_mistake_is_one_of_this_layer_in_the_museum(name):
    right = next(fault.right for fault in FAULTS if fault.name == ENTRIES[name].fault)
    assert right.__name__ == name
