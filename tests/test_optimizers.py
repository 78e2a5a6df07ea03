"""Optimizers against closed forms of their recursions, and against PyTorch; schedules."""

import math
import sys
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import strict_cupy
from rounding import assert_equal_but_for_rounding

from minicnn import SGD, Adam, AdamW, fit, softmax_cross_entropy
from minicnn.backend import gpu_problem, to_device
from minicnn.optimizers import SCHEDULES, constant, cosine, linear, warmup

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
        ({"lr": 1, "clip_norm": 0}, "clip_norm .* got 0"),
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gradient", [1e-3, -0.5, 40.0])
def test_adam_moves_by_the_learning_rate_under_a_constant_gradient(gradient, dtype):
    """Since the corrected means are the gradient and its square in each step."""
    w = run(Adam(0.1, eps=1e-30), gradient, dtype)
    wanted = START - math.copysign(STEPS * 0.1, gradient)
    assert_equal_but_for_rounding(w, wanted, START + STEPS * 0.1)


def test_the_second_step_of_adam_by_hand():
    """m = 1/4, corrected 1/3; v = 3/16, corrected 3/7."""
    w, optimizer = {"w": np.zeros(1)}, Adam(1.0, betas=(1 / 2, 3 / 4), eps=1.0)
    optimizer.step(w, {"w": np.ones(1)})
    assert w["w"][0] == -1 / (1 + 1)
    optimizer.step(w, {"w": np.zeros(1)})
    step = (1 / 3) / (math.sqrt(3 / 7) + 1)
    assert_equal_but_for_rounding(w["w"], [-1 / 2 - step], [1 / 2 + step])
    assert (optimizer.mean["w"][0], optimizer.mean_square["w"][0]) == (1 / 4, 3 / 16)


def test_decay_alone_shrinks_with_adamw_and_moves_by_the_learning_rate_with_adam():
    w = run(AdamW(0.1, weight_decay=0.2), 0.0)
    wanted = START * (1 - 0.1 * 0.2) ** STEPS
    assert_equal_but_for_rounding(w, wanted, 2 * START - wanted)
    optimizer, w = Adam(0.1, weight_decay=0.2, eps=1e-30), np.array([3.0, -1e-3])
    optimizer.step({"w": w}, {"w": np.zeros(2)})
    assert_equal_but_for_rounding(w, [2.9, 0.099], [3.1, 0.101])


KINDS = [
    (SGD, {"lr": 0.3, "momentum": 0.9}),
    (Adam, {"lr": 0.1}),
    (Adam, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.1}),
    (AdamW, {"lr": 0.1}),
    (AdamW, {"lr": 0.1, "betas": (0.0, 0.9), "weight_decay": 0.5}),
]
ALL_KINDS = pytest.mark.parametrize(
    "kind, options", KINDS, ids=lambda value: getattr(value, "__name__", str(value))
)


def draws(count, seed=0):
    """Parameters, and so many gradients for them."""
    rng = np.random.default_rng(seed)
    shapes = {"0.weight": (3, 4), "0.bias": (3,)}
    params, *gradients = [
        {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        for _ in range(count + 1)
    ]
    return params, gradients


@ALL_KINDS
@pytest.mark.parametrize("clip_norm", [None, 3.0])
def test_fifty_steps_are_those_of_pytorch(kind, options, clip_norm):
    """All 15 entries of a gradient together are longer than 3 in most steps, but not in all."""
    torch = pytest.importorskip("torch")
    params, gradients = draws(50)
    params_torch = {name: torch.tensor(w, requires_grad=True) for name, w in params.items()}
    optimizer = kind(**options, clip_norm=clip_norm)
    optimizer_torch = getattr(torch.optim, kind.__name__)(params_torch.values(), **options)
    size = {name: np.abs(w) for name, w in params.items()}
    for grads in gradients:
        for name, w in params_torch.items():
            w.grad = torch.tensor(grads[name])
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(params_torch.values(), clip_norm)
        before = {name: (w.copy(), grads[name].copy()) for name, w in params.items()}
        optimizer.step(params, grads)
        optimizer_torch.step()
        for name, w in params.items():
            w_before, gradient = before[name]
            np.testing.assert_array_equal(grads[name], gradient)
            size[name] += np.maximum(options["lr"], np.abs(w - w_before))  # all that was added
            assert_equal_but_for_rounding(w, params_torch[name].detach().numpy(), size[name], name)


def test_all_gradients_are_clipped_together():
    """(3, 0) and (4,) have the length 5; what is shorter than the limit keeps its bits."""
    grads = {"a": np.array([3.0, 0]), "b": np.array([4.0])}
    for limit, length in ((2.5, 2.5 / 5.000001), (6.0, 1.0)):
        w = {"a": np.zeros(2), "b": np.zeros(1)}
        SGD(1.0, clip_norm=limit).step(w, grads)
        np.testing.assert_allclose(w["a"], [-3 * length, 0], rtol=1e-15)
        np.testing.assert_allclose(w["b"], [-4 * length], rtol=1e-15)


def test_clipping_keeps_the_type_of_each_parameter():
    params = {"a": np.zeros(2, np.float32), "b": np.zeros(1)}
    optimizer = SGD(1.0, momentum=0.5, clip_norm=0.1)
    optimizer.step(params, {"a": np.ones(2, np.float32), "b": np.ones(1)})
    assert [v.dtype for v in optimizer.velocity.values()] == [np.float32, np.float64]
    SGD(1.0, clip_norm=0.1).step({}, {})


@ALL_KINDS
def test_biases_decay_unless_told_not_to(kind, options):
    """As if they had an optimizer of their own, without decay."""
    options = {**options, "weight_decay": 0.1}
    together, gradients = draws(3)
    apart = {name: w.copy() for name, w in together.items()}
    decayed = {name: w.copy() for name, w in together.items()}
    optimizer = kind(**options, decay_biases=False)
    others = {"0.weight": kind(**options), "0.bias": kind(**{**options, "weight_decay": 0.0})}
    all_decay = kind(**options)
    for grads in gradients:
        optimizer.step(together, grads)
        all_decay.step(decayed, grads)
        for name, other in others.items():
            other.step({name: apart[name]}, {name: grads[name]})
    for name, w in together.items():
        np.testing.assert_array_equal(w, apart[name])
    np.testing.assert_array_equal(together["0.weight"], decayed["0.weight"])
    assert (together["0.bias"] != decayed["0.bias"]).all()


def test_schedules():
    assert [constant(t) for t in (0, 0.3, 1)] == [1, 1, 1]
    assert [linear(t) for t in (0, 0.25, 1)] == [1, 0.75, 0]
    quarters = [cosine(t) for t in (0, 1 / 3, 1 / 2, 2 / 3, 1)]
    assert_equal_but_for_rounding(quarters, [1, 3 / 4, 1 / 2, 1 / 4, 0], 1)  # of 1/2 and cos/2


def test_warmup_rises_from_a_tenth_and_leaves_the_rest_to_the_schedule():
    factors = [warmup(linear, 0.5)(t) for t in (0, 0.25, 0.5, 0.75, 1)]
    assert_equal_but_for_rounding(factors, [0.1, 0.55, 1, 0.5, 0], 1)
    factors = [warmup(constant, 0.25)(t) for t in (0.125, 0.25, 1)]
    assert_equal_but_for_rounding(factors, [0.55, 1, 1], 1)


@pytest.mark.parametrize("name, top", [("warmup-cosine", 0.1), ("triangle", 0.2)])
def test_the_named_schedules_rise_to_1_and_fall_to_0(name, top):
    schedule, before, after = SCHEDULES[name], np.linspace(0, top, 9), np.linspace(top, 1, 9)
    assert all(np.diff([schedule(t) for t in before]) > 0)
    assert all(np.diff([schedule(t) for t in after]) < 0)
    assert (schedule(0), schedule(top), schedule(1)) == (0.1, 1, 0)


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


def test_an_adam_belongs_to_the_network_of_its_first_step():
    optimizer, w = Adam(), {"a": np.ones((2, 1))}
    optimizer.step(w, w)
    with pytest.raises(ValueError, match="has the mean of .*shapes .* make a new optimizer"):
        optimizer.step({"a": np.ones((2, 3))}, {"a": np.ones((2, 3))})
    assert optimizer.steps == 1


@ALL_KINDS
def test_steps_go_on_from_a_state_that_was_loaded(kind, options):
    w, gradients = draws(6)
    whole = kind(**options)
    for step, gradient in enumerate(gradients):
        if step == 3:
            again, resumed = {name: array.copy() for name, array in w.items()}, kind(**options)
            resumed.load_state(whole.state)
            for name, array in resumed.state.items():
                np.testing.assert_array_equal(array, whole.state[name], strict=True)
                assert not np.shares_memory(array, whole.state[name])
        whole.step(w, gradient)
    for gradient in gradients[3:]:
        resumed.step(again, gradient)
    for name, array in w.items():
        np.testing.assert_array_equal(again[name], array)
    for name, array in whole.state.items():
        np.testing.assert_array_equal(resumed.state[name], array)


def test_the_state_has_names_of_its_own():
    sgd, adam, w = SGD(0.1, momentum=0.9), Adam(), {"0.a": np.ones(2)}
    assert sgd.state == {} and adam.state == {"step": 0}
    for optimizer in sgd, adam:
        optimizer.step(w, w)
    assert list(sgd.state) == ["velocity.0.a"]
    assert list(adam.state) == ["mean.0.a", "mean_square.0.a", "step"]
    assert adam.state["mean.0.a"] is adam.mean["0.a"]
    assert (adam.state["step"].shape, adam.state["step"].dtype) == ((), np.int64)


@pytest.mark.parametrize("step", [{}, {"step": np.array(-1)}, {"step": np.array(1.0)}, {"step": 1}])
def test_a_state_without_a_count_of_steps_changes_nothing(step):
    optimizer, w = Adam(), {"a": np.ones(2)}
    optimizer.step(w, w)
    before = dict(optimizer.state)
    with pytest.raises(ValueError, match="step|array but got int"):
        optimizer.load_state({"mean.a": np.zeros(2), "mean_square.a": np.zeros(2)} | step)
    assert all(optimizer.state[name] is array for name, array in before.items() if name != "step")
    assert optimizer.state.keys() == before.keys() and optimizer.steps == 1


@pytest.fixture
def double(monkeypatch):
    """The strict double in place of CuPy."""
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.cupy)
    gpu_problem.cache_clear()
    yield
    gpu_problem.cache_clear()


@ALL_KINDS
def test_a_step_on_a_gpu_reads_nothing_back_and_gives_the_same(kind, options, double):
    options = {**options, "clip_norm": 3.0, "decay_biases": False}
    params, gradients = draws(3)
    to_gpu = partial(to_device, device="gpu")
    there = {name: to_gpu(w) for name, w in params.items()}
    optimizer, optimizer_there = kind(**options), kind(**options)
    for grads in gradients:
        grads_there = {name: to_gpu(grad) for name, grad in grads.items()}
        optimizer.step(params, grads)
        with strict_cupy.no_transfers():
            optimizer_there.step(there, grads_there)
    for name, w in params.items():
        np.testing.assert_allclose(to_device(there[name], "cpu"), w, rtol=1e-14)
    state = {
        name: to_gpu(array)
        for name, array in optimizer_there.state.items()
        if isinstance(array, np.ndarray)
    }
    resumed = kind(**options)
    resumed.load_state(optimizer_there.state | state)
    assert resumed.state.keys() == optimizer_there.state.keys()


def test_training_takes_adam_with_all_its_options(new_net, small_digits):
    """With the same bits for one worker and for two."""
    weights = []
    for workers in 1, 2:
        net = new_net()
        history = fit(
            *(net, small_digits[0]),
            epochs=2,
            batch_size=100,
            optimizer=AdamW(0.01, clip_norm=1.0, decay_biases=False),
            schedule=warmup(cosine, 0.2),
            loss=partial(softmax_cross_entropy, label_smoothing=0.1),
            workers=workers,
            progress=False,
        )
        weights.append({name: array.tobytes() for name, array in net.params.items()})
    assert history.train_accuracy[1] > 0.5 and weights[0] == weights[1]


def test_an_optimizer_without_momentum_belongs_to_nobody():
    optimizer = SGD(0.1, weight_decay=0.1)
    for shape in (2, 1), (2, 3):
        optimizer.step({"a": np.ones(shape)}, {"a": np.ones(shape)})


@pytest.mark.parametrize(
    "second, message",
    [
        (np.ones(3, int), r"params\[.b.\] in float32 or float64 but got int64"),
        (np.ones(3, np.float16), r"params\[.b.\] in float32 or float64 but got float16"),
        (np.broadcast_to(np.ones(1), 3), "b is read-only"),
        ([1.0, 1.0, 1.0], "array but got list"),
    ],
)
def test_a_parameter_that_cannot_be_updated_changes_no_other(second, message):
    params = {"a": np.ones(2), "b": second}
    with pytest.raises(ValueError, match=message):
        SGD(0.1).step(params, {"a": np.ones(2), "b": np.ones(3)})
    assert (params["a"] == 1).all()


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_learning_rate_in_an_array_gives_the_same_bits(options, dtype):
    """As in a step recorded for a GPU."""
    rng = np.random.default_rng(0)
    w, g = rng.standard_normal((2, 3, 4)).astype(dtype)
    params = [{"w": w.copy()}, {"w": w.copy()}]
    optimizers = [SGD(0.1, **options), SGD(0.1, **options)]
    for rate in 0.3, 0.07, 0.001:
        optimizers[0].lr = rate
        optimizers[0].step(params[0], {"w": g})
        optimizers[1]._step(params[1], {"w": g}, [np.asarray(rate, dtype)])
    assert params[0]["w"].tobytes() == params[1]["w"].tobytes()


def test_the_velocity_keeps_its_array():
    """So that a step that was recorded with it can be replayed."""
    params, optimizer = {"w": np.ones(3)}, SGD(0.1, momentum=0.5)
    g = np.ones(3)
    optimizer.step(params, {"w": g})
    v = optimizer.velocity["w"]
    optimizer.step(params, {"w": g})
    assert optimizer.velocity["w"] is v
    np.testing.assert_array_equal(v, np.full(3, 1.5))
    np.testing.assert_array_equal(g, np.ones(3))
