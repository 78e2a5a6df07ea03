"""How a picture becomes an image of a data set; a run keeps this, to treat new pictures alike."""

import dataclasses
from pathlib import Path

from minicnn.arguments import Pair, flag, pair
from minicnn.backend import Array
from minicnn.datasets.images import read_image


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How a picture file becomes an image of a data set.

    size: (height, width)
    colour: red, green and blue, or one channel of grey
    invert: whether bright and dark are exchanged, as in `read_image`: None does so for a picture
        with a bright border, since the images of MNIST and its kind are bright on dark; your own
        pictures are not changed, with False

    Raises ValueError for values out of range.
    """

    size: Pair = (28, 28)
    colour: bool = False
    invert: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", pair("size", self.size, 1))
        object.__setattr__(self, "colour", flag("colour", self.colour))
        if self.invert is not None:
            object.__setattr__(self, "invert", flag("invert", self.invert))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return (3 if self.colour else 1, *self.size)

    def read(self, path: Path | str) -> Array:
        """The picture file `path` as uint8 (1, C, H, W); see `read_image`."""
        return read_image(path, self.size, self.invert, self.colour)
