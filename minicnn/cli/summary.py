"""What a network costs, layer by layer: shapes, parameters, multiply-adds, memory for backward."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.arguments import Shape, require, sizes
from minicnn.gradcheck.protocol import new_bytes
from minicnn.layers.base import Layer
from minicnn.layers.composite import Composite
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


class Summary(list[LayerCost]):
    """The rows of a network's layers."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For Jupyter: the rows as a table."""
        printer.text(table(self))


def summarize(net: Layer, x_shape: Shape) -> Summary:
    """A row for each layer of `net` for float32 images of `x_shape` (N, C, H, W), from one forward
    pass. An array that two layers keep, or a parameter that two layers share, counts only at the
    first of them."""
    require(isinstance(net, Layer), "net must be a layer, such as lenet()", net)
    net.output_shape(sizes("summarize", x_shape))
    _, saved = net.forward(np.zeros(x_shape, np.float32))
    rows = Summary()
    kept: set[int] = set()  # by address
    counts = {id(parameter): parameter.size for parameter in net.params.values()}
    for text, layer, layer_saved, shape in _passes(net, saved, tuple(x_shape), ""):
        composite = isinstance(layer, Composite)  # its layers have their own rows
        kept_bytes = 0 if composite else new_bytes(layer_saved, kept)
        parameters = sum(counts.pop(id(parameter), 0) for parameter in layer.params.values())
        cost = 0 if composite else layer.multiply_adds(shape)
        rows.append(LayerCost(text, layer.output_shape(shape), parameters, cost, kept_bytes))
    return rows


def _passes(
    layer: Layer, saved: Any, x_shape: Shape, part: str
) -> Iterator[tuple[str, Layer, Any, Shape]]:
    """(text, layer, what it saved, shape of its input) of each layer in turn: those of a residual
    block behind the name of their branch, and then the block, which adds the branches up."""
    if isinstance(layer, Sequential):
        for inner, inner_saved in zip(layer.layers, saved):
            yield from _passes(inner, inner_saved, x_shape, part)
            x_shape = inner.output_shape(x_shape)
        return
    if isinstance(layer, Composite):
        for (name, inner), inner_saved in zip(layer.parts.items(), saved):
            yield from _passes(inner, inner_saved, x_shape, f"{part}{name}: ")
        yield f"{part}{type(layer).__name__}", layer, saved, x_shape
    else:
        yield f"{part}{layer!r}", layer, saved, x_shape


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
