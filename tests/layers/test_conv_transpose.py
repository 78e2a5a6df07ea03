"""The transposed convolution over random geometry: against the loops, central differences, PyTorch,
and Conv2D, whose transpose it is."""

import functools

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding

from minicnn import Conv2D, ConvTranspose2D, check_gradients, reference

SEEDS = range(100)


@functools.cache
def random_case(seed):
    """A layer in float64, x and dy, and the geometry. Padding is one number for both sides of an
    axis in half of the cases, as PyTorch has it."""
    rng = np.random.default_rng(seed)
    while True:
        groups, in_channels, out_channels, images = rng.integers(1, 4, 4).tolist()
        kernel, stride, dilation = (tuple(rng.integers(1, 5, 2).tolist()) for _ in range(3))
        padding = tuple(rng.integers(0, 3, 2 + seed % 2 * 2).tolist())
        more = tuple(int(rng.integers(0, s)) for s in stride)
        geometry = {"stride": stride, "padding": padding, "output_padding": more}
        geometry |= {"dilation": dilation, "groups": groups}
        layer = ConvTranspose2D(
            groups * in_channels, groups * out_channels, kernel, rng=rng, **geometry
        ).astype(np.float64)
        layer.params["bias"] = rng.standard_normal(groups * out_channels)
        x = rng.standard_normal((images, groups * in_channels, *rng.integers(1, 5, 2)))
        try:
            y_shape = layer.output_shape(x.shape)
        except ValueError:
            continue
        return layer, x, rng.standard_normal(y_shape), geometry


def results(layer, x, dy):
    y, saved = layer.forward(x)
    dx, grads = layer.backward(dy, saved)
    assert grads.keys() == layer.params.keys()
    return y, dx, *grads.values()


def assert_results(seed, expected):
    """y, dx, dweight and dbias are those expected, as near as rounding of the sums lets them."""
    layer, x, dy, _ = random_case(seed)
    sizes = results(layer.map_arrays(np.abs), np.abs(x), np.abs(dy))
    print(layer, x.shape)
    for compared in zip(results(layer, x, dy), expected, sizes, strict=True):
        assert_equal_but_for_rounding(*compared)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_loops_agree(seed):
    layer, x, dy, geometry = random_case(seed)
    weight, bias = layer.params.values()
    y = reference.conv_transpose2d(x, weight, bias, **geometry)
    assert_results(seed, (y, *reference.conv_transpose2d_backward(dy, x, weight, **geometry)))


@pytest.mark.parametrize("seed", SEEDS[::2])
def test_pytorch_agrees(seed):
    torch = pytest.importorskip("torch")
    layer, x, dy, geometry = random_case(seed)
    theirs = torch.nn.ConvTranspose2d(
        layer.in_channels, layer.out_channels, layer.window.kernel, dtype=torch.float64, **geometry
    )
    assert {name: tuple(p.shape) for name, p in theirs.named_parameters()} == {
        name: parameter.shape for name, parameter in layer.params.items()
    }
    for name, parameter in layer.params.items():
        getattr(theirs, name).data = torch.tensor(parameter)
    tensor = torch.tensor(x, requires_grad=True)
    y = theirs(tensor)
    y.backward(torch.tensor(dy))
    grads = tensor.grad, theirs.weight.grad, theirs.bias.grad
    assert_results(seed, [array.detach().numpy() for array in (y, *grads)])


@pytest.mark.parametrize("seed", SEEDS[:50])
def test_backward_is_the_derivative(seed):
    layer, x, _, _ = random_case(seed)
    report = check_gradients(layer, x, seed=seed)
    assert report.ok, (layer, x.shape, report)


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_the_transpose_of_the_convolution(seed):
    """<T^T x, u> = <x, T u> for the Conv2D T with the same weight, from the size of y to x's."""
    layer, x, u, geometry = random_case(seed)
    del geometry["output_padding"]
    conv = Conv2D(layer.out_channels, layer.in_channels, layer.window.kernel, **geometry)
    conv.params["weight"], conv.params["bias"] = layer.params["weight"], np.zeros(len(x[0]))
    y = layer(x) - layer.params["bias"][:, None, None]
    size = np.vdot(np.abs(u), layer.map_arrays(np.abs)(np.abs(x)))
    assert conv.output_shape(u.shape) == x.shape
    assert_equal_but_for_rounding(np.vdot(y, u), np.vdot(x, conv(u)), size)


@pytest.mark.parametrize("seed", SEEDS[:20])
def test_multiply_adds_are_the_products_of_the_loops(seed):
    layer, x, _, geometry = random_case(seed)
    counted = reference.conv_transpose2d(
        np.ones((1, *x.shape[1:])),
        np.ones(layer.params["weight"].shape),
        **geometry | {"padding": 0},
    )
    assert layer.multiply_adds((1, *x.shape[1:])) == counted.sum()


@pytest.mark.parametrize("stride, more", [(s, p) for s in (1, 2, 3, 4) for p in range(s)])
def test_output_padding_chooses_one_of_the_sizes_that_a_convolution_rounds_to_one(stride, more):
    conv = Conv2D(1, 1, 3, stride, padding=1)
    sizes = [h for h in range(3, 30) if conv.output_shape((1, 1, h, 3))[2] == 4]
    layer = ConvTranspose2D(1, 1, 3, stride, padding=1, output_padding=more)
    assert layer.output_shape((1, 1, 4, 1))[2] == sizes[more]
    assert len(sizes) == stride


def test_the_picture_that_everybody_draws():
    """A 2x2 image, each entry of which stamps a 3x3 kernel of ones, two pixels apart."""
    layer = ConvTranspose2D(1, 1, 3, stride=2)
    layer.params["weight"][...], layer.params["bias"][...] = 1, 10
    np.testing.assert_array_equal(
        layer(np.array([[[[1.0, 2], [3, 4]]]]))[0, 0] - 10,
        [
            [1, 1, 3, 2, 2],
            [1, 1, 3, 2, 2],
            [4, 4, 10, 6, 6],
            [3, 3, 7, 4, 4],
            [3, 3, 7, 4, 4],
        ],
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"in_channels": 0}, "^in_channels must be an integer >= 1, got 0"),
        ({"out_channels": 1.5}, "^out_channels must be an integer >= 1, got 1.5"),
        ({"groups": 3}, "groups must divide both channel counts"),
        ({"output_padding": 2, "stride": 2}, r"smaller than the stride, \(2, 2\), got 2$"),
        ({"output_padding": 1, "dilation": 2}, r"smaller than the stride, \(1, 1\), got"),
        ({"output_padding": -1}, "output_padding must be an integer >= 0, got -1"),
        ({"bias": 1}, "bias must be True or False, got 1"),
    ],
)
def test_arguments_that_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ConvTranspose2D(**{"in_channels": 4, "out_channels": 2, "kernel_size": 3} | arguments)


@pytest.mark.parametrize(
    "layer, shape, sentence",
    [
        (ConvTranspose2D(2, 1, 3), (1, 3, 5, 5), "expected 2 input channels but got 3"),
        (ConvTranspose2D(2, 1, 3), (2, 5, 5), r"expected x of shape \(N, C, H, W\)"),
        (ConvTranspose2D(2, 1, 3), (1, 2, 0, 5), r"= \(0 - 1\)\*1 - 0 \+ 3 \+ 0 = 2 pixels"),
        (ConvTranspose2D(2, 1, 3, 2, 3), (1, 2, 5, 2), r"= \(2 - 1\)\*2 - 6 \+ 3 \+ 0 = -1 pixels"),
    ],
)
def test_shapes_that_do_not_fit(layer, shape, sentence):
    for function in (lambda: layer.output_shape(shape), lambda: layer.forward(np.ones(shape))):
        with pytest.raises(ValueError, match=sentence):
            function()


@pytest.mark.parametrize("channels", [16, 17])
@pytest.mark.parametrize("size", [3, 4])
def test_rows_taken_together_and_not(channels, size):
    """Two rows of x count as twice the channels where those are few, as in products.py."""
    rng = np.random.default_rng(0)
    layer = ConvTranspose2D(channels, 2, 5, rng=rng).astype(np.float64)
    x = rng.standard_normal((3, channels, size, 3))
    y, size = (
        reference.conv_transpose2d(*arrays)
        for arrays in ((x, layer.params["weight"]), map(np.abs, (x, layer.params["weight"])))
    )
    assert_equal_but_for_rounding(layer(x), y, size)


def test_what_is_not_finite_stays_where_it_is():
    """Zeros of products.py's `spread` are not multiplied with infinity."""
    layer = ConvTranspose2D(1, 1, 4)
    x = np.ones((1, 1, 4, 4), np.float32)
    x[0, 0, 0, 0] = np.inf
    y = layer(x)
    assert np.isfinite(y[0, 0, 4:]).all() and np.isfinite(y[0, 0, :, 4:]).all()
