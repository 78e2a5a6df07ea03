"""The normal distribution in array operations, since NumPy has no erf.

    phi(a) = exp(-a**2 / 2) / sqrt(2 pi)    the density                                      (1)
    Phi(-a) = phi(a) * R(a)                 the share below -a, for a >= 0                   (2)

R, Mills' ratio, falls from sqrt(pi/2) at 0 and approaches 1/a. As a function of t = 4 / (4 + a) it
is so smooth that a polynomial of degree 9 gives it to the last bits of float32, and one of degree
20 to those of float64. It is fitted to values of `math.erfc`,

    R(a) = sqrt(pi/2) * exp(z**2) * erfc(z)    where z = a / sqrt(2)                         (3)

Phi(-a) is a product, so it keeps all its digits where it is small. It is off by a few roundings,
and by about a**2/2 more, which a rounding of a causes.

Source: R. Mills, "Table of the ratio: area to bounding ordinate, for any portion of normal curve",
Biometrika 18, 1926.
"""

import functools
import math

import numpy as np
from numpy.polynomial import Polynomial

from minicnn.backend import Array, array_module

DEGREES = {4: 9, 8: 20}  # by bytes of a number


def density_and_tail(a: Array) -> tuple[Array, Array]:
    """phi(a) and Phi(-a) of each entry; entries must be finite and >= 0."""
    first, *inner, last = mills_ratio(DEGREES[a.dtype.itemsize])
    t = 4 / (a + 4)
    ratio = t * first
    for coefficient in inner:
        ratio += coefficient
        ratio *= t
    ratio += last
    density = array_module(a).exp(a * a * -0.5)
    density *= 1 / math.sqrt(2 * math.pi)  # (1)
    ratio *= density  # (2)
    return density, ratio


@functools.cache
def mills_ratio(degree: int) -> list[float]:
    """The coefficients of R as a polynomial in t, highest power first."""
    t = 0.55 - 0.45 * np.cos(np.linspace(0, math.pi, 200))  # a from 36 to 0, closer at both ends
    z = (4 / t - 4) / math.sqrt(2)
    z = z.astype(np.float32).astype(np.float64)  # so that z*z is exact, where exp magnifies errors
    ratio = np.array([math.sqrt(math.pi / 2) * math.exp(s * s) * math.erfc(s) for s in z])  # (3)
    t = 4 / (4 + math.sqrt(2) * z)
    fit = functools.partial(Polynomial.fit, t, deg=degree, w=ratio**-0.5)
    fitted = fit(ratio)
    fitted += fit(ratio - fitted(t))  # what rounding left, which depends on the library
    return fitted.convert().coef[::-1].tolist()
