"""The least time that this machine allows for a layer that computes all products of its definition.

On one core, with `operations` of matrix products at the rate of sgemm, and values of exp or tanh at
the seconds that NumPy takes for one,

    floor = max(moved_bytes / bandwidth, operations / rate + values * seconds_each)        (1)

since a core computes one thing after the other, but computes and moves bytes at the same time.
NumPy mostly computes and moves in turn, so it is often nearer the sum of the three terms. Data that
stay in the cache, and Winograd's form of a convolution, can beat (1). A GPU's floor is counted
without the values.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from harness import spread

import minicnn
from minicnn import AvgPool2D, Flatten, Sequential, Sigmoid, Tanh
from minicnn.arguments import Shape
from minicnn.layers import Layer
from minicnn.training.chunks import CHUNK_SIZE

FUNCTIONS = {Sigmoid: ("exp", "tanh"), Tanh: ("tanh",)}  # any of these will do, once per output


class Work(NamedTuple):
    """What a step needs at least: bytes moved, and operations."""

    moved_bytes: int
    operations: int


class Peaks(NamedTuple):
    """What the device reaches: bytes moved and operations, each per second."""

    bandwidth: float
    rate: float


def layer_work(
    layer: Layer, x_shape: tuple[int, ...], backward: bool, need_dx: bool = True
) -> Work:
    """One pass over x of `x_shape`, forward or both ways, counted as bench_gpu.NOTE tells."""
    if isinstance(layer, Flatten):
        return Work(0, 0)
    x, y = math.prod(x_shape), math.prod(layer.output_shape(x_shape))
    params = sum(parameter.size for parameter in layer.params.values())
    numbers, products = x + params + y, layer.multiply_adds(x_shape)
    if backward:
        known = x if params else 0 if isinstance(layer, AvgPool2D) else y
        numbers += y + known + params  # dy, and the gradients of the parameters
        numbers += x + params if need_dx else 0
        products *= 3 if need_dx else 2
    return Work(4 * numbers, 2 * products)


def network_work(net: Sequential, x_shape: tuple[int, ...], training: bool) -> Work:
    """The work of one step, counted as bench_gpu.NOTE tells."""
    works = [
        layer_work(layer, shape, training and learns, need_dx)
        for layer, shape, learns, need_dx in passes(net, x_shape)
    ]
    if training:
        logits = math.prod(net.output_shape(x_shape))
        params = sum(parameter.size for parameter in net.params.values())
        works.append(Work(4 * (2 * logits + 5 * params), 0))
    return Work(*map(sum, zip(*works)))


def passes(net: Sequential, x_shape: tuple[int, ...]) -> Iterator[tuple[Layer, Shape, bool, bool]]:
    """For each layer: the shape of its input, whether training goes back to it, and to its input:
    to none before the first parameters."""
    first = next((i for i, layer in enumerate(net.layers) if layer.params), 0)
    for i, (layer, shape, _) in enumerate(net.trace(x_shape)):
        yield layer, shape, i >= first, i > first


def work_of(record: dict) -> Work:
    """The work of a record's contestant in one step or pass."""
    if record["work"] == "layers":
        layer = eval(record["layer"], vars(minicnn))
        return layer_work(layer, tuple(record["shape"]), record["backward"])
    net = eval(record["net"], vars(minicnn))
    return network_work(net, (record["batch"], *record["image"]), record["work"] == "train")


def floor_seconds(work: Work, peaks: Peaks) -> float:
    return max(work.moved_bytes / peaks.bandwidth, work.operations / peaks.rate)


def peaks(records: list[dict]) -> Peaks | None:
    """The best medians measured for the device itself; None if that failed."""
    best = {
        work: max(
            (spread(r["rates"]).median for r in records if r["work"] == work and "rates" in r),
            default=None,
        )
        for work in ("copy", "sgemm")
    }
    return Peaks(best["copy"], best["sgemm"]) if all(best.values()) else None


class Core(NamedTuple):
    """What NumPy reaches on one core: operations a second; bytes a second, for the bytes that a
    copy moves; seconds for one value of each function."""

    rate: float
    bandwidths: dict[int, float]
    seconds: dict[str, float]

    def bandwidth(self, moved_bytes: int) -> float:
        """That of the smallest copy that moves at least so many bytes, or of the largest."""
        larger = (size for size in self.bandwidths if size >= moved_bytes)
        return self.bandwidths[min(larger, default=max(self.bandwidths))]


class Floor(NamedTuple):
    """The least seconds, and what takes them: "products", "functions" or "bytes"."""

    seconds: float
    cause: str


def measured_core(records: list[dict]) -> Core | None:
    """From the records of "sgemm", "copy" and "functions"; None if they are not all there."""
    best = peaks(records)
    medians = {
        work: {
            r["sizes"][r["task"]]: spread(r["rates"]).median
            for r in records
            if r["work"] == work and "rates" in r
        }
        for work in ("copy", "functions")
    }
    if best is None or not medians["functions"]:
        return None
    return Core(
        best.rate,
        {2 * size: rate for size, rate in medians["copy"].items()},
        {name: 1 / rate for name, rate in medians["functions"].items()},
    )


def layer_floor(
    layer: Layer, x_shape: tuple[int, ...], backward: bool, core: Core, need_dx: bool = True
) -> Floor:
    """Of one pass on one core, in chunks, whose bytes forward choose the bandwidth."""
    work = layer_work(layer, x_shape, backward, need_dx)
    chunk = (min(CHUNK_SIZE, x_shape[0]), *x_shape[1:])
    moving = work.moved_bytes / core.bandwidth(layer_work(layer, chunk, False).moved_bytes)
    each = min((core.seconds[name] for name in FUNCTIONS.get(type(layer), ())), default=0)
    functions = each * math.prod(layer.output_shape(x_shape))
    products = work.operations / core.rate
    if moving > products + functions:
        return Floor(moving, "bytes")
    return Floor(products + functions, "products" if products > functions else "functions")  # (1)


def network_floor(net: Sequential, x_shape: tuple[int, ...], training: bool, core: Core) -> float:
    """The sum over the layers; neither picking images nor the loss nor SGD are counted."""
    return sum(
        layer_floor(layer, shape, training and learns, core, need_dx).seconds
        for layer, shape, learns, need_dx in passes(net, x_shape)
    )
