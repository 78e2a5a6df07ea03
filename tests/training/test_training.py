"""Training: it learns, it does what a plain loop does, and it stops where it must."""

import contextlib
import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding, network_size

from minicnn import SGD, Flatten, Linear, Sequential, evaluate, fit, lenet_relu, reference
from minicnn.datasets import Dataset
from minicnn.training import History, TrainingError, loop, parallel
from minicnn.training.loop import estimate_seconds

QUIET = {"progress": False}


def bits(net):
    return {name: parameter.tobytes() for name, parameter in net.params.items()}


@pytest.fixture
def seen(monkeypatch):
    """The indices of the images, chunk by chunk, that data sets were asked for."""
    indices, batch = [], Dataset.batch

    def recorded(self, index, *dtype):
        indices.append(index)
        return batch(self, index, *dtype)

    monkeypatch.setattr(Dataset, "batch", recorded)
    return indices


@pytest.fixture
def clock(monkeypatch):
    """The clock of training; on it a step takes `next(clock.steps)` seconds, an evaluation 100."""
    clock = SimpleNamespace(now=0.0, steps=itertools.repeat(1.0))

    def advance(function, seconds):
        def timed(*args, **options):
            clock.now += next(seconds())
            return function(*args, **options)

        return timed

    @contextlib.contextmanager
    def batch_gradients(*args):
        with parallel.batch_gradients(*args) as gradients:
            yield advance(gradients, lambda: clock.steps)

    monkeypatch.setattr(loop, "batch_gradients", batch_gradients)
    evaluate = advance(loop.evaluate, lambda: itertools.repeat(100.0))
    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


class Recorder(SGD):
    """SGD that keeps the weights after each step."""

    def __init__(self, lr):
        super().__init__(lr)
        self.weights = []

    def step(self, params, grads):
        super().step(params, grads)
        self.weights.append({name: parameter.tobytes() for name, parameter in params.items()})


def test_lenet_learns_the_digits(small_digits):
    train, test = small_digits
    net = lenet_relu(np.random.default_rng(0))
    before, _ = evaluate(net, test)
    optimizer = SGD(0.02, momentum=0.9)
    history = fit(net, train, test, epochs=5, batch_size=32, optimizer=optimizer, **QUIET)
    assert before > 2.2 and history.train_loss[0] > 1  # chance is ln 10 = 2.303
    assert history.train_loss[-1] < 0.5 and history.train_accuracy[-1] > 0.8
    assert history.test_loss[-1] < 1 and history.test_accuracy[-1] > 0.7


def test_fit_is_a_plain_loop_over_batches(new_net, small_digits, seen):
    """The images in the recorded order, cut and scaled here, gradients without chunks, momentum
    by hand; in float64, so that only rounding of the last digits may differ. The last batch of an
    epoch is smaller, and losses and accuracies are means over images."""
    train = small_digits[0][:250]
    n, batch_size, epochs, lr, momentum = 250, 100, 2, 0.1, 0.9
    trained, net = (new_net().astype(np.float64) for _ in range(2))
    history = fit(
        trained,
        train,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=SGD(lr, momentum),
        workers=1,
        **QUIET,
    )

    orders = np.concatenate(seen).reshape(epochs, n)
    velocity = {name: 0 for name in net.params}
    curve = []
    for epoch, order in enumerate(orders):
        losses, hits = [], []
        for first in range(0, n, batch_size):
            index = order[first : first + batch_size]
            x, labels = train.images[index] / 255, train.labels[index]
            logits, saved = net.forward(x)
            loss, dlogits = reference.softmax_cross_entropy(logits, labels)
            _, grads = net.backward(dlogits, saved)
            for name, parameter in net.params.items():
                velocity[name] = momentum * velocity[name] + grads[name]
                parameter -= lr * velocity[name]
            losses += len(index) * [loss]
            hits += (logits.argmax(axis=1) == labels).tolist()
            done = epoch + (first // batch_size + 1) / 3
            curve.append((done, np.mean(losses), np.mean(hits)))

    # six steps pass their rounding on, which is no one sum: together some eps, far below 1e-10
    for name, parameter in net.params.items():
        assert trained.params[name].dtype == np.float64
        np.testing.assert_allclose(trained.params[name], parameter, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(history.curve, curve, rtol=1e-10)
    epoch_ends = list(zip(history.train_loss, history.train_accuracy))
    np.testing.assert_allclose(epoch_ends, [point[1:] for point in curve[2::3]], rtol=1e-10)


def one_hot_error(logits, labels):
    """Half the squared distance to the one-hot rows of the labels, a mean over the images."""
    difference = logits - np.eye(logits.shape[1], dtype=logits.dtype)[labels]
    return (difference * difference).sum() / (2 * len(labels)), difference / len(labels)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loss_of_ones_own_is_trained_on(workers, new_net, small_digits):
    """A plain loop in float64, whose gradients are taken over the whole batch: 1/N times the sum
    over the images, one by one."""
    train, test = small_digits[0][:200], small_digits[1]
    trained, net = (new_net().astype(np.float64) for _ in range(2))
    options = {"batch_size": 150, "epochs": 2, "optimizer": SGD(0.01), **QUIET}
    history = fit(trained, train, test, loss=one_hot_error, workers=workers, **options)

    losses, hits = [], []
    for epoch in range(2):
        order = np.random.default_rng((0, epoch)).permutation(200)
        losses.append(0)
        hits.append(0)
        for index in order[:150], order[150:]:
            total = {name: np.zeros_like(p) for name, p in net.params.items()}
            for image in index:
                y, saved = net.forward(train.images[image : image + 1] / 255)
                target = np.zeros((1, 10))
                target[0, train.labels[image]] = 1
                losses[-1] += ((y - target) ** 2).sum() / 2 / 200
                hits[-1] += (y.argmax() == train.labels[image]) / 200
                _, grads = net.backward(y - target, saved)
                for name, grad in grads.items():
                    total[name] += grad / len(index)
            for name, parameter in net.params.items():
                parameter -= 0.01 * total[name]
    # four steps pass their rounding on, which is no one sum, as above
    for name, parameter in net.params.items():
        np.testing.assert_allclose(trained.params[name], parameter, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(history.train_loss, losses, rtol=1e-10)
    np.testing.assert_allclose(history.train_accuracy, hits, rtol=1e-10)
    distance = ((net(test.images / 255) - np.eye(10)[test.labels]) ** 2).sum() / 2 / len(test)
    loss, accuracy = evaluate(trained, test, loss=one_hot_error, workers=workers)
    np.testing.assert_allclose([loss, history.test_loss[-1]], [distance] * 2, rtol=1e-9)
    assert accuracy == history.test_accuracy[-1]


def test_each_epoch_has_an_order_of_its_own_that_the_seed_decides(new_net, small_digits, seen):
    train = small_digits[0][:100]

    def orders(seed):
        seen.clear()
        fit(new_net(), train, epochs=2, batch_size=32, seed=seed, workers=1, **QUIET)
        return np.concatenate(seen).reshape(2, 100).tolist()

    first, other = orders(0), orders(1)
    assert orders(0) == first
    for order in first + other:
        assert sorted(order) == list(range(100))
    for order, another in itertools.combinations([*first, *other, list(range(100))], 2):
        assert order != another


def test_one_seed_gives_the_same_bits_for_any_number_of_workers(new_net, small_digits):
    train, test = small_digits

    def run(seed, workers):
        net = new_net()
        optimizer = SGD(0.1, momentum=0.9)
        settings = {"optimizer": optimizer, "epochs": 2, "batch_size": 200, **QUIET}
        history = fit(net, train, test, seed=seed, workers=workers, **settings)
        return bits(net), history.curve, history.test_loss, history.test_accuracy

    first = run(seed=0, workers=1)
    assert [run(0, workers) for workers in (1, 2, 3)] == 3 * [first]
    assert run(seed=1, workers=1)[0] != first[0]


def test_the_course_optimizer_is_the_default(new_net, small_digits):
    nets = new_net(), new_net()
    for net, optimizer in zip(nets, (None, SGD(0.9))):
        fit(net, small_digits[0], epochs=1, optimizer=optimizer, **QUIET)
    assert bits(nets[0]) == bits(nets[1]) != bits(new_net())


def test_the_schedule_gives_each_step_its_learning_rate(new_net, small_digits):
    asked = []

    def schedule(progress):
        asked.append(progress)
        return 0.5 if progress < 0.5 else 0.0

    options = {"batch_size": 250, "workers": 1, **QUIET}
    scheduled, plain = new_net(), new_net()
    optimizer = SGD(0.2)
    fit(scheduled, small_digits[0], epochs=2, optimizer=optimizer, schedule=schedule, **options)
    fit(plain, small_digits[0], epochs=1, optimizer=SGD(0.1), **options)
    assert asked == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875]
    assert bits(scheduled) == bits(plain)
    assert optimizer.lr == 0.2


def test_history_has_an_entry_an_epoch_and_tells_of_each(new_net, small_digits, clock, capsys):
    """Three steps of one second are an epoch; the time of evaluation does not count."""
    train, test = small_digits
    names = ["train_loss", "train_accuracy", "test_loss", "test_accuracy", "train_seconds"]
    lengths = []
    history = fit(
        new_net(),
        train[:150],
        test,
        epochs=2,
        batch_size=50,
        on_epoch=lambda history: lengths.append([len(getattr(history, name)) for name in names]),
    )
    assert lengths == [5 * [1], 5 * [2]]
    assert history.train_seconds == [3, 3]
    assert history.images_per_second == 50
    expected = [
        f"epoch {i}/2: loss {loss:.3f}, train acc {accuracy:.3f}, test acc {test_accuracy:.3f}"
        for i, loss, accuracy, test_accuracy in zip(
            (1, 2), history.train_loss, history.train_accuracy, history.test_accuracy
        )
    ]
    assert capsys.readouterr().out.splitlines() == expected


def test_without_test_set_and_progress_there_is_no_word_of_either(new_net, small_digits, capsys):
    history = fit(new_net(), small_digits[0], epochs=1, **QUIET)
    assert len(history.train_loss) == 1
    assert history.test_loss == history.test_accuracy == []
    assert capsys.readouterr() == ("", "")
    assert "test" not in history.summary()


@pytest.mark.parametrize("batch_size, points", [(1, 5), (30, 4), (300, 1)])
def test_the_curve_has_a_few_points_an_epoch_and_its_end(batch_size, points, new_net, small_digits):
    settings = {"epochs": 2, "batch_size": batch_size, **QUIET}
    history = fit(new_net(), small_digits[0][:100], **settings)
    epochs, losses, accuracies = zip(*history.curve)
    assert len(set(epochs)) == 2 * points and list(epochs) == sorted(epochs)
    assert epochs[points - 1 :: points] == (1, 2)
    assert losses[points - 1 :: points] == tuple(history.train_loss)
    assert accuracies[points - 1 :: points] == tuple(history.train_accuracy)


def test_the_summary_has_the_form_of_the_course():
    history = History(60000, "cpu", [1.0, 0.46951], [0.5, 0.8239], train_seconds=[2.0, 4.0])
    speed = "20000.0 examples/sec on cpu"
    assert history.summary() == f"loss 0.470, train acc 0.824\n{speed}"
    history.test_accuracy = [0.5, 0.8061]
    assert history.summary() == f"loss 0.470, train acc 0.824, test acc 0.806\n{speed}"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("n", [7, 300])
def test_evaluate_is_a_forward_pass_over_all_images(n, workers, new_net, small_digits):
    test = small_digits[1][:n]
    net = new_net().astype(np.float64)
    before = bits(net)
    x = test.images / 255
    logits = net(x)

    def results(net):
        return {"loss": reference.softmax_cross_entropy(net(x), test.labels)[0]}

    loss, accuracy = evaluate(net, test, workers=workers)
    size = network_size(results, net)["loss"]
    assert_equal_but_for_rounding(np.float64(loss), results(net)["loss"], size)
    assert accuracy == (logits.argmax(axis=1) == test.labels).mean()
    assert bits(net) == before


@pytest.mark.parametrize("batch_size, seconds", [(50, 18), (1000, 6)])
def test_the_estimate_goes_by_the_second_step(batch_size, seconds, new_net, small_digits, clock):
    """150 images for three epochs: 9 steps of two seconds, or 3 where one takes all images."""
    clock.steps = iter([10.0, 2.0])
    net = new_net()
    settings = {"epochs": 3, "batch_size": batch_size}
    assert estimate_seconds(net, small_digits[0][:150], **settings) == seconds
    assert bits(net) == bits(new_net())


SMALLER = Dataset(
    np.zeros((5, 1, 14, 14), np.uint8), np.zeros(5, int), tuple("0123456789"), "smaller"
)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"epochs": 0}, "epochs must be an integer >= 1, got 0"),
        ({"epochs": 10**400}, r"epochs must be an integer below 2\*\*128, got 1000"),
        ({"epochs": -1}, "epochs .* got -1"),
        ({"epochs": 1.5}, "epochs .* got 1.5"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"workers": 0}, "workers must be an integer >= 1, got 0"),
        (
            {"net": Sequential(Flatten(), Linear(100, 10))},
            r"layer 1: Linear\(100, 10\) .* \(1, 1, 28, 28\) -> \(1, 784\)",
        ),
        ({"net": Sequential(Flatten(), Linear(784, 7))}, r"\(1, 10\), but its output is \(1, 7\)"),
        ({"train": SMALLER}, r"layer 3: Linear\(256, 10\) .* \(1, 64\)"),
        ({"test": SMALLER}, r"layer 3: Linear\(256, 10\) .* \(1, 64\)"),
    ],
)
def test_what_cannot_work_is_refused_before_any_training(
    change, sentence, new_net, small_digits, seen
):
    train, test = small_digits
    arguments = {"net": new_net(), "train": train, "test": test, "epochs": 1} | change
    before = bits(arguments["net"])
    with pytest.raises(ValueError, match=sentence):
        fit(**arguments, **QUIET)
    assert bits(arguments["net"]) == before and seen == []


@pytest.mark.parametrize("layer, name", [(0, r"Conv2D\(1, 4"), (3, r"Linear\(256")])
def test_nan_is_traced_to_epoch_step_and_layer(layer, name, new_net, small_digits):
    """Put into one layer after the first epoch; the weights then stay as they are."""
    net, poisoned = new_net(), {}

    def poison(_):
        net.layers[layer].params["bias"][1] = np.nan
        poisoned.update(bits(net))

    settings = {"optimizer": SGD(0.25), "schedule": lambda share: 0.5, "batch_size": 200}
    settings |= {"on_epoch": poison, **QUIET}
    place = f"the loss is nan in epoch 2, step 1 of 5: layer {layer}, {name}"
    with pytest.raises(TrainingError, match=f"{place}.* below 0.25 may help"):
        fit(net, small_digits[0], **settings)
    assert bits(net) == poisoned


def test_divergence_leaves_the_weights_of_the_last_good_step(new_net, small_digits):
    """One step of this size makes the output of layer 3 overflow, and only that one."""
    net, optimizer = new_net(), Recorder(1e25)
    with pytest.raises(TrainingError, match="epoch 1, step 2 of 10: layer 3, .* below 1e\\+25"):
        fit(net, small_digits[0], batch_size=100, optimizer=optimizer, **QUIET)
    assert optimizer.weights == [bits(net)]


def test_numbers_that_are_read_late_are_the_same(new_net, small_digits, monkeypatch):
    """As on a GPU, where losses are read at the points of the curve only."""
    settings = {"epochs": 2, "batch_size": 30, **QUIET}
    at_once, late, diverging = new_net(), new_net(), new_net()
    expected = fit(at_once, small_digits[0], **settings)
    monkeypatch.setattr(Sequential, "device", "gpu")
    monkeypatch.setattr(loop, "synchronize", lambda device: None)
    monkeypatch.setattr(Dataset, "to", lambda self, device: self)
    with np.errstate():  # which restores the buffer
        np.setbufsize(1024)  # as the workers do, on which the order of NumPy's sums may depend
        history = fit(late, small_digits[0], **settings)
    assert history.curve == expected.curve
    assert history.train_loss == expected.train_loss
    assert history.train_accuracy == expected.train_accuracy
    assert bits(late) == bits(at_once)
    with (
        np.errstate(all="ignore"),  # a GPU does not warn of overflow
        pytest.raises(TrainingError, match="epoch 1, step 2 of 34"),
    ):
        fit(diverging, small_digits[0], optimizer=SGD(1e25), **settings)


def test_logits_too_large_for_the_loss_are_told_from_layers_that_fail(small_digits):
    net = Sequential(Flatten(), Linear(784, 10))
    net.params["1.bias"][:2] = 3e38, -3e38
    with pytest.raises(TrainingError, match="every layer's output is finite, but too large"):
        fit(net, small_digits[0], **QUIET)


def test_an_interruption_passes_through_and_leaves_no_thread(new_net, small_digits):
    class Interrupted(SGD):
        def step(self, params, grads):
            raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        fit(new_net(), small_digits[0], optimizer=Interrupted(0.1), workers=2, **QUIET)
    assert threading.active_count() == threads


def test_divergence_in_the_last_step_is_found_in_the_test_set(new_net, small_digits):
    train, test = small_digits
    optimizer = SGD(1e30)
    with pytest.raises(TrainingError, match=r"the test loss is nan after epoch 1; .*below 1e\+30"):
        fit(
            new_net(),
            train,
            test,
            batch_size=len(train),
            optimizer=optimizer,
            **QUIET,
        )


def test_no_images_are_refused(new_net, small_digits):
    with pytest.raises(ValueError, match="expected at least one image of digits but got none"):
        evaluate(new_net(), small_digits[1][:0])
    with pytest.raises(ValueError, match="at least one image"):
        fit(new_net(), small_digits[0][:0], progress=False)
