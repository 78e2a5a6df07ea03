"""The folder of one training run: what was asked for, how it went, the weights and a picture.

config.json            the settings, and
history.json           the history after each epoch: for people, no program reads them
weights.safetensors    the weights after the last finished epoch, and what they are weights of
best.safetensors       the weights after the epoch with the highest test accuracy
curves.png             loss and accuracy against epochs
checkpoints/           00003-000120.safetensors is all that it takes to go on after 3 epochs and
                       120 steps; the last few are kept
.lock                  empty; locked by the process that trains
"""

import contextlib
import dataclasses
import itertools
import json
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from minicnn import files
from minicnn.files import PART, as_path, write_atomically
from minicnn.layers.base import Layer
from minicnn.models import INPUT_SHAPE, MODELS
from minicnn.plotting import save_figure, training_curves
from minicnn.runs.checkpoint import (
    Checkpoint,
    DamagedCheckpoint,
    load_checkpoint,
    load_weights,
    read_metadata,
    save_checkpoint,
    save_weights,
)
from minicnn.training.history import History

CONFIG, HISTORY, WEIGHTS, BEST, CURVES, CHECKPOINTS, LOCK = (
    "config.json",
    "history.json",
    "weights.safetensors",
    "best.safetensors",
    "curves.png",
    "checkpoints",
    ".lock",
)
ORIGIN = ("model", "data", "classes")  # what weights are of, in their metadata


def check_unused(folder: Path | str) -> None:
    """Raises ValueError if `folder` is in use: no run is ever written over. One that ended before
    its first checkpoint did left only its config and what was half written, which is no loss."""
    folder = as_path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, which a run needs")
    if folder.exists() and not all(map(_is_no_loss, folder.iterdir())):
        raise ValueError(f"{folder} is not empty, and a run is never written over")


def _is_no_loss(path: Path) -> bool:
    """Whether this is all that a run killed before its first checkpoint may leave."""
    if path.name == CHECKPOINTS:
        return all(inside.suffix == PART for inside in path.iterdir())
    return path.name in (CONFIG, LOCK) or path.suffix == PART


def new_run(folder: Path | str | None, config: dict) -> Path:
    """Makes the folder of a run, one named after its model, data and time if None. Raises
    ValueError for a folder that is in use, and OSError for one that cannot be made."""
    name = f"runs/{config['model']}-{config['data']}" if folder is None else folder
    try:
        if folder is None:
            return _new_folder(name)
        check_unused(folder)
        folder = as_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    except OSError as error:
        raise OSError(
            f"{name} cannot be made: {error.strerror}; choose another with --out"
        ) from error


def save_config(folder: Path | str, config: dict) -> None:
    _write_json(as_path(folder) / CONFIG, config)


def _new_folder(prefix: str) -> Path:
    name = f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}"
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    for suffix in itertools.chain([""], (f"-{i}" for i in itertools.count(2))):
        try:
            Path(name + suffix).mkdir()
            return Path(name + suffix)
        except FileExistsError:  # made by another run in the same second
            continue


@contextlib.contextmanager
def locked(folder: Path | str) -> Iterator[None]:
    """Keeps other processes from training in `folder`, until this block or this process ends.

    Raises ValueError if another one does, and OSError if nothing can be written there.
    """
    folder = as_path(folder)
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(files.locked(folder / LOCK))
        except BlockingIOError:
            raise ValueError(f"{folder} is in use: another process trains in it") from None
        except OSError as error:
            raise OSError(f"{folder} cannot be written to: {error.strerror}") from error
        yield


def save_epoch(folder: Path | str, net: Layer, history: History, config: dict) -> None:
    """Writes the state after an epoch."""
    folder = as_path(folder)
    origin = {name: config[name] for name in ORIGIN}
    accuracy = history.test_accuracy
    if accuracy and accuracy[-1] > max(accuracy[:-1], default=-1.0):
        save_weights(net, folder / BEST, origin)
    save_weights(net, folder / WEIGHTS, origin)
    _write_json(folder / HISTORY, dataclasses.asdict(history))
    save_figure(training_curves(history), folder / CURVES)


def add_checkpoint(folder: Path | str, checkpoint: Checkpoint, keep: int) -> None:
    """Writes a checkpoint, and then removes all before it but `keep` - 1."""
    folder = as_path(folder)
    try:
        (folder / CHECKPOINTS).mkdir(exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder / CHECKPOINTS} cannot be made: {error.strerror}") from error
    position = checkpoint.position
    name = f"{len(position.history.train_loss):05d}-{position.step:06d}.safetensors"
    path = folder / CHECKPOINTS / name
    save_checkpoint(checkpoint, path)
    paths = checkpoints(folder)
    for old in paths[: max(0, paths.index(path) + 1 - keep)]:
        old.unlink(missing_ok=True)


def checkpoints(folder: Path | str) -> list[Path]:
    """The checkpoints in the folder of a run, the last one last."""
    paths = (as_path(folder) / CHECKPOINTS).glob("*-*.safetensors")
    named = [path for path in paths if re.fullmatch(r"\d+-\d+", path.stem)]
    return sorted(named, key=lambda path: [int(number) for number in path.stem.split("-")])


def last_checkpoint(folder: Path | str) -> Checkpoint:
    """The last checkpoint in the folder of a run that is whole, with a warning for each one that is
    not. Raises ValueError if there is none. What a killed process left half written is removed."""
    folder = as_path(folder)
    for path in [*folder.glob(f".*{PART}"), *(folder / CHECKPOINTS).glob(f".*{PART}")]:
        path.unlink(missing_ok=True)
    for path in reversed(checkpoints(folder)):
        try:
            return load_checkpoint(path)
        except (DamagedCheckpoint, OSError) as error:
            warnings.warn(f"{error}; the checkpoint before it is taken", stacklevel=2)
    raise ValueError(f"{folder} has no checkpoint that is whole: start a new run")


def open_run(folder: Path | str) -> tuple[Layer, dict]:
    """(network with its trained weights, {"model", "data", "classes"}) of a run. Raises ValueError
    if it is not whole."""
    folder = as_path(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(
            f"{folder} is not the folder of a run that finished an epoch: no {WEIGHTS}"
        )
    metadata = read_metadata(path)
    try:
        origin = {name: metadata[name] for name in ORIGIN}
        net = MODELS[origin["model"]].build(None)
        _, outputs = net.output_shape(INPUT_SHAPE)
        classes = origin["classes"]
        if type(classes) is not list or [type(name) for name in classes] != [str] * outputs:
            raise ValueError(f"expected the names of {outputs} classes, got {classes!r}")
        if not isinstance(origin["data"], str):
            raise ValueError(f"expected the name of a data set, got {origin['data']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not tell what it is the weights of: {error!r}") from None
    load_weights(net, path)
    return net, origin


def _write_json(path: Path, value: dict) -> None:
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
