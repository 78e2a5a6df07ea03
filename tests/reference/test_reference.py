"""The course's numbers, from the loops of reference.py and from the layers that compute them."""

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding

from minicnn import AvgPool2D, Conv2D, MaxPool2D, reference, squared_error
from minicnn.reference.loops import (
    corr2d,
    corr2d_multi_in,
    corr2d_multi_in_out,
    corr2d_multi_in_out_1x1,
    pool2d,
)

X = np.arange(9).reshape(3, 3)
K = np.arange(4).reshape(2, 2)
TWO_CHANNELS = np.stack([X, X + 1]), np.stack([K, K + 1])
EDGES = np.ones((6, 8))
EDGES[:, 2:6] = 0
EDGE_KERNEL = np.array([[1, -1]])


def layer_conv2d(x, weight):
    out_channels, in_channels, *kernel = weight.shape
    layer = Conv2D(in_channels, out_channels, tuple(kernel), bias=False).astype(np.float64)
    layer.params["weight"][...] = weight
    return layer(x)


def course_conv2d(x, weight):
    return np.stack([corr2d_multi_in_out(image, weight) for image in x])


@pytest.mark.parametrize("conv2d", [course_conv2d, reference.conv2d, layer_conv2d])
@pytest.mark.parametrize(
    "image, kernels, expected",
    [
        ([X], [[K]], [[[19, 25], [37, 43]]]),
        ([EDGES], [[EDGE_KERNEL]], [6 * [[0, 1, 0, 0, 0, -1, 0]]]),
        ([EDGES.T], [[EDGE_KERNEL]], np.zeros((1, 8, 5))),
        ([X[:2]], [[X[:2]]], [[[55]]]),
        (TWO_CHANNELS[0], [TWO_CHANNELS[1]], [[[56, 72], [104, 120]]]),
        (
            TWO_CHANNELS[0],
            np.stack([TWO_CHANNELS[1] + i for i in range(3)]),
            [[[56, 72], [104, 120]], [[76, 100], [148, 172]], [[96, 128], [192, 224]]],
        ),
    ],
    ids=[
        "one channel",
        "edges",
        "edges the other way",
        "one window",
        "two channels",
        "three kernels",
    ],
)
def test_correlation(conv2d, image, kernels, expected):
    y = conv2d(np.array([image], np.float64), np.array(kernels, np.float64))
    np.testing.assert_array_equal(y, [expected])


def test_correlation_of_one_and_of_several_channels():
    np.testing.assert_array_equal(corr2d(X, K), [[19, 25], [37, 43]])
    np.testing.assert_array_equal(corr2d_multi_in(*TWO_CHANNELS), [[56, 72], [104, 120]])


def test_a_1x1_convolution_is_a_matrix_product_over_the_channels():
    rng = np.random.default_rng(0)
    x, kernels = rng.standard_normal((3, 4, 5)), rng.standard_normal((2, 3, 1, 1))
    for y in (
        corr2d_multi_in_out_1x1(x, kernels),
        corr2d_multi_in_out(x, kernels),
        layer_conv2d(x[None], kernels)[0],
    ):
        exact, size = (
            np.einsum("oc,chw->ohw", *factors)
            for factors in ((kernels[:, :, 0, 0], x), (np.abs(kernels[:, :, 0, 0]), np.abs(x)))
        )
        assert_equal_but_for_rounding(y, exact, size)


@pytest.mark.parametrize("mode, expected", [("max", [[4, 5], [7, 8]]), ("avg", [[2, 3], [5, 6]])])
def test_pooling_with_stride_1(mode, expected):
    np.testing.assert_array_equal(pool2d(X, (2, 2), mode), expected)
    layer = {"max": MaxPool2D, "avg": AvgPool2D}[mode](2, stride=1)
    np.testing.assert_array_equal(layer(X[None, None].astype(np.float64)), [[expected]])


@pytest.mark.parametrize(
    "geometry, expected",
    [
        ({"kernel_size": 3}, [[10]]),
        ({"kernel_size": 3, "padding": 1, "stride": 2}, [[5, 7], [13, 15]]),
        ({"kernel_size": (2, 3), "stride": (2, 3), "padding": (0, 1)}, [[5, 7], [13, 15]]),
    ],
)
def test_max_pooling_of_two_channels(geometry, expected):
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    x = np.concatenate([x, x + 1], axis=1)
    expected = [[expected, np.add(expected, 1)]]
    np.testing.assert_array_equal(MaxPool2D(**geometry)(x), expected)
    np.testing.assert_array_equal(reference.max_pool2d(x, **geometry), expected)


@pytest.mark.parametrize(
    "kernel, padding, stride, size",
    [
        (3, 1, 1, (8, 8)),
        ((5, 3), (2, 1), 1, (8, 8)),
        (3, 1, 2, (4, 4)),
        ((3, 5), (0, 1), (3, 4), (2, 2)),
    ],
)
def test_output_size_of_an_8x8_image(kernel, padding, stride, size):
    x = np.zeros((1, 1, 8, 8), np.float32)
    layer = Conv2D(1, 1, kernel, padding=padding, stride=stride)
    assert layer.output_shape(x.shape) == layer(x).shape == (1, 1, *size)
    y = reference.conv2d(x, layer.params["weight"], padding=padding, stride=stride)
    assert y.shape == (1, 1, *size)


def test_learning_the_edge_kernel():
    """The course's first training. From the kernel [-0.5819, 0.0395], the one of four decimals
    that leads there, each step reproduces what the course printed."""
    x, y = EDGES[None, None], corr2d(EDGES, EDGE_KERNEL)[None, None]
    layer = Conv2D(1, 1, (1, 2), bias=False).astype(np.float64)
    weight = layer.params["weight"]
    weight[...] = [[[[-0.5819, 0.0395]]]]
    losses, kernels = [], []
    for _ in range(100):
        prediction, saved = layer.forward(x)
        loss, dprediction = squared_error(prediction, y, reduction="sum")
        _, grads = layer.backward(dprediction, saved, need_dx=False)
        weight -= 0.03 * grads["weight"]
        losses.append(f"{loss:.3f}")
        kernels.append([f"{w:.4f}" for w in weight.ravel()])
    assert losses[1:10:2] == ["11.268", "2.573", "0.712", "0.234", "0.086"]
    assert kernels[9] == ["0.9558", "-1.0140"]
    assert losses[99] == "0.000" and kernels[99] == ["1.0000", "-1.0000"]


@pytest.mark.parametrize(
    "function, shapes, numbers",
    [
        (corr2d, [(3, 5), (4, 2)], "4 x 2 .* 3 x 5"),
        (corr2d, [(3, 5), (2, 6)], "2 x 6 .* 3 x 5"),
        (corr2d, [(3, 5), (0, 2)], "0 x 2"),
        (corr2d, [(1, 3, 3), (2, 2)], r"X \(H, W\) and K \(KH, KW\) but got X \(1, 3, 3\)"),
        (corr2d_multi_in, [(2, 3, 3), (3, 2, 2)], r"same C.* X \(2, 3, 3\) and K \(3, 2, 2\)"),
        (corr2d_multi_in_out, [(2, 3, 3), (2, 2, 2)], r"K \(O, C, KH, KW\).* K \(2, 2, 2\)"),
        (corr2d_multi_in_out_1x1, [(2, 3, 3), (4, 3, 1, 1)], r"same C.* K \(4, 3, 1, 1\)"),
        (corr2d_multi_in_out_1x1, [(2, 3, 3), (4, 2, 1, 2)], r"1 x 1 .* K \(4, 2, 1, 2\)"),
    ],
)
def test_arrays_that_do_not_fit(function, shapes, numbers):
    with pytest.raises(ValueError, match=numbers):
        function(*(np.ones(shape) for shape in shapes))


@pytest.mark.parametrize(
    "image, size, mode, numbers",
    [
        (X, (4, 1), "max", "4 x 1 .* 3 x 3"),
        (X, (2, 0), "avg", "2 x 0"),
        (X[None], (2, 2), "max", r"\(1, 3, 3\)"),
        (X, (2, 2), "sum", "'sum'"),
    ],
)
def test_pooling_that_does_not_fit(image, size, mode, numbers):
    with pytest.raises(ValueError, match=numbers):
        pool2d(image, size, mode)
