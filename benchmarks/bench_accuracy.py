"""Seconds of training to a test accuracy on Fashion-MNIST, against PyTorch.

The recipe is the same for all, and so are the first weights and the order of the images; testing
is outside the clock.

python benchmarks/bench_accuracy.py
python benchmarks/bench_accuracy.py --quick                 does it run? on digits
python benchmarks/bench_accuracy.py --from benchmarks/results/accuracy.json
"""

import argparse
import contextlib
import sys

import harness
from harness import Contestant, Skipped, markdown
from matplotlib.figure import Figure

LEVELS = (0.80, 0.85, 0.88, 0.90)
PARTS = 4  # of an epoch, with a test after each
RECIPE = {"model": "lenet_relu", "lr": 0.05, "momentum": 0.9, "batch": 128, "seed": 0}


def measure(args: argparse.Namespace) -> list[dict]:
    data = ("digits", 1000, 300) if args.quick else ("fashion_mnist",)
    epochs = 1 if args.quick else args.epochs
    common = {"work": "epochs", "cores": harness.cores(), "data": data, "parts": PARTS} | RECIPE
    common |= {"device": args.device}
    records, running = [], []
    with contextlib.ExitStack() as stack:
        for framework in args.frameworks:
            record = common | {"framework": framework}
            records.append(record)
            try:
                running.append((record, stack.enter_context(Contestant(record))))
            except Skipped as reason:
                record["skipped"] = str(reason)
        for part in range(PARTS * epochs):
            print(f"epoch {part / PARTS:.2f} of {epochs}", file=sys.stderr)
            for record, contestant in running:
                answer = contestant.run(1) if part else contestant.first
                record.setdefault("rounds", []).append(answer)
    return records


def curve(record: dict) -> list[tuple[float, float]]:
    """(seconds of training, test accuracy) after each part."""
    seconds, points = 0.0, []
    for answer in record.get("rounds", []):
        seconds += answer["seconds"]
        points.append((seconds, answer["accuracy"]))
    return points


def seconds_to(points: list[tuple[float, float]], level: float) -> float | None:
    """The first measured time with at least this accuracy."""
    return next((seconds for seconds, accuracy in points if accuracy >= level), None)


def table(results: dict) -> str:
    rows = []
    for record in results["records"]:
        if points := curve(record):
            times = [seconds_to(points, level) for level in LEVELS]
            shown = [t and f"{t:.1f}" for t in times]
            best = max(accuracy for _, accuracy in points)
            rows.append((record["framework"], *shown, f"{best:.3f}", f"{points[-1][0]:.1f}"))
    header = ("seconds to", *(f"{level:.0%}" for level in LEVELS), "best", "seconds in all")
    recipe = ", ".join(f"{key} {value}" for key, value in RECIPE.items())
    return f"Recipe: {recipe}.\n\n{markdown(header, rows)}"


def figure(results: dict) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for record in results["records"]:
        if points := curve(record):
            axes.plot(*zip(*points), "o-", markersize=3, label=record["framework"])
    for level in LEVELS:
        axes.axhline(level, color="k", linewidth=0.5, alpha=0.5)
    axes.set(xlabel="seconds of training", ylabel="test accuracy")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = harness.command_line(__doc__, device="cpu")
    parser.add_argument("--epochs", type=int, default=12, help="default: %(default)s")
    harness.main("accuracy", measure, table, figure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
