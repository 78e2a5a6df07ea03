"""A better LeNet: eleven rows, each the ones above and a change, and at most 500,000 parameters."""

import importlib
import re

import numpy as np
import pytest
from PIL import Image

from minicnn import SGD, digits, fit, lenet, lenet_relu


@pytest.fixture
def example(monkeypatch, run_example):
    return importlib.import_module("09_better_lenet")


def test_the_table_has_a_row_for_each_change(run_example, tmp_path):
    out = run_example("09_better_lenet", "--data", "digits", "--images", 256, "--epochs", 1)
    rows = re.findall(
        r"^\| (.+?) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \|$", out, re.MULTILINE
    )
    assert len(rows) >= 8
    parameters = [int(count.replace(",", "")) for _, count, *_ in rows]
    assert parameters[:7] == [61_706] * 7 and max(parameters) == parameters[-1] <= 500_000
    assert all(0 <= float(accuracy) <= 100 for row in rows for accuracy in row[2:4])
    assert len(np.unique(Image.open(tmp_path / "09_better_lenet.png").convert("L"))) > 10


def test_the_first_row_is_the_course_and_the_others_add_up(example):
    recipes = [settings for _, settings in example.recipes()]
    assert recipes[0] == example.COURSE
    for before, after, (_, change) in zip(recipes, recipes[1:], example.CHANGES[1:]):
        assert change and after == before | change
        assert all(before[key] != value for key, value in change.items())


@pytest.mark.parametrize("row, build", [(0, lenet), (2, lenet_relu)])
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


def test_mirrored_images_follow_the_others(example):
    data, _ = digits(5, 1)
    both = example.with_mirror_images(data)
    np.testing.assert_array_equal(both.images[:5], data.images)
    np.testing.assert_array_equal(both.images[7, 0, :, ::-1], data.images[2, 0])
    np.testing.assert_array_equal(both.labels, [*data.labels, *data.labels])
