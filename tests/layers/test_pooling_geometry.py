"""Pooling with ceil_mode, dilation and padding on four sides, over random geometry: against the
loops, central differences and PyTorch, whose rules these are; the global average."""

import functools

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding

from minicnn import AvgPool2D, GlobalAvgPool2D, MaxPool2D, check_gradients, reference

SEEDS = range(150)
LOOPS = {
    MaxPool2D: (reference.max_pool2d, reference.max_pool2d_backward),
    AvgPool2D: (reference.avg_pool2d, reference.avg_pool2d_backward),
}


@functools.cache
def random_case(seed, as_in_pytorch):
    """A layer, x and dy, and the arguments of the loops; the image may be smaller than the kernel.
    PyTorch has at most half of the kernel as padding, and no dilation of an average."""
    rng = np.random.default_rng(seed)
    kind = [MaxPool2D, AvgPool2D][seed % 2]
    while True:
        kernel, stride, dilation = (tuple(rng.integers(1, 5, 2).tolist()) for _ in range(3))
        if kind is AvgPool2D and as_in_pytorch:
            dilation = 1, 1
        if as_in_pytorch:
            padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
        else:
            span = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
            padding = tuple(int(rng.integers(0, s)) for s in np.repeat(span, 2))
        given = {"kernel_size": kernel, "stride": stride, "padding": padding}
        given |= {"dilation": dilation, "ceil_mode": bool(rng.integers(2))}
        if kind is AvgPool2D:
            given["count_include_pad"] = bool(rng.integers(2))
        layer, x = kind(**given), rng.standard_normal((2, 2, *rng.integers(1, 9, 2)))
        try:
            y_shape = layer.output_shape(x.shape)
        except ValueError:
            with pytest.raises(ValueError, match="does not fit into an image"):
                LOOPS[kind][0](x, **given)
            continue
        return layer, x, rng.standard_normal(y_shape), given


def assert_results(case, y, dx):
    """y and dx are those of the layer. A maximum is an entry of x, without rounding."""
    layer, x, dy, given = case
    own_y, saved = layer.forward(x)
    own_dx, grads = layer.backward(dy, saved)
    forward, backward = LOOPS[type(layer)]
    size = 0 if isinstance(layer, MaxPool2D) else forward(np.abs(x), **given)
    print(layer, x.shape)
    np.testing.assert_array_equal(np.isinf(own_y), np.isinf(y))
    finite = np.isfinite(y)
    assert_equal_but_for_rounding(own_y[finite], y[finite], np.broadcast_to(size, y.shape)[finite])
    inputs = (x,) if isinstance(layer, MaxPool2D) else (np.abs(x),)
    assert_equal_but_for_rounding(own_dx, dx, backward(np.abs(dy), *inputs, **given))
    assert grads == {}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("as_in_pytorch", [False, True])
def test_the_loops_agree(seed, as_in_pytorch):
    case = layer, x, dy, given = random_case(seed, as_in_pytorch)
    forward, backward = LOOPS[type(layer)]
    assert_results(case, forward(x, **given), backward(dy, x, **given))


@pytest.mark.parametrize("seed", SEEDS)
def test_pytorch_agrees(seed):
    functional = pytest.importorskip("torch").nn.functional
    torch = pytest.importorskip("torch")
    case = layer, x, dy, given = random_case(seed, True)
    tensor = torch.tensor(x, requires_grad=True)
    if isinstance(layer, MaxPool2D):
        y = functional.max_pool2d(tensor, **given)
    else:
        y = functional.avg_pool2d(
            tensor, **{name: value for name, value in given.items() if name != "dilation"}
        )
    if not torch.isfinite(y).all():
        pytest.skip("PyTorch sends the gradient of a window without pixels into the image")
    y.backward(torch.tensor(dy))
    assert_results(case, y.detach().numpy(), tensor.grad.numpy())


@pytest.mark.parametrize("seed", SEEDS[:60])
def test_backward_is_the_derivative(seed):
    layer, x, _, _ = random_case(seed, False)
    if np.isfinite(layer(x)).all():
        report = check_gradients(layer, x, seed=seed)
        assert report.ok, (layer, x.shape, report)


def test_the_random_cases_have_what_they_are_for():
    cases = [random_case(seed, False) for seed in SEEDS]
    rounded_up = [
        dy.shape != type(layer)(**given | {"ceil_mode": False}).output_shape(x.shape)
        for layer, x, dy, given in cases
        if given["ceil_mode"] and all(n >= k for n, k in zip(x.shape[2:], layer.window.span))
    ]
    assert sum(rounded_up) > 5
    assert sum(len(set(given["padding"])) > 2 for *_, given in cases) > 50
    assert sum(given["dilation"] != (1, 1) for *_, given in cases) > 100
    assert sum(np.isinf(layer(x)).any() for layer, x, *_ in cases) < 15


ROW = np.array([[[[1.0, 5, 2, 4, 3]]]])


@pytest.mark.parametrize(
    "layer, expected",
    [
        (MaxPool2D((1, 2), ceil_mode=True), [5, 4, 3]),
        (MaxPool2D((1, 2)), [5, 4]),
        (MaxPool2D((1, 2), (1, 3), (0, 1), ceil_mode=True), [1, 4]),
        (MaxPool2D((1, 2), (1, 5), (0, 0, 1, 1), ceil_mode=True), [1, 3]),
        (MaxPool2D((1, 2), (1, 6), (0, 0, 1, 1), ceil_mode=True), [1]),
        (MaxPool2D((1, 3), stride=1, dilation=(1, 2)), [3]),
        (MaxPool2D((1, 2), stride=1, dilation=(1, 3)), [4, 5]),
        (AvgPool2D((1, 2), ceil_mode=True), [3, 3, 3]),
        (AvgPool2D((1, 4), (1, 3), (0, 2), ceil_mode=True), [6 / 4, 14 / 4, 3 / 3]),
        (
            AvgPool2D((1, 4), (1, 3), (0, 2), count_include_pad=False, ceil_mode=True),
            [6 / 2, 14 / 4, 3 / 1],
        ),
        (AvgPool2D((1, 2), stride=1, dilation=(1, 2)), [1.5, 4.5, 2.5]),
    ],
    ids=repr,
)
def test_a_row_by_hand(layer, expected):
    """With ceil_mode a window may reach out of the row, but not begin behind it. It is a mean of
    what lies in the row and its padding: of three pixels in the last window of stride 3."""
    np.testing.assert_array_equal(layer(ROW), [[[expected]]])


def test_a_window_that_sees_no_pixel():
    """Its taps are at -1 and 1, the image is one pixel: the maximum of nothing is minus infinity,
    as in PyTorch, and a mean of nothing is 0; the gradient is that of a constant."""
    x = np.full((1, 1, 1, 1), 3.0)
    for layer, expected in (
        (MaxPool2D(2, stride=1, padding=1, dilation=2), -np.inf),
        (AvgPool2D(2, stride=1, padding=1, dilation=2), 0),
        (AvgPool2D(2, stride=1, padding=1, dilation=2, count_include_pad=False), 0),
    ):
        y, saved = layer.forward(x)
        np.testing.assert_array_equal(y, [[[[expected]]]])
        np.testing.assert_array_equal(layer.backward(np.ones_like(y), saved)[0], [[[[0]]]])


@pytest.mark.parametrize("seed", range(20))
def test_the_global_average(seed):
    """It is the average pooling of one window, and PyTorch's mean."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(rng.integers(1, 7, 4))
    layer, window = GlobalAvgPool2D(), AvgPool2D(x.shape[2:])
    (y, saved), (expected, saved_of_window) = layer.forward(x), window.forward(x)
    dy = rng.standard_normal(y.shape)
    assert_equal_but_for_rounding(y, expected[:, :, 0, 0], window(np.abs(x))[:, :, 0, 0])
    dx, _ = window.backward(dy[:, :, None, None], saved_of_window)
    assert_equal_but_for_rounding(layer.backward(dy, saved)[0], dx, np.abs(dx))
    assert check_gradients(layer, x, seed=seed).ok


def test_the_global_average_of_no_pixels_is_refused():
    with pytest.raises(ValueError, match="at least one pixel, got .*1, 2, 0, 3"):
        GlobalAvgPool2D().forward(np.ones((1, 2, 0, 3)))


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: MaxPool2D(2, ceil_mode=1), "ceil_mode must be True or False, got 1"),
        (lambda: MaxPool2D(2, 2, 0, True), "dilation must be an integer >= 1, got True"),
        (lambda: AvgPool2D(2, ceil_mode=None), "ceil_mode must be True or False, got None"),
        (lambda: AvgPool2D(2, dilation=0), "dilation must be an integer >= 1, got 0"),
        (lambda: AvgPool2D(3, padding=(0, 0, 3, 0)), r"spans, \(3, 3\), .* got \(0, 0, 3, 0\)"),
        (lambda: MaxPool2D(2, padding=3, dilation=2), r"spans, \(3, 3\), or .* no pixel, got 3"),
    ],
)
def test_arguments_that_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
