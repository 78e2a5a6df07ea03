"""06_pooling prints the course's numbers, what a shift changes, and equal results."""

import importlib
import re

import numpy as np
from PIL import Image

NAME = "06_pooling"


def test_prints_and_draws(run_example, tmp_path):
    text = run_example(NAME, "--data", "digits")

    assert "[[4. 5.]\n [7. 8.]]\nMaxPool2D(2, stride=1) differs by 0.0\n" in text
    assert "[[2. 3.]\n [5. 6.]]\nAvgPool2D(2, stride=1) differs by 0.0\n" in text
    assert "MaxPool2D(3):\n[[10.]]\n" in text
    assert "MaxPool2D(3, stride=2, padding=1):\n[[ 5.  7.]\n [13. 15.]]\n" in text
    assert "MaxPool2D((2, 3), padding=(0, 1)):\n[[ 5.  7.]\n [13. 15.]]\n" in text
    assert "two:\n[[[ 5.  7.]\n  [13. 15.]]\n\n [[ 6.  8.]\n  [14. 16.]]]\n" in text

    assert "Images: digits\n" in text
    changes = {name: int(share) for share, name in re.findall(r" +(\d+)%  (.*)\n", text)}
    assert len(changes) == 5
    for kind in ("maximum", "average"):
        assert changes[f"{kind} of 4x4"] < changes[f"{kind} of 2x2"] < changes["not pooled"] < 200

    differences = re.findall(r"(?:in the output|of the input|most|by) (\d\.\de[-+]\d+)", text)
    assert len(differences) == 4
    assert all(float(value) < 1e-14 for value in differences)

    image = np.asarray(Image.open(tmp_path / "06_pooling.png").convert("RGB")).astype(int)
    red, green, blue = np.moveaxis(image, -1, 0)
    for colour in (red - blue > 100, blue - red > 100):
        assert colour.mean() > 0.003


def test_edges_and_their_change_by_hand(run_example):
    run_example(NAME, "--data", "digits")
    example = importlib.import_module(NAME)
    images = np.zeros((1, 1, 28, 28))
    images[0, 0, 3:5, 5] = 1  # two pixels high: two edges each, at columns 5 and 6

    pooled = example.shifts(images)

    edges, shifted = pooled["not pooled"]
    assert {tuple(where) for where in np.argwhere(edges)} == {
        (0, 0, row, column) for row in (5, 6) for column in (7, 8)
    }
    # columns 7, 8 become 8, 9: of 4 edges 2 go and 2 come
    assert example.change(edges, shifted) == 1
    # windows of rows 4, 5 and 6, 7: columns 6, 7 and 8, 9 become 8, 9 alone
    assert example.change(*pooled["maximum of 2x2"]) == 0.5
    # windows of rows 4 to 7: columns 4 to 7 and 8 to 11 become the second alone
    assert example.change(*pooled["maximum of 4x4"]) == 0.5


def test_maximum_from_relus_keeps_large_and_negative_numbers(run_example):
    run_example(NAME, "--data", "digits")
    example = importlib.import_module(NAME)
    x = np.random.default_rng(0).integers(-1000, 1000, (2, 4, 6, 8)).astype(float)

    y = example.maximum_from_relus(4)(x)

    np.testing.assert_array_equal(y, x.reshape(2, 4, 3, 2, 4, 2).max(axis=(3, 5)))
