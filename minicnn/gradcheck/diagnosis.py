"""From the pattern of a wrong gradient to the mistake behind it.

Each guess asks a question that a person would ask: is it off by the same factor everywhere? Is it
right once the kernel is rotated? Is it what one of several contributions alone would give? The
first guess that explains every entry is the answer.

With the Jacobian J[k, m], the slope of output m with respect to entry k, the contributions to the
gradient of entry k are J[k, m] * dy[m], and the right gradient is their sum over m.
"""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minicnn.backend import Array
from minicnn.layers import Layer
from minicnn.losses import softmax


@dataclass(frozen=True)
class Evidence:
    """A wrong gradient. `expected` is the right one, found by central differences; `jacobian` has
    the shape of `expected` followed by that of dy. All arrays are float64."""

    name: str
    claimed: Array
    expected: Array
    jacobian: Array
    dy: Array
    layer: Layer
    x: Array
    y: Array

    def again(
        self,
        dy: Array | None = None,
        saved: Array | None = None,
        change: Callable[[Array], Array] = lambda parameter: parameter,
    ) -> Array:
        """What backward gives with one thing changed: dy, what was saved, or the parameters."""
        layer = self.layer.map_arrays(change)
        if saved is None:
            _, saved = self.layer.forward(self.x.copy())
        dx, grads = layer.backward((self.dy if dy is None else dy).copy(), saved)
        gradients: dict[str, Any] = {"x": dx, **grads}
        return gradients[self.name]

    def is_expected(self, gradient: Array) -> bool:
        return _close(gradient, self.expected)

    def is_right_after(self, change: Callable[[Array], Array]) -> bool:
        """Whether changing the gradient, or the parameters, makes the gradient right."""
        return self.is_expected(change(self.claimed)) or self.is_expected(self.again(change=change))


def diagnose(evidence: Evidence) -> str | None:
    """The name of the mistake that explains a wrong gradient, or None."""
    same_shape = evidence.claimed.shape == evidence.expected.shape
    for guess in GUESSES if same_shape else SHAPE_GUESSES:
        try:
            cause = guess(evidence)
        except Exception:  # a guess may pass the layer something it rejects
            continue
        if cause:
            return cause
    return None


def _padding_kept(e: Evidence) -> str | None:
    extra = [c - s for c, s in zip(e.claimed.shape, e.expected.shape)]
    if e.claimed.ndim == e.expected.ndim == 4 and min(extra) >= 0:
        inside = tuple(slice(m // 2, m // 2 + s) for m, s in zip(extra, e.expected.shape))
        if e.is_expected(e.claimed[inside]):
            return "gradient of the padding kept"
    return None


def _rows_left_over(e: Evidence) -> str | None:
    if e.claimed.ndim == e.expected.ndim:
        part = tuple(map(slice, e.claimed.shape))
        if _close(e.claimed, e.expected[part]):
            return "dx lacks the border pixels that no window covers"
    return None


def _not_summed(e: Evidence) -> str | None:
    extra = max(e.claimed.ndim - e.expected.ndim, 0)
    for axes in itertools.combinations(range(e.claimed.ndim), extra):
        if axes and e.is_expected(e.claimed.sum(axis=axes)):
            return "not summed over the batch" if 0 in axes else "not summed over all outputs"
    return None


def _stride_forgotten(e: Evidence) -> str | None:
    """dx without the zeros that a stride puts between the entries of dy: what the layer gives with
    stride 1 for a smaller image, alone or in the upper left corner of x."""
    window = getattr(e.layer, "window", None)
    if e.name != "x" or e.dy.ndim != 4 or window is None or window.stride == (1, 1):
        return None
    layer: Any = copy.copy(e.layer)
    layer.window = replace(window, stride=(1, 1))
    h, w = (
        outputs - 1 + span - sum(padding)
        for outputs, span, padding in zip(e.dy.shape[2:], window.span, window.padding)
    )
    _, saved = layer.forward(e.x[:, :, :h, :w].copy())
    dx, _ = layer.backward(e.dy.copy(), saved)
    rest = e.claimed.copy()
    rest[:, :, :h, :w] = 0
    if _close(e.claimed[:, :, :h, :w], dx) and not rest.any():
        return "as if the stride were 1"
    return None


def _axes_kept_or_squeezed(e: Evidence) -> str | None:
    if e.claimed.size == e.expected.size and e.is_expected(e.claimed.reshape(e.expected.shape)):
        return "right numbers in another shape"
    return None


def _transposed_shape(e: Evidence) -> str | None:
    if e.claimed.ndim == e.expected.ndim and e.is_expected(e.claimed.T):
        return "transposed"
    return None


def _no_slope(e: Evidence) -> str | None:
    return None if e.jacobian.any() else "forward does not depend on it"


def _zero(e: Evidence) -> str | None:
    return None if e.claimed.any() else "never computed"


def _not_finite(e: Evidence) -> str | None:
    return None if np.isfinite(e.claimed).all() else "not finite"


def _constant_ratio(e: Evidence) -> str | None:
    ratio = np.vdot(e.expected, e.claimed) / np.vdot(e.expected, e.expected)
    if not _close(e.claimed, ratio * e.expected):
        return None
    parts = ["opposite sign"] if ratio < 0 else []
    if not math.isclose(abs(ratio), 1, rel_tol=1e-5):
        factor = _factor(e, abs(ratio))
        if factor is None:
            return None
        parts.append(factor)
    return ", ".join(parts)


def _factor(e: Evidence, ratio: float) -> str | None:
    """A factor in words: the counts or probabilities that it may stand for."""
    p = getattr(e.layer, "p", None)
    if isinstance(p, float) and 0 < p < 1:
        for name, value in {"1 - p": 1 - p, "1/(1 - p)": 1 / (1 - p)}.items():
            if math.isclose(ratio, value, rel_tol=1e-5):
                return f"times {name}"
    counts = {"2": 2, "N": len(e.x)}
    if hasattr(e.layer, "window"):
        counts["KH*KW"] = math.prod(e.layer.window.kernel)
    if e.dy.ndim == 4:
        counts |= {"OH*OW": math.prod(e.dy.shape[2:]), "N*OH*OW": e.dy.size // e.dy.shape[1]}
    counts |= {"the entries of an image": e.x.size // len(e.x), "the entries of x": e.x.size}

    def names(value: float) -> str:
        fit = [name for name, n in counts.items() if n > 1 and math.isclose(value, n, rel_tol=1e-5)]
        return " or ".join(fit)

    if times := names(ratio):
        return f"times {times}"
    if divisors := names(1 / ratio):
        return f"divided by {divisors}"
    return f"times {ratio:.4g}" if e.expected.size > 1 else None


def _added_once(e: Evidence) -> str | None:
    """For a sum of branches, one of which is x itself."""
    if e.name != "x" or e.dy.shape != e.x.shape:
        return None
    if e.is_expected(e.claimed + e.dy):
        return "dy left out of a sum"
    return "dy added once too often" if e.is_expected(e.claimed - e.dy) else None


def _parameter_left_out(e: Evidence) -> str | None:
    for name, parameter in e.layer.params.items():
        if e.name == "x" and parameter.shape == e.x.shape[1:2]:
            if e.is_expected(e.claimed * parameter.reshape(-1, *[1] * (e.x.ndim - 2))):
                return f"not multiplied by {name}"
    return None


def _as_if_a_scale(e: Evidence) -> str | None:
    """A parameter's gradient as if y were x * parameter."""
    if e.dy.shape == e.x.shape and e.claimed.shape == e.x.shape[1:2]:
        axes = (0, *range(2, e.x.ndim))
        if _close(e.claimed, (e.dy * e.x).sum(axis=axes)):
            return f"as if y were x * {e.name}"
    return None


def _statistics(e: Evidence) -> str | None:
    """Mistakes in the mean and variance of each channel, or of each image."""
    if e.name != "x" or e.dy.shape != e.x.shape:
        return None
    arrays = e.x, e.dy, e.claimed, e.expected
    for axis in (1, 0):
        rows = (np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in arrays)
        if cause := _statistics_of_rows(*rows):
            return cause
    return None


def _statistics_of_rows(x: Array, dy: Array, claimed: Array, expected: Array) -> str | None:
    """If each row of y is normalised, dx has no component along 1 and none along x - mean, since
    shifting or scaling x does not change y. If the statistics were constants, dx would be
    slope * dy, which has both."""
    m = x.shape[1]
    directions = np.ones_like(x), x - x.mean(axis=1, keepdims=True)
    of_claimed, of_dy, of_expected = (
        [_part(array, direction) for direction in directions] for array in (claimed, dy, expected)
    )
    rests = [
        array - sum(part * direction for part, direction in zip(parts, directions))
        for array, parts in ((claimed, of_claimed), (dy, of_dy), (expected, of_expected))
    ]
    if m < 4 or not _close(rests[0], rests[2]):  # two directions nearly span any three numbers
        return None
    slope = _part(claimed, rests[1])
    of_mean, of_variance = (part / (slope * whole) for part, whole in zip(of_claimed, of_dy))

    def left(share: Array, value: float) -> bool:
        return np.allclose(share, value, rtol=0.02, atol=1e-4)

    if left(of_mean, 1) and left(of_variance, 1):
        return "mean and variance taken as constants"
    if left(of_mean, 1) and left(of_variance, 0):
        return "mean taken as a constant"
    if left(of_mean, 0) and left(of_variance, 1):
        return "variance taken as a constant"
    if left(of_mean, 0) and any(left(of_variance, share) for share in (1 / m, -1 / (m - 1))):
        return "M and M - 1 mixed up in the variance"
    return None


def _part(array: Array, direction: Array) -> Array:
    """How much of `direction` is in each row of `array`."""
    along = (array * direction).sum(axis=1) / (direction * direction).sum(axis=1)
    return along[:, None]


def _other_branch(e: Evidence) -> str | None:
    """Each entry of dy goes through one of two functions, such as keep or drop, but not always the
    right one."""
    if e.dy.shape != e.x.shape or e.name != "x":
        return None
    slopes = np.unique(np.round(e.expected / e.dy, 5))
    of_claimed = np.unique(np.round(e.claimed / e.dy, 5))
    if len(slopes) == 2 and np.isclose(of_claimed[:, None], slopes, atol=1e-4).any(axis=1).all():
        return "not the mask of forward"
    return None


def _handed_on(e: Evidence) -> str | None:
    if e.name == "x" and e.dy.shape == e.x.shape and _close(e.claimed, e.dy):
        return "upstream gradient passed on unchanged"
    return None


def _ignores_dy(e: Evidence) -> str | None:
    if _close(e.again(dy=2 * e.dy), e.claimed):
        return "upstream gradient ignored"
    return None


def _not_linear(e: Evidence) -> str | None:
    if not _close(e.again(dy=-1024 * e.dy), -1024 * e.claimed):
        return "not linear in the upstream gradient"
    return None


def _rotated(e: Evidence) -> str | None:
    def turn(array: Array) -> Array:
        return array[..., ::-1, ::-1] if array.ndim == 4 else array

    if e.is_right_after(turn):
        return "kernel rotated by 180 degrees"
    return None


def _transposed(e: Evidence) -> str | None:
    for axes in (0, 1), (-1, -2):

        def transpose(array: Array, axes: tuple[int, int] = axes) -> Array:
            square = array.ndim > 1 and array.shape[axes[0]] == array.shape[axes[1]]
            return array.swapaxes(*axes) if square else array

        if e.is_right_after(transpose):
            return "transposed"
    return None


def _shifted(e: Evidence) -> str | None:
    if e.claimed.ndim != 4:
        return None
    h, w = e.claimed.shape[2:]
    for down in range(1 - h, h):
        for right in range(1 - w, w):
            rows, columns = _overlap(h, down), _overlap(w, right)
            claimed = e.claimed[:, :, rows[0], columns[0]]
            expected = e.expected[:, :, rows[1], columns[1]]
            if 2 * expected.size > e.expected.size and _close(claimed, expected):
                return f"shifted by {down, right} pixels"
    return None


def _overlap(size: int, shift: int) -> tuple[slice, slice]:
    return (
        slice(max(shift, 0), size + min(shift, 0)),
        slice(max(-shift, 0), size + min(-shift, 0)),
    )


def _reordered(e: Evidence) -> str | None:
    if _close(np.sort(e.claimed, axis=None), np.sort(e.expected, axis=None)):
        return "right numbers in the wrong places"
    return None


def _input_for_output(e: Evidence) -> str | None:
    if e.name == "x" and e.x.shape == e.y.shape:
        if any(e.is_expected(e.again(saved=other)) for other in (e.x, e.y)):
            return "x and y mixed up"
    return None


def _entries_left_out(e: Evidence) -> str | None:
    kept = e.claimed != 0
    if kept.any() and _close(e.claimed[kept], e.expected[kept]):
        return "entries left at zero"
    return None


def _overwritten(e: Evidence) -> str | None:
    """Each wrong entry holds only one of its contributions: from one place in one image, or, for a
    parameter, from one image or one place in all images."""
    contributions = e.jacobian * e.dy
    first = e.expected.ndim  # the axis of the batch, if the outputs have one
    y_axes = tuple(range(first, contributions.ndim))
    groupings = [y_axes[1:2], y_axes[1:], y_axes[:2]] if e.dy.ndim == 4 else [(), y_axes[1:]]
    for axes in groupings:
        parts = contributions.sum(axis=axes).reshape(*e.expected.shape, -1)
        several = np.count_nonzero(np.abs(parts) > 1e-9, axis=-1) > 1
        one = np.isclose(parts, e.claimed[..., None], rtol=1e-5, atol=1e-8).any(axis=-1)
        right = np.isclose(e.claimed, e.expected, rtol=1e-5, atol=1e-8)
        if several.any() and (right | (several & one)).all():
            return "overwritten where it should be added up"
    return None


def _places_left_out(e: Evidence) -> str | None:
    """A parameter's gradient holds only what one row or one column of the outputs contributes."""
    if e.name == "x" or e.dy.ndim != 4:
        return None
    contributions = (e.jacobian * e.dy).sum(axis=(-4, -3))  # over images and channels
    for axis, places in ((-1, "rows"), (-2, "columns")):
        parts = contributions.sum(axis=axis)
        if any(_close(parts[..., i], e.claimed) for i in range(parts.shape[-1])):
            return f"not summed over all {places}"
    return None


def _softmax_left_out(e: Evidence) -> str | None:
    """The gradient becomes right when multiplied by the Jacobian of softmax,
    dx[n, k] = p[n, k] * (dp[n, k] - sum_j p[n, j] * dp[n, j])."""
    if e.name != "x" or e.x.ndim != 2:
        return None
    p = softmax(e.x)
    if e.is_expected(p * (e.claimed - (p * e.claimed).sum(axis=1, keepdims=True))):
        return "Jacobian of softmax left out"
    return None


def _almost_right(e: Evidence) -> str | None:
    if e.is_expected(e.claimed):
        return "off by less than 1e-5: an epsilon too many, or computed in float32"
    return None


def _approximate(e: Evidence) -> str | None:
    if np.allclose(e.claimed, e.expected, rtol=0, atol=1e-2 * np.max(np.abs(e.expected))):
        return "the derivative of an approximation"
    return None


def diagnose_update(
    layer: Layer, name: str, claimed: Array, expected: Array, x: Array
) -> str | None:
    """The mistake in a new running average of `state[name]`, given the right one.

    With momentum p, expected = (1 - p) * before + p * statistic.
    """
    before, p, m = layer.state[name], getattr(layer, "momentum", 0.5), x.size // x.shape[1]
    statistic = (expected - (1 - p) * before) / p
    if _close(claimed, p * before + (1 - p) * statistic):
        return "momentum and 1 - momentum exchanged"
    if _close(claimed, expected - p * statistic / m):
        return "M and M - 1 mixed up in the variance"
    return "updates is wrong"


def _close(a: Array, b: Array) -> bool:
    scale = np.max(np.abs(b), initial=0)
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-7 * scale)


# the first that fits is the answer, so the more specific ones come first
SHAPE_GUESSES = [
    _padding_kept,
    _stride_forgotten,
    _rows_left_over,
    _transposed_shape,
    _axes_kept_or_squeezed,
    _not_summed,
]
GUESSES = [
    _no_slope,
    _zero,
    _not_finite,
    _almost_right,
    _ignores_dy,
    _not_linear,
    _constant_ratio,
    _handed_on,
    _added_once,
    _parameter_left_out,
    _as_if_a_scale,
    _stride_forgotten,
    _rotated,
    _transposed,
    _softmax_left_out,
    _input_for_output,
    _other_branch,
    _statistics,
    _shifted,
    _reordered,
    _entries_left_out,
    _overwritten,
    _places_left_out,
    _approximate,
]
