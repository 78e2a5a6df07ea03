"""The gradient checker: no false alarm, no fault overlooked, kinks and ties named."""

import numpy as np
import pytest

from minicnn import (
    AvgPool2D,
    Conv2D,
    Flatten,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
    softmax_cross_entropy,
    squared_error,
)
from minicnn.checklist import step_errors
from minicnn.gradcheck import LossLayer, check_gradients, numerical_gradient
from minicnn.museum import ConvLastImage, LinearTransposed, MaxPoolEveryTie, ReLUMaskOfUpstream


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


class WrongLinear(Linear):
    """A linear layer with one gradient that is wrong."""

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
    assert [finding.gradient for finding in report.findings] == [name]
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


class SlopeAtTheKink(ReLU):
    """A ReLU with a slope at 0 that is given."""

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
    assert report.cause == "a tie counted more than once"
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
    assert finding.gradient == "weight"
    assert "2 of 12 entries of dweight" in finding.message and "[1, 2]" in finding.message
    claimed, expected = (float(word.rstrip(",")) for word in finding.message.split()[-5::4])
    assert claimed - expected == pytest.approx(1000, abs=0.1)
    assert "seed 7" in str(report) and "WRONG" in str(report)


def test_large_arrays_are_compared_along_a_direction():
    x = np.random.default_rng(0).standard_normal((2, 50))
    report = check_gradients(Linear(50, 50), x)
    assert report.ok and report.comparisons[1].index is None
    assert report.errors["weight"] < 1e-7
    wrong = check_gradients(LinearTransposed(50, 50), x)
    assert [finding.gradient for finding in wrong.findings] == ["weight"]
    assert "direction" in wrong.findings[0].message


def test_a_kink_on_the_way_of_a_direction_is_named():
    net = Sequential(ReLU(), Linear(1200, 2, rng=np.random.default_rng(0)))
    x = np.random.default_rng(0).standard_normal((1, 1200))
    assert check_gradients(net, x).comparisons[0].kinks == 0
    x[0, :600] = 0
    report = check_gradients(net, x)
    assert report.ok and report.comparisons[0].kinks == 1


def test_the_wrong_layer_of_a_network_is_named():
    rng = np.random.default_rng(0)
    net = Sequential(Conv2D(1, 2, 3, rng=rng), Tanh(), ConvLastImage(2, 3, 3, rng=rng), Flatten())
    report = check_gradients(net, rng.standard_normal((3, 1, 7, 6)))
    assert {f.gradient for f in report.findings} == {"2.weight", "2.bias"}
    assert any(f.message.startswith("layer 2, ConvLastImage(2, 3, 3):") for f in report.findings)


def test_what_backward_raises_is_reported():
    class Raises(ReLU):
        def backward(self, dy, saved, need_dx=True):
            raise IndexError("too many axes")

    report = check_gradients(Raises(), np.ones((1, 2)))
    assert report.cause == "an exception"
    assert "IndexError in backward" in str(report) and "too many axes" in str(report)


def test_a_missing_gradient_is_reported():
    class NoBias(Linear):
        def backward(self, dy, saved, need_dx=True):
            dx, grads = super().backward(dy, saved, need_dx)
            return dx, {"weight": grads["weight"]}

    report = check_gradients(NoBias(2, 2), np.ones((3, 2)))
    assert [(f.gradient, f.cause) for f in report.findings] == [("bias", "never computed")]


def test_a_forward_that_is_not_the_reference_is_reported():
    report = check_gradients(Tanh(), np.ones((1, 2)), reference=lambda x: np.tanh(x) + [[0, 1e-6]])
    assert [(f.gradient, f.cause) for f in report.findings] == [("y", "forward is wrong")]
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


def test_what_is_no_layer_is_refused():
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


class Dropout(Layer):
    """Sets half of the entries to zero; backward is wrong by a factor."""

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
    assert check_gradients(Dropout(factor), np.ones((3, 4))).cause == "random numbers in forward"


def test_gradients_that_are_missing_without_dx_are_reported():
    class ReturnsEarly(Linear):
        def backward(self, dy, saved, need_dx=True):
            return super().backward(dy, saved) if need_dx else (None, {})

    report = check_gradients(ReturnsEarly(3, 2), np.ones((2, 3)))
    assert {(f.gradient, f.cause) for f in report.findings} == {
        ("weight", "need_dx misread"),
        ("bias", "need_dx misread"),
    }
