"""How a batch is cut: the sizes of chunks, by hand, and that the network's layers see these."""

import numpy as np
import pytest

from minicnn import (
    BatchNorm2D,
    Conv2D,
    Dropout,
    Flatten,
    Layer,
    Linear,
    ReLU,
    Residual,
    Sequential,
    lenet,
)
from minicnn.layers.composite import Composite
from minicnn.models import lenet_bn
from minicnn.training import chunks
from minicnn.training.chunks import evaluation_cut, outputs, training_cut
from minicnn.training.parallel import batch_gradients, loss_and_correct
from minicnn.use.predictor import probabilities
from minicnn.zoo import resnet_mini

IMAGE = (1, 28, 28)
ALIKE = {1: [1], 15: [15], 16: [16], 31: [31], 32: [16, 16], 33: [16, 17], 63: [31, 32]}
ALIKE |= {64: [32, 32], 100: [50, 50], 128: [64, 64]}
TRAINING = ALIKE | {129: [43, 43, 43], 256: [64] * 4}
EVALUATION = ALIKE | {129: [64, 65], 256: [128, 128], 300: [100, 100, 100]}
MIXED = {1: [1], 32: [32], 64: [64], 65: [32, 33], 100: [50, 50], 129: [43, 43, 43], 256: [64] * 4}


def sizes(cut, n):
    found = cut(n)
    assert [i for chunk in found for i in chunk] == list(range(n))
    return [len(chunk) for chunk in found]


@pytest.mark.parametrize(
    "cut, expected",
    [
        (training_cut(lenet(), IMAGE), TRAINING),
        (evaluation_cut(lenet(), IMAGE), EVALUATION),
        (training_cut(lenet_bn(), IMAGE), MIXED),
        (evaluation_cut(lenet_bn(), IMAGE), EVALUATION),
    ],
)
def test_sizes_by_hand(cut, expected):
    assert {n: sizes(cut, n) for n in expected} == expected


def test_a_gpu_takes_more_images_but_not_any_number(monkeypatch):
    """64 channels of 224x224, 3,211,264 numbers: 2**30 of them are 334 images."""
    monkeypatch.setattr(Layer, "device", "gpu")
    assert sizes(evaluation_cut(lenet(), IMAGE), 10_000) == [3333, 3333, 3334]
    large = Sequential(Conv2D(3, 64, 3, padding=1))
    assert sizes(evaluation_cut(large, (3, 224, 224)), 2 * 334) == [334, 334]
    assert len(evaluation_cut(large, (3, 224, 224))(2 * 334 + 1)) == 3
    assert sizes(training_cut(large, (3, 224, 224)), 60) == [20, 20, 20]  # as on a CPU


def test_no_images_are_one_chunk():
    assert training_cut(lenet(), IMAGE)(0) == evaluation_cut(lenet(), IMAGE)(0) == [range(0)]


def test_sizes_differ_by_one_at_most():
    cut = training_cut(lenet(), IMAGE)
    for n in range(1, 1000):
        found = sizes(cut, n)
        assert 1 <= min(found) <= max(found) <= min(64, min(found) + 1)


def test_neither_dtype_nor_weights_nor_the_cores_have_a_say(monkeypatch):
    expected = training_cut(lenet(), IMAGE), evaluation_cut(lenet(), IMAGE)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    net = lenet().astype(np.float64)
    assert (training_cut(net, IMAGE), evaluation_cut(net, IMAGE)) == expected


@pytest.mark.parametrize(
    "units, most",
    [
        (60, 64),  # (28*28 + 1) * 60 + (60 + 1) * 10 = 47,710 parameters; 28*28 + 60 + 10 outputs
        (100, 64),  # 79,510 / 894 = 88.9
        (200, 128),  # 159,010 / 994 = 160
        (400, 256),  # 318,010 / 1,194 = 266
    ],
)
def test_many_parameters_are_balanced_by_many_images(units, most):
    """Not in evaluation, which has no gradients to add."""
    net = Sequential(Flatten(), Linear(28 * 28, units), Linear(units, 10))
    assert sizes(training_cut(net, IMAGE), 2 * most) == [most, most]
    assert len(training_cut(net, IMAGE)(2 * most + 1)) == 3
    assert sizes(evaluation_cut(net, IMAGE), 256) == [128, 128]


class Told:
    """Notes how many numbers each layer in a network puts out."""

    def __init__(self, net):
        self.numbers = []
        self._watch(net)

    def _watch(self, layer):
        for part in layer.parts.values() if isinstance(layer, Composite) else ():
            self._watch(part)
        if not isinstance(layer, Sequential):  # what it puts out is what its last layer does
            forward = layer.forward
            layer.forward = lambda x: self._noted(forward(x))

    def _noted(self, result):
        self.numbers.append(result[0].size)
        return result


@pytest.mark.parametrize("build", [lenet, lenet_bn, resnet_mini])
def test_outputs_are_what_the_layers_put_out(build):
    net = build()
    told = Told(net)
    net.forward(np.zeros((3, *IMAGE), np.float32))
    assert outputs(net, (3, *IMAGE)) == sum(told.numbers)


def test_of_large_images_few_are_a_chunk():
    block = Sequential(Conv2D(3, 64, 3, padding=1), ReLU())
    assert outputs(block, (1, 3, 224, 224)) == 2 * 64 * 224 * 224
    # 2**26 / (2 * 64 * 224 * 224) = 10.4
    assert sizes(training_cut(block, (3, 224, 224)), 64) == [9, 9, 9, 9, 9, 9, 10]
    assert sizes(evaluation_cut(block, (3, 224, 224)), 20) == [10, 10]
    # 2**26 / (2 * 64 * 112 * 112) = 41.8
    assert sizes(training_cut(block, (3, 112, 112)), 128) == [32] * 4
    assert sizes(training_cut(block, (3, 56, 56)), 128) == [64, 64]
    assert sizes(training_cut(block, (3, 4000, 4000)), 3) == [1, 1, 1]


def test_batch_norm_keeps_its_statistics_for_images_of_any_size():
    net = Sequential(Conv2D(3, 64, 3, padding=1), BatchNorm2D(64), ReLU())
    assert sizes(training_cut(net, (3, 224, 224)), 128) == [64, 64]
    assert max(sizes(evaluation_cut(net, (3, 224, 224)), 128)) < 10


def test_a_layer_that_does_not_tell_what_is_in_it_keeps_64():
    class Whole(Layer):
        def output_shape(self, x_shape):
            return x_shape[0], 10

    assert sizes(training_cut(Whole(), (3, 4000, 4000)), 128) == [64, 64]


@pytest.mark.parametrize("dropped", [0, 0.5])
def test_training_evaluation_and_prediction_take_these(dropped, small_digits, monkeypatch):
    class Noted(ReLU):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    data, seen = small_digits[0][:100], []
    body = Residual(Sequential(Noted(), Dropout(dropped)))
    net = Sequential(body, Flatten(), Linear(784, 10))
    each = 4 * 784 + 10  # ReLU, dropout, their sum with x, and x flat
    monkeypatch.setattr(chunks, "MOST_OUTPUTS", 20 * each + each // 2)
    with batch_gradients(net, data, 100, workers=1) as gradients:
        gradients(np.arange(50), key=(0,))
    assert seen == [16, 17, 17]
    seen.clear()
    loss_and_correct(net, data, workers=1)
    assert seen == [20] * 5
    seen.clear()
    probabilities(net, data.images)
    assert seen == [20] * 5
