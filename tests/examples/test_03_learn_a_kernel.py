"""03_learn_a_kernel prints the course's losses, and agrees with descent that has no layer."""

import numpy as np
import pytest
from PIL import Image

PAIRS = np.array([[1, 1], [1, 0], [0, 0], [0, 0], [0, 0], [0, 1], [1, 1]] * 6, float)
EDGES = PAIRS @ [1, -1]


def loss_before(step, lr):
    """By descent on the matrix of all pairs of neighbours."""
    kernel = np.array([-0.58187, 0.03946])
    for _ in range(step - 1):
        kernel = kernel - lr * 2 * PAIRS.T @ (PAIRS @ kernel - EDGES)
    return ((PAIRS @ kernel - EDGES) ** 2).sum()


def test_prints_and_draws(run_example, tmp_path):
    text = run_example("03_learn_a_kernel")

    losses = ["2, loss 11.268", "4, loss 2.573", "6, loss 0.712", "8, loss 0.234", "10, loss 0.086"]
    printed = "\n".join(f"step {loss}" for loss in losses)
    assert f"{printed}\nkernel [0.9558 -1.0140]\n" in text
    assert "After 100 steps the loss is 0.000 and the kernel [1.0000 -1.0000]." in text
    assert float(text.split("leave at most ")[1].split()[0].rstrip(".")) < 1e-8

    assert "[[36. 24.]\n [24. 36.]]" in text
    np.testing.assert_array_equal(2 * PAIRS.T @ PAIRS, [[36, 24], [24, 36]])
    assert "eigenvalues are [12. 60.]" in text
    assert "that is\n0.03333; fastest is 2 over their sum, 0.02778." in text
    assert "the factors are [ 0.64 -0.8 ]" in text

    table = text.split("loss before step 100\n")[1].split("Measured")[0]
    rates = [0.01, 1 / 36, 0.03, 0.033, 1 / 30, 0.034, 0.04]
    for lr, line in zip(rates, table.splitlines(), strict=True):
        *geometry, loss = (float(word) for word in line.split())
        assert geometry == pytest.approx([lr, 1 - 12 * lr, 1 - 60 * lr], abs=5.1e-4)
        assert loss == pytest.approx(loss_before(100, lr), rel=1e-3, abs=1e-12)

    image = np.asarray(Image.open(tmp_path / "03_learning.png").convert("RGB")).astype(int)
    assert image.shape[1] == 1080
    for colour in ((255, 127, 14), (31, 119, 180)):  # losses and paths with rates 0.03 and 0.01
        drawn = np.abs(image - colour).max(axis=2) < 10
        assert min(drawn[:, :540].sum(), drawn[:, 540:].sum()) > 200
