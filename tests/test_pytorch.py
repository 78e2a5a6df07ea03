"""The same operations in PyTorch, in float64: equal outputs and equal gradients."""

import numpy as np
import pytest

from minicnn import (
    SGD,
    AvgPool2D,
    Conv2D,
    Linear,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Tanh,
    lenet,
    lenet_relu,
    softmax_cross_entropy,
    squared_error,
)

torch = pytest.importorskip("torch")
F = torch.nn.functional

CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def tensor(array, requires_grad=True):
    return torch.tensor(np.ascontiguousarray(array), requires_grad=requires_grad)


def assert_same_as(function, layer, x, rng):
    """y, dx and the gradients of the parameters are those of PyTorch's function(x, **params)."""
    for name, parameter in layer.params.items():
        layer.params[name] = rng.standard_normal(parameter.shape)
    x_torch = tensor(x)
    params = {name: tensor(parameter) for name, parameter in layer.params.items()}
    y_torch = function(x_torch, **params)
    dy = rng.standard_normal(tuple(y_torch.shape))
    y_torch.backward(tensor(dy, requires_grad=False))

    y, saved = layer.forward(x)
    dx, grads = layer.backward(dy, saved)
    np.testing.assert_allclose(y, y_torch.detach(), **CLOSE)
    np.testing.assert_allclose(dx, x_torch.grad, **CLOSE)
    for name, parameter in params.items():
        np.testing.assert_allclose(grads[name], parameter.grad, err_msg=name, **CLOSE)


def pair(rng, low, high):
    """A pair of ints in [low, high)."""
    return tuple(int(i) for i in rng.integers(low, high, 2))


@pytest.mark.parametrize("seed", range(40))
def test_random_convolutions(seed):
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 4))
    in_channels, out_channels = (groups * i for i in pair(rng, 1, 4))
    kernel_size = pair(rng, 1, 5)
    geometry = {
        "stride": pair(rng, 1, 4),
        "padding": pair(rng, 0, 4),
        "dilation": pair(rng, 1, 4),
        "groups": groups,
    }
    spans = [d * (k - 1) + 1 for d, k in zip(geometry["dilation"], kernel_size)]
    smallest = [max(1, span - 2 * p) for span, p in zip(spans, geometry["padding"])]
    height, width = np.add(smallest, rng.integers(0, 6, 2))
    images = 40 if seed % 8 == 0 else 1 + seed % 3
    x = rng.standard_normal((images, in_channels, height, width))
    layer = Conv2D(in_channels, out_channels, kernel_size, bias=bool(seed % 5), **geometry)
    print(f"seed {seed}: {layer} of x {x.shape}")
    assert_same_as(lambda x, **params: F.conv2d(x, **params, **geometry), layer, x, rng)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_random_pooling(seed, ties):
    rng = np.random.default_rng(seed)
    kernel_size, stride = pair(rng, 1, 5), pair(rng, 1, 5)
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel_size)
    geometry = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    smallest = [max(1, k - 2 * p) for k, p in zip(kernel_size, padding)]
    height, width = np.add(smallest, rng.integers(0, 6, 2))
    x = rng.standard_normal((*pair(rng, 1, 4), height, width))
    x = np.round(x) if ties else x
    print(f"seed {seed}: {geometry} of x {x.shape}")
    assert_same_as(lambda x: F.max_pool2d(x, **geometry), MaxPool2D(**geometry), x, rng)
    for count_include_pad in True, False:
        options = geometry | {"count_include_pad": count_include_pad}
        assert_same_as(lambda x: F.avg_pool2d(x, **options), AvgPool2D(**options), x, rng)


@pytest.mark.parametrize(
    "function, layer",
    [
        (F.linear, Linear(4, 3)),
        (F.linear, Linear(4, 3, bias=False)),
        (torch.sigmoid, Sigmoid()),
        (torch.tanh, Tanh()),
        (torch.relu, ReLU()),
    ],
)
def test_linear_and_activations(function, layer):
    rng = np.random.default_rng(0)
    assert_same_as(function, layer, rng.standard_normal((5, 4)), rng)


@pytest.mark.parametrize("scale", [1, 100])
def test_softmax_cross_entropy(scale):
    rng = np.random.default_rng(0)
    logits, labels = scale * rng.standard_normal((6, 5)), rng.integers(0, 5, 6)
    logits_torch = tensor(logits)
    loss_torch = F.cross_entropy(logits_torch, torch.tensor(labels))
    loss_torch.backward()
    loss, dlogits = softmax_cross_entropy(logits, labels)
    np.testing.assert_allclose(loss, loss_torch.item(), **CLOSE)
    np.testing.assert_allclose(dlogits, logits_torch.grad, **CLOSE)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_squared_error(reduction):
    rng = np.random.default_rng(0)
    prediction, target = rng.standard_normal((2, 4, 3))
    prediction_torch = tensor(prediction)
    loss_torch = F.mse_loss(prediction_torch, torch.tensor(target), reduction=reduction)
    loss_torch.backward()
    loss, dprediction = squared_error(prediction, target, reduction=reduction)
    np.testing.assert_allclose(loss, loss_torch.item(), **CLOSE)
    np.testing.assert_allclose(dprediction, prediction_torch.grad, **CLOSE)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd(momentum, nesterov, weight_decay):
    rng = np.random.default_rng(0)
    params = {"0.weight": rng.standard_normal((3, 4)), "0.bias": rng.standard_normal(3)}
    params_torch = {name: tensor(parameter) for name, parameter in params.items()}
    options = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    optimizer = SGD(lr=0.3, **options)
    optimizer_torch = torch.optim.SGD(params_torch.values(), lr=0.3, **options)
    for _ in range(5):
        grads = {name: rng.standard_normal(p.shape) for name, p in params.items()}
        for name, parameter in params_torch.items():
            parameter.grad = tensor(grads[name], requires_grad=False)
        optimizer.step(params, grads)
        optimizer_torch.step()
        for name, parameter in params.items():
            np.testing.assert_allclose(parameter, params_torch[name].detach(), **CLOSE)


@pytest.mark.parametrize(
    "build, activation, pooling",
    [
        (lenet, torch.nn.Sigmoid, torch.nn.AvgPool2d),
        (lenet_relu, torch.nn.ReLU, torch.nn.MaxPool2d),
    ],
)
def test_lenet(build, activation, pooling):
    nn = torch.nn
    net_torch = nn.Sequential(
        *[nn.Conv2d(1, 6, 5, padding=2), activation(), pooling(2)],
        *[nn.Conv2d(6, 16, 5), activation(), pooling(2)],
        nn.Flatten(),
        *[nn.Linear(400, 120), activation()],
        *[nn.Linear(120, 84), activation()],
        nn.Linear(84, 10),
    ).double()
    rng = np.random.default_rng(0)
    net = build(rng).astype(np.float64)
    for parameter in net.params.values():
        parameter += 0.1 * rng.standard_normal(parameter.shape)
    assert list(net.params) == list(net_torch.state_dict())
    net_torch.load_state_dict({name: tensor(p, False) for name, p in net.params.items()})

    x, labels = rng.standard_normal((4, 1, 28, 28)), rng.integers(0, 10, 4)
    x_torch = tensor(x)
    loss_torch = F.cross_entropy(net_torch(x_torch), torch.tensor(labels))
    loss_torch.backward()

    logits, saved = net.forward(x)
    loss, dlogits = softmax_cross_entropy(logits, labels)
    dx, grads = net.backward(dlogits, saved)
    np.testing.assert_allclose(loss, loss_torch.item(), **CLOSE)
    np.testing.assert_allclose(dx, x_torch.grad, **CLOSE)
    for name, parameter in net_torch.named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad, err_msg=name, **CLOSE)
