"""The whole check: is `backward` the derivative of `forward`, and is the protocol kept?

The protocol comes first, because breaking it may spoil the gradients; then each gradient is
compared with central differences, and then backward is tested for linearity.

In a network kinks can cancel: relu(x) - relu(-x) is x, but backward gives 0 at 0. So if a network
seems wrong, each layer is checked; if all are right and one of them is at a kink, the network
counts as at a kink too.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minicnn.arguments import Shape, finite, integer, numbers, positive, require, sizes
from minicnn.backend import Array
from minicnn.checks import check_float, check_gradient
from minicnn.gradcheck.differences import Differences, compare, index
from minicnn.gradcheck.protocol import (
    CHECKS,
    draws,
    inference_findings,
    left_out,
    linearity_findings,
    structure_findings,
)
from minicnn.gradcheck.report import Comparison, Finding, Report, frames
from minicnn.layers import Layer
from minicnn.layers.base import Result
from minicnn.layers.sequential import Sequential


class LossLayer(Layer):
    """A loss as a layer with one output, so that it can be checked like one.

    `loss(x, target)` returns (loss, dx), as the losses in losses.py do.
    """

    mixes_images = True

    def __init__(self, loss: Callable[[Array, Array], tuple[Array, Array]], target: Array) -> None:
        super().__init__()
        require(callable(loss), "loss must be a function, such as squared_error", loss)
        self.loss, self.target = loss, numbers("target", target)

    def __repr__(self) -> str:
        return getattr(self.loss, "__name__", repr(self.loss))

    def output_shape(self, x_shape: Shape) -> Shape:
        sizes(self, x_shape)
        return ()

    def forward(self, x: Array) -> tuple[Array, Array]:
        check_float(self, x)
        is_float = np.issubdtype(self.target.dtype, np.floating)
        loss, dx = self.loss(x, self.target.astype(x.dtype) if is_float else self.target)
        return np.asarray(loss, x.dtype if type(loss) is float else None), dx

    def backward(self, dy: Array, saved: Array, need_dx: bool = True) -> Result:
        check_gradient(self, dy, ())
        return (dy * saved if need_dx else None), {}


def check_gradients(
    layer: Layer,
    x: Array,
    *,
    seed: int = 0,
    step: float = 1e-5,
    rtol: float = 1e-6,
    reference: Callable[[Array], Array] | None = None,
    inference: Callable[[Array], Array] | None = None,
) -> Report:
    """Compares dx and the gradient of each parameter with central differences, in float64.

    `layer` and `x` may have any float type and are not changed; entries of about 1 are best. `seed`
    determines the upstream gradient. An entry is wrong if it is off by more than `rtol` times the
    largest entry of the gradient, and by more than rounding explains. Of a large array only the
    slope along a direction is compared, and it is wrong if it is off by more than `rtol` times the
    length of the gradient. `reference(x)` gives the output to compare `forward` with.
    `inference(x)` is what `layer(x)` should give, such as `lambda x: x` for dropout; without it,
    `layer(x)` should be y, unless the layer has state or draws numbers.

    Beyond the gradients, the protocol of a layer is checked: see protocol.py. If a Sequential is
    wrong, or at a kink, each of its layers is checked too. Raises ValueError if `layer` is not a
    layer or x is not finite, and whatever `forward` raises for this x.
    """
    is_layer = isinstance(layer, Layer)
    require(is_layer, "expected a layer, or LossLayer(loss, target) for a loss", layer)
    integer("seed", seed, 0)
    positive("step", step)
    require(finite("rtol", rtol) >= 0, "rtol must be a finite number >= 0", rtol)
    for name, function in {"reference": reference, "inference": inference}.items():
        is_function = function is None or callable(function)
        require(is_function, f"{name} must be a function of x", function)
    x = np.array(numbers("x", x), np.float64, order="C")
    if not np.isfinite(x).all():
        raise ValueError("x must be finite: a slope at infinity or nan means nothing")
    name = repr(layer)
    layer = copy.deepcopy(layer).astype(np.float64)
    rng = np.random.default_rng((seed, 1))  # or dy could be the x that the caller drew with seed
    log = _Log(planned_checks(layer, reference is not None))
    y, saved = layer.forward(x.copy())
    y = y.copy()  # it may be a view of a parameter
    if not np.isfinite(y).all():
        message = "y is not finite, so no slope can be measured"
        log.add("finite", [Finding("y", message, "not finite")])
        return log.report(name, seed, [], [])
    log.add("finite", [])
    dy = rng.standard_normal(y.shape)
    try:
        result = layer.backward(dy.copy(), saved)
        log.add("returns", list(structure_findings(layer, result)))
    except Exception as error:  # whatever a wrong layer raises goes into the report
        log.add("returns", [_raised(error, "in backward")])
        return log.report(name, seed, [], [])
    with np.errstate(all="ignore"):
        for check, findings_of in CHECKS.items():
            log.run(check, findings_of(layer, x, dy))
        if inference is not None:
            expected = numbers("inference(x)", inference(x.copy()))
            log.run("call", inference_findings(layer, x, expected, "inference"))
        elif layer.state or draws(layer):
            log.run("call", inference_findings(layer, x, layer(x.copy()), "another call"))
        else:
            log.run("call", inference_findings(layer, x, y, "forward"))
    if reference is not None:
        log.add("reference", list(_forward_findings(y, numbers("reference(x)", reference(x)))))

    comparisons: list[Comparison] = []
    differing: dict[str, list[Finding]] = {}
    if not log.failed("repeatable"):
        differences = Differences(layer, x, y, dy, step, rtol)
        for key, array, claimed in _claims(layer, x, result):
            comparison, differing[key] = compare(differences, key, array, claimed, rng)
            comparisons.append(comparison)
    kinks = any(comparison.kinks for comparison in comparisons)
    inner: list[Report] = []
    if isinstance(layer, Sequential) and (log.findings or any(differing.values()) or kinks):
        settings = {"seed": seed, "step": step, "rtol": rtol}
        inner = list(_reports_by_layer(layer, x, inference is not None, settings))
        kinks = any(report.kinks for report in inner)
        if kinks and all(report.ok for report in inner) and _is_plain(layer):
            comparisons = [c if c.ok else c.excused() for c in comparisons]
            differing = dict.fromkeys(differing, [])
    for key, found in differing.items():
        log.add(f"d{key}", found)
    if isinstance(layer, Sequential):
        log.add("layers", list(_findings_by_layer(layer, inner)))
    log.run("linearity", linearity_findings(layer, x, dy))
    unchecked = [*_not_compared(comparisons), *left_out(layer, x, inference is not None)]
    return log.report(name, seed, comparisons, unchecked)


def planned_checks(layer: Layer, reference: bool = False) -> list[str]:
    """The names of all checks of a layer, in order, with "reference" only if there is one."""
    gradients = [f"d{name}" for name in ("x", *layer.params)]
    by_layer = ["layers"] if isinstance(layer, Sequential) else []
    beside = ["reference"] if reference else []
    return ["finite", "returns", *CHECKS, "call", *beside, *gradients, *by_layer, "linearity"]


@dataclass
class _Log:
    """Which of the checks `planned` ran, and what they found."""

    planned: list[str]
    checked: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, check: str, findings: list[Finding]) -> None:
        self.checked.append(check)
        self.findings += [replace(finding, check=check) for finding in findings]

    def run(self, check: str, findings: Iterator[Finding]) -> None:
        """Adds what a check yields, unless an earlier finding may be the cause of it."""
        if self.findings:
            return
        try:
            self.add(check, list(findings))
        except Exception as error:
            self.add(check, [_raised(error, "with other inputs, while checking the protocol")])

    def failed(self, check: str) -> bool:
        return any(finding.check == check for finding in self.findings)

    def report(
        self, layer: str, seed: int, comparisons: list[Comparison], unchecked: list[str]
    ) -> Report:
        skipped = [check for check in self.planned if check not in self.checked]
        if skipped:
            unchecked = [*unchecked, f"{', '.join(skipped)} (fix what is wrong first)"]
        return Report(
            layer,
            seed,
            tuple(comparisons),
            tuple(self.findings),
            tuple(self.checked),
            tuple(unchecked),
        )


def _raised(error: Exception, where: str) -> Finding:
    message = f"{type(error).__name__} {where}: {error}"
    return Finding("x", message, "an exception", traceback=frames(error))


def _not_compared(comparisons: list[Comparison]) -> list[str]:
    """Which parts of the gradients were not compared; those with the same reason share a line."""
    gradients: dict[str, list[str]] = {}
    for comparison in comparisons:
        for reason in comparison.unchecked:
            gradients.setdefault(reason, []).append(f"d{comparison.gradient}")
    return [f"{', '.join(names)} {reason}" for reason, names in gradients.items()]


def _claims(layer: Layer, x: Array, result: Result) -> Iterator[tuple[str, Array, Array]]:
    """(name, array, claimed gradient) of x and of each parameter for which backward gave one."""
    dx, grads = result
    gradients = {"x": dx, **grads}
    for name, array in {"x": x, **layer.params}.items():
        if gradients.get(name) is not None:
            yield name, array, np.asarray(gradients[name])


def _forward_findings(y: Array, expected: Array) -> Iterator[Finding]:
    if y.shape != expected.shape:
        message = f"y has shape {y.shape}, but the reference gives {expected.shape}"
        yield Finding("y", message, "forward is wrong")
    elif (wrong := ~np.isclose(y, expected, rtol=1e-10, atol=1e-10)).any():
        first = index(int(np.argmax(wrong)), y.shape)
        message = (
            f"{wrong.sum()} of {wrong.size} entries of y are wrong, the first at {list(first)}: "
            f"forward gives {y[first]:.6g}, the reference {expected[first]:.6g}"
        )
        yield Finding("y", message, "forward is wrong")


def _is_plain(net: Sequential) -> bool:
    """Whether `net` only runs its layers, as Sequential does."""
    own = type(net)
    return (own.forward, own.backward) == (Sequential.forward, Sequential.backward)


def _reports_by_layer(
    net: Sequential, x: Array, call_differs: bool, settings: dict[str, Any]
) -> Iterator[Report]:
    for layer in net.layers:
        inference = layer if call_differs else None  # what one layer should give is not known
        yield check_gradients(layer, x, inference=inference, **settings)
        x, _ = layer.forward(x)


def _findings_by_layer(net: Sequential, reports: list[Report]) -> Iterator[Finding]:
    for i, report in enumerate(reports):
        for found in report.findings:
            message = f"{_place(net, i)}{found.message}"
            yield replace(found, name=f"{i}.{found.name}", message=message)


def _place(net: Sequential, i: int) -> str:
    inner = isinstance(net.layers[i], Sequential)
    return f"layer {i}, " if inner else f"layer {i}, {net.layers[i]!r}: "
