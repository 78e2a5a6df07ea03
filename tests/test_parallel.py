"""One batch in chunks on several threads: the same numbers as at once on one."""

import contextlib
import ctypes
import threading
import time

import numpy as np
import pytest
import threadpoolctl

from minicnn import parallel, reference
from minicnn.parallel import CHUNK_SIZE, batch_gradients, batch_loss, worker_map


def blas_threads():
    return [
        library["num_threads"]
        for library in threadpoolctl.threadpool_info()
        if library["user_api"] == "blas"
    ]


@pytest.mark.parametrize("n", [1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE + 7])
def test_chunks_add_up_to_the_whole_batch(n, new_net, small_digits):
    """Loss and gradients of a network taken by hand over all images at once, in float64."""
    train, _ = small_digits
    net = new_net().astype(np.float64)
    index = np.random.default_rng(n).integers(0, len(train), n)
    logits, saved = net.forward(train.images[index] / 255)
    expected_loss, dlogits = reference.softmax_cross_entropy(logits, train.labels[index])
    _, expected = net.backward(dlogits, saved)
    expected_correct = (logits.argmax(axis=1) == train.labels[index]).sum()

    loss, correct, grads = batch_gradients(net, train, index)
    assert correct == expected_correct
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, expected[name], rtol=1e-12, atol=1e-14, err_msg=name)
    assert batch_loss(net, train, index) == (loss, correct)


def test_any_number_of_workers_gives_the_same_bits(new_net, small_digits):
    train, _ = small_digits
    net, index = new_net(), np.arange(10 * CHUNK_SIZE + 1) % len(train)
    results = []
    for workers in (1, 2, 3, 3):
        with worker_map(workers) as map_:
            loss, correct, grads = batch_gradients(net, train, index, map_)
            assert batch_loss(net, train, index, map_) == (loss, correct)
            results.append((loss, correct, {name: g.tobytes() for name, g in grads.items()}))
    assert results.count(results[0]) == len(results)


def test_results_come_in_order_however_long_each_takes():
    def wait(seconds):
        time.sleep(seconds)
        return seconds

    with worker_map(2) as map_:
        assert list(map_(wait, [0.1, 0, 0.05, 0])) == [0.1, 0, 0.05, 0]


@pytest.mark.parametrize("workers, cores", [(2, 1), (3, 1), (None, 1), (None, 3)])
def test_so_many_threads_work_at_once_and_no_more(workers, cores, monkeypatch):
    """Each of them waits until all are there; for one more they wait in vain."""
    monkeypatch.setattr(parallel, "cores", lambda: cores)
    n = workers or cores
    all_there, one_more = threading.Barrier(n, timeout=10), threading.Barrier(n + 1, timeout=0.1)
    with worker_map(workers) as map_:
        assert sorted(map_(lambda _: all_there.wait(), range(n))) == list(range(n))
        with pytest.raises(threading.BrokenBarrierError):
            list(map_(lambda _: one_more.wait(), range(n + 1)))


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_a_number_of_workers_that_makes_no_sense(workers):
    with pytest.raises(ValueError, match=f"workers must be an integer >= 1, got {workers}"):
        with worker_map(workers):
            pass


class Fault(Exception):
    pass


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("fails", [False, True])
def test_an_exception_comes_out_and_all_settings_are_restored(
    workers, fails, new_net, small_digits
):
    train, _ = small_digits
    net = new_net()
    inside = []

    def forward(x):
        inside.append((blas_threads(), np.geterr()["over"], np.getbufsize()))
        if fails and len(x) < CHUNK_SIZE:
            raise Fault
        return type(net).forward(net, x)

    net.forward = forward
    with (
        threadpoolctl.threadpool_limits(2, user_api="blas"),
        np.errstate(over="raise", under="warn"),
    ):
        before = blas_threads(), np.geterr(), np.getbufsize(), threading.active_count()
        with pytest.raises(Fault) if fails else contextlib.nullcontext():
            with worker_map(workers) as map_:
                batch_gradients(net, train, np.arange(CHUNK_SIZE + 1), map_)
        assert (blas_threads(), np.geterr(), np.getbufsize(), threading.active_count()) == before
    assert len(inside) == 2
    for threads, over, bufsize in inside:
        assert set(threads) == {1}
        assert over == "ignore" and bufsize < before[2]


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_a_machine_without_glibc_works_too(error, monkeypatch):
    def no_glibc(name):
        raise error(name)

    monkeypatch.setattr(ctypes, "CDLL", no_glibc)
    with worker_map(1) as map_:
        assert list(map_(abs, [-1])) == [1]
