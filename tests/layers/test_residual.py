"""Residual blocks: two branches, whose outputs and whose gradients are added up."""

import numpy as np
import pytest

from minicnn import (
    SGD,
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    Dropout,
    Flatten,
    Linear,
    ReLU,
    Residual,
    Sequential,
    Tanh,
    check_gradients,
)


def linear(weight):
    layer = Linear(2, 2).astype(np.float64)
    layer.params["weight"][...] = weight
    return layer


W, V = np.array([[1.0, 2], [3, 4]]), np.array([[0.0, 5], [6, 0]])
X, DY = np.array([[1.0, -1], [2, 3]]), np.array([[1.0, 0], [2, -1]])


def test_x_itself_as_the_shortcut_by_hand():
    """y = W x + x and dx = W^T dy + dy, for two images."""
    block = Residual(linear(W))
    y, saved = block.forward(X)
    dx, grads = block.backward(DY, saved)
    np.testing.assert_array_equal(y, [[-1 + 1, -1 - 1], [8 + 2, 18 + 3]])
    np.testing.assert_array_equal(dx, [[1 + 1, 2 + 0], [-1 + 2, 0 - 1]])
    assert grads.keys() == {"body.weight", "body.bias"}
    np.testing.assert_array_equal(grads["body.weight"], [[1 + 4, -1 + 6], [-2, -3]])
    np.testing.assert_array_equal(grads["body.bias"], [3, -1])
    np.testing.assert_array_equal(block(X), y)


def test_a_layer_as_the_shortcut_by_hand():
    """y = W x + V x and dx = W^T dy + V^T dy."""
    block = Residual(linear(W), linear(V))
    y, saved = block.forward(X)
    dx, grads = block.backward(DY, saved)
    np.testing.assert_array_equal(y, [[-1 - 5, -1 + 6], [8 + 15, 18 + 12]])
    np.testing.assert_array_equal(dx, [[1 + 0, 2 + 5], [-1 - 6, 0 + 10]])
    for name in "weight", "bias":  # both get x and all of dy
        np.testing.assert_array_equal(grads[f"body.{name}"], grads[f"shortcut.{name}"])
    np.testing.assert_array_equal(grads["body.weight"], [[1 + 4, -1 + 6], [-2, -3]])
    np.testing.assert_array_equal(block(X), y)


def test_one_layer_as_body_and_shortcut():
    layer = linear(W)
    block = Residual(layer, layer)
    y, saved = block.forward(X)
    dx, grads = block.backward(DY, saved)
    np.testing.assert_array_equal(y, 2 * layer(X))
    np.testing.assert_array_equal(dx, 2 * DY @ W)
    assert list(block.params) == list(grads) == ["body.weight", "body.bias"]
    np.testing.assert_array_equal(grads["body.weight"], 2 * DY.T @ X)
    np.testing.assert_array_equal(grads["body.bias"], 2 * DY.sum(axis=0))


def rng():
    return np.random.default_rng(0)


def convolution(in_channels=2, out_channels=2, kernel_size=3, bias=False, **options):
    return Conv2D(in_channels, out_channels, kernel_size, bias=bias, rng=rng(), **options)


def dropout():
    return Dropout(0.3, rng=rng())


def basic_block():
    body = Sequential(convolution(padding=1), BatchNorm2D(2), Tanh(), convolution(padding=1))
    return Residual(body)


def narrowing():
    body = Sequential(
        convolution(2, 4, padding=1, stride=2), BatchNorm2D(4), Dropout(0.3, rng=rng())
    )
    return Residual(body, Sequential(AvgPool2D(2), convolution(2, 4, 1)))


def nested():
    return Residual(Sequential(Residual(convolution(padding=1)), Tanh()), convolution(2, 2, 1))


def shared():
    """One convolution in the body twice and in the shortcut."""
    layer = convolution(padding=1, bias=True)
    return Residual(Sequential(layer, Tanh(), layer), Sequential(Tanh(), layer))


def tied():
    """Two convolutions that share an array, but not their biases."""
    block = Residual(convolution(padding=1, bias=True), convolution(padding=1, bias=True))
    block.parts["shortcut"].params["weight"] = block.parts["body"].params["weight"]
    return block


NAMES = {
    basic_block: ["body.0.weight", "body.1.weight", "body.1.bias", "body.3.weight"],
    narrowing: ["body.0.weight", "body.1.weight", "body.1.bias", "shortcut.1.weight"],
    nested: ["body.0.body.weight", "shortcut.weight"],
    shared: ["body.0.weight", "body.0.bias"],
    tied: ["body.weight", "body.bias", "shortcut.bias"],
}


@pytest.mark.parametrize("build", NAMES)
def test_backward_is_the_derivative_of_forward(build):
    """Alone, and in a network, where dx is passed to the layer before it."""
    x = rng().standard_normal((4, 2, 4, 6))
    for net in build(), Sequential(convolution(padding=1), build(), Flatten()):
        report = check_gradients(net, x)
        assert report.ok, report
    assert list(build().params) == NAMES[build]


@pytest.mark.parametrize("build", NAMES)
def test_branches_get_the_same_x_and_the_same_dy(build):
    """The sum of what each gives by itself, and nothing that is passed in is changed."""
    block = build().astype(np.float64).at((1,))
    x = rng().standard_normal((4, 2, 4, 6))
    body, shortcut = block.parts["body"], block.parts.get("shortcut")
    y_body, saved_body = body.forward(x)
    y_shortcut, saved_shortcut = (x, None) if shortcut is None else shortcut.forward(x)
    dy = rng().standard_normal(y_body.shape)
    x.flags.writeable = dy.flags.writeable = False
    y, saved = block.forward(x)
    dx, grads = block.backward(dy, saved)
    np.testing.assert_array_equal(y, y_body + y_shortcut)
    dx_body, _ = body.backward(dy, saved_body)
    dx_shortcut = dy if shortcut is None else shortcut.backward(dy, saved_shortcut)[0]
    np.testing.assert_array_equal(dx, dx_body + dx_shortcut)
    none, without_dx = block.backward(dy, saved, need_dx=False)
    assert none is None and list(without_dx) == list(grads) and set(grads) == set(block.params)
    for name, grad in grads.items():
        np.testing.assert_array_equal(without_dx[name], grad)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_are_kept(dtype):
    block, x = narrowing(), np.ones((3, 2, 4, 4), dtype)
    y, saved = block.forward(x)
    dx, grads = block.backward(y, saved)
    assert {a.dtype for a in (y, dx, block(x), *grads.values())} == {np.dtype(dtype)}


def test_the_repr_makes_the_block_again():
    block = Residual(Sequential(Conv2D(2, 2, 3, padding=1), ReLU()), Conv2D(2, 2, 1))
    assert repr(block) == (
        "Residual(\n"
        "  body=Sequential(\n"
        "    Conv2D(2, 2, 3, padding=1),\n"
        "    ReLU(),\n"
        "  ),\n"
        "  shortcut=Conv2D(2, 2, 1),\n"
        ")"
    )
    assert repr(Residual(Tanh())) == "Residual(\n  body=Tanh(),\n)"
    for net in block, Residual(Tanh()), Sequential(narrowing(), Flatten()):
        assert repr(eval(repr(net))) == repr(net)


def test_shapes_and_multiply_adds():
    block = narrowing()
    assert block.output_shape((3, 2, 6, 8)) == (3, 4, 3, 4)
    # 3x3 convolution from 2 to 4 channels and a 1x1 one, each to 3 x 4 pixels of 3 images
    assert block.multiply_adds((3, 2, 6, 8)) == 3 * 12 * (4 * 2 * 9 + 4 * 2)
    assert Residual(ReLU()).output_shape((3, 5)) == (3, 5)
    wrong = Residual(convolution(2, 4, padding=1, stride=2))
    sentence = (
        r"^the body turns x \(3, 2, 6, 8\) into \(3, 4, 3, 4\) but the shortcut gives "
        r"\(3, 2, 6, 8\): give the shortcut a layer that makes this shape, such as Conv2D\(.*\)$"
    )
    x = np.ones((3, 2, 6, 8), np.float32)
    for call in wrong, wrong.forward, lambda x: wrong.output_shape(x.shape):
        with pytest.raises(ValueError, match=sentence):
            call(x)
    narrow = Residual(convolution(2, 2, padding=1), convolution(2, 1, 1))  # NumPy would broadcast
    with pytest.raises(ValueError, match=r"into \(3, 2, 6, 8\) but the shortcut gives \(3, 1, 6"):
        narrow.forward(x)
    with pytest.raises(ValueError, match="layer 1: the body turns"):
        Sequential(ReLU(), wrong).output_shape(x.shape)


@pytest.mark.parametrize("wrong", [None, ReLU, "relu", [ReLU()], np.ones(2)])
def test_what_is_no_layer(wrong):
    with pytest.raises(ValueError, match="^body must be a layer, such as Sequential.*, got "):
        Residual(wrong)
    if wrong is not None:
        with pytest.raises(ValueError, match="^shortcut must be a layer, such as S.*, got "):
            Residual(ReLU(), wrong)


def test_random_branches_have_masks_of_their_own():
    block = Residual(Sequential(Dropout(rng=rng())), Dropout(rng=rng()))
    other = block.at((1, 2))
    x = np.ones((40, 50), np.float32)
    y, ((body,), shortcut) = other.forward(x)
    np.testing.assert_array_equal(y, 2 * (body.astype(np.float32) + shortcut))
    assert abs((body == shortcut).mean() - 0.5) < 0.1
    plain = basic_block()
    assert plain.at((1,)) is plain and plain.mixes_images and not nested().mixes_images
    keyed = narrowing()
    other = keyed.at((1,))
    assert all(other.arrays[name] is array for name, array in keyed.arrays.items())
    assert other is not keyed and other.parts["shortcut"] is keyed.parts["shortcut"]


def without_dropout():
    body = Sequential(convolution(2, 4, padding=1, stride=2), BatchNorm2D(4), Tanh())
    return Residual(body, Sequential(AvgPool2D(2), convolution(2, 4, 1), BatchNorm2D(4)))


def deep():
    return Sequential(convolution(padding=1), nested(), without_dropout())


def in_torch(torch):
    """The blocks that have no dropout, with attributes of the same names."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, body, shortcut=None):
            super().__init__()
            self.body = body
            if shortcut is not None:
                self.shortcut = shortcut

        def forward(self, x):
            return self.body(x) + (self.shortcut(x) if hasattr(self, "shortcut") else x)

    def conv(*sizes, bias=False, **options):
        return nn.Conv2d(*sizes, bias=bias, **options)

    def nested():
        return Block(nn.Sequential(Block(conv(2, 2, 3, padding=1)), nn.Tanh()), conv(2, 2, 1))

    def without_dropout():
        body = nn.Sequential(conv(2, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), nn.Tanh())
        shortcut = nn.Sequential(nn.AvgPool2d(2), conv(2, 4, 1), nn.BatchNorm2d(4))
        return Block(body, shortcut)

    first, last = (conv(2, 2, 3, padding=1) for _ in range(2))
    twice = conv(2, 2, 3, padding=1, bias=True)
    return {
        "basic_block": Block(nn.Sequential(first, nn.BatchNorm2d(2), nn.Tanh(), last)),
        "nested": nested(),
        "shared": Block(nn.Sequential(twice, nn.Tanh(), twice), nn.Sequential(nn.Tanh(), twice)),
        "without_dropout": without_dropout(),
        "deep": nn.Sequential(conv(2, 2, 3, padding=1), nested(), without_dropout()),
    }


@pytest.mark.parametrize("build", [basic_block, nested, shared, without_dropout, deep])
def test_names_outputs_and_gradients_are_those_of_pytorch(build):
    torch = pytest.importorskip("torch")
    net = build().astype(np.float64)
    same = in_torch(torch)[build.__name__].double()
    names = [name for name, _ in (*same.named_parameters(), *same.named_buffers())]
    assert list(net.arrays) == names  # also of what is shared, which is listed once
    tensors = {name: torch.tensor(array) for name, array in net.arrays.items()}
    assert not same.load_state_dict(tensors, strict=build is not shared).unexpected_keys
    x = rng().standard_normal((4, 2, 4, 6))
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = same(x_torch)
    dy = rng().standard_normal(y_torch.shape)
    y_torch.backward(torch.tensor(dy))
    y, saved = net.forward(x)
    dx, grads = net.backward(dy, saved)
    np.testing.assert_allclose(y, y_torch.detach().numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(dx, x_torch.grad.numpy(), rtol=0, atol=1e-11)
    for name, parameter in same.named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad.numpy(), rtol=0, atol=1e-11)
    new = net.updates(saved)
    for name, buffer in same.named_buffers():
        np.testing.assert_allclose(new[name], buffer.numpy(), rtol=1e-12, atol=1e-15)
        net.state[name][...] = new[name]
    with torch.no_grad():
        np.testing.assert_allclose(net(x), same.eval()(x_torch).numpy(), rtol=0, atol=1e-12)


def test_it_learns():
    """Fifty steps of a block, down a quadratic bowl, with the gradient that it gives."""
    block, target = Residual(linear(W)), rng().standard_normal((2, 2))
    losses = []
    for _ in range(50):
        y, saved = block.forward(X)
        losses.append(((y - target) ** 2).sum())
        SGD(0.02).step(block.params, block.backward(2 * (y - target), saved)[1])
    assert losses[-1] < 0.05 * losses[0] and losses == sorted(losses, reverse=True)
