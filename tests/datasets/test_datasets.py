"""Data sets in memory: what they accept, the batches they give, and the real Fashion-MNIST."""

import os

import numpy as np
import pytest

from minicnn.backend import gpu_problem
from minicnn.datasets import DataError, Dataset, batches, fashion_mnist, sources

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 2, 3, 5), dtype=np.uint8)
LABELS = np.array([0, 2, 1, 0, 1, 2, 2], np.uint8)
CLASSES = ("a", "b", "c")
DEVICES = [
    "cpu",
    pytest.param("gpu", marks=pytest.mark.skipif(bool(gpu_problem()), reason=str(gpu_problem()))),
]


def small(images=IMAGES, labels=LABELS):
    return Dataset(images, labels, CLASSES, "small")


def test_labels_of_bytes_do_not_wrap_around():
    labels = small().labels
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(1000 * labels, [0, 2000, 1000, 0, 1000, 2000, 2000])


@pytest.mark.parametrize(
    "images, labels, sentence",
    [
        (IMAGES / 255, LABELS, r"images as uint8 \(N, C, H, W\) but got float64 \(7, 2, 3, 5\)"),
        (IMAGES[:, 0], LABELS, r"but got uint8 \(7, 3, 5\)"),
        (IMAGES, LABELS[:6], r"labels \(7,\), one for each image, but got uint8 \(6,\)"),
        (IMAGES, LABELS[:, None], r"but got uint8 \(7, 1\)"),
        (IMAGES, LABELS / 1, r"integer labels \(7,\).* but got float64"),
        (IMAGES, LABELS + 1, "labels 0 to 2 for 3 classes but label 1 is 3"),
        (IMAGES, LABELS.astype(int) - 1, "labels 0 to 2 for 3 classes but label 0 is -1"),
    ],
)
def test_what_does_not_fit_is_refused(images, labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        small(images, labels)


def test_a_slice_is_a_dataset_and_an_index_is_not():
    part = small()[2:5]
    assert len(part) == 3
    assert (part.classes, part.name) == (CLASSES, "small")
    np.testing.assert_array_equal(part.images, IMAGES[2:5])
    np.testing.assert_array_equal(part.labels, LABELS[2:5])
    with pytest.raises(TypeError, match=r"a slice, as in ds\[:1000\], but got 3"):
        small()[3]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("index", [np.array([6, 0, 0, 3]), slice(2, 5), slice(None)])
def test_a_batch_is_scaled_and_its_memory_is_batch_last(index, dtype, device):
    x, labels = small().to(device).batch(index, dtype)
    assert x.transpose(1, 2, 3, 0).flags.c_contiguous
    if device == "gpu":
        x, labels = x.get(), labels.get()
    np.testing.assert_array_equal(x, IMAGES[index].astype(dtype) / dtype(255), strict=True)
    np.testing.assert_array_equal(labels, LABELS[index])


def test_batches_in_order():
    np.testing.assert_equal(
        batches(7, 3), [np.array([0, 1, 2]), np.array([3, 4, 5]), np.array([6])]
    )
    assert [len(index) for index in batches(6, 3)] == [3, 3]
    assert [len(index) for index in batches(2, 3)] == [2]


def test_shuffled_batches_are_a_permutation_that_the_seed_decides():
    first, again, other = (
        np.concatenate(batches(100, 32, np.random.default_rng(seed))) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(np.sort(first), np.arange(100))
    assert (first != other).any() and (first != np.arange(100)).any()


@pytest.mark.parametrize("n, batch_size", [(0, 3), (-1, 3), (3, 0), (3, -1)])
def test_batches_of_nothing_are_refused(n, batch_size):
    with pytest.raises(ValueError, match=f"above 0 but got {n} and {batch_size}"):
        batches(n, batch_size)


@pytest.fixture(scope="module")
def real():
    def refuse(*_):
        raise DataError("tests do not download")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sources, "download", refuse)
        try:
            return fashion_mnist()
        except DataError as error:
            if os.environ.get("MINICNN_REQUIRE_DATA") == "1":
                raise
            pytest.skip(str(error))


def test_the_real_fashion_mnist(real):
    train, test = real
    assert train.images.shape == (60000, 1, 28, 28) and test.images.shape == (10000, 1, 28, 28)
    assert [train.classes[label] for label in train.labels[:3]] == [
        "Ankle boot",
        "T-shirt/top",
        "T-shirt/top",
    ]
    np.testing.assert_array_equal(np.bincount(train.labels), 10 * [6000])
    np.testing.assert_array_equal(np.bincount(test.labels), 10 * [1000])
    assert train.images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert train.images.std() / 255 == pytest.approx(0.3530, abs=5e-5)
