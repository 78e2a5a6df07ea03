"""Kinks and ties: points where the slopes to the right and left differ however small the step is.

ReLU has a kink at 0, and a maximum has one wherever its two largest entries tie. There is no
derivative there, and any slope between the two sides will do:

    sum_m min(right[k, m] * dy[m], left[k, m] * dy[m]) <= da[k] <= sum_m max(...)           (1)

The gap between the two sides tells a kink from curvature, with a step h and with a finer one:

    gap(h)[k] = max_m |right[k, m] - left[k, m]|                                            (2)

By Taylor's formula curvature makes a gap of h * |f''|, of which an eighth is left with h / 8. At a
kink the gap stays the same; if the kink is nearer than h but farther than h / 8, the gap vanishes,
apart from curvature. So there is a kink wherever the gap is larger than rounding and what is left
of it is far from an eighth.

All entries of a maximum together still have a slope: if right and left agree along u = 1,

    sum_k da[k] = sum_m right[u, m] * dy[m]                                                 (3)
"""

from collections.abc import Iterator

import numpy as np

from minicnn.backend import Array
from minicnn.gradcheck.report import Finding

FINER = 8  # how many times finer the second step is
CURVED = 1 / 16, 1 / 4  # what curvature leaves of the gap, 1 / FINER, up to a factor of 2
GAP_ROUNDINGS = 4  # of y in one gap, (y(a + h) - 2 * y(a) + y(a - h)) / h


def at_kink(sides: Array, finer: Array, rounding: float) -> Array:
    """Whether slopes (2, ..., outputs) show a kink: `finer` are those with a step FINER times
    smaller, and `rounding` is how much one rounding of y changes a slope of `sides`."""
    gap, finer_gap = (np.max(np.abs(right - left), -1, initial=0) for right, left in (sides, finer))
    # the rounding of the finer gap, FINER times as large, must not pass for what is left of the gap
    noise = GAP_ROUNDINGS * FINER / CURVED[0] * rounding + 1e-6 * np.max(np.abs(sides), initial=0)
    return (gap > noise) & ((finer_gap < CURVED[0] * gap) | (finer_gap > CURVED[1] * gap))  # (2)


def is_between(claims: Array, sides: Array, dy: Array, tolerance: float) -> Array:
    """Whether each claimed da[k] lies between the slopes to both sides, (2, entries, outputs)."""
    products = sides * dy.ravel()
    low, high = (f(products, axis=0).sum(axis=-1) for f in (np.min, np.max))
    return ~((claims < low - tolerance) | (claims > high + tolerance))  # (1)


def tie_findings(name: str, claimed: Array, sides: Array, dy: Array) -> Iterator[Finding]:
    """Whether the claimed gradient has the right sum, if all entries together have a slope: `sides`
    are the slopes (2, outputs) along u = 1."""
    right, left = sides
    expected = right @ dy.ravel()  # (3)
    if np.allclose(right, left, rtol=1e-4, atol=1e-6) and not np.isclose(
        claimed.sum(), expected, rtol=1e-4, atol=1e-6
    ):
        message = (
            f"d{name} is wrong at a tie: all entries together have the slope {expected:.6g} "
            f"but the sum of d{name} is {claimed.sum():.6g}"
        )
        yield Finding(name, message, "a tie not counted exactly once")
