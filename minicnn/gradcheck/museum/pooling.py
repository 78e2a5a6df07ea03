"""Wrong gradients of maximum and average pooling."""

import math

import numpy as np

from minicnn.gradcheck.museum.fault import IMAGES, Fault
from minicnn.layers import AvgPool2D, MaxPool2D
from minicnn.windows import batch_first, batch_last


class MaxPoolOverlapAssigned(MaxPool2D):
    """An entry that is the maximum of two windows keeps only the last one's gradient: `=` where
    `+=` is needed. It is right if windows do not overlap, as with 2x2 and stride 2."""

    def backward(self, dy, saved, need_dx=True):
        x, y = saved
        padded = self.window.pad(x, np.nan)
        dpadded = np.zeros_like(padded)
        for tap, dtap in zip(self.window.taps(padded), self.window.taps(dpadded)):
            dtap[...] = np.where(tap == y, batch_last(dy), dtap)
        return self.window.unpad(dpadded), {}


class MaxPoolZeroPadding(MaxPool2D):
    """The padding counts as 0 instead of minus infinity, so if a window has only negative entries,
    the padding wins. Backward is the exact derivative of that, so only the output gives it away."""

    def forward(self, x):
        padded = self.window.pad(x)
        y = np.max(self.window.view(padded), axis=(1, 2))
        return batch_first(y), (x, y)

    def backward(self, dy, saved, need_dx=True):
        x, y = saved
        padded = self.window.pad(x)
        dpadded = np.zeros_like(padded)
        for tap, dtap in zip(self.window.taps(padded), self.window.taps(dpadded)):
            dtap += batch_last(dy) * (tap == y)
        return self.window.unpad(dpadded), {}


class MaxPoolEveryTie(MaxPool2D):
    """Every entry that equals the maximum gets the whole gradient: four equal pixels, as in any
    blank part of an image, turn 1 into 4."""

    def backward(self, dy, saved, need_dx=True):
        x, y = saved
        padded = self.window.pad(x, np.nan)
        dpadded = np.zeros_like(padded)
        for tap, dtap in zip(self.window.taps(padded), self.window.taps(dpadded)):
            dtap += batch_last(dy) * (tap == y)
        return self.window.unpad(dpadded), {}


class AvgPoolShareForgotten(AvgPool2D):
    """Forward divides by the size of the window, but backward does not: as if each entry were the
    whole mean."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx * math.prod(self.window.kernel), grads


class AvgPoolUpstreamIgnored(AvgPool2D):
    """Backward spreads 1 instead of dy. A check with an upstream gradient of ones accepts it."""

    def backward(self, dy, saved, need_dx=True):
        return super().backward(np.ones_like(dy), saved)


_OVERLAP = {"kernel_size": 3, "stride": 2}

FAULTS = [
    Fault(
        MaxPool2D,
        MaxPoolOverlapAssigned,
        IMAGES,
        "overwritten where it should be added up",
        _OVERLAP,
        seen="FluxML/NNlib.jl#205",
    ),
    Fault(
        MaxPool2D,
        MaxPoolZeroPadding,
        IMAGES,
        "forward is wrong",
        _OVERLAP | {"padding": 1},
        lambda x: -1 - np.abs(x),
        beside=("forward",),
        seen="zylo117/Yet-Another-EfficientDet-Pytorch#352",
    ),
    Fault(
        MaxPool2D,
        MaxPoolEveryTie,
        IMAGES,
        "a tie not counted exactly once",
        {"kernel_size": 2},
        np.round,
        seen="Theano/Theano#5248",
    ),
    Fault(AvgPool2D, AvgPoolShareForgotten, IMAGES, "times KH*KW", _OVERLAP),
    Fault(
        AvgPool2D,
        AvgPoolUpstreamIgnored,
        IMAGES,
        "upstream gradient ignored",
        _OVERLAP,
        seen="haifengl/smile#528, of ReLU",
    ),
]
