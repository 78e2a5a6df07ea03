"""The same operations in PyTorch, in float64: equal outputs and equal gradients."""

from functools import partial

import numpy as np
import pytest
from rounding import (
    assert_equal_but_for_rounding,
    batch_norm_sizes,
    cross_entropy_sizes,
    network_size,
    sizes,
)

from minicnn import (
    SGD,
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    Dropout,
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


def tensor(array, requires_grad=True):
    return torch.tensor(np.ascontiguousarray(array), requires_grad=requires_grad)


def assert_same_as(function, layer, x, rng):
    """y, dx and the gradients of the parameters are those of PyTorch's function(x, **params)."""
    for name, parameter in layer.params.items():
        layer.params[name] = rng.standard_normal(parameter.shape)

    def in_torch(x, dy, params):
        x, params = tensor(x), {name: tensor(parameter) for name, parameter in params.items()}
        y = function(x, **params)
        y.backward(tensor(dy, requires_grad=False))
        gradients = {name: array.grad.numpy() for name, array in {"x": x, **params}.items()}
        return {"y": y.detach().numpy(), **gradients}

    y, saved = layer.forward(x)
    dy = rng.standard_normal(y.shape)
    dx, grads = layer.backward(dy, saved)
    wanted = in_torch(x, dy, layer.params)
    size = sizes(layer, in_torch, x, dy, layer.params)
    for name, result in {"y": y, "x": dx, **grads}.items():
        assert_equal_but_for_rounding(result, wanted[name], size[name], name)


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
        assert_same_as(partial(F.avg_pool2d, **options), AvgPool2D(**options), x, rng)


@pytest.mark.parametrize("seed", range(100))
def test_random_batch_norms(seed):
    """Two steps in training, and then inference."""
    rng = np.random.default_rng(seed)
    n, c, h, w = (int(size) for size in rng.integers(1, 6, 4))
    n += n * h * w == 1  # of which there is no variance
    eps, momentum = (float(number) for number in rng.uniform(0, 1, 2))
    options = {"eps": eps**10 + 1e-8, "momentum": momentum, "affine": bool(seed % 4)}
    layer, same = BatchNorm2D(c, **options), torch.nn.BatchNorm2d(c, **options).double()
    layer = layer.astype(np.float64)
    print(f"seed {seed}: {layer} of x {(n, c, h, w)}")
    for parameter in layer.params.values():
        parameter[...] = rng.standard_normal(c)
    same.load_state_dict({name: tensor(array, False) for name, array in layer.arrays.items()})
    running_size = {"running_mean": 0, "running_var": 1}
    for _ in range(2):
        x, dy = rng.standard_normal((2, n, c, h, w))
        x = x * rng.uniform(0.1, 10, (c, 1, 1)) + rng.uniform(-10, 10, (c, 1, 1))
        x_torch = tensor(x)
        y_torch = same(x_torch)
        same.zero_grad()
        y_torch.backward(tensor(dy, False))
        y, saved = layer.forward(x)
        dx, grads = layer.backward(dy, saved)
        wanted = {name: parameter.grad.numpy() for name, parameter in same.named_parameters()}
        assert list(grads) == list(wanted)
        wanted |= {"y": y_torch.detach().numpy(), "x": x_torch.grad.numpy()}
        weight, bias = (layer.params.get(name, np.ones(c)) for name in ("weight", "bias"))
        size = batch_norm_sizes(x, dy, weight, bias, layer.eps)
        for name, result in {"y": y, "x": dx, **grads}.items():
            assert_equal_but_for_rounding(result, wanted[name], size[name], name)
        new, buffers = layer.updates(saved), dict(same.named_buffers())
        assert list(buffers) == list(layer.state) and new.keys() == buffers.keys()
        running_size["running_mean"] += np.abs(x).mean((0, 2, 3))
        running_size["running_var"] += 2 * (x**2).mean((0, 2, 3)) * (n * h * w) / (n * h * w - 1)
        for name, array in new.items():
            if name in running_size:
                wanted = buffers[name].numpy()
                assert_equal_but_for_rounding(array, wanted, running_size[name], name)
            else:
                assert array == buffers[name].item()
            layer.state[name][...] = array
    scale = np.abs(weight) / np.sqrt(layer.state["running_var"] + layer.eps)
    size = (np.abs(x) + np.abs(layer.state["running_mean"])[:, None, None]) * scale[:, None, None]
    wanted = same.eval()(tensor(x, False)).detach().numpy()
    assert_equal_but_for_rounding(layer(x), wanted, size + np.abs(bias)[:, None, None])


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
def test_dropout_scales_as_pytorch_does(p):
    """The masks differ, but what is kept does not."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 100, 100))
    layer, x_torch = Dropout(p, rng=rng), tensor(x)
    y, saved = layer.forward(x)
    dx, _ = layer.backward(dy, saved)
    torch.manual_seed(0)
    y_torch = F.dropout(x_torch, p)
    y_torch.backward(tensor(dy, False))
    both = (y != 0) & (y_torch.detach().numpy() != 0)
    assert both.mean() == pytest.approx((1 - p) ** 2, rel=0.3)
    np.testing.assert_allclose(y[both], y_torch.detach().numpy()[both], rtol=1e-15)
    np.testing.assert_allclose(dx[both], x_torch.grad.numpy()[both], rtol=1e-15)


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
    loss_size, dlogits_size = cross_entropy_sizes(logits, labels)
    assert_equal_but_for_rounding(loss, loss_torch.item(), loss_size)
    assert_equal_but_for_rounding(dlogits, logits_torch.grad.numpy(), dlogits_size)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_squared_error(reduction):
    rng = np.random.default_rng(0)
    prediction, target = rng.standard_normal((2, 4, 3))
    prediction_torch = tensor(prediction)
    loss_torch = F.mse_loss(prediction_torch, torch.tensor(target), reduction=reduction)
    loss_torch.backward()
    found = squared_error(prediction, target, reduction=reduction)
    for result, wanted in zip(found, (loss_torch.item(), prediction_torch.grad.numpy())):
        assert_equal_but_for_rounding(result, wanted, np.abs(wanted))  # of squares, and of no sum


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd(momentum, nesterov, weight_decay):
    rng = np.random.default_rng(0)
    params = {"0.weight": rng.standard_normal((3, 4)), "0.bias": rng.standard_normal(3)}
    params_torch = {name: tensor(parameter) for name, parameter in params.items()}
    size = {name: np.abs(parameter) for name, parameter in params.items()}
    options = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    optimizer = SGD(lr=0.3, **options)
    optimizer_torch = torch.optim.SGD(params_torch.values(), lr=0.3, **options)
    for _ in range(5):
        grads = {name: rng.standard_normal(p.shape) for name, p in params.items()}
        for name, parameter in params_torch.items():
            parameter.grad = tensor(grads[name], requires_grad=False)
        before = {name: p.detach().numpy().copy() for name, p in params_torch.items()}
        optimizer.step(params, grads)
        optimizer_torch.step()
        for name, parameter in params.items():
            wanted = params_torch[name].detach().numpy()
            size[name] += np.abs(wanted - before[name])  # the start, and all that was added
            assert_equal_but_for_rounding(parameter, wanted, size[name], name)


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
    wanted = {name: parameter.grad.numpy() for name, parameter in net_torch.named_parameters()}
    wanted |= {"loss": loss_torch.item(), "x": x_torch.grad.numpy()}

    def results(net):
        logits, saved = net.forward(x)
        loss, dlogits = softmax_cross_entropy(logits, labels)
        dx, grads = net.backward(dlogits, saved)
        return {"loss": loss, "x": dx, **grads}

    size = network_size(results, net)
    for name, result in results(net).items():
        assert_equal_but_for_rounding(result, wanted[name], size[name], name)
