"""Initial weights: random, with the variance that keeps signals and gradients alive.

With a weight of shape (out, in, *kernel), each output sums over fan_in = in * prod(kernel) inputs,
and each input feeds fan_out = out * prod(kernel) outputs (in a convolution with one group; PyTorch
uses the same numbers for any). With independent weights of mean 0, and E for the mean,

    Var(y) = fan_in * Var(weight) * E(x**2)         forward keeps E(x**2) if Var = 1/fan_in
    Var(dx) = fan_out * Var(weight) * E(dy**2)      backward keeps E(dy**2) if Var = 1/fan_out

Glorot takes the mean of both fans. U(-b, b) has variance b**2/3, so

    Var(weight) = 2 / (fan_in + fan_out),   b = sqrt(6 / (fan_in + fan_out))               (1)

He doubles the forward variance, since a ReLU sets half of y to zero and so halves E(x**2) of the
next layer:

    Var(weight) = 2 / fan_in                                                               (2)

Source: X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural
networks", AISTATS 2010; K. He et al., "Delving deep into rectifiers", ICCV 2015.
"""

import math
from typing import Any

import numpy as np
from numpy.random import Generator

from minicnn.arguments import Shape, float_dtype, generator, sizes
from minicnn.backend import Array


def glorot_uniform(shape: Shape, rng: Generator | None = None, dtype: Any = np.float32) -> Array:
    """Uniform weights of `shape` (out, in, *kernel), drawn on the host from `rng`; if that is None,
    from a fresh generator that differs in each run."""
    fan_in, fan_out = _fans(shape)
    bound = math.sqrt(6 / (fan_in + fan_out))  # (1)
    return _generator(rng).uniform(-bound, bound, shape).astype(float_dtype(dtype))


def he_normal(shape: Shape, rng: Generator | None = None, dtype: Any = np.float32) -> Array:
    """Normal weights of `shape` (out, in, *kernel), for layers followed by a ReLU; drawn as in
    `glorot_uniform`."""
    fan_in, _ = _fans(shape)
    deviation = math.sqrt(2 / fan_in)  # (2)
    return _generator(rng).normal(0, deviation, shape).astype(float_dtype(dtype))


def _fans(shape: Shape) -> tuple[int, int]:
    if len(sizes("an initializer", shape, 1)) < 2:
        raise ValueError(f"a weight's shape must be (out, in, *kernel), got {shape}")
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def _generator(rng: Generator | None) -> Generator:
    return np.random.default_rng() if rng is None else generator(rng)
