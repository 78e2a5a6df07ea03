"""Seconds of training to a test accuracy on Fashion-MNIST, against PyTorch.

All use the same recipe, initial weights and order of images; testing is not timed.

python benchmarks/bench_accuracy.py
python benchmarks/bench_accuracy.py --recipe fast90         the shortest way to 90 %
python benchmarks/bench_accuracy.py --quick                 does it run? on digits
python benchmarks/bench_accuracy.py --from accuracy.json
"""

import argparse
import contextlib
import json
import sys

import harness
from harness import Contestant, Skipped, markdown
from matplotlib.figure import Figure

LEVELS = (0.80, 0.85, 0.88, 0.90)
PARTS = 4  # of an epoch, with a test after each
NET = (
    "Sequential(Conv2D(1, 24, 3, padding=1), ReLU(), MaxPool2D(2), "
    "Conv2D(24, 48, 3, padding=1), ReLU(), MaxPool2D(2), "
    "Flatten(), Linear(2352, 128), ReLU(), Linear(128, 10))"
)
SGD = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
RECIPE = {"net": NET, "lr": 0.05, "sgd": SGD, "batch": 128, "seed": 0}
FAST90 = RECIPE | {
    "net": "Sequential(Conv2D(1, 12, 3, padding=1), MaxPool2D(2), ReLU(), "
    "Conv2D(12, 24, 3, padding=1), MaxPool2D(2), ReLU(), "
    "Flatten(), Linear(1176, 64), ReLU(), Linear(64, 10))",
    "lr": 0.15,
    "schedule": "triangle",
}
RECIPES = {"better": RECIPE, "fast90": FAST90}  # minicnn train --recipe has the second

COMMON = "He's weights, SGD with momentum 0.9 (Nesterov), weight decay 5e-4 and batches of 128"
NOTES = {
    "better": f"""\
The recipe of `examples/09_better_lenet.py` but for the mirrored images: `{NET}`, {COMMON}, learning
rate 0.05 down to 0 by a cosine over all epochs, seed 0.
""",
    "fast90": f"""\
The recipe of `minicnn train --recipe fast90`: `{FAST90["net"]}`, {COMMON}, learning rate up to 0.15
in the first fifth of all epochs and then down to 0, seed 0.
""",
}


def measure(args: argparse.Namespace) -> list[dict]:
    data = ("digits", 1000, 300) if args.quick else ("fashion_mnist",)
    epochs = 1 if args.quick else args.epochs or (3 if args.recipe == "fast90" else 12)
    common = {"work": "epochs", "cores": harness.cores(), "data": data, "parts": PARTS}
    common |= RECIPES[args.recipe]
    common |= {"device": args.device, "epochs": epochs}
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
            for record, contestant in running.copy():
                try:
                    answer = contestant.run(1) if part else contestant.first
                except Skipped as reason:
                    record["skipped"] = str(reason)
                    running.remove((record, contestant))
                else:
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
    note = NOTES[results["settings"].get("recipe", "better")]
    return f"{note}\n{markdown(header, rows)}"


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
    parser.add_argument("--epochs", type=int, help="default: 12, for fast90 3")
    parser.add_argument("--recipe", choices=RECIPES, default="better", help="default: %(default)s")
    args = parser.parse_args(arguments)
    recipe = json.loads(args.source.read_text())["settings"].get("recipe") if args.source else None
    name = "fast90" if (recipe or args.recipe) == "fast90" else "accuracy"
    harness.main(name, measure, table, figure, args)


if __name__ == "__main__":
    main()
