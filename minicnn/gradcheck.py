"""The gradient checker: is `backward` the derivative of `forward`, and if not, what is wrong?

Change one entry k of an array a (the input or a parameter) by a small step h, and see what each
output y[m] does. The slopes to the right and to the left, and their mean, the central difference:

    right[k, m] = (y[m](a + h at k) - y[m](a)) / h                                          (1)
    left[k, m] = (y[m](a) - y[m](a - h at k)) / h                                           (2)
    jacobian[k, m] = (right[k, m] + left[k, m]) / 2                                         (3)

The central difference is off by about h**2 from the curvature and 1e-16 / h from rounding, so in
float64 a step of 1e-5 leaves ten digits; in float32 nothing useful would be left. By the chain
rule the gradient is the Jacobian times the gradient of the outputs, dy, which is drawn at random:
with dy = 1 everywhere errors can cancel.

    da[k] = sum_m jacobian[k, m] * dy[m]                                                    (4)

Where the Jacobian would be too large, all entries are moved at once along one random direction u.
With the slopes along u in the place of those at k,

    sum_k da[k] * u[k] = sum_m jacobian[u, m] * dy[m]                                       (5)

Where right and left differ however small the step is, there is a kink (ReLU at 0) or a tie (equal
maxima in a window), and no derivative. There any slope between the two will do:

    sum_m min(right[k, m] * dy[m], left[k, m] * dy[m]) <= da[k] <= sum_m max(...)           (6)

but all entries of a tie together still have a slope, so if right and left agree along u = 1, the
sum of da is known from (5).

Source: A. Griewank, A. Walther, "Evaluating Derivatives", 2nd edition, 2008, chapters 3 and 14.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minicnn.backend import Array
from minicnn.checks import Shape
from minicnn.contract import contract_findings, linearity_findings
from minicnn.diagnosis import Evidence, Finding, diagnose
from minicnn.layers import Layer
from minicnn.layers.base import Gradients
from minicnn.sequential import Sequential
from minicnn.tables import align

MAX_ENTRIES = 1000  # of an array, and below of its Jacobian, for each entry to be compared
MAX_JACOBIAN = 2_000_000


@dataclass(frozen=True)
class Comparison:
    """One gradient: the largest difference between what backward gives and central differences,
    relative to the largest entry, and where it is; None if only one direction was compared."""

    gradient: str
    shape: Shape
    error: float
    index: tuple[int, ...] | None
    kinks: int
    ok: bool


@dataclass(frozen=True)
class Report:
    """What `check_gradients` found. Printed, it is a table, and below it what is wrong."""

    layer: str
    seed: int
    comparisons: list[Comparison] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def errors(self) -> dict[str, float]:
        """The worst relative error of each gradient, of x under "x"."""
        return {comparison.gradient: comparison.error for comparison in self.comparisons}

    @property
    def cause(self) -> str | None:
        """The first cause that was named."""
        return next((finding.cause for finding in self.findings if finding.cause), None)

    def __str__(self) -> str:
        return table([self])


class LossLayer(Layer):
    """A loss as a layer with one output, so that it can be checked like one.

    `loss(x, target)` returns (loss, dx), as those of losses.py do.
    """

    def __init__(self, loss: Callable[[Array, Array], tuple[Array, Array]], target: Array) -> None:
        super().__init__()
        self.loss, self.target = loss, target

    def __repr__(self) -> str:
        return self.loss.__name__

    def output_shape(self, x_shape: Shape) -> Shape:
        return ()

    def forward(self, x: Array) -> tuple[Array, Array]:
        is_float = np.issubdtype(self.target.dtype, np.floating)
        loss, dx = self.loss(x, self.target.astype(x.dtype) if is_float else self.target)
        return np.asarray(loss), dx

    def backward(
        self, dy: Array, saved: Array, need_dx: bool = True
    ) -> tuple[Array | None, Gradients]:
        return (dy * saved if need_dx else None), {}


def check_gradients(
    layer: Layer,
    x: Array,
    *,
    seed: int = 0,
    step: float = 1e-5,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    reference: Callable[[Array], Array] | None = None,
) -> Report:
    """Compares dx and the gradient of each parameter with central differences, in float64.

    `layer` and `x`, of any float type, are left as they are. `seed` draws the upstream gradient.
    An entry is wrong if it is off by more than atol + rtol * (largest entry of the gradient).
    `reference(x)` gives the output to compare `forward` with. Beyond the gradients, the contract
    of a layer is checked, see contract.py. Of a Sequential that is wrong, each layer is checked.
    Raises ValueError if x does not fit the layer.
    """
    if not isinstance(layer, Layer):
        raise ValueError(f"expected a layer, or LossLayer(loss, target) for a loss, got {layer!r}")
    rng = np.random.default_rng((seed, 1))  # or dy could be the x that the caller drew with seed
    layer, x = layer.astype(np.float64), np.array(x, np.float64)
    report = Report(repr(layer), seed)
    y, saved = layer.forward(x.copy())
    dy = rng.standard_normal(y.shape)
    try:
        dx, grads = layer.backward(dy.copy(), saved)
        report.findings.extend(contract_findings(layer, x, dy))
    except Exception as error:  # whatever a wrong layer raises is something to report
        message = f"{type(error).__name__} in backward or the contract's checks: {error}"
        report.findings.append(Finding("x", message, "an exception"))
        return report
    if reference is not None:
        report.findings.extend(_forward_findings(y, reference(x)))
    check = _Check(layer, x, y, dy, step, rtol, atol)
    for name, array in {"x": x, **layer.params}.items():
        claimed = dx if name == "x" else grads.get(name)
        if claimed is None:
            report.findings.append(Finding(name, f"backward gave no d{name}", "never computed"))
            continue
        large = array.size > MAX_ENTRIES or array.size * y.size > MAX_JACOBIAN
        if large and claimed.shape == array.shape:
            direction = rng.standard_normal(array.shape)
            comparison, findings = check.along(name, array, claimed, direction)
        else:
            comparison, findings = check.entries(name, array, claimed)
        report.comparisons.append(comparison)
        report.findings.extend(findings)
    if report.ok:
        report.findings.extend(linearity_findings(layer, x, dy))
    if report.findings and isinstance(layer, Sequential):
        report.findings.extend(_findings_by_layer(layer, x, seed))
    return report


def table(reports: list[Report]) -> str:
    """The reports as text: under each layer a row for each gradient, and then what is wrong."""
    rows = [("gradient", "shape", "error", "worst at", "")]
    rows += [_cells(comparison) for report in reports for comparison in report.comparisons]
    title, *lines = ("    " + line for line in align(rows, "<<><<"))
    text = [title]
    for report in reports:
        text.append(report.layer)
        text += [lines.pop(0) for _ in report.comparisons]
        text += [f"    {finding} (seed {report.seed})" for finding in report.findings]
    return "\n".join(text)


def _cells(comparison: Comparison) -> tuple[str, ...]:
    where = "one direction" if comparison.index is None else str(list(comparison.index))
    verdict = "ok" if comparison.ok else "WRONG"
    if comparison.kinks:
        verdict += f", kinks or ties: {comparison.kinks}"
    shape = " x ".join(map(str, comparison.shape))
    return comparison.gradient, shape, f"{comparison.error:.0e}", where, verdict


def slopes(
    function: Callable[[], Array], array: Array, direction: Array, step: float
) -> tuple[Array, Array]:
    """Slopes of function() to the right and left, as `array` moves along `direction`.

    The array, of float64, is changed in place and restored.
    """
    before, here = array.copy(), function()
    array += step * direction
    right = (function() - here) / step  # (1)
    array[...] = before - step * direction
    left = (here - function()) / step  # (2)
    array[...] = before
    return right, left


def entry_slopes(function: Callable[[], Array], array: Array, step: float) -> Array:
    """The slopes for each entry of `array`, (2, *array.shape, *y.shape): to the right and left."""
    sides = np.empty((2, *array.shape, *np.shape(function())))
    for index in np.ndindex(array.shape):
        direction = np.zeros(array.shape)
        direction[index] = 1
        sides[(slice(None), *index)] = slopes(function, array, direction, step)
    return sides


def numerical_gradient(
    function: Callable[[Array], float], array: Array, step: float = 1e-5
) -> Array:
    """Gradient of the scalar function(array) with respect to each entry of a float64 array.

    The entries are changed in place, one at a time, and restored.
    """
    if array.dtype != np.float64:
        raise ValueError(f"central differences need an array of float64 but got {array.dtype}")
    return entry_slopes(lambda: function(array), array, step).mean(axis=0)  # (3)


def _findings_by_layer(net: Sequential, x: Array, seed: int) -> Iterator[Finding]:
    for i, layer in enumerate(net.layers):
        for found in check_gradients(layer, x, seed=seed).findings:
            message = f"layer {i}, {layer!r}: {found.message}"
            yield Finding(f"{i}.{found.gradient}", message, found.cause)
        x = layer(x)


def _forward_findings(y: Array, expected: Array) -> Iterator[Finding]:
    if y.shape != expected.shape:
        message = f"y has shape {y.shape} but the reference gives {expected.shape}"
        yield Finding("y", message, "forward is wrong")
    elif (wrong := ~np.isclose(y, expected, rtol=1e-10, atol=1e-10)).any():
        yield Finding(
            "y", _disagreement("y", y, "the reference", expected, wrong), "forward is wrong"
        )


def _disagreement(name: str, claimed: Array, judge: str, expected: Array, wrong: Array) -> str:
    first = _first(wrong)
    return (
        f"{wrong.sum()} of {wrong.size} entries of {name} are wrong, the first at {list(first)}: "
        f"it is {claimed[first]:.6g}, by {judge} {expected[first]:.6g}"
    )


def _first(mask: Array) -> tuple[int, ...]:
    """The index of the first entry that is true."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(mask), mask.shape))


@dataclass(frozen=True)
class _Check:
    """What the comparisons of all gradients of a layer share."""

    layer: Layer
    x: Array
    y: Array
    dy: Array
    step: float
    rtol: float
    atol: float

    def entries(self, name: str, array: Array, claimed: Array) -> tuple[Comparison, list[Finding]]:
        """Compares every entry of the claimed gradient of `array`."""
        sides = entry_slopes(self._output, array, self.step)
        jacobian = sides.mean(axis=0)  # (3)
        expected = self._times_dy(jacobian)  # (4)
        evidence = Evidence(name, claimed, expected, jacobian, self.dy, self.layer, self.x)
        if claimed.shape != array.shape:
            message = f"d{name} has shape {claimed.shape} but {name} has {array.shape}"
            comparison = Comparison(name, array.shape, np.inf, None, 0, False)
            return comparison, [Finding(name, message, diagnose(evidence))]
        scale = np.max(np.abs(expected), initial=0)
        slack = self.atol + self.rtol * scale
        error = np.nan_to_num(np.abs(claimed - expected), nan=np.inf)
        wrong = error > slack
        findings = []
        kinks = np.zeros_like(wrong)
        if wrong.any():
            finer = entry_slopes(self._output, array, self.step / 8)
            y_axes = tuple(range(array.ndim, jacobian.ndim))
            kinks = wrong & _at_kink(self.y, self.step, sides, finer, y_axes)
            products = sides * self.dy
            low, high = (
                bound.sum(axis=y_axes) for bound in (products.min(axis=0), products.max(axis=0))
            )
            wrong &= ~kinks | (claimed < low - slack) | (claimed > high + slack)  # (6)
            kinks &= ~wrong
            error[kinks] = 0
        if wrong.any():
            message = _disagreement(f"d{name}", claimed, "central differences", expected, wrong)
            findings.append(Finding(name, message, diagnose(evidence)))
        elif kinks.any():
            findings.extend(self._tie_findings(name, array, claimed))
        return (
            Comparison(
                name,
                array.shape,
                float(np.max(error, initial=0) / (scale or 1)),
                _first(error == error.max()) if error.size else None,
                int(kinks.sum()),
                not findings,
            ),
            findings,
        )

    def along(
        self, name: str, array: Array, claimed: Array, direction: Array
    ) -> tuple[Comparison, list[Finding]]:
        """Compares the claimed gradient of `array` along one direction, with smaller steps where
        there is a kink nearby; at a kink nothing can be compared."""
        terms = claimed * direction
        for step in self.step, self.step / 8, self.step / 64:
            sides = np.array(slopes(self._output, array, direction, step))
            finer = np.array(slopes(self._output, array, direction, step / 8))
            expected = self._times_dy(sides.mean(axis=0))  # (5)
            scale = max(abs(expected), np.linalg.norm(terms))
            error = np.nan_to_num(abs(terms.sum() - expected), nan=np.inf)
            kink = bool(_at_kink(self.y, step, sides, finer))
            if not kink:
                break
        findings = []
        if not kink and error > self.atol + self.rtol * scale:
            message = (
                f"d{name} is wrong: along a random direction it has the slope {terms.sum():.6g}, "
                f"by central differences {expected:.6g}"
            )
            findings.append(Finding(name, message))
        relative = 0.0 if kink else float(error / (scale or 1))
        return Comparison(name, array.shape, relative, None, int(kink), not findings), findings

    def _tie_findings(self, name: str, array: Array, claimed: Array) -> Iterator[Finding]:
        right, left = slopes(self._output, array, np.ones(array.shape), self.step)
        if not np.allclose(right, left, rtol=1e-4, atol=1e-6):
            return
        expected = self._times_dy(right)  # (5)
        if not np.isclose(claimed.sum(), expected, rtol=1e-4, atol=1e-6):
            message = (
                f"d{name} is wrong at a tie: all entries together have the slope {expected:.6g} "
                f"but the sum of d{name} is {claimed.sum():.6g}"
            )
            yield Finding(name, message, "a tie counted more than once")

    def _output(self) -> Array:
        return self.layer.forward(self.x.copy())[0]

    def _times_dy(self, slopes_: Array) -> Array:
        """The slopes (..., *y.shape) times dy, added up over the outputs."""
        return np.tensordot(slopes_, self.dy, self.dy.ndim)


def _at_kink(y: Array, step: float, sides: Array, finer: Array, axis: Any = None) -> Array:
    """Whether right and left differ by more than rounding, and not as curvature makes them, in
    proportion to the step: `finer` are the slopes with an eighth of it. `axis`: of the outputs."""
    gap, finer_gap = (np.max(np.abs(s[0] - s[1]), axis=axis, initial=0) for s in (sides, finer))
    largest_y, largest_slope = (np.max(np.abs(a), initial=0) for a in (y, sides))
    rounding = 512 * np.finfo(float).eps * largest_y / step
    significant = gap > rounding + 1e-6 * largest_slope
    return significant & ((finer_gap < gap / 16) | (finer_gap > gap / 4))
