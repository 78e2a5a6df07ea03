"""A batch in chunks on several processes gives the same numbers as at once in one."""

import contextlib
import ctypes
import dataclasses
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import threadpoolctl
from rounding import assert_equal_but_for_rounding, network_size

from minicnn import (
    SGD,
    AvgPool2D,
    Conv2D,
    Flatten,
    Linear,
    MaxPool2D,
    ReLU,
    Sequential,
    Tanh,
    lenet,
    reference,
)
from minicnn.training import parallel
from minicnn.training.chunks import CHUNK_SIZE, EVALUATION_CHUNK_SIZES
from minicnn.training.parallel import batch_gradients, loss_and_correct
from minicnn.training.workers import worker_map


def blas_threads():
    return [
        library["num_threads"]
        for library in threadpoolctl.threadpool_info()
        if library["user_api"] == "blas"
    ]


def net_of_all_layers(rng):
    return Sequential(
        Conv2D(1, 4, (5, 3), stride=(2, 1), padding=1, dilation=(1, 2), rng=rng),
        Tanh(),
        MaxPool2D(3, stride=2, padding=1),
        Conv2D(4, 6, 3, groups=2, bias=False, rng=rng),
        ReLU(),
        AvgPool2D(2, padding=1, count_include_pad=False),
        Flatten(),
        Linear(108, 10, rng=rng),
    )


@pytest.mark.parametrize("build", [lenet, net_of_all_layers])
@pytest.mark.parametrize("n", [1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE + 7])
def test_chunks_add_up_to_the_whole_batch(n, build, small_digits):
    """Loss and gradients of a network taken by hand over all images at once, in float64."""
    train, _ = small_digits
    net = build(np.random.default_rng(0)).astype(np.float64)
    index = np.random.default_rng(n).integers(0, len(train), n)
    x, labels = train.images[index] / 255, train.labels[index]

    def results(net):
        logits, saved = net.forward(x)
        loss, dlogits = reference.softmax_cross_entropy(logits, labels)
        return {"loss": loss, **net.backward(dlogits, saved)[1]}

    wanted = results(net)
    expected_correct = (net(x).argmax(axis=1) == labels).sum()

    with batch_gradients(net, train, n, workers=2) as gradients:
        loss, correct, grads, state = gradients(index)
    assert correct == expected_correct
    assert grads.keys() == wanted.keys() - {"loss"} and state == {}
    size = network_size(results, net)
    for name, result in {"loss": loss, **grads}.items():
        assert_equal_but_for_rounding(result, wanted[name], size[name], name)
    part = dataclasses.replace(train, images=train.images[index], labels=train.labels[index])
    loss_alone, correct_alone = loss_and_correct(net, part, workers=1)
    assert_equal_but_for_rounding(np.float64(loss_alone), wanted["loss"], size["loss"])
    assert correct_alone == correct


@pytest.mark.parametrize("platform", ["linux", "elsewhere"])
def test_any_number_of_workers_gives_the_same_bits(platform, new_net, small_digits, monkeypatch):
    """Also when the weights change between batches, and when a batch has more chunks than there
    is room for at once."""
    monkeypatch.setattr(sys, "platform", platform)
    train, _ = small_digits
    results = []
    for count in (1, 2, 3, 3):
        net, index = new_net(), np.arange(10 * CHUNK_SIZE + 1) % len(train)
        with batch_gradients(net, train, len(index), count) as gradients:
            steps = []
            for part in (index, index[: CHUNK_SIZE + 5], index):
                loss, correct, grads, _ = gradients(part)
                steps.append((loss, correct, {name: g.tobytes() for name, g in grads.items()}))
                SGD(0.1).step(net.params, grads)
        results.append((steps, loss_and_correct(net, train, count)))
    assert results[0][0][0] != results[0][0][2]
    assert results.count(results[0]) == len(results)


def test_any_size_of_batch_gives_the_same_bits_for_any_number_of_workers(new_net, small_digits):
    train, _ = small_digits
    sizes = (1, 15, 16, 17, 32, 33, 63, 64, 100, 256)
    results = []
    for count in (1, 2, 3):
        net = new_net()
        with batch_gradients(net, train, max(sizes), count) as gradients:
            found = [gradients(np.arange(n)) for n in sizes]
            grads = [{name: g.tobytes() for name, g in part.grads.items()} for part in found]
        losses = [part.loss for part in found]
        results.append((losses, grads, [loss_and_correct(net, train[:n], count) for n in sizes]))
    assert results == results[:1] * 3


@pytest.mark.parametrize("platform", ["linux", "elsewhere"])
def test_results_come_in_order_however_long_each_takes(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)

    def wait(seconds):
        time.sleep(seconds)
        return seconds

    with worker_map(wait, 2) as map_:
        assert map_([0.1, 0, 0.05, 0]) == [0.1, 0, 0.05, 0]
        assert map_([0.05]) == [0.05]


def test_so_many_processes_work_and_end_with_the_block(monkeypatch):
    with worker_map(lambda _: (time.sleep(0.05), os.getpid())[1], 3) as map_:
        workers = set(map_(range(9)))
        assert len(workers) == 3 and os.getpid() in workers
    for worker in workers - {os.getpid()}:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_one_worker_is_this_process():
    with worker_map(lambda _: os.getpid(), 1) as map_:
        assert map_([None]) == [os.getpid()]


def test_all_cores_work_unless_told_otherwise(new_net, small_digits, monkeypatch):
    asked = []
    real = parallel.worker_map
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    monkeypatch.setattr(parallel, "worker_map", lambda work, n: (asked.append(n), real(work, 1))[1])
    for count in (None, 2, 7):
        with batch_gradients(new_net(), small_digits[0], 4 * CHUNK_SIZE, count):
            pass
        images = 4 * EVALUATION_CHUNK_SIZES["cpu"]
        loss_and_correct(new_net(), small_digits[0][:images], count)
    assert asked == [3, 3, 2, 2, 4, 4]


def test_a_worker_that_dies_is_missed():
    this = os.getpid()
    with worker_map(lambda _: os.getpid() == this or os._exit(1), 2) as map_:
        with pytest.raises(ChildProcessError, match="a worker process died"):
            map_([1, 2])


def test_a_worker_that_was_killed_is_missed():
    with worker_map(lambda _: os.getpid(), 2) as map_:
        os.kill(map_([1, 2])[1], signal.SIGKILL)
        with pytest.raises(ChildProcessError, match="a worker process died"):
            map_([1, 2])


def test_no_answer_is_taken_for_that_of_other_jobs():
    with worker_map(lambda x: x, 3) as map_:
        with pytest.raises((AttributeError, pickle.PicklingError)):
            map_([1, 2, lambda: 1])  # the third does not go through a pipe
        with pytest.raises(OSError, match="closed"):
            map_([5, 6, 7])


def test_a_worker_ends_whatever_the_signals_do_here():
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with worker_map(lambda _: os.getpid(), 2) as map_:
            _, worker = map_([1, 2])
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_workers_end_when_their_parent_is_killed():
    script = """
import os, time
from minicnn.training.workers import worker_map
with worker_map(lambda _: os.getpid(), 3) as map_:
    print(*map_([1, 2, 3]), flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=-1, stderr=-1, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    assert parent.stderr.read() == ""  # at its end none of the three has it open any more
    assert len(workers) == 3
    parent.communicate()


def _pid_of_work(_):
    with worker_map(lambda _: os.getpid(), 2) as map_:
        return os.getpid(), map_([1, 2])


def test_a_process_that_may_have_no_children_works_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork, from Python 3.12 on
        pool = multiprocessing.get_context("fork").Pool(1)
    with pool:
        own, workers = pool.map(_pid_of_work, [None])[0]
    assert workers == [own, own]


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_a_number_of_workers_that_makes_no_sense(workers, new_net, small_digits):
    with pytest.raises(ValueError, match=f"workers must be an integer >= 1, got {workers}"):
        loss_and_correct(new_net(), small_digits[0], workers)


class Fault(Exception):
    pass


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("fails", [False, True])
def test_an_exception_comes_out_and_all_settings_are_restored(
    workers, fails, new_net, small_digits, monkeypatch
):
    train, _ = small_digits
    net = new_net()

    def forward(x):
        assert set(blas_threads()) == {1}
        assert np.geterr()["over"] == "ignore" and np.getbufsize() < before[2]
        if fails and len(x) < CHUNK_SIZE:
            raise Fault
        return type(net).forward(net, x)

    monkeypatch.setattr(type(net), "map_arrays", lambda self, change: self)
    net.forward = forward
    with (
        threadpoolctl.threadpool_limits(2, user_api="blas"),
        np.errstate(over="raise", under="warn"),
    ):
        before = (
            blas_threads(),
            np.geterr(),
            np.getbufsize(),
            len(multiprocessing.active_children()),
        )
        with pytest.raises(Fault) if fails else contextlib.nullcontext():
            with batch_gradients(net, train, CHUNK_SIZE + 1, workers) as gradients:
                gradients(np.arange(CHUNK_SIZE + 1))
        assert (
            blas_threads(),
            np.geterr(),
            np.getbufsize(),
            len(multiprocessing.active_children()),
        ) == before


def test_an_exception_in_a_worker_shows_where_it_was_raised():
    def divide(x):
        return 1 / x

    with worker_map(divide, 2) as map_:
        with pytest.raises(ZeroDivisionError) as caught:
            map_([1, 0])
        assert "return 1 / x" in str(caught.value.__cause__)
        with pytest.raises(ZeroDivisionError) as caught:
            map_([0, 1])
        assert caught.value.__cause__ is None  # it was here, where its own traceback tells
        assert map_([2, 4]) == [0.5, 0.25]


class TwoArguments(Exception):
    def __init__(self, one, other):
        super().__init__(one)


def test_what_does_not_go_through_a_pipe_is_told():
    def work(job):
        if job == "raise":
            raise TwoArguments("both are needed", 1)
        return (lambda: job) if job == "a function" else job

    with worker_map(work, 2) as map_:
        with pytest.raises(RuntimeError, match="TwoArguments: both are needed") as caught:
            map_(["", "raise"])
        assert "in work" in str(caught.value.__cause__)
        with pytest.raises(RuntimeError, match="(AttributeError|PicklingError): .*local"):
            map_(["", "a function"])
        assert map_([1, 2]) == [1, 2]


def test_an_interruption_of_our_own_share_ends_the_map():
    def work(job):
        if job == "interrupt":
            raise KeyboardInterrupt
        return bytes(1 << 20)  # more than a pipe holds

    with worker_map(work, 3) as map_:
        assert list(map(len, map_([1, 2, 3]))) == [1 << 20] * 3
        with pytest.raises(KeyboardInterrupt):
            map_(["interrupt", 2, 3])


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_a_machine_without_glibc_works_too(error, monkeypatch):
    def no_glibc(name, *args, **options):
        if name == "libc.so.6":
            raise error(name)
        return real(name, *args, **options)

    real = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", no_glibc)
    with worker_map(abs, 1) as map_:
        assert map_([-1]) == [1]
