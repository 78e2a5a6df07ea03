"""Training in the folder of a run: announced, saved as it goes, stopped by a signal where it can go
on, and only with the settings and the data that it began with."""

import argparse
import shlex
import sys
import warnings
from pathlib import Path

from tqdm import tqdm

from minicnn.datasets import Dataset
from minicnn.layers.base import Layer
from minicnn.optimizers import SCHEDULES, SGD
from minicnn.runs import run_folder
from minicnn.runs.baseline import among_published, plateau
from minicnn.runs.checkpoint import Checkpoint, versions
from minicnn.runs.stopping import Stopped, StopSignals
from minicnn.text import number
from minicnn.training.history import History, Position, TrainingError
from minicnn.training.loop import estimate_seconds, fit
from minicnn.training.parallel import worker_count


def train(
    args: argparse.Namespace,
    folder: Path,
    config: dict,
    net: Layer,
    optimizer: SGD,
    train_set: Dataset,
    test_set: Dataset,
    sha256: str,
    start: Position | None = None,
) -> int:
    """Trains from `start` on, and returns the exit status."""
    train_set, test_set = (part.to(net.device) for part in (train_set, test_set))
    _announce(args, folder, config, net, train_set, test_set, start)
    stop = StopSignals()

    def save(position: Position) -> None:
        checkpoint = Checkpoint.of(net, optimizer, position, config, sha256)
        run_folder.add_checkpoint(folder, checkpoint, args.keep)

    def on_step(position: Position) -> None:
        if stop.number or (args.save_every and position.step % args.save_every == 0):
            save(position)
            stop.check(position)

    def on_epoch(history: History) -> None:
        position = Position(history)
        save(position)
        run_folder.save_epoch(folder, net, history, config)
        if line := plateau(config, history):
            tqdm.write(line)
        if len(history.train_loss) < config["epochs"]:
            stop.check(position)

    try:
        with stop.on_signals():
            history = fit(
                net,
                train_set,
                test_set,
                epochs=config["epochs"],
                batch_size=config["batch_size"],
                optimizer=optimizer,
                schedule=SCHEDULES[config["schedule"]],
                seed=config["seed"],
                workers=args.workers,
                on_epoch=on_epoch,
                on_step=on_step,
                start=start,
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
        lower = f"start anew with --lr {config['lr'] / 2:g}, say"
        raise ValueError(
            f"{error}: {lower} (with the same one, {_last_good(args, folder)})"
        ) from None
    except OSError as error:
        raise ValueError(f"{error}; {_last_good(args, folder)}") from None
    print(history.summary())
    if line := among_published(config, history):
        print(line)
    print(f"weights, history and curves are in {folder}")
    return 0


def new_optimizer(config: dict) -> SGD:
    return SGD(config["lr"], config["momentum"], config["nesterov"], config["weight_decay"])


def check_same(folder: Path, old: dict, new: dict) -> None:
    """Raises ValueError if the settings `new` would not go on as `old` did."""
    longer = old["schedule"] == "constant" and old["epochs"] < new["epochs"]
    same = {"epochs"} if longer else set()
    changed = [name for name in old if old[name] != new[name] and name not in same]
    if changed:
        differences = "; ".join(f"{name} is {old[name]}, not {new[name]}" for name in changed)
        raise ValueError(
            f"{folder} cannot go on with other settings: {differences}; leave them out, or start "
            "a new run"
        )


def check_origin(checkpoint: Checkpoint, name: str, sha256: str) -> None:
    """Raises ValueError for other data than the checkpoint's, and warns of other versions."""
    if sha256 != checkpoint.data_sha256:
        raise ValueError(
            f"{name} is not what the run was trained on: its SHA-256 is {sha256}, expected "
            f"{checkpoint.data_sha256}"
        )
    for name, now in versions().items():
        if (then := checkpoint.versions.get(name)) != now:
            warnings.warn(
                f"the run began with {name} {then}, and this is {now}: the last digits may differ "
                "from those of a run in one piece",
                stacklevel=2,
            )


def _announce(
    args: argparse.Namespace,
    folder: Path,
    config: dict,
    net: Layer,
    train_set: Dataset,
    test_set: Dataset,
    start: Position | None,
) -> None:
    """Prints what is about to be done."""
    epochs, batch_size = config["epochs"], config["batch_size"]
    seconds = estimate_seconds(
        net, train_set, epochs=epochs, batch_size=batch_size, workers=args.workers
    )
    if start:
        done = len(start.history.train_loss) + start.seen / len(train_set)
        seconds *= 1 - done / epochs
    schedule = "" if config["schedule"] == "constant" else f" ({config['schedule']} schedule)"
    place = f"the {net.device}"
    if net.device == "cpu":
        workers = worker_count(net, min(batch_size, len(train_set)), args.workers)
        place += f" with {number(workers, 'worker')}"
    parameters = sum(parameter.size for parameter in net.params.values())
    print(
        f"{config['model']}, {parameters:,} parameters, on {train_set.name} "
        f"({len(train_set):,} images to train, {len(test_set):,} to test), on {place}\n"
        f"{number(epochs, 'epoch')}, batch {batch_size}, lr {config['lr']:g}{schedule}, momentum "
        f"{config['momentum']:g}, weight decay {config['weight_decay']:g}, seed {config['seed']}\n"
        f"about {_duration(seconds)}, going by one step; results go to {folder}",
        flush=True,
    )


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
