"""The four forms of one convolution against each other, the layer and PyTorch."""

import functools
import math

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding

from minicnn import Conv2D, reference
from minicnn.reference import convolutions
from minicnn.reference.convolutions import CONVOLUTIONS, toeplitz

RESULTS = ("y", "dx", "dweight", "dbias")
SEEDS = range(100)
EDGES = {  # shape of x, shape of weight, geometry
    "1x1": ((2, 3, 4, 5), (4, 3, 1, 1), {}),
    "one window": ((2, 2, 3, 4), (3, 2, 5, 6), {"padding": 1}),
    "pixels left out": ((2, 1, 8, 9), (2, 1, 2, 2), {"stride": (4, 3)}),
    "depthwise": ((2, 3, 5, 4), (3, 1, 3, 2), {"padding": 1, "groups": 3}),
    "weights that meet padding only": ((2, 1, 2, 2), (1, 1, 3, 3), {"padding": 3, "dilation": 3}),
    "outputs that read padding only": ((1, 1, 2, 3), (2, 1, 2, 2), {"padding": (4, 3)}),
    "no images": ((0, 4, 5, 4), (2, 2, 3, 2), {"groups": 2}),
}
on_all_cases = pytest.mark.parametrize("case", [*SEEDS, *EDGES])


def random_geometry(rng):
    """Two numbers for height and width throughout, and four of padding; the image has up to 4
    pixels more than the smallest one into which the kernel fits."""
    while True:
        groups, in_channels, out_channels, images = rng.integers(1, 4, 4).tolist()
        kernel, stride, dilation = (tuple(rng.integers(1, 4, 2).tolist()) for _ in range(3))
        padding = tuple(rng.integers(0, 3, 4).tolist())
        both = sum(padding[:2]), sum(padding[2:])
        smallest = [d * (k - 1) + 1 - p for d, k, p in zip(dilation, kernel, both)]
        size = np.maximum(smallest, 1) + rng.integers(0, 5, 2)
        if kernel[0] != kernel[1] and size[0] != size[1]:
            break
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x_shape = (images, groups * in_channels, *size.tolist())
    return x_shape, (groups * out_channels, in_channels, *kernel), geometry


@functools.cache
def expected(case):
    """Read-only x, weight, bias and dy of a case, of numbers that float32 can hold, its geometry,
    what the loops make of them, and the sizes of these sums, which the absolute values give. Half
    of the x and dy lie in memory as between layers, with the batch last."""
    rng = np.random.default_rng(case if case in SEEDS else list(case.encode()))
    x_shape, weight_shape, geometry = EDGES[case] if case in EDGES else random_geometry(rng)

    def draw(shape, batch_last=False):
        shape = (*shape[1:], shape[0]) if batch_last else shape
        values = rng.standard_normal(shape, np.float32).astype(np.float64)
        values = np.moveaxis(values, -1, 0) if batch_last else values
        values.flags.writeable = False
        return values

    batch_last = bool(rng.integers(2))
    x, weight, bias = draw(x_shape, batch_last), draw(weight_shape), draw(weight_shape[:1])
    y = reference.conv2d(x, weight, bias, **geometry)
    dy = draw(y.shape, batch_last)
    results = (y, *reference.conv2d_backward(dy, x, weight, **geometry))
    a_x, a_weight, a_bias, a_dy = map(np.abs, (x, weight, bias, dy))
    size = reference.conv2d(a_x, a_weight, a_bias, **geometry)
    sizes = (size, *reference.conv2d_backward(a_dy, a_x, a_weight, **geometry))
    return x, weight, bias, dy, geometry, results, sizes


def assert_results(own, case, form=""):
    """y, dx, dweight and dbias are those of the loops."""
    *_, results, sizes = expected(case)
    for name, *compared in zip(RESULTS, own, results, sizes, strict=True):
        assert_equal_but_for_rounding(*compared, f"{form} {name}")


def say(case):
    x, weight, _, _, geometry, *_ = expected(case)
    print(f"seed {case}: x {x.shape}, weight {weight.shape}, {geometry}")


@on_all_cases
def test_all_agree(case):
    x, weight, bias, dy, geometry, *_ = expected(case)
    say(case)
    assert list(CONVOLUTIONS) == ["loops", "im2col", "windows", "toeplitz"]
    for form, (forward, backward) in CONVOLUTIONS.items():
        own = forward(x, weight, bias, **geometry), *backward(dy, x, weight, **geometry)
        assert {array.dtype for array in own} == {np.dtype(np.float64)}
        assert_results(own, case, form)


@on_all_cases
def test_the_layer_agrees(case):
    x, weight, bias, dy, geometry, *_ = expected(case)
    say(case)
    layer = Conv2D(x.shape[1], len(weight), weight.shape[2:], **geometry)
    layer.params.update(weight=weight, bias=bias)
    y, saved = layer.forward(x)
    dx, grads = layer.backward(dy, saved)
    assert_results((y, dx, *grads.values()), case)


@pytest.mark.parametrize("case", SEEDS)
def test_pytorch_agrees(case):
    torch = pytest.importorskip("torch")
    x, weight, bias, dy, geometry, *_ = expected(case)
    say(case)
    tensors = [torch.tensor(np.array(a, order="C"), requires_grad=True) for a in (x, weight, bias)]
    top, bottom, left, right = geometry["padding"]
    padded = torch.nn.functional.pad(tensors[0], (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, *tensors[1:], **geometry | {"padding": 0})
    y.backward(torch.tensor(np.array(dy, order="C")))
    assert_results((y.detach().numpy(), *(tensor.grad.numpy() for tensor in tensors)), case)


@on_all_cases
def test_backward_is_the_transpose_of_forward(case):
    """Without bias y is linear in x and in weight, so <y, dy> = <x, dx> = <weight, dweight>, all
    three sums of the products x*weight*dy."""
    x, weight, _, dy, geometry, *_, sizes = expected(case)
    size = np.vdot(np.abs(x), sizes[1])
    say(case)
    for form, (forward, backward) in CONVOLUTIONS.items():
        y, (dx, dweight, _) = forward(x, weight, **geometry), backward(dy, x, weight, **geometry)
        product = np.vdot(y, dy)
        assert_equal_but_for_rounding(np.vdot(x, dx), product, size, form)
        assert_equal_but_for_rounding(np.vdot(weight, dweight), product, size, form)


@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_arguments_go_by_position_too_and_an_int_is_a_pair(form):
    x, weight, bias, *_ = expected("no images")
    x = np.random.default_rng(0).standard_normal((2, *x.shape[1:]))
    forward, backward = CONVOLUTIONS[form]
    geometry = {"stride": (2, 2), "padding": (3, 3), "dilation": (2, 2), "groups": 2}
    y = forward(x, weight, bias, **geometry)
    np.testing.assert_array_equal(forward(x, weight, bias, 2, 3, 2, 2), y)
    by_name = backward(y, x, weight, **geometry)
    for actual, wanted in zip(backward(y, x, weight, 2, 3, 2, 2), by_name, strict=True):
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize("form", ["im2col", "windows", "toeplitz"])
def test_float32_stays_float32(form):
    *arrays, geometry, _, _ = expected("depthwise")
    x, weight, bias, dy = (array.astype(np.float32) for array in arrays)
    forward, backward = CONVOLUTIONS[form]
    own = forward(x, weight, bias, **geometry), *backward(dy, x, weight, **geometry)
    assert {array.dtype for array in own} == {np.dtype(np.float32)}
    assert_results(own, "depthwise", form)


@on_all_cases
def test_a_column_of_the_matrix_is_what_one_pixel_makes(case):
    x, weight, _, _, geometry, *_ = expected(case)
    say(case)
    pixels = math.prod(x.shape[1:])
    images = np.eye(pixels).reshape(pixels, *x.shape[1:])
    columns = reference.conv2d(images, weight, **geometry).reshape(pixels, -1).T
    np.testing.assert_array_equal(toeplitz(weight, x.shape, **geometry), columns)


def test_the_matrix_of_a_2x2_kernel_on_a_3x3_image():
    weight = np.array([[[[1, 2], [3, 4]]]])
    np.testing.assert_array_equal(
        toeplitz(weight, (1, 1, 3, 3)),
        [
            [1, 2, 0, 3, 4, 0, 0, 0, 0],
            [0, 1, 2, 0, 3, 4, 0, 0, 0],
            [0, 0, 0, 1, 2, 0, 3, 4, 0],
            [0, 0, 0, 0, 1, 2, 0, 3, 4],
        ],
    )


def test_a_matrix_above_the_limit_is_refused(monkeypatch):
    x, weight, dy = np.ones((5, 2, 4, 4)), np.ones((3, 2, 3, 3)), np.ones((5, 3, 2, 2))
    forward, backward = CONVOLUTIONS["toeplitz"]
    monkeypatch.setattr(convolutions, "LARGEST_MATRIX", 12 * 32)
    assert toeplitz(weight, x.shape).size == 384
    monkeypatch.setattr(convolutions, "LARGEST_MATRIX", 12 * 32 - 1)
    message = "would be 12 x 32 = 384 entries, 0 MB, but the limit is 383 entries: use"
    for function, *arguments in (
        (toeplitz, weight, x.shape),
        (forward, x, weight),
        (backward, dy, x, weight),
    ):
        with pytest.raises(ValueError, match=message):
            function(*arguments)


def test_the_limit_lets_lenet_pass_and_stops_a_gigabyte():
    weight = np.ones((6, 1, 5, 5), np.float32)
    assert toeplitz(weight, (1, 1, 28, 28), padding=2).shape == (4704, 784)
    with pytest.raises(ValueError, match=r"65,536 x 65,536 = 4,294,967,296 entries, 17,180 MB"):
        toeplitz(np.ones((1, 1, 3, 3), np.float32), (1, 1, 256, 256), padding=1)


@pytest.mark.parametrize("form", ["im2col", "windows", "toeplitz"])
@pytest.mark.parametrize(
    "x_shape, weight_shape, geometry, message",
    [
        ((1, 3, 5, 5), (4, 2, 3, 3), {}, r"weight .* groups=1 expected 2 input channels but got 3"),
        ((1, 2, 5, 5), (4, 2, 3, 3), {"groups": 2}, "groups=2 expected 4 input channels but got 2"),
        ((1, 4, 5, 5), (3, 2, 3, 3), {"groups": 2}, r"multiple of groups = 2, .* \(3, 2, 3, 3\)"),
        ((1, 4, 5, 5), (3, 4, 3), {}, r"\(O, C/groups, KH, KW\), .* got \(3, 4, 3\)"),
        ((4, 5, 5), (3, 4, 3, 3), {}, r"x of shape \(N, C, H, W\) but got \(4, 5, 5\)"),
        ((1, 2, 5, 5), (4, 2, 6, 3), {}, "the padded height is 5"),
        ((1, 2, 5, 5), (4, 2, 3, 3), {"stride": 0}, "stride must be an integer >= 1, got 0"),
        ((1, 2, 5, 5), (4, 2, 3, 3), {"groups": 0}, "groups must be an integer >= 1, got 0"),
    ],
)
def test_arrays_that_do_not_fit(form, x_shape, weight_shape, geometry, message):
    forward, backward = CONVOLUTIONS[form]
    x, weight = np.ones(x_shape), np.ones(weight_shape)
    with pytest.raises(ValueError, match=message):
        forward(x, weight, **geometry)
    with pytest.raises(ValueError, match=message):
        backward(np.ones((1, 4, 3, 3)), x, weight, **geometry)


@pytest.mark.parametrize("form", ["im2col", "windows", "toeplitz"])
def test_a_gradient_of_another_shape_is_refused(form):
    x, weight, dy = np.ones((2, 1, 5, 5)), np.ones((4, 1, 3, 3)), np.ones((1, 4, 3, 3))
    with pytest.raises(ValueError, match=r"y's shape \(2, 4, 3, 3\) but has \(1, 4, 3, 3\)"):
        CONVOLUTIONS[form].backward(dy, x, weight)


@pytest.mark.parametrize("form", ["im2col", "windows", "toeplitz"])
def test_images_of_bytes_are_refused(form):
    x, weight, dy = np.ones((2, 1, 3, 3), np.uint8), np.ones((4, 1, 3, 3)), np.ones((2, 4, 1, 1))
    forward, backward = CONVOLUTIONS[form]
    with pytest.raises(ValueError, match="expected x in float32 or float64 but got uint8"):
        forward(x, weight)
    with pytest.raises(ValueError, match="expected x in float32 or float64 but got uint8"):
        backward(dy, x, weight)


@pytest.mark.parametrize("form", ["im2col", "windows", "toeplitz"])
def test_a_bias_of_another_shape_is_refused(form):
    x, weight = np.ones((1, 1, 3, 3)), np.ones((2, 1, 2, 2))
    with pytest.raises(ValueError, match=r"bias of shape \(2,\) but got \(1,\)"):
        CONVOLUTIONS[form].forward(x, weight, np.ones(1))
