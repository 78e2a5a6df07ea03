"""Layers in a row: each one's output is the next one's input.

    y = f_L(... f_2(f_1(x)))                                                              (1)
    dL/dx_{l-1} = backward_l(dL/dx_l), from the last layer to the first                   (2)

`forward` keeps a tape, what each layer saved, and `backward` reads it from its end.
"""

from collections.abc import Iterator
from typing import Any

from minicnn.backend import Array
from minicnn.checks import Shape, require, sizes
from minicnn.layers.base import Gradients, Layer


class Sequential(Layer):
    """The layers, in order; itself a layer, so that it can be one of the layers of another.

    `params` is one flat dict of the layers' own arrays, so writing into one changes the layer; to
    replace an array, assign to the layer's `params`. The names, "0.weight", "0.bias", "3.weight",
    are those of PyTorch's Sequential. A parameter that is used twice, since its layer stands twice
    or two layers share an array, has the name of its first use, and its gradients are added up.
    """

    def __init__(self, *layers: Layer) -> None:
        for layer in layers:
            sentence = "expected layers, as in Sequential(Flatten(), Linear(4, 2))"
            require(isinstance(layer, Layer), sentence, layer)
        self.layers = layers

    @property
    def params(self) -> "FlatParams":
        first_uses: dict[int, tuple[str, Array]] = {}
        for i, layer in enumerate(self.layers):
            for name, parameter in layer.params.items():
                first_uses.setdefault(id(parameter), (f"{i}.{name}", parameter))
        return FlatParams(first_uses.values())

    @property
    def whole_batch(self) -> bool:
        return any(layer.whole_batch for layer in self.layers)

    def __repr__(self) -> str:
        return "Sequential(\n" + "".join(f"  {layer!r},\n" for layer in self.layers) + ")"

    def output_shape(self, x_shape: Shape) -> Shape:
        for _, _, x_shape in self.trace(x_shape):
            pass
        return tuple(x_shape)

    def multiply_adds(self, x_shape: Shape) -> int:
        return sum(layer.multiply_adds(shape) for layer, shape, _ in self.trace(x_shape))

    def trace(self, x_shape: Shape) -> Iterator[tuple[Layer, Shape, Shape]]:
        """For each layer: (layer, its input's shape, its output's shape), for x of `x_shape`.

        Raises ValueError, with the shapes that lead to it, at the first layer that does not fit.
        """
        shapes = [sizes("a network", x_shape)]
        for i, layer in enumerate(self.layers):
            try:
                shapes.append(layer.output_shape(shapes[-1]))
            except ValueError as error:
                path = " -> ".join(map(str, shapes))
                raise ValueError(f"layer {i}: {error} (shapes so far: {path})") from None
            yield layer, *shapes[-2:]

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

    def backward(
        self, dy: Array, saved: list[Any], need_dx: bool = True
    ) -> tuple[Array | None, Gradients]:
        names = {id(parameter): name for name, parameter in self.params.items()}
        grads = {}
        for i, (layer, saved_i) in reversed(list(enumerate(zip(self.layers, saved)))):
            dy, layer_grads = layer.backward(dy, saved_i, need_dx or i > 0)  # (2)
            for name, grad in layer_grads.items():
                name = names.get(id(layer.params.get(name)), f"{i}.{name}")
                grads[name] = grads[name] + grad if name in grads else grad
        return dy, grads


class FlatParams(dict[str, Array]):
    """The parameters of a network by name, gathered from its layers at each access. So an entry
    that is replaced here would be replaced nowhere else, and that raises ValueError."""

    def _refuse(self, *_: Any, **__: Any) -> None:
        raise ValueError(
            "net.params is gathered from the layers, so its entries cannot be replaced: copy "
            "values in with net.params[name][...] = values or net.load_params(params), or assign "
            "to the layer's own dict, as in net.layers[0].params['weight'] = array"
        )

    __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __setitem__(self, name: str, array: Array) -> None:
        if array is not self.get(name):  # as it is in params[name] += 1, which has written into it
            self._refuse()

    def __reduce__(self) -> tuple[type, tuple[dict[str, Array]]]:
        return dict, (dict(self),)  # a copy is a plain dict
