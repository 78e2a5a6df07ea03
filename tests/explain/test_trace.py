"""The trace of a step: its numbers against passes by hand, and what it says about them."""

import dataclasses
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding

from minicnn import (
    SGD,
    AdamW,
    BatchNorm2D,
    Conv2D,
    Dropout,
    Flatten,
    Layer,
    Linear,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
    fashion_mnist,
    lenet,
    softmax_cross_entropy,
    squared_error,
)
from minicnn.datasets import DataError, sources
from minicnn.explain import trace

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 2, 4, 4))
LABELS = np.array([0, 1, 2, 0, 1, 2])


class Halved(Layer):
    """A layer of someone else's: no parameters, nothing saved, no count of multiply-adds."""

    def forward(self, x):
        return x / 2, None

    def backward(self, dy, saved, need_dx=True):
        return dy / 2, {}


def new_net(seed=0):
    """Of all sorts of layers, in float64; of the layers 4 and 7, the same."""
    rng = np.random.default_rng(seed)
    shared = Linear(8, 8, rng=rng)
    block = Residual(Sequential(Conv2D(2, 2, 3, padding=1, rng=rng), Tanh()))
    return Sequential(
        *(Conv2D(2, 2, 3, rng=rng), BatchNorm2D(2), block, Flatten(), shared, Halved(), Sigmoid()),
        *(shared, Sequential(ReLU(), Dropout(0.3)), Linear(8, 3, rng=rng)),
    ).astype(np.float64)


def new_optimizer(net):
    """With a step behind it."""
    optimizer = AdamW(0.01, weight_decay=0.1)
    copied = net.map_arrays(np.copy)
    optimizer.step(copied.params, {name: np.cos(w) for name, w in copied.params.items()})
    return optimizer


def layer_by_layer(net):
    """[(y, dy)] of each layer, and the gradients of the whole, in the one pass that is traced."""
    net, x, passes = net.at((0,)), X, []
    for layer in net.layers:
        y, saved = layer.forward(x)
        passes.append((layer, x, y, saved))
        x = y
    _, dy = softmax_cross_entropy(x, LABELS)
    results = []
    for layer, _, y, saved in reversed(passes):
        results.insert(0, (y, dy))
        dy, _ = layer.backward(dy, saved)
    logits, saved = net.forward(X)
    return results, net.backward(softmax_cross_entropy(logits, LABELS)[1], saved)[1]


def loss_along(net, direction, step):
    """The loss of the pass that is traced, at w + step * direction."""
    moved = net.map_arrays(np.copy).at((0,))
    for name, w in moved.params.items():
        w += step * direction[name]
    return softmax_cross_entropy(moved.forward(X)[0], LABELS)[0]


def assert_spread(spread, array):
    size = np.abs(array).mean()
    assert_equal_but_for_rounding(spread.mean, np.mean(array), size, "mean")
    assert_equal_but_for_rounding(spread.std, np.std(array), size, "std")


def test_the_numbers_are_those_of_passes_by_hand():
    net = new_net()
    found = trace(net, X, LABELS, new_optimizer(net))
    passes, grads = layer_by_layer(net)
    stepped = net.map_arrays(np.copy)
    new_optimizer(net).step(stepped.params, grads)
    names = ["0", "1", "2", "3", "4", "5", "6", "7", "8.0", "8.1", "9"]
    assert [row.name for row in found.layers] == names
    of_layer = {row.name: row for row in found.layers}
    for i, (y, dy) in enumerate(passes):
        row = of_layer["8.1" if i == 8 else str(i)]  # the last of the Sequential
        assert row.output_shape == y.shape
        assert_spread(row.y, y)
        assert_spread(row.dy, dy)
    parameters = {p.name: p for row in found.layers for p in row.parameters}
    assert list(parameters) == list(net.params)  # so what is used twice is listed once
    for name, w in net.params.items():
        p, update = parameters[name], stepped.params[name] - w
        assert p.shape == w.shape
        assert_spread(p.gradient, grads[name])
        ratios = (p.gradient_to_weight, p.update_to_weight)
        length = np.linalg.norm(w)
        if length == 0:
            assert ratios == (None, None)
        else:
            expected = [np.linalg.norm(array) / length for array in (grads[name], update)]
            np.testing.assert_allclose(ratios, expected, rtol=1e-12)


def test_the_prediction_is_the_slope_of_the_loss_along_the_update():
    """By central differences of the loss, through batch norm, dropout and a block."""
    net = new_net()
    found = trace(net, X, LABELS, new_optimizer(net))
    stepped = net.map_arrays(np.copy)
    new_optimizer(net).step(stepped.params, layer_by_layer(net)[1])
    update = {name: w - net.params[name] for name, w in stepped.params.items()}
    h = 1e-4
    slope = (loss_along(net, update, h) - loss_along(net, update, -h)) / (2 * h)
    assert found.predicted_loss - found.loss == pytest.approx(slope, rel=1e-6)
    assert found.loss == pytest.approx(loss_along(net, update, 0), rel=1e-14)
    assert found.loss_after == pytest.approx(loss_along(net, update, 1), rel=1e-12)
    assert found.loss_after != found.loss


@pytest.mark.parametrize("new_optimizer", [new_optimizer, lambda net: SGD(0.1, momentum=0.9)])
def test_nothing_of_the_callers_changes_and_two_traces_agree(new_optimizer):
    net = new_net()
    optimizer, x, labels = new_optimizer(net), X.copy(), LABELS.copy()
    before = pickle.dumps((net, optimizer, x, labels))
    found = trace(net, x, labels, optimizer)
    assert pickle.dumps((net, optimizer, x, labels)) == before
    assert trace(net, x, labels, optimizer) == found
    assert trace(new_net(), x, labels, new_optimizer(net)) == found  # with another dropout


def test_multiply_adds_are_those_of_the_loops():
    net = Sequential(Conv2D(2, 4, 3, stride=2, padding=1, groups=2), Flatten(), Linear(16, 3))
    rows = trace(net, X, LABELS, SGD(0.1)).layers
    convolution = linear = 0
    for _image in X:
        for _o in range(4):
            for _y in range(2):
                for _x in range(2):
                    for _tap in np.ndindex(1, 3, 3):  # of the one channel of the group
                        convolution += 1
        for _o in range(3):
            for _feature in range(4 * 2 * 2):
                linear += 1
    assert [row.multiply_adds for row in rows] == [convolution, 0, linear]


def test_bytes_kept_count_an_array_once():
    """Of 4 bytes each: x of 5*3 entries, y of 5*7 for two layers, then a view of it, z of 5*2."""
    inner = Sequential(Linear(7, 2), Tanh())
    net = Sequential(Linear(3, 7), Tanh(), Flatten(), inner, Linear(2, 4))
    x, labels = np.ones((5, 3), np.float32), np.zeros(5, int)
    rows = trace(net, x, labels, SGD(0.1)).layers
    assert [row.name for row in rows] == ["0", "1", "2", "3.0", "3.1", "4"]
    assert [row.kept_bytes for row in rows] == [4 * 5 * 3, 4 * 5 * 7, 0, 0, 4 * 5 * 2, 0]


def hidden(activation, x):
    """The trace of a network that begins with the activation."""
    net = Sequential(activation, Linear(x.shape[1], 3))
    return trace(net, x, np.zeros(len(x), int), SGD(0.1))


def test_units_that_no_image_gets_through_are_dead():
    """Of four units the first is 0 for all images, the second for one."""
    found = hidden(ReLU(), np.array([[-1.0, 1, 1, 1], [0, -1, 1, 1]]))
    assert found.layers[0].dead == 0.25 and found.layers[0].saturated is None
    assert "25 % of the units of layer 0 are dead." in found.sentences
    found = hidden(ReLU(), np.array([[-1.0, 1, 1, 1, 1], [0, -1, 1, 1, 1]]))
    assert found.layers[0].dead == 0.2 and "dead" not in " ".join(found.sentences)


@pytest.mark.parametrize(
    "activation, x",
    # exp(-x)/(1 + exp(-x))**2 is 0.002466 at 6 and 0.002724 at 5.9, 1/cosh(x)**2 0.00987 and 0.0120
    [
        (Sigmoid(), [[6.0, -6.0, 99, 5.9], [0, 1, -5.9, -99]]),
        (Tanh(), [[3.0, -3, 9, 2.9], [0, 1, -2.9, -9]]),
    ],
)
def test_entries_where_next_to_nothing_gets_through_are_saturated(activation, x):
    found = hidden(activation, np.array(x))
    assert found.layers[0].saturated == 0.5 and found.layers[0].dead is None
    assert "50 % of the entries of layer 0 are saturated." in found.sentences


def test_a_layer_with_no_gradient_is_named():
    """Nothing comes back through a dead layer, and the one behind it is given only zeros."""
    dead = Linear(4, 4)
    dead.params["bias"][...] = -100
    net = Sequential(Linear(4, 4), Tanh(), dead, ReLU(), Linear(4, 3))
    sentences = trace(net, np.ones((2, 4)), np.zeros(2, int), SGD(0.1)).sentences
    assert sentences[:2] == [
        "The weights of layer 0, layer 2, layer 4 get no gradient.",
        "100 % of the units of layer 3 are dead.",
    ]


def one_weight(optimizer):
    """The loss (w*x - t)**2 at w = 1 with x = 1, t = 0; its derivative is 2."""
    net = Linear(1, 1, bias=False).astype(np.float64)
    net.params["weight"][...] = 1
    return trace(net, np.ones((1, 1)), np.zeros((1, 1)), optimizer, loss=squared_error)


def test_one_weight_by_hand():
    found = one_weight(SGD(0.125))
    (row,) = found.layers
    assert (row.name, row.layer, row.output_shape) == ("", "Linear(1, 1, bias=False)", (1, 1))
    assert (row.multiply_adds, row.kept_bytes) == (1, 8)
    assert dataclasses.astuple(row.y) == (1, 0) and dataclasses.astuple(row.dy) == (2, 0)
    (p,) = row.parameters
    assert (p.name, p.shape) == ("weight", (1, 1)) and dataclasses.astuple(p.gradient) == (2, 0)
    assert (p.gradient_to_weight, p.update_to_weight) == (2, 0.25)
    assert (found.loss, found.predicted_loss, found.loss_after) == (1, 0.5, 0.5625)
    assert found.guessing is None


def uphill():
    optimizer = SGD(0.25, momentum=0.5)
    optimizer.velocity = {"weight": np.full((1, 1), -8.0)}  # v = -4 + 2: the weight goes to 1.5
    return optimizer


@pytest.mark.parametrize(
    "optimizer, sentence",
    [
        (SGD(0.125), "The loss fell from 1 to 0.5625, by 88 % of what the first order predicted."),
        (SGD(0.5), "The loss fell from 1 to 0, by 50 % of what the first order predicted."),
        (
            SGD(0.75),
            "The loss fell from 1 to 0.25, by 25 % of what the first order predicted: the step "
            "went past the lowest point.",
        ),
        (
            SGD(1.5),
            "The loss rose from 1 to 4 although the first order predicted a fall to -5: for this "
            "step the learning rate is too large.",
        ),
        (
            uphill(),
            "To first order the step raises the loss from 1 to 2: it does not go against the "
            "gradient. The loss became 2.25.",
        ),
        (SGD(1e-9), "To first order the step does not change the loss, 1."),
    ],
    ids=range(6),
)
def test_what_is_said_of_the_loss(optimizer, sentence):
    assert one_weight(optimizer).sentences == [sentence]


def test_a_gradient_that_falls_or_grows_tenfold_is_told():
    """The loss is (w1*w2)**2, so at w1 = 1 the ratios are 2*w2**2 and 2*w2 / w2."""
    for w2, told in {0.25: "falls from 2", 0.5: None, 2.0: None, 4.0: "grows from 2"}.items():
        net = Sequential(Linear(1, 1, bias=False), Linear(1, 1, bias=False)).astype(np.float64)
        net.params["0.weight"][...], net.params["1.weight"][...] = 1, w2
        found = trace(net, np.ones((1, 1)), np.zeros((1, 1)), SGD(1e-3), loss=squared_error)
        ratios = [row.parameters[0].gradient_to_weight for row in found.layers]
        assert ratios == [2 * w2**2, 2]
        sentence = f"The gradient {told} of the weights at layer 1 to {2 * w2**2:.2g} at layer 0."
        assert found.sentences[:-1] == ([sentence] if told else [])


def test_biases_do_not_count_there():
    """A small one, as at first, has a gradient that is many times as large."""
    net = Sequential(Linear(1, 1, bias=False), Linear(1, 1)).astype(np.float64)
    for w, value in zip(net.params.values(), (1, 1, 1e-6)):
        w[...] = value
    found = trace(net, np.ones((1, 1)), np.zeros((1, 1)), SGD(1e-3), loss=squared_error)
    assert found.layers[1].parameters[1].gradient_to_weight > 1e6
    assert len(found.sentences) == 1


def test_the_loss_of_guessing_is_told():
    net = Linear(2, 4)
    for p in net.params.values():
        p[...] = 0
    found = trace(net, np.ones((3, 2)), np.array([0, 1, 3]), SGD(0.1))
    assert "The loss is near ln 4 = 1.386, that of guessing." in found.sentences
    net.params["bias"][0] = 2
    found = trace(net, np.ones((3, 2)), np.array([0, 1, 3]), SGD(0.1))
    assert "guessing" not in str(found)


def test_what_is_not_finite_is_told_and_has_a_place_in_json():
    x = np.array([[np.inf, 1], [1, 1]], np.float32)
    found = trace(Sequential(Flatten(), Linear(2, 3)), x, np.zeros(2, int), SGD(0.1))
    assert found.sentences[0] == "y is not finite from layer 0 on."
    assert found.sentences[-1] == "The loss is nan, and to first order nan after the step."
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["layers"][0]["y"]["mean"] == "inf" and plain["loss"] == "nan"


def test_json_has_all_that_the_trace_has():
    net = new_net()
    found = trace(net, X, LABELS, new_optimizer(net))
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain.pop("sentences") == found.sentences
    assert plain == json.loads(json.dumps(dataclasses.asdict(found)))


def test_the_text_has_a_line_for_each_layer_and_parameter():
    net = new_net()
    found = trace(net, X, LABELS, new_optimizer(net))
    layers, parameters, sentences = str(found).split("\n\n")
    assert [line.split()[0] for line in layers.splitlines()[1:]] == [r.name for r in found.layers]
    assert "\n2      Residual " in layers
    assert [line.split()[0] for line in parameters.splitlines()[1:]] == list(net.params)
    assert sentences.splitlines() == found.sentences


def test_html_is_escaped():
    class Odd(Halved):
        def __repr__(self):
            return "<script>&"

    found = trace(Sequential(Odd(), Flatten(), Linear(32, 3)), X, LABELS, SGD(0.1))
    page = found._repr_html_()
    assert "<td>&lt;script&gt;&amp;</td>" in page and "<script" not in page
    assert page.count("<tr>") == 2 + 3 + 2 and found.sentences[-1] in page


def test_a_sequential_that_does_more_is_one_row():
    class Doubled(Sequential):
        def forward(self, x):
            y, saved = super().forward(x)
            return 2 * y, saved

        def backward(self, dy, saved, need_dx=True):
            return super().backward(2 * dy, saved, need_dx)

    net = Sequential(Flatten(), Doubled(Linear(32, 8), Tanh()), Linear(8, 3))
    rows = trace(net, X, LABELS, SGD(0.1)).layers
    assert [(row.name, row.layer[:7]) for row in rows] == [
        *[("0", "Flatten"), ("1", "Doubled"), ("2", "Linear(")],
    ]
    assert [p.name for p in rows[1].parameters] == ["1.0.weight", "1.0.bias"]


def test_the_gradient_of_lenet_falls_on_its_way_back(monkeypatch):
    def refuse(*_):
        raise DataError("tests do not download")

    required = os.environ.get("MINICNN_REQUIRE_DATA") == "1"
    if not required and sources.find(sources.FASHION_MNIST) is None:
        pytest.skip("Fashion-MNIST is not on this machine")
    monkeypatch.setattr(sources, "download", refuse)
    x, labels = fashion_mnist()[0].batch(slice(0, 256))
    found = trace(lenet(np.random.default_rng(0)), x, labels, SGD(0.9))
    ratios = {p.name: p.gradient_to_weight for row in found.layers for p in row.parameters}
    assert ratios["0.weight"] == pytest.approx(0.00154, rel=0.01)
    assert ratios["11.weight"] == pytest.approx(0.127, rel=0.01)
    falls, near, _ = found.sentences
    assert falls == "The gradient falls from 0.13 of the weights at layer 11 to 0.0015 at layer 0."
    assert near == "The loss is near ln 10 = 2.303, that of guessing."
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"\n{falls}\n{near}\n" in readme
