"""minicnn train: a run that is begun or resumed, and what is printed of it."""

import argparse
import dataclasses
import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.backend import choose_device
from minicnn.cli.data import DATA, load
from minicnn.cli.parser import ADAM_LR
from minicnn.datasets import Dataset
from minicnn.files import as_path
from minicnn.layers.base import Layer
from minicnn.models import MODELS
from minicnn.runs import resumable, run_folder
from minicnn.runs.baseline import among_published, plateau
from minicnn.runs.settings import RECIPES, Origin, Settings
from minicnn.runs.stopping import Stopped
from minicnn.text import number
from minicnn.training.history import History, Position, TrainingError
from minicnn.training.loop import check_fit, estimate_seconds
from minicnn.training.parallel import worker_count


def train(args: argparse.Namespace) -> int:
    """Train a network and write a run folder, or go on with one."""
    if args.resume is not None:
        return _resume(args, as_path(args.resume))
    device = choose_device(args.device)
    if args.out is not None:
        run_folder.check_unused(args.out)
    train_set, test_set = load(args.data, args)
    name, settings = asked_for(args, train_set)
    net = MODELS[name].build(np.random.default_rng(settings.seed)).to(device)
    check_fit(net, train_set)
    origin = Origin(name, train_set.name, train_set.classes)
    folder = run_folder.new_run(args.out, origin)
    run = functools.partial(
        resumable.train_run, net, train_set, test_set, folder, settings, model=name
    )

    def announce(start: Position) -> None:
        _announce(args, folder, settings, origin, net, train_set, test_set, start)

    return _trained(args, folder, settings, origin, run, announce)


def asked_for(args: argparse.Namespace, train_set: Dataset) -> tuple[str, Settings]:
    """The name of the network, and how to train it."""
    if args.recipe is not None:
        recipe = RECIPES[args.recipe]
        name = args.model or recipe.model
        return name, dataclasses.replace(recipe.settings, **given(args, Settings))
    # a sigmoid LeNet takes thousands of steps to begin to learn the digits
    name = args.model or ("lenet-relu" if train_set.name == "digits" else "lenet")
    lr = MODELS[name].lr if args.optimizer in (None, "sgd") else ADAM_LR
    return name, Settings(**{"lr": lr} | given(args, Settings))


def _resume(args: argparse.Namespace, folder: Path) -> int:
    device = choose_device(args.device)
    if args.recipe is not None:
        raise ValueError("--resume goes on with the settings of the run: leave out --recipe")
    if args.out is not None:
        raise ValueError("--resume goes on in the folder of the run: leave out --out")
    checkpoint = run_folder.last_checkpoint(folder)
    origin, history = checkpoint.origin, checkpoint.position.history
    if origin.model not in MODELS or origin.data not in DATA:
        raise ValueError(
            f"{folder} cannot go on here: the command line does not know {origin.model!r} on "
            f"{origin.data!r}; minicnn.runs.resume_run goes on with any network and data"
        )
    resumable.check_same(folder, origin, dataclasses.replace(origin, **given(args, Origin)))
    settings = dataclasses.replace(checkpoint.settings, **given(args, Settings))
    net = MODELS[origin.model].build(None).to(device)
    train_set, test_set = load(origin.data, args)
    run = functools.partial(
        resumable.resume_run, net, train_set, test_set, folder, settings, checkpoint=checkpoint
    )
    if len(history.train_loss) == settings.epochs:
        run()
        print(
            f"{folder} is complete, with {number(settings.epochs, 'epoch')}: "
            "more --epochs would go on with it"
        )
        return 0

    def announce(start: Position) -> None:
        print(f"going on with {folder} after {start.place}")
        _announce(args, folder, settings, origin, net, train_set, test_set, start)

    return _trained(args, folder, settings, origin, run, announce)


def given(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    """What the command line says of the fields of Settings or Origin."""
    given = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(kind)}
    return {name: value for name, value in given.items() if value is not None}


def _trained(
    args: argparse.Namespace,
    folder: Path,
    settings: Settings,
    origin: Origin,
    run: Callable[..., History],
    announce: Callable[[Position], None],
) -> int:
    """Trains, prints how it went, and returns the exit status."""

    def on_epoch(history: History) -> None:
        from tqdm import tqdm  # here: the other commands do without it

        if line := plateau(origin, history):
            tqdm.write(line)

    try:
        history = run(
            workers=args.workers,
            save_every=args.save_every,
            keep=args.keep,
            on_start=announce,
            on_epoch=on_epoch,
        )
    except Stopped as stopped:
        print(
            f"minicnn: stopped by {stopped.signal.name} after {stopped.place}; "
            f"go on with: {_go_on(args, folder)}",
            file=sys.stderr,
        )
        return 128 + stopped.signal
    except BrokenPipeError:
        raise
    except TrainingError as error:
        lower = f"start anew with --lr {settings.lr / 2:g}, say"
        raise ValueError(
            f"{error}: {lower} (with the same one, {_last_good(args, folder)})"
        ) from None
    except OSError as error:
        raise ValueError(f"{error}; {_last_good(args, folder)}") from None
    print(history.summary())
    if line := among_published(origin, settings, history):
        print(line)
    print(f"weights, history and curves are in {folder}")
    return 0


def _announce(
    args: argparse.Namespace,
    folder: Path,
    settings: Settings,
    origin: Origin,
    net: Layer,
    train_set: Dataset,
    test_set: Dataset,
    start: Position,
) -> None:
    """Prints what is about to be done."""
    batch_size = settings.batch_size
    seconds = estimate_seconds(
        net, train_set, epochs=settings.epochs, batch_size=batch_size, workers=args.workers
    )
    done = len(start.history.train_loss) + start.seen / len(train_set)
    place = f"the {net.device}"
    if net.device == "cpu":
        workers = worker_count(net, min(batch_size, len(train_set)), args.workers)
        place += f" with {number(workers, 'worker')}"
    parameters = sum(parameter.size for parameter in net.params.values())
    print(
        f"{origin.model}, {parameters:,} parameters, on {train_set.name} "
        f"({len(train_set):,} images to train, {len(test_set):,} to test), on {place}\n"
        f"{_in_words(settings)}\n"
        f"about {_duration(seconds * (1 - done / settings.epochs))}, going by one step; results go "
        f"to {folder}",
        flush=True,
    )


def _in_words(settings: Settings) -> str:
    """All that decides the result; what came after the course's settings only if it is on."""
    schedule = "" if settings.schedule == "constant" else f" ({settings.schedule} schedule)"
    method = (
        f"momentum {settings.momentum:g}" if settings.optimizer == "sgd" else settings.optimizer
    )
    words = {
        "nesterov": settings.nesterov,
        f"clip norm {settings.clip_norm}": settings.clip_norm is not None,
        "no decay of biases": not settings.decay_biases,
        f"label smoothing {settings.label_smoothing:g}": settings.label_smoothing,
        "mirrored": settings.mirror,
        f"shifted by up to {settings.shift}": settings.shift,
        f"erased with probability {settings.erase:g}": settings.erase,
    }
    told = [
        number(settings.epochs, "epoch"),
        f"batch {settings.batch_size}",
        f"lr {settings.lr:g}{schedule}",
        method,
        f"weight decay {settings.weight_decay:g}",
        *(text for text, is_on in words.items() if is_on),
        f"seed {settings.seed}",
    ]
    return ", ".join(told)


def _go_on(args: argparse.Namespace, folder: Path) -> str:
    """The command, with the options that are not kept in the run."""
    command = ["minicnn", "train", "--resume", str(folder)]
    for name in ("data_folder", "device", "workers", "save_every", "keep"):
        if (value := getattr(args, name)) != args.parser.get_default(name):
            command += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(command)


def _last_good(args: argparse.Namespace, folder: Path) -> str:
    if not run_folder.checkpoints(folder):
        return "there is no checkpoint to go on from"
    return f"{_go_on(args, folder)} goes on from the last good checkpoint"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return number(max(1, round(seconds)), "second")
    return number(round(seconds / 60), "minute")
