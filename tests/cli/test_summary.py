"""Tables and pictures: what a network costs, and how its training went."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from minicnn import Linear, ReLU, Residual, Sequential, Tanh, lenet, lenet_relu
from minicnn.cli.summary import summarize, table
from minicnn.models import lenet_bn
from minicnn.plotting import save_figure, training_curves
from minicnn.training import History
from minicnn.zoo import resnet_mini


def test_lenet_costs_what_the_course_says():
    """Kept are the inputs of the products and the outputs of the sigmoids, each once."""
    rows = summarize(lenet(), (1, 1, 28, 28))
    assert [row.output_shape for row in rows] == [
        *[(1, 6, 28, 28), (1, 6, 28, 28), (1, 6, 14, 14)],
        *[(1, 16, 10, 10), (1, 16, 10, 10), (1, 16, 5, 5)],
        *[(1, 400), (1, 120), (1, 120), (1, 84), (1, 84), (1, 10)],
    ]
    parameters, multiply_adds = zip(
        *((row.parameters, row.multiply_adds) for row in rows if row.parameters)
    )
    assert parameters == (156, 2416, 48120, 10164, 850)
    assert multiply_adds == (
        *(28 * 28 * 6 * 25, 10 * 10 * 16 * 6 * 25),
        *(400 * 120, 120 * 84, 84 * 10),
    )
    kept_floats = [row.kept_bytes // 4 for row in rows]
    assert kept_floats == [28 * 28, 6 * 784, 0, 6 * 196, 16 * 100, 0, 0, 400, 120, 0, 84, 0]
    assert sum(row.parameters for row in rows) == 61706
    assert sum(row.multiply_adds for row in rows) == 416520


@pytest.mark.parametrize("build", [lenet, lenet_relu, lenet_bn, resnet_mini])
def test_bytes_kept_are_those_that_memory_holds_until_backward(build):
    """Whatever Python still holds after a forward pass, when x and y have been dropped."""
    net, n = build(), 64
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    _, saved = net.forward(np.zeros((n, 1, 28, 28), np.float32))
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert saved
    kept = sum(row.kept_bytes for row in summarize(net, (n, 1, 28, 28)))
    assert kept == pytest.approx(held, rel=0.005)


def test_an_array_that_two_layers_keep_is_counted_once():
    """Of 4 bytes each: x of 5*3 entries, y of 5*7 for two layers, z of 5*2, the logits none."""
    inner = Sequential(Linear(7, 2), ReLU())
    rows = summarize(Sequential(Linear(3, 7), Tanh(), inner, Linear(2, 4)), (5, 3))
    assert [row.kept_bytes for row in rows] == [4 * 5 * 3, 4 * 5 * 7, 0, 4 * 5 * 2, 0]


def test_a_residual_block_has_a_row_for_each_layer_of_its_branches():
    """The table names what the block adds up, and counts nothing twice."""
    shared = Linear(7, 7)
    block = Residual(Sequential(shared, Tanh(), shared), Linear(7, 7, bias=False))
    rows = summarize(Sequential(Linear(3, 7), block), (5, 3))
    assert [(row.layer, row.parameters, row.multiply_adds) for row in rows] == [
        ("Linear(3, 7)", 28, 105),
        ("body: Linear(7, 7)", 56, 245),
        ("body: Tanh()", 0, 0),
        ("body: Linear(7, 7)", 0, 245),
        ("shortcut: Linear(7, 7, bias=False)", 49, 245),
        ("Residual", 0, 0),
    ]


def test_the_table_shows_each_layer_and_the_totals():
    lines = table(summarize(Sequential(Linear(30, 70), ReLU()), (5, 30))).splitlines()
    cells = [line.split() for line in lines if not line.startswith("-")]
    assert cells[1:] == [
        ["Linear(30,", "70)", "5", "x", "70", "2,170", "10,500", "600"],
        ["ReLU()", "5", "x", "70", "0", "0", "1,400"],
        ["total", "2,170", "10,500", "2,000"],
    ]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("with_test", [True, False])
def test_training_curves_show_the_numbers_of_the_history(with_test, tmp_path):
    history = History(10, "cpu", curve=[(0.5, 2.3, 0.1), (1.0, 2.0, 0.25), (2.0, 1.5, 0.5)])
    if with_test:
        history.test_loss, history.test_accuracy = [1.9, 1.4], [0.3, 0.6]
    figure = training_curves(history)
    for axes, train, test in zip(
        figure.axes, ([2.3, 2.0, 1.5], [0.1, 0.25, 0.5]), ([1.9, 1.4], [0.3, 0.6]), strict=True
    ):
        lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
        assert lines == [([0.5, 1, 2], train), ([1, 2], test)][: 1 + with_test]
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert [text.split()[0] for text in texts] == ["train", "test"][: 1 + with_test]
        assert axes.get_xlabel() == "epoch"
    save_figure(figure, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG" and picture.convert("L").getextrema()[0] < 128
