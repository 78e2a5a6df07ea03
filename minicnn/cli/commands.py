"""The command line: train | data | evaluate | predict | export | check | summary | explain |
trace | doctor."""

import argparse
import contextlib
import io
import sys

import numpy as np

from minicnn.cli import doctor, summary
from minicnn.cli.data import data_of, load
from minicnn.cli.explain import explain_pass
from minicnn.cli.look import look
from minicnn.cli.output import (
    anything_printable,
    close_stdout,
    complain,
    quiet_if,
    warnings_in_a_line,
)
from minicnn.cli.parser import parser
from minicnn.cli.predicting import export, predict, report
from minicnn.cli.trace import trace_step
from minicnn.cli.training import own_device, train
from minicnn.gradcheck import checklist
from minicnn.gradcheck.report import table
from minicnn.runs import networks
from minicnn.runs.run_folder import open_run
from minicnn.training.loop import evaluate
from minicnn.training.mpi import world
from minicnn.training.parallel import Alone


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 if a check fails or the reader of the
    output has gone, 2 for bad input, 130 if interrupted, 143 if SIGTERM stopped training."""
    with anything_printable(), warnings_in_a_line():
        try:
            ranks = world()
        except ValueError as error:
            complain(error)
            return 2
        with quiet_if(ranks.rank > 0):
            return _run(argv, ranks)


def _run(argv: list[str] | None, ranks: Alone) -> int:
    """As `main`; an error on one of several ranks ends all."""

    def failed(message: object, status: int) -> int:
        sys.stdout.flush()
        ranks.end(f"minicnn: rank {ranks.rank} of {ranks.size}: {message}", status)
        complain(message)
        return status

    usage = io.StringIO()  # what argparse prints of wrong options
    try:
        with contextlib.redirect_stderr(usage):
            args = parser(COMMANDS).parse_args(argv)
    except SystemExit as exit:
        if exit.code:
            ranks.end(f"rank {ranks.rank} of {ranks.size}:\n{usage.getvalue().rstrip()}", 2)
        print(usage.getvalue(), end="", file=sys.stderr)
        raise
    try:
        status = 0
        if ranks.rank == 0 or args.run in SHARED:
            status = args.run(args) or 0
        sys.stdout.flush()  # or the interpreter would at exit, and report a broken pipe
        return status
    except BrokenPipeError:
        close_stdout()
        ranks.end("", 1)
        return 1
    except (ValueError, OSError, Warning) as error:  # a warning, under -W error
        return failed(error, 2)
    except KeyboardInterrupt:
        return failed("interrupted", 130)


def evaluate_run(args: argparse.Namespace) -> None:
    """Print loss and accuracy of a run on its test set."""
    ranks, device = world(), own_device(args.device)
    net, origin = open_run(args.folder, args.model)
    _, test_set = load(data_of(origin, args), args)
    labelled = [test_set.images, test_set.labels]
    ranks.check_same({"weights": net.arrays.values(), "test images and labels": labelled})
    net = net.to(device)
    if args.report is not None or args.json:
        if ranks.rank == 0:
            report(args, net, test_set)
        return
    loss, accuracy = evaluate(net, test_set, workers=args.workers, ranks=ranks)
    print(
        f"{test_set.name}: test loss {loss:.3f}, test acc {accuracy:.4f} ({len(test_set):,} images)"
    )


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
    model, rng = args.model or "lenet", np.random.default_rng(0)
    net = networks.build(model, rng, args.input, args.classes)
    print(summary.table(summary.summarize(net, (1, *args.input))))


def show_doctor(args: argparse.Namespace) -> None:
    """Print versions, BLAS, data and GPU of this machine."""
    print(doctor.report())


COMMANDS = {
    "train": train,
    "data": look,
    "evaluate": evaluate_run,
    "predict": predict,
    "export": export,
    "check": check,
    "summary": show_summary,
    "explain": explain_pass,
    "trace": trace_step,
    "doctor": show_doctor,
}
SHARED = (train, evaluate_run)  # among ranks; rank 0 alone runs the other commands
