"""Batch normalisation against loops, numbers by hand and, in test_pytorch.py, PyTorch."""

import copy
import itertools
import pickle
import statistics
import sys

import numpy as np
import pytest
import strict_cupy
from rounding import assert_equal_but_for_rounding, batch_norm_sizes

from minicnn import BatchNorm2D, Flatten, Linear, Sequential, check_gradients, reference
from minicnn.backend import gpu_problem, to_device
from minicnn.layers.parameters import weighted_mean

SHAPES = {
    "small": (3, 2, 4, 3),
    "one image": (1, 3, 4, 5),
    "one pixel": (6, 3, 1, 1),
    "one channel": (4, 1, 3, 2),
    "two numbers a channel": (2, 3, 1, 1),
    "many": (17, 2, 3, 3),
}


def strided(x):
    """x with nan between its entries in memory, and the last axis stored backwards."""
    memory = np.full([2 * size for size in x.shape], np.nan, x.dtype)
    view = memory[tuple(slice(None, None, 2) for _ in x.shape)][..., ::-1]
    view[...] = x
    return view


LAYOUTS = {
    "C order": np.ascontiguousarray,
    "batch last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
    "strided": strided,
}


def drawn(shape, seed=0, **options):
    """A layer with parameters and running statistics of its own, x and dy, of numbers that float32
    can hold."""
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32).astype(np.float64)
    layer = BatchNorm2D(shape[1], **options).astype(np.float64)
    for array in (*layer.params.values(), layer.state["running_mean"]):
        array[...] = rng.standard_normal(array.shape).astype(np.float32)
    layer.state["running_var"][...] = rng.uniform(0.5, 2, shape[1]).astype(np.float32)
    return layer, x, dy


def assert_is_that_of_the_loops(layer, x, dy, y, dx, grads):
    """The results for x and dy, of float32 or float64, are those of the loops in float64."""
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    ones = np.ones(x.shape[1])
    weight, bias = layer.params.get("weight", ones), layer.params.get("bias", 0 * ones)
    size = batch_norm_sizes(x, dy, weight, bias, layer.eps)
    expected = reference.batch_norm2d_backward(dy, x, weight, layer.eps)
    expected = dict(zip(("x", "weight", "bias"), expected))
    expected["y"] = reference.batch_norm2d(x, weight, bias, layer.eps)
    assert grads.keys() == layer.params.keys()
    for name, result in {"y": y, "x": dx, **grads}.items():
        assert_equal_but_for_rounding(result, expected[name], size[name], name)


@pytest.mark.parametrize("parameter_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_forward_and_backward_equal_the_loops(shape, layout, dtype, parameter_dtype):
    layer, x, dy = drawn(shape)
    layer = layer.astype(parameter_dtype)
    x, dy = (LAYOUTS[layout](a.astype(dtype)) for a in (x, dy))
    x.flags.writeable = dy.flags.writeable = False
    before = pickle.dumps((layer.arrays, x, dy))
    y, saved = layer.forward(x)
    kept = pickle.dumps((y, saved))
    dx, grads = layer.backward(dy, saved)
    assert {array.dtype for array in (y, dx, *grads.values())} == {np.dtype(dtype)}
    assert_is_that_of_the_loops(layer, x, dy, y, dx, grads)
    for array in y, dx:
        assert array.transpose(1, 2, 3, 0).flags.c_contiguous, "the batch is not last in memory"
    none, same = layer.backward(dy, saved, need_dx=False)
    assert none is None and pickle.dumps(same) == pickle.dumps(grads)
    assert pickle.dumps((layer.arrays, x, dy)) == before and pickle.dumps((y, saved)) == kept


@pytest.mark.parametrize("options", [{"affine": False}, {"eps": 0.5}, {"momentum": 0.0}])
def test_options(options):
    layer, x, dy = drawn((3, 2, 4, 3), **options)
    y, saved = layer.forward(x)
    assert_is_that_of_the_loops(layer, x, dy, y, *layer.backward(dy, saved))
    assert list(layer.params) == ([] if "affine" in options else ["weight", "bias"])
    report = check_gradients(layer, x)
    assert report.ok and report.errors.keys() == {"x", *layer.params}, report


def test_four_numbers_by_hand():
    """1, 3, 5, 7 have mean 4 and variance 5; with eps = 4 the root is 3."""
    layer = BatchNorm2D(1, eps=4).astype(np.float64)
    layer.load_params(layer.arrays | {"weight": np.array([6.0]), "bias": np.array([10.0])})
    x = np.array([1.0, 3, 5, 7]).reshape(2, 1, 1, 2)  # x_hat = -1, -1/3, 1/3, 1
    y, saved = layer.forward(x)
    np.testing.assert_allclose(y.ravel(), [4, 8, 12, 16], rtol=1e-15)
    dx, grads = layer.backward(np.array([9.0, 0, 0, 0]).reshape(x.shape), saved)
    np.testing.assert_allclose(grads["weight"], [-9], rtol=1e-15)
    np.testing.assert_allclose(grads["bias"], [9], rtol=1e-15)
    # 6/3 * (9 - 9/4 - x_hat * -9/4), and without the 9 for the others
    np.testing.assert_allclose(dx.ravel(), [9, -6, -3, 0], atol=1e-14)
    new = layer.updates(saved)  # 0.9 of the old, and of the new, where 5 * 4/3 is the variance
    np.testing.assert_allclose(new["running_mean"], [0.4], rtol=1e-15)
    np.testing.assert_allclose(new["running_var"], [0.9 + 0.1 * 20 / 3], rtol=1e-15)
    assert new["num_batches_tracked"] == 1


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_backward_is_the_derivative_of_forward(shape):
    layer, x, _ = drawn(shape, eps=0.1)  # two numbers leave all but nothing to differentiate
    report = check_gradients(layer, x)
    assert report.ok and max(report.errors.values()) < 1e-7, report


def test_shifting_or_scaling_a_channel_changes_nothing():
    """So dx has no part along a constant, nor along x, but for eps."""
    layer, x, dy = drawn((5, 3, 4, 2), eps=1e-12)
    y, saved = layer.forward(x)
    dx, _ = layer.backward(dy, saved)
    scale, shift = np.array([[2, 30, 0.5], [7, -1, 3]])[:, :, None, None]
    np.testing.assert_allclose(layer.forward(scale * x + shift)[0], y, atol=1e-10)
    np.testing.assert_allclose(dx.sum(axis=(0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose((dx * x).sum(axis=(0, 2, 3)), 0, atol=1e-10)


def test_a_constant_channel_becomes_the_bias():
    layer, x, dy = drawn((3, 2, 4, 3))
    x[:, 1] = 0.1
    y, saved = layer.forward(x)
    np.testing.assert_allclose(y[:, 1], layer.params["bias"][1], rtol=1e-12)
    assert_is_that_of_the_loops(layer, x, dy, y, *layer.backward(dy, saved))


@pytest.mark.parametrize("mean, deviation", [(1000, 1), (100, 0.01), (-3e4, 10), (1e-20, 1e-20)])
def test_a_large_mean_and_a_small_variance_in_float32(mean, deviation):
    """The mean of the squares less the square of the mean would be lost in rounding."""
    layer, x, dy = drawn((4, 2, 5, 6))
    x = (mean + deviation * x).astype(np.float32)
    dy = dy.astype(np.float32)
    y, saved = layer.forward(x)
    assert_is_that_of_the_loops(layer, x, dy, y, *layer.backward(dy, saved))
    for c in range(2):
        values = x[:, c].ravel().tolist()
        var = statistics.variance(values)
        new = layer.updates(saved)["running_var"][c] - 0.9 * layer.state["running_var"][c]
        assert new == pytest.approx(0.1 * var, rel=1e-3, abs=1e-7)


def test_sums_over_many_numbers_lose_little_in_float32():
    """100,352 of them a channel, added one by one, would be off by thousands of eps."""
    x = np.random.default_rng(0).standard_normal((128, 2, 28, 28)) + 10
    y, saved = BatchNorm2D(2).forward(x.astype(np.float32))
    exact = x.astype(np.float32).astype(np.float64)
    size = 10 + np.abs(exact).mean(axis=(0, 2, 3))
    mean, var = (a[:, 0] for a in saved[2:])
    assert_equal_but_for_rounding(mean, exact.mean(axis=(0, 2, 3)), size)
    assert_equal_but_for_rounding(var, exact.var(axis=(0, 2, 3)), size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_running_statistics_over_several_steps(momentum, dtype):
    """By Python's own statistics, whose variance divides by M - 1."""
    layer = BatchNorm2D(2, momentum=momentum).astype(dtype)
    rng = np.random.default_rng(0)
    expected = {"running_mean": [0.0, 0.0], "running_var": [1.0, 1.0]}
    for step in range(1, 4):
        x = rng.normal(3, 2, (4, 2, 3, 5)).astype(dtype)
        _, saved = layer.forward(x)
        new = layer.updates(saved)
        for name, of in ("running_mean", statistics.fmean), ("running_var", statistics.variance):
            for c in range(2):
                statistic = of(x[:, c].astype(float).ravel().tolist())
                expected[name][c] += momentum * (statistic - expected[name][c])
            np.testing.assert_allclose(new[name], expected[name], rtol=20 * np.finfo(dtype).eps)
            assert new[name].dtype == dtype
        assert new["num_batches_tracked"] == step
        for name, array in new.items():
            layer.state[name][...] = array


def test_nothing_is_written_until_the_updates_are():
    layer, x, dy = drawn((3, 2, 4, 3))
    before = pickle.dumps(layer.state)
    _, saved = layer.forward(x)
    layer.backward(dy, saved)
    first, second = layer.updates(saved), layer.updates(saved)
    layer(x)
    assert pickle.dumps(layer.state) == before
    assert pickle.dumps(first) == pickle.dumps(second) != before


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inference_is_by_the_running_statistics(layout, dtype, affine):
    layer, x, _ = drawn((3, 2, 4, 3), affine=affine)
    x = LAYOUTS[layout](x.astype(dtype))
    y = layer(x)
    assert y.dtype == dtype and y.flags.writeable
    for n, c, h, w in np.ndindex(x.shape):
        weight, bias = (layer.params[n][c] if affine else float(n == "weight") for n in PARAMS)
        mean, var = layer.state["running_mean"][c], layer.state["running_var"][c]
        scale = weight / (var + layer.eps) ** 0.5
        size = abs(scale) * (abs(x[n, c, h, w]) + abs(mean)) + abs(bias)
        exact = scale * (float(x[n, c, h, w]) - mean) + bias
        assert_equal_but_for_rounding(y[n, c, h, w], exact, size)
    for part in slice(0, 1), slice(1, 3), slice(0, 0):
        np.testing.assert_array_equal(layer(x[part]), y[part])  # whatever images are beside it


PARAMS = ("weight", "bias")


def test_inference_takes_one_number_a_channel_and_training_does_not():
    layer = BatchNorm2D(3)
    one = np.ones((1, 3, 1, 1), np.float32)
    np.testing.assert_allclose(layer(one), 1 / np.sqrt(1 + 1e-5), rtol=1e-6)
    for x in one, one[:0], np.ones((2, 3, 0, 4), np.float32):
        with pytest.raises(ValueError, match=r"^BatchNorm2D\(.*\) needs .* N\*H\*W > 1, in train"):
            layer.forward(x)


def test_shapes_that_do_not_fit():
    layer = BatchNorm2D(3)
    for shape, message in (
        ((2, 4, 5, 5), "expected 3 input channels but got 4"),
        ((2, 3), r"\(N, C, H, W\) but got \(2, 3\)"),
        ((3, 5, 5), r"\(N, C, H, W\) but got \(3, 5, 5\)"),
    ):
        for call in layer, layer.forward:
            with pytest.raises(ValueError, match=message):
                call(np.ones(shape, np.float32))


def test_the_layer_as_it_is_made():
    layer = BatchNorm2D(3)
    arrays = {name: (a.dtype, a.shape, a.tolist()) for name, a in layer.arrays.items()}
    assert arrays == {
        "weight": (np.float32, (3,), [1, 1, 1]),
        "bias": (np.float32, (3,), [0, 0, 0]),
        "running_mean": (np.float32, (3,), [0, 0, 0]),
        "running_var": (np.float32, (3,), [1, 1, 1]),
        "num_batches_tracked": (np.int64, (), 0),
    }
    assert layer.mixes_images
    for a, b in itertools.combinations(layer.arrays.values(), 2):
        assert not np.shares_memory(a, b)
    again = eval(repr(BatchNorm2D(3, 1e-3, 0.2, False)))
    assert vars(again) | {"state": 0} == vars(BatchNorm2D(3, 1e-3, 0.2, False)) | {"state": 0}


@pytest.fixture
def double(monkeypatch):
    """A strict double of CuPy, which refuses what that refuses, in its place."""
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.cupy)
    gpu_problem.cache_clear()
    yield
    gpu_problem.cache_clear()


COPIES = {
    "astype float32": lambda layer: layer.astype(np.float32),
    "astype float64": lambda layer: layer.astype(np.float64),
    "to": lambda layer: layer.to("gpu").to("cpu"),
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "map_arrays": lambda layer: layer.map_arrays(np.copy),
    "load_params": lambda layer: loaded(layer, BatchNorm2D(2).astype(np.float64)),
    "in a network": lambda layer: copy.deepcopy(Sequential(layer, Flatten())).layers[0],
}


def loaded(layer, other):
    other.load_params(layer.arrays)
    return other


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_has_the_state_for_itself(copied, double):
    layer, x, _ = drawn((3, 2, 4, 3))
    layer.state["num_batches_tracked"][...] = 2**40 + 1  # more than float32 can count
    other = copied(layer)
    assert list(other.arrays) == list(layer.arrays)
    for name, array in other.arrays.items():
        np.testing.assert_array_equal(array, layer.arrays[name])
        assert (array.dtype.kind == "f") == (name != "num_batches_tracked")
        assert isinstance(array, np.ndarray) and not np.shares_memory(array, layer.arrays[name])
    assert other.state["num_batches_tracked"].dtype == np.int64
    floats = {a.dtype for a in other.arrays.values() if a.dtype.kind == "f"}
    assert floats == {np.dtype(np.float32 if copied is COPIES["astype float32"] else np.float64)}
    before = pickle.dumps(layer)
    for name, array in other.updates(other.forward(x)[1]).items():
        other.state[name][...] = array
    assert other.state["num_batches_tracked"] == 2**40 + 2
    assert pickle.dumps(layer) == before


def test_parameters_are_loaded_with_the_state_or_not_at_all():
    layer, _, _ = drawn((3, 2, 4, 3))
    before = pickle.dumps(layer)
    for change, message in (
        (lambda arrays: arrays.pop("running_var"), r"missing \['running_var'\]"),
        (lambda arrays: arrays.update(running_std=arrays["bias"]), r"unknown \['running_std'\]"),
        (
            lambda arrays: arrays.update(num_batches_tracked=np.zeros(())),
            r"num_batches_tracked has shape \(\) and dtype int64 but got \(\) and float64",
        ),
    ):
        arrays = {name: array + 1 for name, array in layer.arrays.items()}
        change(arrays)
        with pytest.raises(ValueError, match=message):
            layer.load_params(arrays)
        assert pickle.dumps(layer) == before


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_spoils_its_channel_and_no_other(wrong):
    layer, x, dy = drawn((3, 3, 4, 3))
    y, saved = layer.forward(x)
    dx, grads = layer.backward(dy, saved)
    new = layer.updates(saved)
    bad_x, bad_dy = x.copy(), dy.copy()
    bad_x[1, 1, 2, 0] = bad_dy[1, 1, 2, 0] = wrong
    with np.errstate(invalid="ignore"):
        bad_y, bad_saved = layer.forward(bad_x)
        gradients = [layer.backward(dy, bad_saved), layer.backward(bad_dy, saved)]
        bad_new = layer.updates(bad_saved)
    right = [0, 2]
    assert not np.isfinite(bad_y[:, 1]).any()
    np.testing.assert_array_equal(bad_y[:, right], y[:, right])
    for bad_dx, bad_grads in gradients:
        assert not np.isfinite(bad_dx[:, 1]).any()
        np.testing.assert_array_equal(bad_dx[:, right], dx[:, right])
        assert not np.isfinite(bad_grads["weight"][1])
        np.testing.assert_array_equal(bad_grads["weight"][right], grads["weight"][right])
    for name in "running_mean", "running_var":
        assert not np.isfinite(bad_new[name][1])
        np.testing.assert_array_equal(bad_new[name][right], new[name][right])
    y, bad_y = layer(x), layer(bad_x)  # inference: that entry alone
    assert (y != bad_y).sum() == 1 and not np.isfinite(bad_y[1, 1, 2, 0])


def test_the_mean_of_states_is_by_shares():
    floats = [np.array(value, np.float32) for value in ([1, 2], [3, 6])]
    mean = weighted_mean(floats, [0.25, 0.75])
    np.testing.assert_array_equal(mean, np.array([2.5, 5], np.float32), strict=True)
    counts = [np.array(10**15 + 1)] * 3
    mean = weighted_mean(counts, [43 / 130, 43 / 130, 44 / 130])
    assert mean == 10**15 + 1 and mean.dtype == np.int64
    assert weighted_mean([np.array(1)] * 10, [0.1] * 10) == 1  # though the sum is just below
    only = weighted_mean(floats[:1], [1.0])
    np.testing.assert_array_equal(only, floats[0], strict=True)


@pytest.mark.parametrize("affine", [True, False])
def test_it_runs_on_a_gpu(affine, double):
    layer, x, dy = drawn((3, 2, 4, 3), affine=affine)
    there = layer.to("gpu")
    assert there.device == "gpu"
    y, saved = there.forward(to_device(x, "gpu"))
    dx, grads = there.backward(to_device(dy, "gpu"), saved)
    new, inferred = there.updates(saved), there(to_device(x, "gpu"))
    host = {name: to_device(array, "cpu") for name, array in grads.items()}
    y, dx, inferred = (to_device(array, "cpu") for array in (y, dx, inferred))
    assert_is_that_of_the_loops(layer, x, dy, y, dx, host)
    np.testing.assert_allclose(inferred, layer(x), rtol=1e-12)
    for name, array in layer.updates(layer.forward(x)[1]).items():
        np.testing.assert_allclose(to_device(new[name], "cpu"), array, rtol=1e-12)
        assert new[name].dtype == array.dtype
    for call in there, there.forward:
        with pytest.raises(ValueError, match="expected x on the gpu but got it on the cpu"):
            call(x)


def test_a_network_of_it():
    rng = np.random.default_rng(0)
    net = Sequential(BatchNorm2D(2), Flatten(), Linear(24, 3, rng=rng))
    report = check_gradients(net, rng.standard_normal((4, 2, 4, 3)), inference=net.astype(float))
    assert report.ok and net.mixes_images, report
