"""Each layer of LeNet and five wide convolutions, forward and backward, against PyTorch.

python benchmarks/bench_layers.py
python benchmarks/bench_layers.py --quick                   does it run?
python benchmarks/bench_layers.py --from benchmarks/results/layers.json
"""

import argparse
import sys
from collections.abc import Iterable

import harness
from harness import Spread, find, geometric_mean, gigaflops, markdown, ratio, spread
from matplotlib.figure import Figure

import minicnn

BATCH = 256
PASSES = 8  # of a small layer in one step, so that handing out the work does not count
SGEMM_SIZES = (512, 1024, 2048)
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
    both = (False, True)
    if args.quick:
        to_measure, sizes = cells([("Conv2D(1, 2, 3)", (4, 1, 8, 8))], both), [64]
    else:
        to_measure = cells(WIDE, both) + cells(lenet_layers(), both, PASSES)
        sizes = SGEMM_SIZES
    sgemm = {"framework": "minicnn", "work": "sgemm", "cores": 1, "sizes": sizes}
    records = harness.race([sgemm], args.rounds, args.seconds_per_round, len(sizes))
    return records + race(args, to_measure, sorted({1, harness.cores()}))


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


def measured(results: dict) -> list[dict]:
    """minicnn's records of layers."""
    return [
        r
        for r in results["records"]
        if r["work"] == "layers" and r["framework"] == "minicnn" and "rates" in r
    ]


def table(results: dict) -> str:
    records, cores = results["records"], results["environment"]["cores"]
    peak = peak_gigaflops(records)
    header = ("x", "layer", "pass", "cores", "minicnn / PyTorch", "GFLOP/s", "of sgemm's peak")
    return (
        f"sgemm's peak: {peak:.1f} GFLOP/s a core.\n\n"
        + markdown(header, [row(record, records, peak) for record in measured(results)])
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
