"""The arguments of the commands."""

import argparse
from collections.abc import Callable

from minicnn._version import __version__
from minicnn.cli.data import DATA
from minicnn.cuda import named
from minicnn.optimizers import SCHEDULES
from minicnn.runs.networks import absolute, is_place
from minicnn.runs.settings import OPTIMIZERS, RECIPES
from minicnn.zoo import MODELS

ADAM_LR = 0.001
SGD_LR = 0.1  # for your own network


def parser(commands: dict[str, Callable]) -> argparse.ArgumentParser:
    """The parser for `commands`, a function for each name; the chosen function is in args.run, and
    the parser of its arguments in args.parser."""
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
        help="a network and its settings, which other options override; fast90 reaches 90 %% on "
        "Fashion-MNIST fastest",
    )
    _model(part, "network (default: lenet; for the digits and files of your own lenet-relu)")
    add("--epochs", type=_at_least(1), help="passes over the data (default: 10)")
    add(
        "--batch-size",
        type=_at_least(1),
        help="images in a step (default: 256; 32 for up to 10,000 images of your own)",
    )
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
        help="of the learning rate, which all but constant lower to 0 (default: constant)",
    )
    add("--label-smoothing", type=float, help="share spread over all classes (default: 0)")
    add("--mirror", action="store_true", default=None, help="mirror half of the images")
    add("--shift", type=_at_least(0), help="move images by up to so many pixels (default: 0)")
    add("--erase", type=float, help="probability of noise in a rectangle (default: 0)")
    add("--seed", type=_at_least(0), help="of all random numbers (default: 0)")
    add("--out", help="folder for the run, new or empty (default: a new one under runs/)")
    add("--resume", metavar="RUN", help="resume the run in this folder, with its settings")
    add(
        "--from",
        dest="started_from",
        metavar="RUN",
        help="a new run that starts from the weights of the last epoch of this run",
    )
    add(
        "--freeze",
        metavar="NAME",
        nargs="+",
        help="layers or parameters that do not change, such as 0 or 0.weight; a frozen batch norm "
        "still uses the statistics of the batch in training",
    )
    add(
        "--save-every",
        type=_at_least(1),
        metavar="STEPS",
        help="also write a checkpoint after so many steps (default: only after each epoch)",
    )
    add("--keep", type=_at_least(1), default=2, help="how many checkpoints to keep (default: 2)")
    add(
        "--capture",
        action="store_true",
        help="on a GPU, record a training step once and start it with one launch from then on",
    )
    _work(part, "fashion-mnist, or the digits if it is not available")


def _model(part: argparse.ArgumentParser, text: str) -> None:
    part.add_argument(
        "--model",
        type=_network,
        metavar="NAME|FILE.py:FUNCTION",
        help=f"{text}: {', '.join(MODELS)}, or what your function returns",
    )


def _moved(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--model",
        type=_network,
        metavar="FILE.py:FUNCTION",
        help="where the file of your own network is now, if it moved",
    )


def _network(text: str) -> str:
    """An argument's type: a name in MODELS, or the place of a function."""
    if text in MODELS or is_place(text):
        return absolute(text)
    raise argparse.ArgumentTypeError(
        f"expected one of {', '.join(MODELS)}, or FILE.py:function, but got {text!r}"
    )


def _shape(text: str) -> tuple[int, ...]:
    """An argument's type: 3x32x32."""
    parts = text.split("x")
    if len(parts) == 3 and all(part.isdecimal() and int(part) > 0 for part in parts):
        return tuple(map(int, parts))
    raise argparse.ArgumentTypeError(f"expected CxHxW, such as 3x32x32, but got {text!r}")


def _evaluate(part: argparse.ArgumentParser) -> None:
    add = part.add_argument
    add("folder", metavar="RUN", help="folder of a run")
    add(
        "--report",
        metavar="FILE.html",
        nargs="?",
        const="",
        help="also write a page: confusion matrix, precision and recall of each class, the worst "
        "mistakes, calibration (default: report.html in the folder of the run)",
    )
    add("--json", action="store_true", help="print the numbers of that page as JSON")
    _moved(part)
    _work(part, "that of the run", "; one for --report and --json")


def _work(part: argparse.ArgumentParser, default: str, exception: str = "") -> None:
    """Options for the data, the device and the number of workers."""
    _place(part, default)
    part.add_argument(
        "--workers", type=_at_least(1), help=f"processes on a CPU (default: all cores{exception})"
    )


def _device(name: str) -> str:
    try:
        named(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name


def _place(part: argparse.ArgumentParser, default: str) -> None:
    """Options for the data and the device."""
    _data(part, default)
    part.add_argument(
        "--device",
        type=_device,
        metavar="{cpu,gpu,gpu:1,auto}",
        default="cpu",
        help="where to compute: gpu:1 is the second of several GPUs (default: cpu)",
    )


def _data(part: argparse.ArgumentParser, default: str) -> None:
    add = part.add_argument
    add(
        "--data",
        metavar="NAME|PATH",
        help=f"{', '.join(DATA)}, or files of your own (default: {default})",
    )
    add("--data-folder", help="folder of the files of a data set by name (default: searched for)")
    _files(part)


def _files(part: argparse.ArgumentParser) -> None:
    """Options for your own files: how they become a data set."""
    own = part.add_argument_group("files of your own, as --data PATH")
    add = own.add_argument
    add("--size", type=_at_least(1), help="height and width (default: 28 of pictures)")
    add(
        "--colour",
        action=argparse.BooleanOptionalAction,
        help="red, green and blue (default: grey of pictures)",
    )
    add("--test-share", type=float, help="of each class, if there is no test set (default: 0.2)")
    add(
        "--skip-bad",
        action="store_true",
        default=None,
        help="leave out pictures that cannot be read, instead of stopping",
    )
    add(
        "--invert",
        action="store_true",
        default=None,
        help="exchange bright and dark, so that dark on bright becomes bright on dark as in MNIST",
    )


def _look(part: argparse.ArgumentParser) -> None:
    part.add_argument("path", metavar="PATH", help="files of your own, or the name of a data set")
    part.add_argument("--data-folder", help="folder of the files of a data set by name")
    part.add_argument("--seed", type=_at_least(0), help="of the test set (default: 0)")
    part.add_argument("--out", default="data.png", help="the picture (default: data.png)")
    _files(part)


def _predict(part: argparse.ArgumentParser) -> None:
    part.add_argument("folder", metavar="RUN", help="folder of a run")
    add = part.add_argument
    add("images", metavar="PATH", nargs="+", help="pictures, folders of them, or wildcards")
    add("--top", type=_at_least(1), help="how many classes to tell (default: all)")
    form = part.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV")
    _moved(part)
    add(
        "--invert",
        action=argparse.BooleanOptionalAction,
        help="swap dark and bright (default: as in training; for images that are bright on dark, "
        "as MNIST's, if the border is bright)",
    )


def _export(part: argparse.ArgumentParser) -> None:
    part.add_argument("folder", metavar="RUN", help="folder of a run")
    part.add_argument("--to", choices=("onnx", "torch"), required=True, help="the format")
    part.add_argument(
        "--out", metavar="FILE", help="the file (default: one in the folder of the run)"
    )
    _moved(part)


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
    _model(part, "network (default: lenet)")
    part.add_argument(
        "--input", type=_shape, default=(1, 28, 28), help="CxHxW of an image (default: 1x28x28)"
    )
    part.add_argument("--classes", type=_at_least(1), default=10, help="default: 10")


def _explain(part: argparse.ArgumentParser) -> None:
    add = part.add_argument
    add(
        "folder", metavar="RUN", nargs="?", help="folder of a run, for an image through its network"
    )
    _model(part, "the same for a network that was not trained")
    add("--image", type=_at_least(0), help="which image of the test set (default: 0)")
    _data(part, "that of the run, or fashion-mnist")
    add("--exhibit", metavar="NAME", help="a wrong layer of the museum, such as ConvCropped")
    small = part.add_argument_group("a small convolution, if nothing else is given")
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
    _model(part, "without RUN: a new network (default: as for train)")
    add("--seed", type=_at_least(0), help="without RUN: of its weights (default: 0)")
    add("--optimizer", choices=OPTIMIZERS, help="without RUN: how to take the step (default: sgd)")
    add("--lr", type=float, help="learning rate (default: that of the run, or as for train)")
    add(
        "--batch-size", type=_at_least(1), help="images, the first (default: as in the run, or 256)"
    )
    form = part.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--page", metavar="FILE", help="also write a page on which each layer opens")
    _place(part, "that of the run, or fashion-mnist, or the digits if it is not available")


ARGUMENTS = {
    "train": _train,
    "data": _look,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "check": _check,
    "summary": _summary,
    "explain": _explain,
    "trace": _trace,
}


def _at_least(minimum: int) -> Callable[[str], int]:
    """An argument's type: an integer of at least `minimum`."""

    def parse(text: str) -> int:
        if text.isdecimal() and int(text) >= minimum:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"expected an integer of at least {minimum} but got {text!r}"
        )

    return parse
