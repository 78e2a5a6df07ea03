"""minicnn data: what a data set holds, as text and as a picture."""

import argparse
import hashlib

import numpy as np

from minicnn.backend import Array
from minicnn.cli.data import load
from minicnn.datasets import Dataset
from minicnn.plotting import labelled_images, save_figure
from minicnn.text import align, number

PER_CLASS = 8  # images in a row of the picture
CLASSES = 12  # rows at most


def look(args: argparse.Namespace) -> None:
    """Print what a data set holds, and draw some of its images."""
    args.data = args.path
    train, test = load(args.path, args)
    print(report(train, test))
    index = some_of_each_class(train)
    save_figure(labelled_images(train, index, PER_CLASS), args.out)
    print(f"{args.out} shows {number(len(index), 'image')}")


def report(train: Dataset, test: Dataset) -> str:
    """Counts, sizes, mean and deviation, and images that occur more than once."""
    channels, height, width = train.images.shape[1:]
    counts = [np.bincount(part.labels, minlength=len(train.classes)) for part in (train, test)]
    rows = [("class", "train", "test")]
    rows += [(name, f"{a:,}", f"{b:,}") for name, a, b in zip(train.classes, *counts)]
    mean, deviation = mean_and_deviation(train)
    return "\n".join(
        [
            f"{train.name}: {len(train):,} images to train, {len(test):,} to test, "
            f"{height}x{width}, {'in colour' if channels == 3 else 'grey'}",
            "",
            *align(rows, "<>>"),
            "",
            f"pixels, from 0 to 1: mean {mean:.4f}, standard deviation {deviation:.4f}",
            duplicates(train, test),
        ]
    )


def mean_and_deviation(data: Dataset) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, from how often each of the 256 values occurs."""
    counts, values = np.zeros(256), np.arange(256) / 255
    for image in data.images:
        counts += np.bincount(image.ravel(), minlength=256)
    mean = counts @ values / counts.sum()
    return float(mean), float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))


def duplicates(train: Dataset, test: Dataset) -> str:
    """A line about images that are equal in every pixel, with an example of one in both parts."""
    first: dict[bytes, int] = {}
    again = contradictions = 0
    for i, image in enumerate(train.images):
        k = first.setdefault(_digest(image), i)
        again += k != i
        contradictions += int(train.labels[k] != train.labels[i])
    pairs = [(i, first.get(_digest(image))) for i, image in enumerate(test.images)]
    both = [(i, k) for i, k in pairs if k is not None]
    if not again and not both:
        return "no two images are equal"
    line = (
        f"equal images: {again:,} in train, {contradictions:,} of them with another label; "
        f"{len(both):,} of test are in train"
    )
    if both and train.files and test.files:
        line += f", {test.files[both[0][0]]} as {train.files[both[0][1]]}"
    return line


def some_of_each_class(data: Dataset) -> list[int]:
    """The indices of the first images in each of the first classes."""
    index: list[int] = []
    for label in range(min(CLASSES, len(data.classes))):
        index += (data.labels == label).nonzero()[0][:PER_CLASS].tolist()
    return index


def _digest(image: Array) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
