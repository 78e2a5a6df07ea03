"""Runs the operator tests that the package `onnx` ships and generates with minicnn's layers.

    python tests/onnx_operators.py

prints a table of operators, tests, how many pass, are wrong and cannot be expressed, with the
reasons, and exits with status 1 if one is wrong, or one of images (N, C, H, W) of floats cannot be
expressed. Each test is a model of one operator, with inputs and the outputs that are expected for
them. In them ONNX differs from PyTorch, and so from minicnn, where its names for things do:
`momentum` of batch normalisation is the weight of the old statistics, whose variance is over M and
not M - 1; the mean of weighted losses is over the weights and not over the images.

It needs the extra `onnx`.
"""

import importlib
import itertools
import pkgutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case import node as node_tests
from onnx.backend.test.loader import load_model_tests

from minicnn import (
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
    Sigmoid,
    Tanh,
    softmax,
    softmax_cross_entropy,
)
from minicnn.text import align

SHIPPED = ("simple", "pytorch-converted", "pytorch-operator")  # folders of onnx/backend/test/data
DIMENSIONS = {3: "one dimension", 5: "three dimensions"}

Arrays = list[np.ndarray]


class CannotExpress(ValueError):
    """What a test asks for and no layer here has."""


class Case(NamedTuple):
    """A model of one operator; an input that is left out is None."""

    name: str
    operator: str
    attributes: dict[str, Any]
    inputs: list[Any]
    outputs: Arrays
    rtol: float
    atol: float

    def option(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)


class Geometry:
    """The window of a test, as arguments of a layer."""

    def __init__(self, case: Case, kernel_size: tuple[int, ...]) -> None:
        self.size = case.inputs[0].shape[2:]
        self.kernel_size = tuple(case.option("kernel_shape", kernel_size))
        self.stride = tuple(case.option("strides", (1, 1)))
        self.dilation = tuple(case.option("dilations", (1, 1)))
        self.span = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size)]
        self.auto_pad = case.option("auto_pad", b"NOTSET").decode()
        top, left, bottom, right = case.option("pads", (0, 0, 0, 0))
        self.padding = (top, bottom, left, right)
        if self.auto_pad.startswith("SAME"):
            sizes = zip(self.size, self.stride, self.span)
            totals = [max(0, (-(-h // s) - 1) * s + span - h) for h, s, span in sizes]
            self.pad(totals, more_before=self.auto_pad == "SAME_LOWER")

    def pad(self, totals: list[int], more_before: bool) -> None:
        """Halves the padding of height and width; of an odd one, one side gets more."""
        height, width = totals
        top, left = ((total + more_before) // 2 for total in totals)
        self.padding = (top, height - top, left, width - left)

    def arguments(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in ("kernel_size", "stride", "padding", "dilation")
        }


def output(layer: Layer, x: np.ndarray) -> np.ndarray:
    """y of inference, which `forward` has to give too."""
    y, _ = layer.forward(x)
    np.testing.assert_array_equal(layer(x), y)
    return y


def needs_images(case: Case) -> None:
    x = case.inputs[0]
    if x.ndim != 4:
        raise CannotExpress(DIMENSIONS.get(x.ndim, f"{x.ndim} axes"))


def with_params(layer: Layer, weight: np.ndarray, bias: Any = None) -> Layer:
    layer.params.update({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer


def conv(case: Case) -> Arrays:
    needs_images(case)
    x, weight, bias = (*case.inputs, None)[:3]
    channels, groups = x.shape[1], case.option("group", 1)
    arguments = Geometry(case, weight.shape[2:]).arguments()
    layer = Conv2D(channels, len(weight), **arguments, groups=groups, bias=bias is not None)
    return [output(with_params(layer, weight, bias), x)]


def conv_transpose(case: Case) -> Arrays:
    needs_images(case)
    x, weight, bias = (*case.inputs, None)[:3]
    groups, more = case.option("group", 1), tuple(case.option("output_padding", (0, 0)))
    geometry = Geometry(case, weight.shape[2:])
    same = [h * s for h, s in zip(geometry.size, geometry.stride)]
    wanted = case.option("output_shape", same if geometry.auto_pad.startswith("SAME") else None)
    if wanted:
        sizes = zip(geometry.size, geometry.stride, geometry.span, more, wanted[-2:])
        totals = [s * (h - 1) + extra + span - size for h, s, span, extra, size in sizes]
        more = tuple(extra + max(0, -total) for extra, total in zip(more, totals))
        totals = [max(0, total) for total in totals]
        geometry.pad(totals, more_before=geometry.auto_pad != "SAME_UPPER")
    layer = ConvTranspose2D(
        len(weight),
        weight.shape[1] * groups,
        **geometry.arguments(),
        output_padding=more,
        groups=groups,
        bias=bias is not None,
    )
    return [output(with_params(layer, weight, bias), x)]


def max_pool(case: Case) -> Arrays:
    needs_images(case)
    x, ceil_mode = case.inputs[0], bool(case.option("ceil_mode", 0))
    layer = MaxPool2D(**Geometry(case, ()).arguments(), ceil_mode=ceil_mode)
    y = output(layer, x)
    if len(case.outputs) == 1:
        return [y]
    return [y, winners(layer, x, column_major=bool(case.option("storage_order", 0)))]


def winners(layer: Layer, x: np.ndarray, column_major: bool) -> np.ndarray:
    """For each window the place in x of the entry that gets its gradient."""
    y, saved = layer.forward(x)
    places = np.arange(x.size).reshape(x.shape)
    if column_major:
        places = np.arange(x.size).reshape(*x.shape[:2], *x.shape[:1:-1]).swapaxes(2, 3)
    indices = np.empty(y.shape, np.int64)
    for window in np.ndindex(y.shape):
        dy = np.zeros_like(y)
        dy[window] = 1
        dx, _ = layer.backward(dy, saved)
        (indices[window],) = places[dx != 0]
    return indices


def average_pool(case: Case) -> Arrays:
    needs_images(case)
    layer = AvgPool2D(
        **Geometry(case, ()).arguments(),
        count_include_pad=bool(case.option("count_include_pad", 0)),
        ceil_mode=bool(case.option("ceil_mode", 0)),
    )
    return [output(layer, case.inputs[0])]


def global_average_pool(case: Case) -> Arrays:
    needs_images(case)
    return [output(GlobalAvgPool2D(), case.inputs[0])[:, :, None, None]]


def global_max_pool(case: Case) -> Arrays:
    needs_images(case)
    x = case.inputs[0]
    return [output(MaxPool2D(x.shape[2:]), x)]


def batch_normalization(case: Case) -> Arrays:
    needs_images(case)
    x, weight, bias, mean, var = case.inputs
    momentum = 1 - case.option("momentum", 0.9)
    layer = with_params(
        BatchNorm2D(x.shape[1], case.option("epsilon", 1e-5), momentum), weight, bias
    )
    layer.state.update({"running_mean": mean, "running_var": var})
    if not case.option("training_mode", 0):
        return [layer(x)]
    y, saved = layer.forward(x)
    new, m = layer.updates(saved), x.size // x.shape[1]
    old = (1 - momentum) * var
    return [y, new["running_mean"], old + (new["running_var"] - old) * (m - 1) / m]


def dropout(case: Case) -> Arrays:
    x, p, training = (*case.inputs, None, None)[:3]
    if len(case.outputs) > 1:
        raise CannotExpress("the mask as an output")
    if training is None or not training:
        return [Dropout(float(case.option("ratio", 0.5) if p is None else p))(x)]
    if p != 0:
        raise CannotExpress("random numbers of NumPy's global generator")
    return [output(Dropout(0), x)]


def gelu(case: Case) -> Arrays:
    if case.option("approximate", b"none") != b"none":
        raise CannotExpress("the approximation by tanh")
    return [output(GELU(), case.inputs[0])]


def gemm(case: Case) -> Arrays:
    a, b, c = (*case.inputs, None)[:3]
    x = a.T if case.option("transA", 0) else a
    weight = b if case.option("transB", 0) else b.T
    weight = np.float32(case.option("alpha", 1)) * weight
    if c is None:
        return [output(with_params(Linear(*weight.shape[::-1], bias=False), weight), x)]
    if c.ndim == 2 and len(c) > 1:
        raise CannotExpress("a bias for each image")
    bias = np.broadcast_to(np.float32(case.option("beta", 1)) * c.reshape(-1), len(weight))
    return [output(with_params(Linear(*weight.shape[::-1]), weight, bias), x)]


def flatten(case: Case) -> Arrays:
    x, axis = case.inputs[0], case.option("axis", 1)
    if x.ndim == 1:
        raise CannotExpress("x of one axis")
    if axis not in (1, 1 - x.ndim):
        raise CannotExpress("an axis other than 1")
    return [output(Flatten(), x)]


def softmax_of_rows(case: Case) -> Arrays:
    x, axis = case.inputs[0], case.option("axis", -1)
    if x.ndim != 2 or axis not in (1, -1):
        raise CannotExpress("logits that are not (N, K)")
    return [softmax(x)]


def cross_entropy(case: Case) -> Arrays:
    logits, labels, weights = (*case.inputs, None)[:3]
    if logits.ndim != 2:
        raise CannotExpress("logits that are not (N, K)")
    if "ignore_index" in case.attributes:
        raise CannotExpress("labels to ignore")
    if len(case.outputs) > 1:
        raise CannotExpress("log-probabilities as an output")
    reduction = case.option("reduction", b"mean")
    rows = [slice(n, n + 1) for n in range(len(labels))] if reduction == b"none" else [slice(None)]
    losses = [
        softmax_cross_entropy(logits[part], labels[part], class_weights=weights)[0] for part in rows
    ]
    if reduction == b"none":
        return [np.array(losses)]
    total = losses[0] * len(labels)
    if reduction == b"sum":
        return [total]
    return [total / (len(labels) if weights is None else weights[labels].sum())]


def of_entries(make: Callable[..., Layer]) -> Callable[[Case], Arrays]:
    def run(case: Case) -> Arrays:
        return [output(make(**case.attributes), case.inputs[0])]

    return run


OPERATORS: dict[str, Callable[[Case], Arrays]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalMaxPool": global_max_pool,
    "GlobalAveragePool": global_average_pool,
    "BatchNormalization": batch_normalization,
    "Dropout": dropout,
    "Relu": of_entries(ReLU),
    "LeakyRelu": of_entries(lambda alpha=0.01: LeakyReLU(alpha)),
    "Sigmoid": of_entries(Sigmoid),
    "Tanh": of_entries(Tanh),
    "Gelu": gelu,
    "Gemm": gemm,
    "Flatten": flatten,
    "Softmax": softmax_of_rows,
    "SoftmaxCrossEntropyLoss": cross_entropy,
}
OF_IMAGES = list(OPERATORS)[:7]


def cases() -> Iterator[Case]:
    """The tests of one operator each, those that onnx generates and those that it ships."""
    for module in pkgutil.iter_modules(node_tests.__path__):  # named after operators, some in part
        if any(name.lower().startswith(module.name.replace("_", "")) for name in OPERATORS):
            importlib.import_module(f"{node_tests.__name__}.{module.name}")
    for test in node_tests._NodeTestCases:  # load_model_tests(kind="node") takes far longer
        for inputs, outputs in test.data_sets:
            yield from case_of(test, test.model, list(inputs), list(outputs))
    for test in itertools.chain(*(load_model_tests(kind=kind) for kind in SHIPPED)):
        model = onnx.load(Path(test.model_dir, "model.onnx"))
        for folder in sorted(Path(test.model_dir).glob("test_data_set_*")):
            inputs, outputs = (tensors(folder, kind) for kind in ("input", "output"))
            yield from case_of(test, model, inputs, outputs)


def tensors(folder: Path, kind: str) -> Arrays:
    files = sorted(folder.glob(f"{kind}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
    return [numpy_helper.to_array(onnx.load_tensor(file)) for file in files]


def case_of(test: Any, model: Any, inputs: Arrays, outputs: Arrays) -> Iterator[Case]:
    """The test as a case, if its model is one operator of ours."""
    if [node.op_type in OPERATORS for node in model.graph.node] != [True]:
        return
    (node,) = model.graph.node
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in stored]
    given = stored | dict(zip(names, inputs))
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    yield Case(
        test.name,
        node.op_type,
        attributes,
        [given.get(name) for name in node.input],
        outputs,
        test.rtol,
        test.atol,
    )


def result(case: Case) -> tuple[str, str]:
    """("passed", ""), ("wrong", where) or ("not expressed", why)."""
    if case.inputs[0].dtype.kind != "f":
        return "not expressed", "integers"
    try:
        found = OPERATORS[case.operator](case)
    except ValueError as reason:  # also the layers' own
        return "not expressed", str(reason)
    try:
        for array, expected in zip(found, case.outputs, strict=True):
            np.testing.assert_allclose(array, expected, rtol=case.rtol, atol=case.atol)
    except AssertionError as difference:
        return "wrong", str(difference)
    return "passed", ""


def main() -> int:
    """Prints the table and what is wrong; 1 if something is, else 0."""
    counts: Counter[tuple[str, str]] = Counter()
    reasons: dict[str, Counter[str]] = {operator: Counter() for operator in OPERATORS}
    complaints = []
    for case in cases():
        outcome, why = result(case)
        counts[case.operator, outcome] += 1
        if outcome == "not expressed":
            reasons[case.operator][why] += 1
        is_ours = (
            case.operator in OF_IMAGES and case.inputs[0].ndim == 4 and why not in ("", "integers")
        )
        if outcome == "wrong" or is_ours:
            complaints.append(f"{case.operator}, {case.name}, {outcome}: {why}")
    outcomes = ("passed", "wrong", "not expressed")
    rows = [("operator", "tests", *outcomes, "because of")]
    for operator, why in reasons.items():
        numbers = [counts[operator, outcome] for outcome in outcomes]
        because = ", ".join(f"{reason} ({count})" for reason, count in why.items())
        rows.append((operator, *map(str, (sum(numbers), *numbers)), because))
    totals = [sum(counts[operator, outcome] for operator in OPERATORS) for outcome in outcomes]
    rows.append(("all", *map(str, (sum(totals), *totals)), ""))
    print("\n".join(line.rstrip() for line in align(rows, "<>>>><")))
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
