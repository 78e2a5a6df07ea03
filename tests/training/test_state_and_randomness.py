"""Batch norm, dropout, a residual block and augmentation in one network: the same bits for any
number of workers and after a resume, and what `fit` makes of state and random numbers."""

import dataclasses
import itertools
import os
import signal
import statistics
import sys

import numpy as np
import pytest

from minicnn import (
    SGD,
    Augmentation,
    BatchNorm2D,
    Conv2D,
    Dropout,
    Flatten,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    cosine,
    evaluate,
    fit,
    softmax_cross_entropy,
)
from minicnn.datasets import Dataset, batches
from minicnn.runs import Origin, Settings, resume_run, run_folder, train_run
from minicnn.runs.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from minicnn.runs.stopping import Stopped
from minicnn.training import Position, TrainingError, estimate_seconds
from minicnn.training.chunks import CHUNK_SIZE
from minicnn.training.parallel import batch_gradients

AUGMENT = Augmentation(mirror=True, shift=1, erase=0.5)
RUN = Settings(lr=0.1), Origin("small", "stripes", ("rows", "columns", "both"))


@pytest.fixture(scope="module")
def data():
    """300 images with stripes that go one way, the other, or both."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    images = rng.integers(0, 128, (300, 1, 8, 8))
    images[labels != 1, :, ::2] += 127
    images[labels != 0, :, :, ::2] += 127
    images = images.clip(max=255).astype(np.uint8)
    return Dataset(images, labels, ("rows", "columns", "both"), "stripes")


def body(rng):
    return Sequential(Conv2D(4, 4, 3, padding=1, bias=False, rng=rng), BatchNorm2D(4), ReLU())


def build(seed=0, p=0.3):
    """With p = 0 there is no dropout."""
    rng = np.random.default_rng(seed)
    dropout = [[Dropout(p, rng=rng)] if p else [] for _ in range(2)]
    return Sequential(
        Conv2D(1, 4, 3, padding=1, bias=False, rng=rng),
        BatchNorm2D(4),
        ReLU(),
        Residual(Sequential(body(rng), *dropout[0]), Conv2D(4, 4, 1, rng=rng)),
        MaxPool2D(2),
        Flatten(),
        *dropout[1],
        Linear(64, 3, rng=rng),
    )


def bits(arrays):
    return {name: array.tobytes() for name, array in arrays.items()}


def trained(data, seed=0, workers=1, augment=AUGMENT, **options):
    """(bits of weights and state, bits of the velocity, history but for the times) of two epochs of
    two steps, of 4 chunks and of 2."""
    net, optimizer = build(), SGD(0.1, momentum=0.9)
    settings = {"epochs": 2, "batch_size": 230, "schedule": cosine, "progress": False, **options}
    settings |= {"optimizer": optimizer, "augment": augment, "seed": seed, "workers": workers}
    history = fit(net, data, data[:100], **settings)
    return bits(net.arrays), bits(optimizer.state), dataclasses.replace(history, train_seconds=[])


@pytest.mark.parametrize("platform", ["linux", "elsewhere"])
def test_any_number_of_workers_gives_the_same_bits(platform, data, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    one, *others = (trained(data, workers=workers) for workers in (1, 2, 3, 4))
    assert others == [one] * 3
    before = bits(build().arrays)
    assert all(before[name] != after for name, after in one[0].items())


def test_another_seed_or_no_augmentation_gives_others(data):
    first, again, seed, augment = (
        trained(data, **options) for options in ({}, {}, {"seed": 1}, {"augment": None})
    )
    assert first == again
    for other in seed, augment:
        assert all(other[0][name] != first[0][name] for name in first[0] if "num" not in name)


def test_it_goes_on_from_any_step_to_the_same_bits(data, tmp_path):
    """Written to files with one number of workers, and read with another."""
    net, optimizer, paths = build(), SGD(0.1, momentum=0.9), []

    def save(position):
        paths.append(tmp_path / f"{len(paths)}")
        save_checkpoint(Checkpoint.of(net, optimizer, position, *RUN, "0"), paths[-1])

    settings = {"epochs": 2, "batch_size": 100, "schedule": cosine, "progress": False}
    settings |= {"augment": AUGMENT, "seed": 7}
    history = fit(
        *(net, data),
        optimizer=optimizer,
        on_step=save,
        on_epoch=lambda history: save(Position(history)),
        workers=1,
        **settings,
    )
    assert len(paths) == 6
    for path in paths:
        checkpoint = load_checkpoint(path)
        resumed, other = build(seed=1), SGD(0.1, momentum=0.9)
        checkpoint.restore(resumed, other)
        start = checkpoint.position
        rest = fit(resumed, data, optimizer=other, start=start, workers=2, **settings)
        assert bits(resumed.arrays) == bits(net.arrays)
        assert bits(other.state) == bits(optimizer.state)
        assert (rest.train_loss, rest.curve) == (history.train_loss, history.curve)


def test_a_run_that_is_stopped_within_an_epoch_goes_on_to_the_same_files(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(run_folder, "training_curves", lambda history: b"curves")
    monkeypatch.setattr(run_folder, "save_figure", lambda figure, path: path.write_bytes(figure))
    settings = Settings(lr=0.1, momentum=0.9, epochs=3, batch_size=130, seed=3)
    options = {"progress": False, "workers": 2}
    train_run(build(), data, data[:100], tmp_path / "whole", settings, **options)
    step, left = SGD.step, itertools.count(1)

    def stopping(optimizer, params, grads):
        step(optimizer, params, grads)
        if next(left) == 4:  # the first of three steps of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="1 epoch and 1 step"):
        patch.setattr(SGD, "step", stopping)
        train_run(build(), data, data[:100], tmp_path / "run", settings, **options)
    resume_run(build(seed=1), data, data[:100], tmp_path / "run", progress=False, workers=1)
    for name in "weights.safetensors", "best.safetensors":
        whole, resumed = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "run"))
        assert resumed == whole
    net = build(seed=2)
    load_weights(net, tmp_path / "run" / "weights.safetensors")
    assert net.state["1.num_batches_tracked"] == 9


class Recording(Layer):
    """y = x, and in `passes` the key and the shape of each pass of training."""

    def __init__(self):
        super().__init__()
        self.key, self.passes = None, []

    def at(self, key):
        same = Recording()
        same.key, same.passes = key, self.passes
        return same

    def __deepcopy__(self, memo):  # which the work is done with
        return self

    def __call__(self, x):
        return x

    def forward(self, x):
        self.passes.append((self.key, x.copy()))
        return x, None

    def backward(self, dy, saved, need_dx=True):
        return dy, {}


def recorded(data, **options):
    """The keys, and the images that were seen with each."""
    first, inner, last = Recording(), Recording(), Recording()
    net = Sequential(first, Residual(Sequential(Flatten(), inner), Flatten()), Linear(64, 3), last)
    fit(net, data, data[:10], workers=1, progress=False, **options)
    return dict(first.passes), dict(inner.passes), dict(last.passes)


def test_each_pass_has_a_key_of_its_own(data):
    """Of seed, epoch, step, chunk, 1 for the network, and the place in it."""
    options = {"epochs": 2, "batch_size": 170, "seed": 9}
    first, inner, last = recorded(data, **options)
    chunks = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]  # 170 images, and 130
    places = [(9, epoch, *chunk, 1) for epoch in range(2) for chunk in chunks]
    assert list(first) == [(*place, 0) for place in places]
    assert list(inner) == [(*place, 1, 0, 1) for place in places]
    assert list(last) == [(*place, 3) for place in places]
    assert [len(x) for x in first.values()] == 2 * [56, 57, 57, 43, 43, 44]


def test_each_chunk_is_augmented_by_numbers_of_its_own(data):
    draws, options = [], {"epochs": 2, "batch_size": 170}

    def augment(images, rng):
        assert images.dtype == np.uint8
        draws.append((len(images), rng.random()))
        return images[..., ::-1]

    seen, _, _ = recorded(data, augment=augment, **options)
    plain, _, _ = recorded(data, **options)
    assert draws.pop(0)[0] == 1  # tried on the first image before any work
    assert len(set(draws)) == len(draws) == 12
    for key, x in seen.items():
        np.testing.assert_array_equal(x, plain[key][..., ::-1])
    # in the key, 0 stands for augmentation where 1 does for the network
    assert draws[4] == (43, np.random.default_rng((0, 0, 1, 1, 0)).random())
    evaluate(build(), data)
    assert len(draws) == 12


def torch_net(torch, net):
    """`build(p=0)` in PyTorch, with the arrays of net."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Sequential(
                    nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
                )
            )
            self.shortcut = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.body(x) + self.shortcut(x)

    convolution = nn.Conv2d(1, 4, 3, padding=1, bias=False)
    head = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)]
    same = nn.Sequential(convolution, nn.BatchNorm2d(4), nn.ReLU(), Block(), *head)
    same = same.to(torch.float64 if net.dtype == np.float64 else torch.float32)
    same.load_state_dict({name: torch.tensor(array) for name, array in net.arrays.items()})
    return same


def test_batches_of_one_chunk_train_as_in_pytorch(data):
    """Twelve steps of SGD in float64: rounding grows with each, but stays far below 1e-9."""
    torch = pytest.importorskip("torch")
    net = build(p=0).astype(np.float64)
    same = torch_net(torch, net).train()
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
    optimizer = torch.optim.SGD(same.parameters(), **options)
    settings = {"epochs": 2, "batch_size": 55, "optimizer": SGD(**options), "seed": 4}
    fit(net, data, workers=2, progress=False, **settings)
    for epoch in range(2):
        for index in batches(len(data), 55, np.random.default_rng((4, epoch))):
            optimizer.zero_grad()
            logits = same(torch.tensor(data.images[index] / 255))
            torch.nn.functional.cross_entropy(logits, torch.tensor(data.labels[index])).backward()
            optimizer.step()
    state = same.state_dict()
    assert list(state.keys() ^ net.arrays.keys()) == []
    for name, array in net.arrays.items():
        np.testing.assert_allclose(array, state[name].numpy(), rtol=1e-9, atol=1e-9, err_msg=name)
    assert net.state["1.num_batches_tracked"] == state["1.num_batches_tracked"] == 12


def test_the_state_is_the_mean_over_chunks_by_images(data):
    """By Python's own statistics, of a layer that sees the images as they are."""
    net = Sequential(BatchNorm2D(1), Flatten(), Linear(64, 3)).astype(np.float64)
    index = np.random.default_rng(0).permutation(300)[:130]
    with batch_gradients(net, data, 130, workers=2) as gradients:
        state = gradients(index).state
    mean = var = 0
    for chunk in index[:43], index[43:86], index[86:]:
        values = (data.images[chunk].astype(float) / 255).ravel().tolist()
        mean += len(chunk) / 130 * 0.1 * statistics.fmean(values)
        var += len(chunk) / 130 * (0.9 + 0.1 * statistics.variance(values))
    np.testing.assert_allclose(state["0.running_mean"], [mean], rtol=1e-12)
    np.testing.assert_allclose(state["0.running_var"], [var], rtol=1e-12)
    assert state["0.num_batches_tracked"] == 1 and state["0.num_batches_tracked"].dtype == np.int64
    assert net.state["0.running_mean"] == 0, "written by batch_gradients itself"


def test_the_gradients_are_the_mean_over_chunks_each_by_itself(data):
    """A ghost batch: what the network gives for each chunk alone, by hand."""
    net = build().astype(np.float64)
    index, key = np.arange(150), (1, 2, 3)
    with batch_gradients(net, data, 150, 2, augment=AUGMENT) as gradients:
        found = gradients(index, key)
    total, loss = dict.fromkeys(net.params, 0), 0
    for c in range(3):
        images = AUGMENT(data.images[50 * c : 50 * c + 50], np.random.default_rng((*key, c, 0)))
        same = net.at((*key, c, 1))
        logits, saved = same.forward(images / 255)
        chunk_loss, dlogits = softmax_cross_entropy(logits, data.labels[50 * c : 50 * c + 50])
        loss += chunk_loss / 3
        for name, grad in same.backward(dlogits, saved)[1].items():
            total[name] = total[name] + grad / 3
    assert found.loss == pytest.approx(loss, rel=1e-12)
    for name, grad in found.grads.items():
        np.testing.assert_allclose(grad, total[name], rtol=0, atol=1e-12, err_msg=name)


def test_a_loss_that_is_not_finite_leaves_weights_and_state_of_the_step_before(data):
    net, kept, calls = build(), [], itertools.count(1)

    def loss(logits, labels):
        value, dlogits = softmax_cross_entropy(logits, labels)
        return (value if next(calls) < 3 else value * np.float32(np.nan)), dlogits

    def keep(position):
        kept.append(bits(net.arrays))

    options = {"epochs": 1, "batch_size": 100, "workers": 1, "progress": False}
    options["optimizer"] = SGD(0.05)
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1, step 2 of 3"):
        fit(net, data, loss=loss, on_step=keep, **options)
    assert kept == [bits(net.arrays)] and kept != [bits(build().arrays)]
    assert net.state["1.num_batches_tracked"] == 1


def test_evaluation_leaves_the_state_alone_and_takes_each_image_by_itself(data):
    net = build()
    fit(net, data, epochs=1, batch_size=100, optimizer=SGD(0.05), workers=1, progress=False)
    assert net.state["3.body.0.1.num_batches_tracked"] == 3  # steps, of two chunks each
    net, before = net.astype(np.float64), bits(net.astype(np.float64).arrays)
    losses, correct = [], 0
    for i in range(len(data)):
        logits = net(data.images[i : i + 1] / 255)
        losses.append(softmax_cross_entropy(logits, data.labels[i : i + 1])[0])
        correct += int(logits.argmax()) == data.labels[i]
    for workers in 1, 2:
        loss, accuracy = evaluate(net, data, workers=workers)
        assert loss == pytest.approx(statistics.fmean(losses), rel=1e-12)
        assert accuracy == correct / len(data)
    assert bits(net.arrays) == before


def test_training_that_is_timed_changes_nothing(data):
    net = build()
    before = bits(net.arrays)
    estimate_seconds(net, data, epochs=1, batch_size=100, workers=1)
    assert bits(net.arrays) == before


def test_an_odd_image_joins_a_chunk(data):
    """Where each chunk is a batch to normalise, one of a single image would be a poor one."""
    sizes = []

    class Sized(BatchNorm2D):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    net = Sequential(Sized(1), Flatten(), Linear(64, 3))
    with batch_gradients(net, data, 300, workers=1) as gradients:
        for n in 1, CHUNK_SIZE // 2, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE + 1, 300:
            gradients(np.arange(n))
    assert sizes == [1, 32, 64, 32, 33, 43, 43, 43, 60, 60, 60, 60, 60]


def test_pytorch_loads_the_weights_with_one_line_and_the_other_way_round(data, tmp_path):
    torch = pytest.importorskip("torch")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    net = build(p=0)
    fit(net, data, epochs=1, batch_size=100, optimizer=SGD(0.05), workers=1, progress=False)
    save_weights(net, tmp_path / "net.safetensors")
    same = torch_net(torch, build(seed=1, p=0))
    same.load_state_dict(safetensors_torch.load_file(tmp_path / "net.safetensors"))
    x = data.images[:50].astype(np.float32) / 255
    with torch.no_grad():
        outputs = same.eval()(torch.tensor(x)).numpy()
    np.testing.assert_allclose(outputs, net(x), rtol=0, atol=1e-5 * np.abs(outputs).max())
    assert same[1].num_batches_tracked.item() == 3

    other = torch_net(torch, build(seed=2, p=0)).train()
    with torch.no_grad():
        other(torch.tensor(x))  # which updates the running statistics
    net.load_params({name: tensor.numpy() for name, tensor in other.state_dict().items()})
    with torch.no_grad():
        expected = other.eval()(torch.tensor(x)).numpy()
    np.testing.assert_allclose(net(x), expected, rtol=0, atol=1e-5)
    assert net.state["1.num_batches_tracked"] == 1


class Forgets(Linear):
    """Gives no gradient of the bias, or one of another shape."""

    grads = {"weight": np.zeros((10, 784), np.float32)}

    def backward(self, dy, saved, need_dx=True):
        return super().backward(dy, saved, need_dx)[0], self.grads


@pytest.mark.parametrize("bias", [None, np.zeros((), np.float32)])
def test_a_gradient_that_is_missing_or_of_another_shape_is_refused(bias, small_digits):
    """It would be taken for 0 or broadcast."""
    net = Sequential(Flatten(), Forgets(784, 10))
    if bias is not None:
        net.layers[1].grads = {**Forgets.grads, "bias": bias}
    with pytest.raises(ValueError, match="expected gradients of shapes .* but got"):
        fit(net, small_digits[0], epochs=1, progress=False)


def test_an_augmentation_that_does_not_fit_is_refused_before_any_work(small_digits, tmp_path):
    net, augment = Sequential(Flatten(), Linear(784, 10)), Augmentation(shift=28)
    for train in (
        lambda: fit(net, small_digits[0], augment=augment, progress=False),
        lambda: train_run(net, *small_digits, tmp_path / "run", Settings(shift=28)),
    ):
        with pytest.raises(ValueError, match="shift must be below the height and width of images"):
            train()
    assert not (tmp_path / "run").exists()
