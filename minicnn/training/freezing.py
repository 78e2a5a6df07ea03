"""Freezing: parameters and running state, given by the names of their layers, that training leaves
as they are."""

from collections.abc import Sequence

from minicnn.arguments import are_strings, require
from minicnn.layers.base import Layer


def frozen_names(net: Layer, freeze: Sequence[str]) -> set[str]:
    """The names in `net.arrays` that `freeze` covers: "0.body" covers "0.body" itself and all that
    begins with "0.body.". Raises ValueError for a name that covers nothing, and if no parameter is
    left to train."""
    names = isinstance(freeze, tuple | list) and are_strings(tuple(freeze))
    require(names, "freeze must be names of layers or parameters, such as ('0',)", freeze)
    arrays, found = list(net.arrays), set()
    for name in freeze:
        covered = {array for array in arrays if array == name or array.startswith(f"{name}.")}
        if not covered:
            raise ValueError(
                f"expected to freeze layers or parameters among {', '.join(arrays)}, got {name!r}"
            )
        found |= covered
    if found and found >= net.params.keys():
        raise ValueError("every parameter is frozen: leave at least one to train")
    return found
