"""The folder of one training run: what was asked for, how it went, the weights and a picture.

config.json            the settings, enough to build the network again
history.json           the history after each epoch
weights.safetensors    the weights after the last finished epoch
curves.png             loss and accuracy against epochs
"""

import dataclasses
import json
import time
from pathlib import Path

from minicnn.checkpoint import load_weights, save_weights, write_atomically
from minicnn.layers.base import Layer
from minicnn.models import MODELS
from minicnn.plotting import save_figure, training_curves
from minicnn.training import History

CONFIG, HISTORY, WEIGHTS, CURVES = (
    "config.json",
    "history.json",
    "weights.safetensors",
    "curves.png",
)


def new_run(folder: Path | str | None, config: dict) -> Path:
    """Makes the folder of a run, `runs/<model>-<data>-<time>` if None, and writes its config.

    Raises ValueError if there is something in it already: no run is ever written over.
    """
    if folder is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder = f"runs/{config['model']}-{config['data']}-{stamp}"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty, and a run is never written over: name another")
    _write_json(folder / CONFIG, config)
    return folder


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
        config["classes"], config["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the config of a run: {error!r}") from None
    load_weights(net, Path(folder) / WEIGHTS)
    return net, config


def _write_json(path: Path, value: dict) -> None:
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())
