"""Central differences: the slope of each output with respect to each entry, and a gradient to
compare with.

Change one entry k of an array a (the input or a parameter) by a small step h, and see what each
output y[m] does. The slopes to the right and to the left, and their mean, the central difference:

    right[k, m] = (y[m](a + h at k) - y[m](a)) / h                                          (1)
    left[k, m] = (y[m](a) - y[m](a - h at k)) / h                                           (2)
    jacobian[k, m] = (right[k, m] + left[k, m]) / 2                                         (3)

Curvature makes the central difference wrong by about h**2 and rounding by about 1e-16 / h, so in
float64 a step of 1e-5 leaves ten digits; in float32 nothing useful would be left. By the chain
rule the gradient is the Jacobian times the gradient of the outputs, dy, which is drawn at random:
with dy = 1 everywhere, errors can cancel.

    da[k] = sum_m jacobian[k, m] * dy[m]                                                    (4)

If there are too many entries, all are moved at once along one random direction u. With the slopes
along u in place of those at k,

    sum_k da[k] * u[k] = sum_m jacobian[u, m] * dy[m]                                       (5)

Source: A. Griewank, A. Walther, "Evaluating Derivatives", 2nd edition, 2008, chapters 3 and 14.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.arguments import Shape, numbers, positive, require, shown
from minicnn.backend import Array
from minicnn.gradcheck.diagnosis import Evidence, diagnose
from minicnn.gradcheck.kinks import FINER, at_kink, is_between, tie_findings
from minicnn.gradcheck.report import Comparison, Finding
from minicnn.layers import Layer

MAX_ENTRIES = 500  # an array, or below its Jacobian, with more is not compared entry by entry
MAX_JACOBIAN = 2_000_000
SAMPLE = 100  # entries compared of a larger array if its direction crosses a kink
ROUNDINGS = 4  # a slope may be off by this many roundings of y
ALL = slice(None)

Compared = tuple[Comparison, list[Finding]]


def slopes(
    function: Callable[[], Array],
    here: Array,
    array: Array,
    where: int | slice,
    direction: float | Array,
    step: float,
) -> tuple[Array, Array]:
    """The slopes of function(), whose value is `here`, to the right and left, as the entries
    `where` of the flattened `array` move along `direction`. The array is changed in place and
    restored."""
    before = array.flat[where]
    try:
        array.flat[where] = before + step * direction
        right = (function() - here) / step  # (1)
        array.flat[where] = before - step * direction
        left = (here - function()) / step  # (2)
    finally:
        array.flat[where] = before
    return right, left


def numerical_gradient(
    function: Callable[[Array], float], array: Array, step: float = 1e-5
) -> Array:
    """The gradient of the scalar function(array) with respect to each entry of a float64 array.

    The entries are changed in place, one at a time, and restored.
    """
    if not isinstance(array, np.ndarray) or array.dtype != np.float64:
        raise ValueError(f"central differences need a float64 array but got {shown(array)}")
    require(array.flags.writeable, "array must be writable, as array.copy() is", array)
    require(callable(function), "function must be a function of an array", function)
    positive("step", step)
    here: Any = function(array)
    is_number = numbers("function(array)", here).ndim == 0
    require(is_number, "function(array) must be one number", here)
    here = float(here)
    gradient = np.empty(array.shape)

    def value() -> Any:
        return float(function(array))

    for k in range(array.size):
        sides = slopes(value, here, array, k, 1.0, step)
        gradient.flat[k] = np.mean(sides)  # (3)
    return gradient


@dataclass(frozen=True)
class Differences:
    """Central differences of the outputs y of a layer around a float64 input x; `rtol` is how far a
    gradient may be off, as a share of its largest entry."""

    layer: Layer
    x: Array
    y: Array
    dy: Array
    step: float
    rtol: float

    def along(
        self, array: Array, where: int | slice, direction: float | Array, step: float
    ) -> Array:
        """The slopes to the right and left, (2, outputs), as the entries `where` of `array` (x or a
        parameter) move along a direction."""

        def output() -> Array:
            return self.layer.forward(self.x.copy())[0].ravel()

        return np.array(slopes(output, self.y.ravel(), array, where, direction, step))

    def by_entry(self, array: Array, entries: Array, step: float) -> Array:
        """The slopes as each of the entries moves by itself: (2, entries, outputs)."""
        sides = np.empty((2, len(entries), self.y.size))
        for i, k in enumerate(entries):
            sides[:, i] = self.along(array, int(k), 1.0, step)
        return sides

    def gradient(self, sides: Array) -> Array:
        """The gradient from slopes (2, ..., outputs): their mean, times dy."""
        return sides.mean(axis=0) @ self.dy.ravel()  # (3), (4)

    def rounding(self, step: float) -> float:
        """How much one rounding of y changes a slope."""
        return np.finfo(float).eps * np.max(np.abs(self.y), initial=0) / step

    def tolerance(self, scale: float) -> float:
        """How far a gradient whose largest entry is `scale` may be off."""
        rounding = ROUNDINGS * self.rounding(self.step) * np.abs(self.dy).sum()
        return self.rtol * scale + rounding


def compare(
    differences: Differences, name: str, array: Array, claimed: Array, rng: np.random.Generator
) -> Compared:
    """Compares the claimed gradient of `array`, x or a parameter of the layer: entry by entry, or
    along a direction from `rng` if it is large."""
    everything = np.arange(array.size)
    small = array.size <= MAX_ENTRIES and array.size * differences.y.size <= MAX_JACOBIAN
    if claimed.shape != array.shape:
        message = f"d{name} has shape {claimed.shape} but {name} has {array.shape}"
        sides = differences.by_entry(array, everything, differences.step) if small else None
        finding = Finding(name, message, _cause(differences, name, array, claimed, sides))
        return Comparison(name, array.shape, np.inf, None, 0, False), [finding]
    if small:
        return _compare_entries(differences, name, array, claimed, everything)
    comparison, findings = _compare_along_a_direction(differences, name, array, claimed, rng)
    if comparison.kinks:
        some = np.sort(rng.choice(array.size, min(SAMPLE, array.size), replace=False))
        return _compare_entries(differences, name, array, claimed, some)
    return comparison, findings


def _compare_entries(
    differences: Differences, name: str, array: Array, claimed: Array, entries: Array
) -> Compared:
    """Compares these `entries`, counted row by row."""
    claims = claimed.ravel()[entries]
    sides = differences.by_entry(array, entries, differences.step)
    expected = differences.gradient(sides)
    scale = np.max(np.abs(expected), initial=0)
    wrong, kinks = _wrong_or_kink(differences, array, entries, claims, sides, scale)
    error = np.where(kinks, 0, _distance(claims, expected))
    rest, count = array.size - len(entries), int(kinks.sum())
    findings: list[Finding] = []
    if wrong.any():
        cause = _cause(differences, name, array, claimed, None if rest else sides)
        first = np.argmax(wrong)
        message = (
            f"{wrong.sum()} of {wrong.size} entries of d{name} are wrong, the first at "
            f"{list(index(entries[first], array.shape))}: backward gives {claims[first]:.6g}, "
            f"central differences {expected[first]:.6g}"
        )
        findings.append(Finding(name, message, cause))
    elif count:
        together = differences.along(array, ALL, np.ones(array.size), differences.step)
        findings += tie_findings(name, claimed, together, differences.dy)
    worst = index(entries[np.argmax(error)], array.shape) if len(entries) else None
    largest = float(np.max(error, initial=0) / (scale or 1))
    ok = not findings
    unchecked = [f"at {rest} of its {array.size} entries: the others are a sample"] if rest else []
    if count:
        unchecked.append(f"at kinks or ties ({count}): any slope between right and left will do")
    comparison = Comparison(name, array.shape, largest, worst, count, ok, tuple(unchecked))
    return comparison, findings


def _wrong_or_kink(
    differences: Differences,
    array: Array,
    entries: Array,
    claims: Array,
    sides: Array,
    scale: float,
) -> tuple[Array, Array]:
    """Which claims are wrong, and which others are off because of a kink or tie. An entry is right
    if it is right with any of three steps: a smaller one may not reach a kink nearby."""
    tolerance = differences.tolerance(scale)
    off = _distance(claims, differences.gradient(sides)) > tolerance
    if not off.any():
        return off, off
    finer, finest = (
        differences.by_entry(array, entries, differences.step / FINER**i) for i in (1, 2)
    )
    wrong = off.copy()
    for closer in finer, finest:
        wrong &= _distance(claims, differences.gradient(closer)) > tolerance
    between = is_between(claims, sides, differences.dy, tolerance)
    kinks = off & at_kink(sides, finer, differences.rounding(differences.step))
    kinks &= ~wrong | between
    return wrong & ~kinks, kinks


def _compare_along_a_direction(
    differences: Differences, name: str, array: Array, claimed: Array, rng: np.random.Generator
) -> Compared:
    direction = rng.standard_normal(array.size)
    terms = claimed.ravel() * direction
    steps = [differences.step / FINER**i for i in range(3)]
    for step in steps:  # to stay on this side of a kink
        sides = differences.along(array, ALL, direction, step)
        finer = differences.along(array, ALL, direction, step / FINER)
        expected = differences.gradient(sides)  # (5)
        scale = np.fmax(np.abs(expected), np.linalg.norm(terms))  # the norm may be nan
        error = _distance(terms.sum(), expected)
        kink = bool(at_kink(sides, finer, differences.rounding(step)))
        if not kink and error <= differences.tolerance(scale):
            break
    findings = []
    if not kink and error > differences.tolerance(scale):
        message = (
            f"d{name} is wrong: along a random direction its slope is {terms.sum():.6g}, "
            f"by central differences {expected:.6g}"
        )
        findings.append(Finding(name, message))
    relative = float(error / (scale or 1))
    unchecked = ("entry by entry, but along one direction only",)
    ok = not findings
    return Comparison(name, array.shape, relative, None, int(kink), ok, unchecked), findings


def _cause(
    differences: Differences, name: str, array: Array, claimed: Array, sides: Array | None
) -> str | None:
    """A guess from the slopes of all entries; None without them."""
    if sides is None:
        return None
    d = differences
    expected = d.gradient(sides).reshape(array.shape)
    jacobian = sides.mean(axis=0).reshape(*array.shape, *d.y.shape)
    return diagnose(Evidence(name, claimed, expected, jacobian, d.dy, d.layer, d.x, d.y))


def index(k: int, shape: Shape) -> tuple[int, ...]:
    """The index of entry k, counted row by row."""
    return tuple(int(i) for i in np.unravel_index(k, shape))


def _distance(claimed: Array, expected: Array) -> Array:
    """|claimed - expected|, infinite where claimed is nan."""
    return np.nan_to_num(np.abs(claimed - expected), nan=np.inf)
