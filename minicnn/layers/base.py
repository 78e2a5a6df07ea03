"""The protocol of a layer: y = f(x; params) forward, the exact derivative of f backward.

For a scalar loss L and dy = dL/dy, `backward` returns dx = dL/dx, by the chain rule

    dL/dx[k] = sum_m dL/dy[m] * (derivative of y[m] with respect to x[k])

and, in the same way, dL/dparam for each parameter.

A layer of your own, y = factor * x, whole:

    import numpy as np
    from minicnn.checks import check_gradient, check_input
    from minicnn.layers import Layer

    class Scale(Layer):  # x (N, D) -> y (N, D), params: factor (D,)
        def __init__(self, features):
            super().__init__()                            # params = {}
            self.features = features                      # so repr is Scale(features=4)
            self.params["factor"] = np.ones(features, np.float32)

        def output_shape(self, x_shape):                  # without it, the shape of x
            if len(x_shape) != 2 or x_shape[1] != self.features:
                raise ValueError(f"{self} expected x (N, {self.features}), got {x_shape}")
            return x_shape

        def forward(self, x):
            check_input(self, x)                          # floats, device, shape
            factor = self.params["factor"].astype(x.dtype, copy=False)
            return factor * x, x                          # y, saved

        def backward(self, dy, saved, need_dx=True):
            x = saved
            check_gradient(self, dy, x.shape, x)
            factor = self.params["factor"].astype(x.dtype, copy=False)
            grads = {"factor": (dy * x).sum(axis=0)}      # one for each of params
            return (factor * dy if need_dx else None), grads

`check_gradients(Scale(4), x)` tells you whether it is right. The rules, and their reasons:

- **Nothing of a batch in the layer**: what backward needs from a pass is in `saved`. So two threads
  may use the same layer, a second forward before the first backward does no harm, and worker
  processes lose nothing when their copies of a layer are thrown away.
- **Nothing passed in is changed**: not x, dy, `saved` or the parameters. `saved` may be y itself,
  so y is left alone until backward is done.
- **float32 in, float32 out**, and float64 likewise, forward and backward. Python's numbers keep the
  dtype of an array; NumPy's scalars, such as np.sqrt(2), turn float32 into float64: write
  `x.dtype.type(value)`. Parameters are float32 until `astype`, and x may be float64: cast them to
  x's dtype.
- **NumPy or CuPy**: methods and operators of arrays work on both; functions come from
  `xp = array_module(x)`, of minicnn.backend. Parameters are drawn on the host; `to` moves them.
- **Shapes are (N, D) or (N, C, H, W), memory is batch-last**: the arrays are transposed views in
  which the values of one pixel in all images lie side by side. NumPy's elementwise functions keep
  that order, which matters for speed only. A layer is right in any order unless it mistakes a copy
  for a view, so never write into the `reshape` or `ravel` of an array.
- **`need_dx=False`** spares the first layer with parameters the work for dx; grads are the same.
  `Sequential` does not call `backward` of the layers before it at all.
- **`layer(x)`** is inference, by default y of `forward` alone: override `__call__` if y can be
  computed for less, or if inference is a different function. The checker compares it with
  `forward`, or with what it is given as `inference=`.
- **`layer.state`** is for what training changes without a gradient, such as running means: a
  dictionary beside `params`. It is saved, cast and moved like them, but no optimizer sees it.
  `forward` only reads it; `updates(saved)` returns the new values that a pass asks for. `fit`
  averages those of a batch's chunks, weighted by their images, and writes the mean once a step.
- **`layer.at(key)`** is the same layer for one training pass, with random numbers that follow from
  the key, a tuple of integers: the same key and x give the same y. The key names seed, epoch, step,
  chunk and layer, so the numbers do not depend on the workers or on where a run was resumed.
- **`mixes_images = True`** if y of one image depends on the others. A batch is still cut into
  chunks of up to 64 images, and y depends on those of its chunk. Inference must not mix images.

dropout.py is the smallest layer with a key, normalization.py the one with state.
"""

import inspect
from typing import Any, TypeVar

from minicnn.arguments import Shape, shown, sizes
from minicnn.backend import Array
from minicnn.layers.parameters import Parameters

Self = TypeVar("Self", bound="Layer")
Key = tuple[int, ...]
Gradients = dict[str, Array]
Result = tuple[Array | Any, Gradients]  # Any because dx is None with need_dx=False, and only then


class Layer(Parameters):
    """A differentiable function with parameters.

    `params` maps names to arrays of floats, `state` to arrays of any numbers; assigning to an entry
    replaces that array.
    """

    mixes_images = False
    """Whether y of one image depends on the others, in `forward`."""

    def __init__(self) -> None:
        self.params = {}
        self.state = {}

    def __repr__(self) -> str:
        """The class, with those arguments of its constructor that the layer keeps as attributes:
        the first, and any others that differ from their default."""
        arguments: list[str] = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = shown(getattr(self, name, parameter.default))
            if hasattr(self, name) and (not arguments or value != shown(parameter.default)):
                arguments.append(f"{name}={value}")
        return f"{type(self).__name__}({', '.join(arguments)})"

    def __call__(self, x: Array) -> Array:
        """Inference: y alone; nothing is saved, and each image is treated by itself."""
        return self.forward(x)[0]

    def forward(self, x: Array) -> tuple[Array, Any]:
        """A training pass, (y, saved): `saved` is all that `backward` needs, and no more."""
        raise NotImplementedError

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Result:
        """(dx, grads): dL/dx, or None if not `need_dx`; dL/dparam under the keys of `params`."""
        raise NotImplementedError

    def updates(self, saved: Any) -> dict[str, Array]:
        """The new values of all of `state` that this pass asks for; nothing is written."""
        return {}

    def at(self: Self, key: Key) -> Self:
        """The same layer, sharing all its arrays, with the random numbers of `key`; the layer
        itself if it draws none."""
        return self

    def output_shape(self, x_shape: Shape) -> Shape:
        """The shape of y for an x of `x_shape`. Raises ValueError, showing the arithmetic, if x
        does not fit."""
        return sizes(self, x_shape)

    def multiply_adds(self, x_shape: Shape) -> int:
        """The number of multiply-adds in the products of one forward pass over x of `x_shape`."""
        self.output_shape(x_shape)
        return 0
