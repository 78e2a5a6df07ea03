"""12_exercises: the answers agree with what is known from elsewhere."""

import importlib
import inspect
import math
import re

import numpy as np
import pytest
from PIL import Image
from rounding import assert_equal_but_for_rounding

NAME = "12_exercises"
SECTIONS = (
    "From Fully Connected Layers to Convolutions",
    "Convolutions for Images",
    "Padding and Stride",
    "Multiple Input and Multiple Output Channels",
    "Pooling",
    "Beyond the course",
)


def differences(text):
    return [float(value) for value in re.findall(r"differ by up to (\d\.\de[-+]\d\d)", text)]


def test_prints_and_draws(run_example, tmp_path):
    text = run_example(NAME)
    answers = re.split(r"(?:^|\n)\d+\. ", text)[1:]
    example = importlib.import_module(NAME)
    assert len(answers) == len(example.EXERCISES) >= 10
    answers = {f.__name__: answer for f, answer in zip(example.EXERCISES, answers)}
    for exercise in example.EXERCISES:
        assert inspect.getdoc(exercise).startswith(SECTIONS)

    equal = {  # how many differences are printed, all of which are rounding
        "kernel_of_one_pixel": 1,
        "convolution_commutes": 1,
        "convolution_of_sound": 1,
        "stride_on_sound": 1,
        "stride_of_one_half": 1,
        "minimum_pooling": 2,
        "kernel_as_large_as_the_image": 2,
        "large_kernels": 1,
    }
    for name, count in equal.items():
        assert len(differences(answers[name])) == count, name
        assert max(differences(answers[name])) < 1e-12, name
    one, with_relu, inside, border = differences(answers["two_kernels_in_a_row"])
    assert max(one, inside) < 1e-11 < 1 < min(with_relu, border)
    one, with_relu = differences(answers["two_kernels_of_one_pixel"])
    assert one < 1e-12 < 1 < with_relu

    assert "98 * 400 = 39,200 multiply" in answers["convolution_of_sound"]  # (16000 - 400)/160 + 1
    responses = re.findall(r"rises at +\d+ degrees: (\S+)", answers["edge_across_a_direction"])
    assert [float(r) for r in responses] == [0.5, 1.0, 0.0]  # cos 60, cos 0, cos 90
    assert re.findall(r"\]: (-?\d+)\n", answers["smallest_derivative"]) == ["0", "1", "-2"]
    assert "rank 4" in answers["smallest_derivative"]
    saved = re.findall(r"(?:takes|image,) (0\.\d+)", answers["stride_on_sound"])
    assert saved == ["0.500", "0.250"]  # every second output, in one axis and in two
    assert "[[0.44 0.67 0.67 0.44]\n" in answers["mirrored_padding"]  # 4/9 and 6/9
    assert answers["mirrored_padding"].count("[1. 1. 1. 1.]") == 4
    assert "to\n[[ 0.  2.  4.]\n [ 4.  6.  8.]\n [ 8. 10. 12.]]" in answers["stride_of_one_half"]
    assert "5x5 make 7x7" in answers["two_kernels_in_a_row"]
    products = 32 * 32 * 32 * 16 * 9
    assert f" = {products:,} multiply-adds" in answers["cost_of_a_convolution"]
    assert f"for dx, {2 * products:,}." in answers["cost_of_a_convolution"]
    assert "out: 4.000 times" in answers["cost_of_a_convolution"]
    assert f"padding: {(34 / 32) ** 2:.3f} times" in answers["cost_of_a_convolution"]
    reads = re.findall(r"(\S+) pixels read", answers["strips"])
    assert reads == ["25.00", "15.00", "7.50", "5.31"]  # 5*5/1, 5*6/2, 5*12/8, 5*68/64
    assert "take 3,072 multiply-adds, not 9,216." in answers["blocks_of_channels"]
    assert "connect only 4 channels" in answers["blocks_of_channels"]
    assert "in between, 12." in answers["blocks_of_channels"]
    assert "\n4.0 for" in answers["maximum_is_not_linear"]  # 5 - 1
    assert "\n8.0 for" in answers["maximum_is_not_linear"]
    assert f"\n{6 * 14 * 14 * 3:,}, " in answers["cost_of_pooling"]

    image = np.asarray(Image.open(tmp_path / "12_exercises.png").convert("L"))
    assert image.shape[1] == 936
    assert 40 < image.std()


@pytest.mark.parametrize("scale", [0, 2, 1000])
def test_softmax_pooling_by_hand(run_example, scale):
    run_example(NAME)
    x = np.random.default_rng(1).standard_normal((4, 6))

    y = importlib.import_module(NAME).softmax_pooling(x, scale)

    for i, j in np.ndindex(2, 3):
        window = [float(v) for v in x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flat]
        weights = [math.exp(scale * (v - max(window))) for v in window]
        products = [w * v / sum(weights) for w, v in zip(weights, window)]
        # a weight is exp of a number that is rounded by a share of itself
        shares = [1 + scale * (max(window) - v) for v in window]
        size = sum(abs(product) * share for product, share in zip(products, shares))
        assert_equal_but_for_rounding(y[i, j], sum(products), size)
