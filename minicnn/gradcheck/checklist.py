"""What `minicnn check` checks: every layer and loss, whole networks, and the museum."""

from dataclasses import replace

import numpy as np

from minicnn.backend import Array
from minicnn.gradcheck.check import LossLayer, check_gradients
from minicnn.gradcheck.museum import FAULTS, Fault
from minicnn.gradcheck.report import Report
from minicnn.layers import (
    GELU,
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sigmoid,
    Tanh,
)
from minicnn.losses import softmax, softmax_cross_entropy, squared_error
from minicnn.text import align
from minicnn.zoo import INPUT_SHAPE, MODELS

NETWORKS = ("lenet", "lenet-relu", "lenet-bn")  # a second each; larger networks take minutes
STEPS = [10.0**-k for k in range(1, 12)]


def smoothed_weighted_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """For five classes, each with its own weight."""
    weights = np.array([2, 0.5, 1, 0, 1])
    return softmax_cross_entropy(logits, labels, label_smoothing=0.1, class_weights=weights)


def check_layers(seed: int = 0) -> list[Report]:
    """A report for each layer and loss, in several geometries, and for each whole network."""
    rng = np.random.default_rng(seed)
    images, odd, rows = (3, 2, 6, 8), (3, 4, 7, 9), (3, 5)
    labels, target = rng.integers(0, 5, 3), rng.standard_normal(rows)
    cases: list[tuple[Layer, tuple[int, ...]]] = [
        (Linear(5, 4, rng=rng), rows),
        (Linear(5, 4, bias=False, rng=rng), (1, 5)),
        (Sigmoid(), rows),
        (Tanh(), rows),
        (ReLU(), rows),
        (LeakyReLU(0.1), rows),
        (GELU(), rows),
        (Conv2D(2, 3, 3, rng=rng), images),
        (Conv2D(2, 3, 3, stride=2, padding=1, rng=rng), images),
        (Conv2D(4, 6, (2, 3), (2, 1), (1, 2), (3, 2), groups=2, rng=rng), odd),
        (Conv2D(2, 3, 3, stride=2, padding=(0, 1, 2, 1), rng=rng), images),
        (ConvTranspose2D(2, 3, 3, rng=rng), images),
        (ConvTranspose2D(4, 6, (2, 3), (2, 3), (1, 2), (1, 2), 2, dilation=(3, 1), rng=rng), odd),
        (AvgPool2D(2), images),
        (AvgPool2D(3, stride=2, padding=1, count_include_pad=False), images),
        (AvgPool2D(3, stride=2, padding=1, ceil_mode=True), images),
        (GlobalAvgPool2D(), images),
        (MaxPool2D(2), images),
        (MaxPool2D(3, stride=2, padding=1), images),
        (MaxPool2D(3, 2, (0, 1, 2, 0), dilation=2, ceil_mode=True), odd),
        (Flatten(), images),
        (BatchNorm2D(2), images),
        (BatchNorm2D(2, affine=False), images),
        (Residual(Conv2D(2, 2, 3, padding=1, rng=rng)), images),
        (Residual(Conv2D(2, 3, 3, 2, padding=1, rng=rng), Conv2D(2, 3, 1, 2, rng=rng)), images),
        (LossLayer(softmax_cross_entropy, labels), rows),
        (LossLayer(softmax_cross_entropy, softmax(target)), rows),
        (LossLayer(smoothed_weighted_cross_entropy, labels), rows),
        (LossLayer(squared_error, target), rows),
    ]
    reports = [
        check_gradients(layer, rng.standard_normal(shape), seed=seed) for layer, shape in cases
    ]
    x = rng.standard_normal(images)
    dropout = Dropout(0.3, rng=rng)
    reports.append(check_gradients(dropout, x, seed=seed, inference=lambda x: x))
    for name in NETWORKS:
        x = rng.standard_normal((2, *INPUT_SHAPE[1:]))
        report = check_gradients(MODELS[name].build(rng), x, seed=seed)
        reports.append(replace(report, layer=name))
    return reports


def check_museum(seed: int = 0) -> list[tuple[Fault, Report]]:
    """Every fault, with the checker's report."""
    return [(fault, fault.check(seed)) for fault in FAULTS]


def museum_table(checked: list[tuple[Fault, Report]]) -> str:
    """The faults as text: where each sits, whether it was caught, and the named cause."""
    rows = [("fault", "in", "caught", "named cause")]
    for fault, report in checked:
        answer = "no" if report.ok else "yes"
        rows.append((fault.name, fault.right.__name__, answer, report.cause or "-"))
    title, *lines = align(rows, "<<<<")
    caught = sum(not report.ok for _, report in checked)
    named = sum(report.cause is not None for _, report in checked)
    total = f"{caught} of {len(checked)} caught, {named} named"
    return "\n".join([title, "-" * max(map(len, lines)), *lines, total])


def step_errors(layer: Layer, x: Array, steps: list[float], seed: int = 0) -> list[float]:
    """The worst relative error among the gradients of the layer, for each step size: large steps
    suffer from curvature, small ones from rounding."""
    reports = (check_gradients(layer, x, seed=seed, step=step) for step in steps)
    return [max(report.errors.values()) for report in reports]


def step_table(seed: int = 0) -> str:
    """The errors of some layers for each step size, as text."""
    rng = np.random.default_rng(seed)
    rows, labels = (3, 5), rng.integers(0, 5, 3)
    cases = {
        "Linear": (Linear(5, 4, rng=rng), rows),
        "Conv2D": (Conv2D(2, 3, 3, padding=1, rng=rng), (3, 2, 6, 8)),
        "Sigmoid": (Sigmoid(), rows),
        "Tanh": (Tanh(), rows),
        "cross-entropy": (LossLayer(softmax_cross_entropy, labels), rows),
    }
    columns = [
        [name, *(f"{e:.0e}" for e in step_errors(layer, rng.standard_normal(shape), STEPS, seed))]
        for name, (layer, shape) in cases.items()
    ]
    steps = ["step", *(f"{step:.0e}" for step in STEPS)]
    return "\n".join(align(list(zip(steps, *columns)), ">" * (len(cases) + 1)))
