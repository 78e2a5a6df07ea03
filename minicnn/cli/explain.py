"""minicnn explain: a page on which each number of a gradient opens into its products."""

import argparse
from typing import Any

import numpy as np

from minicnn.arguments import require
from minicnn.cli.data import data_of, load
from minicnn.cli.training import new_network
from minicnn.datasets import as_input
from minicnn.explain import Explanation, explain
from minicnn.gradcheck.museum import FAULTS
from minicnn.layers import Conv2D
from minicnn.runs.run_folder import open_run

GEOMETRY = ("kernel", "stride", "padding", "dilation", "groups")


def explain_pass(args: argparse.Namespace) -> None:
    """Write a page on which each number of a gradient opens into its products."""
    chosen = [name for name in ("folder", "model", "exhibit") if getattr(args, name) is not None]
    if len(chosen) > 1:
        raise ValueError("give only one of RUN, --model and --exhibit")
    geometry = {name: getattr(args, name) for name in GEOMETRY if getattr(args, name) is not None}
    if chosen and geometry:
        raise ValueError(f"--{next(iter(geometry))} is for the small convolution: leave it out")
    of_image = [
        name for name in ("image", "data", "data_folder") if getattr(args, name) is not None
    ]
    if of_image and chosen not in (["folder"], ["model"]):
        option = of_image[0].replace("_", "-")
        raise ValueError(f"--{option} is for an image through a network: give RUN or --model too")
    if args.exhibit is not None:
        explanation = _exhibit(args.exhibit)
    elif chosen:
        explanation = _image(args)
    else:
        explanation = _convolution(geometry)
    explanation.save(args.out)
    print(explanation)
    print(f"\n{args.out} shows each number and where it comes from: open it in a browser")


def _convolution(geometry: dict[str, Any]) -> Explanation:
    """A convolution of whole numbers: two channels in and out for each group, and images of 5x6
    pixels, or as large as the kernel needs."""
    rng = np.random.default_rng(0)
    kernel, groups = geometry.pop("kernel", 3), geometry.get("groups", 1)
    conv = Conv2D(2 * groups, 2 * groups, kernel, **geometry)
    for parameter in conv.params.values():
        parameter[...] = rng.integers(-2, 3, parameter.shape)
    height, width = (max(size, span) for size, span in zip((5, 6), conv.window.span))
    x = rng.integers(0, 5, (1, 2 * groups, height, width)).astype(np.float32)
    return explain(conv, x)


def _exhibit(name: str) -> Explanation:
    """A wrong layer of the museum, which the page exposes."""
    known = {fault.name: fault for fault in FAULTS if isinstance(fault.wrong, type)}
    require(name in known, f"--exhibit must be one of {', '.join(known)}", name)
    fault, rng = known[name], np.random.default_rng(0)
    layer = fault.wrong(**fault.arguments)
    for parameter in layer.params.values():
        parameter[...] = rng.uniform(0.5, 1.5, parameter.shape)
    x = fault.values(rng.standard_normal(fault.x_shape))
    return explain(layer, x.astype(np.float32))


def _image(args: argparse.Namespace) -> Explanation:
    """One image of the test set on its way through a network."""
    if args.folder is not None:
        net, origin = open_run(args.folder)
        _, data = load(data_of(origin, args), args)
        name = origin.model
    else:
        _, data = load(args.data, args)
        net, name = new_network(args.model, 0, data), f"{args.model}, not trained"
    k = args.image or 0
    require(k < len(data), f"--image must be below {len(data)}, the images in the test set", k)
    image = data[k : k + 1]
    title = f"{name}: image {k} of {data.name}, {data.classes[int(image.labels[0])]}"
    return explain(net, as_input(image.images), labels=image.labels.astype(int), title=title)
