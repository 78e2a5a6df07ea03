"""A user's own network in a run folder: trained, stopped or killed, and resumed bit for bit."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import safetensors.numpy

from minicnn import (
    SGD,
    AdamW,
    Augmentation,
    Conv2D,
    Flatten,
    Layer,
    Linear,
    ReLU,
    Sequential,
    Tanh,
    fit,
    softmax_cross_entropy,
    warmup,
)
from minicnn.optimizers import cosine
from minicnn.runs import (
    Origin,
    Settings,
    Stopped,
    checkpoints,
    last_checkpoint,
    load_weights,
    open_run,
    resume_run,
    run_folder,
    train_run,
)

pytestmark = pytest.mark.usefixtures("no_picture")
SETTINGS = Settings(
    epochs=3, batch_size=50, lr=0.1, momentum=0.9, nesterov=True, schedule="cosine", seed=2
)
QUIET = {"progress": False, "workers": 1}


class Doubled(Layer):
    """A layer that minicnn does not have: y = 2x."""

    def forward(self, x):
        return 2 * x, None

    def backward(self, dy, saved, need_dx=True):
        return 2 * dy, {}


def own_net(seed=0, activation=ReLU):
    rng = np.random.default_rng(seed)
    return Sequential(
        Conv2D(1, 4, 5, stride=3, rng=rng),
        activation(),
        Doubled(),
        Flatten(),
        Linear(256, 10, rng=rng),
    )


def bits(net):
    return {name: parameter.tobytes() for name, parameter in net.params.items()}


def told(history):
    """A history without its times."""
    return dataclasses.replace(history, train_seconds=[])


@pytest.fixture
def whole(data):
    """(network, history) of unbroken training, by fit alone."""
    net = own_net()
    optimizer = SGD(0.1, momentum=0.9, nesterov=True)
    options = {"epochs": 3, "batch_size": 50, "seed": 2, "schedule": cosine, **QUIET}
    return net, fit(net, *data, optimizer=optimizer, **options)


def test_a_run_is_fit_with_a_folder(whole, data, tmp_path):
    net, seen = own_net(), []
    history = train_run(
        *(net, *data, tmp_path / "run", SETTINGS),
        model="mine",
        on_start=lambda position: seen.append(position.place),
        on_epoch=lambda history: seen.append(len(checkpoints(tmp_path / "run"))),
        **QUIET,
    )
    assert (bits(net), told(history)) == (bits(whole[0]), told(whole[1]))
    assert seen == ["no step", 1, 2, 2]
    stored = safetensors.numpy.load_file(tmp_path / "run" / "weights.safetensors")
    assert {name: array.tobytes() for name, array in stored.items()} == bits(net)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["model"], config["lr"], config["seed"]) == ("mine", 0.1, 2)
    assert last_checkpoint(tmp_path / "run").origin == Origin("mine", "digits", data[0].classes)


class StopsAfter:
    """Stands in for `SGD.step`: after the k-th step, the signal comes."""

    def __init__(self, k, number, real=SGD.step):
        self.left, self.number, self.real = k, number, real

    def __get__(self, optimizer, owner):
        def step(params, grads):
            self.real(optimizer, params, grads)
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)

        return step


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_in_mid_epoch_ends_as_in_one_piece(
    number, whole, data, tmp_path, monkeypatch
):
    """Each epoch has three steps; the first part ends after the first of the second epoch."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(SGD, "step", StopsAfter(4, number))
        sentence = f"stopped by {number.name} after 1 epoch and 1 step, and saved"
        with pytest.raises(Stopped, match=sentence):
            train_run(own_net(), *data, tmp_path, SETTINGS, **QUIET)
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    net = own_net(seed=1)
    history = resume_run(net, *data, tmp_path, progress=False, workers=2)
    assert (bits(net), told(history)) == (bits(whole[0]), told(whole[1]))
    again = own_net(seed=3)
    assert told(resume_run(again, *data, tmp_path, SETTINGS)) == told(history)  # it is complete
    assert bits(again) == bits(net)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_train_run as test
from minicnn import SGD, digits
data = [part[:130] for part in digits(1000, 300)]
SGD.step = test.StopsAfter(5, signal.SIGKILL)
test.train_run(test.own_net(), *data, sys.argv[2], test.SETTINGS, save_every=1, **test.QUIET)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_run_that_was_killed_in_mid_epoch_ends_as_in_one_piece(whole, data, tmp_path):
    """In the second step of the second epoch; the last checkpoint is that of the first."""
    command = [sys.executable, "-c", KILLED, os.path.dirname(__file__), str(tmp_path / "run")]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert [path.stem for path in checkpoints(tmp_path / "run")][-1] == "00001-000001"
    net = own_net(seed=1)
    history = resume_run(net, *data, tmp_path / "run", **QUIET)
    assert (bits(net), told(history)) == (bits(whole[0]), told(whole[1]))


def test_any_checkpoint_is_good_to_go_on_from_and_stays_as_it_is(whole, data, tmp_path):
    train_run(own_net(), *data, tmp_path, SETTINGS, save_every=1, keep=9, **QUIET)
    for path in checkpoints(tmp_path)[:2]:
        found = run_folder.load_checkpoint(path)
        for _ in range(2):
            net = own_net(seed=1)
            resume_run(net, *data, tmp_path, checkpoint=found, keep=9, **QUIET)
            assert bits(net) == bits(whole[0])


def test_all_settings_reach_fit_and_a_run_with_adamw_goes_on_from_any_checkpoint(data, tmp_path):
    """Its count of steps among them, without which the bias correction would begin anew."""
    settings = Settings(
        **{"epochs": 2, "batch_size": 50, "lr": 0.01, "optimizer": "adamw", "weight_decay": 0.1},
        **{"decay_biases": False, "clip_norm": 0.5, "schedule": "warmup-cosine", "seed": 3},
        **{"label_smoothing": 0.1, "mirror": True, "shift": 2, "erase": 0.5},
    )
    net = own_net()
    history = fit(
        net,
        *data,
        epochs=2,
        batch_size=50,
        optimizer=AdamW(0.01, weight_decay=0.1, decay_biases=False, clip_norm=0.5),
        loss=functools.partial(softmax_cross_entropy, label_smoothing=0.1),
        schedule=warmup(cosine, 0.1),
        augment=Augmentation(mirror=True, shift=2, erase=0.5),
        seed=3,
        **QUIET,
    )
    found = train_run(own_net(), *data, tmp_path, settings, save_every=1, keep=9, **QUIET)
    assert told(found) == told(history)
    for path in checkpoints(tmp_path):
        resumed, checkpoint = own_net(seed=1), run_folder.load_checkpoint(path)
        assert checkpoint.settings == settings
        resume_run(resumed, *data, tmp_path, checkpoint=checkpoint, keep=9, **QUIET)
        assert bits(resumed) == bits(net)


def test_momentum_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="adam has no momentum or nesterov: leave them out"):
        Settings(optimizer="adam", momentum=0.9)


def test_in_another_thread_signals_are_left_alone(whole, data, tmp_path):
    """Only the main thread can handle them."""
    net, outcome = own_net(), []

    def work():
        try:
            outcome.append(told(train_run(net, *data, tmp_path, SETTINGS, **QUIET)))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome == [told(whole[1])] and bits(net) == bits(whole[0])


def test_without_a_test_set_there_are_no_best_weights(data, tmp_path):
    net = own_net()
    history = train_run(net, data[0], None, tmp_path, Settings(epochs=1), **QUIET)
    assert history.test_accuracy == []
    assert not (tmp_path / "best.safetensors").exists()


def test_more_epochs_under_a_constant_rate(data, tmp_path):
    settings = dataclasses.replace(SETTINGS, schedule="constant", epochs=2)
    longer = dataclasses.replace(settings, epochs=3)
    net, expected = own_net(), own_net()
    train_run(net, *data, tmp_path / "run", settings, **QUIET)
    history = resume_run(net, *data, tmp_path / "run", longer, **QUIET)
    whole = train_run(expected, *data, tmp_path / "whole", longer, **QUIET)
    assert (bits(net), told(history)) == (bits(expected), told(whole))
    assert last_checkpoint(tmp_path / "run").settings == longer
    with pytest.raises(ValueError, match="other settings: epochs is 3, not 2; leave them out"):
        resume_run(net, *data, tmp_path / "run", settings)


@pytest.fixture
def run(data, tmp_path):
    """The folder of a run that is complete."""
    train_run(own_net(), *data, tmp_path / "run", SETTINGS, **QUIET)
    return tmp_path / "run"


OTHER = {
    "activation": (own_net(activation=Tanh), r"expected ReLU\(\), got Tanh\(\)"),
    "shorter": (Sequential(Conv2D(1, 4, 5, 3), ReLU(), Flatten(), Linear(256, 10)), "Doubled"),
    "longer": (
        Sequential(*own_net().layers, Tanh()),
        r"expected nothing more, got Tanh\(\)",
    ),
    "dtype": (own_net().astype(np.float64), r"of float32, got 0.bias \(4,\) of float64"),
    "shape": (
        Sequential(Conv2D(1, 4, 5, 3), ReLU(), Doubled(), Flatten(), Linear(256, 10, bias=False)),
        r"expected Linear\(256, 10\), got Linear\(256, 10, bias=False\)",
    ),
}


@pytest.mark.parametrize("net, sentence", OTHER.values(), ids=OTHER)
def test_another_network_is_refused_in_one_sentence(net, sentence, run, data):
    before = bits(net)
    with pytest.raises(ValueError, match=sentence) as error:
        resume_run(net, *data, run)
    told = str(error.value)
    assert told.startswith(f"{run} cannot be resumed with another network: ") and "\n" not in told
    assert bits(net) == before


def test_other_data_are_refused_in_one_sentence(run, data):
    train, test = data
    net = own_net()
    before = bits(net)
    others = {
        "data is digits, not letters": dataclasses.replace(train, name="letters"),
        "digits differs from the data that the run was trained on": train[1:],
    }
    for sentence, other in others.items():
        with pytest.raises(ValueError, match=sentence):
            resume_run(net, other, test, run)
    assert bits(net) == before


def test_the_weights_of_an_own_network_are_read_into_it(run):
    with pytest.raises(
        ValueError, match="of 'Sequential', which is none of lenet, lenet-relu, .*: b"
    ):
        open_run(run)
    net = own_net(seed=1)
    load_weights(net, run / "weights.safetensors")
    assert {name: array.tobytes() for name, array in last_checkpoint(run).arrays.items()} == bits(
        net
    )


def test_a_folder_that_is_in_use_is_refused_and_nothing_is_trained(run, data):
    net = own_net()
    with pytest.raises(ValueError, match="is not empty: choose a new or empty folder"):
        train_run(net, *data, run, SETTINGS)
    assert bits(net) == bits(own_net())


def test_settings_have_the_types_that_json_has():
    settings = Settings(np.int64(3), np.int32(5), np.float32(0.5), 0, seed=np.uint8(1))
    assert settings == Settings(3, 5, 0.5, 0.0, seed=1)
    assert [type(value) for value in dataclasses.astuple(settings)] == [
        type(value) for value in dataclasses.astuple(Settings())
    ]
