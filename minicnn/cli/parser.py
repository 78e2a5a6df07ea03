"""The arguments of the commands."""

import argparse
from collections.abc import Callable

from minicnn._version import __version__
from minicnn.backend import DEVICES
from minicnn.cli.data import DATA
from minicnn.models import MODELS
from minicnn.optimizers import SCHEDULES
from minicnn.runs.settings import OPTIMIZERS, RECIPES

ADAM_LR = 0.001


def parser(commands: dict[str, Callable]) -> argparse.ArgumentParser:
    """Of `commands`, a function for each name; the one that was called for is in args.run, and the
    parser of its arguments in args.parser."""
    whole = argparse.ArgumentParser(
        prog="minicnn", description="Train LeNet in pure NumPy, and look at what it does."
    )
    whole.add_argument("--version", action="version", version=f"minicnn {__version__}")
    parts = whole.add_subparsers(required=True, metavar="COMMAND")
    for name, run in commands.items():
        part = parts.add_parser(name, help=run.__doc__, description=run.__doc__)
        part.set_defaults(run=run, parser=part)
        if name in ARGUMENTS:
            ARGUMENTS[name](part)
    return whole


def _train(part: argparse.ArgumentParser) -> None:
    add = part.add_argument
    rates = ", ".join(f"{model.lr:g} for {name}" for name, model in MODELS.items())
    add(
        "--recipe",
        choices=RECIPES,
        help="a network and its settings, which other options change; fast90 reaches 90 %% on "
        "Fashion-MNIST soonest",
    )
    add("--model", choices=MODELS, help="network (default: lenet; for the digits lenet-relu)")
    add("--epochs", type=_at_least(1), help="passes over the data (default: 10)")
    add("--batch-size", type=_at_least(1), help="images in a step (default: 256)")
    add("--optimizer", choices=OPTIMIZERS, help="how to take a step (default: sgd)")
    add(
        "--lr",
        type=float,
        help=f"learning rate (default: {rates}; with adam and adamw {ADAM_LR:g})",
    )
    add("--momentum", type=float, help="of sgd, from 0 to below 1 (default: 0)")
    add("--nesterov", action="store_true", default=None, help="use Nesterov's form of momentum")
    add("--weight-decay", type=float, help="how much weights decay (default: 0)")
    add(
        "--decay-biases",
        action=argparse.BooleanOptionalAction,
        help="whether biases and batch norms decay too (default: they do)",
    )
    add("--clip-norm", type=float, help="greatest length of the gradient (default: no limit)")
    add(
        "--schedule",
        choices=SCHEDULES,
        help="of the learning rate, which all but constant take down to 0 (default: constant)",
    )
    add("--label-smoothing", type=float, help="share spread over all classes (default: 0)")
    add("--mirror", action="store_true", default=None, help="mirror half of the images")
    add("--shift", type=_at_least(0), help="move images by so many pixels at most (default: 0)")
    add("--erase", type=float, help="probability of noise in a rectangle (default: 0)")
    add("--seed", type=_at_least(0), help="of all that is random (default: 0)")
    add("--out", help="folder for the run, new or empty (default: a new one under runs/)")
    add("--resume", metavar="RUN", help="go on with the run in this folder, as it was set up")
    add(
        "--save-every",
        type=_at_least(1),
        metavar="STEPS",
        help="write a checkpoint after so many steps, too (default: after each epoch only)",
    )
    add("--keep", type=_at_least(1), default=2, help="checkpoints that are kept (default: 2)")
    _work(part, "fashion-mnist, or the digits where it cannot be had")


def _evaluate(part: argparse.ArgumentParser) -> None:
    part.add_argument("folder", metavar="RUN", help="folder of a run")
    _work(part, "that of the run")


def _work(part: argparse.ArgumentParser, default: str) -> None:
    """On what data, and where, by how many."""
    _place(part, default)
    part.add_argument(
        "--workers", type=_at_least(1), help="processes on a CPU (default: all cores)"
    )


def _place(part: argparse.ArgumentParser, default: str) -> None:
    """On what data, and where."""
    add = part.add_argument
    add("--data", choices=DATA, help=f"data set (default: {default})")
    add("--data-folder", help="folder of its files (default: searched for)")
    add("--device", choices=DEVICES, default="cpu", help="where to compute (default: cpu)")


def _predict(part: argparse.ArgumentParser) -> None:
    part.add_argument("folder", metavar="RUN", help="folder of a run")
    part.add_argument("images", metavar="IMAGE", nargs="+", help="any picture Pillow reads")
    part.add_argument(
        "--invert",
        action=argparse.BooleanOptionalAction,
        help="swap dark and bright (default: if the border is bright, since the training images "
        "are bright on dark)",
    )


def _check(part: argparse.ArgumentParser) -> None:
    mode = part.add_mutually_exclusive_group()
    mode.add_argument(
        "--museum", action="store_true", help="check known wrong gradients, which must be caught"
    )
    mode.add_argument(
        "--steps",
        action="store_true",
        help="print the error against the step of the differences",
    )
    part.add_argument("--seed", type=_at_least(0), default=0, help="of all numbers (default: 0)")


def _summary(part: argparse.ArgumentParser) -> None:
    part.add_argument("--model", choices=MODELS, default="lenet", help="default: lenet")


def _explain(part: argparse.ArgumentParser) -> None:
    add = part.add_argument
    add(
        "folder", metavar="RUN", nargs="?", help="folder of a run, for an image through its network"
    )
    add("--model", choices=MODELS, help="the same for a network that was not trained")
    add("--image", type=_at_least(0), help="which image of the test set (default: 0)")
    add("--data", choices=DATA, help="data set (default: that of the run, or fashion-mnist)")
    add("--data-folder", help="folder of its files (default: searched for)")
    add("--exhibit", metavar="NAME", help="a wrong layer of the museum, as ConvCropped")
    small = part.add_argument_group("a small convolution, if nothing else is asked for")
    small.add_argument("--kernel", type=_at_least(1), help="its size (default: 3)")
    small.add_argument("--stride", type=_at_least(1), help="default: 1")
    small.add_argument("--padding", type=_at_least(0), help="default: 0")
    small.add_argument("--dilation", type=_at_least(1), help="default: 1")
    small.add_argument("--groups", type=_at_least(1), help="default: 1")
    add("--out", default="explain.html", help="the page (default: explain.html)")


def _trace(part: argparse.ArgumentParser) -> None:
    add = part.add_argument
    add("folder", metavar="RUN", nargs="?", help="folder of a run, for a step from its checkpoint")
    add("--recipe", choices=RECIPES, help="without RUN: a network and its settings")
    add("--model", choices=MODELS, help="without RUN: a new network (default: as for train)")
    add("--seed", type=_at_least(0), help="without RUN: of its weights (default: 0)")
    add("--optimizer", choices=OPTIMIZERS, help="without RUN: how to take the step (default: sgd)")
    add("--lr", type=float, help="learning rate (default: that of the run, or as for train)")
    add(
        "--batch-size", type=_at_least(1), help="images, the first (default: as in the run, or 256)"
    )
    form = part.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--page", metavar="FILE", help="write a page, too, on which each layer opens")
    _place(part, "that of the run, or fashion-mnist, or the digits where it cannot be had")


ARGUMENTS = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "check": _check,
    "summary": _summary,
    "explain": _explain,
    "trace": _trace,
}


def _at_least(minimum: int) -> Callable[[str], int]:
    """An argument's type: an integer that is not below `minimum`."""

    def parse(text: str) -> int:
        if text.isdecimal() and int(text) >= minimum:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"expected an integer of at least {minimum} but got {text!r}"
        )

    return parse
