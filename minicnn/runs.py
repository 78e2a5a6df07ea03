"""The folder of one training run: what was asked for, how it went, the weights and a picture.

config.json            the settings, enough to build the network again
history.json           the history after each epoch
weights.safetensors    the weights after the last finished epoch
curves.png             loss and accuracy against epochs
"""

import dataclasses
import itertools
import json
import time
from pathlib import Path

from minicnn.checkpoint import load_weights, save_weights, write_atomically
from minicnn.layers.base import Layer
from minicnn.models import INPUT_SHAPE, MODELS
from minicnn.plotting import save_figure, training_curves
from minicnn.training import History

CONFIG, HISTORY, WEIGHTS, CURVES = (
    "config.json",
    "history.json",
    "weights.safetensors",
    "curves.png",
)


def check_unused(folder: Path | str) -> None:
    """Raises ValueError if `folder` is in use: no run is ever written over. One that ended before
    its first epoch did left only its config, which is no loss."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, which a run needs")
    if folder.exists() and any(path.name != CONFIG for path in folder.iterdir()):
        raise ValueError(f"{folder} is not empty, and a run is never written over")


def new_run(folder: Path | str | None, config: dict) -> Path:
    """Makes the folder of a run, one named after its model, data and time if None, and writes its
    config. Raises ValueError for a folder that is in use."""
    if folder is None:
        folder = _new_folder(f"runs/{config['model']}-{config['data']}")
    else:
        check_unused(folder)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / CONFIG, config)
    return folder


def _new_folder(prefix: str) -> Path:
    name = f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in itertools.chain([""], (f"-{i}" for i in itertools.count(2))):
        try:
            Path(name + suffix).mkdir(parents=True)
            return Path(name + suffix)
        except FileExistsError:  # made by another run in the same second
            continue


def save_epoch(folder: Path, net: Layer, history: History) -> None:
    """Writes the state after an epoch."""
    save_weights(net, folder / WEIGHTS)
    _write_json(folder / HISTORY, dataclasses.asdict(history))
    save_figure(training_curves(history), folder / CURVES)


def open_run(folder: Path | str) -> tuple[Layer, dict]:
    """(network with its trained weights, config) of a run. Raises ValueError if it is not whole."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} is not the folder of a run: it has no {CONFIG}")
    try:
        config = json.loads(path.read_text())
        net = MODELS[config["model"]].build(None)
        _, outputs = net.output_shape(INPUT_SHAPE)
        if [type(name) for name in config["classes"]] != [str] * outputs:
            raise ValueError(f"expected the names of {outputs} classes, got {config['classes']!r}")
        if not isinstance(config["data"], str):
            raise ValueError(f"expected the name of a data set, got {config['data']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the config of a run: {error!r}") from None
    load_weights(net, Path(folder) / WEIGHTS)
    return net, config


def _write_json(path: Path, value: dict) -> None:
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
