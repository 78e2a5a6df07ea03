"""A residual block: a body, and a shortcut around it.

    y = body(x) + shortcut(x), where the shortcut may be x itself                          (1)

y is a sum, so both branches get all of dy; and x is used twice, so what the branches send back is
added up:

    dx = body.backward(dy) + shortcut.backward(dy)                                         (2)

Through the shortcut dy reaches x unchanged, however little the body lets through.

Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", CVPR 2016.
"""

from operator import add
from typing import Any

from minicnn.arguments import Shape, require
from minicnn.backend import Array, along_memory
from minicnn.checks import check_float
from minicnn.layers.base import Layer, Result
from minicnn.layers.composite import Composite


class Residual(Composite):
    """y = body(x) + shortcut(x) for two layers that give the same shape; shortcut None passes x on.

    The names in `params` and `state` begin with "body." and "shortcut.".
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        parts = {"body": body} | ({} if shortcut is None else {"shortcut": shortcut})
        for name, part in parts.items():
            sentence = f"{name} must be a layer, such as Sequential(ReLU(), Linear(4, 4))"
            require(isinstance(part, Layer), sentence, part)
        super().__init__(**parts)

    def output_shape(self, x_shape: Shape) -> Shape:
        y_shape = self.parts["body"].output_shape(x_shape)
        shortcut = self.parts.get("shortcut")
        other = tuple(x_shape) if shortcut is None else shortcut.output_shape(x_shape)
        if y_shape != other:
            raise ValueError(
                f"the body turns x {tuple(x_shape)} into {y_shape} but the shortcut gives {other}: "
                "give the shortcut a layer that makes this shape, such as Conv2D(C, O, 1, stride)"
            )
        return y_shape

    def multiply_adds(self, x_shape: Shape) -> int:
        return sum(part.multiply_adds(x_shape) for part in self.parts.values())

    def __call__(self, x: Array) -> Array:
        check_float("Residual", x)
        self.output_shape(x.shape)
        y = self.parts["body"](x)
        other = self.parts["shortcut"](x) if "shortcut" in self.parts else x
        return along_memory(add, y, other)  # (1)

    def forward(self, x: Array) -> tuple[Array, list[Any]]:
        check_float("Residual", x)
        self.output_shape(x.shape)
        ys, saved = zip(*(part.forward(x) for part in self.parts.values()))
        other = ys[1] if "shortcut" in self.parts else x
        return along_memory(add, ys[0], other), list(saved)  # (1)

    def backward(self, dy: Array, saved: list[Any], need_dx: bool = True) -> Result:
        dx = None if "shortcut" in self.parts else dy
        grads = {}
        for (name, part), saved_part in zip(self.parts.items(), saved):
            dx_part, grads[name] = part.backward(dy, saved_part, need_dx)
            if need_dx:
                dx = dx_part if dx is None else along_memory(add, dx, dx_part)  # (2)
        return (dx if need_dx else None), self._named(grads.items())
