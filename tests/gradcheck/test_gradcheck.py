"""The gradient checker: no false alarm, no fault overlooked, kinks and ties named."""

import copy
import functools
import re
import time

import numpy as np
import pytest

from minicnn import (
    GELU,
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
    softmax,
    softmax_cross_entropy,
    squared_error,
)
from minicnn.gradcheck import LossLayer, check_gradients, numerical_gradient, protocol
from minicnn.gradcheck.checklist import step_errors
from minicnn.gradcheck.diagnosis import diagnose_update
from minicnn.gradcheck.museum import (
    ConvLastImage,
    LinearTransposed,
    MaxPoolEveryTie,
    ReLUMaskOfUpstream,
)


def random_case(rng):
    """A correct layer or loss of any kind and geometry, and an input for it."""

    def pair(low, high):
        return tuple(int(i) for i in rng.integers(low, high, 2, endpoint=True))

    n, c, o = (int(i) for i in rng.integers(1, 3, 3, endpoint=True))
    kernel, stride = pair(1, 3), pair(1, 3)
    pool_padding = tuple(int(rng.integers(0, k // 2, endpoint=True)) for k in kernel)
    padding, dilation, groups = pair(0, 2), pair(1, 2), int(rng.integers(1, 2, endpoint=True))
    span = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    images = (n, c * groups, *(s + int(extra) for s, extra in zip(span, pair(0, 4))))
    rows = (n, c * 3)
    conv = Conv2D(c * groups, o * groups, kernel, stride, padding, dilation, groups, rng=rng)
    cases = [
        (conv, images),
        (conv, images),
        (MaxPool2D(kernel, stride, pool_padding), images),
        (AvgPool2D(kernel, stride, pool_padding, bool(rng.integers(2))), images),
        (Linear(rows[1], o, bool(rng.integers(2)), rng=rng), rows),
        (Flatten(), images),
        (Sigmoid(), images),
        (Tanh(), rows),
        (ReLU(), images),
        (LossLayer(softmax_cross_entropy, rng.integers(0, rows[1], n)), rows),
        (LossLayer(squared_error, rng.standard_normal(rows)), rows),
        (Sequential(conv, Tanh(), Flatten()), images),
    ]
    layer, shape = cases[rng.integers(len(cases))]
    return layer, rng.standard_normal(shape)


@pytest.mark.parametrize("seed", range(400))
def test_no_false_alarm(seed):
    layer, x = random_case(np.random.default_rng(seed))
    report = check_gradients(layer, x, seed=seed)
    assert report.ok, report
    assert max(report.errors.values(), default=0) < 1e-7


@pytest.mark.parametrize("seed", range(100))
def test_no_false_alarm_at_kinks_and_ties(seed):
    layer, x = random_case(np.random.default_rng(seed))
    if not isinstance(layer, LossLayer):
        report = check_gradients(layer, np.round(x), seed=seed)
        assert report.ok, report


def one_of(rng, low, high):
    return int(rng.integers(low, high, endpoint=True))


def images(rng):
    return one_of(rng, 2, 3), one_of(rng, 1, 2), one_of(rng, 1, 3), one_of(rng, 1, 3)


def batch_norm(rng):
    shape, eps = images(rng), rng.choice([1e-5, 1e-3, 0.1])
    layer = BatchNorm2D(shape[1], float(eps), rng.random(), bool(rng.integers(2)))
    for array in layer.arrays.values():
        array[...] = rng.uniform(0.5, 2, array.shape)
    return layer, shape


def transposed(rng):
    kernel, stride, dilation = ([one_of(rng, 1, most) for _ in "hw"] for most in (3, 3, 2))
    most = [d * (k - 1) // 2 for d, k in zip(dilation, kernel)]
    padding = [one_of(rng, 0, m) for m in most for _ in range(2)]
    more, groups = [one_of(rng, 0, s - 1) for s in stride], one_of(rng, 1, 2)
    into, out = (groups * one_of(rng, 1, 2) for _ in range(2))
    geometry = map(tuple, (kernel, stride, padding, more))
    bias = bool(rng.integers(2))
    layer = ConvTranspose2D(into, out, *geometry, groups, bias, tuple(dilation), rng=rng)
    return layer, (one_of(rng, 1, 3), into, one_of(rng, 2, 3), one_of(rng, 2, 3))


def residual(rng):
    shape = images(rng)
    c = shape[1]
    body = BatchNorm2D(c), GELU(), Dropout(0.3, rng=rng)
    shortcut = Conv2D(c, c, 1, rng=rng) if rng.integers(2) else None
    return Residual(Sequential(*body), shortcut), shape


GEOMETRIES = {
    "batch norm": batch_norm,
    "transposed": transposed,
    "dropout": lambda rng: (Dropout(float(rng.choice([0, 0.1, 0.5, 0.9])), rng=rng), images(rng)),
    "residual": residual,
    "leaky": lambda rng: (LeakyReLU(rng.random()), images(rng)),
    "gelu": lambda rng: (GELU(), images(rng)),
    "global average": lambda rng: (GlobalAvgPool2D(), images(rng)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", GEOMETRIES)
def test_no_false_alarm_in_a_hundred_geometries(kind, monkeypatch):
    monkeypatch.setattr(protocol, "THREAD_SECONDS", 0)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        layer, shape = GEOMETRIES[kind](rng)
        x = rng.standard_normal(shape)
        report = check_gradients(layer, x if seed % 4 else np.round(x), seed=seed)
        assert report.ok and max(report.errors.values()) < 1e-6, (seed, report)


class WrongLinear(Linear):
    """A linear layer with one wrong gradient."""

    def __init__(self, name, fault):
        super().__init__(3, 2)
        self.name, self.fault = name, fault

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        gradients = {"x": dx, **grads}
        gradients[self.name] = self.fault(gradients[self.name])
        return gradients.pop("x"), gradients


@pytest.mark.parametrize(
    "fault, error",
    [
        (lambda g: 1.25 * g, 0.25),
        (lambda g: g[:1], np.inf),
        (lambda g: -g, 2),
        (lambda g: g * np.nan, np.inf),
    ],
)
@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_the_check_finds_a_wrong_gradient(name, fault, error):
    layer = WrongLinear(name, fault).astype(np.float64)
    x = 0.1 * np.random.default_rng(0).standard_normal((4, 3))
    report = check_gradients(layer, x)
    assert [finding.name for finding in report.findings] == [name]
    errors = report.errors
    assert errors.pop(name) == pytest.approx(error)
    assert max(errors.values()) < 1e-8


def test_numerical_gradient_restores_what_it_perturbs():
    x = np.random.default_rng(0).standard_normal((2, 3))
    before = x.tobytes()
    np.testing.assert_allclose(numerical_gradient(lambda x: np.sum(x**3), x), 3 * x**2, rtol=1e-8)
    assert x.tobytes() == before
    with pytest.raises(ValueError, match="float64.*float32"):
        numerical_gradient(np.sum, x.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layer_and_input_are_left_as_they_are(dtype):
    layer = Linear(3, 2).astype(dtype)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
    before = x.tobytes(), layer.params["weight"].tobytes()
    assert check_gradients(layer, x).ok
    assert (x.tobytes(), layer.params["weight"].tobytes()) == before


def test_kinks_are_counted_and_named():
    x = np.array([[1.0, 0.0, -2.0, 0.0]])
    report = check_gradients(ReLU(), x)
    assert report.ok
    assert report.comparisons[0].kinks == 2
    assert "kinks or ties: 2" in str(report)
    smooth = check_gradients(ReLU(), np.array([[1.0, -2.0]]))
    assert smooth.comparisons[0].kinks == 0 and "kinks" not in str(smooth)


def scaled(layer_type, factor):
    """A layer of this type whose dx is multiplied by a factor."""

    class ScaledLayer(layer_type):
        def backward(self, dy, saved, need_dx=True):
            dx, grads = super().backward(dy, saved)
            return dx * dx.dtype.type(factor), grads

    return ScaledLayer()


class SlopeAtTheKink(ReLU):
    """A ReLU with a given slope at 0."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return np.maximum(x, 0), x

    def backward(self, dy, saved, need_dx=True):
        return dy * np.where(saved == 0, self.slope, saved > 0).astype(dy.dtype), {}


@pytest.mark.parametrize(
    "slope, ok", [(0, True), (0.5, True), (1, True), (-0.1, False), (2, False)]
)
def test_at_a_kink_any_slope_between_left_and_right_will_do(slope, ok):
    assert check_gradients(SlopeAtTheKink(slope), np.array([[1.0, 0.0, -2.0]])).ok is ok


def test_a_tie_must_keep_the_sum():
    x = np.ones((1, 1, 2, 2))
    assert check_gradients(MaxPool2D(2), x).ok
    report = check_gradients(MaxPoolEveryTie(2), x)
    assert report.cause == "a tie not counted exactly once"
    assert check_gradients(MaxPoolEveryTie(2), np.arange(4.0).reshape(1, 1, 2, 2)).ok


def test_the_message_names_the_first_wrong_entry_and_both_values():
    class OneWrong(Linear):
        def backward(self, dy, saved, need_dx=True):
            dx, grads = super().backward(dy, saved, need_dx)
            grads["weight"][1, 2:] += 1000
            return dx, grads

    layer = OneWrong(4, 3).astype(np.float64)
    report = check_gradients(layer, np.random.default_rng(0).standard_normal((2, 4)), seed=7)
    (finding,) = report.findings
    assert finding.name == "weight"
    assert "2 of 12 entries of dweight" in finding.message and "[1, 2]" in finding.message
    claimed, expected = (float(word.rstrip(",")) for word in finding.message.split()[-4::3])
    assert claimed - expected == pytest.approx(1000, abs=0.1)
    assert "seed 7" in str(report) and "WRONG" in str(report)


def test_large_arrays_are_compared_along_a_direction():
    x = np.random.default_rng(0).standard_normal((2, 50))
    report = check_gradients(Linear(50, 50), x)
    assert report.ok and report.comparisons[1].index is None
    assert report.errors["weight"] < 1e-7
    wrong = check_gradients(LinearTransposed(50, 50), x)
    assert [finding.name for finding in wrong.findings] == ["weight"]
    assert "direction" in wrong.findings[0].message


def test_at_a_kink_entries_of_a_large_array_are_compared_one_by_one():
    x = np.random.default_rng(0).standard_normal((1, 1200))
    assert check_gradients(ReLU(), x).comparisons[0].index is None
    x[0, :600] = 0
    report = check_gradients(ReLU(), x)
    assert report.ok and 20 < report.comparisons[0].kinks < 80
    wrong = check_gradients(scaled(ReLU, 5), x)
    assert "entries of dx are wrong" in str(wrong)


def test_a_wrong_shape_of_a_large_array_is_reported_at_once():
    report = check_gradients(LinearTransposed(200, 100), np.ones((2, 200)))
    (finding,) = report.findings
    assert finding.message == "dweight has shape (200, 100) but weight has (100, 200)"


RIGHT_AT_KINKS = {
    "network of zeros": (lambda: Sequential(Linear(3, 8), ReLU(), Linear(8, 2)), np.zeros((2, 3))),
    "kinks that cancel": (lambda: Cancelling(), np.zeros((2, 3))),
    "relu near its kink": (ReLU, np.linspace(-1e-5, 1e-5, 60).reshape(6, 10)),
    "maximum of tiny numbers": (lambda: MaxPool2D(2), 1e-6 * np.arange(16.0).reshape(1, 1, 4, 4)),
    "elu at 0": (lambda: Elementwise(elu, elu_slope), np.zeros((1, 2))),
    "large numbers": (lambda: Linear(3, 2), np.array([[1e6, -2e6, 3e6]])),
    "large squares": (lambda: LossLayer(squared_error, np.ones((1, 2))), np.array([[1e6, 3e5]])),
    "exp": (lambda: Elementwise(np.exp, np.exp), np.array([[1.0, 2.0]])),
    "no images": (lambda: Linear(3, 2), np.zeros((0, 3))),
}


class Elementwise(ReLU):
    def __init__(self, function, derivative):
        super().__init__()
        self.function, self.derivative = function, derivative

    def forward(self, x):
        return self.function(x), x

    def backward(self, dy, saved, need_dx=True):
        return dy * self.derivative(saved), {}


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def elu_slope(x):
    return np.where(x > 0, 1, np.exp(np.minimum(x, 0)))


class Cancelling(Sequential):
    """relu(x) - relu(-x), which is x: at 0 both parts have a kink, their difference has none."""

    def __init__(self):
        spread, join = Linear(3, 6, bias=False), Linear(6, 3, bias=False)
        spread.params["weight"] = np.concatenate([np.eye(3), -np.eye(3)])
        join.params["weight"] = np.concatenate([np.eye(3), -np.eye(3)], axis=1)
        super().__init__(spread, ReLU(), join)


@pytest.mark.parametrize("name", RIGHT_AT_KINKS)
def test_no_false_alarm_for_unusual_inputs(name):
    make, x = RIGHT_AT_KINKS[name]
    report = check_gradients(make(), x)
    assert report.ok, report


def test_no_false_alarm_for_a_network_on_blank_images():
    rng = np.random.default_rng(0)
    x = np.zeros((1, 1, 9, 9))
    x[0, 0, 3:6, 3:6] = rng.random((3, 3))
    net = Sequential(Conv2D(1, 3, 3, padding=1, rng=rng), ReLU(), MaxPool2D(3, 2), Flatten())
    assert check_gradients(net, x).ok
    wrong = Sequential(net.layers[0], scaled(ReLU, 2), *net.layers[2:])
    assert "1.x" in {finding.name for finding in check_gradients(wrong, x).findings}


def test_the_wrong_layer_of_a_network_is_named():
    rng = np.random.default_rng(0)
    net = Sequential(Conv2D(1, 2, 3, rng=rng), Tanh(), ConvLastImage(2, 3, 3, rng=rng), Flatten())
    report = check_gradients(net, rng.standard_normal((3, 1, 7, 6)))
    assert {f.name for f in report.findings} == {"2.weight", "2.bias"}
    assert any(
        f.message.startswith("layer 2, ConvLastImage(2, 3, 3): 54 of 54 entries of dweight")
        for f in report.findings
    )


class Faulty(Linear):
    """A linear layer (N, 4) -> (N, 3) whose (dx, grads), a dict of four, goes through `fault`."""

    def __init__(self, fault):
        super().__init__(4, 3, rng=np.random.default_rng(0))
        self.fault = fault

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return self.fault(dx, grads, dy, saved)


def change(name, function):
    """A fault: one gradient, after `function`."""

    def fault(dx, grads, dy, x):
        gradients = {"x": dx, **grads}
        gradients[name] = function(gradients[name])
        return gradients.pop("x"), gradients

    return fault


FAULTY = {
    "never computed": ("bias", change("bias", np.zeros_like)),
    "not finite": ("x", change("x", lambda g: g / 0)),
    "off by less than 1e-5: an epsilon too many, or computed in float32": (
        "weight",
        change("weight", lambda g: g * (1 + 5e-6)),
    ),
    "opposite sign, divided by 2": ("x", change("x", lambda g: -g / 2)),
    "times N": ("weight", change("weight", lambda g: 5 * g)),
    "times 1.7": ("weight", change("weight", lambda g: 1.7 * g)),
    "upstream gradient ignored": (
        "bias",
        lambda dx, grads, dy, x: (dx, grads | {"bias": x[0, :3]}),
    ),
    "not linear in the upstream gradient": (
        "x",
        lambda dx, grads, dy, x: (dx * abs(dy).max(), grads),
    ),
    "transposed": ("weight", change("weight", np.transpose)),
    "right numbers in another shape": ("bias", change("bias", lambda g: g[None])),
    "right numbers in the wrong places": ("weight", change("weight", lambda g: g[::-1])),
    "entries left at zero": ("weight", change("weight", np.triu)),
    "not summed over the batch": (
        "bias",
        lambda dx, grads, dy, x: (dx, grads | {"bias": dy}),
    ),
    "overwritten where it should be added up": (
        "weight",
        lambda dx, grads, dy, x: (dx, grads | {"weight": dy[2:3].T @ x[2:3]}),
    ),
    "dtype lost": ("x", change("x", lambda g: g.astype(np.float64))),
    "float32 computed differently": (
        "x",
        change("x", lambda g: -g if g.dtype == np.float32 else g),
    ),
    "depends on the order in memory": (
        "x",
        lambda dx, grads, dy, x: (
            dx if x.flags.c_contiguous or len(x) == 1 else np.zeros_like(dx),
            grads,
        ),
    ),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("cause", FAULTY)
def test_the_cause_is_named(cause):
    gradient, fault = FAULTY[cause]
    x = np.random.default_rng(1).standard_normal((5, 4))
    report = check_gradients(Faulty(fault), x)
    assert (report.findings[0].name, report.cause) == (gradient, cause), report


def test_what_is_clipped_is_found():
    layer = Faulty(change("x", lambda g: np.clip(g, -50, 50)))
    report = check_gradients(layer, np.ones((5, 4)))
    assert report.cause == "not linear in the upstream gradient"


@pytest.mark.parametrize(
    "fault, message",
    [
        (lambda dx, grads, dy, x: dx, r"expected \(dx, grads\), .*got \(ndarray\)"),
        (lambda dx, grads, dy, x: (dx, None), r"got \(ndarray, NoneType\)"),
        (lambda dx, grads, dy, x: [][0], "IndexError in backward: list index out of range"),
        (lambda dx, grads, dy, x: (None, grads), "backward gave no dx"),
        (lambda dx, grads, dy, x: (dx, {"weight": grads["weight"]}), "backward gave no dbias"),
        (lambda dx, grads, dy, x: (dx, grads | {"b": dx}), "gave db but there is no parameter b"),
    ],
)
def test_what_backward_returns_is_checked(fault, message):
    report = check_gradients(Faulty(fault), np.ones((5, 4)))
    assert len(report.findings) == 1
    assert re.search(message, str(report))


def test_other_breaches_of_the_protocol():
    class SaysOtherShape(ReLU):
        def output_shape(self, x_shape):
            return x_shape[::-1]

    class Centred(ReLU):
        def forward(self, x):
            return x - x.mean(axis=0), None

        def backward(self, dy, saved, need_dx=True):
            return dy - dy.mean(axis=0), {}

    class KeepsMask(ReLU):
        def forward(self, x):
            self.mask = x > 0
            return x * self.mask, None

        def backward(self, dy, saved, need_dx=True):
            return dy * self.mask, {}

    class WritesIntoSaved(ReLU):
        def forward(self, x):
            y, _ = super().forward(x)
            return y, {"y": y.copy()}

        def backward(self, dy, saved, need_dx=True):
            mask = saved["y"] > 0
            saved["y"] *= 2
            return dy * mask, {}

    class WritesIntoWeight(Linear):
        def backward(self, dy, saved, need_dx=True):
            dx, grads = super().backward(dy, saved)
            self.params["weight"] -= 0.1
            return dx, grads

    x = np.random.default_rng(0).random((3, 4))
    assert check_gradients(SaysOtherShape(), x).cause == "output_shape is wrong"
    assert check_gradients(Centred(), x).cause == "images of a batch mixed"
    assert check_gradients(KeepsMask(), x).cause == "a batch kept in the layer"
    assert check_gradients(WritesIntoSaved(), x).findings[0].name == "saved"
    assert check_gradients(WritesIntoWeight(4, 2), x).findings[0].name == "weight"
    Centred.mixes_images = True
    assert check_gradients(Centred(), x).cause == "images of a batch mixed"  # in inference
    Centred.__call__ = lambda self, x: x.copy()
    assert check_gradients(Centred(), x, inference=lambda x: x).ok


def test_other_arrays_of_the_layer_are_left_as_they_are():
    class Counts(ReLU):
        def __init__(self):
            super().__init__()
            self.passes = np.zeros(1)

        def forward(self, x):
            self.passes += 1
            return super().forward(x)

    layer = Counts()
    assert check_gradients(layer, np.ones((2, 3))).ok
    assert layer.passes == 0


def test_a_loss_may_be_a_partial_function_and_a_target_a_list():
    loss = functools.partial(squared_error, reduction="sum")
    report = check_gradients(LossLayer(loss, [[1.0, 2.0]]), np.zeros((1, 2)))
    assert report.ok and "squared_error" in report.layer


def test_a_parameter_may_be_a_single_number():
    class Slope(ReLU):
        def __init__(self, factor):
            super().__init__()
            self.params = {"slope": np.array(0.5)}
            self.factor = factor

        def forward(self, x):
            return x * self.params["slope"].astype(x.dtype), x

        def backward(self, dy, saved, need_dx=True):
            slope = self.params["slope"].astype(saved.dtype)
            return dy * slope, {"slope": self.factor * np.sum(dy * saved)}

    x = np.random.default_rng(0).standard_normal((3, 4))
    assert check_gradients(Slope(1), x).ok
    assert check_gradients(Slope(3), x).cause == "times N"


def test_settings_are_handed_to_the_layers_of_a_network():
    net = Sequential(Linear(4, 3), scaled(Tanh, 1 + 1e-4))
    x = np.random.default_rng(0).standard_normal((2, 4))
    assert not check_gradients(net, x).ok
    assert check_gradients(net, x, rtol=1e-3).ok


@pytest.mark.parametrize("off, ok", [(3e-7, True), (3e-6, False)])
@pytest.mark.parametrize("size", [4, 60])
def test_the_tolerance_is_that_of_the_report(size, off, ok):
    layer = Faulty(change("weight", lambda g: g * (1 + off)))
    if size > 4:
        layer.params["weight"] = np.random.default_rng(0).standard_normal((3, size))
        layer.in_features = size
    x = np.random.default_rng(1).standard_normal((200 if size > 4 else 5, size))
    assert check_gradients(layer, x).ok is ok


def test_nan_in_a_gradient_of_a_large_array_is_found():
    layer = scaled(ReLU, np.nan)
    assert not check_gradients(layer, np.ones((1, 600))).ok


def test_a_forward_that_is_not_the_reference_is_reported():
    report = check_gradients(Tanh(), np.ones((1, 2)), reference=lambda x: np.tanh(x) + [[0, 1e-6]])
    assert [(f.name, f.cause) for f in report.findings] == [("y", "forward is wrong")]
    assert "[0, 1]" in report.findings[0].message
    assert check_gradients(Tanh(), np.ones((1, 2)), reference=np.tanh).ok


def test_the_error_against_the_step():
    x = np.random.default_rng(0).standard_normal((3, 4))
    curved = step_errors(Sigmoid(), x, [1e-1, 1e-2, 1e-3])
    assert curved[0] / curved[1] == pytest.approx(100, rel=0.1)
    assert curved[1] / curved[2] == pytest.approx(100, rel=0.1)
    assert step_errors(Linear(4, 3), x, [1e-1])[0] < 1e-13
    rounded = step_errors(Linear(4, 3), x, [1e-5, 1e-11])
    assert rounded[1] > 1e3 * rounded[0]


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ValueError, match="x must be finite"):
        check_gradients(Tanh(), np.array([[np.nan, 1.0]]))
    with pytest.raises(
        ValueError, match=r"expected a layer, or LossLayer.*<function squared_error"
    ):
        check_gradients(squared_error, np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        check_gradients(Linear(3, 2), np.ones((1, 2)))


def test_a_guess_that_the_layer_cannot_take_is_no_guess():
    class Picky(ReLU):
        def backward(self, dy, saved, need_dx=True):
            if abs(dy).max() > 3:
                raise ValueError("dy is too large")
            return dy * 0.7 + 0.1, {}

    report = check_gradients(Picky(), np.ones((1, 2)))
    assert "2 of 2 entries of dx" in str(report)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_right_for_one_upstream_gradient_by_chance_is_found(seed):
    report = check_gradients(ReLUMaskOfUpstream(), np.ones((1, 1)), seed=seed)
    assert report.cause == "not linear in the upstream gradient" or report.cause == "never computed"


def test_the_upstream_gradient_is_not_the_input_that_the_seed_draws():
    x = np.random.default_rng(0).standard_normal((3, 4))
    assert not check_gradients(LinearTransposed(4, 4), x, seed=0).ok


class Unkeyed(Layer):
    """Sets half of the entries to zero, different ones each time; backward is wrong by a factor."""

    def __init__(self, factor):
        super().__init__()
        self.rng, self.factor = np.random.default_rng(0), factor

    def forward(self, x):
        mask = (self.rng.random(x.shape) < 0.5).astype(x.dtype)
        return x * mask, mask

    def backward(self, dy, saved, need_dx=True):
        return dy * saved * dy.dtype.type(self.factor), {}


@pytest.mark.parametrize("factor", [1, 5])
def test_random_numbers_in_forward_are_reported(factor):
    assert check_gradients(Unkeyed(factor), np.ones((3, 4))).cause == "random numbers in forward"


def test_gradients_that_are_missing_without_dx_are_reported():
    class ReturnsEarly(Linear):
        def backward(self, dy, saved, need_dx=True):
            return super().backward(dy, saved) if need_dx else (None, {})

    report = check_gradients(ReturnsEarly(3, 2), np.ones((2, 3)))
    assert {(f.name, f.cause) for f in report.findings} == {
        ("weight", "need_dx misread"),
        ("bias", "need_dx misread"),
    }


def test_an_output_that_is_not_finite_is_reported():
    log = Elementwise(np.log, lambda x: 77 + 0 * x)
    with np.errstate(invalid="ignore"):
        assert check_gradients(log, np.array([[-1.0, 2.0]])).cause == "not finite"


def test_curvature_along_a_direction_is_no_fault():
    rows = np.random.default_rng(0).standard_normal((100, 10))
    rows[::2] = 0
    report = check_gradients(LayerNorm(), rows)
    assert report.comparisons[0].index is None and report.ok, report


class LayerNorm(ReLU):
    """Each row, less its mean and divided by its deviation."""

    def forward(self, x):
        deviation = np.sqrt(x.var(axis=1, keepdims=True) + x.dtype.type(1e-5))
        y = (x - x.mean(axis=1, keepdims=True)) / deviation
        return y, (y, deviation)

    def backward(self, dy, saved, need_dx=True):
        y, deviation = saved
        mean, share = dy.mean(axis=1, keepdims=True), (dy * y).mean(axis=1, keepdims=True)
        return (dy - mean - y * share) / deviation, {}


def test_at_kinks_the_layers_of_a_network_are_checked_too():
    x = np.zeros((1, 1, 4, 4))
    x[0, 0, 1, 1] = 1
    assert check_gradients(Sequential(ReLU(), MaxPool2D(2)), x).ok
    wrong = check_gradients(Sequential(ReLU(), MaxPoolEveryTie(2)), x)
    assert wrong.findings[-1].name == "1.x"


def test_only_a_network_that_runs_its_layers_is_excused_by_their_kinks():
    class ForgetsTheSkip(Sequential):
        def forward(self, x):
            y, tape = super().forward(x)
            return x + y, tape

    x = np.random.default_rng(0).standard_normal((3, 4))
    x[0] = 0
    rng = np.random.default_rng(1)
    net = ForgetsTheSkip(Linear(4, 3, rng=rng), ReLU(), Linear(3, 4, rng=rng))
    assert not check_gradients(net, x).ok


def test_more_that_a_layer_must_not_keep():
    class KeepsShape(Flatten):
        def forward(self, x):
            self.shape = x.shape
            return super().forward(x)

        def backward(self, dy, saved, need_dx=True):
            return dy.reshape(self.shape), {}

    class SameArray(Linear):
        total = None

        def backward(self, dy, saved, need_dx=True):
            dx, grads = super().backward(dy, saved)
            if self.total is None:
                self.total = np.zeros_like(grads["weight"])
            self.total += grads["weight"]
            return dx, grads | {"weight": self.total}

    x = np.random.default_rng(0).standard_normal((3, 4))
    assert check_gradients(KeepsShape(), x).cause == "a batch kept in the layer"
    assert check_gradients(SameArray(4, 2), x).cause == "gradients pile up"


@pytest.mark.parametrize(
    "mix", [lambda x: x.cumsum(axis=0), lambda x: x[::-1].cumsum(axis=0)[::-1]]
)
def test_images_that_are_mixed_in_one_direction_only_are_found(mix):
    assert check_gradients(Elementwise(mix, np.ones_like), np.ones((3, 2))).cause == (
        "images of a batch mixed"
    )


def test_an_output_may_be_a_view_of_a_parameter():
    class Constant(ReLU):
        def __init__(self, used):
            super().__init__()
            self.used = used
            self.params = {"value": np.ones(4, np.float32)}

        def forward(self, x):
            value = self.params["value"].astype(x.dtype, copy=False)
            return np.broadcast_to(value, x.shape) if self.used else x, None

        def backward(self, dy, saved, need_dx=True):
            return (0 * dy if self.used else dy), {"value": dy.sum(axis=0)}

    assert check_gradients(Constant(True), np.ones((3, 4))).ok
    assert (
        check_gradients(Constant(False), np.ones((3, 4))).cause == "forward does not depend on it"
    )


def test_where_an_exception_came_from_is_told():
    table = np.arange(10.0)
    lookup = Elementwise(lambda x: table[x.astype(int)].astype(x.dtype), np.zeros_like)
    message = str(check_gradients(lookup, np.array([[1.5, 2.5]])))
    assert "IndexError with other inputs, while checking the protocol" in message


def test_a_loss_may_be_a_number_of_python():
    def loss(x, target):
        return float(abs(x - target).sum()), np.sign(x - target)

    assert check_gradients(LossLayer(loss, np.zeros((2, 3))), np.ones((2, 3))).ok


class Half(ReLU):
    """Right in forward and backward, half of it in inference."""

    def __call__(self, x):
        return super().__call__(x) / 2


def test_inference_that_is_not_forward_is_reported():
    x = np.array([[1.0, 3.0], [-2.0, 5.0]])
    report = check_gradients(Half(), x)
    assert [(f.name, f.check, f.cause) for f in report.findings] == [
        ("y", "call", "__call__ differs from forward")
    ]
    assert "layer(x) is 2.5 at [1, 1], but forward gives 5." in str(report)
    in_a_net = check_gradients(Sequential(Tanh(), Half()), x)
    assert "1.y" in {f.name for f in in_a_net.findings}

    class Rows(ReLU):
        def __call__(self, x):
            return x[0]

    message = check_gradients(Rows(), x).findings[0].message
    assert message == "layer(x) has shape (2,), but forward gives (2, 2)"

    class InPlace(ReLU):
        def __call__(self, x):
            return np.maximum(x, 0, out=x)

    assert check_gradients(InPlace(), x).findings[0].message == "layer(x) wrote into x"

    class Single(ReLU):
        def __call__(self, x):
            return super().__call__(x).astype(np.float64)

    assert check_gradients(Single(), x).findings[0].message == "float32 in, but layer(x) is float64"


def test_inference_that_differs_on_purpose_is_compared_with_what_it_should_give():
    x = np.random.default_rng(0).standard_normal((3, 4))

    def half(x):
        return np.maximum(x, 0) / 2

    assert check_gradients(Half(), x, inference=half).ok
    wrong = check_gradients(Half(), x, inference=np.tanh)
    assert "but inference gives" in wrong.findings[0].message
    net = Sequential(ReLU(), Half())
    assert check_gradients(net, np.round(x), inference=half).ok
    wrong_dx = Sequential(scaled(Tanh, 2), Half())
    assert {f.name for f in check_gradients(wrong_dx, x, inference=wrong_dx).findings} == {
        "x",
        "0.x",
    }


def test_the_traceback_of_what_a_layer_raises_is_shown():
    def divided(x):
        return x / np.array([1.0, 2.0])[x[:, 0].astype(int), None]

    class Raises(ReLU):
        def backward(self, dy, saved, need_dx=True):
            return self.helper(dy), {}

        def helper(self, dy):
            raise KeyError("nothing here")

    for layer, x, function in (
        (Raises(), np.ones((2, 3)), "helper"),
        (Elementwise(divided, np.ones_like), np.array([[1.5], [0.5]]), "divided"),
    ):
        report = check_gradients(layer, x)
        lines = str(report).splitlines()
        at = next(i for i, line in enumerate(lines) if line.endswith(f", in {function}"))
        assert lines[at].strip().startswith(f'File "{__file__}", line ')
        source = "raise KeyError" if function == "helper" else "return x / np.array"
        assert lines[at + 1].strip().startswith(source)
        assert "gradcheck/check.py" not in str(report)
        assert report.cause == "an exception"


def test_random_numbers_leave_nothing_to_compare_with():
    report = check_gradients(Unkeyed(1), np.ones((3, 4)))
    assert report.comparisons == () and report.kinks == 0
    assert "dx, linearity (fix what is wrong first)" in report.unchecked[-1]


@pytest.mark.parametrize(
    "layer, x, unchecked",
    [
        (Linear(3, 2), np.ones((2, 3)), ()),
        (Linear(3, 2), np.ones((1, 3)), ("images_apart (x has fewer than two images)",)),
        (
            LossLayer(squared_error, np.ones((2, 3))),
            np.zeros((2, 3)),
            ("images_apart, batch_size (mixes_images is True)",),
        ),
        (
            Sequential(Linear(600, 2), Tanh()),
            np.ones((2, 600)) / 600,
            (
                "dx, d0.weight entry by entry, but along one direction only",
                "values of float32 against those of float64 (rounding adds up in a network)",
            ),
        ),
        (
            ReLU(),
            np.array([[1.0, 0.0], [0.0, -2.0]]),
            ("dx at kinks or ties (2): any slope between right and left will do",),
        ),
        (
            scaled(ReLU, 3),
            np.ones((2, 2)),
            ("linearity (fix what is wrong first)",),
        ),
    ],
)
def test_the_report_says_what_was_not_checked(layer, x, unchecked):
    report = check_gradients(layer, x)
    assert report.unchecked == unchecked
    assert [line for line in str(report).splitlines() if "not checked: " in line] == [
        f"    not checked: {what}" for what in unchecked
    ]


def test_a_sample_and_an_excuse_are_told():
    x = np.random.default_rng(0).standard_normal((2, 600))
    x[:, :300] = 0
    sampled, kinks = check_gradients(ReLU(), x).unchecked
    assert sampled == "dx at 1100 of its 1200 entries: the others are a sample"
    assert kinks.startswith("dx at kinks or ties (")
    excused = check_gradients(Cancelling(), np.zeros((2, 3))).unchecked
    assert any("at all, since its layers are at kinks" in line for line in excused), excused


def test_the_name_of_version_0_1_still_reads():
    assert check_gradients(scaled(ReLU, 3), np.ones((2, 2))).findings[0].gradient == "x"


def test_two_threads_in_one_layer_must_not_disturb_each_other():
    class Scratch(ReLU):
        """Right in one thread: what is kept is used at once, and not in backward."""

        def forward(self, x):
            self.x = x
            time.sleep(0.001)
            return super().forward(self.x)

    x = np.random.default_rng(0).standard_normal((3, 4))
    report = check_gradients(Scratch(), x)
    assert report.cause == "not safe for two threads"
    assert {f.check for f in report.findings} == {"two_threads"}


def test_a_function_that_returns_a_view_of_what_moves():
    x = np.zeros(2)
    np.testing.assert_allclose(numerical_gradient(lambda x: x[:1].reshape(()), x), [1, 0])


def test_the_entries_are_restored_when_the_function_raises():
    def sure_at_zero_only(x):
        if x.any():
            raise RuntimeError("not there")
        return 0.0

    x = np.zeros(2)
    with pytest.raises(RuntimeError, match="not there"):
        numerical_gradient(sure_at_zero_only, x)
    assert not x.any()


def backward_of(layer, backward):
    """The layer with a different backward: a function of dy, saved and the right (dx, grads)."""

    class Wrong(type(layer)):
        def backward(self, dy, saved, need_dx=True):
            return backward(dy, saved, *super().backward(dy, saved))

    layer.__class__ = Wrong
    return layer


def without_the_part_along_x_hat(dy, saved, times):
    """dx of a batch norm with weights of 1, whose mean is a constant, or `times` of its last term
    are taken off."""
    x_hat, inverse_std, _, _ = saved
    x_hat = np.moveaxis(x_hat, -1, 0)
    inverse_std, m = inverse_std[..., None], x_hat[:, 0].size
    share = (dy * x_hat).sum(axis=(0, 2, 3), keepdims=True) / m
    return inverse_std * (dy - times * share * x_hat)


def mean_as_constant(dy, saved, dx, grads):
    return without_the_part_along_x_hat(dy, saved, 1), grads


def unbiased_in_backward(dy, saved, dx, grads):
    m = dy[:, 0].size
    centred = dy - dy.mean(axis=(0, 2, 3), keepdims=True)
    return without_the_part_along_x_hat(centred, saved, m / (m - 1)), grads


def constant_in_rows(dy, saved, dx, grads):
    return dy / saved[1], grads


def constant_variance_in_rows(dy, saved, dx, grads):
    return (dy - dy.mean(axis=1, keepdims=True)) / saved[1], grads


IMAGES, ROWS = (3, 2, 3, 2), (3, 6)


@pytest.mark.parametrize(
    "cause, make, backward, shape",
    [
        ("mean taken as a constant", lambda: BatchNorm2D(2), mean_as_constant, IMAGES),
        (
            "M and M - 1 mixed up in the variance",
            lambda: BatchNorm2D(2),
            unbiased_in_backward,
            IMAGES,
        ),
        ("mean and variance taken as constants", lambda: LayerNorm(), constant_in_rows, ROWS),
        ("variance taken as a constant", lambda: LayerNorm(), constant_variance_in_rows, ROWS),
        (None, lambda: LayerNorm(), lambda dy, saved, dx, grads: (dx + dy * saved[0], grads), ROWS),
        (
            "times 1 - p",
            lambda: Dropout(0.25, rng=np.random.default_rng(0)),
            lambda dy, keep, dx, grads: (dy * keep, grads),
            IMAGES,
        ),
        (
            "not the mask of forward",
            ReLU,
            lambda dy, y, dx, grads: (dy * (y == 0), grads),
            IMAGES,
        ),
        (
            "not the mask of forward",
            lambda: Dropout(0.5, rng=np.random.default_rng(0)),
            lambda dy, keep, dx, grads: (2 * dy * keep[::-1], grads),
            IMAGES,
        ),
        (
            "the derivative of an approximation",
            GELU,
            lambda dy, slope, dx, grads: (dy * (slope + 0.004 * np.sin(9 * slope)), grads),
            IMAGES,
        ),
        (None, GELU, lambda dy, slope, dx, grads: (dy * (slope + 0.2 * slope**2), grads), IMAGES),
    ],
)
def test_more_causes_are_named(cause, make, backward, shape):
    x = np.random.default_rng(0).standard_normal(shape)
    report = check_gradients(backward_of(make(), backward), x)
    assert not report.ok and report.cause == cause, report


def scattered(dy, weight):
    """dx of a convolution with stride 1 and without padding: the kernel times dy, window by
    window."""
    (n, _, oh, ow), (_, c, kh, kw) = dy.shape, weight.shape
    dx = np.zeros((n, c, oh - 1 + kh, ow - 1 + kw), dy.dtype)
    for p, q in np.ndindex(oh, ow):
        dx[:, :, p : p + kh, q : q + kw] += np.einsum("no,ocij->ncij", dy[:, :, p, q], weight)
    return dx


@pytest.mark.parametrize("alone", [True, False])
def test_a_stride_that_dx_forgets_is_named(alone):
    conv = Conv2D(2, 3, (2, 3), stride=(3, 2), rng=np.random.default_rng(0)).astype(np.float64)

    def backward(dy, x, dx, grads):
        dense = scattered(dy, conv.params["weight"].astype(dy.dtype))
        rest = [(0, 0), (0, 0), *zip((0, 0), np.subtract(x.shape, dense.shape)[2:])]
        return (dense if alone else np.pad(dense, rest)), grads

    x = np.random.default_rng(1).standard_normal((2, 2, 8, 7))
    assert check_gradients(backward_of(conv, backward), x).cause == "as if the stride were 1"


@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("axis, places", [(2, "rows"), (3, "columns")])
def test_a_sum_over_some_of_the_outputs_is_named(axis, places, place):
    def backward(dy, x, dx, grads):
        return dx, grads | {"bias": dy.take(place, axis).sum(axis=(0, 2))}

    x = np.random.default_rng(0).standard_normal((3, 2, 5, 6))
    report = check_gradients(backward_of(Conv2D(2, 4, 3), backward), x)
    assert report.cause == f"not summed over all {places}"


def test_a_sum_that_keeps_an_axis_of_the_outputs_is_named():
    x = np.random.default_rng(0).standard_normal((3, 2, 5, 6))
    for axes, cause in {
        (0, 2): "not summed over all outputs",
        (2, 3): "not summed over the batch",
    }.items():
        conv = backward_of(
            Conv2D(2, 4, 3),
            lambda dy, x, dx, grads, axes=axes: (dx, grads | {"bias": dy.sum(axis=axes)}),
        )
        assert check_gradients(conv, x).cause == cause


def test_the_jacobian_of_softmax_that_is_left_out_is_named():
    def cross_entropy(logits, labels):
        p, rows = softmax(logits), np.arange(len(labels))
        dp = np.zeros_like(p)
        dp[rows, labels] = -1 / (len(p) * p[rows, labels])
        return -np.log(p[rows, labels]).mean(), dp

    x = np.random.default_rng(0).standard_normal((3, 5))
    report = check_gradients(LossLayer(cross_entropy, np.array([1, 4, 0])), x)
    assert [finding.cause for finding in report.findings if finding.check == "dx"] == [
        "Jacobian of softmax left out"
    ]


def test_a_new_running_average_that_is_wrong_is_explained():
    layer = BatchNorm2D(2, momentum=0.25)
    layer.state["running_mean"][...] = 1, 2
    x, right = np.ones((2, 2, 1, 2)), np.array([2.0, 4.0])  # of the statistics 5 and 10
    causes = {
        "momentum and 1 - momentum exchanged": [4, 8],
        "M and M - 1 mixed up in the variance": [0.75 + 5 / 4 * 3 / 4, 1.5 + 10 / 4 * 3 / 4],
        "updates is wrong": [2, 5],
    }
    for cause, claimed in causes.items():
        assert diagnose_update(layer, "running_mean", np.array(claimed), right, x) == cause


class Counting(ReLU):
    """A ReLU that counts the passes of training; `asked` makes what updates gives of it."""

    def __init__(self, asked=lambda layer, count: {"count": count}):
        super().__init__()
        self.state["count"] = np.zeros((), np.int64)
        self.asked = asked

    def updates(self, saved):
        return self.asked(self, self.state["count"] + 1)


def count_up(layer, count):
    layer.extra = getattr(layer, "extra", 0) + 1
    return {"count": count + layer.extra}


@pytest.mark.parametrize(
    "asked, cause, message",
    [
        (lambda layer, count: {}, "state and updates differ", r"gives \[\], .*state is \['count'"),
        (
            lambda layer, count: {"count": count.astype(float)},
            "state and updates differ",
            r"count as float64 \(\), but in the state it is int64 \(\)",
        ),
        (
            lambda layer, count: {"count": np.full(2, count)},
            "state and updates differ",
            r"count as int64 \(2,\), but",
        ),
        (count_up, "updates pile up", "a second updates gives a different count"),
    ],
)
def test_updates_that_do_not_fit_the_state_are_reported(asked, cause, message):
    x = np.random.default_rng(0).standard_normal((3, 4))
    report = check_gradients(Counting(asked), x)
    assert [(f.check, f.cause) for f in report.findings] == [("updates", cause)], report
    assert re.search(message, report.findings[0].message)
    assert check_gradients(Counting(), x, inference=lambda x: np.maximum(x, 0)).ok


def test_state_that_is_written_is_reported():
    def write(layer, count):
        layer.state["count"] += 1
        return {"count": count}

    class InInference(Counting):
        def __call__(self, x):
            self.state["count"] += 1
            return super().__call__(x)

    x = np.random.default_rng(0).standard_normal((3, 4))
    finding = check_gradients(Counting(write), x).findings[0]
    assert (finding.name, finding.cause) == ("count", "argument changed")
    finding = check_gradients(InInference(), x).findings[0]
    assert (finding.check, finding.message) == ("call", "layer(x) wrote into count")


class Drawing(Dropout):
    """A dropout whose `at` is a function of it and the key."""

    def __init__(self, keyed):
        super().__init__(rng=np.random.default_rng(0))
        self.keyed = keyed

    def at(self, key):
        return self.keyed(self, key)


def changed_in_place(layer, key):
    layer.key = key
    return copy.copy(layer)


def never_the_same(layer, key):
    same = copy.copy(layer)
    same.key = (*key, time.perf_counter_ns())
    return same


@pytest.mark.parametrize(
    "at, message",
    [
        (changed_in_place, "at(key) changes the layer itself"),
        (never_the_same, "the same key gives a different y the second time"),
    ],
)
def test_a_key_that_is_misread_is_reported(at, message):
    report = check_gradients(Drawing(at), np.ones((4, 30)))
    assert [(f.check, f.message) for f in report.findings] == [("key", message)]
    assert report.cause == "key not understood"


def test_a_layer_with_a_key_shares_its_arrays():
    class Copying(Counting):
        def at(self, key):
            return copy.deepcopy(self)

    report = check_gradients(Copying(), np.ones((3, 4)))
    assert report.findings[0].message == "at(key) gives a layer with arrays of its own"


def test_what_is_not_known_of_inference_and_keys_is_told():
    x = np.random.default_rng(0).standard_normal((3, 20))
    drawing, one_key = (
        check_gradients(Dropout(p, rng=np.random.default_rng(0)), x) for p in (0.5, 0.0)
    )
    told = "values of layer(x) (they differ from y: pass inference= to say what they should be)"
    assert drawing.ok and drawing.unchecked == (told,)
    assert one_key.ok and one_key.unchecked == (
        told,
        "whether y depends on the key (eight keys gave the same y)",
    )
    known = check_gradients(Dropout(rng=np.random.default_rng(0)), x, inference=lambda x: x)
    assert known.ok and known.unchecked == ()
    assert not check_gradients(Dropout(rng=np.random.default_rng(0)), x, inference=np.tanh).ok
