"""A network for PyTorch: the lines that build the module, and the arrays that it loads.

Where a layer of PyTorch lacks an argument, such as four-sided padding, two layers take its place,
so the names of the arrays follow the printed module.
"""

import textwrap
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

Module = tuple[str, dict[str, Array]]  # Python that makes it, and its arrays by their names there

PLAIN: dict[type[Layer], str] = {
    ReLU: "ReLU()",
    Sigmoid: "Sigmoid()",
    Tanh: "Tanh()",
    GELU: "GELU()",
    Flatten: "Flatten()",
}
RESIDUAL = """

class Residual(nn.Module):
    def __init__(self, body, shortcut):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return self.body(x) + self.shortcut(x)

"""


def to_torch(net: Layer, origin: Origin, file: str) -> tuple[str, dict[str, Array]]:
    """(Python that builds the network in PyTorch and loads `file`, the arrays for that file).

    Raises ValueError for a layer that is not of minicnn, and for what PyTorch has no layer for.
    """
    code, arrays = _module(net, (1, *origin.input_shape))
    residual = RESIDUAL if "Residual(" in code else "\n"
    shape = ", ".join(map(str, origin.input_shape))
    lines = (
        "from safetensors.torch import load_file\n"
        f"from torch import nn\n{residual}"
        f"net = {code}\n"
        f"net.load_state_dict(load_file({file!r}))\n"
        f"net.eval()  # images (N, {shape}), bytes divided by 255, to logits\n"
        f"classes = {list(origin.classes)!r}\n"
    )
    return lines, {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _module(layer: Layer, shape: Shape) -> Module:
    kind = type(layer)
    if isinstance(layer, Composite) and kind is Sequential:
        parts = []
        for part in layer.parts.values():
            parts.append(_module(part, shape))
            shape = part.output_shape(shape)
        return _row(*parts)
    if isinstance(layer, Composite) and kind is Residual:
        named = {name: _module(part, shape) for name, part in layer.parts.items()}
        named.setdefault("shortcut", ("nn.Identity()", {}))
        return _joined("Residual", named)
    if kind in PLAIN:
        return f"nn.{PLAIN[kind]}", {}
    if kind in LEAVES:
        return LEAVES[kind](layer)
    if kind in (MaxPool2D, AvgPool2D):
        return _pool(layer, shape)
    raise ValueError(
        f"{kind.__name__} is not a layer of minicnn, so PyTorch has none that is known to be the "
        "same: build that module yourself, and load weights.safetensors of the run"
    )


def _row(*parts: Module) -> Module:
    return _joined("nn.Sequential", {str(i): part for i, part in enumerate(parts)})


def _joined(name: str, parts: dict[str, Module]) -> Module:
    lines = "".join(f"{code},\n" for code, _ in parts.values())
    arrays = {
        f"{part}.{key}": array for part, (_, own) in parts.items() for key, array in own.items()
    }
    return f"{name}(\n{textwrap.indent(lines, '    ')})" if parts else f"{name}()", arrays


def _call(name: str, *values: Any, **named: Any) -> str:
    words = [*map(repr, values), *(f"{key}={value!r}" for key, value in named.items())]
    return f"nn.{name}({', '.join(words)})"


def _sides(layer: Any, sign: int = 1) -> tuple[int, int, int, int]:
    """(left, right, top, bottom), PyTorch's order."""
    (top, bottom), (left, right) = layer.window.padding
    return sign * left, sign * right, sign * top, sign * bottom


def _is_even(layer: Any) -> bool:
    return all(before == after for before, after in layer.window.padding)


def _geometry(layer: Any, padded: bool) -> dict[str, Any]:
    window = layer.window
    padding = tuple(before for before, _ in window.padding) if padded else 0
    return {"stride": window.stride, "padding": padding, "dilation": window.dilation}


def _conv(layer: Any) -> Module:
    even = _is_even(layer)
    options = _geometry(layer, even) | {"groups": layer.groups, "bias": "bias" in layer.params}
    channels = layer.in_channels, layer.out_channels
    transposed = type(layer) is ConvTranspose2D
    if transposed:
        options["output_padding"] = layer.output_padding
    name = "ConvTranspose2d" if transposed else "Conv2d"
    conv = _call(name, *channels, layer.window.kernel, **options), layer.params
    if even:
        return conv
    pad: Module = _call("ZeroPad2d", _sides(layer, -1 if transposed else 1)), {}
    return _row(conv, pad) if transposed else _row(pad, conv)


def _pool(layer: Any, shape: Shape) -> Module:
    window, is_max = layer.window, type(layer) is MaxPool2D
    name = "MaxPool2d" if is_max else "AvgPool2d"
    small = all(2 * max(sides) <= k for sides, k in zip(window.padding, window.kernel))
    direct = _is_even(layer) and small
    options = _geometry(layer, direct)
    if not is_max:
        del options["dilation"]
        counts_all = layer.count_include_pad and not layer.ceil_mode
        if window.dilation != (1, 1) or not (direct or counts_all):
            raise ValueError(f"PyTorch has no layer that computes {layer}: export it to onnx")
        options["count_include_pad"] = layer.count_include_pad
    if direct:
        return _call(name, window.kernel, **options, ceil_mode=layer.ceil_mode), {}
    if layer.ceil_mode:
        window = window.extended(shape[2:])
    (top, bottom), (left, right) = window.padding
    lowest = "float('-inf')" if is_max else "0.0"
    pad = f"nn.ConstantPad2d({(left, right, top, bottom)}, {lowest})"
    return _row((pad, {}), (_call(name, window.kernel, **options), {}))


def _linear(layer: Any) -> Module:
    sizes = layer.in_features, layer.out_features
    return _call("Linear", *sizes, bias="bias" in layer.params), layer.params


def _batch_norm(layer: Any) -> Module:
    options = {"eps": layer.eps, "momentum": layer.momentum, "affine": layer.affine}
    arrays = {**layer.params, **layer.state, "num_batches_tracked": np.array(0)}
    return _call("BatchNorm2d", layer.num_features, **options), arrays


LEAVES = {
    Conv2D: _conv,
    ConvTranspose2D: _conv,
    Linear: _linear,
    BatchNorm2D: _batch_norm,
    Dropout: lambda layer: (_call("Dropout", layer.p), {}),
    LeakyReLU: lambda layer: (_call("LeakyReLU", layer.negative_slope), {}),
    GlobalAvgPool2D: lambda layer: ("nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())", {}),
}
