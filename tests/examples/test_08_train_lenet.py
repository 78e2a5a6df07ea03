"""08_train_lenet ends where fit ends, and draws while it trains."""

import importlib
import re
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

from minicnn import SGD, digits, fit, lenet_relu
from minicnn.training.parallel import batch_gradients

NAME = "08_train_lenet"


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    monkeypatch.setitem(sys.modules, "tkinter", None)


@pytest.fixture
def data():
    """600 digits: two batches of 256 and a smaller one."""
    return [part[:600] for part in digits()]


def trained_by_fit(data, dtype):
    net = lenet_relu(np.random.default_rng(3)).astype(dtype)
    history = fit(net, *data, epochs=2, optimizer=SGD(0.1), seed=3, progress=False)
    return net, history


def results(history):
    values = vars(history) | {"train_seconds": None}
    return {key: np.array(value) for key, value in values.items() if isinstance(value, list)}


def test_prints_and_draws(run_example, tmp_path, data):
    text = run_example(NAME, "--data", "digits", "--images", 600, "--epochs", 2, "--seed", 3)
    _, history = trained_by_fit(data, np.float32)
    first, last = history.summary().splitlines()
    lines = text.splitlines()
    assert "lenet-relu, 61,706 parameters, on digits (600 images to train, 600 to test)" in text
    assert f"the curve is drawn in {tmp_path / NAME}.png" in lines
    assert lines[-3] == first
    assert re.fullmatch(r"\d+\.\d examples/sec on cpu", lines[-2]) and last.endswith("on cpu")
    for epoch in 1, 2:
        loss, accuracy, test = (
            values[epoch - 1]
            for values in (history.train_loss, history.train_accuracy, history.test_accuracy)
        )
        line = f"epoch {epoch}/2: loss {loss:.3f}, train acc {accuracy:.3f}, test acc {test:.3f}"
        assert line in lines
    apart = float(text.split("no gradient differs by more than ")[1].split()[0])
    largest = float(text.split("the largest gradient is ")[1].split(";")[0])
    assert 0 < apart < 1e-5 * largest
    with Image.open(tmp_path / f"{NAME}.png") as picture:
        assert picture.width == 1080 and len(np.unique(picture)) > 50


@pytest.mark.usefixtures("run_example")
def test_the_loop_is_fit_bit_for_bit(data):
    example = importlib.import_module(NAME)
    expected, expected_history = trained_by_fit(data, np.float32)
    net, shown = lenet_relu(np.random.default_rng(3)), []
    with batch_gradients(net, data[0], 256) as gradients:
        history = example.train(
            net,
            *data,
            gradients,
            epochs=2,
            lr=0.1,
            seed=3,
            show=lambda history: shown.append(len(history.curve)),
        )
    for name, parameter in expected.params.items():
        assert net.params[name].tobytes() == parameter.tobytes(), name
    for key, value in results(expected_history).items():
        np.testing.assert_array_equal(results(history)[key], value, err_msg=key)
    assert len(history.train_seconds) == 2 and shown == list(range(1, 7))


@pytest.mark.slow
@pytest.mark.usefixtures("run_example")
def test_batches_in_one_piece_give_the_same_but_for_rounding(data):
    """In float64, so that only the last digits may differ."""
    example = importlib.import_module(NAME)
    expected, expected_history = trained_by_fit(data, np.float64)
    net = lenet_relu(np.random.default_rng(3)).astype(np.float64)
    gradients = partial(example.gradients_in_one_piece, net, data[0])
    history = example.train(net, *data, gradients, epochs=2, lr=0.1, seed=3)
    # six steps pass their rounding on, which is no one sum: together some eps, far below 1e-9
    for name, parameter in expected.params.items():
        np.testing.assert_allclose(net.params[name], parameter, rtol=1e-9, atol=1e-11)
    for key, value in results(expected_history).items():
        np.testing.assert_allclose(results(history)[key], value, rtol=1e-9, err_msg=key)
