"""LeakyReLU and GELU against hand-worked numbers, loops, central differences and PyTorch.

test_layers.py has the older activations.
"""

import math
import pickle
import sys

import numpy as np
import pytest
import strict_cupy
from rounding import assert_equal_but_for_rounding

from minicnn import GELU, LeakyReLU, check_gradients, reference
from minicnn.backend import to_device

DTYPES = [np.float32, np.float64]
LAYERS = [LeakyReLU(0.25), LeakyReLU(0.0), LeakyReLU(1.0), LeakyReLU(), GELU()]
INF, NAN = math.inf, math.nan
LAST = {np.float32: 12.5, np.float64: 37.0}  # beyond, Phi(-x) has fewer digits than others


def passes(layer, x, dy):
    y, saved = layer.forward(x)
    return y, layer.backward(dy, saved)[0]


def gelu_sizes(x, dy):
    """The sizes of y and dx. Phi(-a) is as uncertain as rounding makes a, a**2/2 times as much."""
    a = np.abs(x)
    tail = np.vectorize(math.erfc)(a / math.sqrt(2)) / 2
    density = np.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    uncertain = 2 + a * a
    return np.maximum(x, 0) + a * tail * uncertain, np.abs(dy) * (
        (x > 0) + (tail + a * density) * uncertain
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_leaky_relu_by_hand(dtype):
    x = np.array([[-2, -0.5], [0, 3]], dtype)
    y, dx = passes(LeakyReLU(0.25), x, np.array([[1, 2], [4, 8]], dtype))
    np.testing.assert_array_equal(y, np.array([[-0.5, -0.125], [0, 3]], dtype), strict=True)
    np.testing.assert_array_equal(dx, np.array([[0.25, 0.5], [1, 8]], dtype), strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_by_a_table_of_the_normal_distribution(dtype):
    """Phi(1) = 0.84134 47461, Phi(2) = 0.97724 98681, phi(1) = 0.24197 07245, phi(2) = 0.05399
    09665; Phi(-10) = 7.6198530e-24, Phi(-5) = 2.8665157e-7."""
    x = np.array([0, 1, -1, 2, -2, -5, -10], dtype)
    y, dx = passes(GELU(), x, np.ones_like(x))
    expected = [0, 0.8413447461, -0.1586552539, 1.9544997361, -0.0455002639]
    np.testing.assert_allclose(y, [*expected, -1.4332579e-6, -7.6198530e-23], rtol=1e-6)
    slopes = [0.5, 1.0833154706, -0.0833154706, 1.0852318011, -0.0852318011]
    np.testing.assert_allclose(dx[:5], slopes, rtol=1e-6)
    assert y.dtype == dx.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3, 1.0])
def test_leaky_relu_equals_the_loops(slope, dtype):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 3, 2, 4, 5)).astype(dtype)
    x[0, 0, 0] = 0
    y, dx = passes(LeakyReLU(slope), x, dy)
    exact = reference.leaky_relu(x, slope), reference.leaky_relu_backward(dy, x, slope)
    assert y.dtype == dx.dtype == dtype
    for result, expected in zip((y, dx), exact):
        assert_equal_but_for_rounding(result, expected, np.abs(expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_equals_the_loops_in_the_tails_too(dtype):
    """The relative error is bounded as long as floats have all their digits."""
    last = LAST[dtype]
    x = np.concatenate([np.linspace(-last, last, 3001), np.linspace(-2, 2, 3001)]).astype(dtype)
    x = np.append(x, np.array([1e-30, -1e-30, 1e4, 3e38], dtype))
    dy = np.random.default_rng(0).standard_normal(x.shape).astype(dtype)
    y, dx = passes(GELU(), x, dy)
    exact = x.astype(np.float64), dy.astype(np.float64)
    y_size, dx_size = gelu_sizes(*exact)
    assert_equal_but_for_rounding(y, reference.gelu(exact[0]), y_size)
    assert_equal_but_for_rounding(dx, reference.gelu_backward(exact[1], exact[0]), dx_size)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_backward_is_the_derivative(layer):
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 5))
    report = check_gradients(layer, x)
    assert report.ok and report.errors["x"] < 1e-8, report


def test_the_kink_of_leaky_relu_is_named():
    report = check_gradients(LeakyReLU(), np.array([[0.0, 1, -1, 0]]))
    assert report.ok and report.comparisons[0].kinks == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinity_and_nan(dtype):
    x = np.array([INF, -INF, NAN, 1], dtype)
    one = np.ones_like(x)
    y, dx = passes(GELU(), x, one)
    np.testing.assert_array_equal(y[:3], [INF, 0, NAN])
    np.testing.assert_array_equal(dx[:3], [1, 0, NAN])
    y, dx = passes(LeakyReLU(0.5), x, one)
    np.testing.assert_array_equal(y, [INF, -INF, NAN, 1])
    np.testing.assert_array_equal(dx[[0, 1, 3]], [1, 0.5, 1])
    for layer in LAYERS:
        _, dx = passes(layer, np.array([2, -1, 1], dtype), np.array([INF, 1, NAN], dtype))
        np.testing.assert_array_equal(np.isfinite(dx), [False, True, False])


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_it_keeps_to_the_protocol(layer):
    """Any layout of x, nothing changed, memory as x has it, inference equal, repr is the call."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 3, 4, 5, 6)).transpose(0, 4, 1, 2, 3)
    before = pickle.dumps((vars(layer), x, dy))
    y, saved = layer.forward(x)
    kept = pickle.dumps((y, saved))
    dx, grads = layer.backward(dy, saved)
    assert layer.backward(dy, saved, need_dx=False) == (None, {}) and grads == {}
    assert y.strides == dx.strides == x.strides
    np.testing.assert_array_equal(layer(x), y)
    assert pickle.dumps((vars(layer), x, dy)) == before and pickle.dumps((y, saved)) == kept
    for array in (x[..., ::-2], np.ascontiguousarray(x)[..., ::-2], x[:0]):
        np.testing.assert_array_equal(layer(array), layer(np.ascontiguousarray(array)))
    assert eval(repr(layer)).__dict__ == layer.__dict__


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_cupy_gives_the_same(layer, monkeypatch):
    """A double of CuPy that refuses what CuPy refuses."""
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.cupy)
    x, dy = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    there = [strict_cupy.cupy.asarray(array) for array in (x, dy)]
    with strict_cupy.no_transfers():
        results = passes(layer, *there)
    for result, expected in zip(results, passes(layer, x, dy)):
        np.testing.assert_array_equal(to_device(result, "cpu"), expected, strict=True)


@pytest.mark.parametrize("slope", [-0.1, 1.5, INF, NAN, "0.1", None, True])
def test_a_slope_that_does_not_fit(slope):
    with pytest.raises(ValueError, match=r"^negative_slope must be a (finite )?number.*, got "):
        LeakyReLU(slope)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pytorch_agrees(dtype):
    """Its GELU is 1 + erf, which loses the digits of Phi(x) for x < 0: the bound is eps * |x|."""
    torch = pytest.importorskip("torch")
    x, dy = np.random.default_rng(0).standard_normal((2, 400)).astype(dtype)
    x *= np.linspace(0.1, 8, 400, dtype=dtype)
    for layer, module in (
        (GELU(), torch.nn.GELU(approximate="none")),
        (LeakyReLU(), torch.nn.LeakyReLU()),
        (LeakyReLU(negative_slope=0.3), torch.nn.LeakyReLU(negative_slope=0.3)),
    ):
        x_torch = torch.tensor(x, requires_grad=True)
        y_torch = module(x_torch)
        y_torch.backward(torch.tensor(dy))
        y, dx = passes(layer, x, dy)
        assert_equal_but_for_rounding(y, y_torch.detach().numpy(), np.abs(x))
        assert_equal_but_for_rounding(dx, x_torch.grad.numpy(), np.abs(dy) * (1 + np.abs(x)))
