"""Images with labels, and the batches that training takes from them."""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from minicnn.arguments import are_strings, float_dtype, generator, is_integer, require, shown
from minicnn.backend import Array, array_module, choose_device, device_of, to_device
from minicnn.checks import check_device


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images in memory, on the host or on a GPU; checked when it is made.

    images: uint8 (N, C, H, W)
    labels: any integers (N,), each the index of a class; kept as int64, since arithmetic such as
        10 * label + prediction wraps around in uint8
    classes: the classes' names
    name: the data set's name

    Raises ValueError for arrays that do not fit each other or the classes.
    """

    images: Array
    labels: Array
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        images, labels, names = self.images, self.labels, self.classes
        _check_bytes(images)
        array_module(labels)
        require(are_strings(names), "classes must be a tuple of names, as ('cat', 'dog')", names)
        require(isinstance(self.name, str), "name must be a string", self.name)
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise ValueError(
                f"expected integer labels {images.shape[:1]}, one for each image, "
                f"but got {labels.dtype} {labels.shape}"
            )
        check_device("Dataset", "labels", labels, images)
        wrong = (labels < 0) | (labels >= len(names))
        if wrong.any():
            first = int(wrong.argmax())
            raise ValueError(
                f"expected labels 0 to {len(names) - 1} for {len(names)} classes "
                f"but label {first} is {int(labels[first])}"
            )
        object.__setattr__(self, "labels", labels.astype(np.int64, copy=False))
        object.__setattr__(self, "classes", tuple(names))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> "Dataset":
        """The images and labels of a slice, as in `ds[:1000]`; shares memory with this one."""
        if not isinstance(part, slice):
            raise TypeError(f"expected a slice, as in ds[:1000], but got {shown(part)}")
        try:
            part.indices(len(self))
        except (TypeError, ValueError):
            raise ValueError(
                f"expected a slice of integers, as in ds[:1000], but got {shown(part)}: take int() "
                "of a number that is computed, and no step of 0"
            ) from None
        return dataclasses.replace(self, images=self.images[part], labels=self.labels[part])

    def to(self, device: str) -> "Dataset":
        """This data set on `device`, `"cpu"` or `"gpu"`: itself if it is there already."""
        device = choose_device(device)
        if device_of(self.images) == device:
            return self
        return dataclasses.replace(
            self, images=to_device(self.images, device), labels=to_device(self.labels, device)
        )

    def batch(
        self,
        index: Array | slice,
        dtype: DTypeLike = np.float32,
        change: Callable[[Array], Array] | None = None,
    ) -> tuple[Array, Array]:
        """Images (n, C, H, W) of `dtype`, scaled to 0..1, and labels (n,), of the given indices;
        `change` is applied to the images of bytes before they are scaled.

        The memory of the images is batch-last, which the layers are fastest with:
        `x.transpose(1, 2, 3, 0)` is contiguous.
        """
        if not isinstance(index, slice):
            index = to_device(index, device_of(self.images))
        try:
            images, labels = self.images[index], self.labels[index]
        except (IndexError, TypeError) as error:
            raise ValueError(
                f"expected a slice or indices (n,) of {len(self)} images but got {shown(index)}: "
                f"{error}"
            ) from None
        require(labels.ndim == 1, "index must be a slice or indices (n,)", index)
        return as_input(images if change is None else change(images), dtype), labels


def as_input(images: Array, dtype: DTypeLike = np.float32) -> Array:
    """Images of bytes (N, C, H, W) as `dtype`, scaled to 0..1, with the batch last in memory."""
    _check_bytes(images)
    xp, dtype = array_module(images), float_dtype(dtype)
    # moved as bytes, a quarter of the memory of float32
    pixels = xp.ascontiguousarray(images.transpose(1, 2, 3, 0))  # (C, H, W, N)
    return xp.divide(pixels, 255, dtype=dtype).transpose(3, 0, 1, 2)


def batches(
    n: int, batch_size: int, rng: np.random.Generator | None = None, device: str = "cpu"
) -> list[Array]:
    """The indices 0 to n - 1 in arrays of `batch_size` on `device`, the last one perhaps smaller:
    in order, or shuffled by `rng`."""
    if not (is_integer(n) and is_integer(batch_size)) or n <= 0 or batch_size <= 0:
        raise ValueError(
            f"expected integers n and batch_size above 0 but got {shown(n)} and {shown(batch_size)}"
        )
    order = to_device(np.arange(n) if rng is None else generator(rng).permutation(n), device)
    return [order[first : first + batch_size] for first in range(0, n, batch_size)]


def _check_bytes(images: Array) -> None:
    array_module(images)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"expected images of uint8 (N, C, H, W) but got {images.dtype} {images.shape}"
        )
