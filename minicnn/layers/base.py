"""The protocol of a layer: y = f(x; params) forward, the exact derivative of f backward.

For a scalar loss L and dy = dL/dy, `backward` returns dx = dL/dx, by the chain rule

    dL/dx[k] = sum_m dL/dy[m] * (derivative of y[m] by x[k])

and, in the same way, dL/dparam for each parameter.

A layer owns its hyper-parameters and `params`, and nothing of a batch: what backward needs of the
forward pass is returned by `forward` and handed back to `backward`. So two threads may use one
layer at once, and a second forward before the backward of the first does no harm.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minicnn.backend import Array, array_module, choose_device, device_of, to_device
from minicnn.checks import Shape, check_float, float_dtype, require, sizes

Gradients = dict[str, Array]


class Layer:
    """A differentiable function with parameters.

    `params` maps names to arrays; assigning to an entry replaces that parameter. Arrays are float;
    results have the dtype of the input, in both directions, and nothing that is passed in is
    written to. What `forward` returns may share memory with `saved`, so leave it unchanged until
    `backward` is done. A layer that behaves differently in training and inference (dropout, say)
    does the training in `forward` and the inference in `__call__`.
    """

    params: dict[str, Array]
    whole_batch = False
    """Whether y depends on which images are in a batch together; then it is not cut into chunks."""

    def __init__(self) -> None:
        self.params = {}

    def __call__(self, x: Array) -> Array:
        """Inference: y alone, nothing kept."""
        return self.forward(x)[0]

    def forward(self, x: Array) -> tuple[Array, Any]:
        """(y, saved): `saved` is all that `backward` needs of this pass, and no more."""
        raise NotImplementedError

    def backward(
        self, dy: Array, saved: Any, need_dx: bool = True
    ) -> tuple[Array | None, Gradients]:
        """(dx, grads): dL/dx, or None if not `need_dx`; dL/dparam under the keys of `params`."""
        raise NotImplementedError

    def output_shape(self, x_shape: Shape) -> Shape:
        """The shape of y for x of `x_shape`. Raises ValueError, with the arithmetic, if x does not
        fit."""
        return sizes(self, x_shape)

    def multiply_adds(self, x_shape: Shape) -> int:
        """How many multiply-adds the products of one forward pass over x of `x_shape` take."""
        self.output_shape(x_shape)
        return 0

    def astype(self, dtype: Any) -> "Layer":
        """The same layer with parameters of `dtype`, float32 or float64; the arrays are copies."""
        dtype = float_dtype(dtype)
        return self.map_params(lambda parameter: parameter.astype(dtype))

    def to(self, device: str) -> "Layer":
        """The same layer with parameters on `device`, `"cpu"` or `"gpu"`."""
        device = choose_device(device)
        return self.map_params(lambda parameter: to_device(parameter, device))

    @property
    def device(self) -> str:
        """Where the parameters are, `"cpu"` or `"gpu"`; the CPU if there are none."""
        return next(map(device_of, self.params.values()), "cpu")

    @property
    def dtype(self) -> np.dtype:
        """The parameters' type; float32 if there are none."""
        return next((parameter.dtype for parameter in self.params.values()), np.dtype(np.float32))

    def load_params(self, params: Mapping[str, Array]) -> None:
        """Copies values in. Raises ValueError, and changes nothing, unless names, shapes and
        dtypes are exactly those of `params`."""
        own = self.params
        require(isinstance(params, Mapping), "params must map names to arrays", params)
        if own.keys() != params.keys():
            missing, unknown = sorted(own.keys() - params), sorted(map(str, params.keys() - own))
            raise ValueError(
                f"expected the parameters {', '.join(own)}: missing {missing}, unknown {unknown}"
            )
        for name, parameter in own.items():
            value = params[name]
            array_module(value)
            if value.shape != parameter.shape or value.dtype != parameter.dtype:
                raise ValueError(
                    f"parameter {name} has shape {parameter.shape} and dtype {parameter.dtype} "
                    f"but got {value.shape} and {value.dtype}"
                )
        for name, parameter in own.items():
            parameter[...] = to_device(params[name], device_of(parameter))

    def map_params(self, change: Callable[[Array], Array]) -> "Layer":
        """A copy of the layer with `change(p)` in place of each parameter p. A layer or parameter
        that is used twice is used twice in the copy too."""
        require(callable(change), "change must be a function of an array", change)
        changed = {id(p): change(p) for p in self.params.values()}
        for parameter in changed.values():
            check_float("map_params", parameter, "what change returns")
        return copy.deepcopy(self, changed)  # its memo: what these stand for is copied already
