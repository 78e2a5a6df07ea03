"""Exported networks compute what ours do: in onnxruntime, and in PyTorch by the printed lines."""

import json

import numpy as np
import pytest
import safetensors.numpy

from minicnn import (
    GELU,
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
    lenet,
)
from minicnn.datasets import Preparation
from minicnn.runs import Origin
from minicnn.use.onnx_export import to_onnx
from minicnn.use.torch_export import to_torch

SHAPE = 2, 14, 13
TIMES = Conv2D(3, 3, 3, padding="same")
LAYERS = {
    "lenet": lenet(input_shape=SHAPE, classes=5),
    "conv": Conv2D(2, 4, (3, 2), (2, 3), (2, 1), (2, 1), groups=2),
    "conv without bias": Conv2D(2, 3, 5, bias=False),
    "conv, same": Conv2D(2, 3, 4, padding="same", dilation=(1, 2)),
    "conv, four sides": Conv2D(2, 3, 3, 2, (0, 3, 2, 1)),
    "transposed": ConvTranspose2D(2, 4, (3, 2), (3, 2), (1, 0), (2, 1), groups=2, bias=False),
    "transposed, four sides": ConvTranspose2D(2, 3, 4, 2, (0, 1, 3, 2), 1, dilation=2),
    "max": MaxPool2D(3, 2, 1),
    "max, ceil": MaxPool2D(2, 2, ceil_mode=True),
    "max, padded, ceil": MaxPool2D((3, 4), (3, 2), (1, 2), ceil_mode=True),
    "max, four sides, ceil": MaxPool2D(3, (4, 2), (0, 2, 1, 2), ceil_mode=True),
    "max, dilated": MaxPool2D(2, 1, 2, dilation=3),
    "max, same": MaxPool2D(4, 1, "same"),
    "average": AvgPool2D(2),
    "average, padded": AvgPool2D((3, 2), 2, 1),
    "average, inside": AvgPool2D((3, 2), 2, 1, count_include_pad=False),
    "average, ceil": AvgPool2D(4, 3, 2, ceil_mode=True),
    "average, ceil, inside": AvgPool2D(4, 3, 2, ceil_mode=True, count_include_pad=False),
    "average, four sides": AvgPool2D(3, 2, (0, 2, 1, 2)),
    "global": Sequential(GlobalAvgPool2D(), Linear(2, 3, bias=False)),
    "normal": BatchNorm2D(2, eps=0.01),
    "normal, plain": BatchNorm2D(2, affine=False),
    "activations": Sequential(ReLU(), GELU(), Sequential(), LeakyReLU(0.2), Sigmoid(), Tanh()),
    "residual": Sequential(
        Dropout(0.5), Conv2D(2, 3, 1), Residual(Sequential(TIMES, GELU(), TIMES), Conv2D(3, 3, 1))
    ),
    "residual, plain": Residual(Sequential(BatchNorm2D(2), ReLU())),
}
NOT_IN_TORCH = {
    "average, dilated": AvgPool2D(2, 1, dilation=3),
    "average, four sides, inside": AvgPool2D(3, 2, (0, 2, 1, 2), count_include_pad=False),
    "average, four sides, ceil": AvgPool2D(3, 4, (2, 0, 1, 2), ceil_mode=True),
}


class Own(Layer):
    def output_shape(self, x_shape):
        return x_shape


def network(layer):
    """The layer and a Linear for what it gives, with numbers in all parameters; (net, origin)."""
    rng = np.random.default_rng(5)
    size = int(np.prod(layer.output_shape((1, *SHAPE))))
    net = Sequential(layer, Flatten(), Linear(size, 5)) if size != 5 else layer
    for name, array in net.arrays.items():
        array[...] = (
            rng.uniform(0.5, 1.5, array.shape)
            if "var" in name
            else rng.normal(size=array.shape) / 4
        )
    origin = Origin("x", "y", ("a", '"b"', "é", "d", "\udce9"), input_shape=SHAPE)
    return net, origin


def inputs():
    return np.random.default_rng(6).standard_normal((3, *SHAPE)).astype(np.float32)


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("name", [*LAYERS, *NOT_IN_TORCH])
def test_onnx_computes_the_same(name):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    net, origin = network((LAYERS | NOT_IN_TORCH)[name])
    session = onnxruntime.InferenceSession(to_onnx(net, origin).SerializeToString())
    assert [value.name for value in session.get_inputs()] == ["images"]
    logits, probabilities = session.run(["logits", "probabilities"], {"images": inputs()})
    expected = net(inputs())
    assert_same(logits, expected)
    shares = np.exp(expected.astype(float))
    assert_same(probabilities, shares / shares.sum(axis=1, keepdims=True))


def test_onnx_tells_what_a_reader_needs():
    pytest.importorskip("onnx")
    net, origin = network(LAYERS["conv"])
    model = to_onnx(net, origin)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(kept["classes"]) == list(origin.classes)
    wanted = json.loads(kept["preparation"])
    assert Preparation(**wanted) == origin.preparation
    assert {tensor.name for tensor in model.graph.initializer} == {
        "0.weight", "0.bias", "2.weight", "2.bias",
    }  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_the_printed_lines_build_it_in_pytorch(name, tmp_path):
    torch = pytest.importorskip("torch")
    net, origin = network(LAYERS[name])
    file = str(tmp_path / "x.safetensors")
    lines, arrays = to_torch(net, origin, file)
    safetensors.numpy.save_file(arrays, file)
    made = {}
    exec(lines, made)
    with torch.no_grad():
        found = made["net"](torch.from_numpy(inputs())).numpy()
    assert_same(found, net(inputs()))
    assert made["classes"] == list(origin.classes)


@pytest.mark.parametrize("name", NOT_IN_TORCH)
def test_what_pytorch_has_no_layer_for_is_refused(name):
    with pytest.raises(ValueError, match=r"^PyTorch has no layer that computes AvgPool2D\(.*onnx$"):
        to_torch(*network(NOT_IN_TORCH[name]), "x")


def test_own_layers_are_refused():
    origin = Origin("x", "y", ("a", "b"), input_shape=(2, 1, 1))
    net = Sequential(Own(), Flatten())
    with pytest.raises(ValueError, match="^Own is not a layer of minicnn, .*module"):
        to_torch(net, origin, "x")
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match="^Own is not a layer of minicnn, .*operator"):
        to_onnx(net, origin)
