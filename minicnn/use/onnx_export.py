"""A network as an ONNX model, which other programs run.

Each layer becomes the operator that computes its inference. The size of the images is that of the
run, so that all padding stands there in numbers; how many images there are is left open. Pooling
pads with an operator of its own, since programs differ in what their pooling does with padding.
"""

import dataclasses
import json
import math
from typing import Any

import numpy as np

from minicnn.arguments import Shape
from minicnn.backend import Array
from minicnn.layers import (
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
)
from minicnn.layers.composite import Composite
from minicnn.runs.settings import Origin
from minicnn.windows import Window

OPSET = 20  # the first with Gelu
IR_VERSION = 9
ELEMENTWISE = {ReLU: "Relu", Sigmoid: "Sigmoid", Tanh: "Tanh", GELU: "Gelu"}
INPUT, LOGITS, PROBABILITIES = "images", "logits", "probabilities"


def to_onnx(net: Layer, origin: Origin) -> Any:
    """The network in float32 as an `onnx.ModelProto`, checked by onnx.

    Its input is `images`, (N, C, H, W) with pixels from 0 to 1; its outputs are `logits` and
    `probabilities`, their softmax, both (N, K). The metadata have the classes and the preparation
    of a picture, as JSON. Raises ValueError without the package onnx, and for a layer that is not
    of minicnn.
    """
    try:
        import onnx
    except ImportError:
        raise ValueError("this needs the package onnx: pip install onnx") from None
    helper = onnx.helper
    graph = _Graph(net.astype(np.float32))
    last, shape = graph.add(graph.net, INPUT, (1, *origin.input_shape))
    graph.node("Identity", [last], output=LOGITS)
    graph.node("Softmax", [LOGITS], output=PROBABILITIES, axis=1)
    image = helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, ["N", *origin.input_shape])
    outputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *shape[1:]])
        for name in (LOGITS, PROBABILITIES)
    ]
    constants = [onnx.numpy_helper.from_array(a, name) for name, a in graph.constants.items()]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "minicnn", [image], outputs, constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="minicnn",
    )
    metadata = {
        "classes": json.dumps(origin.classes),
        "preparation": json.dumps(dataclasses.asdict(origin.preparation)),
        "input": "float32 (N, C, H, W), bytes divided by 255",
        "output": "logits, and probabilities, which are their softmax",
    }
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """The nodes and constants of a network, as they are added."""

    def __init__(self, net: Layer) -> None:
        self.net = net
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}
        self.names = {id(array): name for name, array in {**net.params, **net.state}.items()}

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """The name of the output of a new node."""
        from onnx import helper

        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, array: Array) -> str:
        """The name of a constant; parameters keep theirs, also where they are used twice."""
        name = self.names.get(id(array), f"constant_{len(self.constants)}")
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def add(self, layer: Layer, x: str, shape: Shape) -> tuple[str, Shape]:
        """(name, shape) of the layer's output."""
        kind, y_shape = type(layer), layer.output_shape(shape)
        if isinstance(layer, Composite) and kind is Sequential:
            for part in layer.parts.values():
                x, shape = self.add(part, x, shape)
            return x, shape
        if isinstance(layer, Composite) and kind is Residual:
            branches = [self.add(part, x, shape)[0] for part in layer.parts.values()]
            return self.node("Add", [*branches, x][:2]), y_shape
        return self._leaf(layer, x, shape), y_shape

    def _leaf(self, layer: Any, x: str, shape: Shape) -> str:
        kind = type(layer)
        weights = [self.constant(array) for array in layer.params.values()]
        if kind in ELEMENTWISE:
            return self.node(ELEMENTWISE[kind], [x])
        if kind is Dropout:  # passes x on in inference
            return x
        if kind is Flatten:
            return self.node("Flatten", [x], axis=1)
        if kind is GlobalAvgPool2D:
            return self.node("Flatten", [self.node("GlobalAveragePool", [x])], axis=1)
        if kind is LeakyReLU:
            return self.node("LeakyRelu", [x], alpha=layer.negative_slope)
        if kind is Linear:
            return self.node("Gemm", [x, *weights], transB=1)
        if kind is BatchNorm2D:
            ones = np.ones(layer.num_features, np.float32)
            weights = weights or [self.constant(ones), self.constant(0 * ones)]
            state = [self.constant(layer.state[f"running_{name}"]) for name in ("mean", "var")]
            return self.node("BatchNormalization", [x, *weights, *state], epsilon=layer.eps)
        if kind is Conv2D:
            options = geometry(layer.window) | {"pads": _pads(layer.window)}
            return self.node("Conv", [x, *weights], group=layer.groups, **options)
        if kind is ConvTranspose2D:
            options = geometry(layer.window) | {"pads": _pads(layer.window)}
            options["output_padding"] = layer.output_padding
            return self.node("ConvTranspose", [x, *weights], group=layer.groups, **options)
        if kind is MaxPool2D:
            window = _window(layer, shape)
            return self.node("MaxPool", [self._pad(x, window, -np.inf)], **geometry(window))
        if kind is AvgPool2D:
            window = _window(layer, shape)
            mean = self.node("AveragePool", [self._pad(x, window, 0)], **geometry(window))
            scale = math.prod(window.kernel) / _counts(layer, window, shape)
            if (scale == 1).all():
                return mean
            return self.node("Mul", [mean, self.constant(scale.astype(np.float32))])
        raise ValueError(
            f"{kind.__name__} is not a layer of minicnn, so it has no operator of ONNX: "
            "replace it by layers of minicnn, or export from the framework that it is for"
        )

    def _pad(self, x: str, window: Window, value: float) -> str:
        if not any(_pads(window)):
            return x
        (top, bottom), (left, right) = window.padding
        pads = np.array([0, 0, top, left, 0, 0, bottom, right])
        return self.node(
            "Pad", [x, self.constant(pads), self.constant(np.array(value, np.float32))]
        )


def geometry(window: Window) -> dict[str, Any]:
    return {
        "kernel_shape": window.kernel,
        "strides": window.stride,
        "dilations": window.dilation,
    }


def _pads(window: Window) -> list[int]:
    """(top, left, bottom, right)"""
    (top, bottom), (left, right) = window.padding
    return [top, left, bottom, right]


def _window(layer: Any, shape: Shape) -> Window:
    """With the padding that ceil_mode adds for images of this shape."""
    return layer.window.extended(shape[2:]) if layer.ceil_mode else layer.window


def _counts(layer: Any, window: Window, shape: Shape) -> Array:
    """(OH, OW): how many entries each mean is over. A window is inside along each axis alone."""
    counts = []
    for h, (before, after), stride, dilation, taps, outputs in zip(
        shape[2:],
        layer.window.padding,
        window.stride,
        window.dilation,
        window.kernel,
        window.output_size(shape[2:]),
    ):  # fmt: skip
        low, high = (-before, h + after) if layer.count_include_pad else (0, h)
        starts = np.arange(outputs)[:, None] * stride - before
        places = starts + np.arange(taps) * dilation
        counts.append(((low <= places) & (places < high)).sum(axis=1))
    return np.maximum(np.outer(*counts), 1)
