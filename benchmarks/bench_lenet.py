"""LeNet, training and inference, against PyTorch: images per second, memory, time to start; with
the wide convolutions of bench_layers.py, also the table of required values. On a GPU, rates only.

python benchmarks/bench_lenet.py
python benchmarks/bench_lenet.py --quick                    does it run?
python benchmarks/bench_lenet.py --from lenet.json
"""

import argparse
import sys

import bench_layers
import harness
from harness import FRAMEWORKS, MB, Spread, find, markdown, ratio, spread
from matplotlib.figure import Figure

from minicnn import lenet

BATCH, LARGE_BATCH = 256, 8192
IMAGE = (1, 28, 28)
LARGER_BATCH_BYTES = (LARGE_BATCH - BATCH) * 28 * 28 * 4  # as float32


def measure(args: argparse.Namespace) -> list[dict]:
    groups = [("train", BATCH), ("infer", BATCH)]
    groups += [(work, batch) for work in ("train", "infer") for batch in (32, 2048)]
    groups += [("train", LARGE_BATCH)]  # for its memory
    layers, core_counts = bench_layers.WIDE, sorted({1, harness.cores()})
    if args.quick:
        groups, layers = [("train", 8), ("infer", 8)], layers[:1]
    if args.device == "gpu":
        core_counts = [harness.cores()]
    records = []
    for work, batch in groups:
        print(f"{work}, batch {batch}", file=sys.stderr)
        contestants = [
            {"framework": framework, "work": work, "batch": batch, "cores": cores}
            | {"net": repr(lenet()), "image": IMAGE, "device": args.device}
            for cores in core_counts
            for framework in args.frameworks
            if batch < LARGE_BATCH or framework != "torch.compile"
        ]
        records += harness.race(contestants, args.rounds, args.seconds_per_round)
    if args.device == "gpu":
        return records
    wide = bench_layers.cells(layers, [True])
    return records + bench_layers.race(args, wide, [harness.cores()])


def table(results: dict) -> str:
    if harness.measured_on(results) == "gpu":
        return rates(results)
    return f"## What must hold\n\n{must_hold(results)}\n## All rates\n\n{rates(results)}"


def must_hold(results: dict) -> str:
    """The table of required values, with the measured ones."""
    return markdown(("", "measured", "at least", "aim", "reached"), required(results))


def required(results: dict) -> list[tuple]:
    """The rows of this table."""
    records, all_cores = results["records"], results["environment"]["cores"]

    def get(
        framework: str, work: str = "train", batch: int = BATCH, cores: int = all_cores
    ) -> dict | None:
        return find(records, framework=framework, work=work, cores=cores, batch=batch)

    def against(framework: str, **same: object) -> Spread | None:
        return ratio(get("minicnn", **same), get(framework, **same))

    inference = against("torch", work="infer")
    second_core = ratio(get("minicnn"), get("minicnn", cores=1)) if all_cores == 2 else None
    wide = bench_layers.wide_mean(records, all_cores)
    speeds = [
        ("LeNet training, batch 256, all cores, against PyTorch eager", against("torch"), 1.25, 2),
        ("the same, one core", against("torch", cores=1), 1.3, 1.6),
        ("against torch.compile, all cores", against("torch.compile"), 1, 1.5),
        ("the same, batch 32", against("torch.compile", batch=32), None, 1.25),
        ("LeNet inference, batch 256, against PyTorch eager", inference, 1.25, 1.5),
        ("the same, batch 32", against("torch", work="infer", batch=32), None, 1),
        ("wide convolutions, forward and backward, geometric mean", wide, 0.75, 1.25),
        ("second core: two against one", second_core, 1.6, 1.9),
    ]
    rows = [
        (name, found, least, aim, found and reached(found.median, least, aim))
        for name, found, least, aim in speeds
    ]
    measured = get("minicnn"), get("torch"), get("minicnn", batch=LARGE_BATCH)
    ours, eager, large = (record and record["peak_bytes"] for record in measured)
    return [*rows, memory_against_torch(ours, eager), memory_growth(ours, large)]


def reached(value: float, least: float | None, aim: float) -> str:
    return "aim" if value >= aim else "yes" if least and value >= least else "no"


def memory_against_torch(ours: int | None, eager: int | None) -> tuple:
    name = "peak memory of training LeNet, batch 256, against PyTorch eager"
    if not ours or not eager:
        return name, None, "at most 1/3", "1/5", None
    measured = f"1/{eager / ours:.1f} ({ours / MB:.0f} of {eager / MB:.0f} MB)"
    return name, measured, "at most 1/3", "1/5", reached(eager / ours, 3, 5)


def memory_growth(small: int | None, large: int | None) -> tuple:
    name = "the same, growth from batch 256 to 8192"
    bound = f"at most the batch, {LARGER_BATCH_BYTES / MB:.0f} MB"
    if not small or not large:
        return name, None, bound, None, None
    grown = large - small
    return name, f"{grown / MB:.1f} MB", bound, None, "yes" if grown <= LARGER_BATCH_BYTES else "no"


def lenet_records(results: dict) -> list[dict]:
    return [r for r in results["records"] if "rates" in r and "batch" in r]


def rates(results: dict) -> str:
    """A line for each contestant."""
    records, keys = lenet_records(results), ("work", "batch", "cores")
    rows = [
        (
            *(record[key] for key in keys),
            *harness.rate_cells(record, records, *keys),
            f"{record['first_step_seconds']:.1f}",
        )
        for record in records
    ]
    return markdown((*keys, *harness.RATE_HEADER, "s to the end of the first step"), rows)


def figure(results: dict) -> Figure:
    """Images per second against the batch: training and inference, one core and all."""
    records = lenet_records(results)
    all_cores = results["environment"]["cores"]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for work, axes in zip(("train", "infer"), figure.subplots(1, 2)):
        for color, framework in enumerate(FRAMEWORKS):
            for cores, line in ((1, "o--"), (all_cores, "o-")):
                own = {"framework": framework, "work": work, "cores": cores}
                points = [
                    (r["batch"], spread(r["rates"])) for r in records if own.items() <= r.items()
                ]
                harness.curve(axes, points, f"C{color}{line}", f"{framework}, cores: {cores}")
        axes.set(xlabel="batch size", ylabel="images/s", title=work)
        harness.log_ticks(axes, (r["batch"] for r in records if r["work"] == work))
        axes.set_ylim(bottom=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = harness.command_line(__doc__, rounds=15, seconds=0.3, device="cpu")
    harness.main("lenet", measure, table, figure, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
