"""Every layer, forward and backward, against the loops of reference.py and central differences."""

import functools
import pickle
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding, sizes

from minicnn import (
    AvgPool2D,
    Conv2D,
    ConvTranspose2D,
    Flatten,
    GlobalAvgPool2D,
    Linear,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Tanh,
    reference,
)
from minicnn.gradcheck import check_gradients


class Case(NamedTuple):
    make: Callable  # make(**options) is the layer, reference.<operation>(x, **options) its loops
    operation: str
    shape: tuple
    options: dict = {}
    values: str = "normal"


def conv(shape, out_channels, kernel_size, bias=True, **options):
    make = functools.partial(Conv2D, shape[1], out_channels, kernel_size, bias=bias)
    return Case(make, "conv2d", shape, options)


def conv_transpose(shape, out_channels, kernel_size, bias=True, **options):
    make = functools.partial(ConvTranspose2D, shape[1], out_channels, kernel_size, bias=bias)
    return Case(make, "conv_transpose2d", shape, options)


def linear(shape, out_features, bias=True):
    return Case(functools.partial(Linear, shape[1], out_features, bias), "linear", shape)


def max_pool(shape, kernel_size, values="normal", **options):
    return Case(MaxPool2D, "max_pool2d", shape, {"kernel_size": kernel_size, **options}, values)


def avg_pool(shape, kernel_size, **options):
    return Case(AvgPool2D, "avg_pool2d", shape, {"kernel_size": kernel_size, **options})


POOLING = {
    "windows side by side": ((2, 3, 4, 6), 2, {}),
    "overlap, rows left over": ((2, 2, 7, 8), 3, {"stride": 2}),
    "gaps": ((2, 2, 9, 8), 2, {"stride": 3}),
    "one image, one channel, stride 1": ((1, 1, 5, 4), 3, {"stride": 1}),
    "rectangles": ((2, 2, 6, 9), (2, 3), {"stride": (1, 2), "padding": (1, 0)}),
    "padding": ((2, 2, 6, 5), 3, {"stride": 2, "padding": 1}),
    "four sides": ((2, 2, 5, 6), (3, 2), {"stride": 2, "padding": (2, 1, 0, 1)}),
    "same": ((2, 2, 5, 6), (2, 3), {"stride": 1, "padding": "same"}),
    "rounded up": ((2, 2, 6, 8), 3, {"stride": 2, "ceil_mode": True}),
    "rounded up, padding": ((2, 1, 6, 5), 3, {"stride": 2, "padding": 1, "ceil_mode": True}),
    "dilation": ((2, 2, 7, 6), (3, 2), {"stride": 1, "padding": 1, "dilation": (2, 3)}),
    "larger than the image, rounded up": ((2, 1, 2, 3), 4, {"stride": 3, "ceil_mode": True}),
    "one window": ((2, 1, 2, 3), (2, 3), {}),
    "one pixel": ((2, 3, 4, 5), 1, {}),
    "one pixel, gaps": ((2, 3, 4, 5), 1, {"stride": 2}),
    "no images": ((0, 2, 4, 5), 2, {}),
}
CASES = {
    "conv": conv((2, 3, 6, 5), 4, 3),
    "conv, 1x1": conv((2, 3, 4, 5), 4, 1),
    "conv, one image, channel and filter": conv((1, 1, 5, 4), 1, (2, 3)),
    "conv, overlap, rows left over": conv((2, 2, 8, 6), 3, 3, stride=2, padding=1),
    "conv, gaps": conv((2, 2, 9, 8), 3, 2, stride=3),
    "conv, rectangles": conv((2, 2, 8, 9), 3, (3, 5), stride=(2, 3), padding=(0, 1)),
    "conv, padding larger than the kernel": conv((2, 2, 4, 3), 3, 2, padding=(3, 2), stride=(1, 2)),
    "conv, one window": conv((2, 2, 3, 4), 3, (5, 6), padding=1),
    "conv, dilation": conv((2, 2, 8, 9), 3, (3, 2), dilation=(2, 3)),
    "conv, all": conv((2, 2, 9, 8), 4, 3, stride=2, padding=(2, 1), dilation=(1, 2), groups=2),
    "conv, taps outside the image": conv((2, 1, 2, 2), 1, 3, padding=3, dilation=3),
    "conv, groups": conv((2, 4, 5, 6), 6, 3, groups=2, stride=2, padding=1),
    "conv, depthwise": conv((2, 3, 5, 4), 3, (3, 2), groups=3, padding=1),
    "conv, two filters a channel, no bias": conv((2, 2, 5, 5), 4, 2, groups=2, bias=False),
    "conv, wide, rows in blocks": conv((40, 2, 13, 13), 2, (3, 2), stride=(2, 1), padding=1),
    "conv, no images": conv((0, 3, 5, 4), 2, 3, padding=1),
    "conv, four sides": conv((2, 2, 5, 6), 3, (2, 3), stride=(2, 1), padding=(1, 0, 2, 3)),
    "conv, same": conv((2, 2, 5, 4), 4, (4, 3), padding="same", dilation=(1, 2)),
    "transposed": conv_transpose((2, 3, 4, 5), 4, 3),
    "transposed, overlap": conv_transpose((2, 2, 4, 3), 3, (3, 5), stride=2, padding=(1, 2)),
    "transposed, gaps": conv_transpose((2, 2, 3, 4), 3, (1, 2), stride=3, output_padding=(2, 1)),
    "transposed, kernel divides": conv_transpose((2, 4, 4, 3), 2, 4, stride=2, padding=1),
    "transposed, four sides": conv_transpose((2, 2, 4, 3), 3, 3, stride=2, padding=(2, 0, 1, 1)),
    "transposed, all": conv_transpose(
        (2, 4, 5, 4), 6, (3, 2), stride=(2, 3), padding=1, output_padding=1, dilation=2, groups=2
    ),
    "transposed, depthwise, no bias": conv_transpose((2, 3, 4, 3), 3, 2, groups=3, bias=False),
    "transposed, one pixel": conv_transpose((2, 3, 1, 1), 2, (3, 4)),
    "transposed, wide, rows in blocks": conv_transpose((40, 2, 12, 13), 2, (4, 3), padding=1),
    "transposed, no images": conv_transpose((0, 3, 5, 4), 2, 3, padding=1),
    "linear": linear((3, 5), 4),
    "linear, no bias": linear((3, 5), 4, bias=False),
    "linear, one image": linear((1, 6), 1),
    "linear, no images": linear((0, 5), 4),
    "flatten": Case(Flatten, "flatten", (2, 3, 4, 5)),
    "flatten, one image": Case(Flatten, "flatten", (1, 3, 1, 2)),
    "flatten, no images": Case(Flatten, "flatten", (0, 3, 4, 5)),
    "max pool, negative, padding": max_pool((2, 2, 6, 5), 3, "negative", stride=2, padding=1),
    "max pool, ties": max_pool((2, 2, 6, 5), 3, "ties", stride=1),
    "max pool, ties, padding": max_pool((2, 2, 6, 5), (2, 3), "ties", padding=1, stride=(2, 1)),
    "avg pool, padding not counted": avg_pool(
        (2, 2, 6, 5), 3, stride=2, padding=1, count_include_pad=False
    ),
    "avg pool, rectangles, padding not counted": avg_pool(
        (1, 2, 4, 7), (2, 4), stride=(1, 3), padding=(1, 2), count_include_pad=False
    ),
    "avg pool, rounded up, padding not counted": avg_pool(
        (2, 2, 6, 5), 3, stride=2, padding=(1, 0, 1, 2), count_include_pad=False, ceil_mode=True
    ),
    "global avg pool": Case(GlobalAvgPool2D, "global_avg_pool2d", (2, 3, 4, 5)),
    "global avg pool, one pixel": Case(GlobalAvgPool2D, "global_avg_pool2d", (2, 3, 1, 1)),
    "global avg pool, no images": Case(GlobalAvgPool2D, "global_avg_pool2d", (0, 3, 2, 2)),
    "relu, at the kink": Case(ReLU, "relu", (3, 2, 4, 5), values="ties"),
}
for pool in max_pool, avg_pool:
    for geometry, (shape, kernel_size, options) in POOLING.items():
        CASES[f"{pool.__name__}, {geometry}"] = pool(shape, kernel_size, **options)
for activation in ReLU, Sigmoid, Tanh:
    for shape in (2, 3, 4, 5), (3, 4), (0, 4):
        operation = activation.__name__.lower()
        CASES[f"{operation}, {shape}"] = Case(activation, operation, shape)

# not where ties leave no derivative, nor the case of so many entries that it takes seconds
DIFFERENTIABLE = [
    name for name, case in CASES.items() if case.values != "ties" and "blocks" not in name
]
VALUES = {"normal": lambda x: x, "negative": lambda x: -1 - np.abs(x), "ties": np.round}


def strided(x):
    """x with NaN between its entries in memory, and the last axis stored backwards."""
    memory = np.full([2 * size for size in x.shape], np.nan, x.dtype)
    view = memory[tuple(slice(None, None, 2) for _ in x.shape)][..., ::-1]
    view[...] = x
    return view


LAYOUTS = {
    "C order": np.ascontiguousarray,
    "batch last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
    "strided": strided,
}


def loops(case, x, dy, params):
    """What they make of a case: the output under "y", dx under "x", each other gradient under its
    name."""
    y = getattr(reference, case.operation)(x, **params, **case.options)
    backward = getattr(reference, f"{case.operation}_backward")
    if params:
        gradients = backward(dy, x, params["weight"], **case.options)
        return {"y": y, **dict(zip(("x", *params), gradients))}
    return {"y": y, "x": backward(dy, x, **case.options)}


def arrays(name, draw):
    """x, dy and the parameters of a case, each draw(shape)."""
    case = CASES[name]
    layer = case.make(**case.options)
    x = VALUES[case.values](draw(case.shape))
    params = {key: draw(parameter.shape) for key, parameter in layer.params.items()}
    return x, draw(layer.output_shape(case.shape)), params


@functools.cache
def expected(name):
    """x, dy and the parameters of a case, of numbers that float32 can hold; what the loops make of
    them, and the sizes of these sums."""
    case, rng = CASES[name], np.random.default_rng(list(name.encode()))
    drawn = arrays(name, lambda shape: rng.standard_normal(shape, np.float32).astype(np.float64))
    run = functools.partial(loops, case)
    return *drawn, run(*drawn), sizes(case.make(**case.options), run, *drawn)


def build(name, dtype=np.float64, parameter_dtype=np.float64, layout=np.ascontiguousarray):
    """The layer of a case with its parameters, x and dy."""
    x, dy, params, *_ = expected(name)
    layer = CASES[name].make(**CASES[name].options)
    for key, value in params.items():
        layer.params[key] = value.astype(parameter_dtype)
    return layer, layout(x.astype(dtype)), layout(dy.astype(dtype))


def assert_expected(name, **results):
    """The results are those of the loops."""
    *_, exact, size = expected(name)
    for key, result in results.items():
        assert_equal_but_for_rounding(result, exact[key], size[key], f"{name}: {key}")


@pytest.mark.parametrize("parameter_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward_equal_the_loops(name, layout, dtype, parameter_dtype):
    layer, x, dy = build(name, dtype, parameter_dtype, LAYOUTS[layout])
    y, saved = layer.forward(x)
    dx, grads = layer.backward(dy, saved)
    assert layer.output_shape(x.shape) == y.shape
    assert grads.keys() == layer.params.keys()
    assert {array.dtype for array in (y, dx, *grads.values())} == {np.dtype(dtype)}
    assert_expected(name, y=y, x=dx, **grads)


@pytest.mark.parametrize(
    "name",
    [n for n, c in CASES.items() if c.operation in ("conv2d", "conv_transpose2d", "linear")],
)
def test_small_integers_give_exact_sums(name):
    """On any processor; so a wrong one shows also where sums cancel and rounding would hide it."""
    rng = np.random.default_rng(0)
    integers = np.array([-2, -1, 1, 2], np.float32)
    x, dy, params = arrays(name, lambda shape: rng.choice(integers, shape))
    case = CASES[name]
    layer = case.make(**case.options)
    layer.params.update(params)
    y, saved = layer.forward(x)
    dx, grads = layer.backward(dy, saved)
    exact = loops(case, x, dy, params)
    for key, result in {"y": y, "x": dx, **grads}.items():
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, exact[key], err_msg=key)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_backward_is_the_derivative_of_forward(name):
    layer, x, _ = build(name)
    report = check_gradients(layer, x)
    assert report.ok, report
    assert report.errors.keys() == {"x", *layer.params}
    assert max(report.errors.values()) < 1e-7, report


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_nothing_that_is_passed_in_is_changed(name, layout):
    layer, x, dy = build(name, layout=LAYOUTS[layout])
    before = pickle.dumps((vars(layer), x, dy))
    y, saved = layer.forward(x)
    saved_before = pickle.dumps((y, saved))
    layer.backward(dy, saved)
    layer.backward(dy, saved, need_dx=False)
    layer(x)
    assert pickle.dumps((vars(layer), x, dy)) == before
    assert pickle.dumps((y, saved)) == saved_before


@pytest.mark.parametrize("name", CASES)
def test_one_pass_does_not_disturb_another(name):
    layer, x, dy = build(name)
    y, saved = layer.forward(x)
    dx, grads = layer.backward(dy, saved)
    other_y, other_saved = layer.forward(1 - x)
    layer.backward(1 - dy, other_saved)
    dx_again, grads_again = layer.backward(dy, saved)
    no_dx, grads_alone = layer.backward(dy, saved, need_dx=False)
    assert no_dx is None
    for gradients in {"x": dx, **grads}, {"x": dx_again, **grads_again}, grads_alone:
        assert_expected(name, y=y, **gradients)
    assert grads_alone.keys() == layer.params.keys()
    np.testing.assert_array_equal(layer(x), y)


@pytest.mark.parametrize(
    "layer, shapes",
    [
        (Conv2D(4, 6, (3, 5), groups=2), {"weight": (6, 2, 3, 5), "bias": (6,)}),
        (Conv2D(4, 6, 3, bias=False), {"weight": (6, 4, 3, 3)}),
        (Linear(4, 6), {"weight": (6, 4), "bias": (6,)}),
        (Linear(4, 6, bias=False), {"weight": (6, 4)}),
        (MaxPool2D(2), {}),
    ],
)
def test_parameters(layer, shapes):
    assert {name: parameter.shape for name, parameter in layer.params.items()} == shapes


@pytest.mark.parametrize("name", CASES)
def test_repr_is_the_call_that_makes_the_layer(name):
    layer, _, _ = build(name)
    again = eval(repr(layer))
    assert type(again) is type(layer)
    assert vars(again) | {"params": None} == vars(layer) | {"params": None}
    assert again.params.keys() == layer.params.keys()


def test_flatten_leaves_rows_as_they_are():
    x = np.arange(6.0).reshape(2, 3)
    y, saved = Flatten().forward(x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(Flatten().backward(y, saved)[0], x)


@pytest.mark.parametrize("padding", [0, 1])
def test_max_pool_of_minus_infinity_gives_the_gradient_to_the_image(padding):
    layer = MaxPool2D(2, padding=padding)
    y, saved = layer.forward(np.full((1, 1, 4, 4), -np.inf))
    dx, _ = layer.backward(np.ones(y.shape), saved)
    assert np.all(y == -np.inf)
    assert dx.sum() == y.size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "layer, loops, limits",
    [(Sigmoid(), reference.sigmoid_backward, [0, 1]), (Tanh(), reference.tanh_backward, [-1, 1])],
)
def test_saturated_activations(layer, loops, limits, dtype):
    x = np.array([[-1e4, 1e4]], dtype)
    y, saved = layer.forward(x)
    dx, _ = layer.backward(np.ones_like(x), saved)
    np.testing.assert_array_equal(y, [limits])
    np.testing.assert_array_equal(dx, [[0, 0]])
    np.testing.assert_array_equal(loops(1, x), [[0, 0]])


@pytest.mark.parametrize(
    "layer, shape, message",
    [
        (Conv2D(1, 1, 5), (1, 1, 6, 4), r"5.*4 \+ 0 \+ 0 = 4"),
        (Conv2D(1, 1, (5, 1), padding=1), (1, 1, 2, 8), r"5.*2 \+ 1 \+ 1 = 4"),
        (Conv2D(1, 1, 3, dilation=4), (1, 1, 8, 9), r"4\*\(3 - 1\) \+ 1 = 9.*8 \+ 0 \+ 0 = 8"),
        (MaxPool2D(3), (1, 1, 2, 3), r"3.*2 \+ 0 \+ 0 = 2"),
        (AvgPool2D((2, 4), padding=(0, 1)), (1, 1, 2, 1), r"4.*1 \+ 1 \+ 1 = 3"),
        (Conv2D(3, 4, 1), (1, 2, 5, 5), r"expected 3 .*got 2.*\(1, 2, 5, 5\)"),
        (Conv2D(3, 4, 1), (3, 5, 5), r"\(N, C, H, W\).*\(3, 5, 5\)"),
        (MaxPool2D(2), (5, 5), r"\(N, C, H, W\).*\(5, 5\)"),
        (AvgPool2D(2), (1, 2, 3, 5, 5), r"\(N, C, H, W\).*\(1, 2, 3, 5, 5\)"),
        (Linear(400, 120), (2, 576), r"\(N, 400\).*\(2, 576\)"),
        (Linear(400, 120), (2, 16, 5, 5), r"\(N, 400\).*\(2, 16, 5, 5\)"),
        (Flatten(), (5,), r"\(N, \.\.\.\).*\(5,\)"),
    ],
)
def test_shapes_that_do_not_fit(layer, shape, message):
    for function in (
        lambda: layer.output_shape(shape),
        lambda: layer.forward(np.ones(shape, np.float32)),
        lambda: layer(np.ones(shape, np.float32)),
    ):
        with pytest.raises(ValueError, match=message):
            function()


@pytest.mark.parametrize(
    "layer, shape",
    [
        *[(layer, (1, 1, 1, 1)) for layer in (Conv2D(1, 1, 1), MaxPool2D(1), AvgPool2D(1))],
        *[(layer, (1, 1)) for layer in (Linear(1, 1), ReLU(), Sigmoid(), Tanh())],
    ],
)
def test_integers_are_refused(layer, shape):
    with pytest.raises(ValueError, match="float.*uint8"):
        layer.forward(np.ones(shape, np.uint8))


@pytest.mark.parametrize("name", [name for name in CASES if "no images" not in name])
def test_an_upstream_gradient_of_another_shape_is_refused(name):
    layer, x, dy = build(name)
    _, saved = layer.forward(x)
    for wrong in dy[..., :1, :], dy[..., :1], dy.repeat(2, axis=0):
        if wrong.shape != dy.shape:
            with pytest.raises(ValueError) as caught:
                layer.backward(wrong, saved)
            assert str(dy.shape) in str(caught.value) and str(wrong.shape) in str(caught.value)


def test_what_is_no_array_is_refused():
    with pytest.raises(ValueError, match="array but got list"):
        Linear(1, 1).forward([[1.0]])


VALID = {
    Conv2D: {"in_channels": 4, "out_channels": 6, "kernel_size": 3},
    MaxPool2D: {"kernel_size": 3},
    AvgPool2D: {"kernel_size": 3},
    Linear: {"in_features": 4, "out_features": 6},
}
NO_INTEGERS = [(-1, "-1"), (1.0, "1.0"), (True, "True"), ("1", "'1'")]
NO_PAIRS = [((1, 1, 1), r"\(1, 1, 1\)"), ((1, -1), "-1"), ((1.5, 1), "1.5"), ((1, True), "True")]


@pytest.mark.parametrize(
    "layer, names, values",
    [
        (Conv2D, ["in_channels", "out_channels", "groups"], [(0, "0"), ((1, 1), r"\(1, 1\)")]),
        (Conv2D, ["kernel_size", "stride", "dilation"], [(0, "0"), ((1, 0), "0"), *NO_PAIRS]),
        (Conv2D, ["padding"], NO_PAIRS),
        (MaxPool2D, ["kernel_size", "stride"], [(0, "0"), ((1, 0), "0"), *NO_PAIRS]),
        (MaxPool2D, ["padding"], NO_PAIRS),
        (AvgPool2D, ["kernel_size", "stride"], [(0, "0"), ((1, 0), "0"), *NO_PAIRS]),
        (AvgPool2D, ["padding"], NO_PAIRS),
        (Linear, ["in_features", "out_features"], [(0, "0"), ((1, 1), r"\(1, 1\)")]),
    ],
)
def test_sizes_that_are_no_sizes(layer, names, values):
    for name in names:
        for value, shown in values + NO_INTEGERS:
            with pytest.raises(ValueError, match=f"^{name} must be an int.* got {shown}$"):
                layer(**VALID[layer] | {name: value})


@pytest.mark.parametrize(
    "layer, arguments, message",
    [
        (Conv2D, {"groups": 3}, r"4 % 3 = 1 and 6 % 3 = 0"),
        (Conv2D, {"groups": 4}, r"4 % 4 = 0 and 6 % 4 = 2"),
        (MaxPool2D, {"padding": 3}, r"padding must be smaller .* \(3, 3\), .* got 3$"),
        (AvgPool2D, {"padding": (1, 3)}, r"smaller than what the kernel spans, \(3, 3\)"),
    ],
)
def test_hyper_parameters_that_do_not_go_together(layer, arguments, message):
    with pytest.raises(ValueError, match=message):
        layer(**VALID[layer] | arguments)


@pytest.mark.parametrize("layer", [MaxPool2D(2), AvgPool2D(2), ReLU(), Flatten(), Conv2D(1, 1, 2)])
def test_a_gradient_that_does_not_fit_is_refused_without_dx_too(layer):
    _, saved = layer.forward(np.ones((2, 1, 4, 4), np.float32))
    with pytest.raises(ValueError, match="dy must have y's shape"):
        layer.backward(np.ones(3, np.float32), saved, need_dx=False)
