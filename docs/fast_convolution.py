"""What each step of derivations/fast-convolution.md saves: `python docs/fast_convolution.py`.

In a minute it times LeNet's two convolutions on one core in turn: whole, without one of the steps,
and in the plain form; and the copying of their windows from either order of memory. It prints the
table of the page: medians of the milliseconds of processor time, and of the ratio to the first.
"""

import statistics
import sys
import time
from unittest import mock

import numpy as np
from threadpoolctl import threadpool_limits

from minicnn import Conv2D
from minicnn.layers import products
from minicnn.reference.convolutions import CONVOLUTIONS

ROUNDS, BATCH = 400, 64  # images, as in a chunk of training
CELLS = [
    (Conv2D(1, 6, 5, padding=2), (BATCH, 1, 28, 28)),
    (Conv2D(6, 16, 5), (BATCH, 6, 14, 14)),
]


def unaligned(size, like):
    return np.empty(size, like.dtype)


WITHOUT = {
    "whole": {"FEW_CHANNELS": products.FEW_CHANNELS},
    "without blocks": {"BLOCK_BYTES": {"cpu": sys.maxsize}},
    "without two rows": {"FEW_CHANNELS": 0},
    "without pieces": {"PIECE": {"cpu": sys.maxsize}},
    "without alignment": {"aligned_empty": unaligned},
}


def random(shape):
    """(N, C, H, W), the batch last in memory."""
    return np.random.default_rng(0).random((*shape[1:], shape[0]), np.float32).transpose(3, 0, 1, 2)


def race(tasks):
    """The seconds that each function took, round by round. Each runs twice in a row, and the second
    time counts, so that none finds the cache as another left it."""
    taken = {name: [] for name in tasks}
    for _ in range(ROUNDS):
        for name, task in tasks.items():
            task()
            start = time.process_time()
            task()
            taken[name].append(time.process_time() - start)
    return taken


def passes(layer, shape):
    """{name: function} for forward, and for backward."""
    x, dy = random(shape), random(layer.output_shape(shape))
    (weight, bias), padding = layer.params.values(), sum(layer.window.padding, ())

    def changed(function, argument, names):
        def run():
            with mock.patch.multiple(products, **names):
                function(argument, x)

        return run

    forward = {n: changed(lambda _, x: layer.forward(x), dy, c) for n, c in WITHOUT.items()}
    backward = {n: changed(layer.backward, dy, c) for n, c in WITHOUT.items()}
    plain_forward, plain_backward = CONVOLUTIONS["im2col"]
    forward["plain"] = lambda: plain_forward(x, weight, bias, padding=padding)
    backward["plain"] = lambda: plain_backward(dy, x, weight, padding=padding)
    return forward, backward


def copies(layer, shape):
    """{name: function} for the copying of all windows, with the batch last or first in memory."""
    x = random(shape)
    last = layer.window.view(layer.window.pad(x))
    padded = np.ascontiguousarray(layer.window.pad(x).transpose(3, 0, 1, 2))
    first = layer.window.view(padded.transpose(1, 2, 3, 0)).transpose(0, 1, 2, 5, 3, 4)
    columns = np.empty_like(last, order="C"), np.empty_like(first, order="C")
    return {
        "batch last": lambda: np.copyto(columns[0], last),
        "batch first": lambda: np.copyto(columns[1], first),
    }


def show(label, tasks):
    taken = race(tasks)
    whole = next(iter(taken.values()))
    for name, seconds in taken.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, whole))
        print(f"  {label:<9}{name:<18}{1e3 * statistics.median(seconds):7.2f} ms {ratio:6.2f}")


def main():
    with threadpool_limits(1):
        for layer, shape in CELLS:
            print(layer, "of", shape)
            for label, tasks in zip(("forward", "backward"), passes(layer, shape)):
                show(label, tasks)
            show("columns", copies(layer, shape))


if __name__ == "__main__":
    main()
