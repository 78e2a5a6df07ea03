"""07_lenet_layer_by_layer prints the course's shapes and counts, and what backward costs."""

import re

import numpy as np
from PIL import Image

SHAPES = (
    "6 x 28 x 28, 6 x 28 x 28, 6 x 14 x 14, 16 x 10 x 10, 16 x 10 x 10, 16 x 5 x 5, "
    "400, 120, 120, 84, 84, 10"
)


def test_prints_and_draws(run_example, tmp_path):
    text = run_example("07_lenet_layer_by_layer", "--data", "digits")

    table = text.split("-----\n")[1].splitlines()
    shapes = [re.search(r"  1 x (\d[\d x]*?)  ", row)[1] for row in table if "1 x" in row]
    assert ", ".join(shapes) == SHAPES
    assert [row.split("(")[0] for row in table[1:3]] == ["Sigmoid", "AvgPool2D"]
    assert re.search(r"\ntotal +61,706 +416,520 ", text)
    assert "gives the same: True\n" in text
    assert "Parameters: 156 + 2,416 + 48,120 + 10,164 + 850 = 61,706\n" in text

    rows = text.split("milliseconds\n")[1].split("Backward")[0].splitlines()
    costs = np.array([[float(number) for number in row.split()[-6:]] for row in rows])
    forward = np.array([28 * 28 * 6 * 25, 10 * 10 * 16 * 6 * 25, 400 * 120, 120 * 84, 84 * 10])
    backward = forward * [1, 2, 2, 2, 2]  # the first layer makes no dx
    with_products = costs[:-1, 0] > 0
    np.testing.assert_allclose(costs[:-1][with_products, 0], forward * 256e-6, atol=0.005)
    np.testing.assert_allclose(costs[:-1][with_products, 1], backward * 256e-6, atol=0.005)
    np.testing.assert_allclose(costs[:-1, :4].sum(axis=0), costs[-1, :4], atol=0.06)
    # 256 float32 images of 28 x 28; the six maps that the first sigmoid keeps; its dx
    np.testing.assert_allclose(costs[0, 2], 256 * 28 * 28 * 4e-6, atol=0.005)
    np.testing.assert_allclose(costs[1, 2:4], 6 * 256 * 28 * 28 * 4e-6, atol=0.005)
    # dx and dweight, dbias of the second convolution
    numbers = 256 * 6 * 14 * 14 + 16 * 6 * 25 + 16
    np.testing.assert_allclose(costs[3, 3], numbers * 4e-6, atol=0.005)
    assert (costs[[0, 3], 4:] > 0).all()
    assert "have 84% of the multiply-adds" in text  # (30.1 + 30.1 + 61.4 + 122.9) / 289.8

    for name in ("07_lenet_cost", "07_lenet_feature_maps"):
        image = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).astype(int)
        assert image.shape[1] == 1080
        assert 0.05 < (image < 200).mean() < 0.9  # bars of time may be short
