"""What the examples share: options, a photograph, a layer with given weights, a difference, the
place of pictures, and one-line errors."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from matplotlib import cbook
from matplotlib.figure import Figure
from PIL import Image

from minicnn import Conv2D
from minicnn.cuda import DEVICES
from minicnn.datasets import DatasetNotFound
from minicnn.files import as_path
from minicnn.plotting import save_figure


def parser(
    description: str, data: Iterable[str] = (), device: str | None = None
) -> argparse.ArgumentParser:
    """The options of every example; `description` is its docstring, whose first line is shown.
    `data`: the names of the data sets to choose from, the default first, if the example takes one;
    `device`: what the example does on the chosen device, if it can use a GPU."""
    options = argparse.ArgumentParser(description=description.splitlines()[0])
    add = options.add_argument
    add("--out", type=folder, default="figures", help="folder of its pictures (default: figures)")
    add("--show", action="store_true", help="open each picture as well")
    if names := list(data):
        add("--data", choices=names, default=names[0], help=f"data set (default: {names[0]})")
    if device:
        add("--device", choices=DEVICES, default="cpu", help=f"{device} (default: cpu)")
    return options


def folder(path: str) -> Path:
    """An argument's type: a folder to write to, made if there is none. It is checked here so that
    an example reports a bad folder before its work, not after it."""
    try:
        made = as_path(path)
        made.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except OSError as error:
        message = f"the folder {path!r} cannot be made: {error.strerror}"
        raise argparse.ArgumentTypeError(message) from None
    if not os.access(made, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path!r} cannot be written to")
    return made


def positive(text: str) -> int:
    """An argument's type: an integer of at least 1."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected an integer of at least 1 but got {text!r}")


def convolution(weight: np.ndarray, **options) -> Conv2D:
    """A Conv2D without bias and with this weight (O, C, KH, KW); `options` are those of Conv2D."""
    out_channels, in_channels, *kernel_size = weight.shape
    layer = Conv2D(in_channels, out_channels, tuple(kernel_size), bias=False, **options)
    layer.params["weight"] = weight
    return layer


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest entry of |a - b|."""
    return float(abs(a - b).max())


def photograph(size: int, mode: str = "L") -> np.ndarray:
    """Rear admiral Grace Hopper's portrait, which matplotlib ships, from 0 to 1: in grey
    (size, size), or with mode "RGB" (size, size, 3)."""
    path = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    face = Image.open(path).convert(mode).crop((80, 20, 432, 372)).resize((size, size))
    return np.asarray(face) / 255


def keep(figure: Figure, name: str, args: argparse.Namespace) -> None:
    """Saves a picture as NAME.png, prints its path, and opens it if `--show` was given."""
    path = args.out / f"{name}.png"
    save_figure(figure, path)
    print(f"picture: {path}")
    if args.show:
        Image.open(path).show()


def run(main: Callable[[], None]) -> None:
    """main(), with one sentence instead of a traceback for errors that the user can fix."""
    script = Path(sys.argv[0]).name
    try:
        main()
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except DatasetNotFound as error:
        sys.exit(f"{script}: {error}\n  or use --data digits, which needs no download")
    except (ValueError, OSError) as error:
        sys.exit(f"{script}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
