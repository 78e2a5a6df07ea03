"""LeNet, a wide network and their layers on a GPU, compared with PyTorch there, with minicnn on the
CPU, and with what the GPU's own bandwidth and arithmetic allow; steps also as CUDA graphs.

python benchmarks/bench_gpu.py
python benchmarks/bench_gpu.py --all                        tests, capture, this, ten epochs
python benchmarks/bench_gpu.py --quick --device cpu         does it run? without a GPU
python benchmarks/bench_gpu.py --from networks_gpu.json
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import bench_layers
import harness
import numpy as np
from harness import MB, Skipped, find, markdown, ratio, spread
from limits import floor_seconds, peaks, work_of
from matplotlib.figure import Figure

import minicnn
from minicnn.backend import DeviceError, choose_device, to_device
from minicnn.optimizers import cosine
from minicnn.training import capture

BATCHES = (256, 1024, 4096, 16384)
LARGEST_LAYER_BATCH = 4096  # a contestant keeps the arrays of all layers on the device
SGEMM_SIZES = (4096, 8192)
COPY_BYTES = 1 << 28  # an array, far more than a cache holds
WIDE = (
    "Sequential(Conv2D(3, 32, 3, padding=1), ReLU(), MaxPool2D(2), "
    "Conv2D(32, 64, 3, padding=1), ReLU(), MaxPool2D(2), "
    "Conv2D(64, 128, 3, padding=1), ReLU(), MaxPool2D(2), Flatten(), Linear(2048, 10))"
)
NETWORKS = {"LeNet": (repr(minicnn.lenet()), (1, 28, 28)), "wide": (WIDE, (3, 32, 32))}
GRAPHS = {"minicnn": "minicnn.captured", "torch": "torch.graph"}  # their steps as CUDA graphs
CACHES = {  # start-ups: the environment of each, in this order, with a cache of its own or not
    "kernels compiled": ("first", {"CUPY_NVRTC_USE_PCH": "0"}),
    "kernels compiled, precompiled headers": ("second", {"CUPY_NVRTC_USE_PCH": "1"}),
    "kernels cached": ("first", {}),
}
CHECKED = (
    *("tests/layers/test_layers.py", "tests/test_devices.py", "tests/test_backend.py"),
    "tests/training/test_capture.py",
)
COLUMNS = ("contestant", "µs", "µs by events", "minicnn / it", "floor, µs", "µs / floor")
NOTE = """
All in float32, without TF32. A step of training is forward, loss, backward and SGD with momentum;
one of inference ends with the classes. "µs" is by the wall clock around many steps, the device
synchronised before each reading, after a warm-up; "µs by events" is the time between two events in
the device's stream, in which it may have waited for the host too. "minicnn / it" is the speed of
minicnn on the device against this contestant's, by the wall clock. Those on one device take turns,
and the ratio is taken round by round; minicnn on the CPU comes after them, since a GPU that waits
for it would slow down. It goes through a layer's batch in chunks, the same one each time. "peak MB"
is what the framework held of the GPU's memory, and on the CPU what the process and its workers did.
minicnn.captured is the step of fit(capture=True), torch.graph a CUDA graph of PyTorch's step;
"nodes" are the operations in these graphs.

The floor is the larger of bytes / bandwidth and operations / rate, both measured in this run.

- Bandwidth: bytes read and written by a copy within the device's memory. Rate: operations of the
  fastest square product of float32 matrices.
- Bytes, 4 for each number. Forward, a layer reads x and its parameters and writes y. Backward, it
  reads dy, its parameters and what must be known of forward, and writes dx and the gradients of its
  parameters. What must be known is x for a layer with parameters, y for an activation, one number
  for each output of maximum pooling (where the maximum was), and nothing for average pooling. The
  first layer with parameters has no dx, and reads none of them backward. Flatten has no bytes: a
  view will do. In training the logits are read and their gradient is written, and SGD reads
  parameter, velocity and gradient and writes the first two. Not counted: picking and scaling the
  images of a batch, which minicnn does in each step and PyTorch has done before; labels.
- Operations: two for each multiply-add of the products of convolutions and linear layers, forward
  once and backward twice, but once for the first layer with parameters. Nothing else is counted.

Each layer is taken as a pass of its own over memory that no cache keeps, and each product as made
the plain way: a batch that fits in the cache, a fused layer or Winograd's algorithm may go below.
"""


def race(args: argparse.Namespace, what: str, work: dict, tasks: int = 1) -> list[dict]:
    """A record for each contestant and task: the frameworks on the device, in turns, and then, if
    that is a GPU, minicnn on the CPU. If one fails after its first step, for example because the
    device has too little memory, `what` is skipped as a whole."""
    print(what, file=sys.stderr)
    work = work | {"cores": harness.cores()}
    frameworks = [name for name in args.frameworks if name != "torch.compile"]
    if args.device == "gpu" and work["work"] == "train":
        frameworks += [GRAPHS[name] for name in frameworks]
    races = [[work | {"framework": name, "device": args.device} for name in frameworks]]
    if args.device == "gpu" and "minicnn" in frameworks:
        races.append([work | {"framework": "minicnn", "device": "cpu"}])
    records = []
    try:
        for contestants in races:
            records += harness.race(contestants, args.rounds, args.seconds_per_round, tasks)
    except Skipped as reason:
        return [work | {"framework": what, "skipped": str(reason)}]
    return records


def layer_cells(batch: int) -> list[dict]:
    """What to measure: each layer of both networks, once forward and once both ways."""
    passes, cells = {"LeNet": bench_layers.PASSES, "wide": 1}, []
    for network, (text, image) in NETWORKS.items():
        trace = eval(text, vars(minicnn)).trace((batch, *image))
        layers = dict.fromkeys((repr(layer), shape) for layer, shape, _ in trace)
        cells += bench_layers.cells(layers, (False, True), passes[network])
    return cells


def measure(args: argparse.Namespace) -> list[dict]:
    batches, sgemm_sizes, copy_bytes = args.batches, SGEMM_SIZES, COPY_BYTES
    if args.quick:
        batches, sgemm_sizes, copy_bytes = [4], [64], 1 << 16
    records = []
    probe = {"framework": "minicnn", "device": args.device, "cores": harness.cores()}
    for work, sizes in (("sgemm", sgemm_sizes), ("copy", [copy_bytes])):
        print(f"{work} on the {args.device}", file=sys.stderr)
        probe |= {"work": work, "sizes": sizes}
        records += harness.race([probe], args.rounds, args.seconds_per_round, len(sizes))
    for network, (text, image) in NETWORKS.items():
        for work in ("train", "infer"):
            for batch in batches:
                own = {"network": network, "net": text, "image": image}
                own |= {"work": work, "batch": batch}
                records += race(args, f"{network}, {work}, batch {batch}", own)
    for batch in batches:
        if batch <= LARGEST_LAYER_BATCH:
            records += layer_records(args, batch)
    return records + (start_ups(batches[0]) if args.device == "gpu" else [])


def start_ups(batch: int) -> list[dict]:
    """The seconds from the start of a process to the end of its first step of LeNet, for each of
    CACHES."""
    text, image = NETWORKS["LeNet"]
    work = {"framework": "minicnn", "device": "gpu", "cores": harness.cores(), "batch": batch}
    work |= {"net": text, "image": image, "work": "train"}
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (cache, variables) in CACHES.items():
            own = {"CUPY_CACHE_DIR": str(Path(folder, cache))} | variables
            print(f"start-up, {name}", file=sys.stderr)
            record = work | {"work": "start", "caches": name}
            try:
                with harness.Contestant(work | {"environment": own}) as contestant:
                    record["first_step_seconds"] = contestant.first_step_seconds
            except Skipped as reason:
                record["skipped"] = str(reason)
            records.append(record)
    return records


def capture_check(net: str, steps: int = 50) -> tuple[bool, str]:
    """(whether it holds, a sentence) about captured steps, which must give the weights of the same
    steps taken one by one."""
    train_set = minicnn.digits()[0][: 256 * steps]
    weights = []
    for eager in (capture.EAGER_STEPS, sys.maxsize):  # the second never records
        with mock.patch.object(capture, "EAGER_STEPS", eager):
            own = eval(net, vars(minicnn) | {"rng": np.random.default_rng(0)}).to("gpu")
            optimizer = minicnn.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
            options = {"optimizer": optimizer, "schedule": cosine, "progress": False}
            minicnn.fit(own, train_set, epochs=2, capture=True, **options)
            weights.append([to_device(array, "cpu") for array in own.arrays.values()])
    furthest = max(float(abs(a - b).max()) for a, b in zip(*weights))
    return furthest == 0, f"captured and eager weights of {net} differ by up to {furthest:g}"


def all_of_it(args: argparse.Namespace, benchmark: Callable[[], None]) -> int:
    """Tests, capture check, benchmark and ten epochs, each with its seconds; how many failed."""

    def started(*command: str) -> bool:
        return (
            subprocess.run([sys.executable, "-m", *command], cwd=harness.HERE.parent).returncode
            == 0
        )

    def checks() -> bool:
        found = [capture_check(f"{name}(rng)") for name in ("lenet", "lenet_relu")]
        print(*(sentence for _, sentence in found), sep="\n")
        return all(holds for holds, _ in found)

    def epochs() -> bool:
        with tempfile.TemporaryDirectory() as folder:
            command = f"minicnn train --device {args.device} --capture --out {folder}/run"
            return started(*command.split())

    parts = {
        "tests on devices": lambda: started("pytest", "-q", *CHECKED),
        "captured steps": checks,
        "benchmark": lambda: benchmark() is None,
        "ten epochs": epochs,
    }
    failed = 0
    for name, part in parts.items():
        start = time.perf_counter()
        try:
            holds = part()
        except Exception as error:  # the other parts are worth having
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            holds = False
        failed += not holds
        verdict = "done" if holds else "FAILED"
        print(f"== {name}: {verdict} after {time.perf_counter() - start:.0f} s", flush=True)
    return failed


def layer_records(args: argparse.Namespace, batch: int) -> list[dict]:
    """A record for each contestant and cell; rates are passes per second."""
    cells = layer_cells(batch)
    work = {"work": "layers", "cells": cells}
    records = race(args, f"layers, batch {batch}", work, len(cells))
    for record in records:
        own = record.pop("cells")
        record.update(own[record["task"]] if "task" in record else {})
    return records


def step_seconds(record: dict, clock: str = "rates") -> float:
    """The seconds of a step of a network, or of a pass of a layer, in a median round."""
    return record.get("batch", 1) / spread(record[clock]).median


def common_cells(record: dict, results: dict) -> tuple:
    """The cells under COLUMNS."""
    records, device = results["records"], harness.measured_on(results)
    wanted = ("work", "layer", "shape", "backward", "net", "batch")
    same = {key: record[key] for key in wanted if key in record}
    ours = find(records, framework="minicnn", device=device, **same)
    own = peaks(records) if record["device"] == device else None
    floor = own and floor_seconds(work_of(record), own) or None  # there is none for Flatten
    by_events = step_seconds(record, "device_rates") if "device_rates" in record else None
    return (
        contestant(record),
        f"{1e6 * step_seconds(record):,.1f}",
        by_events and f"{1e6 * by_events:,.1f}",
        None if record is ours else ratio(ours, record),
        floor and f"{1e6 * floor:,.2f}",
        floor and f"{step_seconds(record) / floor:,.1f}",
    )


def contestant(record: dict) -> str:
    return f"{record['framework']}, {record['device']}"


def measured(results: dict, *works: str) -> list[dict]:
    return [r for r in results["records"] if r["work"] in works and "rates" in r]


def table(results: dict) -> str:
    networks = [
        (
            record["network"],
            record["work"],
            record["batch"],
            *common_cells(record, results),
            f"{spread(record['rates']).median:,.0f}",
            record["peak_bytes"] and f"{record['peak_bytes'] / MB:,.0f}",
            record.get("nodes"),
        )
        for record in measured(results, "train", "infer")
    ]
    layers = [
        (
            "x".join(map(str, record["shape"])),
            record["layer"],
            "forward, backward" if record["backward"] else "forward",
            *common_cells(record, results),
        )
        for record in measured(results, "layers")
    ]
    found = peaks(results["records"])
    reached = "not measured"
    if found:
        reached = f"{found.bandwidth / 1e9:,.1f} GB/s, {found.rate / 1e9:,.1f} GFLOP/s"
    return (
        f"The {harness.measured_on(results).upper()}: {reached}.\n\n## Networks\n\n"
        + markdown(("network", "work", "batch", *COLUMNS, "images/s", "peak MB", "nodes"), networks)
        + "\n## Layers\n\n"
        + markdown(("x", "layer", "pass", *COLUMNS), layers)
        + starts_table(results)
        + NOTE
    )


def starts_table(results: dict) -> str:
    starts = [r for r in results["records"] if r["work"] == "start" and "skipped" not in r]
    rows = [(r["caches"], f"{r['first_step_seconds']:.1f}") for r in starts]
    return "\n## Start to first step\n\n" + markdown(("kernels", "s"), rows) if rows else ""


def figure(results: dict) -> Figure:
    """Images per second against the batch, a panel for each network and work; dashed, the floor."""
    own_peaks, device = peaks(results["records"]), harness.measured_on(results)
    figure = Figure(figsize=(11, 7), layout="constrained")
    for network, row in zip(NETWORKS, figure.subplots(2, 2)):
        for work, axes in zip(("train", "infer"), row):
            records = [r for r in measured(results, work) if r["network"] == network]
            for color, name in enumerate(dict.fromkeys(map(contestant, records))):
                shown = [r for r in records if contestant(r) == name]
                points = [(r["batch"], spread(r["rates"])) for r in shown]
                harness.curve(axes, points, f"C{color}o-", name)
            batches = sorted({r["batch"] for r in records})
            if own_peaks and batches:
                one = {r["batch"]: r for r in records}
                rates = [b / floor_seconds(work_of(one[b]), own_peaks) for b in batches]
                axes.plot(batches, rates, "k--", label=f"at the floor of the {device.upper()}")
            harness.log_ticks(axes, batches)
            axes.set(xlabel="batch size", ylabel="images/s", yscale="log")
            axes.set_title(f"{network}, {work}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = harness.command_line(__doc__, rounds=9, seconds=0.1, device="gpu")
    add, told = parser.add_argument, " ".join(map(str, BATCHES))
    add("--batches", nargs="+", type=int, default=BATCHES, metavar="N", help=f"default: {told}")
    add("--all", action="store_true", help="also tests, check of captured steps and ten epochs")
    args = parser.parse_args(arguments)
    benchmark = partial(harness.main, "networks", measure, table, figure, args)
    if not args.all:
        benchmark()
        return
    try:
        args.device = choose_device("gpu")
    except DeviceError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    args.batches = args.batches[:2]
    sys.exit(all_of_it(args, benchmark))


if __name__ == "__main__":
    main()
