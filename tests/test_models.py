"""Networks: Sequential as a layer, its parameters, how they are drawn, and LeNet."""

import math
import pickle

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding, network_size

from minicnn import (
    AvgPool2D,
    Conv2D,
    Flatten,
    Linear,
    MaxPool2D,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
    lenet,
    softmax_cross_entropy,
)
from minicnn.gradcheck import check_gradients
from minicnn.initializers import glorot_uniform, he_normal
from minicnn.zoo import INPUT_SHAPE, MODELS


def small_network(rng):
    """Layers of every kind, one Sequential inside another: x (N, 2, 9, 8) -> y (N, 3)."""
    net = Sequential(
        Conv2D(2, 4, 3, padding=1, rng=rng),
        Tanh(),
        MaxPool2D(3, stride=2),
        Sequential(
            Conv2D(4, 4, 2, stride=2, groups=2, bias=False, rng=rng), ReLU(), AvgPool2D((2, 1))
        ),
        Flatten(),
        Sequential(Sequential(Linear(4, 5, rng=rng)), Sigmoid()),
        Linear(5, 3, rng=rng),
    )
    for parameter in net.params.values():
        parameter += rng.standard_normal(parameter.shape)
    return net


NAMES = ["0.weight", "0.bias", "3.0.weight", "5.0.0.weight", "5.0.0.bias", "6.weight", "6.bias"]


def test_params_are_the_arrays_of_the_layers():
    linear = Linear(3, 2)
    net = Sequential(ReLU(), Sequential(Tanh(), linear))
    assert list(net.params) == ["1.1.weight", "1.1.bias"]
    assert net.params["1.1.weight"] is linear.params["weight"]
    linear.params["bias"] = np.ones(2, np.float32)
    assert net.params["1.1.bias"] is linear.params["bias"]
    assert list(small_network(np.random.default_rng(0)).params) == NAMES


def test_a_network_has_the_derivative_of_its_output():
    rng = np.random.default_rng(0)
    report = check_gradients(small_network(rng), rng.standard_normal((3, 2, 9, 8)))
    assert report.ok, report
    assert report.errors.keys() == {"x", *NAMES}
    assert max(report.errors.values()) < 1e-6, report


def test_backward_ends_where_nothing_is_left_to_learn():
    """Layers in front of the first parameters, and its dx, are spared unless dx is asked for."""
    rng = np.random.default_rng(0)
    linear = Linear(6, 5, rng=rng)
    nets = [
        Sequential(Flatten(), Tanh(), linear, Tanh(), Linear(5, 2, rng=rng)),
        Sequential(Sequential(Flatten(), Tanh()), Sequential(Tanh(), linear), Tanh()),
        Sequential(Flatten(), Tanh()),
    ]
    for net in nets:
        asked = []
        for layer in (*net.layers, linear):
            layer.backward = told(asked, layer, layer.backward)
        y, saved = net.forward(rng.standard_normal((4, 1, 2, 3)).astype(np.float32))
        dy = rng.standard_normal(y.shape).astype(np.float32)
        dx, grads = net.backward(dy, saved)
        assert dx.shape == (4, 1, 2, 3)
        assert set(net.layers) <= {layer for layer, _ in asked} and all(need for _, need in asked)
        asked.clear()
        nothing, alone = net.backward(dy, saved, need_dx=False)
        assert nothing is None and grads.keys() == alone.keys() == net.params.keys()
        for name, grad in grads.items():
            np.testing.assert_array_equal(alone[name], grad)
        learners = [layer for layer in net.layers if layer.params] or [net.layers[0]]
        first = net.layers.index(learners[0])
        assert [layer for layer in net.layers if layer in dict(asked)] == [*net.layers[first:]]
        assert dict(asked)[learners[0]] is False
        assert linear not in dict(asked) or dict(asked)[linear] is False


def told(asked, layer, backward):
    """`backward` of the layer, which notes in `asked` whether it was asked for dx."""

    def noted(dy, saved, need_dx=True):
        asked.append((layer, need_dx))
        return backward(dy, saved, need_dx)

    return noted


def test_a_network_keeps_the_protocol_of_a_layer():
    rng = np.random.default_rng(0)
    net = small_network(rng)
    x, other = rng.standard_normal((2, 3, 2, 9, 8)).astype(np.float32)
    y, saved = net.forward(x)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    before = pickle.dumps((net.params, x, dy, y, saved))
    dx, grads = net.backward(dy, saved)
    other_y, other_saved = net.forward(other)
    net.backward(other_y, other_saved)
    no_dx, grads_alone = net.backward(dy, saved, need_dx=False)
    assert pickle.dumps((net.params, x, dy, y, saved)) == before
    assert no_dx is None and dx.shape == x.shape
    assert net.output_shape(x.shape) == y.shape == (3, 3)
    assert {array.dtype for array in (y, dx, *grads.values())} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(net(x), y)
    assert grads.keys() == grads_alone.keys() == net.params.keys()
    for name in grads:
        np.testing.assert_array_equal(grads[name], grads_alone[name])


def test_a_shape_that_does_not_fit_is_found_before_any_data():
    net = Sequential(Conv2D(1, 16, 5), AvgPool2D(2), Flatten(), Linear(400, 10))
    assert net.output_shape((7, 1, 14, 15)) == (7, 10)
    with pytest.raises(ValueError, match=r"Linear.*\(N, 400\).*\(7, 2304\)"):
        net.output_shape((7, 1, 28, 28))


def test_load_params_copies_values_in():
    net = small_network(np.random.default_rng(0))
    arrays = net.params
    source = {name: np.full_like(p, i) for i, (name, p) in enumerate(arrays.items())}
    net.load_params(dict(reversed(source.items())))
    source["6.bias"][...] = -1
    for i, (name, parameter) in enumerate(net.params.items()):
        assert parameter is arrays[name] and np.all(parameter == i)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: p.pop("6.bias"), "missing.*6.bias"),
        (lambda p: p.update({"7.bias": p["6.bias"]}), "unknown.*7.bias"),
        (lambda p: p.update({"6.bias": np.zeros(4, np.float32)}), r"6.bias .*\(3,\).*\(4,\)"),
        (lambda p: p.update({"6.bias": np.zeros((1, 3), np.float32)}), r"6.bias .*\(1, 3\)"),
        (lambda p: p.update({"6.bias": np.zeros(3)}), "6.bias .*float32.*float64"),
    ],
)
def test_load_params_copies_nothing_unless_all_fit(change, message):
    net = small_network(np.random.default_rng(0))
    before = pickle.dumps(net.params)
    source = {name: parameter + 1 for name, parameter in net.params.items()}
    change(source)
    with pytest.raises(ValueError, match=message):
        net.load_params(source)
    assert pickle.dumps(net.params) == before


def test_astype_is_another_network_of_the_same_weights():
    net = small_network(np.random.default_rng(0))
    double = net.astype(np.float64)
    for (name, parameter), same in zip(net.params.items(), double.params.values(), strict=True):
        assert (parameter.dtype, same.dtype) == (np.float32, np.float64)
        np.testing.assert_array_equal(parameter, same)
        same += 1
        assert not np.any(parameter == same), name
    x = np.random.default_rng(1).standard_normal((2, 2, 9, 8))
    assert double(x).dtype == np.float64


def test_to_the_place_where_it_is():
    net = small_network(np.random.default_rng(0))
    for parameter, same in zip(net.params.values(), net.to("cpu").params.values(), strict=True):
        np.testing.assert_array_equal(parameter, same)


SHAPES = [((300, 200), 200, 300), ((64, 32, 5, 3), 32 * 15, 64 * 15)]


@pytest.mark.parametrize("shape, fan_in, fan_out", SHAPES)
def test_glorot_uniform(shape, fan_in, fan_out):
    w = glorot_uniform(shape, np.random.default_rng(0), np.float64)
    bound = math.sqrt(6 / (fan_in + fan_out))
    assert 0.999 * bound < np.abs(w).max() <= bound
    np.testing.assert_allclose(w.var(), 2 / (fan_in + fan_out), rtol=0.02)
    np.testing.assert_allclose(w.mean(), 0, atol=0.02 * bound)


@pytest.mark.parametrize("shape, fan_in, fan_out", SHAPES)
def test_he_normal(shape, fan_in, fan_out):
    w = he_normal(shape, np.random.default_rng(0), np.float64)
    deviation = math.sqrt(2 / fan_in)
    np.testing.assert_allclose(w.var(), deviation**2, rtol=0.02)
    np.testing.assert_allclose(w.mean(), 0, atol=0.02 * deviation)
    np.testing.assert_allclose(np.mean(np.abs(w) < deviation), 0.6827, atol=0.01)


@pytest.mark.parametrize("initializer", [glorot_uniform, he_normal])
def test_one_seed_gives_one_set_of_weights(initializer):
    first, again, other = (
        initializer((4, 3, 2, 2), np.random.default_rng(seed), np.float32) for seed in (0, 0, 1)
    )
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == other)


def test_lenet_is_the_one_of_the_course():
    net = lenet(np.random.default_rng(0))
    x = np.zeros((1, 1, 28, 28), np.float32)
    shapes = []
    for layer in net.layers:
        assert layer.output_shape(x.shape) == layer(x).shape
        x = layer(x)
        shapes.append(x.shape[1:])
    assert shapes == [
        *[(6, 28, 28), (6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 10, 10), (16, 5, 5)],
        *[(400,), (120,), (120,), (84,), (84,), (10,)],
    ]
    sizes = [
        layer.params["weight"].size + layer.params["bias"].size
        for layer in net.layers
        if layer.params
    ]
    assert sizes == [156, 2416, 48120, 10164, 850]
    assert sum(parameter.size for parameter in net.params.values()) == 61706
    assert net.multiply_adds((1, 1, 28, 28)) == 416520


def test_lenet_starts_with_glorot_weights_and_zero_biases():
    net, again, other = (lenet(np.random.default_rng(seed)) for seed in (0, 0, 1))
    for name, parameter in net.params.items():
        assert parameter.dtype == np.float32
        np.testing.assert_array_equal(parameter, again.params[name])
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            fans = (parameter.shape[0] + parameter.shape[1]) * math.prod(parameter.shape[2:])
            assert 0.95 < np.abs(parameter).max() / math.sqrt(6 / fans) <= 1
            assert not np.any(parameter == other.params[name])


def test_lenet_has_the_derivative_of_its_output():
    """For J the derivative of y by x and all parameters at once, and random dy and v,
    <dy, J v> = <J^T dy, v>: the left side by central differences, the right by backward."""
    rng = np.random.default_rng(0)
    net = lenet(rng).astype(np.float64)
    x = rng.standard_normal((3, 1, 28, 28))
    y, saved = net.forward(x)
    dy = rng.standard_normal(y.shape)
    dx, grads = net.backward(dy, saved)
    gradients = {"x": dx, **grads}
    arrays = {"x": x, **net.params}
    directions = {name: rng.standard_normal(array.shape) for name, array in arrays.items()}

    def along(step):
        for name, array in arrays.items():
            array += step * directions[name]
        return net(x)

    step = 1e-6  # so that the error of the difference itself, about 130 step**2, is below rounding
    size = network_size(lambda net: {"y": net(x)}, net)["y"] * np.sum(np.abs(dy)) / step
    difference = along(step) - along(-2 * step)
    left = np.sum(dy * difference) / (2 * step)
    right = sum(np.sum(gradients[name] * directions[name]) for name in arrays)
    assert_equal_but_for_rounding(left, right, size)


@pytest.mark.parametrize("layers", [[[Flatten(), ReLU()]], [Flatten, ReLU()]])
def test_what_is_no_layer_is_refused(layers):
    with pytest.raises(ValueError, match=r"expected layers, as in Sequential\(.* got"):
        Sequential(*layers)


def test_weights_cannot_become_integers():
    with pytest.raises(ValueError, match="expected dtype float32 or float64 .*int"):
        lenet().astype(int)


def test_a_seed_is_no_generator():
    with pytest.raises(ValueError, match=r"default_rng\(0\), got 0"):
        lenet(0)


def torch_twin(net):
    """The same network in PyTorch, in float64, from its repr."""
    torch = pytest.importorskip("torch")

    class Residual(torch.nn.Module):
        def __init__(self, body, shortcut=None):
            super().__init__()
            self.body, self.shortcut = body, shortcut

        def forward(self, x):
            return self.body(x) + (x if self.shortcut is None else self.shortcut(x))

    def pooling():
        return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

    names = vars(torch.nn) | {"Residual": Residual, "GlobalAvgPool2d": pooling}
    twin = eval(repr(net).replace("2D", "2d"), names).double()
    twin.load_state_dict({name: torch.tensor(array) for name, array in net.arrays.items()})
    return twin


@pytest.mark.parametrize("shape, classes", [((1, 28, 28), 10), ((3, 32, 32), 47)])
@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_that_of_pytorch(name, shape, classes):
    """Its state dict is loaded, and loss, gradients, running statistics and inference agree."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    net = MODELS[name].build(rng, input_shape=shape, classes=classes).astype(np.float64)
    twin = torch_twin(net)
    x, labels = rng.random((8, *shape)), rng.integers(0, classes, 8)
    logits, saved = net.forward(x)
    loss, dlogits = softmax_cross_entropy(logits, labels)
    dx, grads = net.backward(dlogits, saved)
    for state, array in net.updates(saved).items():
        net.state[state][...] = array
    x = torch.tensor(x, requires_grad=True)
    torch_loss = torch.nn.functional.cross_entropy(twin(x), torch.tensor(labels))
    torch_loss.backward()
    expected = {name: parameter.grad for name, parameter in twin.named_parameters()}
    tolerance = {"rtol": 1e-9, "atol": 1e-12}  # rounding of ten layers; entries are 1e-4 and more
    np.testing.assert_allclose(loss, torch_loss.item(), **tolerance)
    np.testing.assert_allclose(dx, x.grad.numpy(), **tolerance)
    assert grads.keys() == expected.keys()
    for parameter, grad in grads.items():
        np.testing.assert_allclose(grad, expected[parameter].numpy(), **tolerance)
    for state, tensor in twin.state_dict().items():
        np.testing.assert_allclose(net.arrays[state], tensor.numpy(), **tolerance)
    twin.eval()
    x = x.detach()
    np.testing.assert_allclose(net(x.numpy()), twin(x).detach().numpy(), **tolerance)


@pytest.mark.parametrize(
    "name, parameters",
    [("lenet-bn", 61728), ("lenet-wide", 313130), ("lenet-fast", 78714), ("resnet-mini", 222570)],
)
def test_the_size_of_a_network(name, parameters):
    net = MODELS[name].build(np.random.default_rng(0))
    assert sum(parameter.size for parameter in net.params.values()) == parameters
    assert net.output_shape(INPUT_SHAPE) == (1, 10)


def test_lenet_fits_colour_and_other_classes():
    """Sizes by hand: 32, 16 after pooling, 12 after the second convolution, 6."""
    net = lenet(np.random.default_rng(0), input_shape=(3, 32, 32), classes=47)
    shapes = [net.params[f"{i}.weight"].shape for i in (0, 3, 7, 9, 11)]
    assert shapes == [(6, 3, 5, 5), (16, 6, 5, 5), (120, 16 * 6 * 6), (84, 120), (47, 84)]


def test_relu_behind_maximum_pooling_gives_the_same():
    rng = np.random.default_rng(0)
    wide = MODELS["lenet-wide"].build(rng)
    layers = list(wide.layers)
    for i in (1, 4):
        layers[i : i + 2] = reversed(layers[i : i + 2])
    x = rng.random((3, *INPUT_SHAPE[1:]), np.float32)
    np.testing.assert_array_equal(Sequential(*layers)(x), wide(x))
