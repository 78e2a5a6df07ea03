"""How a run keeps its network and builds it again.

A network of this library's layers is kept as plain dictionaries of names and arguments, from which
it is built without executing any code:

    {"layer": "Sequential", "parts": [{"layer": "MaxPool2D", "arguments": {"kernel_size": 2}}]}

A layer that stands twice is written once; its second place says {"same_as": k}, the k-th layer that
was written, counted from 0. Any other network is kept as the place of the function that builds it,
FILE.py:function or package.module:function, with the SHA-256 of that file. Only then is code
executed: that of the file at this place, and only while it is what it was.
"""

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minicnn import layers
from minicnn.arguments import Shape, integer, pair, require
from minicnn.backend import Array
from minicnn.datasets import Dataset, DataSpec
from minicnn.files import as_path
from minicnn.layers import Layer, Residual, Sequential
from minicnn.layers.composite import Composite
from minicnn.runs.settings import Origin
from minicnn.zoo import MODELS

LAYERS = {name: getattr(layers, name) for name in layers.__all__}
del LAYERS["Layer"], LAYERS["Sequential"], LAYERS["Residual"]
WEIGHT_SIZES = {  # the arguments whose product is the number of entries in `weight`
    "BatchNorm2D": ("num_features",),
    "Conv2D": ("in_channels", "out_channels", "kernel_size"),
    "ConvTranspose2D": ("in_channels", "out_channels", "kernel_size"),
    "Linear": ("in_features", "out_features"),
}
MOST_LAYERS = 10_000


def to_dict(net: Layer) -> dict[str, Any]:
    """The network as plain dictionaries. Raises ValueError for a layer that is not of minicnn."""
    return {"dtype": net.dtype.name, **_described(net, {})}


def _described(layer: Layer, written: dict[int, int]) -> dict[str, Any]:
    """`written` has the number of each layer by its address."""
    if id(layer) in written:
        return {"same_as": written[id(layer)]}
    written[id(layer)] = len(written)
    kind = type(layer)
    if isinstance(layer, Composite) and kind in (Sequential, Residual):
        parts: Any = {name: _described(part, written) for name, part in layer.parts.items()}
        parts = list(parts.values()) if kind is Sequential else parts
        return {"layer": kind.__name__, "parts": parts}
    require(LAYERS.get(kind.__name__) is kind, "expected a layer of minicnn", layer)
    call = ast.parse(repr(layer), mode="eval").body
    assert isinstance(call, ast.Call)
    values = [ast.literal_eval(value) for value in call.args]
    named = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    arguments = inspect.signature(kind).bind(*values, **named).arguments
    return {"layer": kind.__name__, "arguments": arguments}


def from_dict(description: Any, entries: int | None = None) -> Layer:
    """The network that `to_dict` described, with new weights.

    entries: how many numbers the file has for its arrays, and so the most that a layer may need

    Raises ValueError for what is not such a description.
    """
    require(isinstance(description, dict), "expected the dictionary of a network", description)
    try:
        description = dict(description)
        dtype = description.pop("dtype")
        net = _Builder(math.inf if entries is None else entries).build(description)
        return net if net.dtype.name == dtype else net.astype(dtype)
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"this does not describe a network: {error!r:.200}") from None


class _Builder:
    """Builds layers from their descriptions, and has those that it began with, by number."""

    def __init__(self, entries: float) -> None:
        self.entries = entries
        self.layers: list[Layer | None] = []
        self.sizes: dict[int, int] = {}  # how many layers each is made of, by address

    def build(self, description: Any) -> Layer:
        if description.keys() == {"same_as"}:
            number = description["same_as"]
            known = type(number) is int and 0 <= number < len(self.layers)
            layer = self.layers[number] if known else None
            if layer is None:
                raise ValueError(f"expected the number of a layer before it, got {number!r:.40}")
            return layer
        number, name = len(self.layers), description["layer"]
        self.layers.append(None)
        if name in ("Sequential", "Residual"):
            layer, size = self._composite(name, description["parts"])
        else:
            require(isinstance(name, str) and name in LAYERS, "expected a layer of minicnn", name)
            layer, size = self._leaf(name, description["arguments"]), 1
        self.layers[number] = layer
        self.sizes[id(layer)] = size
        return layer

    def _composite(self, name: str, parts: Any) -> tuple[Layer, int]:
        if name == "Sequential":
            built = [self.build(part) for part in parts]
            layer: Layer = Sequential(*built)
        else:
            named = {key: self.build(part) for key, part in parts.items()}
            layer, built = Residual(**named), list(named.values())
        size = 1 + sum(self.sizes[id(part)] for part in built)
        require(size <= MOST_LAYERS, f"expected at most {MOST_LAYERS} layers", size)
        return layer, size

    def _leaf(self, name: str, arguments: Any) -> Layer:
        kind = LAYERS[name]
        allowed = inspect.signature(kind).parameters.keys() - {"rng"}
        if unknown := sorted(arguments.keys() - allowed):
            raise ValueError(f"{name} has no argument {unknown[0]!r:.40}")
        plain = {key: _tuples(value) for key, value in arguments.items()}
        sizes = {key: plain[key] for key in WEIGHT_SIZES.get(name, ())}
        if sizes:
            if "kernel_size" in sizes:
                sizes["kernel_size"] = math.prod(pair("kernel_size", sizes["kernel_size"], 1))
            needed = math.prod(integer(key, size, 1) for key, size in sizes.items())
            self.entries -= needed // integer("groups", plain.get("groups", 1), 1)
            require(self.entries >= 0, "it needs more numbers than the file has", name)
        return kind(**plain)


def _tuples(value: Any) -> Any:
    """With tuples for the lists that JSON makes of them."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def build(model: str, rng: np.random.Generator | None, input_shape: Shape, classes: int) -> Layer:
    """The network of that name in MODELS, or that the function at this place builds, for images
    (C, H, W) of so many classes.

    The function gets those of `rng`, `input_shape` and `classes` that it has parameters for.
    Raises ValueError, with file and line, for what goes wrong in it.
    """
    given = {"rng": rng, "input_shape": tuple(input_shape), "classes": classes}
    if model in MODELS:
        try:
            return MODELS[model].build(**given)
        except ValueError as error:
            size = "x".join(map(str, input_shape))
            raise ValueError(f"{model} does not fit images of {size}: {error}") from None
    function = _function(model)
    names = inspect.signature(function).parameters
    try:
        net = function(**{name: value for name, value in given.items() if name in names})
    except Exception as error:
        raise ValueError(f"{model} failed: {_where(error, _source(model))}") from error
    require(isinstance(net, Layer), f"{model} must return a layer, such as Sequential(...)", net)
    return net


def is_place(model: str) -> bool:
    """Whether this is FILE.py:function or package.module:function."""
    return ":" in model


def absolute(model: str) -> str:
    """The same place, seen from any folder."""
    file, colon, name = model.rpartition(":")
    return f"{os.path.abspath(as_path(file))}:{name}" if file.endswith(".py") else model


def source_sha256(model: str) -> str:
    """Of the file that a place is in."""
    path = _source(model)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(
            f"{path}, which builds the network, cannot be read: {error.strerror}; if it moved, "
            "give its new place as --model FILE.py:function"
        ) from None


def _source(model: str) -> Path:
    file, _, _ = model.rpartition(":")
    if file.endswith(".py"):
        return as_path(file)
    package, *modules = file.split(".")
    try:
        found = importlib.util.find_spec(package)
        for module in modules:  # find_spec(file) would execute the packages around the module
            inside = found.submodule_search_locations if found else None
            package = f"{package}.{module}"
            found = PathFinder.find_spec(package, inside) if inside else None
    except (ImportError, ValueError):
        found = None
    if found is None or not found.origin:
        raise ValueError(f"there is no module {file!r}: give FILE.py:function, or install it")
    return Path(found.origin)


def _function(model: str) -> Callable[..., Any]:
    file, _, name = model.rpartition(":")
    module = _module(model, file)
    function = getattr(module, name, None)
    if not callable(function):
        functions = inspect.getmembers(module, inspect.isfunction)
        have = [key for key, value in functions if value.__module__ == module.__name__]
        raise ValueError(f"{file} has no function {name!r}: it has {', '.join(have) or 'none'}")
    return function


def _module(model: str, file: str) -> ModuleType:
    """Imported, from its file if that is one."""
    path = _source(model)
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give FILE.py:function")
    try:
        if not file.endswith(".py"):
            return importlib.import_module(file)
        module = ModuleType(f"minicnn_model_{path.stem}")
        module.__file__ = str(path)
        sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
        exec(compile(path.read_bytes(), path, "exec"), vars(module))  # not byte code kept beside it
        return module
    except Exception as error:
        raise ValueError(f"{path} cannot be imported: {_where(error, path)}") from error


def _where(error: Exception, path: Path) -> str:
    """What went wrong, and in which line of the file that was called; elsewhere if it never was."""
    if isinstance(error, SyntaxError):
        return str(error)  # with file and line
    calls = traceback.extract_tb(error.__traceback__)
    last = [call for call in calls if call.filename == str(path)] or calls
    text = " ".join(str(error).split())
    return f"{last[-1].filename}, line {last[-1].lineno}: {type(error).__name__}: {text}"


def origin(net: Layer, data: Dataset, model: str, spec: DataSpec | None = None) -> Origin:
    """What the weights of this network belong to, when it has been trained on these data."""
    try:
        description = to_dict(net)
        same = {name: array.shape for name, array in from_dict(description).arrays.items()}
        is_whole = same == {name: array.shape for name, array in net.arrays.items()}
    except ValueError:  # some layers are not of minicnn
        is_whole = False
    sentence = "with layers that are not of minicnn, model must not be the name of its network"
    require(is_whole or model not in MODELS, sentence, model)
    return Origin(
        model,
        data.name,
        data.classes,
        network=json.dumps(description) if is_whole else "",
        source_sha256="" if is_whole or not is_place(model) else source_sha256(model),
        input_shape=data.images.shape[1:],
        preparation=data.preparation,
        spec=spec,
    )


def moved(origin: Origin, model: str | None) -> Origin:
    """`origin`, whose network is built by the file at this new place, if one is given."""
    if model is None:
        return origin
    sentence = "model must be the new place of the file that builds the network, FILE.py:function"
    require(isinstance(model, str) and is_place(model), sentence, model)
    sentence = "the run keeps its network and needs no file: leave out model"
    require(bool(origin.source_sha256), sentence, model)
    return dataclasses.replace(origin, model=absolute(model))


def rebuild(origin: Origin, arrays: Mapping[str, Array]) -> Layer:
    """The network that these arrays belong to, with new weights. Raises ValueError, with the
    remedy, if it cannot be built here."""
    if origin.network:
        try:
            description = json.loads(origin.network)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"this does not describe a network: {error!r:.200}") from None
        return from_dict(description, sum(array.size for array in arrays.values()))
    model = origin.model
    if model in MODELS:  # written before runs kept descriptions, when each had ten classes
        return MODELS[model].build()
    if not origin.source_sha256:
        raise ValueError(
            f"these are the weights of {model!r}, which is none of {', '.join(MODELS)}: build that "
            "network, and give it to load_weights or resume_run"
        )
    if source_sha256(model) != origin.source_sha256:
        raise ValueError(
            f"{_source(model)} has changed since the run began: restore the file that it was, or "
            "start a new run"
        )
    return build(model, np.random.default_rng(0), origin.input_shape, len(origin.classes))
