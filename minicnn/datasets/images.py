"""Image files as the networks here see them: small, grey, bright on dark."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from minicnn.backend import Array
from minicnn.datasets.idx import DataError


def read_image(
    path: Path | str, size: tuple[int, int] = (28, 28), invert: bool | None = None
) -> Array:
    """The image file `path` as uint8 (1, 1, height, width), in the form of the training images.

    The picture is turned upright as its EXIF data say and made grey. Behind transparent parts
    stands white, or black if the rest is bright. It is padded with the colour of its border to the
    proportions of `size` (height, width), and resized. Of an animation, the first frame is taken.

    invert: whether to exchange bright and dark. The training images are bright on dark, so None
        inverts a picture whose border is brighter than mid-grey

    Raises DataError for a file that is not a whole image, or is a suspiciously large one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                grey = _grey(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders share no base class below Exception
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    pixels = np.asarray(grey)
    edges = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    border = int(np.median(np.concatenate(edges)))
    if invert is None:
        invert = border > 127
    grey = ImageOps.pad(grey, size[::-1], Image.Resampling.LANCZOS, color=border)
    if invert:
        grey = ImageOps.invert(grey)
    return np.array(grey)[np.newaxis, np.newaxis]


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which convert("L") would clip at 255
        return Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("L")
    grey, alpha = image.convert("RGBA").convert("LA").split()
    weight = np.asarray(alpha, np.float32)
    bright = ((np.asarray(grey) - 127.5) * weight).sum() > 0
    background = Image.new("L", image.size, 0 if bright else 255)
    return Image.composite(grey, background, alpha)
