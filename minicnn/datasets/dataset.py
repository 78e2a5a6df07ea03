"""Images with labels, and the batches that training takes from them."""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from minicnn.arguments import are_strings, float_dtype, generator, is_integer, require, shown
from minicnn.backend import Array, array_module, choose_device, device_of, to_device
from minicnn.checks import check_device
from minicnn.datasets.preparation import Preparation


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images in memory, on the host or on a GPU, checked when they are put together.

    images: uint8 (N, C, H, W)
    labels: any integers (N,), each the index of a class; kept as int64, since arithmetic such as
        10 * label + prediction wraps around in uint8
    classes: the classes' names
    name: the data set's name
    preparation: how a picture file becomes an image like these
    files: where each image is from, (N,) names of files; empty for images that are from no files
        of their own

    Raises ValueError for arrays that do not fit each other or the classes.
    """

    images: Array
    labels: Array
    classes: tuple[str, ...]
    name: str
    preparation: Preparation = Preparation()
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels, names = self.images, self.labels, self.classes
        _check_bytes(images)
        array_module(labels)
        require(are_strings(names), "classes must be a tuple of names, as ('cat', 'dog')", names)
        require(isinstance(self.name, str), "name must be a string", self.name)
        is_preparation = isinstance(self.preparation, Preparation)
        require(is_preparation, "preparation must be a Preparation", self.preparation)
        is_complete = are_strings(self.files) and len(self.files) in (0, len(images))
        require(is_complete, f"files must be a tuple of {len(images)} names", self.files)
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
        object.__setattr__(self, "files", tuple(self.files))

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
                f"expected a slice of integers, as in ds[:1000], but got {shown(part)}: convert "
                "computed numbers with int(), and use no step of 0"
            ) from None
        images, labels = self.images[part], self.labels[part]
        return dataclasses.replace(self, images=images, labels=labels, files=self.files[part])

    def to(self, device: str) -> "Dataset":
        """This data set on `device`, `"cpu"` or `"gpu"`; itself if it is already there."""
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
        """Images (n, C, H, W) of `dtype`, scaled to 0..1, and labels (n,), for the given indices;
        `change` is applied to the bytes of the images before they are scaled.

        The memory of the images is batch-last, with which the layers are fastest:
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
            f"expected images as uint8 (N, C, H, W) but got {images.dtype} {images.shape}"
        )
