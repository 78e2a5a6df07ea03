"""Image files as the networks here see them: small, grey, bright on dark."""

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minicnn.arguments import Pair, flag, pair
from minicnn.backend import Array
from minicnn.datasets.idx import DataError
from minicnn.files import as_path

if TYPE_CHECKING:
    from PIL import Image

CONTRAST = 16  # grey levels of 256: with fewer there is next to nothing to see
WHITES = (1, 255, 4095, 65535)  # the first is for floats only


def read_image(path: Path | str, size: int | Pair = (28, 28), invert: bool | None = None) -> Array:
    """The image file `path` as uint8 (1, 1, height, width), in the form of the training images.

    The picture is turned upright as its EXIF data say and made grey. Behind transparent parts
    stands white, or black if the rest is bright. It is padded with the colour of its border to the
    proportions of `size`, (height, width) or one number for both, and resized. Of an animation, the
    first frame is taken.

    invert: whether to exchange bright and dark. The training images are bright on dark, so None
        inverts a picture whose border is brighter than mid-grey

    Pictures of floats or of more than 8 bits have no fixed range. Their white is the smallest of 1
    (floats only), 255, 4095 and 65535 that holds all values. If none reaches a quarter of it
    (integers up to 255 stay as they are), or one is negative or above 65535, the range from the
    darkest to the brightest is stretched. What is 8 bits repeated to make 16 becomes those 8 bits.

    Warns of a picture that comes out uniform, or nearly so. Raises DataError for a file that is not
    a whole image, is a suspiciously large one, or has values that are not finite.
    """
    from PIL import Image, ImageOps  # here, so that minicnn can be imported without it

    path, size = as_path(path), pair("size", size, 1)
    try:
        with Image.open(path) as image:
            _check_size(image)
            grey = _grey(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders share no base class below Exception
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    pixels = np.asarray(grey)
    edges = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    border = int(np.median(np.concatenate(edges)))
    invert = border > 127 if invert is None else flag("invert", invert)
    scale = min(size[0] / grey.height, size[1] / grey.width)
    fitting = [max(1, round(side * scale)) for side in grey.size]
    if 1 in fitting:  # so narrow that ImageOps.pad, before Pillow 13, would leave nothing of it
        grey = grey.resize(fitting, Image.Resampling.LANCZOS)
    grey = ImageOps.pad(grey, size[::-1], Image.Resampling.LANCZOS, color=border)
    if invert:
        grey = ImageOps.invert(grey)
    pixels = np.array(grey)
    low, high = int(pixels.min()), int(pixels.max())
    if high - low < CONTRAST:
        warnings.warn(
            f"{path} comes out uniform, or nearly so: all pixels are from {low} to {high} of 255, "
            "which shows no class; give a picture with more contrast",
            stacklevel=2,
        )
    return pixels[np.newaxis, np.newaxis]


def _check_size(image: "Image.Image") -> None:
    """Raises ValueError for a picture so large that Pillow warns; at twice that size it raises."""
    from PIL import Image

    size, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and size > limit:
        raise ValueError(f"its size of {size} pixels exceeds limit of {limit}; make it smaller")


def _grey(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # which convert("L") would clip at 255
        return Image.fromarray(_as_bytes(np.asarray(image)).astype(np.uint8))
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("L")
    grey, alpha = image.convert("RGBA").convert("LA").split()
    weight = np.asarray(alpha, np.float32)
    bright = ((np.asarray(grey) - 127.5) * weight).sum() > 0
    background = Image.new("L", image.size, 0 if bright else 255)
    return Image.composite(grey, background, alpha)


def _as_bytes(values: Array) -> Array:
    """Integers of more than 8 bits, or floats, scaled to whole numbers from 0 to 255."""
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("some of its values are not finite; replace those")
    if low >= 0 and high <= WHITES[-1]:
        if not (values % 257).any():  # 8 bits, repeated to make 16
            return values // 257
        is_float = values.dtype.kind == "f"
        white = min(w for w in WHITES if high <= w and (is_float or w > 1))
        if 4 * high >= white or (white == 255 and not is_float):
            values = np.rint(values * 255 if white == 1 else values)
            return values // max(1, (white + 1) // 256)  # the upper 8 bits
    return np.rint((values.astype(np.float64) - low) * (255 / ((high - low) or 1)))
