"""How cost grows as work grows: speed and memory of training against batch size, cores, image
size and channels.

python benchmarks/bench_scaling.py
python benchmarks/bench_scaling.py --quick                  does it run?
python benchmarks/bench_scaling.py --from benchmarks/results/scaling.json
"""

import argparse
import sys

import harness
from harness import FRAMEWORKS, MB, markdown, spread
from matplotlib.figure import Figure

STANDARD = {"batch": 256, "cores": harness.cores(), "size": 28, "channels": 8}
SWEEPS = {
    "batch": (32, 128, 512, 2048, 8192),
    "cores": tuple(range(1, harness.cores() + 1)),
    "size": (14, 28, 56, 112),
    "channels": (4, 8, 16, 32, 64),
}
QUICK_SWEEPS = {"batch": (4, 8), "size": (8, 12)}
LABELS = {
    "batch": "batch size",
    "cores": "cores",
    "size": "height and width",
    "channels": "channels",
}


def network(size: int, channels: int) -> str:
    """A LeNet of any image size, with `channels` and twice as many in its two convolutions."""
    features = 2 * channels * (size // 4) ** 2
    return (
        f"Sequential(Conv2D(1, {channels}, 5, padding=2), Sigmoid(), AvgPool2D(2), "
        f"Conv2D({channels}, {2 * channels}, 5, padding=2), Sigmoid(), AvgPool2D(2), "
        f"Flatten(), Linear({features}, 10))"
    )


def measure(args: argparse.Namespace) -> list[dict]:
    records = []
    sweeps = QUICK_SWEEPS if args.quick else SWEEPS
    if args.device == "gpu":  # where the number of cores means nothing
        sweeps = {sweep: values for sweep, values in sweeps.items() if sweep != "cores"}
    for sweep, values in sweeps.items():
        for value in values:
            print(f"{sweep} {value}", file=sys.stderr)
            point = STANDARD | {sweep: value}
            contestants = [
                {"framework": framework, "work": "train", "sweep": sweep, **point}
                | {"device": args.device}
                | {"net": network(point["size"], point["channels"])}
                | {"image": (1, point["size"], point["size"])}
                for framework in args.frameworks
                if framework != "torch.compile"
            ]
            records += harness.race(contestants, args.rounds, args.seconds_per_round)
    return records


def table(results: dict) -> str:
    records = [r for r in results["records"] if "rates" in r]

    rows = [
        (
            LABELS[record["sweep"]],
            record[record["sweep"]],
            *harness.rate_cells(record, records, "sweep", record["sweep"]),
        )
        for record in records
    ]
    return markdown(("against", "at", *harness.RATE_HEADER), rows)


def figure(results: dict) -> Figure:
    """A column for each sweep: images per second above, peak memory below, all axes logarithmic."""
    records = [r for r in results["records"] if "rates" in r]
    figure = Figure(figsize=(13, 6), layout="constrained")
    sweeps = list(dict.fromkeys(r["sweep"] for r in records))
    for sweep, (above, below) in zip(sweeps, figure.subplots(2, len(sweeps), squeeze=False).T):
        for color, framework in enumerate(FRAMEWORKS):
            own = {"framework": framework, "sweep": sweep}
            shown = [r for r in records if own.items() <= r.items()]
            rates = [(r[sweep], spread(r["rates"])) for r in shown]
            harness.curve(above, rates, f"C{color}o-", framework)
            peaks = [(r[sweep], spread([r["peak_bytes"] / MB])) for r in shown if r["peak_bytes"]]
            harness.curve(below, peaks, f"C{color}o-", framework)
        above.set(ylabel="images/s", yscale="log")
        below.set(ylabel="peak memory, MB", xlabel=LABELS[sweep], yscale="log")
        for axes in (above, below):
            harness.log_ticks(axes, (r[sweep] for r in records if r["sweep"] == sweep))
        above.legend()
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = harness.command_line(__doc__, rounds=7, seconds=0.2, device="cpu")
    harness.main("scaling", measure, table, figure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
