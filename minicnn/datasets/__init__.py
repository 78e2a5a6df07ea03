"""Labelled images: Fashion-MNIST, MNIST and digits that need no download, and files of your own.
Readers give arrays; a set of labelled images is a `Dataset`."""

from minicnn.datasets.augmentation import Augmentation
from minicnn.datasets.dataset import Dataset, as_input, batches
from minicnn.datasets.digits import digits
from minicnn.datasets.idx import DataError, read_idx
from minicnn.datasets.images import read_image
from minicnn.datasets.opening import open_data
from minicnn.datasets.preparation import Preparation
from minicnn.datasets.sources import DatasetNotFound, fashion_mnist, mnist
from minicnn.datasets.spec import DataSpec

__all__ = [
    "Augmentation",
    "DataError",
    "DataSpec",
    "Dataset",
    "DatasetNotFound",
    "Preparation",
    "as_input",
    "batches",
    "digits",
    "fashion_mnist",
    "mnist",
    "open_data",
    "read_idx",
    "read_image",
]
