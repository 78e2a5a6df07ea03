"""The double of CuPy refuses what CuPy refuses, and does what CuPy does in its own way."""

import operator

import numpy as np
import pytest
import strict_cupy
from strict_cupy import Transfer, counts, cupy, ndarray, no_transfers

HOST = np.arange(1.0, 7.0).reshape(2, 3)
HOST.flags.writeable = False
INDEX = np.array([1, 0])


def on_device(host=HOST):
    return cupy.asarray(host)


def as_strided_written(xp, x, host):
    xp.lib.stride_tricks.as_strided(x, (2, 2), (8, 8))[...] = 0


REFUSED = {  # what NumPy accepts: (xp, x, host) -> result, and the error on the device
    "host array added": (lambda xp, x, host: x + host, TypeError),
    "added to a host array": (lambda xp, x, host: host + x, TypeError),
    "host array without axes": (lambda xp, x, host: x + np.array(1.0), TypeError),
    "added to a host array without axes": (lambda xp, x, host: np.array(1.0) + x, TypeError),
    "host array added in place": (lambda xp, x, host: operator.iadd(x, host), TypeError),
    "added to a host array in place": (lambda xp, x, host: operator.iadd(host, x), TypeError),
    "list added": (lambda xp, x, host: x + [1.0, 2.0, 3.0], TypeError),
    "compared with a host array": (lambda xp, x, host: x == host, TypeError),
    "host array compared": (lambda xp, x, host: host == x, TypeError),
    "times a host matrix": (lambda xp, x, host: x @ host.T, TypeError),
    "times a list": (lambda xp, x, host: x @ [[1.0], [2.0], [3.0]], TypeError),
    "host matrix times": (lambda xp, x, host: host.T @ x, TypeError),
    "ufunc of a host array": (lambda xp, x, host: xp.exp(host), TypeError),
    "ufunc of both": (lambda xp, x, host: xp.maximum(x, host), TypeError),
    "ufunc into a host array": (lambda xp, x, host: xp.exp(x, out=host), TypeError),
    "where of a host array": (lambda xp, x, host: xp.where(x > 2, x, host), TypeError),
    "matmul of a host array": (lambda xp, x, host: xp.matmul(x, host.T), TypeError),
    "sum of a host array": (lambda xp, x, host: xp.sum(host), TypeError),
    "concatenate with a host array": (lambda xp, x, host: xp.concatenate([x, host]), TypeError),
    "moveaxis of a host array": (lambda xp, x, host: xp.moveaxis(host, 0, 1), TypeError),
    "ascontiguousarray of the host": (lambda xp, x, host: xp.ascontiguousarray(host), TypeError),
    "zeros_like of a host array": (lambda xp, x, host: xp.zeros_like(host), TypeError),
    "take by a host array": (lambda xp, x, host: xp.take(x, INDEX), TypeError),
    "full of a host array": (lambda xp, x, host: xp.full((2, 3), host), ValueError),
    "strided view of a host array": (
        lambda xp, x, host: xp.lib.stride_tricks.as_strided(host, (2,), (8,)),
        TypeError,
    ),
    "strided view written to": (as_strided_written, ValueError),
    "numpy.asarray": (lambda xp, x, host: np.asarray(x), TypeError),
    "ufunc of NumPy": (lambda xp, x, host: np.exp(x), TypeError),
    "function of NumPy": (lambda xp, x, host: np.sum(x), TypeError),
    "host array assigned": (lambda xp, x, host: operator.setitem(x, ..., host), ValueError),
    "assigned to a host array": (lambda xp, x, host: operator.setitem(host, ..., x), TypeError),
    "list assigned": (lambda xp, x, host: operator.setitem(x, 0, [1.0, 2.0, 3.0]), ValueError),
    "host array as an index": (lambda xp, x, host: x[INDEX], TypeError),
    "list as an index": (lambda xp, x, host: x[[1, 0]], TypeError),
    "index of the host after a slice": (lambda xp, x, host: x[:, INDEX], TypeError),
    "sum, where": (lambda xp, x, host: x.sum(where=x > 2), TypeError),
    "sum, initial": (lambda xp, x, host: x.sum(initial=0.0), TypeError),
    "max, initial": (lambda xp, x, host: xp.max(x, axis=0, initial=0.0), TypeError),
    "mean, where": (lambda xp, x, host: x.mean(axis=0, where=x > 0), TypeError),
    "ufunc, where": (lambda xp, x, host: xp.add(x, x, out=x, where=x > 2), TypeError),
    "ufunc, order": (lambda xp, x, host: xp.add(x, x, order="F"), TypeError),
    "take, mode": (lambda xp, x, host: xp.take(x, 7, mode="clip"), TypeError),
    "astype, casting": (lambda xp, x, host: x.astype(int, casting="unsafe"), TypeError),
    "item of an index": (lambda xp, x, host: x.item(0), TypeError),
    "index of Python": (lambda xp, x, host: range(x.argmax()), TypeError),
    "name of NumPy only": (lambda xp, x, host: xp.nditer, AttributeError),
    "name that is not listed": (lambda xp, x, host: xp.einsum, AttributeError),
    "attribute of NumPy only": (lambda xp, x, host: x.ctypes, AttributeError),
}


@pytest.mark.parametrize("run, error", REFUSED.values(), ids=REFUSED)
def test_what_numpy_accepts_and_cupy_does_not(run, error):
    run(np, HOST.copy(), HOST.copy())
    x, host = on_device(), HOST.copy()
    with pytest.raises(error):
        run(cupy, x, host)
    np.testing.assert_array_equal(x.get(), HOST)
    np.testing.assert_array_equal(host, HOST)


RESULTS = {  # the same on both, from arrays of any order
    "operators": lambda xp, x, i: 2 * x - x / np.float64(3) + x**2 % 2,
    "operators from the right": lambda xp, x, i: (1 - x) * (1 / x) * (np.float64(2) ** x),
    "comparisons": lambda xp, x, i: (x > 2) & ~(x >= 5) | (x == 6) ^ (x != 1) & (x < 3),
    "ufunc": lambda xp, x, i: xp.tanh(x),
    "ufunc with dtype": lambda xp, x, i: xp.divide(x, 3, dtype=np.float32),
    "where": lambda xp, x, i: xp.where(x > 2, x, -1),
    "concatenate": lambda xp, x, i: xp.concatenate([x, x], axis=1),
    "stack": lambda xp, x, i: xp.stack((x, x)),
    "sum over an axis": lambda xp, x, i: (x[None] + x).sum(axis=1, keepdims=True),
    "argmax": lambda xp, x, i: x.argmax(axis=0),
    "fancy index": lambda xp, x, i: x[i],
    "fancy index after a slice": lambda xp, x, i: x[:, i],
    "take": lambda xp, x, i: xp.take(x, i, axis=1),
    "product": lambda xp, x, i: x @ x.T,
    "contiguous": lambda xp, x, i: xp.ascontiguousarray(x.T),
    "clip": lambda xp, x, i: xp.clip(x, 2, 4),
    "repeat": lambda xp, x, i: x.repeat(2, axis=1),
    "zeros_like, copy": lambda xp, x, i: xp.zeros_like(x).copy(),
    "number": lambda xp, x, i: x.sum(),
    "entry": lambda xp, x, i: x[0, 1],
    "number times number": lambda xp, x, i: x.max() * x[1, 2] / 3,
    "full": lambda xp, x, i: xp.full((2, 3), -xp.inf, np.float32),
    "arange": lambda xp, x, i: xp.arange(5),
}
KEPT = {
    "astype": lambda xp, x: x.astype(np.float32),
    "empty_like": lambda xp, x: xp.empty_like(x),
    "in place": lambda xp, x: operator.imul(x, 2),
    "ufunc into an array": lambda xp, x: xp.negative(x, out=x),
    "slice": lambda xp, x: x[:, :2],
    "transpose twice": lambda xp, x: x.T.transpose(1, 0),
    "copy by the function": lambda xp, x: xp.copy(x),
}


@pytest.mark.parametrize("run", RESULTS.values(), ids=RESULTS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_results_are_those_of_numpy_in_c_order(order, run):
    host = np.array(HOST, order=order)
    y = run(cupy, on_device(host), on_device(INDEX))
    assert type(y) is ndarray and y.flags.c_contiguous
    np.testing.assert_array_equal(y.get(), np.asarray(run(np, host, INDEX)), strict=True)


@pytest.mark.parametrize("run", KEPT.values(), ids=KEPT)
def test_what_keeps_the_order_of_memory(run):
    x = on_device(np.array(HOST, order="F"))
    y = run(cupy, x)
    assert type(y) is ndarray and y.strides[0] < y.strides[1]


def test_views_share_memory_and_copies_do_not():
    x = on_device()
    for view in x.T, x[:1], x.reshape(3, 2), x[0, 1], cupy.moveaxis(x, 0, 1), x.ravel():
        view += 1
    assert x[0, 1].item() == 2 + 6
    for copied in x[on_device(INDEX)], x.copy(), x + 0, cupy.asarray(HOST), cupy.array(x):
        copied += 1
    assert x[0, 1].item() == 2 + 6


def test_indices_out_of_range_wrap_around():
    i = on_device(np.array([2, -1, 5]))
    np.testing.assert_array_equal(on_device()[i].get(), HOST[[0, 1, 1]])
    np.testing.assert_array_equal(on_device()[:, i].get(), HOST[:, [2, 2, 2]])
    np.testing.assert_array_equal(on_device().take(i, axis=0).get(), HOST[[0, 1, 1]])
    with pytest.raises(IndexError):
        on_device()[2]


def test_an_array_has_no_hash():
    with pytest.raises(TypeError, match="unhashable"):
        hash(on_device())


def test_overflow_is_not_warned_of():
    assert (on_device() / 0).max().item() == np.inf


MOVES = {  # what each of them counts as
    "float": ("reads", lambda x: float(x.sum())),
    "int": ("reads", lambda x: int(x.sum())),
    "bool": ("reads", lambda x: bool(x.any())),
    "complex": ("reads", lambda x: complex(x.sum())),
    "if": ("reads", lambda x: 1 if x.all() else 2),
    "format": ("reads", lambda x: f"{x.sum():.3f}"),
    "repr": ("reads", lambda x: repr(x)),
    "str": ("reads", lambda x: str(x)),
    "item": ("reads", lambda x: x.sum().item()),
    "tolist": ("reads", lambda x: x.tolist()),
    "tobytes": ("reads", lambda x: x.tobytes()),
    "get": ("reads", lambda x: x.get()),
    "asarray": ("uploads", lambda x: cupy.asarray(HOST)),
    "array": ("uploads", lambda x: cupy.array([1.0])),
    "mask as an index": ("waits", lambda x: x[x > 2]),
    "mask assigned to": ("waits", lambda x: operator.setitem(x, x > 2, 0.0)),
    "where of one argument": ("waits", lambda x: cupy.where(x > 2)),
    "nonzero": ("waits", lambda x: x.nonzero()),
    "argwhere": ("waits", lambda x: cupy.argwhere(x)),
    "unique": ("waits", lambda x: cupy.unique(x)),
    "bincount": ("waits", lambda x: cupy.bincount(x.astype(int).ravel())),
    "synchronize": ("waits", lambda x: cupy.cuda.get_current_stream().synchronize()),
}


@pytest.mark.parametrize("kind, run", MOVES.values(), ids=MOVES)
def test_each_transfer_is_counted_and_can_be_forbidden(kind, run):
    x = on_device()
    before = dict(vars(counts))
    run(x)
    assert vars(counts) == before | {kind: before[kind] + 1}
    with no_transfers(), pytest.raises(Transfer, match=f"one of the {kind}"):
        run(x)
    with pytest.raises(KeyError), no_transfers():
        raise KeyError
    run(x)
    assert vars(counts) == before | {kind: before[kind] + 2}


def test_work_on_the_device_is_no_transfer():
    x, i = on_device(), on_device(INDEX)
    before = dict(vars(counts))
    with no_transfers():
        for run in RESULTS.values():
            run(cupy, x, i)
        assert (len(x), x.shape, x.dtype, x.size) == (2, (2, 3), np.float64, 6)
        assert cupy.asarray(x) is x
        x[...] = 3.0
        x[0] = x[1]
    assert vars(counts) == before


def test_floats_below_the_normal_ones_become_0():
    tiny = np.finfo(np.float32).tiny
    x = on_device(np.array([tiny, -tiny, 4 * tiny], np.float32))
    np.testing.assert_array_equal((x / 2).get(), np.array([0, 0, 2 * tiny], np.float32))
    assert cupy.exp(on_device(np.float32(-90.0))).item() == 0
    x *= 0.5
    np.testing.assert_array_equal(x.get(), np.array([0, 0, 2 * tiny], np.float32))
    doubles = on_device(np.array([np.finfo(np.float64).tiny]))
    assert (doubles / 2).item() > 0


def test_an_array_tells_five_things_of_its_memory():
    flags = on_device(np.array(HOST, order="F")).T.flags
    assert (flags.c_contiguous, flags.f_contiguous, flags.fnc, flags.forc) == (
        True,
        False,
        False,
        True,
    )
    for name in "writeable", "aligned", "contiguous", "carray":
        with pytest.raises(AttributeError):
            getattr(flags, name)


def test_the_operator_of_products_does_not_call_matmul(monkeypatch):
    monkeypatch.setattr(cupy, "matmul", None)
    np.testing.assert_array_equal((on_device() @ on_device().T).get(), HOST @ HOST.T)


@pytest.fixture
def recorded():
    """A function work -> the graph of it, in a stream and with a pool of its own."""
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()

    def record(work):
        with stream, cupy.cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            try:
                work()
            finally:
                graph = stream.end_capture()
        return graph

    return record


@pytest.mark.parametrize("run", RESULTS.values(), ids=RESULTS)
def test_a_graph_does_its_work_when_it_is_launched(run, recorded):
    """And then with what its arrays hold by that time."""
    x, i, results = on_device(0 * HOST), on_device(0 * INDEX), []
    if "product" in RESULTS and run is RESULTS["product"]:
        pytest.skip("products are for cuBLAS")
    graph = recorded(lambda: results.append(run(cupy, x, i)))
    x[...], i[...] = on_device(), on_device(INDEX)
    expected = np.asarray(run(np, HOST, INDEX))
    is_view = results[0]._memory.base is x._memory
    assert is_view or (results[0].get() != expected).any()
    for _ in range(2):
        graph.launch(None)
        np.testing.assert_array_equal(results[0].get(), expected, strict=True)


def test_what_a_graph_writes_to_changes_with_each_launch(recorded):
    x, i = on_device(), on_device(INDEX[:1])

    def work():
        x[i] = x[i] * 2.0
        cupy.add(x, 1.0, out=x)

    graph = recorded(work)
    np.testing.assert_array_equal(x.get(), HOST)
    host = HOST.copy()
    for _ in range(2):
        graph.launch(None)
        host[INDEX[:1]] *= 2
        host += 1
        np.testing.assert_array_equal(x.get(), host)


@pytest.mark.parametrize("run", [run for _, run in MOVES.values()], ids=MOVES)
def test_a_capture_refuses_what_moves_or_waits(run, recorded):
    x = on_device()
    with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureUnsupported"):
        recorded(lambda: run(x))
    run(x)


def test_a_capture_has_its_rules(recorded):
    x = on_device(np.ones((2, 2)))
    with pytest.raises(NotImplementedError, match="cuBLAS"):
        recorded(lambda: x @ x)
    with pytest.raises(RuntimeError, match="not the stream in use"):
        cupy.cuda.Stream.null.begin_capture()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream, pytest.raises(RuntimeError, match="a pool of its own"):
        stream.begin_capture()


def test_a_graph_whose_pool_is_gone_cannot_be_launched():
    stream, x = cupy.cuda.Stream(non_blocking=True), on_device()
    with stream, cupy.cuda.using_allocator(cupy.cuda.MemoryPool().malloc):
        stream.begin_capture()
        x += 1
        graph = stream.end_capture()
    with pytest.raises(RuntimeError, match="pool of the graph's memory is gone"):
        graph.launch(stream)


def test_cupy_has_all_that_its_double_has():
    real = pytest.importorskip("cupy")
    for name in vars(cupy):
        assert hasattr(real, name), name
    for name in set(dir(ndarray)) - set(dir(object)) - {"_memory", "__slots__"}:
        assert hasattr(real.ndarray, name), name
    assert hasattr(real.lib.stride_tricks, "as_strided")
    for name in vars(strict_cupy.cupy.cuda):
        assert hasattr(real.cuda, name), name
