"""Time and memory of a convolution, as a layer and in the forms of reference/convolutions.py.

python benchmarks/bench_convolutions.py
python benchmarks/bench_convolutions.py --quick             does it run?
python benchmarks/bench_convolutions.py --from convolutions.json
"""

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable

import harness
import numpy as np
import threadpoolctl
from harness import MB, find, markdown, ratio, spread
from matplotlib.figure import Figure

import minicnn
from minicnn.reference.convolutions import CONVOLUTIONS

FORMS = (*CONVOLUTIONS, "Conv2D")
CELLS = [
    ("Conv2D(2, 4, 3, padding=1)", (1, 2, 12, 12)),
    ("Conv2D(1, 6, 5, padding=2)", (1, 1, 28, 28)),
    ("Conv2D(6, 16, 5)", (64, 6, 14, 14)),
    ("Conv2D(3, 32, 3, padding=1)", (64, 3, 32, 32)),
]
LOOP_PRODUCTS = 200_000
NOTE = """
All in one process, on one core, in float32, but loops in float64. "/ Conv2D" is the time as a
multiple of the layer's, taken round by round. The peak is what tracemalloc sees allocated at most
during one call, beyond the arguments: temporaries and results.
"""


def functions(form: str, text: str, shape: tuple[int, ...]) -> tuple[Callable, Callable]:
    """Two functions: forward, and forward with backward. Raises ValueError, with the reason,
    if that is too much for the form. Padding is the only geometry passed on: CELLS have no other.
    """
    layer = eval(text, vars(minicnn))
    products = layer.multiply_adds(shape)
    if form == "loops" and products > LOOP_PRODUCTS:
        raise ValueError(f"{products:,} products one by one, of at most {LOOP_PRODUCTS:,}")

    def random(shape: tuple[int, ...]) -> np.ndarray:
        values = np.random.default_rng(0).random((*shape[1:], shape[0]), np.float32)
        return np.moveaxis(values, -1, 0)  # the batch last in memory, as between layers

    x, dy = random(shape), random(layer.output_shape(shape))
    if form == "Conv2D":
        return lambda: layer(x), lambda: layer.backward(dy, layer.forward(x)[1])
    conv2d, conv2d_backward = CONVOLUTIONS[form]
    weight, bias = layer.params["weight"], layer.params["bias"]
    padding = sum(layer.window.padding, ())

    def forward() -> np.ndarray:
        return conv2d(x, weight, bias, padding=padding)

    def forward_and_backward() -> None:
        forward()
        conv2d_backward(dy, x, weight, padding=padding)

    forward()
    return forward, forward_and_backward


def seconds(function: Callable, steps: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        function()
    return time.perf_counter() - start


def peak_bytes(function: Callable) -> int:
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def race(racing: dict[str, Callable], rounds: int, seconds_per_round: float) -> list[dict]:
    """A record for each form; rates are calls per second."""
    peaks = {form: peak_bytes(function) for form, function in racing.items()}  # and the warm-up
    steps = {form: round(seconds_per_round / seconds(f)) or 1 for form, f in racing.items()}
    rates = {form: [] for form in racing}
    for _ in range(rounds):
        for form, function in racing.items():
            rates[form].append(steps[form] / seconds(function, steps[form]))
    return [{"framework": form, "rates": rates[form], "peak_bytes": peaks[form]} for form in racing]


def measure(args: argparse.Namespace) -> list[dict]:
    records = []
    for text, shape in CELLS[:1] if args.quick else CELLS:
        print(f"{text} of {shape}", file=sys.stderr)
        cell, racing = {"layer": text, "shape": list(shape)}, {}
        for form in FORMS:
            try:
                racing[form] = functions(form, text, shape)
            except ValueError as reason:
                records.append(cell | {"framework": form, "skipped": f"{text}: {reason}"})
        with threadpoolctl.threadpool_limits(1):
            for backward in (False, True):
                contestants = {form: pair[backward] for form, pair in racing.items()}
                records += [
                    cell | {"backward": backward} | record
                    for record in race(contestants, args.rounds, args.seconds_per_round)
                ]
    return records


def cells(results: dict) -> list[dict]:
    """What was measured: {"layer", "shape"}."""
    found = [{key: r[key] for key in ("layer", "shape")} for r in results["records"]]
    return [cell for i, cell in enumerate(found) if cell not in found[:i]]


def row(form: str, cell: dict, records: list[dict]) -> tuple:
    """One line of the table, with dashes for a form that was left out."""
    line = ["x".join(map(str, cell["shape"])), cell["layer"], form]
    for backward in (False, True):
        wanted = cell | {"backward": backward}
        record = find(records, framework=form, **wanted)
        layer = find(records, framework="Conv2D", **wanted)
        line += [
            record and f"{1e6 / spread(record['rates']).median:,.0f}",
            ratio(layer, record) if form != "Conv2D" else None,
            record and f"{record['peak_bytes'] / 1000:,.0f}",
        ]
    return tuple(line)


def table(results: dict) -> str:
    columns = ("µs", "/ Conv2D", "peak kB")
    header = ("x", "layer", "form", *(f"forward, {column}" for column in columns))
    header += tuple(f"with backward, {column}" for column in columns)
    lines = [row(form, cell, results["records"]) for cell in cells(results) for form in FORMS]
    return markdown(header, lines) + NOTE


def figure(results: dict) -> Figure:
    """Time and peak memory, forward and backward: a point for each form and convolution."""
    columns = cells(results)
    figure = Figure(figsize=(11, 1 + 0.8 * len(columns)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for color, form in enumerate(FORMS):
        style = {"fmt": f"C{color}o", "label": form}
        for i, cell in enumerate(columns):
            place = i + 0.14 * (color - 2)
            if record := find(results["records"], framework=form, backward=True, **cell):
                ms = spread(1000 / rate for rate in record["rates"])
                error = [[ms.median - ms.low], [ms.high - ms.median]]
                panels[0].errorbar(ms.median, place, xerr=error, **style)
                panels[1].errorbar(record["peak_bytes"] / MB, place, **style)
                style["label"] = None
    for axes, label in zip(panels, ("ms", "peak MB")):
        axes.set(xlabel=f"{label}, forward and backward", xscale="log")
        axes.grid(axis="x", alpha=0.3)
    names = [f"{'x'.join(map(str, cell['shape']))}, {cell['layer']}" for cell in columns]
    panels[0].set_yticks(range(len(columns)), names)
    panels[0].invert_yaxis()
    panels[0].legend()
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = harness.command_line(__doc__, rounds=15, seconds=0.05)
    harness.main("convolutions", measure, table, figure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
