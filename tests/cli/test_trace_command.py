"""minicnn trace: the step that it traces is the one that training would take."""

import json

import numpy as np
import pytest

from minicnn import SGD, Layer, Sequential, fit, lenet_relu
from minicnn.cli import data as cli_data
from minicnn.explain import trace
from minicnn.runs import Settings, train_run
from minicnn.runs.run_folder import locked

SETTINGS = Settings(epochs=2, batch_size=100, lr=0.05, momentum=0.9, seed=3, label_smoothing=0.1)


@pytest.fixture
def run(run_command, small_digits, monkeypatch):
    """`run_command`, with a few digits for all commands."""
    monkeypatch.setattr(cli_data, "digits", lambda: small_digits)
    return run_command


@pytest.fixture(scope="module")
def folder(small_digits, tmp_path_factory):
    """A run of two epochs with momentum."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    net = lenet_relu(np.random.default_rng(3))
    train_run(net, *small_digits, folder, SETTINGS, model="lenet-relu", progress=False)
    return folder


def refused(run, *args):
    status, out, err = run("trace", *args)
    assert (status, out) == (2, "") and "Traceback" not in err
    return err.splitlines()[-1]


def test_without_a_run_it_traces_the_first_step_of_a_new_network(run, small_digits):
    x, labels = small_digits[0].batch(slice(0, 256))
    expected = trace(lenet_relu(np.random.default_rng(0)), x, labels, SGD(0.1))
    title = (
        "lenet-relu, after no step, on the first 256 images of digits, with sgd and lr 0.1, seed 0"
    )
    assert run("trace", "--data", "digits") == (0, f"{title}\n\n{expected}\n", "")

    x, labels = small_digits[0].batch(slice(0, 20))
    expected = trace(lenet_relu(np.random.default_rng(7)), x, labels, SGD(0.3))
    options = ("--model", "lenet-relu", "--batch-size", 20, "--lr", 0.3, "--seed", 7)
    status, out, err = run("trace", "--data", "digits", *options)
    assert (status, err) == (0, "") and out.endswith(f"seed 7\n\n{expected}\n")


def test_a_run_is_traced_with_its_weights_settings_and_momentum(run, folder, small_digits):
    """The same training in this process, whose optimizer still has its velocity."""
    net, optimizer = lenet_relu(np.random.default_rng(3)), SETTINGS.new_optimizer()
    work = {"epochs": 2, "batch_size": 100, "seed": 3, "progress": False}
    fit(net, *small_digits, optimizer=optimizer, loss=SETTINGS.loss(), **work)
    x, labels = small_digits[0].batch(slice(0, 100))
    expected = trace(net, x, labels, optimizer, loss=SETTINGS.loss())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with locked(folder):  # as while it trains
        status, out, err = run("trace", folder)
    title = "lenet-relu, after 2 epochs, on the first 100 images of digits, with sgd and lr 0.05"
    assert (status, out, err) == (0, f"{title}, seed 3\n\n{expected}\n", "")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    optimizer.lr = 50.0
    status, out, _ = run("trace", folder, "--lr", 50)
    assert status == 0 and "learning rate is too large" in out
    assert out.endswith(f"\n\n{trace(net, x, labels, optimizer, loss=SETTINGS.loss())}\n")


def test_json_holds_the_settings_and_the_trace(run, folder):
    status, out, err = run("trace", folder, "--json", "--batch-size", 10)
    plain = json.loads(out)
    assert (status, err) == (0, "")
    assert {name: plain[name] for name in ("model", "data", "done", "images", "lr", "seed")} == {
        **{"model": "lenet-relu", "data": "digits", "done": "2 epochs"},
        **{"images": 10, "lr": 0.05, "seed": 3},
    }
    assert len(plain["layers"]) == 12 and plain["loss"] > 0 and plain["sentences"]
    assert plain["guessing"] == pytest.approx(np.log(10))  # the labels are smoothed, though
    names = [p["name"] for row in plain["layers"] for p in row["parameters"]]
    assert names == list(lenet_relu().params)  # that of layer 11 is none of layer 1


def test_what_does_not_fit_is_told_in_a_line(run, folder, tmp_path):
    digits = ("--data", "digits")
    assert "has no checkpoint of a run: train one first" in refused(run, tmp_path)
    for option, value in {
        "model": "lenet",
        "seed": 1,
        "recipe": "fast90",
        "optimizer": "adam",
    }.items():
        line = refused(run, folder, f"--{option}", value)
        assert line.endswith(f"a run has its own {option}: leave out --{option}, or the run")
    assert "lr must be a finite number, got nan" in refused(run, *digits, "--lr", "nan")
    assert "of at least 1 but got '0'" in refused(run, *digits, "--batch-size", 0)
    (checkpoints := tmp_path / "checkpoints").mkdir()
    last = checkpoints / "00001-000000.safetensors"
    last.write_bytes(b"not whole")
    assert f"{last} is damaged" in refused(run, tmp_path)


class Same(Layer):
    """A layer that minicnn does not have: y = x."""

    def forward(self, x):
        return x, None

    def backward(self, dy, saved, need_dx=True):
        return dy, {}


def test_a_run_that_cannot_be_built_here_is_told_in_a_line(run, new_net, small_digits, tmp_path):
    net = Sequential(Same(), new_net())
    train_run(net, *small_digits, tmp_path / "run", Settings(epochs=1), progress=False)
    assert "the weights of 'Sequential', which is none of lenet, " in refused(run, tmp_path / "run")


def test_the_page_has_the_trace_above_the_steps(run_command, tmp_path):
    path = tmp_path / "trace.html"
    status, out, _ = run_command(
        "trace", "--model", "lenet", "--data", "digits", "--batch-size", 8, "--page", path
    )
    assert status == 0 and f"{path} has the same" in out
    page = path.read_text()
    assert "lenet, after no step, on the first 8 images" in page
    assert '"sentences": ["The gradient falls' in page
