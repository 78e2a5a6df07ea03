"""02_edges prints the course's edges, and finds the others where they are."""

import math

import numpy as np
from PIL import Image


def array_after(text, words):
    """The printed array that follows these words."""
    printed = text.split(words)[1].split(":\n", 1)[1].split("]]")[0]
    return np.array([row.strip(" []").split() for row in printed.splitlines()], int)


def test_prints_and_draws(run_example, tmp_path):
    text = run_example("02_edges")

    row = [0, 1, 0, 0, 0, -1, 0]
    np.testing.assert_array_equal(array_after(text, "With K = [[1, -1]]"), [row] * 6)
    np.testing.assert_array_equal(array_after(text, "K finds nothing"), np.zeros((8, 5)))
    np.testing.assert_array_equal(array_after(text, "K transposed finds"), np.array([row] * 6).T)

    np.testing.assert_array_equal(array_after(text, "K meets it once"), np.eye(5, 4))
    np.testing.assert_array_equal(array_after(text, "In X transposed it"), -np.eye(5, 4, k=-1))
    np.testing.assert_array_equal(array_after(text, "in each column"), -np.eye(4, 5, k=1))
    np.testing.assert_array_equal(array_after(text, "[[1, 0], [0, -1]]"), np.zeros((4, 4)))

    for d in range(1, 5):
        line = text.split(f"d = {d}: ")[1].splitlines()[0]
        kernel, result = (part.strip(" []").split() for part in line.split("gives"))
        binomials = [(-1) ** (d - i) * math.comb(d, i) for i in range(d + 1)]
        assert [int(weight) for weight in kernel] == binomials
        assert [int(value) for value in result] == [math.factorial(d)] * (8 - d)

    assert float(text.split("largest difference is ")[1].split()[0].rstrip(".")) < 1e-13

    image = np.asarray(Image.open(tmp_path / "02_gallery.png").convert("RGB")).astype(int)
    assert image.shape[1] == 1080
    red, green, blue = np.moveaxis(image, -1, 0)
    for colour in (red - blue > 100, blue - red > 100, (red == blue) & (red < 100)):
        assert colour.mean() > 0.003  # signed values, and a grey picture
