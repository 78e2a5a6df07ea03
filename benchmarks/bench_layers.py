"""Each layer of LeNet and five wide convolutions, forward and backward, against PyTorch and
against the least time that this machine allows.

python benchmarks/bench_layers.py
python benchmarks/bench_layers.py --quick                   does it run?
python benchmarks/bench_layers.py --from layers.json
"""

import argparse
import sys
from collections.abc import Iterable

import harness
import limits
from harness import Spread, find, geometric_mean, gigaflops, markdown, ratio, spread
from matplotlib.figure import Figure

import minicnn

BATCH = 256
PASSES = 8  # of a small layer in one step, so that handing out the work does not count
PROBES = {  # of one core: square matrices, bytes of the array that is copied, NumPy's functions
    "sgemm": (512, 1024, 2048),
    "copy": tuple(1 << power for power in (17, 19, 20, 21, 22, 24, 26)),
    "functions": ("exp", "tanh"),
}
QUICK_PROBES = {"sgemm": (64,), "copy": (1 << 15,), "functions": ("exp", "tanh")}
LENET = {"net": repr(minicnn.lenet()), "image": (1, 28, 28), "batch": BATCH}
NOTE = """
The floor is the larger of two times: that of a layer's products at sgemm's peak and its values of
exp or tanh at NumPy's speed, one after the other; and that of the bytes that it must read and write
once, as bench_gpu.py counts them, at the speed of a copy that moves as many as a chunk forward.
A core can do both at once, but NumPy's calls cannot: for them, the sum is nearer the truth. On n
cores the floor is 1/n of one core's. "reached" is the floor's share of the time measured. Above
100 % the cache was faster than in a copy, or Winograd's algorithm did with fewer products.
"""
WIDE = [
    ("Conv2D(3, 32, 3, padding=1)", (64, 3, 32, 32)),
    ("Conv2D(32, 64, 3, padding=1)", (64, 32, 32, 32)),
    ("Conv2D(64, 128, 3, padding=1)", (64, 64, 16, 16)),
    ("Conv2D(128, 256, 3, padding=1)", (32, 128, 8, 8)),
    ("Conv2D(64, 64, 3, padding=1)", (16, 64, 56, 56)),
]


def lenet_layers() -> list[tuple[str, tuple[int, ...]]]:
    trace = minicnn.lenet().trace((BATCH, 1, 28, 28))
    return list(dict.fromkeys((repr(layer), shape) for layer, shape, _ in trace))


def cells(
    layers: Iterable[tuple[str, tuple[int, ...]]], backward: Iterable[bool], passes: int = 1
) -> list[dict]:
    """What to measure: each layer forward and, if `backward` is true, both ways."""
    return [
        {"layer": layer, "shape": list(shape), "backward": back, "passes": passes}
        for layer, shape in layers
        for back in backward
    ]


def race(args: argparse.Namespace, cells: list[dict], cores: Iterable[int]) -> list[dict]:
    """A record for each framework, cell and number of cores; rates are passes per second."""
    records = []
    for n in cores:
        print(f"{len(cells)} layers and passes, cores: {n}", file=sys.stderr)
        contestants = [
            {"framework": framework, "work": "layers", "cores": n, "cells": cells}
            for framework in args.frameworks
            if framework != "torch.compile"
        ]
        records += harness.race(contestants, args.rounds, args.seconds_per_round, len(cells))
    for record in records:
        own = record.pop("cells")
        record.update(own[record["task"]] if "task" in record else {})
    return records


def measure(args: argparse.Namespace) -> list[dict]:
    both, probes = (False, True), PROBES
    if args.quick:
        to_measure, probes = cells([("Conv2D(1, 2, 3)", (4, 1, 8, 8))], both), QUICK_PROBES
    else:
        to_measure = cells(WIDE, both) + cells(lenet_layers(), both, PASSES)
    records, cores = [], sorted({1, harness.cores()})
    for work, sizes in probes.items():
        probe = {"framework": "minicnn", "work": work, "cores": 1, "sizes": sizes}
        records += harness.race([probe], args.rounds, args.seconds_per_round, len(sizes))
    for n in cores:
        step = {"framework": "minicnn", "cores": n, **LENET}
        steps = [step | {"work": work} for work in ("train", "infer")]
        records += harness.race(steps, args.rounds, args.seconds_per_round)
    return records + race(args, to_measure, cores)


def peak_gigaflops(records: list[dict]) -> float:
    """The peak of sgemm on one core, at the best size."""
    return max(spread(r["rates"]).median for r in records if r["work"] == "sgemm") / 1e9


def wide_mean(records: list[dict], cores: int) -> Spread | None:
    """Geometric means, over the wide convolutions forward and backward, of the medians and the
    percentiles of the ratios to PyTorch."""
    per_layer = []
    for layer, shape in WIDE:
        cell = {"layer": layer, "shape": list(shape), "backward": True, "cores": cores}
        ours = find(records, framework="minicnn", **cell)
        other = find(records, framework="torch", **cell)
        if ours is None or other is None:
            return None
        per_layer.append(ratio(ours, other))
    return Spread(*(geometric_mean(values) for values in zip(*per_layer)))


def row(record: dict, records: list[dict], peak: float) -> tuple:
    """One line of the table, from a record of minicnn."""
    cell = {k: record[k] for k in ("work", "layer", "shape", "backward", "cores")}
    flops = minicnn_gigaflops(record)
    return (
        "x".join(map(str, record["shape"])),
        record["layer"],
        "forward, backward" if record["backward"] else "forward",
        record["cores"],
        ratio(record, find(records, framework="torch", **cell)),
        flops and f"{flops:.1f}",
        flops and f"{flops / (peak * record['cores']):.0%}",
    )


def minicnn_gigaflops(record: dict) -> float | None:
    """The GFLOP/s of a layer; None if it has no products."""
    layer = eval(record["layer"], vars(minicnn))
    multiply_adds = layer.multiply_adds(record["shape"])
    return gigaflops(record, multiply_adds, record["backward"]) if multiply_adds else None


def floor_cells(record: dict, core: limits.Core | None) -> tuple:
    """The floor, what sets it, and the share that is reached, of a record of minicnn."""
    layer = eval(record["layer"], vars(minicnn))
    if core is None or isinstance(layer, minicnn.Flatten):
        return None, None, None
    seconds, cause = limits.layer_floor(layer, tuple(record["shape"]), record["backward"], core)
    floor = seconds / record["cores"]
    return f"{1e6 * floor:,.1f}", cause, f"{floor * spread(record['rates']).median:.0%}"


def lenet_table(records: list[dict], core: limits.Core) -> str:
    """The whole step of LeNet beside the sum of its layers' floors."""
    rows = []
    for record in (r for r in records if r["work"] in ("train", "infer") and "rates" in r):
        net, batch, cores = eval(record["net"], vars(minicnn)), record["batch"], record["cores"]
        shape, seconds = (batch, *record["image"]), batch / spread(record["rates"]).median
        floor = limits.network_floor(net, shape, record["work"] == "train", core) / cores
        times = f"{1e6 * seconds:,.1f}", f"{1e6 * floor:,.1f}", f"{floor / seconds:.0%}"
        rows.append((record["work"], cores, *times))
    return markdown(("LeNet", "cores", "µs", "floor of its layers, µs", "reached"), rows)


def machine(core: limits.Core) -> str:
    """What the floors are made of, in one line."""
    copies = ", ".join(
        f"{moved / 1e6:.1f} MB: {rate / 1e9:.0f}" for moved, rate in core.bandwidths.items()
    )
    functions = ", ".join(f"{name} {1e9 * s:.2f}" for name, s in core.seconds.items())
    return f"A copy that moves so much, GB/s: {copies}. NumPy's functions, ns: {functions}.\n"


def measured(results: dict) -> list[dict]:
    """minicnn's records of layers."""
    return [
        r
        for r in results["records"]
        if r["work"] == "layers" and r["framework"] == "minicnn" and "rates" in r
    ]


def table(results: dict) -> str:
    records, cores = results["records"], results["environment"]["cores"]
    peak, core = peak_gigaflops(records), limits.measured_core(records)
    header = ("x", "layer", "pass", "cores", "minicnn / PyTorch", "GFLOP/s", "of sgemm's peak")
    rows = [
        (*row(record, records, peak), *floor_cells(record, core)) for record in measured(results)
    ]
    return (
        f"sgemm's peak: {peak:.1f} GFLOP/s a core.\n"
        + (machine(core) if core else "")
        + "\n"
        + markdown((*header, "floor, µs", "set by", "reached"), rows)
        + (f"{NOTE}\n{lenet_table(records, core)}" if core else "")
        + f"\nWide convolutions, forward and backward, {cores} cores, geometric mean against "
        f"PyTorch: {wide_mean(records, cores) or 'not measured'}.\n"
    )


def figure(results: dict) -> Figure:
    """The ratio to PyTorch on all cores, with a bar for each layer and pass."""
    records, cores = results["records"], results["environment"]["cores"]
    rows = [row(record, records, 1) for record in measured(results) if record["cores"] == cores]
    rows = [r for r in rows if r[4]]
    figure = Figure(figsize=(9, 1 + 0.25 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [f"{layer}, {x}, {passes}" for x, layer, passes, *_ in rows]
    spreads = [r[4] for r in rows]
    errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
    axes.barh(names, [s.median for s in spreads], xerr=errors if spreads else None)
    axes.axvline(1, color="k", linewidth=1)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel(f"speed of minicnn / PyTorch, {cores} cores")
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = harness.command_line(__doc__, rounds=15, seconds=0.1)
    harness.main("layers", measure, table, figure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
