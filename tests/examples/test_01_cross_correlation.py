"""01_cross_correlation prints the course's numbers, and what it says is so."""

import importlib

import numpy as np
import pytest
from PIL import Image
from rounding import assert_equal_but_for_rounding

NAME = "01_cross_correlation"


def test_prints_and_draws(run_example, tmp_path):
    text = run_example(NAME)

    assert "corr2d(X, K):\n[[19. 25.]\n [37. 43.]]" in text
    assert "180 degrees first:\n[[ 5. 11.]\n [23. 29.]]" in text  # 3*0 + 2*1 + 1*3 + 0*4 = 5, ...
    assert "rotated copy:\n[[0. 1.]\n [2. 3.]]\n[[3. 2.]\n [1. 0.]]" in text

    matrix = [
        "[[0 1 0 2 3 0 0 0 0]",
        " [0 0 1 0 2 3 0 0 0]",
        " [0 0 0 0 1 0 2 3 0]",
        " [0 0 0 0 0 1 0 2 3]]",
    ]
    assert "\n".join(matrix) in text
    assert "with these weights, less corr2d: 0.0\n" in text
    assert "Of its 36 weights 20 are zero" in text
    assert "The other 16 are 4 numbers" in text

    counts = [
        [int(word.replace(",", "")) for word in line.split()[-2:]]
        for line in text.splitlines()
        if line.startswith(("3 x 3 kernel", "fully connected"))
    ]
    pixels = 12_000_000
    assert counts == [[9, 9 * pixels], [pixels**2, pixels**2]]
    assert "would take 576 TB" in text

    assert "Found: 1.11 between 59 and 60." in text
    assert "frames (3, 150, 150) give their changes (2, 150, 150), of which 96.1% are" in text
    for other in ("np.correlate in 1-D:", "kernel rotated:", "corr2d in 2-D:"):
        assert float(text.split(other)[1].split()[0]) < 1e-14

    for name in ("01_matrix", "01_dimensions"):
        image = np.asarray(Image.open(tmp_path / f"{name}.png"))
        assert image.shape[1] == 1080 and len(np.unique(image)) > 50


@pytest.mark.usefixtures("run_example")
def test_n_d_cross_correlation_is_its_definition():
    correlate = importlib.import_module(NAME).correlate
    rng = np.random.default_rng(1)
    X, K = rng.standard_normal((4, 5, 6)), rng.standard_normal((2, 3, 2))
    Y = correlate(X, K)
    assert Y.shape == (3, 3, 5)
    for p, q, r in np.ndindex(Y.shape):
        products = K * X[p : p + 2, q : q + 3, r : r + 2]
        assert_equal_but_for_rounding(Y[p, q, r], products.sum(), np.abs(products).sum())
