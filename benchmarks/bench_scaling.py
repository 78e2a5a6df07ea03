"""How cost grows as work grows: speed and memory of training against batch size, cores, image
size, channels and parameters, beside the cost on paper.

python benchmarks/bench_scaling.py
python benchmarks/bench_scaling.py --quick                  does it run?
python benchmarks/bench_scaling.py --from scaling.json
"""

import argparse
import sys

import harness
from harness import FRAMEWORKS, MB, find, markdown, spread
from matplotlib.figure import Figure

import minicnn

STANDARD = {"batch": 256, "cores": harness.cores(), "size": 28, "channels": 8, "width": 0}
SWEEPS = {
    "batch": (32, 128, 512, 2048, 8192),
    "cores": tuple(range(1, harness.cores() + 1)),
    "size": (14, 28, 56, 112, 224),
    "channels": (4, 8, 16, 32, 64, 128, 256),
    "width": (78, 393, 1258, 3931, 12579),  # 62 thousand parameters to 10 million
}
LARGE = {("size", 224), ("channels", 128), ("channels", 256)}  # seconds a step of 256 images
LARGE_BATCH = 64
QUICK_SWEEPS = {"batch": (4, 8), "size": (8, 12), "width": (10,)}
LABELS = {
    "batch": "batch size",
    "cores": "cores",
    "size": "height and width",
    "channels": "channels",
    "width": "hidden width",
}
NOTE = """
The multiply-adds are those on paper, forward; training takes three times as many, less the first
layer's gradient of the images. "ps each" is the time of the whole step for one of them: it changes
where products run faster or slower, or where something else takes the time. With a hidden width the
network is two linear layers, which use each weight once an image, so adding up gradients weighs
most there.
"""
EXCHANGE_NOTE = """
Adding up the gradients of chunks: the step without its arithmetic. What is left is to copy the
weights to the workers, hand out the jobs, copy the gradients of each chunk to shared memory and add
them up in one process.
"""


def network(size: int, channels: int, width: int = 0) -> str:
    """A LeNet of any image size, with `channels` and twice as many in its two convolutions; or,
    with a `width`, one hidden layer of it."""
    if width:
        return f"Sequential(Flatten(), Linear({size**2}, {width}), Sigmoid(), Linear({width}, 10))"
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
            point = STANDARD | {sweep: value, "sweep": sweep, "device": args.device}
            if (sweep, value) in LARGE:
                point["batch"] = LARGE_BATCH
            point["net"] = network(point["size"], point["channels"], point["width"])
            point["image"] = (1, point["size"], point["size"])
            contestants = [
                {"framework": framework, "work": "train", **point}
                for framework in args.frameworks
                if framework != "torch.compile"
            ]
            if sweep == "width" and args.device == "cpu":
                contestants.append({"framework": "minicnn", "work": "exchange", **point})
            records += harness.race(contestants, args.rounds, args.seconds_per_round)
    return records


def on_paper(record: dict) -> tuple[int, int]:
    """The multiply-adds of an image forward, and the bytes of the parameters."""
    net = eval(record["net"], vars(minicnn))
    params = sum(parameter.nbytes for parameter in net.params.values())
    return net.multiply_adds((1, *record["image"])), params


def trained(results: dict) -> list[dict]:
    return [r for r in results["records"] if r["work"] == "train" and "rates" in r]


def step_ms(record: dict) -> float:
    return 1e3 * record["batch"] / spread(record["rates"]).median


def table(results: dict) -> str:
    records, rows = trained(results), []
    for record in records:
        multiply_adds, param_bytes = on_paper(record)
        rows.append(
            (
                LABELS[record["sweep"]],
                record[record["sweep"]],
                record["batch"],
                f"{multiply_adds / 1e6:,.2f}",
                f"{param_bytes / MB:,.2f}",
                *harness.rate_cells(record, records, "sweep", record["sweep"]),
                f"{1e12 / (spread(record['rates']).median * multiply_adds):,.0f}",
            )
        )
    header = ("against", "at", "batch", "million multiply-adds an image", "MB of parameters")
    return (
        markdown((*header, *harness.RATE_HEADER, "ps each"), rows) + NOTE + exchange_table(results)
    )


def exchange_table(results: dict) -> str:
    """What adding up gradients costs, beside minicnn's step."""
    rows = []
    for record in results["records"]:
        if record["work"] == "exchange" and "rates" in record:
            step = find(trained(results), framework="minicnn", sweep="width", width=record["width"])
            whole, own = step and step_ms(step), step_ms(record)
            _, param_bytes = on_paper(record)
            share = whole and f"{own / whole:.0%}"
            rows.append((f"{param_bytes // 4:,}", whole and f"{whole:,.1f}", f"{own:,.1f}", share))
    header = ("parameters", "ms a step", "ms adding up", "share")
    return EXCHANGE_NOTE + "\n" + markdown(header, rows) if rows else ""


def figure(results: dict) -> Figure:
    """A column for each sweep: images per second above, peak memory below, all axes logarithmic."""
    records = trained(results)
    figure = Figure(figsize=(16, 6), layout="constrained")
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
