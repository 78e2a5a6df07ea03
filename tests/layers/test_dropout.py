"""Dropout: which entries it keeps follows from a key and from nothing else."""

import copy
import pickle
import sys
import threading

import numpy as np
import pytest
import strict_cupy
from rounding import assert_equal_but_for_rounding

from minicnn import Dropout, Flatten, Linear, Residual, Sequential, check_gradients, reference
from minicnn.backend import gpu_problem, to_device

KEY = (5, 0, 3, 1, 1, 2)  # seed, epoch, step, chunk, and which layer: the network's 1, its third
SHAPES = [(), (7,), (4, 6), (3, 2, 4, 5), (2, 1, 3, 2, 2), (0, 3), (3, 0, 2, 2)]
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def dropout(p=0.5, key=KEY):
    return Dropout(p, rng=np.random.default_rng(0)).at(key)


def kept(layer, shape, dtype=np.float32):
    """Which entries of an array of this shape it keeps."""
    return layer.forward(np.ones(shape, dtype))[0] != 0


def batch_last(x):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)


@DTYPES
@pytest.mark.parametrize("p", [0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward_equal_the_loops(shape, p, dtype):
    rng = np.random.default_rng(0)
    x, dy = (np.asarray(rng.standard_normal(shape), dtype) for _ in range(2))
    layer = dropout(p)
    x.flags.writeable = dy.flags.writeable = False
    mask = kept(layer, shape)
    y, saved = layer.forward(x)
    before = pickle.dumps((y, saved))
    dx, grads = layer.backward(dy, saved)
    assert grads == {} and layer.backward(dy, saved, need_dx=False) == (None, {})
    assert pickle.dumps((y, saved)) == before
    for result, given, loops in (
        (y, x, reference.dropout),
        (dx, dy, reference.dropout_backward),
    ):
        assert result.dtype == dtype
        exact = loops(given, mask, p)
        assert_equal_but_for_rounding(result, exact, np.abs(exact))


def test_six_numbers_by_hand():
    """A quarter should be kept: one entry of four is, scaled up four times."""
    layer = dropout(0.75, (0,))
    mask = kept(layer, (2, 3))
    assert mask.sum() == 1  # with this key
    x = np.array([[1, 2, 3], [-4, 5, 6]], np.float32)
    y, saved = layer.forward(x)
    dx, _ = layer.backward(10 * x, saved)
    np.testing.assert_array_equal(y[mask], 4 * x[mask])
    np.testing.assert_array_equal(dx[mask], 40 * x[mask])
    assert not y[~mask].any() and not dx[~mask].any()


@pytest.mark.parametrize("p", [0.0, 0.02, 0.3, 0.5, 0.8, 0.98])
def test_each_entry_is_dropped_with_probability_p_by_itself(p):
    """Counts are within five standard deviations of a binomial distribution: those of all entries,
    of each image, channel, row and column, and of neighbours that are both kept."""
    shape = (50, 4, 20, 25)
    mask = kept(dropout(p), shape)

    def assert_binomial(counts, n, probability):
        deviation = np.sqrt(n * probability * (1 - probability))
        assert (np.abs(counts - n * probability) <= 5 * deviation).all()

    for axis, size in enumerate(shape):
        others = tuple(a for a in range(4) if a != axis)
        assert_binomial(mask.sum(axis=others), mask.size // size, 1 - p)
        both = mask & np.roll(mask, 1, axis)
        assert_binomial(both.sum(), mask.size, (1 - p) ** 2)
    assert_binomial(mask.sum(), mask.size, 1 - p)


def test_the_mean_over_all_masks_is_x():
    x = np.array([1.0, -2, 3, 0.5])
    mean = sum(dropout(0.3, (i,)).forward(x)[0] for i in range(4000)) / 4000
    deviation = np.abs(x) * np.sqrt(0.3 / 0.7 / 4000)  # of the mean of 4,000
    assert (np.abs(mean - x) < 4 * deviation).all()


@pytest.mark.parametrize("place", range(len(KEY)))
def test_one_key_gives_one_mask_and_each_other_key_another(place):
    other = tuple(number + (i == place) for i, number in enumerate(KEY))
    mask = kept(dropout(), (40, 500))
    np.testing.assert_array_equal(kept(dropout(), (40, 500)), mask)
    assert abs((kept(dropout(key=other), (40, 500)) == mask).mean() - 0.5) < 0.02
    assert abs((kept(dropout(key=(*KEY, 0)), (40, 500)) == mask).mean() - 0.5) < 0.02


def test_a_layer_has_one_mask_until_it_is_told_another():
    layer = Dropout(rng=np.random.default_rng(0))
    mask = kept(layer, (8, 50))
    assert layer.at(KEY) is not layer and type(layer.at(KEY)) is Dropout and layer.at(KEY).p == 0.5
    np.testing.assert_array_equal(kept(layer, (8, 50)), mask)
    for other in copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.astype(np.float64):
        np.testing.assert_array_equal(kept(other, (8, 50)), mask)
    np.testing.assert_array_equal(kept(Dropout(rng=np.random.default_rng(0)), (8, 50)), mask)
    for other in Dropout(rng=np.random.default_rng(1)), Dropout(), layer.at(KEY):
        assert (kept(other, (8, 50)) != mask).any()


def test_nothing_is_kept_of_a_generator():
    rng = np.random.default_rng(0)
    layer = Dropout(0.5, rng=rng)
    before, state = pickle.dumps(layer), rng.bit_generator.state
    layer.forward(np.ones((3, 4)))
    layer.at((1,)).forward(np.ones((3, 4)))
    assert pickle.dumps(layer) == before and rng.bit_generator.state == state
    assert not any(isinstance(value, np.random.Generator) for value in vars(layer).values())
    assert layer.params == layer.state == layer.updates(None) == {} and not layer.mixes_images


def test_backward_has_the_mask_of_its_forward():
    """Whatever was computed in between."""
    layer, x = Dropout(0.5, rng=np.random.default_rng(0)), np.ones((6, 50))
    passes = [(x, *layer.at((i,)).forward(x)) for i in range(5)]
    assert len({y.tobytes() for _, y, _ in passes}) == 5
    for x, y, saved in reversed(passes):
        np.testing.assert_array_equal(layer.backward(x, saved)[0], y)


@DTYPES
def test_the_mask_depends_on_neither_dtype_nor_order_in_memory(dtype):
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(dtype)
    mask = kept(dropout(), x.shape)
    orders = [np.ascontiguousarray, np.asfortranarray, batch_last, lambda x: x[:, :, ::-1]]
    for order in orders:
        given = order(x)
        np.testing.assert_array_equal(kept(dropout(), given.shape, dtype), mask)
        y, saved = dropout().forward(given)
        np.testing.assert_array_equal(y, np.where(mask, 2 * given, 0))
        np.testing.assert_array_equal(dropout().backward(given, saved)[0], y)


def test_memory_stays_batch_last():
    x = batch_last(np.ones((3, 4, 5, 6), np.float32))
    y, saved = dropout().forward(x)
    dx, _ = dropout().backward(batch_last(y), saved)
    for array in y, saved, dx:
        assert array.transpose(1, 2, 3, 0).flags.c_contiguous


@DTYPES
def test_inference_is_the_identity(dtype):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(dtype)
    assert dropout(0.9)(x) is x


@DTYPES
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan, -0.0])
def test_what_is_dropped_is_zero_whatever_it_was(wrong, dtype):
    x = np.full((4, 50), wrong, dtype)
    y, saved = dropout().forward(x)
    dx, _ = dropout().backward(x, saved)
    for result in y, dx:
        np.testing.assert_array_equal(result, np.where(kept(dropout(), x.shape), wrong, 0))
        assert not np.signbit(result[~kept(dropout(), x.shape)]).any()


def test_checks():
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 5))
    for p in 0, 0.3, 0.9:
        report = check_gradients(Dropout(p, rng=np.random.default_rng(0)), x, inference=lambda x: x)
        assert report.ok, report
        # with p = 0 one y is right for every key
        assert [line for line in report.unchecked if "key" in line] == (
            [] if p else ["whether y depends on the key (eight keys gave the same y)"]
        )


def test_layers_of_a_network_have_masks_of_their_own():
    rng = np.random.default_rng(0)
    one = Dropout(rng=rng)
    net = Sequential(one, Flatten(), Residual(Sequential(one), Dropout(rng=rng)), one).at((1, 2))
    x = np.ones((20, 30), np.float32)
    _, (first, _, (body, shortcut), last) = net.forward(x)
    masks = [first, body[0], shortcut, last]
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert abs((mask == other).mean() - 0.5) < 0.1
    again = net.forward(x)[1]
    assert pickle.dumps(again) == pickle.dumps(net.forward(x)[1])
    np.testing.assert_array_equal(again[0], one.at((1, 2, 0)).forward(x)[1])


def test_a_network_with_a_key_shares_its_arrays_and_leaves_the_other_alone():
    net = Sequential(Linear(4, 3), Dropout(rng=np.random.default_rng(0)), Linear(3, 2))
    before, other = pickle.dumps(net), net.at(KEY)
    assert all(other.arrays[name] is array for name, array in net.arrays.items())
    assert other.layers[0] is net.layers[0] and other.layers[1] is not net.layers[1]
    assert pickle.dumps(net) == before and repr(other) == repr(net)
    plain = Sequential(Linear(4, 3), Sequential(Flatten()))
    assert plain.at(KEY) is plain


def test_two_threads_use_one_layer():
    layer, x, results = Dropout(rng=np.random.default_rng(0)), np.ones((64, 1000), np.float32), {}

    def work(i):
        results[i] = [layer.at((i,)).forward(x)[0].tobytes() for _ in range(20)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert set(results[i]) == {layer.at((i,)).forward(x)[0].tobytes()}


@pytest.fixture
def double(monkeypatch):
    """A strict double of CuPy, which refuses what that refuses, in its place."""
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.cupy)
    gpu_problem.cache_clear()
    yield
    gpu_problem.cache_clear()


@DTYPES
def test_a_gpu_has_the_same_mask(dtype, double):
    layer, x = dropout(0.3), batch_last(np.random.default_rng(0).standard_normal((3, 2, 4, 5)))
    x = x.astype(dtype)
    y, saved = layer.forward(x)
    y_there, saved_there = layer.to("gpu").forward(to_device(x, "gpu"))
    dx_there, _ = layer.backward(y_there, saved_there)
    np.testing.assert_array_equal(to_device(saved_there, "cpu"), saved)
    np.testing.assert_array_equal(to_device(y_there, "cpu"), y, strict=True)
    expected, _ = layer.backward(y, saved)
    np.testing.assert_array_equal(to_device(dx_there, "cpu"), expected, strict=True)
    with pytest.raises(ValueError, match="expected dy on the gpu but got it on the cpu"):
        layer.backward(y, saved_there)


@pytest.mark.parametrize("key", [None, 3, [1, 2], (1.0,), (-1,), (True,), ("a",)])
def test_what_is_no_key(key):
    with pytest.raises(ValueError, match=r"^key must be a tuple of integers >= 0, such as"):
        Dropout().at(key)


@pytest.mark.parametrize("p", [1, 1.0, -0.1, np.nan, None, "0.5", True])
def test_what_is_no_p(p):
    with pytest.raises(ValueError, match="^p must be "):
        Dropout(p)
