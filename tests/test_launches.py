"""How many kernels, fills and products each layer starts on a GPU, counted on the double of CuPy: a
step of small images takes as long as its launches."""

import sys

import numpy as np
import pytest
import strict_cupy
from launches import launches

from minicnn import (
    GELU,
    SGD,
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    Flatten,
    GlobalAvgPool2D,
    Linear,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Tanh,
    lenet,
    lenet_relu,
    softmax_cross_entropy,
)
from minicnn.backend import gpu_problem, to_device

LAYERS = {  # of LeNet's shapes: launches forward, and backward without and with dx
    "Conv2D, padded": (Conv2D(1, 6, 5, padding=2), (1, 28, 28), 8, 10, 24),
    "Conv2D": (Conv2D(6, 16, 5), (6, 14, 14), 6, 8, 22),
    "Conv2D, 2 groups": (Conv2D(6, 16, 5, groups=2), (6, 14, 14), 6, 10, 25),
    "Conv2D, a stride": (Conv2D(6, 16, 3, 3), (6, 14, 14), 5, 6, 15),
    "AvgPool2D": (AvgPool2D(2), (6, 28, 28), 4, 0, 5),
    "AvgPool2D, overlapping": (AvgPool2D(3, 2), (6, 28, 28), 9, 0, 11),
    "MaxPool2D": (MaxPool2D(2), (6, 28, 28), 2, 0, 21),
    "GlobalAvgPool2D": (GlobalAvgPool2D(), (6, 28, 28), 1, 0, 2),
    "Linear": (Linear(400, 120), (400,), 2, 2, 3),
    "Flatten": (Flatten(), (6, 28, 28), 0, 0, 0),
    "Sigmoid": (Sigmoid(), (6, 28, 28), 4, 0, 3),
    "Tanh": (Tanh(), (6, 28, 28), 1, 0, 3),
    "ReLU": (ReLU(), (6, 28, 28), 1, 0, 2),
    "GELU": (GELU(), (6, 28, 28), 38, 0, 1),
    "BatchNorm2D": (BatchNorm2D(6), (6, 28, 28), 10, 3, 11),
}


@pytest.fixture(autouse=True)
def double(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.cupy)
    gpu_problem.cache_clear()
    yield
    gpu_problem.cache_clear()


def on_gpu(shape):
    """Random numbers (4, *shape), with the batch last in memory."""
    x = np.random.default_rng(0).standard_normal((*shape, 4)).astype(np.float32)
    return to_device(x, "gpu").transpose(-1, *range(len(shape)))


@pytest.mark.parametrize("name", LAYERS)
def test_launches_of_a_layer(name):
    layer, shape, *expected = LAYERS[name]
    layer, x = layer.to("gpu"), on_gpu(shape)
    with launches() as forward:
        y, saved = layer.forward(x)
    dy = on_gpu(y.shape[1:])
    with launches() as without_dx:
        layer.backward(dy, saved, need_dx=False)
    with launches() as with_dx:
        layer.backward(dy, saved)
    assert [len(forward), len(without_dx), len(with_dx)] == expected


@pytest.mark.parametrize(
    "build, optimizer, step, products",
    [(lenet, SGD(0.1), 142, 14), (lenet_relu, SGD(0.1, momentum=0.9), 174, 14)],
    ids=["lenet", "lenet_relu"],
)
def test_launches_of_a_step(build, optimizer, step, products):
    """All of it but the batch; of the optimizer, the second step."""
    net, x = build(np.random.default_rng(0)).to("gpu"), on_gpu((1, 28, 28))
    labels = to_device(np.arange(4), "gpu")
    for _ in range(2):
        with launches() as started:
            logits, saved = net.forward(x)
            _, dlogits = softmax_cross_entropy(logits, labels)
            _, grads = net.backward(dlogits, saved, need_dx=False)
            optimizer.step(net.params, grads)
    assert (len(started), started.count("matmul")) == (step, products)


def test_what_counts_as_a_launch():
    cupy, x = strict_cupy.cupy, on_gpu((3, 5))  # (4, 3, 5), which lies in memory as (3, 5, 4)
    for count, work in {
        0: lambda: x.transpose(1, 2, 0).reshape(15, 4)[2:].T,
        1: lambda: (x + 1, cupy.empty((2,)))[0],
        2: lambda: x.reshape(12, 5).sum(axis=0),  # a copy, and the sum
        3: lambda: cupy.matmul(x.transpose(0, 2, 1), x),  # both are copied
    }.items():
        with launches() as started:
            work()
        assert len(started) == count, started
    matrix = x.transpose(1, 2, 0).reshape(15, 4)
    with launches() as started:
        cupy.matmul(matrix.T, matrix)
    assert started == ["matmul"]
