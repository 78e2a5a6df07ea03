"""The folder of one training run: what was asked for, how it went, the weights and a picture.

config.json            version, network, data, classes and settings: for people, no program reads it
history.json           the history after each epoch, likewise
weights.safetensors    the weights after the last finished epoch, and what they belong to
best.safetensors       the weights after the epoch with the highest test accuracy
curves.png             loss and accuracy against epochs
checkpoints/           00003-000120.safetensors is all that it takes to go on after 3 epochs and
                       120 steps; the last few are kept
.lock                  empty; locked by the process that trains
"""

import contextlib
import json
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from minicnn import files
from minicnn._version import __version__
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
from minicnn.runs.settings import Origin, Settings
from minicnn.training.history import History

CONFIG = "config.json"
HISTORY = "history.json"
WEIGHTS = "weights.safetensors"
BEST = "best.safetensors"
CURVES = "curves.png"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"


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


def new_run(folder: Path | str | None, origin: Origin) -> Path:
    """Makes the folder of a run, one named after its model, data and time if None. Raises
    ValueError for a folder that is in use, and OSError for one that cannot be made."""
    prefix = f"runs/{origin.model}-{origin.data}"
    try:
        if folder is None:
            return _new_folder(prefix)
        check_unused(folder)
        folder = as_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    except OSError as error:
        name = prefix if folder is None else folder
        raise OSError(f"{name} cannot be made: {error.strerror}; choose another folder") from error


def save_config(folder: Path | str, origin: Origin, settings: Settings) -> None:
    config = {"minicnn": __version__, **asdict(origin), **asdict(settings)}
    _write_json(as_path(folder) / CONFIG, config)


def _new_folder(prefix: str) -> Path:
    name = f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, tries = Path(name), 1
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:  # made by another run in the same second
            tries += 1
            folder = Path(f"{name}-{tries}")


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


def save_epoch(folder: Path | str, net: Layer, history: History, origin: Origin) -> None:
    """Writes the state after an epoch."""
    folder = as_path(folder)
    accuracy = history.test_accuracy
    if accuracy and accuracy[-1] > max(accuracy[:-1], default=-1.0):
        save_weights(net, folder / BEST, asdict(origin))
    save_weights(net, folder / WEIGHTS, asdict(origin))
    _write_json(folder / HISTORY, asdict(history))
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
    not. The folder is locked meanwhile, and what a killed process left half written is removed.

    Raises ValueError if there is none, if another process trains in the folder, and for a
    checkpoint of another version.
    """
    folder = as_path(folder)
    if not checkpoints(folder):
        raise ValueError(f"{folder} has no checkpoint to go on from: start a new run")
    with locked(folder):
        for path in [*folder.glob(f".*{PART}"), *(folder / CHECKPOINTS).glob(f".*{PART}")]:
            path.unlink(missing_ok=True)
        for path in reversed(checkpoints(folder)):
            try:
                return load_checkpoint(path)
            except (DamagedCheckpoint, OSError) as error:
                warnings.warn(f"{error}; the checkpoint before it is taken", stacklevel=2)
    raise ValueError(f"{folder} has no checkpoint that is whole: start a new run")


def open_run(folder: Path | str) -> tuple[Layer, Origin]:
    """(network with its trained weights, what they belong to) of a run with a network of MODELS;
    for any other, build it and use `load_weights`. Raises ValueError if the run is not whole."""
    folder = as_path(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(
            f"{folder} is not the folder of a run that finished an epoch: no {WEIGHTS}"
        )
    metadata = read_metadata(path)
    try:
        model, data, classes = (metadata[name] for name in ("model", "data", "classes"))
        if type(classes) is not list:
            raise ValueError(f"expected a list of the names of the classes, got {classes!r}")
        origin = Origin(model, data, tuple(classes))
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path} does not say which model these weights belong to: {error!r}"
        ) from None
    if model not in MODELS:
        raise ValueError(
            f"{path} holds the weights of {model!r}, which is none of {', '.join(MODELS)}: build "
            "that network, and read them with load_weights(net, path)"
        )
    net = MODELS[model].build(None)
    _, outputs = net.output_shape(INPUT_SHAPE)
    if len(classes) != outputs:
        raise ValueError(f"{path}: expected the names of {outputs} classes, got {classes!r}")
    load_weights(net, path)
    return net, origin


def _write_json(path: Path, value: dict) -> None:
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
