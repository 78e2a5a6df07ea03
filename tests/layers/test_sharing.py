"""One parameter in two places of a network: one parameter, the sum of both gradients."""

import copy
import pickle

import numpy as np
import pytest

from minicnn import (
    SGD,
    BatchNorm2D,
    Conv2D,
    Dropout,
    Flatten,
    Linear,
    Residual,
    Sequential,
    Tanh,
)
from minicnn.cli.summary import summarize, table
from minicnn.gradcheck import check_gradients
from minicnn.layers.composite import Composite
from minicnn.runs.checkpoint import Checkpoint, load_weights, save_weights
from minicnn.runs.settings import Origin, Settings
from minicnn.training import History, Position
from minicnn.training.parallel import batch_gradients

ORIGIN = Origin("shared", "none", ())


def twice():
    """y = W tanh(W x + b) + b."""
    layer = Linear(3, 3, rng=np.random.default_rng(0)).astype(np.float64)
    layer.params["bias"] += 0.5
    return Sequential(layer, Tanh(), layer)


def nested():
    """The same layers, one of them inside a network that stands twice itself."""
    layer = Linear(3, 3, rng=np.random.default_rng(0)).astype(np.float64)
    inner = Sequential(layer, Tanh())
    return Sequential(inner, layer, inner, Linear(3, 2).astype(np.float64))


def tied():
    """Two layers that share an array, but not their biases."""
    net = Sequential(Linear(3, 3), Tanh(), Linear(3, 3)).astype(np.float64)
    net.layers[2].params["weight"] = net.layers[0].params["weight"]
    return net


def around():
    """One layer in the body and in the shortcut of a block, and again behind it."""
    layer = Linear(3, 3, rng=np.random.default_rng(0)).astype(np.float64)
    return Sequential(Residual(Sequential(Tanh(), layer), layer), layer)


NETS = {
    twice: {"0.weight": (3, 3), "0.bias": (3,)},
    nested: {"0.0.weight": (3, 3), "0.0.bias": (3,), "3.weight": (2, 3), "3.bias": (2,)},
    tied: {"0.weight": (3, 3), "0.bias": (3,), "2.bias": (3,)},
    around: {"0.body.1.weight": (3, 3), "0.body.1.bias": (3,)},
}


def uses(net):
    """Where the same array and the same layer stand, as numbers in the order of first use."""

    def walk(layer):
        if isinstance(layer, Composite):
            return [id(layer), *(use for inner in layer.parts.values() for use in walk(inner))]
        return [id(layer), *map(id, layer.arrays.values())]

    found = walk(net)
    return [found.index(use) for use in found]


@pytest.mark.parametrize("build", NETS)
def test_each_has_one_name_and_counts_once(build):
    net = build()
    assert {name: parameter.shape for name, parameter in net.params.items()} == NETS[build]
    rows = summarize(net.astype(np.float32), (1, 3))
    expected = sum(parameter.size for parameter in net.params.values())
    assert sum(row.parameters for row in rows) == expected
    assert f" {expected} " in table(rows).splitlines()[-1]


@pytest.mark.parametrize("build", NETS)
def test_backward_adds_the_gradients_of_all_uses(build):
    net = build()
    report = check_gradients(net, np.random.default_rng(1).standard_normal((4, 3)))
    assert report.ok, report
    assert report.errors.keys() == {"x", *NETS[build]}


def test_the_gradient_is_that_of_pytorch_and_so_are_steps():
    torch = pytest.importorskip("torch")
    net = twice()
    layer = torch.nn.Linear(3, 3).double()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(torch.tensor(net.params[f"0.{name}"]))
    net_torch = torch.nn.Sequential(layer, torch.nn.Tanh(), layer)
    assert list(net.params) == [name for name, _ in net_torch.named_parameters()]
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5}
    optimizer = SGD(**options)
    optimizer_torch = torch.optim.SGD(net_torch.parameters(), **options)
    x, dy = np.random.default_rng(1).standard_normal((2, 4, 3))
    for _ in range(3):
        _, saved = net.forward(x)
        optimizer.step(net.params, net.backward(dy, saved)[1])
        optimizer_torch.zero_grad()
        net_torch(torch.tensor(x)).backward(torch.tensor(dy))
        optimizer_torch.step()
    for name, parameter in net_torch.named_parameters():
        np.testing.assert_allclose(net.params[name], parameter.detach(), rtol=1e-12)


def test_weight_decay_takes_its_share_once():
    net = tied()
    before = {name: parameter.copy() for name, parameter in net.params.items()}
    zeros = {name: np.zeros_like(parameter) for name, parameter in net.params.items()}
    SGD(0.5, weight_decay=0.5).step(net.params, zeros)
    for name, parameter in net.params.items():
        np.testing.assert_array_equal(parameter, 0.75 * before[name])


COPIES = {
    "astype": lambda net: net.astype(np.float32),
    "to": lambda net: net.to("cpu"),
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "map_arrays": lambda net: net.map_arrays(np.copy),
    "astype of to": lambda net: net.to("cpu").astype(np.float32),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("build", NETS)
def test_a_copy_shares_what_the_network_shares(build, copied):
    net = build()
    assert uses(copied(net)) == uses(net)
    assert len(set(uses(net))) < len(uses(net))
    assert copied(net).params.keys() == net.params.keys()


def test_a_copy_is_independent_of_the_network():
    net = twice()
    before = net.params["0.weight"].copy()
    net.astype(np.float64).params["0.weight"][...] = 0
    np.testing.assert_array_equal(net.params["0.weight"], before)


@pytest.mark.parametrize("build", NETS)
def test_weights_and_checkpoints_leave_it_shared(build, tmp_path):
    net, other, resumed = build(), build(), build()
    for parameter in net.params.values():
        parameter += 1
    expected = uses(net), {name: p.tobytes() for name, p in net.params.items()}
    optimizer = SGD(0.1, momentum=0.5)
    optimizer.step(build().params, net.params)
    save_weights(net, tmp_path / "weights")
    load_weights(other, tmp_path / "weights")
    position = Position(History(1, "cpu"))
    checkpoint = Checkpoint.of(net, optimizer, position, Settings(), ORIGIN, "0")
    checkpoint.restore(resumed, SGD(0.1, momentum=0.5))
    for again in other, resumed:
        assert (uses(again), {name: p.tobytes() for name, p in again.params.items()}) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_chunks_of_a_batch_add_up(workers, small_digits):
    train, _ = small_digits
    layer = Conv2D(1, 1, 3, padding=1, rng=np.random.default_rng(0))
    net = Sequential(layer, Tanh(), layer, Flatten(), Linear(784, 10)).astype(np.float64)
    results = []
    for count in 70, 10:  # one chunk and a half; a tenth of the images each time
        with batch_gradients(net, train, count, workers) as gradients:
            parts = [np.arange(first, first + count) for first in range(0, 70, count)]
            results.append([gradients(part)[2] for part in parts])
    (whole,), parts = results
    assert whole.keys() == net.params.keys()
    for name, grad in whole.items():
        mean = sum(part[name] for part in parts) / len(parts)
        np.testing.assert_allclose(grad, mean, rtol=0, atol=1e-13)


def test_entries_of_a_network_cannot_be_replaced_in_silence():
    net = twice()
    before = {name: parameter.copy() for name, parameter in net.params.items()}
    new, params = np.zeros((3, 3)), net.params
    remedy = r"^net\.params .*\[\.\.\.\] = values or net\.load_params.*layers\[0\]\.params"
    for change in (
        lambda: params.__setitem__("0.weight", new),
        lambda: params.__setitem__("4.weight", new),
        lambda: params.__delitem__("0.weight"),
        lambda: params.update({"0.weight": new}),
        lambda: params.__ior__({"0.weight": new}),
        lambda: params.setdefault("1.weight", new),
        lambda: params.pop("0.weight"),
        lambda: params.popitem(),
        lambda: params.clear(),
    ):
        with pytest.raises(ValueError, match=remedy):
            change()
        assert params.keys() == net.params.keys()
    for name, parameter in net.params.items():
        np.testing.assert_array_equal(parameter, before[name])


def test_what_the_refusal_recommends_works():
    net, new = twice(), np.full((3, 3), 2.0)
    net.params["0.weight"][...] = new
    np.testing.assert_array_equal(net.layers[2].params["weight"], new)
    net.params["0.weight"] += 1  # which assigns the same array once more
    np.testing.assert_array_equal(net.layers[0].params["weight"], new + 1)
    net.load_params(net.params | {"0.weight": new})
    np.testing.assert_array_equal(net.params["0.weight"], new)
    net.layers[0].params["weight"] = new
    assert net.params["0.weight"] is new


@pytest.mark.parametrize("copied", [dict, copy.copy, copy.deepcopy, dict.copy])
def test_a_copy_of_the_parameters_is_a_plain_dict(copied):
    params = copied(twice().params)
    params["new"] = params.pop("0.weight")
    assert type(params) is dict and params.keys() == {"new", "0.bias"}
    assert type(pickle.loads(pickle.dumps(twice().params))) is dict


def normalized_twice():
    """One batch norm in two places; the second one's input is 10 times as large, and 1 more."""
    norm, factor = BatchNorm2D(2), Conv2D(2, 2, 1)
    factor.params["weight"][...] = 10 * np.eye(2)[..., None, None]
    factor.params["bias"][...] = 1
    return Sequential(norm, factor, norm, Flatten())


def test_state_that_is_used_twice_has_one_name_and_the_mean_of_both_updates():
    net = normalized_twice().astype(np.float64)
    x = np.random.default_rng(0).normal(4, 3, (5, 2, 3, 4))
    assert list(net.state) == ["0.running_mean", "0.running_var", "0.num_batches_tracked"]
    _, saved = net.forward(x)
    new = net.updates(saved)
    assert new.keys() == net.state.keys()
    mean, var = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3), ddof=1)
    # at the second place the mean is 1, and the variance 100 but for eps, times 60/59
    np.testing.assert_allclose(new["0.running_mean"], 0.1 * (mean + 1) / 2, rtol=1e-12)
    expected = 0.9 + 0.1 * (var + 100 * 60 / 59) / 2
    np.testing.assert_allclose(new["0.running_var"], expected, rtol=1e-4)
    assert new["0.num_batches_tracked"] == 1 and new["0.num_batches_tracked"].dtype == np.int64
    assert net.state["0.num_batches_tracked"] == 0


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_shares_the_state_that_the_network_shares(copied, tmp_path):
    net = normalized_twice()
    net.state["0.running_mean"][...] = 3
    other = copied(net)
    assert uses(other) == uses(net) and other.state.keys() == net.state.keys()
    np.testing.assert_array_equal(other.layers[2].state["running_mean"], [3, 3])
    save_weights(other.astype(np.float32), tmp_path / "weights")
    again = normalized_twice()
    load_weights(again, tmp_path / "weights")
    assert uses(again) == uses(net) and (again.state["0.running_mean"] == 3).all()


def test_a_random_layer_that_stands_twice_has_a_mask_for_each_place():
    layer = Dropout(rng=np.random.default_rng(0))
    net, x = Sequential(layer, layer), np.ones((40, 50))
    _, (first, second) = net.at((1,)).forward(x)
    assert abs((first == second).mean() - 0.5) < 0.1
    _, (first, second) = net.forward(x)  # outside training there is one key
    np.testing.assert_array_equal(first, second)
