"""Image files as networks see them: small, grey or in colour, bright on dark if asked for."""

import io
import math
import os
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

FILE_LIMIT = 1 << 30  # bytes
CONTRAST = 16  # grey levels of 256: with fewer there is almost nothing to see
WHITES = (1, 255, 4095, 65535)  # the first is for floats only


def read_image(
    path: Path | str,
    size: int | Pair = (28, 28),
    invert: bool | None = None,
    colour: bool = False,
) -> Array:
    """The image file `path` as uint8 (1, C, height, width), in the form of the training images.

    The picture is turned upright as its EXIF data say, and made grey unless `colour`. Transparent
    parts become white, or black if the rest is bright. It is padded with the colour of its border
    to the proportions of `size`, (height, width) or one number for both, and resized. An animation
    gives its first frame.

    invert: whether to exchange bright and dark. The training images are bright on dark, so None
        inverts a picture whose border is brighter than mid-grey
    colour: C is 3, for red, green and blue, instead of 1

    Pictures of floats or of more than 8 bits have no fixed range. Their white is the smallest of 1
    (floats only), 255, 4095 and 65535 that no value exceeds. If none reaches a quarter of it
    (integers up to 255 are not changed), or one is negative or above 65535, the range from darkest
    to brightest is stretched. Values of 8 bits repeated to make 16 become those 8 bits.

    Warns if a picture comes out uniform, or nearly so. Raises DataError for a file that is not a
    complete image, is suspiciously large, or has values that are not finite.
    """
    pixels = picture(path, size, invert, colour)
    low, high = int(pixels.min()), int(pixels.max())
    if high - low < CONTRAST:
        warnings.warn(
            f"{as_path(path)} comes out uniform, or nearly so: all pixels are from {low} to {high} "
            "of 255, too little to show a class; give a picture with more contrast",
            stacklevel=2,
        )
    return pixels[np.newaxis]


def picture(
    path: Path | str, size: int | Pair, invert: bool | None = None, colour: bool = False
) -> Array:
    """The image file `path` as uint8 (C, height, width), as `read_image` but without its warning;
    one that comes out uniform may have its place among thousands."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # so that minicnn needs no Pillow

    path, size, colour = as_path(path), pair("size", size, 1), flag("colour", colour)
    try:
        with Image.open(_content(path)) as image:
            _check_size(image)
            plain = _plain(ImageOps.exif_transpose(image), "RGB" if colour else "L")
    except Exception as error:  # Pillow's decoders share no base class below Exception
        reason = " ".join(str(error).split())
        if isinstance(error, UnidentifiedImageError):
            reason = "it is empty, damaged or not a picture"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise DataError(f"{path} cannot be read as an image: {reason}") from error
    return fitted(plain, size, invert)


def _content(path: Path) -> io.BytesIO:
    """The bytes of a file. Pillow asks for as many as a damaged header claims, for which a file
    takes the memory at once."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > FILE_LIMIT:
            raise ValueError(f"its {size:,} bytes exceed the limit of {FILE_LIMIT:,}")
        return io.BytesIO(file.read(size))


def fitted(image: "Image.Image", size: Pair, invert: bool | None) -> Array:
    """An image in mode "L" or "RGB" as uint8 (C, height, width): padded with the colour of its
    border, resized, and inverted if asked for, or for None if its border is bright."""
    from PIL import Image, ImageOps

    pixels = np.asarray(image)
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    border = np.median(edges, axis=0).astype(int)  # of each channel
    invert = bool(border.mean() > 127) if invert is None else flag("invert", invert)
    scale = min(size[0] / image.height, size[1] / image.width)
    fitting = [max(1, round(side * scale)) for side in image.size]
    if 1 in fitting:  # so narrow that ImageOps.pad, before Pillow 13, would leave nothing of it
        image = image.resize((fitting[0], fitting[1]), Image.Resampling.LANCZOS)
    colour = tuple(border.tolist()) if border.ndim else int(border)
    image = ImageOps.pad(image, size[::-1], Image.Resampling.LANCZOS, color=colour)
    pixels = np.array(ImageOps.invert(image) if invert else image)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[np.newaxis]


def _check_size(image: "Image.Image") -> None:
    """Raises ValueError for a picture so large that Pillow warns; at twice the size Pillow
    raises."""
    from PIL import Image

    size, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and size > limit:
        raise ValueError(f"its size of {size} pixels exceeds limit of {limit}; make it smaller")


def _plain(image: "Image.Image", mode: str) -> "Image.Image":
    """The image in mode "L" or "RGB", without transparency."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # which convert would clip at 255
        image = Image.fromarray(as_bytes(np.asarray(image)).astype(np.uint8))
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert(mode)
    grey, alpha = image.convert("RGBA").convert("LA").split()
    weight = np.asarray(alpha, np.float32)
    bright = ((np.asarray(grey) - 127.5) * weight).sum() > 0
    background = Image.new(mode, image.size, "black" if bright else "white")
    return Image.composite(image.convert("RGBA").convert(mode), background, alpha)


def as_bytes(values: Array) -> Array:
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
