"""Rows of outputs that are computed together, so that the products of a convolution are larger.

A product of matrices is slow if one of them has few rows, and that of a convolution has as many as
there are output channels. R rows of outputs, one below the other, can be taken for R times as many
channels: then one window sees all that they see, and each of them uses a part of it. With stride S
in height and no dilation,

    y[n, o, R*p + r, q] = sum_{c,u,j} spread[o, r, c, u, j] * windows[n, c, u, j, p, q]
    spread[o, r, c, r*S + i, j] = weight[o, c, i, j], and 0 elsewhere                          (1)
    dweight[o, c, i, j] = sum_r dspread[o, r, c, r*S + i, j]                                   (2)

The first line is a convolution again, whose window is (R - 1)*S rows higher and moves on by R*S.
For a 5x5 kernel and R = 2 it has 1.2 times the multiplications, zeros included, and 0.6 times the
columns. But its zeros times infinity are nan, so one row is taken at a time if x (forward) or dy
(backward) is not finite; not on a GPU, where looking for that would hold up the work.
"""

import functools

import numpy as np

from minicnn.backend import Array, array_module, device_of
from minicnn.windows import Window

FEW_CHANNELS = 16  # up to which it pays on a CPU; not measured on a GPU


class Rows:
    """`count` rows of outputs of a convolution, R above; `window` is what they see together."""

    def __init__(self, single: Window, count: int) -> None:
        (kh, kw), (sh, sw) = single.kernel, single.stride
        self.single, self.count = single, count
        self.parts = [slice(r * sh, r * sh + kh) for r in range(count)]
        kernel = kh + (count - 1) * sh, kw
        self.window = Window(kernel, (count * sh, sw), single.padding, single.dilation)

    @classmethod
    @functools.lru_cache
    def together(cls, single: Window, channels: int, height: int) -> "Rows":
        """For so many output channels and rows of outputs: two at a time if the channels are few,
        the rows even, and no more than a quarter of `spread` is zeros; one if not, or dilated."""
        (kh, _), (sh, _), (dh, _) = single.kernel, single.stride, single.dilation
        few_zeros = dh == 1 and 3 * (kh + sh) <= 4 * kh
        two = channels <= FEW_CHANNELS and height % 2 == 0 and few_zeros
        return cls(single, 2 if two else 1)

    def or_single(self, array: Array) -> "Rows":
        """These rows if `array`, which `spread` is multiplied by, is finite; else one at a time."""
        if self.count == 1 or device_of(array) == "gpu" or np.isfinite(np.vdot(array, array)):
            return self
        return Rows(self.single, 1)

    def spread(self, weight: Array) -> Array:
        """weight (O, C, KH, KW) -> spread (O, R, C, U, KW)."""
        o, c = weight.shape[:2]
        shape = (o, self.count, c, *self.window.kernel)
        spread = array_module(weight).zeros(shape, weight.dtype)
        for r, part in enumerate(self.parts):
            spread[:, r, :, part] = weight  # (1)
        return spread

    def gather(self, dspread: Array) -> Array:
        """dspread (O, R, C, U, KW) -> dweight (O, C, KH, KW)."""
        return sum(dspread[:, r, :, part] for r, part in enumerate(self.parts))  # (2)
