"""The command line: minicnn train | evaluate | predict | check | summary | doctor."""

import argparse
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL.Image import DecompressionBombWarning

from minicnn._version import __version__
from minicnn.backend import DEVICES, choose_device
from minicnn.cli import doctor, summary
from minicnn.datasets import (
    Dataset,
    DatasetNotFound,
    as_input,
    digits,
    fashion_mnist,
    mnist,
    read_image,
)
from minicnn.files import as_path
from minicnn.gradcheck import checklist
from minicnn.gradcheck.report import table
from minicnn.losses import softmax
from minicnn.models import INPUT_SHAPE, MODELS
from minicnn.optimizers import SCHEDULES
from minicnn.runs import resumable, run_folder
from minicnn.runs.checkpoint import Checkpoint, data_sha256
from minicnn.training.loop import check_fit, evaluate


def _digits(folder: str | None) -> tuple[Dataset, Dataset]:
    if folder is not None:
        raise ValueError("the digits are drawn, not read from files: leave out --data-folder")
    return digits()


DATA = {"fashion-mnist": fashion_mnist, "mnist": mnist, "digits": _digits}
SETTINGS = {  # of a run, with the defaults of those that do not follow from others
    "epochs": 10,
    "batch_size": 256,
    "momentum": 0.0,
    "nesterov": False,
    "weight_decay": 0.0,
    "schedule": "constant",
    "seed": 0,
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 if a check fails, 2 for bad input, 130
    when interrupted, 143 when training was stopped by SIGTERM."""
    with _anything_printable(), _warnings_in_a_line():
        args = _parser().parse_args(argv)
        try:
            status = args.run(args) or 0
            sys.stdout.flush()  # or the interpreter would at its end, and tell of a broken pipe
            return status
        except BrokenPipeError:
            _close_stdout()
            return 1
        except (ValueError, OSError, Warning) as error:  # a warning, under -W error
            _complain(error)
            return 2
        except KeyboardInterrupt:
            _complain("interrupted")
            return 130


class _Escaping:
    """Passes text on to `stream`, with escapes for what that cannot encode; to nowhere if None."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = io.StringIO() if stream is None else stream

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except UnicodeEncodeError:  # it encodes otherwise than it says
            self._stream.write(text.encode("ascii", "backslashreplace").decode())
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _anything_printable() -> Iterator[None]:
    """Until it ends, whatever the terminal cannot encode is printed with escapes. The streams stay
    as they are: those of a notebook, say, cannot be reconfigured."""
    out, err = _Escaping(sys.stdout), _Escaping(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


@contextlib.contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Until it ends, a warning is printed like any other message."""

    def show(message: Warning, category: type[Warning], *_: Any) -> None:
        if category is not DecompressionBombWarning:  # such a picture is refused, which says more
            _complain(message)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


def _close_stdout() -> None:
    """Lets the interpreter end quietly when the reader of our output, `head` say, has gone."""
    with contextlib.suppress(io.UnsupportedOperation):  # a notebook's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def train(args: argparse.Namespace) -> int:
    """Train a network and write a run folder, or go on with one."""
    if args.resume is not None:
        return _resume(args, as_path(args.resume))
    device = choose_device(args.device)
    if args.out is not None:
        run_folder.check_unused(args.out)
    train_set, test_set = _load(args)
    # a sigmoid LeNet takes thousands of steps to begin to learn the digits
    name = args.model or ("lenet-relu" if train_set.name == "digits" else "lenet")
    given = _given(args)
    config = {
        "minicnn": __version__,
        "model": name,
        "data": train_set.name,
        "classes": train_set.classes,
        "lr": MODELS[name].lr,
        **SETTINGS,
        **given,
    }
    optimizer = resumable.new_optimizer(config)
    net = MODELS[name].build(np.random.default_rng(config["seed"])).to(device)
    check_fit(net, train_set)
    folder = run_folder.new_run(args.out, config)
    with run_folder.locked(folder):
        run_folder.check_unused(folder)  # another process may have been here before the lock
        run_folder.save_config(folder, config)
        sha256 = data_sha256(train_set)
        return resumable.train(args, folder, config, net, optimizer, train_set, test_set, sha256)


def _resume(args: argparse.Namespace, folder: Path) -> int:
    if args.out is not None:
        raise ValueError("--resume goes on in the folder of the run: leave out --out")
    if not run_folder.checkpoints(folder):
        raise ValueError(f"{folder} has no checkpoint to go on from: start a new run")
    with run_folder.locked(folder):
        checkpoint = run_folder.last_checkpoint(folder)
        position, history = checkpoint.position, checkpoint.position.history
        _check_config(folder, checkpoint.config)
        config = checkpoint.config | _given(args)
        resumable.check_same(folder, checkpoint.config, config)
        optimizer = resumable.new_optimizer(config)
        net = MODELS[config["model"]].build(None).to(choose_device(args.device))
        checkpoint.restore(net, optimizer)
        if history.train_loss and position.step == 0:  # it may have been killed before this
            run_folder.save_epoch(folder, net, history, config)
        if len(history.train_loss) == config["epochs"]:
            print(
                f"{folder} is complete, with {resumable.number(config['epochs'], 'epoch')}: "
                "more --epochs would go on with it"
            )
            return 0
        args.data = config["data"]
        train_set, test_set = _load(args)
        sha256 = data_sha256(train_set)
        resumable.check_origin(checkpoint, train_set.name, sha256)
        if config != checkpoint.config:
            longer = Checkpoint.of(net, optimizer, position, config, sha256)
            run_folder.add_checkpoint(folder, longer, args.keep)
            run_folder.save_config(folder, config)
        print(f"going on with {folder} after {position.place}")
        return resumable.train(
            args, folder, config, net, optimizer, train_set, test_set, sha256, position
        )


def _check_config(folder: Path, config: dict) -> None:
    """Raises ValueError for settings that this version cannot go on with."""
    types = dict.fromkeys(("minicnn", "model", "data"), str) | {"classes": list, "lr": float}
    types |= {name: type(default) for name, default in SETTINGS.items()}
    if not (
        {name: type(value) for name, value in config.items()} == types
        and config["model"] in MODELS
        and config["data"] in DATA
        and config["schedule"] in SCHEDULES
        and config["epochs"] > 0
    ):
        raise ValueError(
            f"{folder} cannot go on: its settings are not those of this version of minicnn, "
            f"{__version__}: {config}"
        )


def _given(args: argparse.Namespace) -> dict:
    """The settings of a run that were given on the command line."""
    names = ("model", "data", "lr", *SETTINGS)
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def evaluate_run(args: argparse.Namespace) -> None:
    """Print loss and accuracy of a run on its test set."""
    device = choose_device(args.device)
    net, origin = run_folder.open_run(args.folder)
    args.data = args.data or origin["data"]
    if args.data not in DATA:
        raise ValueError(f"{args.folder} was trained on unknown data, {args.data!r}")
    _, test_set = _load(args)
    loss, accuracy = evaluate(net.to(device), test_set, workers=args.workers)
    print(
        f"{test_set.name}: test loss {loss:.3f}, test acc {accuracy:.4f} ({len(test_set):,} images)"
    )


def predict(args: argparse.Namespace) -> int:
    """Print what a run takes images for, with probabilities."""
    net, origin = run_folder.open_run(args.folder)
    status = 0
    for path in args.images:
        try:
            pixels = read_image(path, invert=args.invert)
        except (ValueError, OSError, Warning) as error:
            _complain(error)
            status = 2
            continue
        (probabilities,) = softmax(net(as_input(pixels)))
        order = probabilities.argsort()[::-1]
        print(f"{path}: {origin['classes'][order[0]]}")
        for k in order:
            print(f"    {probabilities[k]:7.2%}  {origin['classes'][k]}")
    return status


def check(args: argparse.Namespace) -> int:
    """Check every gradient against central differences, and the checker against known faults."""
    if args.steps:
        print(checklist.step_table(args.seed))
        return 0
    if args.museum:
        checked = checklist.check_museum(args.seed)
        print(checklist.museum_table(checked))
        return int(any(report.cause != fault.cause for fault, report in checked))
    reports = checklist.check_layers(args.seed)
    print(table(reports))
    wrong = sum(not report.ok for report in reports)
    print(
        f"{len(reports) - wrong} of {len(reports)} layers and networks are right (seed {args.seed})"
    )
    return int(wrong > 0)


def show_summary(args: argparse.Namespace) -> None:
    """Print shapes, parameters, multiply-adds and bytes kept for backward, for one image."""
    net = MODELS[args.model].build(np.random.default_rng(0))
    print(summary.table(summary.summarize(net, INPUT_SHAPE)))


def show_doctor(args: argparse.Namespace) -> None:
    """Print versions, BLAS, data and GPU of this machine."""
    print(doctor.report())


def _load(args: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """The data set that was asked for; if none was and the default cannot be had, the digits."""
    if args.data is not None:
        return DATA[args.data](args.data_folder)
    try:
        return fashion_mnist(args.data_folder)
    except DatasetNotFound as error:
        if args.data_folder is not None:
            raise
        _complain(f"{error}\n\nTRAINING ON THE BUILT-IN DIGITS INSTEAD, which are far easier\n")
        return digits()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minicnn", description="Train LeNet in pure NumPy, and look at what it does."
    )
    parser.add_argument("--version", action="version", version=f"minicnn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=run.__doc__,
            description=run.__doc__,
        )
        added.set_defaults(run=run, parser=added)
        return added

    trainer = command("train", train)
    add = trainer.add_argument
    rates = ", ".join(f"{model.lr:g} for {name}" for name, model in MODELS.items())
    add("--model", choices=MODELS, help="network (default: lenet; for the digits lenet-relu)")
    add("--epochs", type=_at_least(1), help="passes over the data (default: 10)")
    add("--batch-size", type=_at_least(1), help="images in a step (default: 256)")
    add("--lr", type=float, help=f"learning rate (default: {rates})")
    add("--momentum", type=float, help="from 0 to below 1 (default: 0)")
    add("--nesterov", action="store_true", default=None, help="use Nesterov's form of momentum")
    add("--weight-decay", type=float, help="factor of the L2 penalty (default: 0)")
    add(
        "--schedule",
        choices=SCHEDULES,
        help="of the learning rate: constant, or cosine, down to 0 (default: constant)",
    )
    add("--seed", type=_at_least(0), help="of weights and order of images (default: 0)")
    add("--out", help="folder for the run, new or empty (default: a new one under runs/)")
    add("--resume", metavar="RUN", help="go on with the run in this folder, as it was set up")
    add(
        "--save-every",
        type=_at_least(1),
        metavar="STEPS",
        help="write a checkpoint after so many steps, too (default: after each epoch only)",
    )
    add("--keep", type=_at_least(1), default=2, help="checkpoints that are kept (default: 2)")
    evaluator = command("evaluate", evaluate_run)
    evaluator.add_argument("folder", metavar="RUN", help="folder of a run")
    for subparser, default in (
        (trainer, "fashion-mnist, or the digits where it cannot be had"),
        (evaluator, "that of the run"),
    ):
        add = subparser.add_argument
        add("--data", choices=DATA, help=f"data set (default: {default})")
        add("--data-folder", help="folder of its files (default: searched for)")
        add("--device", choices=DEVICES, default="cpu", help="where to compute (default: cpu)")
        add("--workers", type=_at_least(1), help="processes on a CPU (default: all cores)")
    predictor = command("predict", predict)
    predictor.add_argument("folder", metavar="RUN", help="folder of a run")
    predictor.add_argument("images", metavar="IMAGE", nargs="+", help="any picture Pillow reads")
    predictor.add_argument(
        "--invert",
        action=argparse.BooleanOptionalAction,
        help="swap dark and bright (default: if the border is bright, since the training images "
        "are bright on dark)",
    )
    checker = command("check", check)
    mode = checker.add_mutually_exclusive_group()
    add = mode.add_argument
    add("--museum", action="store_true", help="check known wrong gradients, which must be caught")
    add("--steps", action="store_true", help="print the error against the step of the differences")
    checker.add_argument("--seed", type=_at_least(0), default=0, help="of all numbers (default: 0)")
    summarizer = command("summary", show_summary)
    summarizer.add_argument("--model", choices=MODELS, default="lenet", help="default: lenet")
    command("doctor", show_doctor)
    return parser


def _at_least(minimum: int) -> Callable[[str], int]:
    """An argument's type: an integer that is not below `minimum`."""

    def parse(text: str) -> int:
        if text.isdecimal() and int(text) >= minimum:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"expected an integer of at least {minimum} but got {text!r}"
        )

    return parse


def _complain(message: object) -> None:
    print(f"minicnn: {message}", file=sys.stderr)
