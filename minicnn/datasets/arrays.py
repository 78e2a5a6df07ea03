"""Arrays of any usual layout and range as images of bytes, and their labels.

With low..high the range of all values in all parts of a data set, x becomes

    pixel = 255 * (x - black) / (white - black)                                            (1)

where black..white is 0..255 if high is from 64 to 255, 0..1 if high is at most 1, and else, or if
low is negative, low..high.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minicnn.backend import Array
from minicnn.datasets.found import Labelled
from minicnn.datasets.idx import DataError

ROWS = 1000  # images scaled at a time, to save memory


def as_images(arrays: Sequence[Array], path: Path) -> list[Array]:
    """Each array as uint8 (N, C, H, W).

    They are (N, H, W), (N, H, W, C), (N, C, H, W) or (N, H*H), where C is 1 or 3, of any numbers.
    Raises DataError for anything else.
    """
    planes = [_laid_out(array, path) for array in arrays]
    low = min(float(array.min()) for array in planes)
    high = max(float(array.max()) for array in planes)
    if not math.isfinite(high - low):
        raise DataError(f"{path} holds pixels that are not finite, or too far apart: replace them")
    if low >= 0 and (high <= 1 or 64 <= high <= 255):
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    return [_scaled(array, low, high) for array in planes]


def _laid_out(array: Array, path: Path) -> Array:
    """`array` as (N, C, H, W), sharing memory."""
    shape = array.shape
    if 0 not in shape:
        if len(shape) == 2 and (side := math.isqrt(shape[1])) ** 2 == shape[1]:
            return array.reshape(-1, 1, side, side)
        if len(shape) == 3:
            return array[:, np.newaxis]
        if len(shape) == 4 and shape[3] in (1, 3):
            return array.transpose(0, 3, 1, 2)
        if len(shape) == 4 and shape[1] in (1, 3):
            return array
    raise DataError(
        f"{path} holds images {shape}, expected (N, H, W), (N, H, W, C), (N, C, H, W) or (N, H*H), "
        "where C is 1 or 3"
    )


def _scaled(array: Array, black: float, white: float) -> Array:
    if array.dtype == np.uint8 and (black, white) == (0, 255):
        return np.ascontiguousarray(array)
    images = np.empty(array.shape, np.uint8)
    scale = 255 / ((white - black) or 1)
    for first in range(0, len(array), ROWS):
        part = array[first : first + ROWS].astype(np.float64)
        images[first : first + ROWS] = np.rint((part - black) * scale)  # (1)
    return images


def as_labels(labels: Array, n: int, path: Path) -> Array:
    """Integers (n,) from labels (n,) or (n, 1) of any numeric type."""
    if labels.shape not in ((n,), (n, 1)):
        raise DataError(f"{path} holds labels {labels.shape} for {n} images, expected ({n},)")
    labels = labels.reshape(n)
    if not (np.isfinite(labels) & (np.abs(labels) < 2**53) & (np.rint(labels) == labels)).all():
        raise DataError(f"{path} holds labels that are not integers")
    return labels.astype(np.int64)


def labelled(pairs: Sequence[tuple[Array, Array]], path: Path) -> list[Labelled]:
    """(images, labels) of each part of a data set."""
    images = as_images([x for x, _ in pairs], path)
    return [Labelled(x, as_labels(y, len(x), path)) for x, (_, y) in zip(images, pairs)]
