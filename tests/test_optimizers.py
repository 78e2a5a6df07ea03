"""SGD against closed forms of its recursion; the same steps in PyTorch are in test_pytorch.py."""

from fractions import Fraction

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding

from minicnn import SGD
from minicnn.optimizers import constant, cosine

START, GRADIENT, STEPS = 2.0, 0.5, 7


def run(optimizer, gradient, dtype=np.float64):
    w = np.full((2, 3), START, dtype)
    g = np.full((2, 3), gradient, dtype)
    for _ in range(STEPS):
        optimizer.step({"weight": w}, {"weight": g})
    assert w.dtype == dtype and np.all(g == gradient) and np.all(w == w[0, 0])
    return w[0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_constant_gradient(momentum, nesterov, dtype):
    """Step k moves by lr*gradient times the sum of m^i over i < k, or over i <= k with Nesterov."""
    sums = [sum(momentum**i for i in range(k + nesterov)) for k in range(1, STEPS + 1)]
    w = run(SGD(0.1, momentum=momentum, nesterov=nesterov), GRADIENT, dtype)
    moved = 0.1 * GRADIENT * sum(sums)
    assert_equal_but_for_rounding(w, START - moved, START + moved)


def test_weight_decay_alone_shrinks_geometrically():
    w = run(SGD(0.1, weight_decay=0.2), 0.0)
    expected = START * (1 - 0.1 * 0.2) ** STEPS
    assert_equal_but_for_rounding(w, expected, 2 * START - expected)  # START, and all that is lost


def test_weight_decay_enters_the_momentum():
    """Without v: w(k+1) = (1 + m - lr*d) w(k) - m w(k-1), with w(1) = (1 - lr*d) w(0)."""
    m, decay = Fraction(9, 10), Fraction(2, 100)  # exact: the recursion would add up rounding too
    before, w = Fraction(START), Fraction(START) * (1 - decay)
    for _ in range(STEPS - 1):
        before, w = w, (1 + m - decay) * w - m * before
    result, w = run(SGD(0.1, momentum=0.9, weight_decay=0.2), 0.0), float(w)
    assert_equal_but_for_rounding(result, w, 2 * START - w)  # START, and all that is lost


def test_each_parameter_has_its_own_velocity_and_is_changed_in_place():
    params = {"a": np.zeros(2), "b": np.zeros(2)}
    arrays = dict(params)
    optimizer = SGD(1.0, momentum=0.5)
    optimizer.step(params, {"a": np.ones(2), "b": np.zeros(2)})
    optimizer.step(params, {"b": np.ones(2), "a": np.zeros(2)})
    assert params["a"] is arrays["a"] and params["b"] is arrays["b"]
    np.testing.assert_array_equal(params["a"], [-1.5, -1.5])
    np.testing.assert_array_equal(params["b"], [-1, -1])


def test_the_caller_may_reuse_its_gradient():
    w, g = np.zeros(1), np.ones(1)
    optimizer = SGD(1.0, momentum=1 / 2)
    optimizer.step({"w": w}, {"w": g})
    g[...] = 0
    optimizer.step({"w": w}, {"w": g})
    assert w[0] == -1.5


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"lr": 0}, "lr .* got 0"),
        ({"lr": -0.1}, "lr .* got -0.1"),
        ({"lr": float("nan")}, "lr .* got nan"),
        ({"lr": float("inf")}, "lr .* got inf"),
        ({"lr": 1, "momentum": -0.5}, "momentum .* got -0.5"),
        ({"lr": 1, "momentum": 1}, "momentum .* got 1"),
        ({"lr": 1, "weight_decay": -1}, "weight_decay .* got -1"),
        ({"lr": 1, "nesterov": True}, "nesterov .* momentum .* got 0"),
    ],
)
def test_settings_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        SGD(**arguments)


@pytest.mark.parametrize(
    "grads",
    [
        {"a": np.ones(2)},
        {"a": np.ones(2), "b": np.ones(3), "c": np.ones(1)},
        {"a": np.ones(2), "b": np.ones((1, 3))},
    ],
)
def test_gradients_that_do_not_fit_change_nothing(grads):
    params = {"a": np.zeros(2), "b": np.zeros(3)}
    shapes = {name: grad.shape for name, grad in grads.items()}
    with pytest.raises(ValueError) as caught:
        SGD(lr=1).step(params, grads)
    assert str({"a": (2,), "b": (3,)}) in str(caught.value) and str(shapes) in str(caught.value)
    assert not any(params["a"]) and not any(params["b"])


def test_schedules():
    assert [constant(t) for t in (0, 0.3, 1)] == [1, 1, 1]
    quarters = [cosine(t) for t in (0, 1 / 3, 1 / 2, 2 / 3, 1)]
    assert_equal_but_for_rounding(quarters, [1, 3 / 4, 1 / 2, 1 / 4, 0], 1)  # of 1/2 and cos/2


W1, W2 = {"a": (2, 1)}, {"a": (2, 1), "b": (3,)}


@pytest.mark.parametrize(
    "first, then",
    [
        (W1, {"a": (2, 3)}),  # which the velocity would broadcast to
        (W2, {"a": (2, 1), "b": (1,)}),
        (W2, W1),
        (W1, W2),
        (W1, {"b": (2, 1)}),
    ],
)
def test_an_optimizer_belongs_to_the_network_of_its_first_step(first, then):
    """The mismatch may be in the second array: nothing is changed."""
    optimizer = SGD(0.1, momentum=0.9)
    first, then = ({name: np.ones(shape) for name, shape in w.items()} for w in (first, then))
    optimizer.step(first, first)
    before = {name: v.copy() for name, v in optimizer.velocity.items()}
    with pytest.raises(ValueError, match="velocity.*shapes .* make a new optimizer"):
        optimizer.step(then, then)
    assert all((w == 1).all() for w in then.values())
    assert optimizer.velocity.keys() == before.keys()
    for name, v in optimizer.velocity.items():
        np.testing.assert_array_equal(v, before[name])
    optimizer.step(first, first)


def test_steps_go_on_from_a_state_that_was_loaded():
    rng = np.random.default_rng(0)
    gradients = [{"a": rng.standard_normal((2, 1))} for _ in range(6)]
    w, whole = {"a": np.ones((2, 1))}, SGD(0.1, momentum=0.9)
    for step, gradient in enumerate(gradients):
        if step == 3:
            again, resumed = {"a": w["a"].copy()}, SGD(0.1, momentum=0.9)
            assert list(whole.state) == ["velocity.a"] and resumed.state == {}
            resumed.load_state(whole.state)
            assert not np.shares_memory(resumed.velocity["a"], whole.velocity["a"])
        whole.step(w, gradient)
    for gradient in gradients[3:]:
        resumed.step(again, gradient)
    np.testing.assert_array_equal(again["a"], w["a"])
    np.testing.assert_array_equal(resumed.velocity["a"], whole.velocity["a"])


def test_an_optimizer_without_momentum_belongs_to_nobody():
    optimizer = SGD(0.1, weight_decay=0.1)
    for shape in (2, 1), (2, 3):
        optimizer.step({"a": np.ones(shape)}, {"a": np.ones(shape)})


@pytest.mark.parametrize(
    "second, message",
    [
        (np.ones(3, int), r"params\[.b.\] of float32 or float64 but got int64"),
        (np.ones(3, np.float16), r"params\[.b.\] of float32 or float64 but got float16"),
        (np.broadcast_to(np.ones(1), 3), "b is read-only"),
        ([1.0, 1.0, 1.0], "array but got list"),
    ],
)
def test_a_parameter_that_cannot_be_updated_changes_no_other(second, message):
    params = {"a": np.ones(2), "b": second}
    with pytest.raises(ValueError, match=message):
        SGD(0.1).step(params, {"a": np.ones(2), "b": np.ones(3)})
    assert (params["a"] == 1).all()
