"""Augmentation: training images are changed at random, so that each epoch shows different images.

An image x of C channels, H rows and W columns becomes y, in up to three steps, in this order:

    mirror   y[c, h, w] = x[c, h, W - 1 - w] with probability 1/2, else x                  (1)
    shift    y[c, h, w] = padded[c, top + h, left + w], where padded is x with `shift` zeros
             on each side, and top and left are each any of 0, ..., 2*shift                (2)
    erase    y[c, h, w] = noise[c, h, w] inside a rectangle, else x, with probability `erase`,
             where each noise[c, h, w] is any of 0, ..., 255                               (3)

The rectangle lies anywhere in the image. The share of the image that it covers, `area`, is uniform,
and so is log(ratio), so that tall rectangles are as likely as wide ones. Rounded to pixels,

    height = H * sqrt(area * ratio),   width = W * sqrt(area / ratio)                      (4)

but at most H and W. All random numbers are drawn on the host, so a GPU makes the same images.

Sources: K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", CVPR 2016,
for (1) and (2); Z. Zhong, L. Zheng, G. Kang, S. Li, Y. Yang, "Random erasing data augmentation",
AAAI 2020, for (3) and (4).
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from minicnn.arguments import flag, generator, integer, require, share
from minicnn.backend import Array, array_module, masked

AREA = 0.02, 0.33  # of the image
RATIO = 0.3  # of height to width, at least, for a square image; at most 1 / RATIO


@dataclass(frozen=True)
class Augmentation:
    """A function (images, rng) -> images, for `fit(augment=...)`.

    mirror: whether to exchange left and right in half of the images, on average
    shift: the most pixels by which to move an image up or down, and left or right
    erase: the probability of noise in a rectangle, from 0 to 1
    """

    mirror: bool = False
    shift: int = 0
    erase: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mirror", flag("mirror", self.mirror))
        object.__setattr__(self, "shift", integer("shift", self.shift, 0))
        object.__setattr__(self, "erase", share("erase", self.erase))

    def __call__(self, images: Array, rng: Generator) -> Array:
        """New images from uint8 (N, C, H, W), which are not changed; only `rng` decides how."""
        array_module(images)
        is_bytes = images.dtype == np.uint8 and images.ndim == 4
        require(is_bytes, "images must be uint8 (N, C, H, W)", images)
        generator(rng)
        sentence = f"shift must be below the height and width of images {images.shape}"
        require(self.shift < min(images.shape[2:]) or not self.shift, sentence, self.shift)
        images = images.copy()
        if self.mirror:
            _mirror(images, rng)
        if self.shift:
            images = _shifted(images, self.shift, rng)
        if self.erase:
            _erase(images, self.erase, rng)
        return images


def _mirror(images: Array, rng: Generator) -> None:
    chosen = array_module(images).asarray(_some(len(images), 0.5, rng))
    images[chosen] = images[chosen, ..., ::-1]  # (1)


def _shifted(images: Array, shift: int, rng: Generator) -> Array:
    xp, (n, c, h, w) = array_module(images), images.shape
    padded = xp.zeros((n, c, h + 2 * shift, w + 2 * shift), images.dtype)
    padded[..., shift : shift + h, shift : shift + w] = images
    places = 2 * shift + 1
    n_step, c_step, h_step, w_step = padded.strides
    crops = xp.lib.stride_tricks.as_strided(  # a view: the crop at each place
        padded,
        (n, places, places, c, h, w),
        (n_step, h_step, w_step, c_step, h_step, w_step),
    )
    top, left = rng.integers(places, size=(2, n))
    return crops[xp.arange(n), xp.asarray(top), xp.asarray(left)]  # (2)


def _erase(images: Array, probability: float, rng: Generator) -> None:
    xp, (n, c, h, w) = array_module(images), images.shape
    chosen = _some(n, probability, rng)
    k = len(chosen)
    area, ratio = rng.uniform(*AREA, k), RATIO ** rng.uniform(-1, 1, k)
    rows = _intervals(h, np.sqrt(area * ratio), rng)  # (4)
    columns = _intervals(w, np.sqrt(area / ratio), rng)  # (4)
    inside = xp.asarray(rows[:, None, :, None] & columns[:, None, None, :])
    noise = xp.asarray(rng.integers(256, size=(k, c, h, w), dtype=np.uint8))
    chosen = xp.asarray(chosen)
    images[chosen] = masked(noise, inside) + masked(images[chosen], ~inside)  # (3)


def _some(n: int, probability: float, rng: Generator) -> Array:
    """The indices of some of n images, each chosen with this probability."""
    return np.flatnonzero(rng.random(n) < probability)


def _intervals(size: int, shares: Array, rng: Generator) -> Array:
    """(k, size): for each of the k shares, the pixels of an interval that covers this share of
    `size`, at most all of it, and lies anywhere."""
    length = np.rint(size * shares.clip(max=1)).astype(int)[:, None]
    first = rng.integers(size - length + 1)
    pixel = np.arange(size)
    return (first <= pixel) & (pixel < first + length)
