"""Many picture files as one array."""

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minicnn.backend import Array
from minicnn.datasets.cache import cached
from minicnn.datasets.found import Labelled, check_claim, some
from minicnn.datasets.idx import DataError
from minicnn.datasets.images import picture
from minicnn.datasets.preparation import Preparation


def is_picture(name: str) -> bool:
    """Whether a file is a picture that Pillow reads, judging by the ending of its name."""
    from PIL import Image  # here, so that minicnn can be imported without it

    return os.path.splitext(name)[1].lower() in Image.registered_extensions()


def check_inside(path: Path, folder: Path) -> None:
    """Raises DataError unless `path` is in `folder` when all links are followed."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise DataError(
            f"{folder / some([str(path.relative_to(folder))])} leads out of the folder: replace it "
            "with a copy of the file"
        )


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Reads picture files.

    preparation: how each becomes an image
    skip_bad: whether files that cannot be read are left out, with a warning, or refused
    progress: whether to show a bar
    """

    preparation: Preparation
    skip_bad: bool
    progress: bool

    def read(self, folder: Path, files: Sequence[str], labels: Sequence[int]) -> Labelled:
        """The pictures `files` in `folder`. Raises DataError if any cannot be read."""
        check_claim(folder, len(files) * int(np.prod(self.preparation.shape, dtype=object)))
        paths = [folder / file for file in files]
        options = (self.preparation, self.skip_bad)
        decoded = cached(paths, options, lambda: self._decode(folder, paths))
        good = decoded["good"]
        if not good.all():
            bad = [file for file, is_good in zip(files, good) if not is_good]
            warnings.warn(
                f"{folder}: {len(bad):,} of {len(files):,} pictures cannot be read and are left "
                f"out: {some(bad, 20)}",
                stacklevel=2,
            )
        kept = [file for file, is_good in zip(files, good) if is_good]
        return Labelled(decoded["images"], np.array(labels, np.int64)[good], tuple(kept))

    def _decode(self, folder: Path, paths: Sequence[Path]) -> dict[str, Array]:
        from tqdm import tqdm

        wanted = self.preparation
        images = np.empty((len(paths), *wanted.shape), np.uint8)
        good, reasons = np.ones(len(paths), bool), []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings about files that it can read
            bar = tqdm(paths, desc="pictures", disable=not self.progress, leave=False)
            for i, path in enumerate(bar):
                try:
                    images[i] = picture(path, wanted.size, wanted.invert, wanted.colour)
                except DataError as error:
                    good[i] = False
                    reasons.append(str(error))
        if reasons and not self.skip_bad:
            bad = [
                str(path.relative_to(folder)) for path, is_good in zip(paths, good) if not is_good
            ]
            raise DataError(
                f"{folder}: {len(bad):,} of {len(paths):,} pictures cannot be read, "
                f"{some(bad, 20)}: {some(reasons[:1])}; remove them, or leave them out with "
                "skip_bad"
            )
        return {"images": images if good.all() else images[good], "good": good}
