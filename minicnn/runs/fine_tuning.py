"""Fine-tuning: a new run that starts from the weights of another."""

from pathlib import Path

import numpy as np

from minicnn.datasets import Dataset
from minicnn.layers import Linear, Sequential
from minicnn.layers.base import Layer
from minicnn.runs import networks
from minicnn.runs.run_folder import open_run
from minicnn.runs.settings import Origin


def start_from(folder: Path | str, data: Dataset, seed: int) -> tuple[Layer, Origin, bool]:
    """(network, origin of its weights, whether its last layer is new) for training on `data`: the
    network of the run with the weights of its last epoch. If `data` have another number of classes,
    the last layer is replaced by one with weights from the seed.

    Raises ValueError if the images have another shape than those of the run, or if the last layer
    would have to be replaced but is not Linear.
    """
    net, origin = open_run(folder)
    shape = data.images.shape[1:]
    if shape != origin.input_shape:
        raise ValueError(
            f"{folder} was trained on images (C, H, W) = {origin.input_shape}, but those of "
            f"{data.name} are {shape}: prepare them with --size and --colour to fit"
        )
    if len(data.classes) == len(origin.classes):
        return net, origin, False
    last = net.layers[-1] if isinstance(net, Sequential) and net.layers else net
    if not (isinstance(net, Sequential) and isinstance(last, Linear)):
        raise ValueError(
            f"{folder} has {len(origin.classes)} classes and {data.name} has {len(data.classes)}, "
            f"but only a last layer that is Linear can be replaced, not {last!r}"
        )
    if any(layer is last for layer in net.layers[:-1]):
        raise ValueError(
            f"the last layer of {folder}, {last!r}, stands twice: it cannot be replaced"
        )
    bias, rng = "bias" in last.params, np.random.default_rng(seed)
    new = Linear(last.in_features, len(data.classes), bias, rng=rng).astype(net.dtype)
    net = Sequential(*net.layers[:-1], new)
    if not origin.network:  # the new run will be opened by calling the function
        again = networks.build(origin.model, rng, origin.input_shape, len(data.classes))
        shapes = [{name: a.shape for name, a in each.arrays.items()} for each in (net, again)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{origin.model} does not build this network for {len(data.classes)} classes: give "
                "the function a parameter `classes`, for its last layer, and train it once so"
            )
    return net, origin, True
