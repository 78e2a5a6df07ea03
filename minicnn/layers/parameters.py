"""The parameters and the state of a layer as a whole: cast, moved, copied in. Every layer inherits
this, and backpropagation does not need it: you may skip this file."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from minicnn.arguments import float_dtype, require
from minicnn.backend import Array, array_module, choose_device, device_of, to_device
from minicnn.checks import check_float

Self = TypeVar("Self", bound="Parameters")


class Parameters:
    """What every layer can do with its `params` and `state`."""

    params: dict[str, Array]
    state: dict[str, Array]

    @property
    def arrays(self) -> dict[str, Array]:
        """Parameters and state together, the arrays themselves, under the names that PyTorch's
        state_dict uses."""
        return {**self.params, **self.state}

    def astype(self: Self, dtype: Any) -> Self:
        """A copy of the layer with its floats in `dtype`, float32 or float64."""
        dtype = float_dtype(dtype)
        return self.map_arrays(lambda a: a.astype(dtype if a.dtype.kind == "f" else a.dtype))

    def to(self: Self, device: str) -> Self:
        """A copy of the layer with its arrays on `device`, `"cpu"` or `"gpu"`."""
        device = choose_device(device)
        return self.map_arrays(lambda array: to_device(array, device))

    @property
    def device(self) -> str:
        """Where the arrays are, `"cpu"` or `"gpu"`; the CPU if there are none."""
        return next(map(device_of, self.arrays.values()), "cpu")

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the floats among the arrays; float32 if there are none."""
        floats = (array.dtype for array in self.arrays.values() if array.dtype.kind == "f")
        return next(floats, np.dtype(np.float32))

    def load_params(self, params: Mapping[str, Array]) -> None:
        """Copies in values for parameters and state. Raises ValueError, and changes nothing, unless
        names, shapes and dtypes are exactly those of `arrays`."""
        own = self.arrays
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

    def map_arrays(self: Self, change: Callable[[Array], Array]) -> Self:
        """A copy of the layer with `change(a)` for each array a of the parameters and the state. A
        layer or array that is used twice is used twice in the copy too."""
        require(callable(change), "change must be a function of an array", change)
        changed = {id(array): _as_array(change(array)) for array in self.arrays.values()}
        for parameter in self.params.values():
            check_float("map_arrays", changed[id(parameter)], "what change returns")
        return copy.deepcopy(self, changed)  # its memo: what these stand for is copied already


def _as_array(value: Any) -> Array:
    """`value` as an array: NumPy turns an array without axes into a number."""
    return array_module(value).asarray(value)


class FlatParams(dict[str, Array]):
    """The parameters or the state of a network by name, gathered from its layers at each access.
    Replacing an entry raises ValueError, because it would not be replaced in the layer."""

    def _refuse(self, *_: Any, **__: Any) -> None:
        raise ValueError(
            "net.params and net.state are gathered from the layers, so their entries cannot be "
            "replaced: copy values in with net.params[name][...] = values or "
            "net.load_params(arrays), or assign to the layer's own dict, as in "
            "net.layers[0].params['weight'] = array"
        )

    __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse  # type: ignore

    def __setitem__(self, name: str, array: Array) -> None:
        if array is not self.get(name):  # it is in params[name] += 1, which writes into the array
            self._refuse()

    def __reduce__(self) -> tuple[type, tuple[dict[str, Array]]]:
        return dict, (dict(self),)  # a copy is a plain dict


def weighted_mean(arrays: Sequence[Array], shares: Sequence[float]) -> Array:
    """sum_i shares[i] * arrays[i], in this order; rounded if the arrays hold integers."""
    mean: Any = sum(share * array for array, share in zip(arrays, shares))
    dtype = arrays[0].dtype
    mean = mean if dtype.kind == "f" else array_module(arrays[0]).rint(mean)
    return mean.astype(dtype, copy=False)
