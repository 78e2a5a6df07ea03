"""What the examples share: options, a photograph, where pictures go, and how errors are told."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import cbook
from matplotlib.figure import Figure
from PIL import Image

from minicnn.plotting import save_figure


def parser(description: str) -> argparse.ArgumentParser:
    """The options of every example; `description` is its docstring, whose first line is shown."""
    options = argparse.ArgumentParser(description=description.splitlines()[0])
    options.add_argument(
        "--out", default="figures", help="folder of its pictures (default: figures)"
    )
    options.add_argument("--show", action="store_true", help="open each picture as well")
    return options


def photograph(size: int, mode: str = "L") -> np.ndarray:
    """Rear admiral Grace Hopper's portrait, which matplotlib ships, from 0 to 1: in grey
    (size, size), or with mode "RGB" (size, size, 3)."""
    path = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    face = Image.open(path).convert(mode).crop((80, 20, 432, 372)).resize((size, size))
    return np.asarray(face) / 255


def keep(figure: Figure, name: str, args: argparse.Namespace) -> None:
    """Saves a picture as NAME.png, says where it is, and opens it if that was asked for."""
    path = Path(args.out) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)
    print(f"picture: {path}")
    if args.show:
        Image.open(path).show()


def run(main: Callable[[], None]) -> None:
    """main(), with one sentence in the place of a traceback for what a user can mend."""
    try:
        main()
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
