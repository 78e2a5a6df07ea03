"""Several ranks with a GPU each: the double of CuPy, and a communicator whose ranks are threads."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import strict_cupy

from minicnn import (
    SGD,
    Conv2D,
    Dropout,
    Flatten,
    Linear,
    ReLU,
    Sequential,
    fit,
    softmax_cross_entropy,
)
from minicnn.backend import gpu_problem
from minicnn.cli import training
from minicnn.training.mpi import Ranks


class Communicator:
    """What `Ranks` uses of one of mpi4py; its buffers are arrays of the host."""

    def __init__(self, rank, size, board, barrier):
        self.rank, self.size, self.board, self.barrier = rank, size, board, barrier

    def Split_type(self, kind):
        return self

    def allgather(self, own):
        self.board[self.rank] = own
        self.barrier.wait()
        every = list(self.board)
        self.barrier.wait()
        return every

    def bcast(self, own, root=0):
        return self.allgather(own)[root]

    def Allgatherv(self, own, into):
        self.fill(into, self.allgather(own))

    def Alltoallv(self, own, into):
        every = self.allgather(own)
        self.fill(into, [np.split(a, np.cumsum(counts)[:-1])[self.rank] for a, counts in every])

    def fill(self, into, parts):
        buffer, counts = into
        assert type(buffer) is np.ndarray and {type(part) for part in parts} == {np.ndarray}
        assert [part.size for part in parts] == counts
        np.concatenate([part.ravel() for part in parts], out=buffer.reshape(-1))


@pytest.fixture
def gpus(monkeypatch):
    """The double, with two GPUs; a list of the numbers of those that are chosen."""

    class Device:
        def __init__(self, number):
            self.number = number

        def __enter__(self):
            pass

        def __exit__(self, *error):
            pass

        def use(self):
            chosen.append(self.number)

    chosen, cuda = [], strict_cupy.cupy.cuda
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.cupy)
    monkeypatch.setattr(cuda, "Device", Device, raising=False)
    monkeypatch.setattr(cuda.runtime, "getDeviceCount", lambda: 2)
    gpu_problem.cache_clear()
    yield chosen
    gpu_problem.cache_clear()


@pytest.fixture
def on_ranks(monkeypatch):
    """A function (size, work) -> what work(ranks) returns in each of so many ranks."""
    mpi = SimpleNamespace(COMM_TYPE_SHARED=0)
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=mpi))

    def run(size, work):
        board, barrier = [None] * size, threading.Barrier(size, timeout=60)

        def of_rank(rank):
            try:
                return work(Ranks(Communicator(rank, size, board, barrier)))
            except BaseException:
                barrier.abort()
                raise

        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(of_rank, range(size)))

    return run


OPTIONS = {"epochs": 1, "batch_size": 280, "workers": 1, "progress": False}  # two steps


def network(*more):
    rng = np.random.default_rng(0)
    conv, linear = Conv2D(1, 4, 5, stride=3, rng=rng), Linear(256, 10, rng=rng)
    return Sequential(conv, ReLU(), *more, Flatten(), linear).to("gpu")


@pytest.mark.parametrize("size", [2, 3])
def test_gradients_go_through_the_host_and_have_the_same_bits(gpus, on_ranks, small_digits, size):
    """Dropped units, for which one process cuts a batch into the same chunks."""
    data = [part[:500] for part in small_digits]

    def trained(ranks):
        net = network(Dropout(0.2))
        history = fit(net, *data, optimizer=SGD(0.1, momentum=0.9), ranks=ranks, **OPTIONS)
        return history.curve, history.test_loss, [a.get().tobytes() for a in net.params.values()]

    assert on_ranks(size, trained) == [trained(None)] * size


def test_each_rank_takes_its_share_of_a_batch(gpus, on_ranks, small_digits):
    def sizes(ranks):
        def loss(logits, labels):
            found.append(len(logits))
            return softmax_cross_entropy(logits, labels)

        found = []
        fit(network(), small_digits[0][:500], loss=loss, ranks=ranks, **OPTIONS)
        return found

    # 5 chunks of 56 images and 4 of 55
    assert on_ranks(2, sizes) == [[56] * 2 + [55] * 2, [56] * 3 + [55] * 2]


def test_each_rank_of_a_machine_takes_a_gpu_of_its_own(gpus, monkeypatch):
    for rank in range(4):
        monkeypatch.setattr(
            training, "world", lambda rank=rank: SimpleNamespace(size=4, local_rank=rank)
        )
        assert training.own_device("gpu") == "gpu"
    assert gpus == [0, 1, 0, 1]
    assert training.own_device("gpu:1") == "gpu" and gpus[4:] == [1]
    assert training.own_device("cpu") == "cpu" and len(gpus) == 5
