"""The cheat sheet is what its script writes, fits on a page, and is right about the layers."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from minicnn import layers
from minicnn.gradcheck.museum import FAULTS

SCRIPT = Path(__file__).parents[2] / "docs/cheat_sheet.py"
spec = importlib.util.spec_from_file_location("cheat_sheet", SCRIPT)
sheet = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sheet)

SIZES = {"N": 2, "C": 4, "O": 6, "I": 5, "H": 7, "W": 8, "KH": 3, "KW": 2, "G": 2}
OUTPUTS = {"ConvTranspose2D": {"OH": 15, "OW": 16}}
ENTRIES = {getattr(e.kind, "__name__", type(e.kind).__name__): e for e in sheet.ENTRIES}


def read(expression, name):
    """A shape or a count of the sheet in numbers."""
    return eval(expression, SIZES | OUTPUTS.get(name, {"OH": 3, "OW": 4}))


BROWSER = os.environ.get("MINICNN_BROWSER", "/usr/bin/chromium")


def test_the_pages_are_up_to_date():
    assert sheet.PAGE.read_text() == sheet.page()
    assert sheet.PRINT.read_text() == sheet.print_page()
    assert sheet.GLOSSARY_PAGE.read_text() == sheet.glossary()


def pages_in_print(source, folder):
    """How many pages a browser prints of this HTML."""
    html, pdf = folder / "sheet.html", folder / "sheet.pdf"
    html.write_text(source)
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--print-to-pdf={pdf}", html.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))


@pytest.mark.skipif(not os.path.exists(BROWSER), reason="needs a browser; see MINICNN_BROWSER")
def test_a_browser_prints_the_sheet_on_one_page(tmp_path):
    source = sheet.print_page()
    assert pages_in_print(source, tmp_path) == 1
    assert pages_in_print(source.replace("/8.6pt", "/9.6pt"), tmp_path) == 2  # so they count


@pytest.mark.parametrize("word", sheet.GLOSSARY)
def test_a_word_is_on_the_page_that_the_glossary_names(word):
    meaning, name = sheet.GLOSSARY[word]
    text = " ".join(sheet.where(name).read_text().split())
    assert re.search(rf"(?<!\w){re.escape(word)}", text, re.IGNORECASE)
    assert len(f"| {word} | {meaning} |") <= 100


def test_the_sheet_fits_on_a_page():
    lines = sheet.sheet().splitlines()
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
