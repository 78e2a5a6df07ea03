"""05_channels prints the course's numbers, and the results that differ only in the last bits."""

import importlib
import re

import numpy as np
from PIL import Image
from rounding import assert_equal_but_for_rounding


def test_prints_and_draws(run_example, tmp_path):
    text = run_example("05_channels")

    assert "gives\n[[19. 25.]\n [37. 43.]]\n[[37. 47.]\n [67. 77.]]\nand" in text
    assert "the output:\n[[ 56.  72.]\n [104. 120.]]\n" in text
    three = text.split("output channels:\n")[1].split("\nThe layer")[0]
    np.testing.assert_array_equal(
        np.array(re.sub(r"[\[\]]", "", three).split(), float).reshape(3, 2, 2),
        [[[56, 72], [104, 120]], [[76, 100], [148, 172]], [[96, 128], [192, 224]]],
    )
    assert text.count("differs by 0.0\n") == 2
    assert float(re.search(r"differs by at most (\S+)\. ", text)[1]) < 1e-14

    assert "(a + b) + c = 1.0\n" in text  # 1e8 and -1e8 are nothing, and 1 is left
    assert "a + (b + c) = 0.0, since the neighbours of 1e8 are 8 apart\n" in text  # 2**(26 - 23)
    largest = {
        dtype: float(value)
        for dtype, value in re.findall(r"(float\d+): \d+% .* differ, by up to (\S+)", text)
    }
    # 255 sums of up to 75 round by half a unit in the last place each
    assert 0 < largest["float32"] < 255 * 75 * 2.0**-23
    assert 0 < largest["float64"] < 255 * 75 * 2.0**-52
    for error in re.search(r"float64 they are up to (\S+) and (\S+)\n", text).groups():
        assert 0 < float(error) < 255 * 75 * 2.0**-23

    image = np.asarray(Image.open(tmp_path / "05_channels.png").convert("RGB")).astype(int)
    red, green, blue = np.moveaxis(image, -1, 0)
    for colour in (red - blue > 100, blue - red > 50, (red == blue) & (80 < red) & (red < 180)):
        assert colour.mean() > 0.02  # both signs, and the grey channels


def test_opponent_colours_are_0_for_grey(run_example):
    run_example("05_channels")
    module = importlib.import_module("05_channels")
    grey = np.full((3, 2, 2), 0.7)
    weight = np.array(list(module.MIXES.values()))[:, :, None, None]
    mixed, size = (module.convolution(w)(grey[None])[0] for w in (weight, np.abs(weight)))
    expected = np.array([0.7, 0, 0])[:, None, None] * np.ones((2, 2))
    assert_equal_but_for_rounding(mixed, expected, size)
