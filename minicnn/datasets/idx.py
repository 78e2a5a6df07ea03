"""IDX files, the format of MNIST and Fashion-MNIST: an array of bytes after a header of its sizes.

All integers are big-endian; T is the type of the values (8 for unsigned bytes), D the number of
dimensions:

    file = 0 0 T D,  n_1 ... n_D (4 bytes each),  values in row-major order
    number of values = n_1 * n_2 * ... * n_D                                               (1)

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits".
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from minicnn.arguments import integer, sizes
from minicnn.backend import Array
from minicnn.files import as_path

REMEDY = "delete it and download it again"
MEGABYTE = 1 << 20


class DataError(ValueError):
    """A data file is missing or is not what it should be."""


def read_idx(
    path: Path | str, shape: tuple[int, ...] | None = None, max_bytes: int = 1024 * MEGABYTE
) -> Array:
    """The uint8 array in the IDX file `path`, plain or gzipped.

    Raises DataError, in one sentence with the remedy, for a file that is anything but a whole IDX
    file of unsigned bytes, that has another shape than `shape`, or whose header claims more than
    `max_bytes`. No more is read than the header claims, and no memory is taken before there are
    bytes to fill it, so that no small file can exhaust it.
    """
    path = as_path(path)
    shape = None if shape is None else sizes("read_idx", shape)
    integer("max_bytes", max_bytes, 1)
    try:
        with open(path, "rb") as file:
            gzipped = file.peek(2)[:2] == b"\x1f\x8b"
            with cast(IO[bytes], gzip.open(file) if gzipped else file) as content:
                found = _read_shape(content, path)
                _check_claim(found, path, shape, max_bytes)
                return _read_values(content, path, found)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}): {REMEDY}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _read_shape(file: IO, path: Path | str) -> tuple[int, ...]:
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
    if kind != 8:
        raise DataError(
            f"{path} holds values of IDX type {kind:#04x}, expected unsigned bytes, 0x08: "
            "convert it, or put the right file in its place"
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
    found: tuple[int, ...], path: Path | str, shape: tuple[int, ...] | None, max_bytes: int
) -> None:
    if shape is not None and found != shape:
        raise DataError(
            f"{path} holds {_times(found)} values, expected {_times(shape)}: "
            "put the right file in its place"
        )
    if math.prod(found) > max_bytes:  # (1)
        raise DataError(
            f"{path} claims {_times(found)} values, expected at most {max_bytes:,}: "
            f"{REMEDY}, or raise max_bytes"
        )


def _read_values(file: IO, path: Path | str, shape: tuple[int, ...]) -> Array:
    size = math.prod(shape)  # (1)
    values = bytearray()
    while len(values) <= size:  # one byte more shows that the file does not end where it should
        piece = file.read(min(MEGABYTE, size + 1 - len(values)))
        if not piece:
            break
        values += piece
    if len(values) != size:
        found = f"{len(values):,}" if len(values) < size else "more"
        raise DataError(
            f"{path} is damaged: its header promises {_times(shape)} = {size:,} bytes, "
            f"found {found}; {REMEDY}"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
