"""Augmentation against what it may make of an image, with the frequencies that it promises.

A frequency may be off by five standard deviations; the seeds are fixed.
"""

import importlib
import itertools
import sys

import numpy as np
import pytest
import strict_cupy
from strict_cupy import counts

from minicnn.backend import device_of, gpu_problem
from minicnn.datasets import Augmentation

ALL = Augmentation(mirror=True, shift=2, erase=0.5)
CASES = [
    Augmentation(),
    Augmentation(mirror=True),
    Augmentation(shift=2),
    Augmentation(erase=0.5),
    ALL,
]


def random_images(*shape):
    images = np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)  # no zeros
    images.flags.writeable = False
    return images


def assert_even(counts):
    """All of these are as frequent as they should be if they are equally likely."""
    mean = np.mean(counts)
    np.testing.assert_allclose(counts, mean, rtol=0, atol=5 * mean**0.5)


@pytest.mark.parametrize("mirror, shift", [(True, 2), (True, 0), (False, 2), (False, 1)])
def test_each_image_is_one_of_its_crops_and_all_are_as_frequent(mirror, shift):
    """Each image has its own, the same for all channels."""
    images = random_images(20_000, 3, 5, 4)
    new = Augmentation(mirror, shift)(images, np.random.default_rng(0))
    padding = (0, 0), (0, 0), (shift, shift), (shift, shift)
    padded, places = np.pad(images, padding), range(2 * shift + 1)
    is_crop = []
    for top, left, step in itertools.product(places, places, (1, -1)[: 1 + mirror]):
        crop = padded[:, :, top : top + 5, left : left + 4]
        is_crop.append((new == crop[..., ::step]).all(axis=(1, 2, 3)))
    np.testing.assert_array_equal(np.sum(is_crop, axis=0), 1)
    assert_even(np.sum(is_crop, axis=1))


def erasures(shape, probability=1.0):
    """(which pixels are erased (N, H, W), the images (N, C, H, W)), found out by comparing what
    becomes of black and of white images: only noise is the same in both."""
    black, white = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
    erase = Augmentation(erase=probability)
    black, white = (erase(images, np.random.default_rng(0)) for images in (black, white))
    same = black == white
    np.testing.assert_array_equal(black[~same], 0)
    np.testing.assert_array_equal(white[~same], 255)
    np.testing.assert_array_equal(same, same[:, :1].repeat(shape[1], axis=1))  # all channels
    return same[:, 0], black


def test_what_is_erased_is_a_rectangle_of_the_promised_size_anywhere():
    n, h, w = 4000, 40, 60
    erased, _ = erasures((n, 2, h, w))
    rows, columns = erased.any(axis=2), erased.any(axis=1)
    np.testing.assert_array_equal(erased, rows[:, :, None] & columns[:, None, :])
    sides = []
    for lines in rows, columns:
        length, size = lines.sum(axis=1), lines.shape[1]
        first, last = lines.argmax(axis=1), size - 1 - lines[:, ::-1].argmax(axis=1)
        np.testing.assert_array_equal(last - first + 1, length)  # without gaps
        free = size - length
        places = first[free > 0] / free[free > 0]
        assert set(places) >= {0, 1}
        assert places.mean() == pytest.approx(0.5, abs=5 * places.std() / n**0.5)
        sides.append((length, size))
    lower, upper = ([(length + d) / size for length, size in sides] for d in (-0.5, 0.5))  # rounded
    assert (upper[0] * upper[1] >= 0.02).all() and (lower[0] * lower[1] <= 0.33).all()
    assert (upper[0] / lower[1] >= 0.3).all() and (lower[0] / upper[1] <= 1 / 0.3).all()
    area = erased.mean(axis=(1, 2))
    assert area.mean() == pytest.approx((0.02 + 0.33) / 2, abs=5 * 0.31 / 12**0.5 / n**0.5)
    assert area.min() < 0.03 and area.max() > 0.31
    height, width = (length / size for length, size in sides)
    logs = np.log(height / width)
    assert logs.mean() == pytest.approx(0, abs=5 * logs.std() / n**0.5)
    assert logs.std() == pytest.approx(2 * np.log(1 / 0.3) / 12**0.5, rel=0.05)  # uniform


def test_as_many_images_are_erased_as_was_asked():
    n, probability = 10_000, 0.3
    erased, _ = erasures((n, 1, 20, 20), probability)
    deviation = (probability * (1 - probability) / n) ** 0.5
    assert erased.any(axis=(1, 2)).mean() == pytest.approx(probability, abs=5 * deviation)


def test_noise_is_any_byte_another_one_in_each_image_channel_and_pixel():
    erased, images = erasures((1000, 2, 20, 30))
    noise = images.transpose(0, 2, 3, 1)[erased].astype(float)  # (pixels, channels)
    assert_even(np.bincount(noise.astype(int).ravel(), minlength=256))
    pairs = [noise.T, (noise[:-1, 0], noise[1:, 0])]  # channels; neighbours
    both = erased[:-1] & erased[1:]
    pairs.append((images[:-1, 0][both], images[1:, 0][both]))  # images
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / len(a) ** 0.5


def test_mirrored_images_are_erased_as_often_as_others():
    images = np.zeros((20_000, 1, 8, 12), np.uint8)
    images[..., 6:] = 255
    new = Augmentation(mirror=True, erase=0.5)(images, np.random.default_rng(0))
    flipped = images[..., ::-1]
    mirrored = (new == flipped).mean(axis=(1, 2, 3)) > 0.5
    before = np.where(mirrored[:, None, None, None], flipped, images)
    erased = (new != before).any(axis=(1, 2, 3))
    assert_even(np.bincount(2 * mirrored + erased))


@pytest.mark.parametrize("augmentation", CASES)
def test_the_generator_decides_and_the_images_are_new(augmentation):
    images = random_images(64, 3, 8, 9)  # only to be read
    rng = np.random.default_rng(0)
    first, second = augmentation(images, rng), augmentation(images, rng)
    assert first.dtype == np.uint8 and first.shape == images.shape
    assert not np.shares_memory(first, images) and first.flags.writeable
    assert (first != second).any() == (augmentation != Augmentation())
    np.testing.assert_array_equal(augmentation(images, np.random.default_rng(0)), first)
    batch_last = np.asarray(images.transpose(1, 2, 3, 0), order="C").transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(augmentation(batch_last, np.random.default_rng(0)), first)


@pytest.mark.parametrize(
    "shape, shift",
    [((0, 1, 28, 28), 3), ((5, 1, 1, 1), 0), ((5, 2, 2, 3), 1), ((5, 0, 4, 4), 3)],
)
def test_no_images_and_tiny_ones(shape, shift):
    new = Augmentation(True, shift, 1.0)(np.ones(shape, np.uint8), np.random.default_rng(0))
    assert new.shape == shape and new.dtype == np.uint8


def test_nothing_to_do_gives_a_copy():
    images = random_images(3, 1, 4, 4)
    np.testing.assert_array_equal(Augmentation()(images, np.random.default_rng(0)), images)


NO_GPU = pytest.mark.skipif(bool(gpu_problem()), reason=str(gpu_problem()))


@pytest.mark.parametrize("place", ["strict double", pytest.param("cupy", marks=NO_GPU)])
@pytest.mark.parametrize("augmentation", CASES)
def test_a_gpu_makes_the_same_images(augmentation, place, monkeypatch):
    """Nothing is read back, and nothing waits for the device."""
    if place == "strict double":
        monkeypatch.setitem(sys.modules, "cupy", strict_cupy.cupy)
    cupy, images = importlib.import_module("cupy"), random_images(64, 3, 8, 9)
    on_gpu, before = cupy.asarray(images), (counts.reads, counts.waits)
    new = augmentation(on_gpu, np.random.default_rng(0))
    assert (counts.reads, counts.waits) == before
    assert device_of(new) == "gpu"
    expected = augmentation(images, np.random.default_rng(0))
    np.testing.assert_array_equal(new.get(), expected, strict=True)
    np.testing.assert_array_equal(on_gpu.get(), images)


def test_settings_are_kept_as_plain_values():
    augmentation = Augmentation(np.True_, np.int64(2), np.float64(0.5))
    assert repr(augmentation) == repr(ALL) == "Augmentation(mirror=True, shift=2, erase=0.5)"


@pytest.mark.parametrize("shift", [8, 9, 10**30])
def test_no_image_is_shifted_out_of_sight(shift):
    images = np.zeros((2, 1, 8, 9), np.uint8)
    sentence = rf"shift must be below the height and width of images \(2, 1, 8, 9\), got {shift}"
    with pytest.raises(ValueError, match=sentence):
        Augmentation(shift=shift)(images, np.random.default_rng(0))
    assert Augmentation(shift=7)(images, np.random.default_rng(0)).shape == images.shape
