"""Weights in a file: safetensors, under the names and shapes of PyTorch.

Written beside its place, flushed to disk and renamed, so that at every moment the file is whole.
"""

import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from minicnn.backend import to_device
from minicnn.layers.base import Layer


def write_atomically(path: Path | str, content: bytes) -> None:
    """The file `path` with `content`: the old file or the new one, never a part of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_weights(net: Layer, path: Path | str) -> None:
    """Writes the parameters of `net` to a safetensors file."""
    host = {name: to_device(parameter, "cpu") for name, parameter in net.params.items()}
    write_atomically(path, save({name: np.ascontiguousarray(p) for name, p in host.items()}))


def load_weights(net: Layer, path: Path | str) -> None:
    """Copies the parameters in a safetensors file into `net`, on whatever device it is.

    Raises ValueError, and leaves `net` as it is, if the file is not whole or has other names,
    shapes or dtypes.
    """
    if not Path(path).is_file():
        raise ValueError(f"expected a file of weights at {path}, but there is none")
    try:
        net.load_params(load_file(path))
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        # the last two are what safetensors makes of floats that NumPy does not have
        raise ValueError(f"{path} does not hold the weights of this network: {error}") from None
