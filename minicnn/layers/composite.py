"""A layer made of layers: one set of names for the arrays of all its parts.

A parameter that is used twice, because its layer appears twice or two layers share an array, has
the name of its first use, and its gradients are added up:

    dL/dparam = sum over its uses of dL/dparam there                                       (1)
"""

import copy
import textwrap
from collections.abc import Iterable
from typing import Any, TypeVar

from minicnn.backend import Array
from minicnn.layers.base import Gradients, Key, Layer
from minicnn.layers.parameters import FlatParams, weighted_mean

Self = TypeVar("Self", bound="Composite")


class Composite(Layer):
    """`parts` maps names to layers, in the order in which `saved` lists what each of them saved.

    `params` and `state` are flat dicts of the parts' own arrays, "0.weight" or "body.0.weight", so
    writing into one changes the part; to replace an array, assign to the part's own dict.
    """

    def __init__(self, **parts: Layer) -> None:
        self.parts = parts

    @property  # gathered, so that it cannot be assigned
    def params(self) -> FlatParams:  # type: ignore[override]
        return self._gathered("params")

    @property
    def state(self) -> FlatParams:  # type: ignore[override]
        return self._gathered("state")

    def _gathered(self, kind: str) -> FlatParams:
        first_uses: dict[int, tuple[str, Array]] = {}
        for part_name, part in self.parts.items():
            for name, array in getattr(part, kind).items():
                first_uses.setdefault(id(array), (f"{part_name}.{name}", array))
        return FlatParams(first_uses.values())

    @property
    def mixes_images(self) -> bool:  # type: ignore[override]
        return any(part.mixes_images for part in self.parts.values())

    def at(self: Self, key: Key) -> Self:
        parts = {name: part.at((*key, i)) for i, (name, part) in enumerate(self.parts.items())}
        if all(parts[name] is part for name, part in self.parts.items()):
            return self
        same = copy.copy(self)
        same.parts = parts
        return same

    def updates(self, saved: list[Any]) -> dict[str, Array]:
        """For a layer that appears twice, the mean of what both passes ask for."""
        names = {id(array): name for name, array in self.state.items()}
        asked: dict[str, list[Array]] = {}
        for part, saved_part in zip(self.parts.values(), saved):
            for name, array in part.updates(saved_part).items():
                asked.setdefault(names[id(part.state[name])], []).append(array)
        return {
            name: weighted_mean(arrays, [1 / len(arrays)] * len(arrays))
            for name, arrays in asked.items()
        }

    def _named(self, grads_of_parts: Iterable[tuple[str, Gradients]]) -> Gradients:
        """The gradients of the parts' parameters under the names of `params`."""
        names = {id(parameter): name for name, parameter in self.params.items()}
        total: Gradients = {}
        for part_name, grads in grads_of_parts:
            params = self.parts[part_name].params
            for name, grad in grads.items():
                name = names.get(id(params.get(name)), f"{part_name}.{name}")
                total[name] = total[name] + grad if name in total else grad  # (1)
        return total

    def __repr__(self) -> str:
        lines = "".join(f"{name}={part!r},\n" for name, part in self.parts.items())
        return f"{type(self).__name__}(\n{textwrap.indent(lines, '  ')})"
