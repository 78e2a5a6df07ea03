"""What several processes that talk through MPI gain, measured with two here, and predicted by a
model for up to 1,024 on three networks.

python benchmarks/bench_mpi.py
python benchmarks/bench_mpi.py --quick                      does it run?
python benchmarks/bench_mpi.py --from mpi.json

Ranks and workers take turns, as everywhere here. A step on R ranks is taken to last

    seconds = chunks of a rank * seconds of a chunk
              + 2 * (log2(R) * latency + bytes of the gradients * (R - 1) / R / bandwidth)     (1)

since both exchanges of `minicnn.training.mpi` take log2(R) rounds for short messages, and move so
many bytes. Latency and bandwidth of a network are assumed, those between two processes of this
machine are fitted to its own times.
"""

import argparse
import contextlib
import functools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import harness
import numpy as np
from harness import MB, markdown, spread
from matplotlib.figure import Figure

from minicnn import SGD
from minicnn.datasets import Dataset
from minicnn.models import IMAGE
from minicnn.training import mpi, parallel
from minicnn.training.chunks import training_cut
from minicnn.training.ordered import OrderedSum
from minicnn.zoo import MODELS, wide

CASES = ((1, 1), (1, 2), (2, 1))  # ranks, workers of each
NETWORKS = {  # name: (latency in seconds, bytes a second)
    "1 Gbit/s": (50e-6, 0.125e9),
    "25 Gbit/s": (20e-6, 3.1e9),
    "InfiniBand, 200 Gbit/s": (2e-6, 25e9),
}
RANKS = (2, 8, 64, 1024)
NETS = {"lenet": (), "lenet-wide": (), "10 million parameters": (24, 48, 4096)}
LENGTHS = (1_000, 10_000, 100_000, 1_000_000)  # of float32, added up by two ranks
QUICK_LENGTHS = (1_000, 2_000)


def measure(args: argparse.Namespace) -> list[dict]:
    records = []
    with contextlib.ExitStack() as stack:
        racing = [stack.enter_context(_Job(ranks, workers)) for ranks, workers in CASES]
        steps = max(1, round(args.seconds_per_round / racing[0].run("train", 3) * 3))
        seconds = [[job.run("train", steps) for job in racing] for _ in range(args.rounds)]
        for (ranks, workers), own in zip(CASES, zip(*seconds)):
            case = {"framework": "minicnn", "ranks": ranks, "workers": workers}
            records.append({**case, "rates": [256 * steps / each for each in own]})
        together = racing[-1]
        waiting = [together.run("exchange", steps) / steps for _ in range(args.rounds)]
        records.append({"framework": "minicnn", "exchange_seconds": waiting})
        for length in QUICK_LENGTHS if args.quick else LENGTHS:
            for way in ("gathered", "sliced"):
                taken = [together.run(f"{way} {length}", 20) / 20 for _ in range(args.rounds)]
                records.append({"framework": "minicnn", "length": length, way: taken})
        for name in ("lenet",) if args.quick else NETS:
            chunk = [racing[0].run(f"chunk {name}", 2) / 2 for _ in range(args.rounds)]
            parameters = sum(a.size for a in _network(name).params.values())
            net = {"net": name, "parameters": parameters, "chunk_size": _chunk_size(name)}
            records.append({**net, "chunk_seconds": chunk})
    return records


class _Job:
    """Ranks that stay alive, and do what they are told on rank 0's standard input."""

    def __init__(self, ranks: int, workers: int) -> None:
        beside = str(Path(sys.executable).parent)
        mpiexec = shutil.which("mpiexec", path=os.pathsep.join([beside, os.environ["PATH"]]))
        command = [sys.executable, __file__, "--rank", str(workers)]
        if ranks > 1:
            if mpiexec is None:
                sys.exit('there is no mpiexec: pip install "minicnn[mpi]"')
            command = [mpiexec, "-n", str(ranks), *command]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, **pipes)

    def __enter__(self) -> "_Job":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()
        self.process.wait(30)

    def run(self, task: str, times: int) -> float:
        """The seconds that it took to do it so many times."""
        print(json.dumps([task, times]), file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def _serve(workers: int) -> None:
    """What each rank does."""
    ranks = mpi.world()
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(4096, 1, 28, 28), dtype=np.uint8)
    data = Dataset(images, rng.integers(10, size=4096), tuple("0123456789"), "random images")
    net, optimizer = _network("lenet"), SGD(0.1)
    with parallel.batch_gradients(net, data, 256, workers, ranks=ranks) as gradients:
        while job := _next_job(ranks):
            task, times = job
            kind, _, rest = task.partition(" ")
            work = {
                "train": functools.partial(_step, net, optimizer, gradients, rng),
                "exchange": functools.partial(_exchange, ranks, net),
                "gathered": functools.partial(_add_up, ranks, "_gathered_sum", rest),
                "sliced": functools.partial(_add_up, ranks, "_sliced_sum", rest),
                "chunk": functools.partial(_chunk, rest, data),
            }[kind]
            work()
            start = time.perf_counter()
            for _ in range(times):
                work()
            if ranks.rank == 0:
                print(time.perf_counter() - start, flush=True)


def _next_job(ranks: parallel.Alone) -> list | None:
    if ranks.rank == 0:
        line = sys.stdin.readline()
        for other in range(1, ranks.size):
            ranks.comm.send(line, other)
    else:
        while not ranks.comm.iprobe():  # waiting in recv would keep a core of the others busy
            time.sleep(1e-3)
        line = ranks.comm.recv()
    return json.loads(line) if line else None


def _step(net, optimizer, gradients, rng) -> None:
    optimizer.step(net.params, gradients(rng.integers(4096, size=256)).grads)


def _exchange(ranks: mpi.Ranks, net) -> None:
    """All the communication of a step of LeNet, with nothing computed."""
    share, sums = ranks.share(4), None
    sums = OrderedSum(share.start)
    for _ in share:
        grads = {f"grads.{name}": array for name, array in net.params.items()}
        sums.add({"loss": np.float32(0), "correct": np.int64(0)} | grads)
    ranks.total(sums, 4)


def _add_up(ranks: mpi.Ranks, way: str, length: str) -> None:
    getattr(ranks, way)(np.ones((1, int(length)), np.float32), [[1]] * ranks.size)


@functools.cache
def _network(name: str):
    rng = np.random.default_rng(0)
    return wide(*NETS[name], rng, IMAGE, 10) if NETS[name] else MODELS[name].build(rng)


def _chunk_size(name: str) -> int:
    return len(training_cut(_network(name), IMAGE)(256)[0])


def _chunk(name: str, data: Dataset) -> None:
    index = np.arange(_chunk_size(name))
    parallel.gradients(_network(name), data, parallel.softmax_cross_entropy, None, index, ())


def step_seconds(
    chunk_seconds: float, chunks: int, ranks: int, gradient_bytes: float, network: tuple
) -> float:
    """Of a batch of so many chunks, by the model (1)."""
    latency, bandwidth = network
    moved = gradient_bytes * (ranks - 1) / ranks / bandwidth
    return math.ceil(chunks / ranks) * chunk_seconds + 2 * (math.log2(ranks) * latency + moved)


def efficiency(net: dict, batch: int, ranks: int, network: tuple) -> float:
    """The images a second of a rank among so many, as a share of those of a rank alone."""
    chunk_seconds, chunks = spread(net["chunk_seconds"]).median, batch // net["chunk_size"]
    seconds = step_seconds(chunk_seconds, chunks, ranks, 4 * net["parameters"], network)
    return chunks * chunk_seconds / (ranks * seconds)


def this_machine(records: list[dict]) -> tuple[float, float]:
    """Latency and bandwidth between two processes, which fit the times of sums in slices best."""
    own = {r["length"]: spread(r["sliced"]).median for r in records if "sliced" in r}
    lengths, seconds = np.array(list(own)), np.array(list(own.values()))
    slope, constant = np.polyfit(4 * lengths, seconds, 1, w=1 / seconds)
    return max(constant, 0.0) / 2, 1 / slope


def table(results: dict) -> str:
    records = results["records"]
    measured = [r for r in records if "rates" in r]
    both = harness.find(measured, ranks=1, workers=2)
    nets = [r for r in records if "net" in r]
    here, lenet = this_machine(records), nets[0]
    rows = [
        (r["ranks"], r["workers"], f"{spread(r['rates']).median:,.0f}", harness.ratio(r, both))
        for r in measured
    ]
    text = markdown(("ranks", "workers of each", "images/s", "to 1 rank, 2 workers"), rows)
    exchange = next(spread(r["exchange_seconds"]) for r in records if "exchange_seconds" in r)
    predicted = 256 / step_seconds(
        spread(lenet["chunk_seconds"]).median, 4, 2, 4 * lenet["parameters"], here
    )
    text += (
        f"\nOf a step of LeNet on two ranks {1e3 * exchange.median:.2f} ms are communication, in "
        f"which each rank sends {4 * lenet['parameters'] / MB:.2f} MB: half of its sum of two "
        "chunks, and half of the result. Between two processes here, latency is "
        f"{1e6 * here[0]:.0f} us and bandwidth {here[1] / 1e9:.1f} GB/s; with these the model "
        f"predicts {predicted:,.0f} images/s.\n\n"
    )
    lengths = dict.fromkeys(r["length"] for r in records if "length" in r)
    rows = []
    for length in lengths:
        own = {k: v for r in records if r.get("length") == length for k, v in r.items()}
        times = [1e6 * spread(own[way]).median for way in ("gathered", "sliced")]
        rows.append((f"{length:,}", *(f"{t:,.0f}" for t in times)))
    text += markdown(("numbers added by two ranks", "gathered, us", "in slices, us"), rows)
    for title, batch in (
        ("weak scaling, 256 images a rank", lambda ranks: 256 * ranks),
        ("strong scaling, batches of 8,192 images", lambda ranks: 8192),
    ):
        rows = [
            (
                net["net"],
                name,
                *(f"{efficiency(net, batch(r), r, network):.0%}" for r in RANKS),
            )
            for net in nets
            for name, network in NETWORKS.items()
        ]
        header = ("network", f"predicted, {title}", *(f"{r:,} ranks" for r in RANKS))
        text += "\n" + markdown(header, rows)
    return text


def figure(results: dict) -> Figure:
    """Predicted efficiency against ranks, a panel for each network, and what was measured here."""
    records = results["records"]
    nets = [r for r in records if "net" in r]
    one, _, two = (spread(r["rates"]).median for r in records if "rates" in r)
    ranks = 2 ** np.arange(11)
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, net in zip(figure.subplots(1, len(nets), sharey=True, squeeze=False)[0], nets):
        for color, (name, network) in enumerate(NETWORKS.items()):
            weak = [efficiency(net, int(256 * r), r, network) for r in ranks]
            strong = [efficiency(net, 8192, r, network) for r in ranks]
            axes.plot(ranks, weak, f"C{color}-", label=name)
            axes.plot(ranks, strong, f"C{color}:")
        if net is nets[0]:
            axes.plot(2, two / one / 2, "ko", label="two ranks of this machine, measured")
        axes.set(title=f"{net['net']}\n{net['parameters']:,} parameters", xlabel="ranks")
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.supylabel("efficiency: speed of a rank, to that of one alone", fontsize=9)
    figure.suptitle(
        "predicted; solid: 256 images a rank, dotted: batches of 8,192 images", fontsize=10
    )
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = harness.command_line(__doc__, rounds=11, seconds=0.3)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.rank:
        _serve(args.rank)
    else:
        del args.rank
        harness.main("mpi", measure, table, figure, args)


if __name__ == "__main__":
    main()
