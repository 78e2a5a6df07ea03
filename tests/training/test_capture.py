"""Captured steps and plain ones give the same bits, on the doubles of CuPy and cuBLAS."""

import copy
import ctypes
import sys

import numpy as np
import pytest
import strict_cublas
import strict_cupy
from strict_cupy import cupy

from minicnn import (
    SGD,
    Adam,
    AdamW,
    Augmentation,
    BatchNorm2D,
    Dropout,
    Sequential,
    fit,
    lenet,
    lenet_relu,
    softmax_cross_entropy,
)
from minicnn.backend import gpu_problem, matmul, multiplier, to_device
from minicnn.cli import main
from minicnn.optimizers import cosine
from minicnn.runs import Settings, resumable, train_run
from minicnn.training.cublas import Multiplier
from minicnn.training.history import TrainingError
from minicnn.training.mpi import Alone

OPTIMIZERS = {
    "plain": lambda: SGD(0.5),
    "momentum, clipped": lambda: SGD(0.05, momentum=0.9, clip_norm=1.0),
    "nesterov, decay": lambda: SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda: Adam(0.01, weight_decay=0.01, decay_biases=False),
    "adamw": lambda: AdamW(0.01),
}


@pytest.fixture(autouse=True)
def cublas(monkeypatch):
    found, real = strict_cublas.false_cublas(), ctypes.CDLL
    open_ = lambda name: found if "cublas" in str(name) else real(name)  # noqa: E731
    monkeypatch.setattr(ctypes, "CDLL", open_)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    gpu_problem.cache_clear()
    yield found
    gpu_problem.cache_clear()


@pytest.fixture
def graphs(monkeypatch):
    """The graph of each launch."""
    launched, launch = [], strict_cupy.Graph.launch
    monkeypatch.setattr(
        strict_cupy.Graph, "launch", lambda self, _: (launched.append(self), launch(self, _))
    )
    return launched


def normalised(rng):
    """LeNet with batch norm."""
    first, *others = lenet(rng).layers
    return Sequential(first, BatchNorm2D(6), *others)


def trained(data, build=lenet, optimizer=OPTIMIZERS["plain"], capture=True, **options):
    """(weights and state on the host, history) of two epochs of 5 full batches and 2 images."""
    net = build(np.random.default_rng(0)).to("gpu")

    def churn(position):  # other work on the device
        for _ in range(3):
            cupy.full((1000,), np.nan)

    options = {"on_step": churn, "schedule": cosine, "batch_size": 4, "epochs": 2} | options
    history = fit(net, data[:22], optimizer=optimizer(), capture=capture, progress=False, **options)
    return {name: to_device(array, "cpu") for name, array in net.arrays.items()}, history


def assert_same_bits(captured, plain):
    assert captured.keys() == plain.keys()
    for name, expected in plain.items():
        np.testing.assert_array_equal(captured[name], expected, err_msg=name)


@pytest.mark.parametrize(
    "build, name",
    [(lenet, name) for name in OPTIMIZERS]
    + [(lenet_relu, "momentum, clipped"), (lenet_relu, "adam"), (normalised, "plain")],
)
def test_captured_and_plain_steps_give_the_same_bits(build, name, small_digits, graphs, cublas):
    data, optimizer = small_digits[0], OPTIMIZERS[name]
    plain, plain_history = trained(data, build, optimizer, capture=False)
    assert not graphs and not cublas.products
    captured, history = trained(data, build, optimizer)
    assert_same_bits(captured, plain)
    assert history.curve == plain_history.curve
    assert history.train_loss == plain_history.train_loss
    assert len(graphs) == 8 and len(set(map(id, graphs))) == 1  # 10 full batches, two eager
    assert len(graphs[0].nodes) > 100 and cublas.products


def test_frozen_layers_stay_as_they_are(small_digits):
    options = {"build": normalised, "freeze": ["0", "1"]}
    plain, _ = trained(small_digits[0], capture=False, **options)
    captured, _ = trained(small_digits[0], **options)
    assert_same_bits(captured, plain)
    initial = normalised(np.random.default_rng(0)).arrays
    np.testing.assert_array_equal(captured["0.weight"], initial["0.weight"])
    np.testing.assert_array_equal(captured["1.running_mean"], initial["1.running_mean"])


@pytest.mark.parametrize("name", ["nesterov, decay", "adam"])
def test_resuming_in_mid_epoch(name, small_digits):
    whole, _ = trained(small_digits[0], optimizer=OPTIMIZERS[name])
    kept, net, optimizer = [], lenet(np.random.default_rng(0)).to("gpu"), OPTIMIZERS[name]()
    options = dict(epochs=2, batch_size=4, schedule=cosine, progress=False, capture=True)

    def keep(position):
        if position.step == 4 and not kept:
            position.read()
            kept.extend(copy.deepcopy((position, net.params, optimizer.state)))

    fit(net, small_digits[0][:22], optimizer=optimizer, on_step=keep, **options)
    position, params, state = kept
    net, optimizer = lenet(np.random.default_rng(1)).to("gpu"), OPTIMIZERS[name]()
    net.load_params(params)
    optimizer.load_state(state)
    fit(net, small_digits[0][:22], optimizer=optimizer, start=position, **options)
    assert_same_bits({n: to_device(a, "cpu") for n, a in net.params.items()}, whole)


def test_a_parameter_replaced_in_training_is_trained(small_digits, graphs):
    weights = []
    for capture in False, True:
        net = lenet(np.random.default_rng(0)).to("gpu")

        def replace(position, net=net):
            if position.step == 4:
                net.layers[0].params["weight"] = net.layers[0].params["weight"] * 0.5

        fit(
            *(net, small_digits[0][:22]),
            **dict(batch_size=4, epochs=1, on_step=replace, progress=False, capture=capture),
        )
        weights.append({name: to_device(a, "cpu") for name, a in net.params.items()})
    assert_same_bits(weights[1], weights[0])
    assert len(graphs) == 2  # steps 3 and 4; the last one is eager again


def test_fewer_images_than_a_batch_are_plain_steps(small_digits, graphs):
    plain, _ = trained(small_digits[0], batch_size=23, capture=False)
    assert_same_bits(trained(small_digits[0], batch_size=23)[0], plain)
    assert not graphs


def test_a_loss_that_is_not_finite_names_its_step(small_digits):
    with pytest.raises(TrainingError, match="epoch 1, step [0-9]+ of 6") as told:
        trained(small_digits[0], lenet_relu, lambda: SGD(1e30))
    assert "layer" not in str(told.value)  # its weights have been overwritten


class TwoRanks(Alone):
    size = 2


class Own(SGD):
    def step(self, params, grads):
        super().step(params, grads)


@pytest.mark.parametrize(
    "reason, options",
    {
        "ranks add up": {"ranks": TwoRanks()},
        "augmentation draws": {"augment": Augmentation(mirror=True)},
        "dropout draws": {"build": lambda rng: Sequential(*lenet(rng).layers, Dropout(0.5))},
        "optimizer of minicnn": {"optimizer": lambda: Own(0.1)},
    }.items(),
)
def test_what_needs_the_host_is_refused_in_one_sentence(reason, options, small_digits):
    with pytest.raises(ValueError, match=f"steps cannot be captured, because .*{reason}") as told:
        trained(small_digits[0], **options)
    assert "\n" not in str(told.value)


def test_a_run_captures(small_digits, graphs, tmp_path):
    net = lenet(np.random.default_rng(0)).to("gpu")
    settings = Settings(epochs=1, batch_size=4)
    train_run(net, small_digits[0][:14], None, tmp_path, settings, capture=True, progress=False)
    assert len(graphs) == 1
    with pytest.raises(ValueError, match="augmentation draws"):
        settings = Settings(epochs=1, mirror=True)
        train_run(net, small_digits[0], None, tmp_path / "new", settings, capture=True)
    assert not (tmp_path / "new").exists()


def test_the_command_line_captures(capsys, monkeypatch, tmp_path):
    def train(*arguments, capture, **options):
        raise ValueError(f"capture is {capture}")

    monkeypatch.setattr(resumable, "train_run", train)
    for options in [], ["--capture"]:
        command = ["train", "--data", "digits", "--device", "gpu", "--out", str(tmp_path / "run")]
        assert main(command + options) == 2
        assert f"capture is {bool(options)}" in capsys.readouterr().err


def test_a_network_on_the_cpu_is_refused(new_net, small_digits):
    with pytest.raises(ValueError, match=r"needs a network on a GPU: use net.to\('gpu'\)"):
        fit(new_net(), small_digits[0], capture=True)


def test_without_cublas_capture_is_refused(small_digits, monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file\nNo such file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(ValueError, match="OSError: libcublas.so.12: cannot open .* file.: train"):
        trained(small_digits[0])


FAULTS = {  # (logits, labels): what the loss does besides
    "a read": lambda logits, labels: logits.get(),
    "float": lambda logits, labels: float(logits.sum()),
    "an if": lambda logits, labels: bool((logits > 0).all()),
    "an upload": lambda logits, labels: cupy.asarray(np.ones(3)),
    "a mask as an index": lambda logits, labels: logits[logits > 0],
    "a wait": lambda logits, labels: cupy.cuda.get_current_stream().synchronize(),
    "CuPy's own product": lambda logits, labels: logits.T @ logits,
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_capture_refuses_ends_training_in_one_sentence(name, small_digits, graphs):
    taken = []

    def loss(logits, labels):
        FAULTS[name](logits, labels)
        taken.append(name)
        return softmax_cross_entropy(logits, labels)

    with pytest.raises(ValueError, match="that failed .*Error: .*train without capture") as told:
        trained(small_digits[0], loss=loss)
    assert "\n" not in str(told.value) and len(taken) == 2 and not graphs
    assert strict_cupy._recording is None and multiplier.get() is None
    assert cupy.cuda.get_current_stream() is cupy.cuda.Stream.null
    assert float(cupy.ones(3).sum()) == 3  # nothing is recorded any more


def test_what_depends_on_the_host_gives_other_bits(small_digits):
    """The comparison of bits sees a number that was frozen in the recording."""
    calls = []

    def loss(logits, labels):
        calls.append(1)
        loss, dlogits = softmax_cross_entropy(logits, labels)
        return loss, dlogits * (1 / len(calls))

    plain, _ = trained(small_digits[0], capture=False, loss=loss)
    calls.clear()
    captured, _ = trained(small_digits[0], loss=loss)
    assert any((captured[name] != plain[name]).any() for name in plain)


def strided(rng, dtype):
    """Pairs (a, b) as layers may have them: rows, columns, parts of both, and neither."""
    numbers = to_device(rng.integers(-9, 10, (6, 8, 10)).astype(dtype), "gpu")  # exact sums
    one, part = numbers[0], numbers[1, 1:5, 2:7]  # (8, 10), (4, 5)
    yield one, one.T
    yield one.T, one
    yield part, part.T
    yield part.T, part
    yield one[:4, ::2], part.T  # the first has no rows in one piece
    yield one[:, :1], one[:1]
    yield cupy.broadcast_to(one[0], (8, 10)), one.T
    yield numbers, numbers.swapaxes(1, 2)
    yield numbers.swapaxes(1, 2), numbers
    yield numbers[::2, 1:5, 2:7], numbers[::2, 1:6, ::3]
    yield numbers.transpose(1, 0, 2), numbers.transpose(1, 2, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_by_cublas_are_those_of_numpy(dtype, cublas):
    rng = np.random.default_rng(0)
    stream = cupy.cuda.Stream(non_blocking=True)
    multiply = Multiplier(cupy, stream)
    with stream:
        for a, b in strided(rng, dtype):
            expected = np.matmul(to_device(a, "cpu"), to_device(b, "cpu"))
            outs = [None, cupy.empty(expected.shape, dtype)]
            outs += [cupy.empty(expected.shape[::-1], dtype).transpose()]  # by columns
            for out in outs:
                found = multiply(a, b, out)
                assert out is None or found is out
                np.testing.assert_array_equal(to_device(found, "cpu"), expected)
    assert cublas.products == 33


def test_a_failure_of_cublas_is_told(cublas):
    stream = cupy.cuda.Stream(non_blocking=True)
    multiply = Multiplier(cupy, stream)
    x = cupy.ones((2, 2))
    with pytest.raises(RuntimeError, match="cublasDgemmStridedBatched failed with status 15"):
        multiply(x, x)  # in another stream than its own


def test_the_multiplier_of_a_context_makes_the_products():
    x = cupy.ones((2, 3))
    token = multiplier.set(lambda a, b, out: (a, b, out))
    try:
        assert matmul(x, x) == (x, x, None)
    finally:
        multiplier.reset(token)
