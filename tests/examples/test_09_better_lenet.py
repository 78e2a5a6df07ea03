"""A better LeNet: each row is the ones above and a change, with at most 500,000 parameters."""

import importlib
import re

import numpy as np
import pytest
from PIL import Image

from minicnn import SGD, digits, fit, lenet, lenet_relu
from minicnn.zoo import resnet_mini


@pytest.fixture
def example(monkeypatch, run_example):
    return importlib.import_module("09_better_lenet")


@pytest.mark.slow
def test_the_table_has_a_row_for_each_change(run_example, tmp_path):
    out = run_example("09_better_lenet", "--data", "digits", "--images", 256, "--epochs", 1)
    rows = re.findall(
        r"^\| (.+?) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \|$", out, re.MULTILINE
    )
    assert len(rows) == 14
    parameters = [int(count.replace(",", "")) for _, count, *_ in rows]
    assert parameters[:7] == [61_706] * 7 and max(parameters) <= 500_000
    assert all(0 <= float(accuracy) <= 100 for row in rows for accuracy in row[2:4])
    assert len(np.unique(Image.open(tmp_path / "09_better_lenet.png").convert("L"))) > 10


def test_the_first_row_is_the_course_and_the_others_add_up(example):
    recipes = [settings for _, settings in example.recipes()]
    assert recipes[0] == example.COURSE
    for before, after, (_, change) in zip(recipes, recipes[1:], example.CHANGES[1:]):
        assert change and after == before | change
        assert all(before[key] != value for key, value in change.items())


@pytest.mark.slow
def test_some_rows_with_several_seeds(run_example):
    args = ("--data", "digits", "--images", 128, "--epochs", 1, "--seeds", 0, 1, 2)
    out = run_example("09_better_lenet", *args, "--rows", 2, 6)
    rows = re.findall(r"^\| (.+?) \| 61,706 \| .* \| ([\d.]+) \(([\d.]+) to ([\d.]+)\) ", out, re.M)
    assert [what for what, *_ in rows] == [
        "ReLU for the sigmoid, lr 0.1",
        "lr down to 0 by a cosine",
    ]
    for _, mean, low, high in rows:
        assert float(low) <= float(mean) <= float(high)


@pytest.mark.parametrize("row, build", [(0, lenet), (2, lenet_relu), (12, resnet_mini)])
def test_the_networks_are_those_of_the_library(example, row, build):
    settings = list(example.recipes())[row][1]
    net = example.network(settings, (1, 28, 28), 10, np.random.default_rng(3))
    expected = build(np.random.default_rng(3))
    assert repr(net) == repr(expected)
    for name, parameter in expected.params.items():
        np.testing.assert_array_equal(net.params[name], parameter)


def test_a_row_is_what_fit_makes_of_its_settings(example):
    data, test = (part[:300] for part in digits(300, 300))
    settings = list(example.recipes())[2][1]
    _, history = example.train(settings, data, test, 2, 0)
    net = lenet_relu(np.random.default_rng(0))
    expected = fit(net, data, test, epochs=2, optimizer=SGD(0.1), progress=False)
    assert history.test_loss == expected.test_loss
