"""IDX files, the format of MNIST and Fashion-MNIST: an array of bytes after a header of its sizes.

All integers are big-endian; T is the type of the values (8 for unsigned bytes, 12 for integers of
4 bytes), D the number of dimensions, S the bytes of a value:

    file = 0 0 T D,  n_1 ... n_D (4 bytes each),  values in row-major order
    bytes of values = n_1 * n_2 * ... * n_D * S                                            (1)

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits".
"""

import contextlib
import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import DTypeLike

from minicnn.arguments import integer, shown, sizes
from minicnn.backend import Array
from minicnn.files import as_path

REMEDY = "delete it and download it again"
MEGABYTE = 1 << 20
TYPES: dict[int, np.dtype] = {8: np.dtype("u1"), 12: np.dtype(">i4")}


class DataError(ValueError):
    """A data file is missing, damaged or not the right one."""


def read_idx(
    path: Path | str,
    shape: tuple[int, ...] | None = None,
    max_bytes: int = 1024 * MEGABYTE,
    dtype: DTypeLike = np.uint8,
) -> Array:
    """The array in the IDX file `path`, plain or gzipped: uint8, or int32 if that is `dtype`.

    Raises DataError, in one sentence with the remedy, unless the file is a complete IDX file of
    `dtype` with the shape `shape`, if that is given, and of at most `max_bytes`. It reads no more
    than the header claims, and takes no memory before there are bytes to fill it, so that a small
    file cannot exhaust memory.
    """
    path = as_path(path)
    shape = None if shape is None else sizes("read_idx", shape)
    integer("max_bytes", max_bytes, 1)
    kind = _kind(dtype)
    try:
        with open(path, "rb") as file:
            gzipped = file.peek(2)[:2] == b"\x1f\x8b"
            with cast(IO[bytes], gzip.open(file) if gzipped else file) as content:
                found = _read_shape(content, path, kind)
                _check_claim(found, path, shape, max_bytes, kind)
                return _read_values(content, path, found, kind)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}): {REMEDY}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _kind(dtype: DTypeLike) -> int:
    """The number of a type in TYPES."""
    for kind, known in TYPES.items():
        with contextlib.suppress(TypeError, ValueError):
            if dtype is not None and np.dtype(dtype) in (known, known.newbyteorder("=")):
                return kind
    raise ValueError(f"dtype must be uint8 or int32, got {shown(dtype)}")


def _read_shape(file: IO, path: Path | str, expected: int) -> tuple[int, ...]:
    start = file.read(4)
    if not start:
        raise DataError(f"{path} is empty, expected an IDX file: {REMEDY}")
    if start.lstrip(b"\xef\xbb\xbf\r\n\t ").startswith(b"<"):
        raise DataError(
            f"{path} looks like an HTML page: the download was probably redirected; {REMEDY}"
        )
    if start[:2] != b"\0\0" or len(start) < 4:
        raise DataError(
            f"{path} is not an IDX file: it starts with {start.hex(' ')}, expected 00 00; {REMEDY}"
        )
    kind, ndim = start[2:]
    if kind != expected:
        name = "unsigned bytes" if expected == 8 else "integers of 4 bytes"
        raise DataError(
            f"{path} holds values of IDX type {kind:#04x}, expected {name}, {expected:#04x}: "
            "convert it, or replace it with the right file"
        )
    if not 1 <= ndim <= 64:  # NumPy's limit
        raise DataError(f"{path} claims {ndim} dimensions, expected 1 to 64: {REMEDY}")
    sizes = file.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise DataError(
            f"{path} is truncated: its header has {4 + len(sizes)} bytes, expected {4 + 4 * ndim}; "
            f"{REMEDY}"
        )
    shape = struct.unpack(f">{ndim}I", sizes)
    if 0 in shape:
        raise DataError(f"{path} claims {_times(shape)} values, expected at least one: {REMEDY}")
    return shape


def _check_claim(
    found: tuple[int, ...],
    path: Path | str,
    shape: tuple[int, ...] | None,
    max_bytes: int,
    kind: int,
) -> None:
    if shape is not None and found != shape:
        raise DataError(
            f"{path} holds {_times(found)} values, expected {_times(shape)}: "
            "replace it with the right file"
        )
    if math.prod(found) * TYPES[kind].itemsize > max_bytes:  # (1)
        raise DataError(
            f"{path} claims {_times(found)} values, expected at most {max_bytes:,} bytes: "
            f"{REMEDY}, or raise max_bytes"
        )


def _read_values(file: IO, path: Path | str, shape: tuple[int, ...], kind: int) -> Array:
    size = math.prod(shape) * TYPES[kind].itemsize  # (1)
    values = bytearray()
    while len(values) <= size:  # one byte more shows that the file does not end where it should
        piece = file.read(min(MEGABYTE, size + 1 - len(values)))
        if not piece:
            break
        values += piece
    if len(values) != size:
        found = f"{len(values):,}" if len(values) < size else "more"
        values_in_bytes = _times(shape if kind == 8 else (*shape, TYPES[kind].itemsize))
        raise DataError(
            f"{path} is damaged: its header promises {values_in_bytes} = {size:,} bytes, "
            f"found {found}; {REMEDY}"
        )
    array = np.frombuffer(values, TYPES[kind]).reshape(shape)
    return array if kind == 8 else array.astype(np.int32)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
