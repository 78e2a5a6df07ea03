"""One test body for every place where arrays can live: NumPy, a strict double of CuPy, and CuPy.

The double runs everywhere and refuses what a GPU would refuse; CuPy itself is skipped, with the
reason, where there is no GPU that works.
"""

import copy
import itertools
import json
import re
import sys

import numpy as np
import pytest
import strict_cupy
from rounding import assert_equal_but_for_rounding, cross_entropy_sizes, network_size, softmax_size
from strict_cupy import counts, no_transfers
from test_layers import CASES, build, expected

from minicnn import (
    GELU,
    SGD,
    AdamW,
    Augmentation,
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    Dropout,
    Flatten,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
    evaluate,
    fit,
    lenet,
    lenet_relu,
    softmax,
    softmax_cross_entropy,
    squared_error,
)
from minicnn.backend import array_module, device_of, gpu_problem, to_device
from minicnn.cli import data as cli_data
from minicnn.datasets import Dataset
from minicnn.explain import trace
from minicnn.runs import hints
from minicnn.runs.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from minicnn.runs.settings import Origin, Settings
from minicnn.training import TrainingError, chunks
from minicnn.training.parallel import batch_gradients

QUIET = {"progress": False}
ORIGIN = Origin("small", "digits", ())
FLOATS = np.float32, np.float64
DTYPES = pytest.mark.parametrize("dtype", FLOATS)


@pytest.fixture
def double(monkeypatch):
    """The double in place of CuPy."""
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.cupy)
    gpu_problem.cache_clear()
    yield
    gpu_problem.cache_clear()


NO_GPU = pytest.mark.skipif(bool(gpu_problem()), reason=str(gpu_problem()))


@pytest.fixture(params=["numpy", "strict double", pytest.param("cupy", marks=NO_GPU)])
def device(request):
    if request.param == "strict double":
        request.getfixturevalue("double")
    return "cpu" if request.param == "numpy" else "gpu"


def assert_close(result, exact, size, device, dtype, name=""):
    """An array of this device and dtype, which is `exact` but for rounding."""
    assert device_of(result) == device and result.dtype == dtype
    assert_equal_but_for_rounding(to_device(result, "cpu"), exact, size, name)


def batch_last(x):
    xp = array_module(x)
    return xp.moveaxis(xp.ascontiguousarray(xp.moveaxis(x, 0, -1)), -1, 0)


@pytest.mark.parametrize("name", CASES)
def test_a_layer_does_on_each_device_what_the_loops_do(name, device):
    """Whatever the memory order, with nothing read back and nothing that is passed in changed."""
    *_, exact, size = expected(name)
    for dtype, arrange in itertools.product(FLOATS, (lambda x: x, batch_last)):
        layer, *host = build(name, dtype, dtype)
        before = [*host, *layer.params.values()]
        layer = layer.map_arrays(lambda parameter: to_device(parameter.copy(), device))
        x, dy = (arrange(to_device(array.copy(), device)) for array in host)
        with no_transfers():
            y, saved = layer.forward(x)
            dx, grads = layer.backward(dy, saved)
            called = layer(x)
            no_dx, grads_alone = layer.backward(dy, saved, need_dx=False)
        assert no_dx is None and grads.keys() == grads_alone.keys() == layer.params.keys()
        results = [("y", y), ("x", dx), *grads.items(), ("y", called), *grads_alone.items()]
        for key, result in results:
            assert_close(result, exact[key], size[key], device, dtype, key)
        for array, original in zip((x, dy, *layer.params.values()), before, strict=True):
            np.testing.assert_array_equal(to_device(array, "cpu"), original)


@DTYPES
@pytest.mark.parametrize("build", [lenet, lenet_relu])
def test_lenet_gives_the_same_logits_and_gradients(build, dtype, device):
    rng = np.random.default_rng(0)
    net = build(rng).astype(dtype)
    x, labels = rng.random((3, 1, 28, 28)).astype(dtype), rng.integers(0, 10, 3)

    def results(net, x, labels):
        logits, saved = net.forward(x)
        loss, dlogits = softmax_cross_entropy(logits, labels)
        dx, grads = net.backward(dlogits, saved)
        return {"logits": logits, "called": net(x), "loss": loss, "x": dx, **grads}

    def exact(net):
        return results(net, x.astype(np.float64), labels)

    size = network_size(exact, net.astype(np.float64))
    there = net.to(device)
    assert (there.device, there.dtype) == (device, dtype)
    arrays = [to_device(array, device) for array in (x, labels)]
    with no_transfers():
        found = results(there, *arrays)
    for name, wanted in exact(net.astype(np.float64)).items():
        assert_close(found[name], wanted, size[name], device, dtype, name)


def own_sizes(results):
    """Where nothing cancels."""
    return [np.abs(result) for result in results]


LOSSES = {  # the results, and their sizes
    "softmax": (
        lambda y, target, labels: [softmax(y)],
        lambda y, target, labels: [softmax_size(y)],
    ),
    "cross-entropy": (
        lambda y, target, labels: softmax_cross_entropy(y, labels),
        lambda y, target, labels: cross_entropy_sizes(y, labels),
    ),
    "squared error": (
        lambda y, target, labels: squared_error(y, target),
        lambda y, target, labels: own_sizes(squared_error(y, target)),
    ),
    "squared error, sum": (
        lambda y, target, labels: squared_error(y, target, "sum"),
        lambda y, target, labels: own_sizes(squared_error(y, target, "sum")),
    ),
}


@DTYPES
@pytest.mark.parametrize("loss, sizes", LOSSES.values(), ids=LOSSES)
def test_losses(loss, sizes, dtype, device):
    rng = np.random.default_rng(0)
    host = [*rng.normal(0, 5, (2, 4, 7)).astype(dtype), rng.integers(0, 7, 4)]
    there = [to_device(array.copy(), device) for array in host]
    with no_transfers():
        results = loss(*there)
    y, target, labels = host
    exact = y.astype(np.float64), target.astype(np.float64), labels
    for result, reference, size in zip(results, loss(*exact), sizes(*exact), strict=True):
        assert_close(result, reference, size, device, dtype)
    for array, before in zip(there, host):
        np.testing.assert_array_equal(to_device(array, "cpu"), before)


@DTYPES
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    ids=["plain", "momentum", "nesterov"],
)
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_sgd(options, weight_decay, dtype, device):
    rng = np.random.default_rng(0)
    draws = [{"w": rng.random((3, 4)), "b": rng.random(3)} for _ in range(4)]
    params, *gradients = [{key: x.astype(dtype) for key, x in draw.items()} for draw in draws]
    there, *gradients_there = [
        {key: to_device(x.copy(), device) for key, x in part.items()}
        for part in (params, *gradients)
    ]
    exact = {key: parameter.astype(np.float64) for key, parameter in params.items()}
    optimizer, optimizer_there = (SGD(0.1, weight_decay=weight_decay, **options) for _ in range(2))
    for grads, grads_there in zip(gradients, gradients_there):
        optimizer.step(exact, {key: grad.astype(np.float64) for key, grad in grads.items()})
        with no_transfers():
            optimizer_there.step(there, grads_there)
        for key, parameter in exact.items():
            size = 2 * params[key] - parameter  # all steps go down: the start, and all that is lost
            assert_close(there[key], parameter, size, device, dtype)
            np.testing.assert_array_equal(to_device(grads_there[key], "cpu"), grads[key])


@DTYPES
@pytest.mark.parametrize("index", ["slice", "here", "there"])
def test_batches_of_a_data_set(index, dtype, device, small_digits):
    data = small_digits[0]
    order = np.array([6, 0, 0, 3])
    given = {"slice": slice(2, 5), "here": order, "there": to_device(order, device)}[index]
    host_index = given if index == "slice" else order
    there = data.to(device)
    assert there.to(device) is there and there.to("cpu").images.tobytes() == data.images.tobytes()
    assert device_of(there[10:20].images) == device
    for source, place in (there, device), (data, "cpu"):
        x, labels = source.batch(given, dtype)
        assert x.transpose(1, 2, 3, 0).flags.c_contiguous
        exact = data.images[host_index] / 255
        assert_close(x, exact, exact, place, dtype)
        assert device_of(labels) == place
        np.testing.assert_array_equal(to_device(labels, "cpu"), data.labels[host_index])


@pytest.fixture(scope="module")
def trained(small_digits):
    """A function dtype -> (network, history, evaluation) of `train` on the CPU, computed once."""
    done = {}

    def run(dtype):
        if dtype not in done:
            done[dtype] = train(small_digits, dtype, "cpu")
        return done[dtype]

    return run


def train(digits, dtype, device):
    """51 steps, in batches that a CPU cuts into chunks; the last one of an epoch is smaller."""
    train_set, test_set = digits[0][:250], digits[1][:100]
    rng = np.random.default_rng(0)
    net = Sequential(
        Conv2D(1, 4, 5, stride=2, padding=1, rng=rng),
        Tanh(),
        MaxPool2D(2),
        Flatten(),
        Linear(144, 10, rng=rng),
    )
    net = net.astype(dtype).to(device)
    history = fit(
        *(net, train_set, test_set),
        epochs=17,
        batch_size=100,
        optimizer=SGD(0.1, momentum=0.5, nesterov=True, weight_decay=1e-3),
        workers=1,
        **QUIET,
    )
    return net, history, evaluate(net, train_set)


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-4), (np.float64, 1e-10)])
def test_training_gives_the_losses_of_the_cpu(dtype, tolerance, device, trained, small_digits):
    _, reference, evaluation = trained(dtype)
    net, history, evaluation_there = train(small_digits, dtype, device)
    assert history.device == net.device == device and net.dtype == dtype
    assert history.train_loss[-1] < 0.8 * history.train_loss[0]
    # 51 steps pass their rounding on, which is no one sum; a fault of 1e-4 shows in float64
    close = {"rtol": tolerance, "atol": 0}
    np.testing.assert_allclose(history.train_loss, reference.train_loss, **close)
    np.testing.assert_allclose(history.test_loss, reference.test_loss, **close)
    np.testing.assert_allclose(history.curve, reference.curve, **close)
    assert history.test_accuracy == reference.test_accuracy
    np.testing.assert_allclose(evaluation_there, evaluation, **close)


def test_frozen_layers_keep_their_weights_and_state_on_each_device(device, small_digits):
    train_set, test_set = (data[:250] for data in small_digits)
    rng = np.random.default_rng(0)
    front = Conv2D(1, 4, 5, stride=3, rng=rng), BatchNorm2D(4)
    net = Sequential(*front, Flatten(), Linear(256, 10, rng=rng)).to(device)
    before = {name: to_device(array.copy(), "cpu") for name, array in net.arrays.items()}
    history = fit(net, train_set, epochs=1, freeze=("0", "1"), optimizer=SGD(0.1), **QUIET)
    same = [name for name in before if (to_device(net.arrays[name], "cpu") == before[name]).all()]
    assert set(before) - set(same) == {"3.weight", "3.bias"}
    for name in ("weight", "bias"):
        net.layers[-1].params[name][...] = 0  # so that it always answers 0
    history.train_accuracy[0] = 1.0
    assert "never predicted" in hints.never_predicted(net, test_set, history)


def test_a_gpu_takes_the_chunks_and_draws_the_numbers_of_a_cpu(device, small_digits):
    """With dropout and augmentation no other mask would come near these losses, and with batch norm
    no other chunk; 100 images are two chunks."""
    train_set, test_set = (data[:250] for data in small_digits)
    found = []
    for place in ("cpu", device):
        rng = np.random.default_rng(0)
        net = Sequential(
            Conv2D(1, 4, 5, stride=3, bias=False, rng=rng),
            BatchNorm2D(4),
            Residual(Sequential(Conv2D(4, 4, 3, padding="same", rng=rng), GELU(), Dropout(0.2))),
            Flatten(),
            Dropout(),
            Linear(256, 10, rng=rng),
        )
        net = net.astype(np.float64).to(place)
        history = fit(
            net,
            train_set,
            test_set,
            epochs=2,
            batch_size=100,
            optimizer=AdamW(0.01, decay_biases=False, clip_norm=1.0),
            augment=Augmentation(mirror=True, shift=2, erase=0.5),
            **QUIET,
        )
        arrays = {name: to_device(array, "cpu") for name, array in net.arrays.items()}
        found.append({"train": history.train_loss, "test": history.test_loss, **arrays})
    for name, there in found[1].items():
        np.testing.assert_allclose(there, found[0][name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_step_moves_nothing_between_host_and_device(double, small_digits):
    train_set, net = small_digits[0].to("gpu"), lenet(np.random.default_rng(0)).to("gpu")
    optimizer = SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    order = to_device(np.arange(200), "gpu")
    with batch_gradients(net, train_set, 100) as gradients, no_transfers():
        for index in order[:100], order[100:]:
            _, _, grads, _ = gradients(index)
            optimizer.step(net.params, grads)


def test_a_gpu_takes_a_batch_and_all_rows_of_its_images_at_once(
    double, new_net, small_digits, monkeypatch
):
    """So there is one product a layer forward, one for each weight and one for the dx of Linear."""
    train_set, net = small_digits[0].to("gpu"), new_net().to("gpu")
    products, matmul = [], strict_cupy.cupy.matmul
    monkeypatch.setattr(
        strict_cupy.cupy, "matmul", lambda *args, **kw: (products.append(1), matmul(*args, **kw))[1]
    )
    with batch_gradients(net, train_set, 1000) as gradients:
        gradients(to_device(np.arange(1000), "gpu"))
    assert len(products) == 5


def test_a_trace_tells_the_same_on_each_device(device):
    """All but rounding: in float64, with momentum, and bytes that are counted once."""
    rng = np.random.default_rng(0)
    net = Sequential(
        *(Conv2D(1, 4, 3, rng=rng), BatchNorm2D(4), ReLU(), Dropout(0.3), MaxPool2D(2), Flatten()),
        *(Linear(36, 8, rng=rng), Sigmoid(), Residual(Linear(8, 8, rng=rng)), Tanh()),
        Linear(8, 3, rng=rng),
    ).astype(np.float64)
    host = rng.standard_normal((5, 1, 8, 8)), rng.integers(0, 3, 5)

    def traced(place):
        x, labels = (to_device(array, place) for array in host)
        there, optimizer = net.to(place), SGD(0.5, momentum=0.9)
        optimizer.velocity = {name: np.cos(w) for name, w in net.params.items()}
        optimizer.load_state({n: to_device(v, place) for n, v in optimizer.state.items()})
        found = trace(there, x, labels, optimizer).to_json()
        assert {device_of(v) for v in optimizer.velocity.values()} == {place}
        return found, found.pop("sentences")

    def assert_alike(found, expected):
        if isinstance(expected, dict):
            assert found.keys() == expected.keys()
            found, expected = list(found.values()), list(expected.values())
        if isinstance(expected, list):
            assert len(found) == len(expected)
            for parts in zip(found, expected):
                assert_alike(*parts)
        elif isinstance(expected, float):  # means that cancel to nothing are rounding
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)
        else:
            assert found == expected

    assert_alike(list(traced(device)), list(traced("cpu")))


def test_training_reads_at_the_points_of_the_curve_only(double, new_net, small_digits):
    """12 steps an epoch, the numbers read after each third; one upload an epoch, its order; one
    wait, for the clock."""
    seen = []

    def look(*_):
        seen.append((counts.reads, counts.uploads, counts.waits))

    net, train_set = new_net().to("gpu"), small_digits[0][:120].to("gpu")
    fit(net, train_set, epochs=3, batch_size=10, on_step=look, on_epoch=look, **QUIET)
    moves = np.diff(seen, axis=0)[11:23]  # those of the second epoch
    reads, uploads, waits = moves.T
    assert reads.tolist() == 4 * [0, 0, 1]  # the losses and counts of three steps
    assert uploads.tolist() == [1] + 11 * [0]
    assert waits.tolist() == 11 * [0] + [1]


def test_evaluation_reads_two_numbers(double, new_net, small_digits):
    net, test_set = new_net().to("gpu"), small_digits[1].to("gpu")
    before = copy.copy(counts)
    evaluate(net, test_set)
    assert counts.reads - before.reads == 2
    assert (counts.uploads - before.uploads, counts.waits - before.waits) == (0, 0)


def test_evaluation_on_a_gpu_is_cut_so_that_memory_suffices(
    double, new_net, small_digits, monkeypatch
):
    net, test_set, sizes = new_net(), small_digits[1], []
    x, labels = test_set.images / 255, test_set.labels

    def results(net):
        return {"loss": softmax_cross_entropy(net(x), labels)[0]}

    exact = results(net.astype(np.float64))["loss"]
    size = network_size(results, net.astype(np.float64))["loss"]
    _, accuracy = evaluate(net, test_set)
    call = Sequential.__call__
    monkeypatch.setattr(
        Sequential, "__call__", lambda net, x: (sizes.append(len(x)), call(net, x))[1]
    )
    monkeypatch.setitem(chunks.EVALUATION_CHUNK_SIZES, "gpu", 120)
    loss, accuracy_there = evaluate(net.to("gpu"), test_set.to("gpu"), workers=2)
    assert sizes == [100, 100, 100]
    assert_equal_but_for_rounding(np.float32(loss), exact, size)
    assert accuracy_there == accuracy


def test_divergence_is_found_at_the_next_point_and_names_its_step(double, new_net, small_digits):
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1, step 2 of 20; "):
        fit(new_net().to("gpu"), small_digits[0], batch_size=50, optimizer=SGD(1e25), **QUIET)


X = np.ones((2, 1, 4, 4), np.float32)
LAYERS = [
    (Conv2D(1, 2, 3), X),
    (MaxPool2D(2), X),
    (Linear(4, 3), X[:, 0, 0]),
    *((activation(), X) for activation in (ReLU, Sigmoid, Tanh)),
]
BOTH_WAYS = pytest.mark.parametrize("place, other", [("cpu", "gpu"), ("gpu", "cpu")])


def refused(owner, name, place, other):
    """The block raises ValueError: what was expected where, where it is, and how to move it."""
    sentence = (
        f"{owner} expected {name} on the {place} but got it on the {other}: move it with "
        f"minicnn.backend.to_device(array, {place!r})"
    )
    return pytest.raises(ValueError, match=f"{re.escape(sentence)}$")


@BOTH_WAYS
@pytest.mark.parametrize("layer, x", LAYERS, ids=[repr(layer) for layer, _ in LAYERS])
def test_a_layer_and_an_array_of_another_device(layer, x, place, other, double):
    layer = layer.to(place)
    there, here = (to_device(x, name) for name in (place, other))
    y, saved = layer.forward(there)
    with refused(layer, "dy", place, other):
        layer.backward(to_device(y, other), saved)
    if layer.params:
        for forward in layer, layer.forward, Sequential(ReLU(), layer):
            with refused(layer, "x", place, other):
                forward(here)


def test_layers_without_arrays_of_their_own_work_where_the_gradient_is(double):
    for layer in AvgPool2D(2), AvgPool2D(2, padding=1, count_include_pad=False), Flatten():
        y, saved = layer.forward(X)
        dx, _ = layer.backward(to_device(y, "gpu"), saved)
        assert device_of(dx) == "gpu"


@BOTH_WAYS
def test_losses_data_and_steps_with_arrays_of_two_devices(place, other, double):
    y, target, labels = np.ones((2, 3)), np.zeros((2, 3)), np.zeros(2, int)
    y, images = (to_device(array, place) for array in (y, np.zeros((2, 1, 2, 2), np.uint8)))
    target, labels = (to_device(array, other) for array in (target, labels))
    with refused("softmax_cross_entropy", "labels", place, other):
        softmax_cross_entropy(y, labels)
    with refused("squared_error", "target", place, other):
        squared_error(y, target)
    with refused("Dataset", "labels", place, other):
        Dataset(images, labels, ("a",), "two devices")

    params = {"a": to_device(np.ones(2), place), "b": to_device(np.ones(3), place)}
    grads = {"a": to_device(np.ones(2), place), "b": to_device(np.ones(3), other)}
    optimizer = SGD(0.1, momentum=0.9)
    with refused("SGD", "the gradient of b", place, other):
        optimizer.step(params, grads)
    grads["b"] = to_device(grads["b"], place)
    optimizer.velocity = {"a": to_device(np.ones(2), place), "b": to_device(np.ones(3), other)}
    with refused("SGD", "the velocity of b", place, other):
        optimizer.step(params, grads)
    assert all((to_device(w, "cpu") == 1).all() for w in params.values())


@BOTH_WAYS
def test_weights_go_from_device_to_device(place, other, double, new_net, tmp_path):
    net = new_net(seed=1).to(place)
    save_weights(net, tmp_path / "weights")
    loaded, copied = new_net().to(other), new_net().to(other)
    load_weights(loaded, tmp_path / "weights")
    copied.load_params(net.params)
    for name, parameter in net.params.items():
        for moved in loaded, copied, net.to(other), net.to(other).to(place).to(other):
            assert device_of(moved.params[name]) == other
            np.testing.assert_array_equal(
                to_device(moved.params[name], "cpu"), to_device(parameter, "cpu"), strict=True
            )


@BOTH_WAYS
def test_a_run_with_momentum_goes_on_on_the_other_device(
    place, other, double, new_net, small_digits, tmp_path
):
    train_set, test_set = (data[:150] for data in small_digits)
    settings = {"epochs": 3, "batch_size": 50, **QUIET}

    def new_optimizer():
        return SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.001)

    def save(position):
        if len(position.history.train_loss) == 1 and position.step == 2:
            checkpoint = Checkpoint.of(first, optimizer, position, Settings(), ORIGIN, "0")
            save_checkpoint(checkpoint, tmp_path / "checkpoint")

    first, optimizer = new_net().to(place), new_optimizer()
    whole = fit(
        first, train_set, test_set, optimizer=optimizer, workers=1, on_step=save, **settings
    )
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    net, optimizer = new_net().to(other), new_optimizer()
    checkpoint.restore(net, optimizer)
    assert {device_of(velocity) for velocity in optimizer.velocity.values()} == {other}
    history = fit(
        *(net, train_set, test_set),
        optimizer=optimizer,
        workers=1,
        start=checkpoint.position,
        **settings,
    )
    assert history.device == other
    # the steps pass their rounding on, which is no one sum: 1e-5 is 84 eps
    np.testing.assert_allclose(history.train_loss, whole.train_loss, rtol=1e-5)
    np.testing.assert_allclose(history.test_loss, whole.test_loss, rtol=1e-5)


def test_the_command_line_trains_evaluates_and_goes_on(
    double, run_command, small_digits, tmp_path, monkeypatch
):
    train_set, test_set = (data[:200] for data in small_digits)
    monkeypatch.setattr(cli_data, "digits", lambda: (train_set, test_set))
    gpu = ["--device", "gpu"]
    settings = ["--data", "digits", "--epochs", "1", "--batch-size", "100", "--out", tmp_path]
    status, out, err = run_command("train", *settings, *gpu)
    assert (status, err) == (0, "")
    assert (
        "200 to test), on the gpu (a double of CuPy, gpu:0 of 1)\n" in out
        and " examples/sec on gpu\n" in out
    )
    history = json.loads((tmp_path / "history.json").read_text())
    net = lenet_relu(np.random.default_rng(0))
    reference = fit(
        net, train_set, test_set, epochs=1, batch_size=100, optimizer=SGD(0.1), workers=1, **QUIET
    )
    # as above, and what shows is that it is this training
    np.testing.assert_allclose(history["train_loss"], reference.train_loss, rtol=1e-4)
    np.testing.assert_allclose(history["test_loss"], reference.test_loss, rtol=1e-4)

    status, out, err = run_command("evaluate", tmp_path, *gpu)
    assert (status, err) == (0, "")
    assert out.startswith(f"digits: test loss {history['test_loss'][0]:.3f}, ")
    status, out, err = run_command("train", "--resume", tmp_path, "--epochs", "2", "--workers", "1")
    assert (status, err) == (0, "")
    assert "resuming " in out and " examples/sec on cpu\n" in out


def test_the_doctor_says_that_a_gpu_works(double, run_command):
    status, out, _ = run_command("doctor")
    assert status == 0 and re.search(r"^GPU +works$", out, re.MULTILINE)
    for line in (
        "GPU +a double of CuPy, gpu:0 of 1",
        "GPU memory +1.0 of 2.0 GiB free",
        "CuPy +14.2.0 with CUDA 12.9; the driver supports CUDA 13.0",
    ):
        assert re.search(f"^{line}$", out, re.MULTILINE), line


@pytest.mark.parametrize("has_kernels", [False, True])
def test_the_doctor_says_whether_kernels_are_compiled(
    has_kernels, double, run_command, tmp_path, monkeypatch
):
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    if has_kernels:
        (tmp_path / "kernel.cubin").touch()
    _, out, _ = run_command("doctor")
    state = "kept$" if has_kernels else "none yet, so the first run compiles them, .* seconds$"
    assert re.search(rf"^GPU kernels +in {re.escape(str(tmp_path))}: {state}", out, re.MULTILINE)


def test_what_a_gpu_computes_elementwise_stays_batch_last(double):
    """Else each next layer would copy it back; and memory in C order becomes batch-last once."""
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)
    layers = ReLU(), Sigmoid(), Tanh(), GELU(), Dropout(), Residual(ReLU()), BatchNorm2D(2)
    for layer, arrange in itertools.product(layers, (batch_last, lambda x: x)):
        layer, there = layer.to("gpu"), arrange(to_device(x, "gpu"))
        y, saved = layer.forward(there)
        dx, _ = layer.backward(y, saved)
        for array in layer(batch_last(there)), y, dx:
            assert array.transpose(1, 2, 3, 0).flags.c_contiguous, layer
