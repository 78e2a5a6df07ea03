"""Weights and checkpoints in safetensors files, whole or absent at every moment.

A file is written under a temporary name, flushed to disk and renamed. Its metadata hold the SHA-256
of all its bytes, with zeros in place of the sum itself. The sum is verified when the file is read,
so that no byte can change unnoticed. Weights have PyTorch's names and shapes; weight files written
by other programs, which have no such sum, can be read too.
"""

import copy
import dataclasses
import hashlib
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from minicnn._version import __version__
from minicnn.arguments import require
from minicnn.backend import Array, to_device
from minicnn.datasets import Dataset
from minicnn.files import as_path, write_atomically
from minicnn.layers.base import Layer
from minicnn.optimizers import Optimizer
from minicnn.runs.settings import Origin, Settings
from minicnn.training.history import Position, TrainingError

NO_SUM = b"0" * 64
WEIGHTS, OPTIMIZER = "weights.", "optimizer."  # prefixes of the names of arrays in a checkpoint
NOT_OURS = (  # what unexpected JSON may raise
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
)


class DamagedCheckpoint(ValueError):
    """A file has changed since it was written."""


def save_weights(net: Layer, path: Path | str, metadata: dict[str, Any] | None = None) -> None:
    """Writes the parameters and the state of `net`, PyTorch's state_dict, to a safetensors file,
    with `metadata` as JSON."""
    require(isinstance(net, Layer), "net must be a layer, such as lenet()", net)
    metadata = {} if metadata is None else metadata
    is_ours = isinstance(metadata, dict) and "sha256" not in metadata
    require(is_ours, "metadata must be a dictionary without the reserved key sha256", metadata)
    write_atomically(as_path(path), _with_sum(net.arrays, metadata))


def load_weights(net: Layer, path: Path | str) -> None:
    """Copies the arrays in a safetensors file into `net`, on whatever device it is.

    Raises ValueError, and does not change `net`, if the file is damaged or its names, shapes or
    dtypes differ from the network's.
    """
    require(isinstance(net, Layer), "net must be a layer, such as lenet()", net)
    path = as_path(path)
    arrays = read_arrays(path)
    try:
        net.load_params(arrays)
    except ValueError as error:
        raise ValueError(f"{path} does not hold the weights of this network: {error}") from None


def read_metadata(path: Path | str) -> dict[str, Any]:
    """The metadata that `save_weights` wrote. Raises ValueError if the file is damaged, or was
    written by another program."""
    path = as_path(path)
    content = _read_weights(path)
    try:
        return _metadata(content)
    except NOT_OURS as error:
        raise ValueError(f"{path} has no metadata of minicnn: {_reason(error)}") from None


def read_origin(path: Path | str) -> Origin:
    """What a run's weights belong to. Raises ValueError if the file does not say."""
    metadata = read_metadata(path)
    try:
        model, data, classes = (metadata[name] for name in ("model", "data", "classes"))
        oldest = Origin(model, data, tuple(classes) if type(classes) is list else classes)
        defaults = json.loads(json.dumps(dataclasses.asdict(oldest)))  # older weights lack fields
        return _typed(Origin, defaults | metadata)
    except NOT_OURS as error:
        raise ValueError(
            f"{path} does not say which model these weights belong to: {_reason(error)}"
        ) from None


def read_arrays(path: Path | str) -> dict[str, Array]:
    """The arrays in a file of weights."""
    path = as_path(path)
    try:
        return load(_read_weights(path))
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:
        # safetensors raises the last three for floats that NumPy does not have
        raise ValueError(f"{path} is not a file of weights: {error!r}") from None


def _read_weights(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"expected a file of weights at {path}, but there is none")
    content = path.read_bytes()
    if b'"minicnn":' in _header(content) and not _is_whole(content):
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one that was written")
    return content


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Everything needed to resume as if training had never stopped. Random numbers follow from the
    seed, the epoch and the step, so no generator is stored.

    arrays: the parameters and the state of the network
    optimizer: the optimizer's state
    network: the layers of the network, from `describe`
    data_sha256: the hash of the training set, from `data_sha256`
    versions: of the software and the machine
    """

    arrays: dict[str, Array]
    optimizer: dict[str, Array]
    position: Position
    settings: Settings
    origin: Origin
    network: str
    data_sha256: str
    versions: dict[str, str]

    @classmethod
    def of(
        cls,
        net: Layer,
        optimizer: Optimizer,
        position: Position,
        settings: Settings,
        origin: Origin,
        data_sha256: str,
    ) -> "Checkpoint":
        """A copy of the present state. Raises TrainingError if a loss or a weight is not finite."""
        position.read()
        arrays = copy.deepcopy(_on_host(net.arrays))
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise TrainingError(
                    f"{name} is not finite after {position.place}; a learning rate "
                    f"below {settings.lr:g} may help"
                )
        return cls(
            arrays,
            copy.deepcopy(_on_host(optimizer.state)),
            copy.deepcopy(position),
            settings,
            origin,
            describe(net),
            data_sha256,
            versions(),
        )

    def restore(self, net: Layer, optimizer: Optimizer) -> None:
        """Copies the state into a network and an optimizer with the same settings. Raises
        ValueError if names, shapes or dtypes differ."""
        net.load_params(self.arrays)
        optimizer.load_state(
            {name: to_device(array, net.device) for name, array in self.optimizer.items()}
        )


def save_checkpoint(checkpoint: Checkpoint, path: Path | str) -> None:
    """Writes a checkpoint to one file."""
    arrays = {
        **{WEIGHTS + name: array for name, array in checkpoint.arrays.items()},
        **{OPTIMIZER + name: array for name, array in checkpoint.optimizer.items()},
    }
    rest = dataclasses.replace(checkpoint, arrays={}, optimizer={})
    write_atomically(as_path(path), _with_sum(arrays, dataclasses.asdict(rest)))


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Reads a checkpoint. Raises DamagedCheckpoint, with the path, if it has changed since it was
    written, and ValueError if another version wrote it."""
    path = as_path(path)
    content = path.read_bytes()
    if not _is_whole(content):
        raise DamagedCheckpoint(f"{path} is damaged: its SHA-256 is not the one that was written")
    try:
        arrays = load(content)
        return dataclasses.replace(
            _typed(Checkpoint, _metadata(content)),
            arrays=_part_of(arrays, WEIGHTS),
            optimizer=_part_of(arrays, OPTIMIZER),
        )
    except (SafetensorError, *NOT_OURS) as error:
        raise ValueError(
            f"{path} is not a checkpoint of this version of minicnn, {__version__}: "
            f"{_reason(error)}"
        ) from None


def describe(net: Layer) -> str:
    """The layers of a network as text, the same in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(net))  # for objects without a __repr__


def data_sha256(data: Dataset) -> str:
    """The SHA-256 over the images and the labels, their types and shapes, and over the names of
    the files that they are from."""
    total = hashlib.sha256()
    for array in (data.images, data.labels):
        array = np.ascontiguousarray(to_device(array, "cpu"))
        total.update(f"{array.dtype.str} {array.shape} ".encode())
        total.update(array.data)
    for file in data.files:
        total.update(f"{file!r} ".encode())
    return total.hexdigest()


def versions() -> dict[str, str]:
    """The versions that the last digits of a result may depend on."""
    return {
        "minicnn": __version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
    }


def _typed(kind: Any, value: Any) -> Any:
    """JSON's `value` as the type `kind`. Raises TypeError if it cannot be one."""
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        if wrong := hints.keys() ^ value.keys():
            raise TypeError(f"missing or unknown: {', '.join(sorted(wrong))}")
        return kind(**{name: _typed(hint, value[name]) for name, hint in hints.items()})
    if origin is dict and type(value) is dict:
        return {name: _typed(inner[1], item) for name, item in value.items()}
    if origin is list and type(value) is list:
        return [_typed(inner[0], item) for item in value]
    if origin is tuple and type(value) is list:
        kinds = inner[:1] * len(value) if inner[-1] is ... else inner
        return tuple(_typed(hint, item) for hint, item in zip(kinds, value, strict=True))
    if origin is UnionType:  # with None
        return None if value is None else _typed(inner[0], value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {value!r:.40}")
    if kind is int and value.bit_length() > 128:
        raise TypeError(f"expected an integer of at most 128 bits, got {value!r:.40}")
    return value


def _reason(error: Exception) -> str:
    """What was wrong, on one line."""
    text = f"there is no {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(text.split())


def _on_host(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: to_device(array, "cpu") for name, array in arrays.items()}


def _part_of(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _with_sum(arrays: Mapping[str, Array], metadata: dict[str, Any]) -> bytes:
    """A safetensors file with the metadata and the sum of all its bytes. The metadata are a single
    entry of JSON, because safetensors may write several in any order."""
    contiguous = {name: np.asarray(array, order="C") for name, array in _on_host(arrays).items()}
    try:
        entry = json.dumps({"sha256": NO_SUM.decode()} | metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be values that JSON can hold: {error}") from None
    content = save(contiguous, {"minicnn": entry})
    return content.replace(NO_SUM, _sum_of(content), 1)


def _is_whole(content: bytes) -> bool:
    """Whether the sum in the metadata is that of all bytes."""
    try:
        sha256 = json.loads(_entry(content))["sha256"].encode()
    except NOT_OURS:
        return False
    return _sum_of(content.replace(sha256, NO_SUM, 1)) == sha256


def _sum_of(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _metadata(content: bytes) -> dict[str, Any]:
    metadata = json.loads(_entry(content))
    return {name: value for name, value in metadata.items() if name != "sha256"}


def _entry(content: bytes) -> str:
    return json.loads(_header(content))["__metadata__"]["minicnn"]


def _header(content: bytes) -> bytes:
    """The header, which is JSON; a safetensors file begins with its length, in 8 bytes."""
    return content[8 : 8 + int.from_bytes(content[:8], "little")]
