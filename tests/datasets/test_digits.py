"""The built-in digits: what they look like, and that the seed decides all of it."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from minicnn.datasets import digits

COUNTS = {"train": 600, "test": 200}


@pytest.fixture(scope="module")
def parts():
    return digits(**COUNTS, seed=0)


def pixels(part):
    return part.images.reshape(len(part), -1) / 255


def test_shapes_and_labels(parts):
    for part, n in zip(parts, COUNTS.values(), strict=True):
        assert part.images.shape == (n, 1, 28, 28) and part.images.dtype == np.uint8
        assert set(part.labels.tolist()) == set(range(10))
        assert part.classes == tuple("0123456789")


def test_one_seed_gives_one_data_set(parts):
    """Each part does so whatever the size of the other."""
    train, _ = digits(train=COUNTS["train"], test=3, seed=0)
    _, test = digits(train=3, test=COUNTS["test"], seed=0)
    for again, part in zip((train, test), parts, strict=True):
        np.testing.assert_array_equal(again.images, part.images)
        np.testing.assert_array_equal(again.labels, part.labels)
    assert (digits(**COUNTS, seed=1)[0].labels != train.labels).any()


def test_no_image_is_drawn_twice(parts):
    images = [image.tobytes() for part in parts for image in part.images]
    assert len(set(images)) == len(images)
    same_count = digits(train=10, test=10)
    assert (same_count[0].labels != same_count[1].labels).any()


def test_digits_are_bright_on_dark(parts):
    x = pixels(parts[0])
    assert 0.08 < x.mean() < 0.2
    assert (x.max(axis=1) > 0.5).all()


def test_digits_stand_in_the_middle(parts):
    x, labels = pixels(parts[0]), parts[0].labels
    mean = x[(labels == 0) | (labels == 8)].mean(axis=0).reshape(28, 28)  # the symmetrical ones
    mean -= np.median(mean)  # the noise of the background
    position = np.arange(28) - 13.5
    assert abs(mean.sum(axis=0) @ position / mean.sum()) < 0.4
    assert abs(mean.sum(axis=1) @ position / mean.sum()) < 0.4


def test_labels_tell_what_is_drawn(parts):
    """Plain digits of one font resemble the mean image of their class more than any other."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font = ImageFont.truetype(str(path), 25)
    x, labels = pixels(parts[0]), parts[0].labels
    means = np.stack([x[labels == digit].mean(axis=0) for digit in range(10)])
    means -= means.mean(axis=1, keepdims=True)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    for digit in range(10):
        plain = Image.new("L", (28, 28))
        ImageDraw.Draw(plain).text((14, 23), str(digit), fill=255, font=font, anchor="ms")
        assert (means @ np.asarray(plain).ravel()).argmax() == digit
