"""Predictions of a trained network, for picture files and for arrays of bytes.

A picture is prepared as those were that the network was trained on: its size, grey or colour, and
whether bright and dark are exchanged. Files are read by several threads, a few hundred at a time,
so that memory does not grow with their number.
"""

import dataclasses
import glob
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.arguments import flag, integer, require, shown
from minicnn.backend import Array, array_module, to_device
from minicnn.datasets import as_input
from minicnn.datasets.images import fitted
from minicnn.datasets.pictures import is_picture
from minicnn.files import as_path
from minicnn.layers import Layer
from minicnn.losses import softmax
from minicnn.runs.run_folder import open_run
from minicnn.runs.settings import Origin
from minicnn.training.chunks import images_that_fit
from minicnn.training.cores import cores

CHUNK = 256  # pictures in a forward pass, or fewer if they are large
SHARE = 16  # pictures that a thread reads at a time: one alone may take less than handing it over


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says about one picture.

    label, probability: of the most probable class
    probabilities: float64 (K,), in the order of the classes
    ranked: (label, probability) of the classes asked for, the most probable first
    """

    label: str
    probability: float
    probabilities: Array
    ranked: tuple[tuple[str, float], ...]


def load(run: Path | str, model: str | None = None) -> "Predictor":
    """The trained network of a run, from its folder or from a file of its weights; `model` is the
    new FILE.py:function of your own network, if that file has moved.

    Raises ValueError for what is not a run, or is damaged; see `open_run`.
    """
    return Predictor(*open_run(run, model))


class Predictor:
    """A trained network, and how a picture becomes its input.

    net, origin: as `open_run` returns them
    invert: whether bright and dark of each picture are exchanged; None does as in training
    """

    def __init__(self, net: Layer, origin: Origin, invert: bool | None = None) -> None:
        self.net, self.origin, self.classes = net, origin, origin.classes
        self.invert = None if invert is None else flag("invert", invert)
        channels, height, width = origin.input_shape
        self.preparation = dataclasses.replace(
            origin.preparation, size=(height, width), colour=channels == 3
        )
        if invert is not None:
            self.preparation = dataclasses.replace(self.preparation, invert=self.invert)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.origin.input_shape))
        return f"<{self.origin.model} on {self.origin.data}: {shape}, {len(self.classes)} classes>"

    def predict(self, images: Any, top: int | None = None) -> list[Prediction]:
        """A prediction for each picture.

        images: a path of a picture, of a folder or with wildcards; a list of those; or uint8
            (H, W), (H, W, C), (N, H, W), (N, H, W, C) or (N, C, H, W), where C is 1 or 3. Channels
            are first if the second of four axes is 1 or 3; a last axis of 1 or 3 is C
        top: how many classes to rank; None for all

        Pictures are prepared as in training. Arrays in the network's height and width count as
        prepared: bright and dark are exchanged only if `invert` asks for it.

        Raises ValueError or OSError for the first picture that cannot be used.
        """
        top = self._top(top)
        if isinstance(images, (str, os.PathLike)):
            images = [images]
        if isinstance(images, (list, tuple)) and all(
            isinstance(image, (str, os.PathLike)) for image in images
        ):
            found = [file for image in images for file in picture_files(image)]
            results = [result for _, result in self.each(found, top)]
            for result in results:
                if isinstance(result, Exception):
                    raise result
            return [result for result in results if isinstance(result, Prediction)]
        pixels = _channels_last(images)
        chunks = (pixels[first : first + CHUNK] for first in range(0, len(pixels), CHUNK))
        return [
            prediction
            for chunk in chunks
            for prediction in self._predicted(self._prepared(chunk), top)
        ]

    def each(
        self, files: Sequence[Path | str], top: int | None = None
    ) -> Iterator[tuple[Path | str, Prediction | Exception]]:
        """(file, its prediction or why there is none) for each file, in order."""
        top = self._top(top)
        with ThreadPoolExecutor(cores()) as threads:
            for first in range(0, len(files), CHUNK):
                part = files[first : first + CHUNK]
                share = min(SHARE, math.ceil(len(part) / cores()))
                some = [part[k : k + share] for k in range(0, len(part), share)]
                read = [image for images in threads.map(self._read, some) for image in images]
                images = [image for image in read if not isinstance(image, Exception)]
                predictions = iter(self._predicted(np.concatenate(images), top) if images else [])
                for file, image in zip(part, read):
                    yield file, image if isinstance(image, Exception) else next(predictions)

    def _read(self, files: Sequence[Path | str]) -> list[Array | Exception]:
        read: list[Array | Exception] = []
        for file in files:
            try:
                self._check_channels()
                read.append(self.preparation.read(file))
            except (ValueError, OSError, Warning) as error:  # a warning, under -W error
                read.append(error)
        return read

    def _prepared(self, pictures: Array) -> Array:
        """Pictures (N, H, W, C) as images of the network's shape."""
        channels, *size = self.origin.input_shape
        fits = list(pictures.shape[1:3]) == size
        if fits and pictures.shape[3] == channels:
            images = pictures.transpose(0, 3, 1, 2)
            return 255 - images if self.invert else images
        from PIL import Image  # here, so that minicnn can be imported without it

        self._check_channels()
        invert = bool(self.invert) if fits else self.preparation.invert
        mode = "RGB" if self.preparation.colour else "L"
        prepared = np.empty((len(pictures), *self.origin.input_shape), np.uint8)
        for i, pixels in enumerate(pictures):
            grey = pixels[..., 0] if pixels.shape[2] == 1 else pixels
            whole = Image.fromarray(np.ascontiguousarray(grey))
            prepared[i] = fitted(whole.convert(mode), self.preparation.size, invert)
        return prepared

    def _predicted(self, images: Array, top: int) -> list[Prediction]:
        return [self._prediction(row, top) for row in probabilities(self.net, images)]

    def _prediction(self, row: Array, top: int) -> Prediction:
        order = np.argsort(-row, kind="stable")[:top]
        ranked = tuple((self.classes[k], float(row[k])) for k in order)
        return Prediction(*ranked[0], row, ranked)

    def _top(self, top: int | None) -> int:
        return len(self.classes) if top is None else min(len(self.classes), integer("top", top, 1))

    def _check_channels(self) -> None:
        channels = self.origin.input_shape[0]
        sentence = "pictures have 1 or 3 channels: give arrays of the network's shape"
        require(channels in (1, 3), sentence, self.origin.input_shape)


def probabilities(net: Layer, images: Array) -> Array:
    """Of each class, float64 (N, K) on the host, for images of bytes (N, C, H, W), of which up to
    a few hundred at a time are taken to the network's device."""
    size = images_that_fit(net, images.shape[1:], CHUNK)
    parts = [images[first : first + size] for first in range(0, len(images), size)]
    logits = [net(as_input(to_device(part, net.device), net.dtype)) for part in parts]
    return np.concatenate([softmax(to_device(part, "cpu").astype(np.float64)) for part in logits])


def picture_files(path: Path | str) -> list[Path]:
    """The picture that `path` names, those in this folder and its subfolders, or those that match
    its wildcards; in order. Raises ValueError if there is none."""
    path = as_path(path)
    if path.is_dir():
        return _not_empty(_pictures_in(path), path)
    if os.path.lexists(path) or not glob.has_magic(str(path)):
        return [path]
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    files = [
        inside for name in found for inside in (_pictures_in(name) if name.is_dir() else [name])
    ]
    return _not_empty(files, path)


def _pictures_in(folder: Path) -> Iterable[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names) if is_picture(name))


def _not_empty(files: Iterable[Path], path: Path) -> list[Path]:
    files = list(files)
    if not files:
        raise ValueError(f"{path} has no pictures: give a picture, or a folder with some")
    return files


def _channels_last(images: Any) -> Array:
    """uint8 pictures in one of the shapes that `predict` takes as (N, H, W, C)."""
    is_bytes = isinstance(images, np.ndarray) and images.dtype == np.uint8
    if is_bytes:
        array_module(images)
        shape, axes = images.shape, images.ndim
        if 0 in shape[1:] or (axes == 2 and 0 in shape):
            axes = 0
        if axes == 2:
            return images[np.newaxis, ..., np.newaxis]
        if axes == 3:
            return images[np.newaxis] if shape[2] in (1, 3) else images[..., np.newaxis]
        if axes == 4 and shape[1] in (1, 3):
            return images.transpose(0, 2, 3, 1)
        if axes == 4 and shape[3] in (1, 3):
            return images
    given = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else shown(images)
    raise ValueError(
        "images must be paths, or uint8 in one of the shapes (H, W), (H, W, C), (N, H, W), "
        f"(N, H, W, C) and (N, C, H, W), where C is 1 or 3, got {given}"
    )
