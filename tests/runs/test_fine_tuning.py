"""A run that starts from the weights of another: frozen layers, a new last layer, and hints."""

import dataclasses

import numpy as np
import pytest

from minicnn import (
    BatchNorm2D,
    Conv2D,
    Flatten,
    Linear,
    ReLU,
    Residual,
    Sequential,
    fit,
    lenet_relu,
    softmax_cross_entropy,
)
from minicnn.optimizers import SGD
from minicnn.runs import Settings, checkpoints, hints, open_run, resume_run, train_run
from minicnn.runs.fine_tuning import start_from
from minicnn.training.history import History

pytestmark = pytest.mark.usefixtures("no_picture")
QUIET = {"progress": False}


def composite():
    rng = np.random.default_rng(0)
    body = Sequential(Conv2D(4, 4, 3, padding=1, rng=rng), BatchNorm2D(4))
    return Sequential(
        Conv2D(1, 4, 5, stride=3, rng=rng),
        Residual(body),
        ReLU(),
        Flatten(),
        Linear(256, 10, rng=rng),
    )


def bits(net):
    return {name: array.tobytes() for name, array in net.arrays.items()}


def test_frozen_training_is_sgd_by_hand_on_the_other_layers(data):
    train, _ = (part[:40] for part in data)  # one chunk a step
    net, by_hand = composite().astype(np.float64), composite().astype(np.float64)
    before = bits(net)
    freeze = ("0", "1.body")
    optimizer = SGD(0.1, momentum=0.9)
    fit(net, train, epochs=3, batch_size=40, optimizer=optimizer, freeze=freeze, workers=1, **QUIET)
    weight, bias = (by_hand.params[f"4.{name}"] for name in ("weight", "bias"))
    velocity = {"4.weight": 0 * weight, "4.bias": 0 * bias}
    for epoch in range(3):
        index = np.random.default_rng((0, epoch)).permutation(40)
        x, labels = train.batch(index, by_hand.dtype)
        logits, saved = by_hand.forward(x)
        _, dlogits = softmax_cross_entropy(logits, labels)
        _, grads = by_hand.backward(dlogits, saved, need_dx=False)
        for name, w in (("4.weight", weight), ("4.bias", bias)):
            velocity[name] = 0.9 * velocity[name] + grads[name]
            w -= 0.1 * velocity[name]
    after = bits(net)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"4.weight", "4.bias"}
    for name, array in net.arrays.items():  # fit adds up in another order
        np.testing.assert_allclose(array, by_hand.arrays[name], rtol=1e-12, atol=1e-14)
    assert {name.split(".", 1)[1] for name in optimizer.state} == changed


def test_the_workers_change_no_bit(data):
    nets = []
    for workers in (1, 2):
        nets.append(composite())
        fit(nets[-1], data[0], epochs=1, freeze=["1"], workers=workers, **QUIET)
    assert bits(nets[0]) == bits(nets[1])
    assert bits(nets[0])["1.body.1.running_mean"] == bits(composite())["1.body.1.running_mean"]


@pytest.mark.parametrize("freeze", [("7",), ("0.weigh",), ("",)])
def test_unknown_names_are_refused_with_the_list(data, freeze):
    with pytest.raises(ValueError, match=r"among 0\.weight, .*4\.bias, .*, got"):
        fit(composite(), data[0], freeze=freeze, **QUIET)


def test_something_must_be_left_to_train(data):
    with pytest.raises(ValueError, match="leave at least one"):
        fit(composite(), data[0], freeze=("0", "1", "4"), **QUIET)


def test_a_frozen_run_is_resumed_bit_for_bit(data, tmp_path):
    settings = Settings(epochs=2, batch_size=50, lr=0.1, momentum=0.9, freeze=("0", "1"))
    whole = composite()
    train_run(whole, *data, tmp_path / "run", settings, save_every=1, keep=9, workers=1, **QUIET)
    for path in checkpoints(tmp_path / "run")[2:]:
        path.unlink()
    net = composite()
    resume_run(net, *data, tmp_path / "run", workers=1, **QUIET)
    assert bits(net) == bits(whole)
    assert bits(net)["0.weight"] == bits(composite())["0.weight"]
    with pytest.raises(ValueError, match="freeze is .* minicnn train --from"):
        resume_run(net, *data, tmp_path / "run", dataclasses.replace(settings, freeze=()), **QUIET)


def test_a_new_run_starts_from_the_weights_and_may_have_other_classes(data, tmp_path):
    first = lenet_relu(np.random.default_rng(3))
    train_run(first, *data, tmp_path / "a", Settings(epochs=1, lr=0.1), model="lenet-relu", **QUIET)
    same, _, is_new = start_from(tmp_path / "a", data[0], 5)
    assert not is_new and bits(same) == bits(first)
    fewer = [
        dataclasses.replace(part, labels=part.labels % 3, classes=part.classes[:3]) for part in data
    ]
    net, origin, is_new = start_from(tmp_path / "a", fewer[0], 5)
    kept = {name for name in net.arrays if bits(net)[name] == bits(first)[name]}
    assert is_new and net.arrays.keys() - kept <= {"11.weight", "11.bias"}
    last = Linear(84, 3, rng=np.random.default_rng(5))
    assert np.array_equal(net.layers[-1].params["weight"], last.params["weight"])
    train_run(
        *(net, *fewer, tmp_path / "b", Settings(epochs=1, lr=0.1)),
        model=origin.model,
        started_from="a",
        **QUIET,
    )
    again, origin = open_run(tmp_path / "b")
    assert bits(again) == bits(net) and origin.started_from == "a" and len(origin.classes) == 3


def test_images_of_another_shape_are_refused(data, tmp_path):
    settings = Settings(epochs=1, lr=0.1)
    train_run(lenet_relu(), *data, tmp_path / "a", settings, model="lenet-relu", **QUIET)
    colour = dataclasses.replace(data[0], images=np.repeat(data[0].images, 3, axis=1))
    with pytest.raises(ValueError, match=r"\(1, 28, 28\), but .* are \(3, 28, 28\)"):
        start_from(tmp_path / "a", colour, 0)


def test_a_last_layer_that_stands_twice_is_not_replaced(data, tmp_path):
    shared = Linear(10, 10)
    net = Sequential(Flatten(), Linear(784, 10), shared, ReLU(), shared)
    train_run(net, *data, tmp_path / "a", Settings(epochs=1, lr=0.1), **QUIET)
    more = dataclasses.replace(data[0], classes=(*data[0].classes, "x"))
    with pytest.raises(ValueError, match="stands twice"):
        start_from(tmp_path / "a", more, 0)


def history(train, test, losses):
    """Of epochs with these accuracies and losses on the test set."""
    return History(100, "cpu", [0.1] * len(train), train, losses, test)


def told(hint, whole):
    """The epochs, counted from 1, after which the hint is told."""
    epochs = range(1, len(whole.train_accuracy) + 1)
    parts = [
        history(whole.train_accuracy[:k], whole.test_accuracy[:k], whole.test_loss[:k])
        for k in epochs
    ]
    return [k for k, part in zip(epochs, parts) if hint(part)]


def test_overfitting_is_told_once_when_two_epochs_in_a_row_show_it():
    grows = history([0.6, 0.95, 0.98, 0.99, 0.99], [0.6, 0.7, 0.7, 0.7, 0.7], [0.8, 1, 1.2, 1.4, 2])
    assert told(hints.parted, grows) == [3]
    dips = history(
        [0.7, 0.8, 0.82, 0.83, 0.84], [0.7, 0.5, 0.8, 0.5, 0.8], [0.7, 1.4, 0.6, 1.4, 0.5]
    )
    assert told(hints.parted, dips) == []
    close = history([0.9, 0.98, 0.99, 0.99], [0.9, 0.9, 0.9, 0.9], [0.3, 0.5, 0.6, 0.7])
    assert told(hints.parted, close) == []
    no_test = history([0.9, 0.99, 0.99], [], [])
    assert told(hints.parted, no_test) == []


def test_an_accuracy_below_chance_is_told_once():
    def below(part):
        return hints.below_chance(part, 10, 200)

    assert told(below, history([0.4, 0.9, 0.9], [0, 0, 0], [3, 4, 5])) == [2]
    assert told(below, history([0.9, 0.9], [0.09, 0.12], [1, 1])) == []


def test_hints_from_pictures_and_predictions(data):
    assert hints.nearly_equal(data[0]) is None
    black = dataclasses.replace(data[0], images=0 * data[0].images)
    assert "are all black" in hints.nearly_equal(black)
    equal = dataclasses.replace(data[0], images=np.repeat(data[0].images[:1], 130, axis=0))
    assert "nearly equal" in hints.nearly_equal(equal)
    net = lenet_relu(np.random.default_rng(0))
    for name in ("weight", "bias"):
        net.layers[-1].params[name][...] = 0  # so that it always answers 0
    ten_each = dataclasses.replace(data[1], labels=(np.arange(len(data[1])) % 10).astype(np.uint8))
    line = hints.never_predicted(net, ten_each, history([0.6], [0.1], [1]))
    assert hints.never_predicted(net, ten_each, history([0.2], [0.1], [1])) is None
    assert "0" not in line.split(":")[1] and all(str(k) in line for k in range(1, 10))


def test_sorted_test_sets_give_no_false_alarm(data, monkeypatch):
    """Each network answers right; only the first images would show one class."""
    monkeypatch.setattr(hints, "SAMPLE", 60)
    labels = np.arange(120) // 60
    images = np.zeros((120, 1, 1, 1), np.uint8)
    images[labels == 1] = 255
    both = dataclasses.replace(data[0], images=images, labels=labels, classes=("a", "b"), files=())
    net = Sequential(Flatten(), Linear(1, 2))
    net.layers[1].params["weight"][...] = [[0], [1]]
    net.layers[1].params["bias"][...] = [0.5, 0]
    assert hints.never_predicted(net, both, history([0.9], [0.9], [1])) is None
    net.layers[1].params["bias"][...] = [5, 0]
    assert hints.never_predicted(net, both, history([0.9], [0.9], [1])).startswith(
        "never predicted on the test set: b;"
    )


def test_dark_on_bright_is_told(data):
    assert hints.dark_on_bright(data[0]) is None
    inverted = dataclasses.replace(data[0], images=255 - data[0].images)
    assert "--invert" in hints.dark_on_bright(inverted)
