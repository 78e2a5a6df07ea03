"""The folder of a training run: its settings, its history, the weights and pictures.

config.json            version, network, data, classes and settings; for people, no program reads it
history.json           the history after each epoch; likewise
weights.safetensors    the weights after the last finished epoch, and what they belong to
best.safetensors       the weights after the epoch with the highest test accuracy
first_batch.png        the first images of the first batch, with their labels
curves.png             loss and accuracy against epochs
checkpoints/           00003-000120.safetensors is all that resuming after 3 epochs and 120 steps
                       needs; the last few are kept
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

import numpy as np

from minicnn import files
from minicnn._version import __version__
from minicnn.datasets import Dataset, batches
from minicnn.files import PART, as_path, write_atomically
from minicnn.layers.base import Layer
from minicnn.plotting import labelled_images, save_figure, training_curves
from minicnn.runs import networks
from minicnn.runs.checkpoint import (
    Checkpoint,
    DamagedCheckpoint,
    load_checkpoint,
    load_weights,
    read_arrays,
    read_origin,
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
FIRST_BATCH = "first_batch.png"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"


def check_unused(folder: Path | str) -> None:
    """Raises ValueError if `folder` is in use: no run is ever overwritten. A run that ended before
    its first checkpoint left only its config, a picture and half-written files, which are no
    loss."""
    folder = as_path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: choose a new or empty folder")
    if folder.exists() and not all(map(_is_no_loss, folder.iterdir())):
        raise ValueError(f"{folder} is not empty: choose a new or empty folder")


def _is_no_loss(path: Path) -> bool:
    """Whether a run killed before its first checkpoint may have left this file."""
    if path.name == CHECKPOINTS:
        return all(inside.suffix == PART for inside in path.iterdir())
    return path.name in (CONFIG, FIRST_BATCH, LOCK) or path.suffix == PART


def new_run(folder: Path | str | None, origin: Origin) -> Path:
    """Makes the folder of a run; if None, one named after its model, data and time. Raises
    ValueError for a folder in use, and OSError for one that cannot be made."""
    prefix = "runs/" + re.sub(r"[^\w.+-]+", "-", f"{Path(origin.model).name}-{origin.data}")
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
    """Keeps other processes from training in `folder` until this block or this process ends.

    Raises ValueError if another process trains there, and OSError if nothing can be written there.
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


def save_first_batch(folder: Path | str, train: Dataset, settings: Settings) -> None:
    """Draws the first images that a run trains on, before they are augmented: shifted labels or
    inverted pictures show there."""
    order = batches(len(train), settings.batch_size, np.random.default_rng((settings.seed, 0)))
    save_figure(labelled_images(train, order[0][:32]), as_path(folder) / FIRST_BATCH)


def add_checkpoint(folder: Path | str, checkpoint: Checkpoint, keep: int) -> None:
    """Writes a checkpoint, then removes all but the last `keep` - 1 before it."""
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
    """The checkpoints in the folder of a run, in order."""
    paths = (as_path(folder) / CHECKPOINTS).glob("*-*.safetensors")
    named = [path for path in paths if re.fullmatch(r"\d+-\d+", path.stem)]
    return sorted(named, key=lambda path: [int(number) for number in path.stem.split("-")])


def last_checkpoint(folder: Path | str) -> Checkpoint:
    """The last undamaged checkpoint in the folder of a run, with a warning for each damaged one
    after it. Meanwhile the folder is locked; half-written files of a killed process are removed.

    Raises ValueError if there is none, if another process trains in the folder, and for a
    checkpoint from another version.
    """
    folder = as_path(folder)
    if not checkpoints(folder):
        raise ValueError(f"{folder} has no checkpoint to resume from: start a new run")
    with locked(folder):
        for path in [*folder.glob(f".*{PART}"), *(folder / CHECKPOINTS).glob(f".*{PART}")]:
            path.unlink(missing_ok=True)
        for path in reversed(checkpoints(folder)):
            try:
                return load_checkpoint(path)
            except (DamagedCheckpoint, OSError) as error:
                warnings.warn(f"{error}; using the checkpoint before it", stacklevel=2)
    raise ValueError(f"{folder} has no undamaged checkpoint: start a new run")


def open_run(folder: Path | str, model: str | None = None) -> tuple[Layer, Origin]:
    """(network with its trained weights, their origin) of a run, by its folder or one of its files
    of weights, such as best.safetensors.

    A network with your own layers is built by the function in the file that it was trained
    from, if that has not changed; if it has moved, `model` is the new FILE.py:function. Raises
    ValueError if the run is incomplete or damaged, or if its network cannot be built here: build it
    yourself then, and use `load_weights`.
    """
    folder = as_path(folder)
    path = folder if folder.suffix == ".safetensors" else folder / WEIGHTS
    if not path.is_file():
        raise ValueError(
            f"{folder} is not the folder of a run that finished an epoch: no {WEIGHTS}"
        )
    try:
        origin = networks.moved(read_origin(path), model)
        net = networks.rebuild(origin, read_arrays(path))
        scores, classes = net.output_shape((1, *origin.input_shape)), origin.classes
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if scores != (1, len(classes)):
        raise ValueError(
            f"{path}: the network's output is {scores}, so expected the names of {scores[-1]} "
            f"classes, got {classes}"
        )
    load_weights(net, path)
    return net, origin


def _write_json(path: Path, value: dict) -> None:
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
