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

Where there are too many entries, all are moved at once along one random direction u. With the
slopes along u in the place of those at k,

    sum_k da[k] * u[k] = sum_m jacobian[u, m] * dy[m]                                       (5)

Where right and left differ however small the step is, there is a kink (ReLU at 0) or a tie (equal
maxima in a window), and no derivative. There any slope between the two will do:

    sum_m min(right[k, m] * dy[m], left[k, m] * dy[m]) <= da[k] <= sum_m max(...)           (6)

Of a maximum all entries together still have a slope: where right and left agree along u = 1, the
sum of da is known from (5). In a network kinks can cancel, as those of relu(x) - relu(-x) = x do,
whose gradient at 0 comes out as 0. So where a network seems wrong, each layer is checked, and if
these are right and one of them is at a kink, so is the network.

Source: A. Griewank, A. Walther, "Evaluating Derivatives", 2nd edition, 2008, chapters 3 and 14.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from minicnn.backend import Array
from minicnn.checks import (
    Shape,
    check_float,
    check_gradient,
    finite,
    integer,
    numbers,
    positive,
    require,
    shown,
    sizes,
)
from minicnn.gradcheck.diagnosis import Evidence, diagnose
from minicnn.gradcheck.protocol import contract_findings, linearity_findings, structure_findings
from minicnn.gradcheck.report import Comparison, Finding, Report
from minicnn.layers import Layer
from minicnn.layers.base import Gradients
from minicnn.layers.sequential import Sequential

MAX_ENTRIES = 500  # of an array, and below of its Jacobian, for each entry to be compared
MAX_JACOBIAN = 2_000_000
SAMPLE = 100  # entries of a larger array, where a direction leads over a kink


class LossLayer(Layer):
    """A loss as a layer with one output, so that it can be checked like one.

    `loss(x, target)` returns (loss, dx), as those of losses.py do.
    """

    whole_batch = True

    def __init__(self, loss: Callable[[Array, Array], tuple[Array, Array]], target: Array) -> None:
        super().__init__()
        require(callable(loss), "loss must be a function, as squared_error", loss)
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

    def backward(
        self, dy: Array, saved: Array, need_dx: bool = True
    ) -> tuple[Array | None, Gradients]:
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
) -> Report:
    """Compares dx and the gradient of each parameter with central differences, in float64.

    `layer` and `x`, of any float type, are left as they are; entries of about 1 are best. `seed`
    draws the upstream gradient. An entry is wrong if it is off by more than `rtol` times the
    largest entry of the gradient, and by more than rounding explains; of a large array the slope
    along a direction, if by more than `rtol` times the length of the gradient. `reference(x)` gives
    the output to compare `forward` with. Beyond the gradients, the contract of a layer is checked,
    see contract.py. Of a Sequential that is wrong, or at a kink, each layer is checked too. Raises
    ValueError for what is no layer and for an x that is not finite; what `forward` raises for this
    x comes through.
    """
    is_layer = isinstance(layer, Layer)
    require(is_layer, "expected a layer, or LossLayer(loss, target) for a loss", layer)
    integer("seed", seed, 0)
    positive("step", step)
    require(finite("rtol", rtol) >= 0, "rtol must be a finite number >= 0", rtol)
    is_function = reference is None or callable(reference)
    require(is_function, "reference must be a function of x", reference)
    x = np.array(numbers("x", x), np.float64, order="C")
    if not np.isfinite(x).all():
        raise ValueError("x must be finite: a slope at infinity or nan means nothing")
    name = repr(layer)
    layer = copy.deepcopy(layer).astype(np.float64)
    rng = np.random.default_rng((seed, 1))  # or dy could be the x that the caller drew with seed
    y, saved = layer.forward(x.copy())
    y = y.copy()  # which may be a view of a parameter
    if not np.isfinite(y).all():
        message = "y is not finite, so there is no slope to compare with"
        return Report(name, seed, (), (Finding("y", message, "not finite"),))
    dy = rng.standard_normal(y.shape)
    where = "in backward"
    try:
        result = layer.backward(dy.copy(), saved)
        findings = list(structure_findings(layer, result))
        where = "with other inputs, as the contract was checked"
        findings = findings or contract_findings(layer, x, dy)
    except Exception as error:  # whatever a wrong layer raises is something to report
        message = f"{type(error).__name__} {where}: {error}"
        return Report(name, seed, (), (Finding("x", message, "an exception"),))
    if reference is not None:
        findings += _forward_findings(y, numbers("reference(x)", reference(x)))
    judge = _Judge(layer, x, y, dy, step, rtol, rng)
    comparisons, differences = [], []
    for key, array in {"x": x, **layer.params}.items():
        claimed = _claimed(result, key)
        if claimed is not None:
            comparison, found = judge.compare(key, array, claimed)
            comparisons.append(comparison)
            differences += found
    kinks = any(comparison.kinks for comparison in comparisons)
    if isinstance(layer, Sequential) and (findings or differences or kinks):
        inner = list(_reports_by_layer(layer, x, seed=seed, step=step, rtol=rtol))
        kinks = any(report.kinks for report in inner)
        if kinks and all(report.ok for report in inner) and _is_plain(layer):
            comparisons = [c if c.ok else c.excused() for c in comparisons]
            differences = []
        differences += [
            Finding(f"{i}.{found.gradient}", f"{_place(layer, i)}{found.message}", found.cause)
            for i, report in enumerate(inner)
            for found in report.findings
        ]
    findings += differences
    if not findings:
        findings += linearity_findings(layer, x, dy)
    return Report(name, seed, tuple(comparisons), tuple(findings))


def slopes(
    function: Callable[[], Array],
    here: Array,
    array: Array,
    where: int | slice,
    direction: float | Array,
    step: float,
) -> tuple[Array, Array]:
    """Slopes of function(), `here` at present, to the right and left, as the entries `where` of
    `array`, flattened, move along `direction`. The array is changed in place and restored."""
    before = array.flat[where]
    array.flat[where] = before + step * direction
    right = (function() - here) / step  # (1)
    array.flat[where] = before - step * direction
    left = (here - function()) / step  # (2)
    array.flat[where] = before
    return right, left


def numerical_gradient(
    function: Callable[[Array], float], array: Array, step: float = 1e-5
) -> Array:
    """Gradient of the scalar function(array) with respect to each entry of a float64 array.

    The entries are changed in place, one at a time, and restored.
    """
    if not isinstance(array, np.ndarray) or array.dtype != np.float64:
        raise ValueError(f"central differences need an array of float64 but got {shown(array)}")
    require(array.flags.writeable, "array must be writable, as array.copy() is", array)
    require(callable(function), "function must be one of an array", function)
    positive("step", step)
    here = function(array)
    is_number = numbers("function(array)", here).ndim == 0
    require(is_number, "function(array) must be one number", here)
    gradient = np.empty(array.shape)
    for k in range(array.size):
        sides = slopes(lambda: function(array), here, array, k, 1.0, step)
        gradient.flat[k] = np.mean(sides)  # (3)
    return gradient


def _claimed(result: tuple, name: str) -> Array | None:
    """The gradient of `name` in what backward returned, if it is an array."""
    dx, grads = result
    gradient = dx if name == "x" else grads.get(name)
    return None if gradient is None else np.asarray(gradient)


def _forward_findings(y: Array, expected: Array) -> Iterator[Finding]:
    if y.shape != expected.shape:
        message = f"y has shape {y.shape}, by the reference {expected.shape}"
        yield Finding("y", message, "forward is wrong")
    elif (wrong := ~np.isclose(y, expected, rtol=1e-10, atol=1e-10)).any():
        first = _index(np.argmax(wrong), y.shape)
        message = (
            f"{wrong.sum()} of {wrong.size} entries of y are wrong, the first at {list(first)}: "
            f"forward gives {y[first]:.6g}, the reference {expected[first]:.6g}"
        )
        yield Finding("y", message, "forward is wrong")


def _is_plain(net: Sequential) -> bool:
    """Whether it does no more than to run its layers."""
    own = type(net)
    return (own.forward, own.backward) == (Sequential.forward, Sequential.backward)


def _reports_by_layer(net: Sequential, x: Array, **settings: float) -> Iterator[Report]:
    for layer in net.layers:
        yield check_gradients(layer, x, **settings)
        x, _ = layer.forward(x)


def _place(net: Sequential, i: int) -> str:
    inner = isinstance(net.layers[i], Sequential)
    return f"layer {i}, " if inner else f"layer {i}, {net.layers[i]!r}: "


def _index(k: int, shape: Shape) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(k, shape))


@dataclass(frozen=True)
class _Judge:
    """Compares the gradients of one layer, each in turn."""

    layer: Layer
    x: Array
    y: Array
    dy: Array
    step: float
    rtol: float
    rng: np.random.Generator

    def compare(self, name: str, array: Array, claimed: Array) -> tuple[Comparison, list[Finding]]:
        """Compares the claimed gradient of `array`, which is x or a parameter of the layer."""
        everything = np.arange(array.size)
        small = array.size <= MAX_ENTRIES and array.size * self.y.size <= MAX_JACOBIAN
        if claimed.shape != array.shape:
            message = f"d{name} has shape {claimed.shape} but {name} has {array.shape}"
            sides = self._sides(array, everything, self.step) if small else None
            finding = Finding(name, message, self._cause(name, array, claimed, sides))
            return Comparison(name, array.shape, np.inf, None, 0, False), [finding]
        if small:
            return self._compare_entries(name, array, claimed, everything)
        comparison, findings = self._compare_along_a_direction(name, array, claimed)
        if comparison.kinks:
            some = np.sort(self.rng.choice(array.size, min(SAMPLE, array.size), replace=False))
            return self._compare_entries(name, array, claimed, some)
        return comparison, findings

    def _compare_entries(
        self, name: str, array: Array, claimed: Array, entries: Array
    ) -> tuple[Comparison, list[Finding]]:
        """`entries` are those to be compared, counted row by row."""
        claims = claimed.ravel()[entries]
        sides = self._sides(array, entries, self.step)
        expected = self._times_dy(sides.mean(axis=0))  # (3), (4)
        error = _distance(claims, expected)
        scale = np.max(np.abs(expected), initial=0)
        slack = self._slack(scale)
        wrong = error > slack
        kinks = np.zeros(wrong.shape, bool)
        if wrong.any():
            finer = self._sides(array, entries, self.step / 8)
            finest = self._sides(array, entries, self.step / 64)
            for closer in finer, finest:  # which may not reach a kink nearby
                wrong &= _distance(claims, self._times_dy(closer.mean(axis=0))) > slack
            products = sides * self.dy.ravel()
            low, high = (f(products, axis=0).sum(axis=-1) for f in (np.min, np.max))
            outside = (claims < low - slack) | (claims > high + slack)  # (6)
            at_kink = (error > slack) & self._at_kink(sides, finer, self.step)
            kinks = at_kink & ~(wrong & outside)
            wrong &= ~kinks
            error[kinks] = 0
        findings = []
        if wrong.any():
            is_all = len(entries) == array.size
            cause = self._cause(name, array, claimed, sides if is_all else None)
            message = f"{wrong.sum()} of {wrong.size} entries of d{name} are wrong, the first at "
            first = np.argmax(wrong)
            message += f"{list(_index(entries[first], array.shape))}: backward gives "
            message += f"{claims[first]:.6g}, central differences {expected[first]:.6g}"
            findings.append(Finding(name, message, cause))
        elif kinks.any():
            findings += self._tie_findings(name, array, claimed)
        worst = _index(entries[np.argmax(error)], array.shape) if len(entries) else None
        largest = float(np.max(error, initial=0) / (scale or 1))
        comparison = Comparison(name, array.shape, largest, worst, int(kinks.sum()), not findings)
        return comparison, findings

    def _compare_along_a_direction(
        self, name: str, array: Array, claimed: Array
    ) -> tuple[Comparison, list[Finding]]:
        direction = self.rng.standard_normal(array.size)
        terms = claimed.ravel() * direction
        for step in self.step, self.step / 8, self.step / 64:  # to stay on this side of a kink
            sides = self._slopes(array, slice(None), direction, step)
            finer = self._slopes(array, slice(None), direction, step / 8)
            expected = self._times_dy(sides.mean(axis=0))  # (5)
            scale = max(abs(expected), np.linalg.norm(terms))
            error = _distance(terms.sum(), expected)
            kink = bool(self._at_kink(sides, finer, step))
            if not kink and error <= self._slack(scale):
                break
        findings = []
        if not kink and error > self._slack(scale):
            message = (
                f"d{name} is wrong: along a random direction its slope is {terms.sum():.6g}, "
                f"by central differences {expected:.6g}"
            )
            findings.append(Finding(name, message))
        relative = float(error / (scale or 1))
        return Comparison(name, array.shape, relative, None, int(kink), not findings), findings

    def _tie_findings(self, name: str, array: Array, claimed: Array) -> Iterator[Finding]:
        """Whether the sum is right, if all entries have a slope together, as those of a maximum."""
        right, left = self._slopes(array, slice(None), np.ones(array.size), self.step)
        expected = self._times_dy(right)  # (5)
        if np.allclose(right, left, rtol=1e-4, atol=1e-6) and not np.isclose(
            claimed.sum(), expected, rtol=1e-4, atol=1e-6
        ):
            message = (
                f"d{name} is wrong at a tie: all entries together have the slope {expected:.6g} "
                f"but the sum of d{name} is {claimed.sum():.6g}"
            )
            yield Finding(name, message, "a tie not counted exactly once")

    def _cause(self, name: str, array: Array, claimed: Array, sides: Array | None) -> str | None:
        """A guess from the slopes of all entries, None without them."""
        if sides is None:
            return None
        jacobian = sides.mean(axis=0)  # (3)
        expected = self._times_dy(jacobian).reshape(array.shape)  # (4)
        jacobian = jacobian.reshape(*array.shape, *self.y.shape)
        return diagnose(
            Evidence(name, claimed, expected, jacobian, self.dy, self.layer, self.x, self.y)
        )

    def _sides(self, array: Array, entries: Array, step: float) -> Array:
        """The slopes for each of the entries, to the right and left: (2, entries, outputs)."""
        sides = np.empty((2, len(entries), self.y.size))
        for i, k in enumerate(entries):
            sides[:, i] = self._slopes(array, int(k), 1.0, step)
        return sides

    def _slopes(
        self, array: Array, where: int | slice, direction: float | Array, step: float
    ) -> Array:
        def output() -> Array:
            return self.layer.forward(self.x.copy())[0].ravel()

        return np.array(slopes(output, self.y.ravel(), array, where, direction, step))

    def _times_dy(self, jacobian: Array) -> Array:
        """The slopes (..., outputs) times dy, added up over the outputs."""
        return jacobian @ self.dy.ravel()

    def _slack(self, scale: float) -> float:
        """What a gradient may be off: a share of its largest entry, and the rounding of y."""
        return self.rtol * scale + 4 * self._rounding(self.step) * np.abs(self.dy).sum()

    def _rounding(self, step: float) -> float:
        return np.finfo(float).eps * np.max(np.abs(self.y), initial=0) / step

    def _at_kink(self, sides: Array, finer: Array, step: float) -> Array:
        """Whether right and left differ by more than rounding, and not as curvature makes them, in
        proportion to the step: `finer` are the slopes with an eighth of it."""
        gap, finer_gap = (
            np.max(np.abs(right - left), axis=-1, initial=0) for right, left in (sides, finer)
        )
        noise = 512 * self._rounding(step) + 1e-6 * np.max(np.abs(sides), initial=0)
        return (gap > noise) & ((finer_gap < gap / 16) | (finer_gap > gap / 4))


def _distance(claimed: Array, expected: Array) -> Array:
    """|claimed - expected|, infinite where claimed is nan."""
    return np.nan_to_num(np.abs(claimed - expected), nan=np.inf)
