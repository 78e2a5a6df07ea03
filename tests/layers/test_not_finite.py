"""Infinity and nan reach only what depends on them; float16, whose sums overflow, is refused."""

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding

from minicnn import (
    SGD,
    AvgPool2D,
    Conv2D,
    Flatten,
    Linear,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Tanh,
    lenet,
    reference,
    softmax,
    softmax_cross_entropy,
    squared_error,
)
from minicnn.datasets import as_input, digits
from minicnn.initializers import glorot_uniform, he_normal
from minicnn.reference.convolutions import CONVOLUTIONS

inf, nan = np.inf, np.nan
DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", [inf, -inf, nan])
def test_relu_selects(wrong, dtype):
    layer = ReLU()
    x = np.array([-1, 2, 0, 3], dtype)
    _, saved = layer.forward(x)
    dx, _ = layer.backward(np.array([wrong, 1, wrong, wrong], dtype), saved)
    np.testing.assert_array_equal(dx, [0, 1, 0, wrong])
    assert dx.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", [inf, -inf, nan])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_max_pooling_selects(padding, stride, wrong, dtype):
    rng = np.random.default_rng(0)
    layer = MaxPool2D(2, stride=stride, padding=padding)
    x = rng.standard_normal((2, 3, 6, 5)).astype(dtype)
    y, saved = layer.forward(x)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dy[0, 1, 1, 1] = dy[1, 2, 0, 0] = wrong
    dx, _ = layer.backward(dy, saved)
    expected = reference.max_pool2d_backward(dy, x, 2, stride=stride, padding=padding)
    np.testing.assert_array_equal(np.isfinite(dx), np.isfinite(expected))
    assert (~np.isfinite(dx)).sum() == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", [inf, -inf, nan])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, (1, 2)])
def test_rows_that_are_computed_together_keep_apart(stride, bias, wrong, dtype):
    """With few channels a convolution takes two rows of outputs at a time."""
    rng = np.random.default_rng(0)
    layer = Conv2D(2, 3, 5, stride=stride, padding=2, bias=bias, rng=rng)
    weight = layer.params["weight"]
    x = rng.standard_normal((3, 2, 8, 6)).astype(dtype)
    y, saved = layer.forward(x)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dy[1, 2, 4, 1] = wrong
    with np.errstate(invalid="ignore"):
        dx, _ = layer.backward(dy, saved)
        expected = reference.conv2d_backward(dy, x, weight, stride, 2)[0]
        np.testing.assert_array_equal(np.isfinite(dx), np.isfinite(expected))
        x[0, 1, 3, 3] = wrong
        y, _ = layer.forward(x)
        expected = reference.conv2d(x, weight, np.zeros(3), stride, 2)
        np.testing.assert_array_equal(np.isfinite(y), np.isfinite(expected))
    assert 0.5 < np.isfinite(y).mean() < 1 and np.isfinite(dx).mean() > 0.5


def test_large_numbers_are_no_infinity():
    """Their squares overflow, which is how a convolution looks for infinity."""
    layer = Conv2D(1, 2, 3, padding=1, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((2, 1, 6, 6)).astype(np.float32)
    x *= np.float32(2**70)
    y, saved = layer.forward(x)
    size = layer.map_arrays(np.abs)(np.abs(x, dtype=np.float64))
    assert_equal_but_for_rounding(y, layer(x.astype(np.float64)), size)
    assert np.isfinite(layer.backward(np.ones_like(y), saved)[0]).all()


def test_a_loss_selects_the_labels():
    loss, dlogits = softmax_cross_entropy(np.array([[1.0, -inf, 1.0]]), np.array([0]))
    np.testing.assert_allclose(loss, np.log(2))
    np.testing.assert_allclose(dlogits, [[-0.5, 0, 0.5]])


HALF = np.ones((2, 1, 4, 4), np.float16)
FLAT = np.ones((2, 16), np.float16)
IMAGES = [Conv2D(1, 2, 3), MaxPool2D(2), AvgPool2D(2), ReLU(), Sigmoid(), Tanh(), Flatten()]
LAYERS = [(layer, HALF) for layer in IMAGES] + [(Linear(16, 2), FLAT)]


@pytest.mark.parametrize("layer, x", LAYERS, ids=lambda value: getattr(value, "dtype", repr(value)))
def test_layers_refuse_float16_in_both_directions(layer, x):
    with pytest.raises(ValueError, match="expected x in float32 or float64 but got float16"):
        layer.forward(x)
    y, saved = layer.forward(x.astype(np.float32))
    with pytest.raises(ValueError, match="expected dy in float32 or float64 but got float16"):
        layer.backward(y.astype(np.float16), saved)


REFUSING = {
    "softmax": lambda: softmax(FLAT),
    "softmax_cross_entropy": lambda: softmax_cross_entropy(FLAT, np.zeros(2, int)),
    "squared_error": lambda: squared_error(FLAT, FLAT),
    "squared_error of another target": lambda: squared_error(FLAT.astype(float), FLAT),
    "SGD": lambda: SGD(0.1).step({"w": FLAT}, {"w": FLAT}),
    "SGD of a gradient": lambda: SGD(0.1).step({"w": FLAT.astype(float)}, {"w": FLAT}),
    "astype": lambda: lenet().astype(np.float16),
    "glorot_uniform": lambda: glorot_uniform((2, 3), dtype=np.float16),
    "he_normal": lambda: he_normal((2, 3), dtype="float16"),
    "as_input": lambda: as_input(np.ones((1, 1, 2, 2), np.uint8), np.float16),
    "Dataset.batch": lambda: digits(2, 1)[0].batch(slice(0, 2), np.float16),
    **{
        form: lambda form=form: CONVOLUTIONS[form].forward(HALF, np.ones((2, 1, 3, 3)))
        for form in ("im2col", "windows", "toeplitz")
    },
}


@pytest.mark.parametrize("call", REFUSING.values(), ids=REFUSING)
def test_everything_else_refuses_float16_too(call):
    with pytest.raises(ValueError, match="float32 or float64.*float16"):
        call()


def test_nothing_is_lost_in_float32():
    """The sums that float16 gets wrong: a mean of 1 as 0.5, and 36 as infinity."""
    assert AvgPool2D(64)(np.ones((1, 1, 64, 64), np.float32)).item() == 1
    loss, _ = squared_error(np.full((256, 10), 6, np.float32), np.zeros((256, 10), np.float32))
    assert loss == 36
