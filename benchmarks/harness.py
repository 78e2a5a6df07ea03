"""The clock and the report that all benchmarks share.

A contestant is a fresh process that stays alive and does a piece of work whenever asked, so that
contestants take turns, A B A B ..., and a busy moment of the machine hits all of them alike. Only
ratios within a round are compared. Everything measured goes into a JSON file; tables and pictures
are made from that file alone.
"""

import argparse
import contextlib
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import processor
import threadpoolctl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import minicnn
from minicnn.backend import DeviceError, choose_device
from minicnn.cuda import DEVICES
from minicnn.files import as_path
from minicnn.plotting import save_figure
from minicnn.training.cores import cores

HERE = Path(__file__).parent
FRAMEWORKS = ("minicnn", "torch", "torch.compile")
RATE_HEADER = ("framework", "images/s", "minicnn / it", "peak MB")
MB = 1e6
GPU_WARM_UP = 5  # steps


class Skipped(Exception):
    """A contestant cannot take part; the message says why."""


class Contestant:
    """A process of workloads.py on `settings["cores"]` cores that has taken its first step. Raises
    Skipped if it does not get there."""

    def __init__(self, settings: dict) -> None:
        self.settings = settings
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        start = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, HERE / "workloads.py", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | dict.fromkeys(threads, str(settings["cores"]))
            | settings.get("environment", {}),
        )
        try:
            self.first = self._answer()
        except BaseException:
            self.close()
            raise
        self.first_step_seconds = time.perf_counter() - start

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(self, steps: int, task: int = 0) -> dict:
        """{"seconds": how long the steps took, "amount": how much work they were, ...}, as reported
        by workloads.py."""
        with contextlib.suppress(BrokenPipeError):  # it has died, and the answer says so
            print(task, steps, file=self.process.stdin, flush=True)
        return self._answer()

    def steps_for(self, seconds: float, task: int = 0) -> int:
        """Warms up, and finds how many steps take about `seconds`."""
        if self.settings.get("device") == "gpu":
            self.run(GPU_WARM_UP, task)  # compiles kernels and fills the memory pool
        steps = 1
        while (taken := self.run(steps, task)["seconds"]) < seconds / 2:
            steps = math.ceil(steps * min(10, seconds / taken))
        return max(1, round(steps * seconds / taken))

    def peak_bytes(self) -> int | None:
        """Peak memory of the process and its live children; None if /proc does not have it.

        For one process it is the peak of its resident memory. Pages that forked processes share
        are counted once, by proportional shares; so are the libraries, which all of them map."""
        try:
            tree = [_memory(pid) for pid in _tree(self.process.pid)]
        except FileNotFoundError:
            return None
        private = sum(m["Pss_Anon"] + m["Pss_Shmem"] + m["VmHWM"] - m["VmRSS"] for m in tree)
        return 1024 * (private + max(m["RssFile"] for m in tree))

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # this ends it
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended with {self.process.wait()}"}
        if "error" in answer:
            raise Skipped(answer["error"])
        return answer


def race(contestants: Iterable[dict], rounds: int, seconds: float, tasks: int = 1) -> list[dict]:
    """A record for each contestant and task: its settings, with the rate (work per second) of each
    round, memory and time to the first step, or with the reason why it was skipped. On a GPU it
    also has the rates by events, and the memory is the GPU's."""
    records = []
    with contextlib.ExitStack() as stack:
        racing = []
        for settings in contestants:
            try:
                racing.append(stack.enter_context(Contestant(settings)))
            except Skipped as reason:
                records.append({**settings, "skipped": str(reason)})
        for task in range(tasks):
            steps = [contestant.steps_for(seconds, task) for contestant in racing]
            answers = [[] for _ in racing]
            for _ in range(rounds):
                for contestant, n, own in zip(racing, steps, answers):
                    time.sleep(0.01)  # the previous contestant's threads spin for a while
                    own.append(contestant.run(n, task))
            for contestant, own in zip(racing, answers):
                record = {**contestant.settings, "task": task, "rates": _rates(own, "seconds")}
                record["first_step_seconds"] = contestant.first_step_seconds
                if "device_seconds" in own[-1]:
                    record["device_rates"] = _rates(own, "device_seconds")
                    record["peak_bytes"] = own[-1]["device_bytes"]
                    if "nodes" in own[-1]:
                        record["nodes"] = own[-1]["nodes"]
                else:
                    record["peak_bytes"] = contestant.peak_bytes()
                records.append(record)
    return records


def _rates(answers: list[dict], clock: str) -> list[float]:
    return [answer["amount"] / answer[clock] for answer in answers]


def _tree(pid: int) -> list[int]:
    """A process and its live descendants."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += _tree(int(child))
    return found


def _memory(pid: int) -> dict[str, int]:
    """What Linux reports about a process's memory, in kB."""
    folder = Path(f"/proc/{pid}")
    text = (folder / "status").read_text() + (folder / "smaps_rollup").read_text()
    lines = [line.split() for line in text.splitlines()]
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1:] == ["kB"]}


class Spread(NamedTuple):
    """Median, 10th and 90th percentile."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def spread(values: Iterable[float]) -> Spread:
    return Spread(*np.percentile(list(values), [50, 10, 90]).tolist())


def ratio(record: dict | None, other: dict | None) -> Spread | None:
    """The ratio of two contestants' rates, round by round; None if either is missing."""
    if record is None or other is None:
        return None
    return spread(a / b for a, b in zip(record["rates"], other["rates"]))


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(np.mean(np.log(list(values))))


def find(records: Iterable[dict], **wanted: object) -> dict | None:
    """The record that took part and has these settings."""
    for record in records:
        if "rates" in record and wanted.items() <= record.items():
            return record
    return None


def gigaflops(record: dict, multiply_adds: int, backward: bool) -> float:
    """The GFLOP/s of a median round, for work counted in passes of so many multiply-adds forward; a
    backward pass counts as two forward passes."""
    return spread(record["rates"]).median * 2 * multiply_adds * (3 if backward else 1) / 1e9


def markdown(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; None becomes a dash."""
    rows = [["–" if cell is None else str(cell) for cell in row] for row in rows]
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def rate_cells(record: dict, records: list[dict], *keys: str) -> tuple:
    """The cells under RATE_HEADER; contestants with the same `keys` are compared."""
    peak, ours = record["peak_bytes"], None
    if record["framework"] != "minicnn":
        ours = find(records, framework="minicnn", **{key: record[key] for key in keys})
    return (
        record["framework"],
        f"{spread(record['rates']).median:,.0f}",
        ratio(ours, record),
        peak and f"{peak / MB:.0f}",
    )


def skipped(records: Iterable[dict]) -> str:
    """Which contestants did not take part, and why."""
    reasons = {f"{r['framework']}: {r['skipped']}" for r in records if "skipped" in r}
    return "".join(f"\nSkipped: {reason}\n" for reason in sorted(reasons))


def curve(axes: Axes, points: Iterable[tuple[float, Spread]], line: str, label: str) -> None:
    """Medians against x, with a band from the 10th to the 90th percentile."""
    if points := sorted(points):
        x, spreads = zip(*points)
        medians, lows, highs = zip(*spreads)
        axes.plot(x, medians, line, markersize=4, label=label)
        axes.fill_between(x, lows, highs, color=line[:2], alpha=0.15)
        axes.grid(alpha=0.3)


def log_ticks(axes: Axes, values: Iterable[float]) -> None:
    """A logarithmic x axis with ticks at the measured values only."""
    ticks = sorted(set(values))
    axes.set_xscale("log")
    axes.set_xticks(ticks, labels=map(str, ticks))
    axes.set_xticks([], minor=True)


def environment(device: str) -> dict:
    """What the numbers depend on. Contestants inherit this process's variables, and so does the
    process that tells which kernels are in use."""
    blas = [b for b in threadpoolctl.threadpool_info() if b["user_api"] == "blas"]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "minicnn": minicnn.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "BLAS": ", ".join(f"{b['internal_api']} {b['version']}" for b in blas),
        "torch": _version("torch"),
        "system": f"{platform.system()} {platform.machine()}",
        "CPU": processor.cpu(),
        "cores": cores(),
        **processor.in_use(),
        **(_gpu() if device == "gpu" else {}),
    }


def _gpu() -> dict:
    """The first GPU, which both frameworks use."""
    import cupy

    cuda = cupy.cuda.runtime.runtimeGetVersion()
    return {
        "GPU": cupy.cuda.runtime.getDeviceProperties(0)["name"].decode(),
        "driver": _driver(),
        "cupy": cupy.__version__,
        "CUDA": f"{cuda // 1000}.{cuda % 1000 // 10}",
    }


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(FileNotFoundError):
        lines = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
        return lines[0] if lines else None
    return None


def _commit() -> str | None:
    """The commit of this checkout, marked if the code (not the results) differs from it."""

    def git(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True)

    try:
        commit = git("rev-parse", "--short", "HEAD").stdout.strip()
        changed = git("diff", "--quiet", "HEAD", "--", "../minicnn", "*.py").returncode
    except FileNotFoundError:
        return None
    return (f"{commit} with changes" if changed else commit) if commit else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def measured_on(results: dict) -> str:
    """The device, "cpu" or "gpu"."""
    return results["settings"].get("device", "cpu")


def heading(results: dict) -> str:
    """Date, machine, versions and kernels in one line, and what the libraries were held to."""
    env, rounds = results["environment"], results["settings"].get("rounds")
    medians = f"Medians (10th to 90th percentile) of {rounds} alternating rounds.\n\n"
    gpu = ""
    if "GPU" in env:
        gpu = f"{env['GPU']}, driver {env['driver']}, CUDA {env['CUDA']}, CuPy {env['cupy']}; "
    return (
        f"{processor.held_to(env)}{env['date'][:10]}, {env['CPU']}, {env['cores']} cores; {gpu}"
        f"minicnn {env['commit']}, {processor.versions(env)}.\n\n"
    ) + (medians if rounds else "")


def command_line(
    documentation: str,
    rounds: int | None = None,
    seconds: float | None = None,
    device: str | None = None,
) -> argparse.ArgumentParser:
    """The options of all scripts, described by the script's first paragraph. `rounds` and `seconds`
    (per round) are the defaults of a script that works in rounds, `device` is that of a script that
    can run on several."""
    title = documentation.partition("\n\n")[0]
    parser = argparse.ArgumentParser(description=" ".join(title.split()))
    add = parser.add_argument
    if rounds:
        add("--rounds", type=int, default=rounds, help="default: %(default)s")
        add(
            "--seconds-per-round",
            type=float,
            default=seconds,
            metavar="S",
            help="of each contestant; default: %(default)s",
        )
    add("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    if device:
        add("--device", choices=DEVICES, default=device, help="default: %(default)s")
    if device != "gpu":
        add("--held-to", choices=processor.HELD_TO, help="use no newer instructions than these")
    add("--quick", action="store_true", help="does it run? a tiny run, saved only with --out")
    add("--out", type=as_path, help="default: the processor's folder in benchmarks/results")
    add("--from", type=as_path, dest="source", metavar="JSON", help="draw again what was measured")
    return parser


def main(
    name: str,
    measure: Callable[[argparse.Namespace], list[dict]],
    table: Callable[[dict], str],
    figure: Callable[[dict], Figure],
    args: argparse.Namespace,
) -> None:
    """Measures, or with --from reads earlier results, then writes JSON, table and picture, for a
    GPU under NAME_gpu. If a GPU is requested and none works, it says why and exits with 2."""
    if args.quick and "rounds" in args:
        args.rounds, args.seconds_per_round = 2, 0.001
    out = args.out
    if args.source:
        results = json.loads(args.source.read_text())
        out = out or args.source.parent
    else:
        if level := getattr(args, "held_to", None):
            processor.hold(level)
        try:
            args.device = choose_device(getattr(args, "device", "cpu"))
        except DeviceError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
        settings = {k: v for k, v in vars(args).items() if k not in ("out", "source")}
        env = environment(args.device)
        if level and processor.instructions(env["kernels"]).lower() != level:
            sys.exit(f"--held-to {level} has no effect: the kernels are {env['kernels']}")
        if not args.quick:
            out = out or HERE / "results" / processor.folder(env)
        results = {"environment": env, "settings": settings, "records": measure(args)}
    if measured_on(results) == "gpu":
        name += "_gpu"
    text = heading(results) + table(results) + skipped(results["records"])
    print(text)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
        (out / f"{name}.md").write_text(text)
        save_figure(figure(results), out / f"{name}.png")
