"""Digits without a download: drawn from the fonts that matplotlib ships, each one distorted.

The pixel at p of an image shows the pixel at q of a glyph, both measured from the middle:

    q = M^-1 (p - shift),   M = scale * rotation(angle) * [[1, shear], [0, 1]]             (1)
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minicnn.arguments import integer
from minicnn.backend import Array
from minicnn.datasets.dataset import Dataset

if TYPE_CHECKING:
    from PIL import Image, ImageFont

FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "cmb10.ttf",
    "cmr10.ttf",
    "cmss10.ttf",
    "cmtt10.ttf",
)
GLYPH_SIZE = 40
SIZE = 28


def digits(train: int = 6000, test: int = 1000, seed: int = 0) -> tuple[Dataset, Dataset]:
    """`train` and `test` images of digits, white on black as in MNIST, uint8 (N, 1, 28, 28).

    The two sets use independent random numbers, and the same seed gives the same images on every
    run.
    """
    train, test = integer("train", train, 0), integer("test", test, 0)
    train_rng, test_rng = np.random.default_rng(integer("seed", seed, 0)).spawn(2)
    glyphs = _glyphs()
    return _draw(glyphs, train, train_rng), _draw(glyphs, test, test_rng)


def _glyphs() -> "list[list[Image.Image]]":
    """The ten digits of each font, white on black, each in the middle of a square."""
    import matplotlib  # here: importing it takes as long as all of minicnn
    from PIL import ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [
        [_glyph(ImageFont.truetype(str(folder / name), 28), digit) for digit in "0123456789"]
        for name in FONTS
    ]


def _glyph(font: "ImageFont.FreeTypeFont", digit: str) -> "Image.Image":
    from PIL import Image, ImageDraw

    glyph = Image.new("L", (GLYPH_SIZE, GLYPH_SIZE))
    foot = (GLYPH_SIZE / 2, GLYPH_SIZE / 2 + 10)  # digits of this size are 18 to 20 pixels high
    ImageDraw.Draw(glyph).text(foot, digit, fill=255, font=font, anchor="ms")
    return glyph


def _draw(glyphs: "list[list[Image.Image]]", n: int, rng: np.random.Generator) -> Dataset:
    from PIL import Image

    fonts = rng.integers(len(glyphs), size=n)
    labels = rng.integers(10, size=n)
    maps = _maps(n, rng)
    images = np.empty((n, 1, SIZE, SIZE), np.float32)
    for i in range(n):
        images[i, 0] = glyphs[fonts[i]][labels[i]].transform(
            (SIZE, SIZE), Image.Transform.AFFINE, maps[i], Image.Resampling.BILINEAR
        )
    images *= rng.uniform(0.6, 1, (n, 1, 1, 1))
    images += 16 * rng.standard_normal(images.shape, np.float32)
    return Dataset(images.clip(0, 255).astype(np.uint8), labels, tuple("0123456789"), "digits")


def _maps(n: int, rng: np.random.Generator) -> Array:
    """Random maps p -> q as rows of the six numbers that Pillow takes, (n, 6): the two rows of
    M^-1, each followed by its offset, since Pillow measures p and q from the corner."""
    scale = rng.uniform(0.75, 1.15, n)
    angle = rng.uniform(-0.25, 0.25, n)
    shear = rng.uniform(-0.3, 0.3, n)
    shift = rng.uniform(-2, 2, (n, 2, 1))
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = scale * np.array([[cos, shear * cos - sin], [sin, shear * sin + cos]])  # (2, 2, n)
    inverse = np.linalg.inv(matrix.transpose(2, 0, 1))
    offset = GLYPH_SIZE / 2 - inverse @ (SIZE / 2 + shift)  # (1)
    return np.concatenate([inverse, offset], axis=2).reshape(n, 6)
