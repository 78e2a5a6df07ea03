"""Layers in a row: the output of each is the input of the next.

    y = f_last(... f_2(f_1(x)))                                                           (1)
    dL/dx_{l-1} = backward_l(dL/dx_l), from the last layer backwards                      (2)

`forward` keeps a tape of what each layer saved, and `backward` reads it from the end: down to the
first layer or, without dx, to the first that has parameters.
"""

import textwrap
from collections.abc import Iterator
from typing import Any

from minicnn.arguments import Shape, require, sizes
from minicnn.backend import Array
from minicnn.layers.base import Gradients, Layer, Result
from minicnn.layers.composite import Composite


class Sequential(Composite):
    """Applies layers in order; it is itself a layer, and can be part of another Sequential.

    The names in `params`, "0.weight", "0.bias", "3.weight", are those of PyTorch's Sequential;
    composite.py deals with layers and parameters that are used twice.
    """

    def __init__(self, *layers: Layer) -> None:
        for layer in layers:
            sentence = "expected layers, as in Sequential(Flatten(), Linear(4, 2))"
            require(isinstance(layer, Layer), sentence, layer)
        super().__init__(**{str(i): layer for i, layer in enumerate(layers)})

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(self.parts.values())

    def __repr__(self) -> str:
        lines = "".join(f"{layer!r},\n" for layer in self.layers)
        return f"{type(self).__name__}(\n{textwrap.indent(lines, '  ')})"

    def output_shape(self, x_shape: Shape) -> Shape:
        return tuple([x_shape, *(y_shape for _, _, y_shape in self.trace(x_shape))][-1])

    def multiply_adds(self, x_shape: Shape) -> int:
        return sum(layer.multiply_adds(shape) for layer, shape, _ in self.trace(x_shape))

    def trace(self, x_shape: Shape) -> Iterator[tuple[Layer, Shape, Shape]]:
        """For each layer: (layer, its input's shape, its output's shape), for x of `x_shape`.

        Raises ValueError, with the shapes up to there, at the first layer that does not fit.
        """
        shapes = [sizes("a network", x_shape)]
        for i, layer in enumerate(self.layers):
            try:
                shapes.append(layer.output_shape(shapes[-1]))
            except ValueError as error:
                path = " -> ".join(map(str, shapes))
                raise ValueError(f"layer {i}: {error} (shapes so far: {path})") from None
            yield layer, shapes[-2], shapes[-1]

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer(x)  # (1)
        return x

    def forward(self, x: Array) -> tuple[Array, list[Any]]:
        tape = []
        for layer in self.layers:
            x, saved = layer.forward(x)  # (1)
            tape.append(saved)
        return x, tape

    def backward(self, dy: Array, saved: list[Any], need_dx: bool = True) -> Result:
        grads: list[tuple[str, Gradients]] = []
        first = next((i for i, layer in enumerate(self.layers) if need_dx or layer.params), 0)
        for i in reversed(range(first, len(self.layers))):  # before it, nothing learns
            dy, layer_grads = self.layers[i].backward(dy, saved[i], need_dx or i > first)  # (2)
            grads.append((str(i), layer_grads))
        return dy, self._named(grads)
