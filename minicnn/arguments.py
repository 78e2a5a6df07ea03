"""Checks of arguments that are plain values: integers, pairs, numbers, flags, shapes. A bad value
raises ValueError in one sentence: what was expected, what was given, how to fix it."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from minicnn.backend import array_module

Pair = tuple[int, int]
Size = int | Pair
Sides = tuple[Pair, Pair]  # (top, bottom), (left, right)
Padding = Size | tuple[int, int, int, int] | Literal["same"]
Shape = tuple[int, ...]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def shown(value: Any) -> str:
    """`value` as a message shows it: on one line, an array by its dtype and shape."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"an array of {value.dtype} {shape}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def require(holds: bool, sentence: str, value: Any) -> None:
    """Raises ValueError, with the sentence and the value, unless `holds` is true."""
    if not holds:
        raise ValueError(f"{sentence}, got {shown(value)}")


def is_integer(value: Any) -> bool:
    """Whether `value` is an integer of Python or NumPy; True and False do not count."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def are_strings(values: Any) -> bool:
    """Whether `values` is a list or tuple of strings."""
    return isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values)


def integer(name: str, value: int, minimum: int) -> int:
    """`value` as an int; ValueError if it is not an integer >= minimum, or does not fit in 128
    bits: no seed needs more, and every such integer fits in a float."""
    fits = is_integer(value) and value >= minimum
    require(fits, f"{name} must be an integer >= {minimum}", value)
    require(value < 2**128, f"{name} must be an integer below 2**128", value)
    return int(value)


def pair(name: str, value: Size, minimum: int) -> Pair:
    """(height, width) from an int or a pair; ValueError unless both are integers >= minimum."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    require(len(values) == 2, f"{name} must be an integer or (height, width)", value)
    height, width = values
    return integer(name, height, minimum), integer(name, width, minimum)


def sides(name: str, value: Any) -> Sides:
    """((top, bottom), (left, right)) from an int, (height, width) or (top, bottom, left, right);
    ValueError unless all are integers >= 0."""
    count = len(value) if isinstance(value, (tuple, list)) else 2
    choice = 'an integer, (height, width), (top, bottom, left, right) or "same"'
    require(count in (2, 4), f"{name} must be {choice}", value)
    if count == 4:
        top, bottom, left, right = (integer(name, side, 0) for side in value)
    else:
        top, left = bottom, right = pair(name, value, 0)
    return (top, bottom), (left, right)


def finite(name: str, value: float) -> float:
    """`value` as a float; ValueError if it is not a finite number."""
    is_float = isinstance(value, (float, np.floating))
    fits = math.isfinite(value) if is_float else is_integer(value) and abs(value) < 2**1023
    require(fits, f"{name} must be a finite number", value)
    return float(value)


def positive(name: str, value: float) -> float:
    """`value` as a float; ValueError if it is not a finite number > 0."""
    require(finite(name, value) > 0, f"{name} must be a finite number > 0", value)
    return float(value)


def share(name: str, value: float) -> float:
    """`value` as a float; ValueError if it is not a number from 0 to 1."""
    require(0 <= finite(name, value) <= 1, f"{name} must be a number from 0 to 1", value)
    return float(value)


def fraction(name: str, value: float) -> float:
    """`value` as a float; ValueError if it is not a number in [0, 1)."""
    require(0 <= finite(name, value) < 1, f"{name} must be in [0, 1)", value)
    return float(value)


def flag(name: str, value: bool) -> bool:
    """`value` as a bool; ValueError if it is anything else, such as a misplaced argument."""
    require(isinstance(value, (bool, np.bool_)), f"{name} must be True or False", value)
    return bool(value)


def generator(rng: np.random.Generator) -> np.random.Generator:
    """`rng` itself; ValueError if it is not a generator."""
    sentence = "rng must be a Generator, such as numpy.random.default_rng(0)"
    require(isinstance(rng, np.random.Generator), sentence, rng)
    return rng


def numbers(name: str, value: Any) -> np.ndarray:
    """`value`, an array or nested lists, as an array; ValueError unless it holds real numbers."""
    if isinstance(value, np.ndarray):
        array_module(value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # an array on a GPU, or nested lists of different lengths
        array = np.asarray(None)
    require(array.dtype.kind in "biuf", f"{name} must be an array of numbers on the host", value)
    return array


def float_dtype(dtype: Any) -> np.dtype:
    """`dtype` as a NumPy dtype; ValueError unless it is float32 or float64."""
    try:
        found = None if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or found not in FLOATS:  # None would equal float64, NumPy's default
        raise ValueError(f"expected dtype float32 or float64 but got {shown(dtype)}")
    return found


def sizes(owner: object, shape: Sequence[int], minimum: int = 0) -> Shape:
    """`shape` as a tuple; ValueError unless all its sizes are integers >= minimum."""
    if not isinstance(shape, (tuple, list)):
        raise ValueError(f"{owner} expected a shape, a tuple of integers, but got {shown(shape)}")
    if all(type(size) is int and size >= minimum for size in shape):  # as they are in training
        return tuple(shape)
    return tuple(integer(f"{owner}: each size of {shape}", size, minimum) for size in shape)
