"""minicnn train: starts or resumes a run, and prints how it goes."""

import argparse
import dataclasses
import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from minicnn.backend import choose_device, gpu_count, gpu_findings
from minicnn.cli.data import DATA, asked, data_of, load
from minicnn.cli.output import complain
from minicnn.cli.parser import ADAM_LR, SGD_LR
from minicnn.datasets import Dataset, DataSpec
from minicnn.files import as_path
from minicnn.layers.base import Layer
from minicnn.runs import hints, networks, resumable, run_folder
from minicnn.runs.baseline import among_published, plateau
from minicnn.runs.checkpoint import versions
from minicnn.runs.fine_tuning import start_from
from minicnn.runs.settings import RECIPES, Origin, Settings
from minicnn.runs.stopping import Stopped
from minicnn.text import number
from minicnn.training.chunks import training_cut
from minicnn.training.freezing import frozen_names
from minicnn.training.history import History, Position, TrainingError
from minicnn.training.loop import check_fit, estimate_seconds
from minicnn.training.mpi import world
from minicnn.training.parallel import Alone, worker_count
from minicnn.zoo import MODELS

COURSE_DATA = ("fashion-mnist", "mnist")
SMALL, SMALL_BATCH = 10_000, 32  # images of your own, and the batch that gives enough steps there
SLOW = 2.0  # times as slow as the median of the ranks: one step does not tell finer differences


def train(args: argparse.Namespace) -> int:
    """Train a network and write a run folder, or resume one."""
    if args.resume is not None:
        return _resume(args, as_path(args.resume))
    ranks, device = world(), _device(args)
    if args.out is not None and ranks.rank == 0:
        run_folder.check_unused(args.out)
    begun = None
    if args.started_from is not None:
        if args.model is not None:
            raise ValueError("--from uses the network of the run: leave out --model")
        _, begun = ranks.from_first(lambda: run_folder.open_run(args.started_from))
        if args.data is not None and begun.spec is not None:  # of other files only the form stays
            form = {"test_share": None, "skip_bad": False, "seed": args.seed or 0}
            begun = dataclasses.replace(begun, spec=dataclasses.replace(begun.spec, **form))
    train_set, test_set = load(data_of(begun, args) if begun else args.data, args)
    name, settings = asked_for(args, train_set, begun.model if begun else args.model)
    if args.started_from is None:
        net = new_network(name, settings.seed, train_set).to(device)
    else:
        source = args.started_from
        net, _, is_new = ranks.from_first(lambda: start_from(source, train_set, settings.seed))
        net = net.to(device)
        last = f"; the last layer is new, for {len(train_set.classes)} classes" if is_new else ""
        print(f"starting from the last weights in {source}{last}")
    check_fit(net, train_set)
    frozen_names(net, settings.freeze)
    spec = asked(args, begun.spec if begun else None) or DataSpec(train_set.name)
    origin = networks.origin(net, train_set, name, spec)
    folder = ranks.from_first(lambda: run_folder.new_run(args.out, origin))
    run = functools.partial(
        resumable.train_run,
        net,
        train_set,
        test_set,
        folder,
        settings,
        model=name,
        spec=spec,
        started_from=args.started_from or "",
    )

    def announce(start: Position) -> None:
        if ranks.rank == 0:
            run_folder.save_first_batch(folder, train_set, settings)
        from_mnist = begun is not None and begun.preparation.invert is None
        for line in (
            hints.nearly_equal(train_set),
            hints.dark_on_bright(train_set) if from_mnist else None,
        ):
            if line:
                print(line)
        _announce(args, folder, settings, origin, net, train_set, test_set, start)

    return _trained(args, folder, settings, origin, run, announce, net, test_set)


def asked_for(
    args: argparse.Namespace, train_set: Dataset, model: str | None = None
) -> tuple[str, Settings]:
    """The name of the network, `model` if it is known, and how to train it."""
    model = model or args.model
    if args.recipe is not None:
        recipe = RECIPES[args.recipe]
        name = model or recipe.model
        return name, dataclasses.replace(recipe.settings, **given(args, Settings))
    # a sigmoid LeNet needs hundreds of steps before it begins to learn, for the digits thousands
    name = model or ("lenet" if train_set.name in COURSE_DATA else "lenet-relu")
    lr = MODELS[name].lr if name in MODELS else SGD_LR
    if args.optimizer not in (None, "sgd"):
        lr = ADAM_LR
    is_small = train_set.name not in DATA and len(train_set) <= SMALL
    batch_size = SMALL_BATCH if is_small else Settings.batch_size
    return name, Settings(**{"lr": lr, "batch_size": batch_size} | given(args, Settings))


def new_network(name: str, seed: int, data: Dataset) -> Layer:
    """The network of that name, or of a function at this place, for such images and classes."""
    rng = np.random.default_rng(seed)
    return networks.build(name, rng, data.images.shape[1:], len(data.classes))


def _resume(args: argparse.Namespace, folder: Path) -> int:
    device = _device(args)
    if args.started_from is not None:
        raise ValueError("--from starts a new run and --resume continues one: give one of them")
    if args.recipe is not None:
        raise ValueError("--resume uses the settings of the run: leave out --recipe")
    if args.out is not None:
        raise ValueError("--resume writes to the folder of the run: leave out --out")
    checkpoint = world().from_first(lambda: run_folder.last_checkpoint(folder))
    origin, history = checkpoint.origin, checkpoint.position.history
    if origin.source_sha256:
        origin = networks.moved(origin, args.model)
    is_own = origin.spec is not None and origin.spec.source not in DATA
    if is_own:  # its files may have moved
        origin = dataclasses.replace(origin, spec=asked(args, origin.spec))
    checkpoint = dataclasses.replace(checkpoint, origin=origin)
    model, data = args.model or origin.model, args.data if args.data in DATA else origin.data
    resumable.check_same(folder, origin, dataclasses.replace(origin, model=model, data=data))
    settings = dataclasses.replace(checkpoint.settings, **given(args, Settings))
    train_set, test_set = load(data_of(origin, args), args)
    if is_own:  # a folder may have a new name; its content is checked
        train_set = dataclasses.replace(train_set, name=origin.data)
    try:
        net = networks.rebuild(origin, checkpoint.arrays).to(device)
    except ValueError as error:
        raise ValueError(f"{folder} cannot be resumed here: {error}") from None
    run = functools.partial(
        resumable.resume_run, net, train_set, test_set, folder, settings, checkpoint=checkpoint
    )
    if len(history.train_loss) == settings.epochs:
        run()
        print(
            f"{folder} is complete, with {number(settings.epochs, 'epoch')}: "
            "give more --epochs to continue it"
        )
        return 0

    def announce(start: Position) -> None:
        print(f"resuming {folder} after {start.place}")
        _announce(args, folder, settings, origin, net, train_set, test_set, start)

    return _trained(args, folder, settings, origin, run, announce, net, test_set)


def _device(args: argparse.Namespace) -> str:
    device = own_device(args.device)
    if args.capture and device != "gpu":
        raise ValueError(
            "--capture needs a GPU, and training would be on the CPU: use --device gpu"
        )
    return device


def given(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The fields of Settings or Origin that the command line gives."""
    given = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(kind)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None
    }


def _trained(
    args: argparse.Namespace,
    folder: Path,
    settings: Settings,
    origin: Origin,
    run: Callable[..., History],
    announce: Callable[[Position], None],
    net: Layer,
    test_set: Dataset,
) -> int:
    """Trains, prints how it went, and returns the exit status."""

    def on_epoch(history: History) -> None:
        from tqdm import tqdm  # here: the other commands do not need it

        for line in (
            plateau(origin, history),
            hints.parted(history),
            hints.below_chance(history, len(origin.classes), len(test_set)),
        ):
            if line:
                tqdm.write(line)

    try:
        history = run(
            workers=args.workers,
            save_every=args.save_every,
            keep=args.keep,
            capture=args.capture,
            on_start=announce,
            on_epoch=on_epoch,
        )
    except Stopped as stopped:
        print(
            f"minicnn: stopped by {stopped.signal.name} after {stopped.place}; "
            f"resume with: {_resume_command(args, folder)}",
            file=sys.stderr,
        )
        return 128 + stopped.signal
    except BrokenPipeError:
        raise
    except TrainingError as error:
        lower = f"start a new run with --lr {settings.lr / 2:g}, for example"
        raise ValueError(
            f"{error}: {lower} (with the same one, {_last_good(args, folder)})"
        ) from None
    except OSError as error:
        raise ValueError(f"{error}; {_last_good(args, folder)}") from None
    print(history.summary())
    for line in (
        among_published(origin, settings, history),
        hints.never_predicted(net, test_set, history),
    ):
        if line:
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
    """Prints what is about to happen."""
    batch_size = settings.batch_size
    ranks = world()
    options = {"epochs": settings.epochs, "batch_size": batch_size, "workers": args.workers}
    seconds = _slowest(estimate_seconds(net, train_set, ranks=ranks, **options), ranks)
    _tell_differences(net, ranks)
    done = len(start.history.train_loss) + start.seen / len(train_set)
    place = f"the {net.device}"
    if net.device == "cpu":
        chunks = training_cut(net, train_set.images.shape[1:])(min(batch_size, len(train_set)))
        workers = worker_count(net, chunks, args.workers, ranks)
        place += f" with {number(workers, 'worker')}"
    else:
        place += f" ({gpu_findings()[0][1]})"
    if ranks.size > 1:
        place += f" on each of {ranks.size} ranks"
    parameters = sum(parameter.size for parameter in net.params.values())
    print(
        f"{origin.model}, {parameters:,} parameters, on {train_set.name} "
        f"({len(train_set):,} images to train, {len(test_set):,} to test), on {place}\n"
        f"{_in_words(settings)}\n"
        f"about {_duration(seconds * (1 - done / settings.epochs))}, estimated from one step; "
        f"results go to {folder}",
        flush=True,
    )


def own_device(name: str) -> str:
    """`choose_device(name)`; of the GPUs of a machine, each of its ranks takes the next."""
    device, ranks = choose_device(name), world()
    if ranks.size > 1 and device == "gpu" and ":" not in name:
        choose_device(f"gpu:{ranks.local_rank % gpu_count()}")
    return device


def _slowest(own: float, ranks: Alone) -> float:
    """The most seconds of any rank, whom all wait for; tells if it is far behind."""
    every = ranks.gathered(own)
    slowest, usual = max(every), float(np.median(every))
    if slowest > SLOW * usual:
        complain(
            f"rank {every.index(slowest)} is {slowest / usual:.1f} times as slow as most, and the "
            "others wait for it in each step"
        )
    return slowest


def _tell_differences(net: Layer, ranks: Alone) -> None:
    """Tells on which ranks the last digits may differ from those of rank 0."""
    kernels = {
        blas["architecture"] for blas in threadpoolctl.threadpool_info() if "architecture" in blas
    }
    own = versions() | {"BLAS kernels": ", ".join(sorted(kernels)), "device": net.device}
    first, *others = ranks.gathered(own)
    for rank, other in enumerate(others, 1):
        for name in first:
            if other[name] != first[name]:
                complain(
                    f"rank {rank} has {name} {other[name]}, but rank 0 has {first[name]}: the last "
                    "digits may depend on how many ranks there are"
                )


def _in_words(settings: Settings) -> str:
    """All settings that decide the result; those beyond the course's only if they are on."""
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
        f"frozen: {' '.join(settings.freeze)}": settings.freeze,
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


def _resume_command(args: argparse.Namespace, folder: Path) -> str:
    """The command that resumes the run, with the options that the run does not store."""
    command = ["minicnn", "train", "--resume", str(folder)]
    for name in ("data_folder", "device", "workers", "save_every", "keep"):
        if (value := getattr(args, name)) != args.parser.get_default(name):
            command += [f"--{name.replace('_', '-')}", str(value)]
    command += ["--data", args.data] if args.resume and args.data else []
    command += ["--capture"] if args.capture else []
    return shlex.join(command)


def _last_good(args: argparse.Namespace, folder: Path) -> str:
    if not run_folder.checkpoints(folder):
        return "there is no checkpoint to resume from"
    return f"{_resume_command(args, folder)} resumes from the last good checkpoint"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return number(max(1, round(seconds)), "second")
    return number(round(seconds / 60), "minute")
