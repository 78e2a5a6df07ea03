"""The command line: train | evaluate | predict | check | summary | explain | trace | doctor."""

import argparse
import sys

import numpy as np

from minicnn.backend import choose_device
from minicnn.cli import doctor, summary
from minicnn.cli.data import DATA, load
from minicnn.cli.explain import explain_pass
from minicnn.cli.output import anything_printable, close_stdout, complain, warnings_in_a_line
from minicnn.cli.parser import parser
from minicnn.cli.trace import trace_step
from minicnn.cli.training import train
from minicnn.datasets import as_input, read_image
from minicnn.gradcheck import checklist
from minicnn.gradcheck.report import table
from minicnn.losses import softmax
from minicnn.models import INPUT_SHAPE, MODELS
from minicnn.runs.run_folder import open_run
from minicnn.training.loop import evaluate


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 if a check fails or nobody reads the
    output, 2 for bad input, 130 when interrupted, 143 when training was stopped by SIGTERM."""
    with anything_printable(), warnings_in_a_line():
        args = parser(COMMANDS).parse_args(argv)
        try:
            status = args.run(args) or 0
            sys.stdout.flush()  # or the interpreter would at its end, and tell of a broken pipe
            return status
        except BrokenPipeError:
            close_stdout()
            return 1
        except (ValueError, OSError, Warning) as error:  # a warning, under -W error
            complain(error)
            return 2
        except KeyboardInterrupt:
            complain("interrupted")
            return 130


def evaluate_run(args: argparse.Namespace) -> None:
    """Print loss and accuracy of a run on its test set."""
    device = choose_device(args.device)
    net, origin = open_run(args.folder)
    name = args.data or origin.data
    if name not in DATA:
        raise ValueError(f"{args.folder} was trained on unknown data, {name!r}")
    _, test_set = load(name, args)
    loss, accuracy = evaluate(net.to(device), test_set, workers=args.workers)
    print(
        f"{test_set.name}: test loss {loss:.3f}, test acc {accuracy:.4f} ({len(test_set):,} images)"
    )


def predict(args: argparse.Namespace) -> int:
    """Print what a run takes images for, with probabilities."""
    net, origin = open_run(args.folder)
    status = 0
    for path in args.images:
        try:
            pixels = read_image(path, invert=args.invert)
        except (ValueError, OSError, Warning) as error:
            complain(error)
            status = 2
            continue
        (probabilities,) = softmax(net(as_input(pixels)))
        order = probabilities.argsort()[::-1]
        print(f"{path}: {origin.classes[order[0]]}")
        for k in order:
            print(f"    {probabilities[k]:7.2%}  {origin.classes[k]}")
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


COMMANDS = {
    "train": train,
    "evaluate": evaluate_run,
    "predict": predict,
    "check": check,
    "summary": show_summary,
    "explain": explain_pass,
    "trace": trace_step,
    "doctor": show_doctor,
}
