"""Padding that differs from side to side, and "same", for convolution and pooling.

What is padded has to come out as if the image had been padded before: np.pad is the reference.
"""

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding

from minicnn import AvgPool2D, Conv2D, ConvTranspose2D, MaxPool2D, check_gradients
from minicnn.reference import loops

SEEDS = range(60)


def random_case(seed):
    """x, and the geometry of a convolution or pooling: padding (top, bottom, left, right)."""
    rng = np.random.default_rng(seed)
    kernel, stride, dilation = (tuple(rng.integers(1, 4, 2).tolist()) for _ in range(3))
    span = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    padding = tuple(int(rng.integers(0, s)) for s in np.repeat(span, 2))
    x = rng.standard_normal((2, 2, *(np.array(span) + rng.integers(0, 4, 2))))
    return rng, x, {"kernel_size": kernel, "stride": stride, "dilation": dilation}, padding


def sides(padding):
    top, bottom, left, right = padding
    return [(0, 0), (0, 0), (top, bottom), (left, right)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [Conv2D, MaxPool2D, AvgPool2D])
def test_padding_is_that_of_an_image_padded_before(kind, seed):
    rng, x, geometry, padding = random_case(seed)
    value = -np.inf if kind is MaxPool2D else 0
    if kind is Conv2D:
        arguments = {"in_channels": 2, "out_channels": 3, "rng": rng, **geometry}
        layer, plain = Conv2D(padding=padding, **arguments), Conv2D(**arguments)
        layer = layer.astype(np.float64)
        plain.params.update(layer.params)
    else:
        layer, plain = kind(padding=padding, **geometry), kind(**geometry)
    padded = np.pad(x, sides(padding), constant_values=value)
    (y, saved), (expected, saved_of_padded) = layer.forward(x), plain.forward(padded)
    np.testing.assert_array_equal(y, expected)
    dy = rng.standard_normal(y.shape)
    dx, grads = layer.backward(dy, saved)
    dpadded, expected_grads = plain.backward(dy, saved_of_padded)
    top, _, left, _ = padding
    inside = dpadded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    np.testing.assert_array_equal(dx, inside)
    for name, grad in grads.items():
        np.testing.assert_array_equal(grad, expected_grads[name])


@pytest.mark.parametrize("seed", SEEDS[:40])
def test_backward_of_a_padded_convolution_is_the_derivative(seed):
    rng, x, geometry, padding = random_case(seed)
    layer = Conv2D(2, 2, padding=padding, groups=1 + seed % 2, rng=rng, **geometry)
    report = check_gradients(layer, x, seed=seed)
    assert report.ok, (layer, report)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("seed", SEEDS)
def test_same_is_that_of_pytorch(seed):
    torch = pytest.importorskip("torch")
    rng, x, geometry, _ = random_case(seed)
    geometry |= {"stride": 1, "padding": "same"}
    layer = Conv2D(2, 3, rng=rng, **geometry).astype(np.float64)
    theirs = torch.nn.Conv2d(2, 3, dtype=torch.float64, **geometry)
    for name, parameter in layer.params.items():
        getattr(theirs, name).data = torch.tensor(parameter)
    tensor = torch.tensor(x, requires_grad=True)
    expected = theirs(tensor)
    y, saved = layer.forward(x)
    dy = rng.standard_normal(y.shape)
    dx, grads = layer.backward(dy, saved)
    expected.backward(torch.tensor(dy))
    assert y.shape[2:] == x.shape[2:]
    absolute = layer.map_arrays(np.abs)
    size, saved = absolute.forward(np.abs(x))
    dx_size, grad_sizes = absolute.backward(np.abs(dy), saved)
    assert_equal_but_for_rounding(y, expected.detach().numpy(), size)
    assert_equal_but_for_rounding(dx, tensor.grad.numpy(), dx_size)
    for name, grad in grads.items():
        theirs_grad = getattr(theirs, name).grad.numpy()
        assert_equal_but_for_rounding(grad, theirs_grad, grad_sizes[name])


@pytest.mark.parametrize("kind, function", [(MaxPool2D, np.max), (AvgPool2D, np.mean)])
def test_same_of_a_pooling_by_hand(kind, function):
    """A 2x2 window has its odd pixel below and to the right."""
    x = np.array([[1.0, 2], [3, -4]])
    y = kind(2, stride=1, padding="same")(x[None, None])
    assert y.shape == (1, 1, 2, 2)
    assert y[0, 0, 0, 0] == function(x)
    assert y[0, 0, 1, 0] == {MaxPool2D: 3, AvgPool2D: -0.25}[kind]
    assert y[0, 0, 1, 1] == {MaxPool2D: -4, AvgPool2D: -1}[kind]


LAYERS = [
    lambda **given: Conv2D(1, 1, 3, **given),
    lambda **given: ConvTranspose2D(1, 1, 3, **given),
    lambda **given: MaxPool2D(3, **given),
    lambda **given: AvgPool2D(3, **given),
]


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("stride", [2, (1, 2)])
def test_same_wants_stride_1(make, stride):
    with pytest.raises(ValueError, match=r'^padding="same" needs stride 1: .* got \(., 2\)$'):
        make(stride=stride, padding="same")


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize(
    "padding, message",
    [
        ((1, 1, 1), r"padding must be an integer, \(height, width\), \(top, .*\) or \"same\", got"),
        ((1, 1, 1, 1, 1), r"padding must be an integer, \(height, width\), \(top, bottom, left, r"),
        (((1, 1), (1, 1)), r"padding must be an integer >= 0, got \(1, 1\)$"),
        ((1, 1, -1, 1), "padding must be an integer >= 0, got -1$"),
        ((1, 1, 1, 0.5), "padding must be an integer >= 0, got 0.5$"),
        ("valid", "padding must be an integer >= 0, got 'valid'$"),
    ],
)
def test_padding_that_is_none(make, padding, message):
    with pytest.raises(ValueError, match=message):
        make(stride=1, padding=padding)


def test_the_loops_want_the_same():
    x, weight = np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3))
    for function in (
        lambda: loops.conv2d(x, weight, stride=2, padding="same"),
        lambda: loops.max_pool2d(x, 3, padding="same"),
        lambda: loops.conv_transpose2d(x, weight, stride=2, padding="same"),
    ):
        with pytest.raises(ValueError, match='padding="same" needs stride 1'):
            function()
