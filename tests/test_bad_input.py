"""Every public function, given bad arguments: it raises one sentence, and changes nothing.

Arguments are replaced one at a time, in a call that works otherwise.
"""

import contextlib
import copy
import dataclasses
import inspect
import itertools
import pickle
import traceback
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minicnn
from minicnn import (
    GELU,
    SGD,
    Adam,
    AdamW,
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
    Sequential,
    Sigmoid,
    Tanh,
    datasets,
    optimizers,
    reference,
)
from minicnn.cli.summary import summarize
from minicnn.datasets import Dataset, Preparation
from minicnn.explain import trace
from minicnn.gradcheck import LossLayer, check_gradients, numerical_gradient
from minicnn.initializers import glorot_uniform, he_normal
from minicnn.plotting import confusion_matrix, image_grid, training_curves
from minicnn.reference.convolutions import CONVOLUTIONS, toeplitz
from minicnn.runs import Origin, Settings, resume_run, train_run
from minicnn.runs.checkpoint import load_weights, save_weights
from minicnn.training import History, evaluate, fit

PACKAGE = str(Path(minicnn.__file__).parent)


def floats(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


RNG = np.random.default_rng(0)
NONE = np.empty((2, 2), object)
RAGGED = [[1.0, 2.0], [3.0]]
MASKED = np.ma.masked_array(floats(2, 2))
BYTES = np.zeros((6, 1, 5, 5), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
DATA = Dataset(BYTES, LABELS, ("a", "b", "c"), "small")
NET = Sequential(Conv2D(1, 2, 2, rng=RNG), ReLU(), Flatten(), Linear(32, 3, rng=RNG))
HISTORY = History(6, "cpu", [1.0], [0.5], [], [], [1.0], [(1.0, 1.0, 0.5)])
PARAMS = {"weight": floats(2, 3), "bias": floats(2)}
LAYERS = [
    (Conv2D(1, 2, 2, rng=RNG), floats(2, 1, 5, 5)),
    (MaxPool2D(2), floats(2, 1, 5, 5)),
    (AvgPool2D(2), floats(2, 1, 5, 5)),
    (GlobalAvgPool2D(), floats(2, 1, 5, 5)),
    (ConvTranspose2D(1, 2, 2, rng=RNG), floats(2, 1, 5, 5)),
    (Linear(3, 2, rng=RNG), floats(2, 3)),
    (Sigmoid(), floats(2, 3)),
    (Tanh(), floats(2, 3)),
    (ReLU(), floats(2, 3)),
    (LeakyReLU(), floats(2, 3)),
    (GELU(), floats(2, 3)),
    (Flatten(), floats(2, 1, 5, 5)),
    (BatchNorm2D(3), floats(2, 3, 5, 5)),
    (Dropout(rng=RNG), floats(2, 3)),
    (Residual(Conv2D(1, 1, 3, padding=1, rng=RNG)), floats(2, 1, 5, 5)),
    (NET, floats(2, 1, 5, 5)),
]

NO_INTEGER = "must be an integer >= "
NO_PAIR = r"must be an integer or \(height, width\), got "
NO_SIDES = r"must be an integer, \(height, width\), \(top, bottom, left, right\) or \"same\", got "
NO_FLAG = "must be True or False, got "
NO_PATH = "expected a path, a string or a Path, but got "
NO_ARRAY = "expected a NumPy or CuPy array but got "
NO_NUMBERS = "must be an array of numbers on the host, got "
NO_FLOATS = "in float32 or float64 but got "
NO_DTYPE = "expected dtype float32 or float64 but got "
NO_DEVICE = "expected a device of cpu, gpu, auto but got "
NO_SHAPE = "expected a shape, a tuple of integers, but got "
NO_MAPPING = "must map names to arrays, got "
NO_GENERATOR = r"rng must be a Generator, such as numpy.random.default_rng\(0\), got "

INTEGERS = [(value, NO_INTEGER) for value in (None, "3", -1, 1.5, True, [1], BYTES)]
PAIRS = [(value, NO_INTEGER) for value in (None, "3", 1.5, True, (1, -1), BYTES)]
PAIRS += [(value, NO_PAIR) for value in ((), (1,), [1, 1, 1])]
PADDINGS = [(value, NO_INTEGER) for value in (None, "3", 1.5, True, (1, -1), (0, 1, 0, -1), BYTES)]
PADDINGS += [(value, NO_SIDES) for value in ((), (1,), [1, 1, 1], (1, 1, 1, 1, 1))]
FLAGS = [(value, NO_FLAG) for value in (None, "no", 0, [], RNG, floats(2))]
PATHS = [(value, NO_PATH) for value in (3, b"x", ["x"], BYTES, "x\0y", "")]
ARRAYS = [(None, NO_ARRAY), ([[1.0]], NO_ARRAY), (MASKED, "plain array but got a MaskedArray")]
ARRAYS += [(floats(2, 2).view(np.matrix), "plain array but got a matrix, .* numpy.array")]
FLOATS = [*ARRAYS, *[(LABELS.astype(kind), NO_FLOATS) for kind in ("int", "bool", "c16", "O")]]
FLOATS += [(LABELS.astype(kind), NO_FLOATS) for kind in ("f2", ">f4", "U1")]
NUMBERS = [(value, NO_NUMBERS) for value in (None, "abc", RAGGED, NONE, floats(2) * 1j, {1: 2})]
DTYPES = [(value, NO_DTYPE) for value in (None, "abc", int, "f2", {"w": floats(2)}, [1])]
DEVICES = [(value, NO_DEVICE) for value in (None, "cuda", 0, BYTES)]
SHAPES = [(None, NO_SHAPE), (3, NO_SHAPE), ("ab", NO_SHAPE), (BYTES, NO_SHAPE)]
SHAPES += [((-1, 3), NO_INTEGER), ((1.5, 3), NO_INTEGER), ((None, 3), NO_INTEGER)]
MAPPINGS = [(value, NO_MAPPING) for value in (None, [floats(2)], floats(2), 1, "w", NET)]
GENERATORS = [(value, NO_GENERATOR) for value in (0, "0", np.random.default_rng, BYTES)]
NO_FLOATS = (None, "0.1", 10**400, np.nan, True, [0.1], BYTES)
SHARES = [(value, "must be a finite number") for value in NO_FLOATS]
SHARES += [(value, "must be a number from 0 to 1, got ") for value in (-0.1, 1.1, 2)]
KEYS = [(value, "key must be a tuple of") for value in (None, 3, [1], (1.5,), (-1,), BYTES)]
FUNCTIONS = [(value, "must be (a function|one)") for value in ("f", 1, floats(2))]

DOORS = {}  # name: (function, arguments that it takes, {argument: [(wrong value, message)]})


def door(name, function, arguments, wrong):
    assert name not in DOORS and wrong.keys() <= arguments.keys()
    DOORS[name] = function, arguments, wrong


def door_to_layer(layer, x):
    name = type(layer).__name__
    y, saved = layer.forward(x)
    any_shape = isinstance(layer, (Sigmoid, Tanh, ReLU, LeakyReLU, GELU, Dropout))
    wrong_shapes = [] if any_shape else [(floats(*s), "x of shape") for s in ((), (0,), (3,))]
    for method in (layer.__call__, layer.forward):
        door(f"{name}.{method.__name__}", method, {"x": x}, {"x": FLOATS + wrong_shapes})

    def backward(dy, need_dx=True):
        return layer.backward(dy, saved, need_dx)

    shapes = [(floats(*shape), "dy must have y's shape ") for shape in ((0, 2), (1, *y.shape))]
    door(f"{name}.backward", backward, {"dy": y}, {"dy": [*FLOATS, *shapes]})
    for method in (layer.output_shape, layer.multiply_adds):
        door(f"{name}.{method.__name__}", method, {"x_shape": x.shape}, {"x_shape": SHAPES})
    door(f"{name}.astype", layer.astype, {"dtype": float}, {"dtype": DTYPES})
    door(f"{name}.to", layer.to, {"device": "cpu"}, {"device": DEVICES})
    door(f"{name}.updates", layer.updates, {"saved": saved}, {})
    keys = KEYS if isinstance(layer, Dropout) else []
    door(f"{name}.at", layer.at, {"key": (0, 1)}, {"key": keys})
    params = dict(layer.arrays)
    others = [({**params, "x": floats(2)}, "unknown"), ({**params, 1: floats(2)}, "unknown")]
    for parameter, array in params.items():
        values = [array.tolist(), array[None], array.astype(float)]
        others += [({**params, parameter: value}, "array|has shape") for value in values]
        others += [({parameter: array}, "missing")] if len(params) > 1 else []
    door(
        f"{name}.load_params", layer.load_params, {"params": params}, {"params": MAPPINGS + others}
    )
    returning = [] if not params else [(lambda p: p.tolist(), NO_ARRAY), (np.shape, NO_ARRAY)]
    door(
        f"{name}.map_arrays",
        layer.map_arrays,
        {"change": np.copy},
        {"change": [(None, "change must be a function"), (1, "must be a function"), *returning]},
    )


for layer, x in LAYERS:
    door_to_layer(layer, x)

ints = {name: [*INTEGERS, (0, NO_INTEGER)] for name in ("in_channels", "out_channels", "groups")}
pairs = {name: [*PAIRS, (0, NO_INTEGER)] for name in ("kernel_size", "stride", "dilation")}
door(
    "Conv2D",
    Conv2D,
    {"in_channels": 2, "out_channels": 2, "kernel_size": 2, "stride": 1, "padding": 0}
    | {"dilation": 1, "groups": 1, "bias": True, "rng": None},
    ints | pairs | {"padding": PADDINGS, "bias": FLAGS, "rng": GENERATORS},
)
door(
    "ConvTranspose2D",
    ConvTranspose2D,
    {"in_channels": 2, "out_channels": 2, "kernel_size": 2, "stride": 1, "padding": 0}
    | {"output_padding": 0, "groups": 1, "bias": True, "dilation": 1, "rng": None},
    ints
    | pairs
    | {"output_padding": [*PAIRS, (1, "output_padding must be smaller than the stride")]}
    | {"padding": PADDINGS, "bias": FLAGS, "rng": GENERATORS},
)
pairs = {
    "kernel_size": [*PAIRS, (0, NO_INTEGER)],
    "stride": [*PAIRS[1:], (0, NO_INTEGER)],
    "padding": [*PADDINGS, (2, "padding must be smaller than what the kernel spans")],
    "dilation": [*PAIRS, (0, NO_INTEGER)],
    "ceil_mode": FLAGS,
}
pooling = {"kernel_size": 2, "stride": 1, "padding": 0, "dilation": 1, "ceil_mode": False}
door("MaxPool2D", MaxPool2D, pooling, pairs)
door("GlobalAvgPool2D", GlobalAvgPool2D, {}, {})
door(
    "AvgPool2D",
    AvgPool2D,
    pooling | {"count_include_pad": True},
    pairs | {"count_include_pad": FLAGS},
)
door(
    "Linear",
    Linear,
    {"in_features": 3, "out_features": 2, "bias": True, "rng": None},
    {name: [*INTEGERS, (0, NO_INTEGER)] for name in ("in_features", "out_features")}
    | {"bias": FLAGS, "rng": GENERATORS},
)
for value in (Sigmoid, Tanh, ReLU, GELU, Flatten):
    door(value.__name__, value, {}, {})
door(
    "BatchNorm2D",
    BatchNorm2D,
    {"num_features": 3, "eps": 1e-5, "momentum": 0.1, "affine": True},
    {
        "num_features": [*INTEGERS, (0, NO_INTEGER)],
        "eps": [
            *SHARES[: len(NO_FLOATS)],
            (0, "eps must be a finite number > 0, got 0"),
            (-1e-5, "> 0, got"),
        ],
        "momentum": SHARES,
        "affine": FLAGS,
    },
)
door(
    "Dropout",
    Dropout,
    {"p": 0.5, "rng": None},
    {
        "p": [
            *SHARES[: len(NO_FLOATS)],
            *((p, r"p must be in \[0, 1\), got ") for p in (-0.1, 1, 1.1)),
        ],
        "rng": GENERATORS,
    },
)
no_layers = [
    (value, "must be a layer, such as Sequential") for value in (ReLU, [NET], BYTES, "relu")
]
door(
    "Residual",
    Residual,
    {"body": ReLU(), "shortcut": None},
    {"body": [*no_layers, (None, "body must be a layer")], "shortcut": no_layers},
)
door("LeakyReLU", LeakyReLU, {"negative_slope": 0.1}, {"negative_slope": SHARES})
layers = [(value, r"expected layers, as in Sequential\(") for value in (None, ReLU, [NET], BYTES)]
door("Sequential", lambda layer: Sequential(Flatten(), layer), {"layer": ReLU()}, {"layer": layers})
door(
    "Sequential.trace",
    lambda x_shape: list(NET.trace(x_shape)),
    {"x_shape": (1, 1, 5, 5)},
    {"x_shape": SHAPES},
)
for model in (minicnn.lenet, minicnn.lenet_relu):
    door(model.__name__, model, {"rng": None}, {"rng": GENERATORS})

for initializer in (glorot_uniform, he_normal):
    door(
        initializer.__name__,
        initializer,
        {"shape": (2, 3), "rng": None, "dtype": float},
        {
            "shape": [*SHAPES, ((10,), r"\(out, in, \*kernel\), got \(10,\)"), ((0, 3), ">= 1")],
            "rng": GENERATORS,
            "dtype": DTYPES,
        },
    )

rates = [(value, "must be a finite number") for value in (None, "1", True, np.nan, [1], BYTES)]
rates += [(value, "must be a finite number") for value in (np.inf, -np.inf, 10**400)]
shared = {"decay_biases": True, "clip_norm": None}
wrong_shared = {
    "lr": [*rates, (0, "lr must be a finite number > 0, got 0")],
    "weight_decay": [*rates, (-1, "finite number >= 0, got -1")],
    "decay_biases": FLAGS,
    "clip_norm": [*rates[1:], (0, "clip_norm must be a finite number > 0, got 0")],
}
door(
    "SGD",
    SGD,
    {"lr": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 0.0, **shared},
    {
        "momentum": [*rates, (1, r"momentum must be in \[0, 1\), got 1")],
        "nesterov": [*FLAGS, (1e-4, NO_FLAG)],
        **wrong_shared,
    },
)
no_betas = [(b, r"betas must be two numbers in \[0, 1\)") for b in (None, 0.9, (0.9,), BYTES)]
no_betas += [((1, 0.9), r"beta1 must be in \[0, 1\), got 1"), ((0.9, -1), r"beta2 .* got -1")]
for kind in (Adam, AdamW):
    door(
        kind.__name__,
        kind,
        {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0, **shared},
        {
            "betas": [*no_betas, ((None, 0.9), "beta1 must be a finite number")],
            "eps": [*rates, (0, "eps must be a finite number > 0, got 0")],
            **wrong_shared,
        },
    )
arrays = [({"weight": value, "bias": floats(2)}, message) for value, message in FLOATS]
shapes = [({"weight": floats(2, 3)}, "shapes"), ({}, "shapes")]
shapes += [({"weight": floats(3, 2), "bias": floats(2)}, "shapes")]
for optimizer in (SGD(0.1, momentum=0.5, clip_norm=1), Adam(), AdamW()):
    door(
        f"{type(optimizer).__name__}.step",
        optimizer.step,
        {"params": PARAMS, "grads": PARAMS},
        {name: [*MAPPINGS, *arrays, *shapes] for name in ("params", "grads")},
    )
unknown = [({name: floats(2)}, "names in the state of SGD must be velocity") for name in ("v.a", 1)]
door(
    "SGD.load_state",
    SGD(0.1, momentum=0.5).load_state,
    {"state": {"velocity.weight": floats(2, 3)}},
    {"state": [*MAPPINGS, *unknown, *[({"velocity.weight": v}, m) for v, m in FLOATS]]},
)
for kind in (Adam, AdamW):
    kept = {"mean.weight": floats(2, 3), "mean_square.weight": floats(2, 3), "step": np.array(3)}
    unknown = [({"step": np.array(1), name: floats(2)}, "must be mean.P") for name in ("m.a", 1)]
    unknown += [({**kept, "step": step}, "one integer") for step in (LABELS, floats())]
    unknown += [({**kept, "step": 3}, NO_ARRAY), ({**kept, "step": np.array(-1)}, NO_INTEGER)]
    unknown += [({}, f"the state of {kind.__name__} must have the entry step")]
    door(
        f"{kind.__name__}.load_state",
        kind().load_state,
        {"state": kept},
        {"state": [*MAPPINGS, *unknown, *[({**kept, "mean.weight": v}, m) for v, m in FLOATS]]},
    )
shares = [*rates, (-0.1, "from 0 to 1, got -0.1"), (2, "progress must be .* from 0 to 1, got 2")]
for schedule in (optimizers.cosine, optimizers.linear, optimizers.warmup(optimizers.cosine, 0.5)):
    door(schedule.__name__, schedule, {"progress": 0.5}, {"progress": shares})
door(
    "warmup",
    optimizers.warmup,
    {"schedule": optimizers.cosine, "rise": 0.1},
    {
        "schedule": [*FUNCTIONS, (None, "schedule must be a function, such as cosine")],
        "rise": [*rates, (0, "rise must be between 0 and 1, got 0"), (1, "rise .* got 1")],
    },
)

logits = [(floats(*shape), r"logits \(N, K\)") for shape in ((3,), (2, 0), (2, 3, 1), ())]
door("softmax", minicnn.softmax, {"logits": floats(2, 3)}, {"logits": [*FLOATS, *logits]})
no_labels = [(floats(2), "labels must be integers"), (np.array([0, 3]), r"0\.\.2")]
no_labels += [(np.array([0, -1]), r"0\.\.2"), (np.zeros(3, int), r"labels \(N,\)")]
labelled = {"logits": floats(2, 3), "labels": np.array([0, 1])}
no_targets = [
    (np.full((2, 3), value), r"0\.\.1, got .* at index 0, 0") for value in (-0.5, 2.0, np.nan)
]
no_targets += [(np.eye(2, 3, dtype=int), r"labels \(N, K\) in float32")]
options = {"label_smoothing": 0.1, "class_weights": np.ones(3)}
smoothings = [*rates, (-0.1, "a number from 0 to 1, got -0.1"), (1.1, "from 0 to 1, got 1.1")]
door(
    "softmax_cross_entropy",
    minicnn.softmax_cross_entropy,
    {**labelled, **options},
    {
        "logits": [*FLOATS, *logits, (floats(0, 3), "N >= 1")],
        "labels": [*ARRAYS, ([0, 1], NO_ARRAY), *no_labels, *no_targets],
        "label_smoothing": smoothings,
        "class_weights": [
            *FLOATS[1:],
            (floats(2), r"class_weights of shape \(3,\)"),
            (-np.ones(3), r"0\.\.inf, got -1.0 at index 0"),
        ],
    },
)
door(
    "squared_error",
    minicnn.squared_error,
    {"prediction": floats(2, 3), "target": floats(2, 3), "reduction": "mean"},
    {
        "prediction": [*FLOATS, (floats(3), "shape")],
        "target": [*FLOATS, (floats(3, 2), "shape"), (floats(0, 3), "shape")],
        "reduction": [(value, 'must be "mean" or "sum", got') for value in (None, "all", BYTES)],
    },
)

for function, X, K, no_axes in (
    (minicnn.corr2d, floats(4, 4), floats(2, 2), r"expected X \(H, W\)"),
    (minicnn.corr2d_multi_in, floats(2, 4, 4), floats(2, 2, 2), r"expected X \(C, H, W\)"),
    (minicnn.corr2d_multi_in_out, floats(2, 4, 4), floats(3, 2, 2, 2), r"expected X \(C, H, W\)"),
    (minicnn.corr2d_multi_in_out_1x1, floats(2, 4, 4), floats(3, 2, 1, 1), r"expected X \(C, H"),
):
    wrong = [*NUMBERS, (1.0, no_axes), ([], no_axes), (floats(1, 1, 1, 1, 1), no_axes)]
    empties = [(K[..., :0], "0 does not fit|1 x 1")]
    if K.ndim > 3:
        empties += [(K[:0], "at least one kernel and one channel"), (K[:, :0], "same C")]
    door(function.__name__, function, {"X": X, "K": K}, {"X": wrong, "K": wrong + empties})
no_channels = [(floats(0, 2, 2), "at least one kernel and one channel")]
door(
    "corr2d_multi_in of no channels",
    lambda K: minicnn.corr2d_multi_in(floats(len(K), 4, 4), K),
    {"K": floats(1, 2, 2)},
    {"K": no_channels},
)
door(
    "pool2d",
    minicnn.pool2d,
    {"X": floats(4, 4), "size": (2, 2), "mode": "max"},
    {
        "X": [*NUMBERS, (floats(1, 4, 4), r"X \(H, W\)"), ([], r"X \(H, W\)")],
        "size": [*PAIRS, (5, "5 x 5 does not fit"), (0, "0 x 0 does not fit")],
        "mode": [(value, 'mode "max" or "avg" but got') for value in (None, "min", BYTES)],
    },
)

geometry = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
wrong_geometry = {name: [*PAIRS, (0, NO_INTEGER)] for name in ("stride", "dilation")}
wrong_geometry |= {"padding": PADDINGS, "groups": [*INTEGERS, (0, NO_INTEGER)]}
convolved = {"x": floats(2, 1, 5, 5), "weight": floats(2, 1, 2, 2)}
no_images = [(floats(5, 5), r"\(N, C, H, W\)"), (floats(2, 3, 5, 5), "channels|same C|groups")]
no_images += [(floats(2, 1, 1, 5), "does not fit|the padded height is 1")]
for form, (forward, backward) in CONVOLUTIONS.items():
    kinds = NUMBERS if form == "loops" else FLOATS
    wrong = {
        "x": [*kinds, *no_images],
        "weight": [*kinds, (floats(2, 2), "weight"), (floats(2, 1, 0, 2), NO_INTEGER)],
        **wrong_geometry,
    }
    door(
        f"conv2d as {form}",
        forward,
        {**convolved, "bias": floats(2), **geometry},
        {**wrong, "bias": [*kinds[1:], (floats(3), "expected bias"), (floats(0), "expected bias")]},
    )
    no_dy = [
        (floats(*shape), "expected dy|dy must have y's shape") for shape in ((2, 2, 4, 3), (0,), ())
    ]
    door(
        f"conv2d_backward as {form}",
        backward,
        {"dy": floats(2, 2, 4, 4), **convolved, **geometry},
        {**wrong, "dy": [*kinds, *no_dy]},
    )
door(
    "toeplitz",
    toeplitz,
    {"weight": floats(2, 1, 2, 2), "x_shape": (1, 1, 5, 5), **geometry},
    {
        "weight": [*NUMBERS, (floats(2, 2), "expected weight")],
        "x_shape": [*SHAPES, ((5, 5), r"\(N, C, H, W\)")],
        **wrong_geometry,
    },
)

images = [*NUMBERS, (floats(5, 5), r"expected x \(N, C, H, W\)"), ([], r"expected x \(N, C, H")]
pooling = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1, "ceil_mode": False}
wrong_pooling = pairs | {"stride": [*PAIRS[1:], (0, NO_INTEGER)]}
wrong_dy = [*NUMBERS, (floats(2, 1, 2, 3), "expected dy"), (floats(0), "expected dy")]
for name in ("max_pool2d", "avg_pool2d"):
    more = {"count_include_pad": True} if name == "avg_pool2d" else {}
    wrong = wrong_pooling | ({"count_include_pad": FLAGS} if more else {}) | {"x": images}
    wrong["x"] = [*images, (floats(1, 1, 1, 5), "does not fit into an image")]
    arguments = {"x": floats(2, 1, 5, 5), **pooling, **more}
    door(f"reference.{name}", getattr(reference, name), arguments, wrong)
    door(
        f"reference.{name}_backward",
        getattr(reference, f"{name}_backward"),
        {"dy": floats(2, 1, 2, 2), **arguments},
        {**wrong, "dy": wrong_dy},
    )
door(
    "reference.global_avg_pool2d",
    reference.global_avg_pool2d,
    {"x": floats(2, 1, 2, 2)},
    {"x": images},
)
door(
    "reference.global_avg_pool2d_backward",
    reference.global_avg_pool2d_backward,
    {"dy": floats(2, 1), "x": floats(2, 1, 2, 2)},
    {"x": images, "dy": wrong_dy},
)
transposed = {"x": floats(2, 2, 3, 3), "weight": floats(2, 1, 2, 2)}
transposed |= {"stride": 2, "padding": 0, "output_padding": 1, "groups": 1, "dilation": 1}
wrong = {
    "x": [
        *images,
        (floats(2, 3, 3, 3), "C a multiple of groups"),
        (floats(2, 2, 0, 3), "no pixel"),
    ],
    "weight": [*NUMBERS, (floats(2, 2), "expected weight"), (floats(3, 1, 2, 2), "of groups")],
    **{name: [*PAIRS, (0, NO_INTEGER)] for name in ("stride", "dilation")},
    "padding": [
        *PADDINGS,
        (4, "x is too small: no pixel is left of y"),
        ("same", "needs stride 1"),
    ],
    "output_padding": [*PAIRS, (2, r"smaller than the stride, \(2, 2\), got 2")],
    "groups": [*INTEGERS, (0, NO_INTEGER), (3, "C a multiple of groups = 3")],
}
no_bias = [*NUMBERS[1:], (floats(3), "expected bias"), (floats(0), "expected bias")]
door(
    "reference.conv_transpose2d",
    reference.conv_transpose2d,
    transposed | {"bias": floats(1)},
    wrong | {"bias": no_bias},
)
door(
    "reference.conv_transpose2d_backward",
    reference.conv_transpose2d_backward,
    transposed | {"dy": floats(2, 1, 7, 7)},
    wrong | {"dy": wrong_dy},
)
rows = {"x": floats(2, 3), "weight": floats(4, 3)}
wrong_rows = {
    "x": [*NUMBERS, (floats(3), "expected x"), (floats(2, 4), "same D"), (floats(0), "expected x")],
    "weight": [*NUMBERS, (floats(3), "expected weight"), (floats(4, 2), "same D")],
}
door(
    "reference.linear",
    reference.linear,
    {**rows, "bias": floats(4)},
    {**wrong_rows, "bias": [*NUMBERS[1:], (floats(1), "expected bias"), (3.0, "expected bias")]},
)
wrong_dy = [*NUMBERS, (floats(2, 3), "expected dy"), (floats(4), "expected dy")]
door(
    "reference.linear_backward",
    reference.linear_backward,
    {"dy": floats(2, 4), **rows},
    {**wrong_rows, "dy": wrong_dy},
)
door("reference.flatten", reference.flatten, {"x": floats(2, 1, 2, 2)}, {"x": images})
door(
    "reference.flatten_backward",
    reference.flatten_backward,
    {"dy": floats(2, 4), "x": floats(2, 1, 2, 2)},
    {"x": images, "dy": wrong_dy},
)
for name in ("sigmoid", "tanh", "relu"):
    forward, backward = (getattr(reference, name + end) for end in ("", "_backward"))
    door(f"reference.{name}", lambda x, f=forward: f(x), {"x": floats(2)}, {"x": NUMBERS})
    door(
        f"reference.{name}_backward",
        lambda dy, x, f=backward: f(dy, x),
        {"dy": floats(2), "x": floats(2)},
        {"dy": [*NUMBERS, (floats(3), "dy must")], "x": [*NUMBERS, (floats(0), "dy must")]},
    )
channels = {"weight": floats(1), "bias": floats(1), "eps": 1e-5}
wrong_channels = {
    "x": [*images, (floats(1, 1, 1, 1), r"more than one number|expected dy \(1, 1, 1, 1\)")],
    "weight": [*NUMBERS[1:], (floats(2), r"expected weight \(1,\)")],
    "eps": [*rates, (0, "eps must be a finite number > 0, got 0")],
}
door(
    "reference.batch_norm2d",
    reference.batch_norm2d,
    {"x": floats(2, 1, 2, 2), **channels},
    {**wrong_channels, "bias": [*NUMBERS[1:], (floats(2), r"expected bias \(1,\)")]},
)
door(
    "reference.batch_norm2d_backward",
    lambda dy, x, weight, eps: reference.batch_norm2d_backward(dy, x, weight, eps),
    {"dy": floats(2, 1, 2, 2), "x": floats(2, 1, 2, 2), "weight": floats(1), "eps": 1e-5},
    {**wrong_channels, "dy": [*NUMBERS, (floats(2, 2), "expected dy")]},
)
for name, argument in (("dropout", "x"), ("dropout_backward", "dy")):
    door(
        f"reference.{name}",
        getattr(reference, name),
        {argument: floats(2), "mask": np.array([True, False]), "p": 0.5},
        {
            argument: NUMBERS,
            "mask": [*NUMBERS[1:], (floats(3), r"expected mask \(2,\)")],
            "p": [*SHARES, (1, "p must be below 1")],
        },
    )
no_labels = [(floats(2), "integer labels"), ([0, 3], r"0\.\.2"), ([0, -1], r"0\.\.2")]
door(
    "reference.softmax_cross_entropy",
    reference.softmax_cross_entropy,
    {**labelled, **options},
    {
        "label_smoothing": smoothings,
        "class_weights": [*NUMBERS[1:], (floats(2), r"expected class_weights \(3,\)")],
        "logits": [*NUMBERS, *logits[:1], (floats(0, 3), "N >= 1"), (floats(2, 0), "K >= 1")],
        "labels": [*NUMBERS, *no_labels, ([0], "integer labels"), ([], "integer labels")],
    },
)

no_images = [(floats(2, 1, 5, 5), "images as uint8"), (BYTES[0], "images as uint8")]
door(
    "Dataset",
    Dataset,
    {"images": BYTES, "labels": LABELS, "classes": ("a", "b", "c"), "name": "small"}
    | {"preparation": Preparation(), "files": ()},
    {
        "images": [*ARRAYS, *no_images, (BYTES[:0], "integer labels"), (BYTES[:3], "labels")],
        "labels": [
            *ARRAYS[:2],
            (LABELS.tolist(), NO_ARRAY),
            (LABELS / 1, "integer labels"),
            (LABELS > 0, "integer labels"),
            (LABELS[:, None], "integer labels"),
            (LABELS + 1, "expected labels 0 to 2"),
        ],
        "classes": [(names, "tuple of names") for names in (None, 3, "abc", (0, 1, 2), {"a": 1})]
        + [((), "expected labels 0 to -1"), (["a"], "expected labels 0 to 0")],
        "name": [(value, "name must be a string") for value in (None, 3, b"small")],
        "preparation": [(p, "must be a Preparation, got") for p in (None, {}, Preparation)],
        "files": [(f, "files must be a tuple of 6 names") for f in (None, "abc", ("a",), [1] * 6)],
    },
)
slices = [slice(0.5), slice("a"), slice(None, None, 0), slice(BYTES)]
door(
    "Dataset.__getitem__",
    DATA.__getitem__,
    {"part": slice(2)},
    {"part": [(part, r"slice of integers, as in ds\[:1000\], but got") for part in slices]},
)
door("Dataset.to", DATA.to, {"device": "cpu"}, {"device": DEVICES})
indices = [floats(2), np.array([6]), np.array([[0]]), np.int64(0), np.array([True]), slice("a")]
door(
    "Dataset.batch",
    DATA.batch,
    {"index": np.array([0, 1]), "dtype": np.float32},
    {
        "index": [*ARRAYS[:2], ([0, 1], NO_ARRAY), *[(i, r"indices \(n,\)") for i in indices]],
        "dtype": DTYPES,
    },
)
door(
    "as_input",
    datasets.as_input,
    {"images": BYTES, "dtype": np.float32},
    {"images": [*ARRAYS, *no_images], "dtype": DTYPES},
)
door(
    "Augmentation",
    datasets.Augmentation,
    {"mirror": True, "shift": 1, "erase": 0.5},
    {"mirror": FLAGS, "shift": INTEGERS, "erase": SHARES},
)
bytes_only = [(floats(2, 1, 5, 5), "must be uint8"), (BYTES[0], r"must be uint8 \(N, C, H, W\)")]
door(
    "Augmentation.__call__",
    datasets.Augmentation(mirror=True, shift=1, erase=0.5),
    {"images": BYTES, "rng": np.random.default_rng(0)},
    {"images": [*ARRAYS, *bytes_only], "rng": [(None, NO_GENERATOR), *GENERATORS]},
)
counts = [(n, "expected integers n and batch_size above 0 but got") for n in (None, 0, -1, 1.5)]
counts += [(n, "expected integers n and batch_size above 0 but got") for n in ("3", True, BYTES)]
door(
    "batches",
    datasets.batches,
    {"n": 6, "batch_size": 2, "rng": None, "device": "cpu"},
    {"n": counts, "batch_size": counts, "rng": GENERATORS, "device": DEVICES},
)
door(
    "digits",
    minicnn.digits,
    {"train": 1, "test": 1, "seed": 0},
    {name: INTEGERS for name in ("train", "test", "seed")},
)


def without_files(load):
    """`load`, for a folder that has nothing in it."""

    def call(folder):
        with contextlib.suppress(datasets.DatasetNotFound):
            load(folder)

    return call


for load in (minicnn.mnist, minicnn.fashion_mnist):
    door(load.__name__, without_files(load), {"folder": "/none"}, {"folder": PATHS})

training = {"epochs": 1, "batch_size": 3, "seed": 0, "workers": 1, "progress": False}
training |= {"loss": minicnn.softmax_cross_entropy}
training |= {"freeze": (), "capture": False}
NO_CAPTURE = [*FLAGS, (True, "steps cannot be captured, because it needs a network on a GPU")]
training |= {"optimizer": None, "schedule": optimizers.cosine, "on_epoch": None, "on_step": None}
NO_NETS = [(net, "net must be a layer, such as lenet") for net in (None, Linear, "lenet", [NET])]
wrong_data = [
    (d, "data must be a Dataset, such as digits") for d in ("digits", BYTES, (DATA, DATA))
]
wrong_data += [(DATA[:0], "expected at least one image")]
narrow = Sequential(Flatten(), Linear(25, 2))
wrong_nets = [(net, "a score for each class") for net in (narrow, Flatten(), Sequential())]
wrong_nets += [(Linear(3, 2), r"expected x of shape \(N, 3\)")]
door(
    "fit",
    fit,
    {"net": NET, "train": DATA, "test": None, "start": None, **training},
    {
        "net": NO_NETS + wrong_nets,
        "train": [*wrong_data, (None, "must be a Dataset")],
        "test": wrong_data,
        **{name: [*INTEGERS, (0, ">= 1")] for name in ("epochs", "batch_size")},
        "seed": INTEGERS,
        "workers": INTEGERS[1:],
        "progress": FLAGS,
        "capture": NO_CAPTURE,
        "optimizer": [
            (value, "optimizer must be an optimizer") for value in (0.1, "SGD", SGD, [], BYTES)
        ],
        "loss": [*FUNCTIONS, (None, "loss must be a function, such as softmax_cross_entropy")],
        "schedule": [
            *FUNCTIONS,
            (None, "schedule must be a function"),
            (lambda share: np.nan, r"schedule\(share\) must be a finite number, got nan"),
            (lambda share: "1", r"schedule\(share\) must be a finite number, got '1'"),
        ],
        "on_epoch": FUNCTIONS,
        "on_step": FUNCTIONS,
        "freeze": [
            *((value, "freeze must be names of layers or parameters") for value in (3, "0", (0,))),
            (("9",), "expected to freeze layers or parameters among"),
        ],
        "start": [(value, "start must be a Position") for value in (0, "1", HISTORY, BYTES)],
    },
)
door(
    "evaluate",
    evaluate,
    {"net": NET, "data": DATA, "loss": minicnn.softmax_cross_entropy, "workers": 1},
    {
        "net": NO_NETS + wrong_nets,
        "data": wrong_data,
        "loss": [*FUNCTIONS, (None, "loss must be a function")],
        "workers": INTEGERS[1:],
    },
)
step = {"net": NET, "x": floats(3, 1, 5, 5), "labels": LABELS[:3], "optimizer": SGD(0.1)}
scores = r"logits \(N, K\) and labels \(N,\)"
door(
    "trace",
    trace,
    {**step, "loss": minicnn.softmax_cross_entropy},
    {
        "net": NO_NETS + [(Linear(3, 2), r"expected x of shape \(N, 3\)"), (Sequential(), scores)],
        "x": [
            *FLOATS,
            *((x, r"x must be a batch \(N, ...\)") for x in (floats(3), floats(0, 1, 5, 5))),
            *((floats(*shape), "expected") for shape in ((3, 25), (3, 2, 5, 5))),
            (floats(2, 1, 5, 5), scores),
        ],
        "labels": [
            (None, NO_ARRAY),
            (LABELS, scores),
            (floats(3), "must be integers"),
            (-LABELS[:3], "0..2"),
        ],
        "optimizer": [
            (o, "optimizer must be an optimizer") for o in (None, 0.1, "SGD", SGD, [], BYTES)
        ],
        "loss": [*FUNCTIONS, (None, "loss must be a function, such as softmax_cross_entropy")],
    },
)
positive = [*INTEGERS, (0, ">= 1")]
no_origin = [(value, "expected the name of a") for value in (None, 3, b"a", ["a"])]
wrong_settings = {name: positive for name in ("epochs", "batch_size")}
wrong_settings |= {name: DOORS["SGD"][2][name] for name in ("lr", "momentum", "weight_decay")}
wrong_settings |= {"nesterov": DOORS["SGD"][2]["nesterov"], "seed": INTEGERS}
wrong_settings["schedule"] = [
    (value, "schedule must be one of constant, cosine, .*, got")
    for value in (None, "linear", 1, BYTES)
]
wrong_settings["freeze"] = [
    (v, "freeze must be a tuple of names") for v in (None, "0", ["0"], (0,))
]
door(
    "Settings",
    Settings,
    dataclasses.asdict(Settings(momentum=0.5, nesterov=True)),
    wrong_settings,
)
door(
    "Origin",
    Origin,
    {"model": "lenet", "data": "digits", "classes": ("a", "b")},
    {
        "model": no_origin,
        "data": no_origin,
        "classes": [(c, "tuple of class names") for c in (None, ["a"], "ab", (0, 1))],
    },
)


def with_a_copy(function):
    """`function`, which trains a copy of the network."""

    def call(net, *args, **options):
        return function(copy.deepcopy(net) if isinstance(net, Layer) else net, *args, **options)

    return call


def train_in(folder, **options):
    """`train_run`, in a new folder below the one that is given."""
    new = isinstance(folder, str) and folder == "runs"
    below = f"{folder}/{next(numbers)}" if new else folder
    return with_a_copy(train_run)(folder=below, **options)


numbers = itertools.count()
running = {
    "net": NET,
    "train": DATA,
    "test": None,
    "folder": "runs",
    "settings": Settings(epochs=1),
}
running |= {"workers": 1, "save_every": None, "keep": 2, "progress": False, "on_start": None}
running |= {"on_epoch": None, "capture": False}
wrong_run = {
    "net": NO_NETS + wrong_nets,
    "train": [*wrong_data, (None, "must be a Dataset")],
    "test": wrong_data,
    "folder": [*PATHS, (None, NO_PATH)],
    "settings": [(value, "settings must be Settings") for value in (0.1, "a", {"lr": 1}, Settings)],
    **{name: positive[1:] for name in ("workers", "save_every")},
    "keep": positive,
    "progress": FLAGS,
    "capture": NO_CAPTURE,
    **{name: FUNCTIONS for name in ("on_start", "on_epoch")},
}
door(
    "train_run",
    train_in,
    {**running, "model": None, "started_from": ""},
    {
        **wrong_run,
        "model": [(value, "expected the name of a network") for value in (3, b"a", NET)],
        "started_from": [(value, "started_from must be a string") for value in (None, 3, b"a")],
    },
)
other_settings = [
    (Settings(epochs=2, lr=0.1), "cannot be resumed with other settings: lr is 0.9, not 0.1")
]
door(
    "resume_run",
    with_a_copy(resume_run),
    {**running, "folder": "run", "checkpoint": None},
    {
        **wrong_run,
        "folder": [*PATHS, (None, NO_PATH), ("none", "has no checkpoint to resume from")],
        "settings": [*wrong_run["settings"], *other_settings],
        "checkpoint": [(value, "checkpoint must be a Checkpoint") for value in (0, "a", HISTORY)],
    },
)

steps = [*rates, (0, "must be a finite number > 0, got 0"), (-1e-5, "> 0, got -1e-05")]
door(
    "check_gradients",
    check_gradients,
    {
        **{"layer": Tanh(), "x": floats(2, 3), "seed": 0, "step": 1e-5, "rtol": 1e-6},
        **{"reference": None, "inference": None},
    },
    {
        "layer": [
            (layer, "expected a layer, or LossLayer") for layer in (None, Tanh, np.tanh, BYTES)
        ],
        "x": [*NUMBERS, (np.full(3, np.nan), "x must be finite")],
        "seed": INTEGERS,
        "step": steps,
        "rtol": [*rates, (-1, "rtol must be a finite number >= 0, got -1")],
        "reference": [*FUNCTIONS, (lambda x: None, r"reference\(x\) must be an array of numbers")],
        "inference": [*FUNCTIONS, (lambda x: None, r"inference\(x\) must be an array of numbers")],
    },
)
door(
    "numerical_gradient",
    numerical_gradient,
    {"function": np.sum, "array": floats(3, dtype=float), "step": 1e-5},
    {
        "function": [
            *FUNCTIONS,
            (np.tanh, r"function\(array\) must be one number, got an array of float64 \(3,\)"),
            (lambda array: None, NO_NUMBERS),
        ],
        "array": [(a, "need a float64 array but") for a in (None, [1.0], floats(2), 1.0, LABELS)]
        + [(np.broadcast_to(1.0, 3), "array must be writable")],
        "step": steps,
    },
)
door(
    "LossLayer",
    LossLayer,
    {"loss": minicnn.squared_error, "target": floats(2)},
    {"loss": [*FUNCTIONS, (None, "must be a function")], "target": NUMBERS},
)
of_loss = LossLayer(minicnn.squared_error, floats(2))
door("LossLayer.forward", of_loss.forward, {"x": floats(2)}, {"x": [*FLOATS, (floats(3), "shape")]})
door(
    "LossLayer.backward",
    lambda dy: of_loss.backward(dy, floats(2)),
    {"dy": np.ones(())},
    {"dy": [*FLOATS, (floats(2), "dy must have y's shape ")]},
)
door("LossLayer.output_shape", of_loss.output_shape, {"x_shape": (2,)}, {"x_shape": SHAPES})

door(
    "summarize",
    summarize,
    {"net": NET, "x_shape": (1, 1, 5, 5)},
    {
        "net": [(net, r"net must be a layer, such as lenet\(\)") for net in (None, ReLU, BYTES)],
        "x_shape": [*SHAPES, ((), r"\(N, C, H, W\)"), ((1, 5, 5), r"\(N, C, H, W\)")],
    },
)
pictures = [None, 3, "ab", [], (), BYTES[:0], {"a": BYTES}]
door(
    "image_grid",
    image_grid,
    {"images": BYTES[:2, 0], "titles": None, "columns": 2, "signed": False, "size": 1.0},
    {
        "images": [(value, "images must be a list of one or more") for value in pictures]
        + [(["a"], NO_NUMBERS), ([None], NO_NUMBERS), ([RAGGED], NO_NUMBERS)]
        + [(images, r"of shape \(H, W\)") for images in ([1, 2], BYTES, [BYTES[0, 0, :0]])],
        "titles": [(t, "a list of 2 strings") for t in ("ab", ["a"], [1, 2], [], 3, BYTES)],
        "columns": [*INTEGERS, (0, ">= 1")],
        "signed": FLAGS,
        "size": steps,
    },
)
matrices = [(floats(2, 3), r"counts must be of shape \(2, 2\)"), (LABELS, "of shape"), ([], "of")]
door(
    "confusion_matrix",
    confusion_matrix,
    {"counts": np.ones((2, 2), int), "classes": ("a", "b")},
    {
        "counts": [*NUMBERS[:2], (RAGGED, NO_NUMBERS), *matrices],
        "classes": [(c, "classes must be a list of names") for c in (None, 2, "ab", (), [0, 1])]
        + [(["a"], r"counts must be of shape \(1, 1\)")],
    },
)
door(
    "training_curves",
    training_curves,
    {"history": HISTORY},
    {"history": [(h, "history must be what fit returns") for h in (None, {}, History(6, "cpu"))]},
)

door(
    "read_idx",
    datasets.read_idx,
    {"path": "a.idx", "shape": (2, 3), "max_bytes": 9, "dtype": np.uint8},
    {
        "dtype": [(d, "dtype must be uint8 or int32, got") for d in (None, "abc", float, BYTES)],
        "path": [*PATHS, (None, NO_PATH)],
        "shape": [*SHAPES[1:], ((2, 2), "holds 2 x 3 values, expected 2 x 2")],
        "max_bytes": [*INTEGERS, (0, ">= 1")],
    },
)
door(
    "read_image",
    datasets.read_image,
    {"path": "a.png", "size": (8, 9), "invert": None, "colour": False},
    {
        "colour": FLAGS,
        "path": [*PATHS, (None, NO_PATH)],
        "size": [*PAIRS, (0, NO_INTEGER), ((1, 0), NO_INTEGER)],
        "invert": FLAGS[1:],
    },
)
preparing = {"size": (8, 9), "colour": False, "invert": None}
of_size = [*PAIRS, (0, NO_INTEGER), ((1, 0), NO_INTEGER)]
door(
    "Preparation",
    Preparation,
    preparing,
    {"size": of_size, "colour": FLAGS, "invert": FLAGS[1:]},
)
door("Preparation.read", Preparation().read, {"path": "a.png"}, {"path": [*PATHS, (None, NO_PATH)]})
shares = [*SHARES[1:], (0, "test_share must be in"), (1.0, "test_share must be in")]
opening = {"size": 8, "colour": False, "test_share": 0.5, "seed": 0, "skip_bad": False}
opening |= {"invert": False}
wrong_opening = {
    "size": [*INTEGERS[1:], (0, NO_INTEGER)],
    "colour": FLAGS[1:],
    "test_share": shares,
    "seed": INTEGERS,
    "skip_bad": FLAGS,
    "invert": FLAGS,
}
door(
    "open_data",
    datasets.open_data,
    {"path": "a.npz", **opening, "progress": False},
    {"path": [*PATHS, (None, NO_PATH)], **wrong_opening, "progress": FLAGS},
)
sources = [(value, "source must be the name of a data set or a path") for value in (None, 3, "")]
door(
    "DataSpec",
    datasets.DataSpec,
    {"source": "a.npz", **opening},
    {"source": [*sources, ("mnist", "mnist is used as it is: leave out")], **wrong_opening},
)
door("DataSpec.options", datasets.DataSpec("a.npz").options, {}, {})
door(
    "DataSpec.load",
    datasets.DataSpec("digits").load,
    {"folder": None, "progress": False},
    {"folder": [("x", "digits needs no folder: leave out x")], "progress": FLAGS},
)
door(
    "load",
    minicnn.load,
    {"run": "run", "model": None},
    {
        "run": [*PATHS, (None, NO_PATH), ("c", "is not the folder")],
        "model": [
            *((value, "model must be the new place of the file") for value in (3, "lenet", b"a:b")),
            ("net.py:build", "the run keeps its network and needs no file: leave out model"),
        ],
    },
)
no_metadata = [(value, "metadata must be a dictionary") for value in (0, "a", [1], BYTES)]
no_metadata += [({"sha256": "x"}, "without the reserved key sha256")]
no_metadata += [({"a": value}, "must be values that JSON can hold") for value in (BYTES, np.nan)]
door(
    "save_weights",
    save_weights,
    {"net": NET, "path": "b.safetensors", "metadata": None},
    {"net": NO_NETS, "path": [*PATHS, (None, NO_PATH)], "metadata": no_metadata},
)
door(
    "load_weights",
    load_weights,
    {"net": NET, "path": "a.safetensors"},
    {"net": NO_NETS, "path": [*PATHS, (None, NO_PATH), ("c", "but there is none")]},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "a.idx").write_bytes(bytes.fromhex("00000802 00000002 00000003") + bytes(6))
    Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(folder / "a.png")
    np.savez(folder / "a.npz", x=BYTES, y=[0, 1] * 3)
    save_weights(NET, folder / "a.safetensors")
    (folder / "runs").mkdir()
    with_a_copy(train_run)(**running | {"folder": folder / "run"})
    return folder


@pytest.fixture(autouse=True)
def in_the_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("name", DOORS)
def test_the_call_works_as_it_stands(name):
    function, arguments, _ = DOORS[name]
    function(**arguments)


@pytest.mark.parametrize(
    "name, argument", [(name, argument) for name, door in DOORS.items() for argument in door[2]]
)
def test_a_wrong_argument_gets_one_sentence_and_changes_nothing(name, argument):
    function, arguments, wrong = DOORS[name]
    for value, message in wrong[argument]:
        given = f"{argument}={value!r}"
        before = state(value, *arguments.values())
        with pytest.raises(ValueError, match=message) as caught:
            function(**arguments | {argument: value})
            pytest.fail(f"{given} was accepted")
        assert "\n" not in str(caught.value), given
        last = traceback.extract_tb(caught.tb)[-1]
        assert last.filename.startswith(PACKAGE), f"{given}: raised in {last.filename}"
        assert state(value, *arguments.values()) == before, given


def state(*values):
    """The bits of all arrays in these, and in the network and the data that most calls take."""
    kept = [value for value in values if isinstance(value, (np.ndarray, dict, list, History))]
    return pickle.dumps((kept, NET, DATA))


def test_an_index_is_no_slice():
    """A TypeError, as Python's own is where an index has the wrong type."""
    for part in (3, "a", None, BYTES, (slice(2), 0)):
        with pytest.raises(TypeError, match=r"^expected a slice, as in ds\[:1000\], but got .*$"):
            DATA[part]


def test_nothing_public_is_missing():
    """Of the package, of its data sets, and of the methods of layers, data sets and optimizers."""
    public = {*minicnn.__all__, *datasets.__all__}
    abstract = {"Layer", "DataError", "DatasetNotFound"}
    assert public - DOORS.keys() == abstract
    for kind in (*(type(layer) for layer, _ in LAYERS), LossLayer, Dataset, SGD, Adam, AdamW):
        methods = {name for name, _ in inspect.getmembers(kind, inspect.isfunction)}
        methods &= vars(kind).keys() if kind is LossLayer else methods
        methods = {m for m in methods if m in ("__call__", "__getitem__") or m[0] != "_"}
        assert {f"{kind.__name__}.{method}" for method in methods} <= DOORS.keys()


def test_what_is_as_good_is_accepted():
    """Lists for arrays where these are made into one anyway, and the integers of NumPy."""
    X, K = floats(3, 3), floats(2, 2)
    np.testing.assert_array_equal(
        minicnn.corr2d(X.tolist(), K.tolist()), minicnn.corr2d(X, K), strict=True
    )
    two = np.int64(2)
    np.testing.assert_array_equal(minicnn.pool2d(X, two), minicnn.pool2d(X, (2, 2)), strict=True)
    assert repr(Conv2D(two, two, two)) == "Conv2D(2, 2, 2)"
    assert Dataset(BYTES, LABELS, ["a", "b", "c"], "small").classes == ("a", "b", "c")
    assert datasets.read_idx("a.idx", [2, 3]).shape == (2, 3)
    assert datasets.read_image("a.png", 5).shape == (1, 1, 5, 5)
    assert [row.layer for row in summarize(Linear(3, 2), (1, 3))] == ["Linear(3, 2)"]
    assert DATA.to("auto").images.shape == BYTES.shape


def test_a_number_without_axes_goes_through_every_activation():
    for layer in (Sigmoid(), Tanh(), ReLU(), LeakyReLU(), GELU()):
        y, saved = layer.forward(np.array(0.5))
        dx, _ = layer.backward(np.array(1.0), saved)
        many = layer.forward(np.array([0.5]))
        assert y == many[0][0] and dx == layer.backward(np.array([1.0]), many[1])[0][0]
