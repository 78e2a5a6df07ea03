"""What a network costs, layer by layer: shapes, parameters, multiply-adds, memory for backward."""

from dataclasses import dataclass

import numpy as np

from minicnn.arguments import Shape, sizes
from minicnn.backend import Array
from minicnn.gradcheck.protocol import arrays_in
from minicnn.layers.base import Layer
from minicnn.layers.sequential import Sequential
from minicnn.text import align


@dataclass(frozen=True)
class LayerCost:
    """One layer's row: `parameters` and `multiply_adds` are counts; `kept_bytes` is what `forward`
    adds to the memory that is held until `backward`."""

    layer: str
    output_shape: Shape
    parameters: int
    multiply_adds: int
    kept_bytes: int


def summarize(net: Layer, x_shape: Shape) -> list[LayerCost]:
    """A row for each layer of `net` for float32 images of `x_shape` (N, C, H, W), found by one
    forward pass. An array that two layers keep, and a parameter that two share, is counted once, at
    the first of them."""
    net = net if isinstance(net, Sequential) else Sequential(net)
    x = np.zeros(sizes("summarize", x_shape), np.float32)
    rows: list[LayerCost] = []
    kept: dict[int, Array] = {}  # by address; held here, so that no address is used twice
    counts = {id(parameter): parameter.size for parameter in net.params.values()}
    for layer, in_shape, out_shape in net.trace(x_shape):
        x, saved = layer.forward(x)
        new = {_address(array): array for array in arrays_in(saved)}
        new_bytes = sum(new[address].nbytes for address in new.keys() - kept)
        kept |= new
        parameters = sum(counts.pop(id(parameter), 0) for parameter in layer.params.values())
        cost = layer.multiply_adds(in_shape)
        rows.append(LayerCost(repr(layer), out_shape, parameters, cost, new_bytes))
    return rows


def table(rows: list[LayerCost]) -> str:
    """The rows and their totals as text."""
    lines: list[tuple[str, ...]] = [
        ("layer", "output shape", "parameters", "multiply-adds", "bytes kept")
    ]
    numbers = [(row.parameters, row.multiply_adds, row.kept_bytes) for row in rows]
    for row, counts in zip(rows, numbers):
        shape = " x ".join(map(str, row.output_shape))
        lines.append((row.layer, shape, *(f"{count:,}" for count in counts)))
    lines.append(("total", "", *(f"{sum(column):,}" for column in zip(*numbers))))
    text = align(lines, "<<>>>")
    rule = "-" * len(text[0])
    return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])


def _address(array: Array) -> int:
    return array.__array_interface__["data"][0]
