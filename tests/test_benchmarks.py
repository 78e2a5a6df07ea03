"""The benchmarks start, and the arithmetic of their report is right; no time is asserted."""

import contextlib
import ctypes
import importlib
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import strict_cublas
import strict_cupy
from mpiexec import needs_mpi

import minicnn
from minicnn import (
    AvgPool2D,
    Conv2D,
    Flatten,
    Linear,
    MaxPool2D,
    ReLU,
    Sequential,
    lenet,
    lenet_relu,
)
from minicnn.backend import device_of, gpu_problem

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """A function name -> the module of that script."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def run(name, *arguments, **env):
    return subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", *map(str, arguments)],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, stem, options",
    [
        ("layers", "layers", []),
        ("scaling", "scaling", []),
        ("accuracy", "accuracy", []),
        ("convolutions", "convolutions", []),
        ("gpu", "networks", ["--device", "cpu"]),
        ("mpi", "mpi", []),
    ],
)
def test_starts_and_draws_its_results_again(script, tmp_path, capsys, name, stem, options):
    if name == "mpi":
        needs_mpi()
    options = [*options, "--quick", "--out", tmp_path, "--frameworks", "minicnn"]
    first = run(f"bench_{name}", *options)
    assert first.returncode == 0, first.stderr
    files = [tmp_path / f"{stem}.{ending}" for ending in ("json", "md", "png")]
    assert sorted(tmp_path.iterdir()) == files
    out = tmp_path / "again"
    script(f"bench_{name}").main(["--from", str(files[0]), "--out", str(out)])
    assert capsys.readouterr().out == first.stdout
    for file in files[:2]:
        assert (out / file.name).read_text() == file.read_text()


@pytest.mark.parametrize(
    "name, options",
    [
        ("gpu", []),
        ("gpu", ["--all"]),
        *((name, ["--device", "gpu"]) for name in ("lenet", "scaling", "accuracy")),
    ],
)
def test_without_a_gpu_one_sentence_says_why(tmp_path, name, options):
    (tmp_path / "cupy.py").write_text("raise ImportError('not on this machine')")
    result = run(f"bench_{name}", *options, "--out", tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.startswith("no GPU can be used: CuPy cannot be imported (not on this")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.slow
def test_lenet_runs_alone_and_says_why_pytorch_is_missing(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('not on this machine')")
    result = run("bench_lenet", "--quick", "--out", tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "Skipped: torch: ImportError: not on this machine" in result.stdout
    assert "Skipped: torch.compile: ImportError: not on this machine" in result.stdout
    records = json.loads((tmp_path / "lenet.json").read_text())["records"]
    measured = [record for record in records if "rates" in record]
    assert {record["framework"] for record in measured} == {"minicnn"}
    assert {record.get("work") for record in measured} == {"train", "infer", "layers"}
    assert all(len(record["rates"]) == 2 and min(record["rates"]) > 0 for record in measured)


SGD = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


@pytest.mark.slow
def test_pytorch_does_the_same_work(script):
    """From the same weights, over the same batches, to the same accuracy; and its other tasks."""
    pytest.importorskip("torch")
    workloads = script("workloads")
    settings = {"net": repr(lenet_relu()), "lr": 0.02, "sgd": SGD, "batch": 20, "seed": 0}
    settings |= {"data": ("digits", 1000, 300), "parts": 2, "epochs": 2, "cores": 1}
    accuracies = []
    for framework in ("minicnn", "torch"):
        settings["framework"] = framework
        with getattr(workloads, f"{framework}_epochs")(settings) as (task,):
            for _ in range(4):
                task.step()
            assert task.amount == 500
            accuracies.append(task.after()["accuracy"])
    assert accuracies[0] > 0.3
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.02)


@pytest.mark.parametrize("work", ["train", "infer", "layers"])
def test_pytorch_tasks_run(script, work):
    pytest.importorskip("torch")
    cell = {"layer": "Conv2D(1, 2, 3, padding=1)", "shape": (4, 1, 8, 8), "passes": 3}
    settings = {
        "framework": "torch",
        "batch": 4,
        "image": (1, 4, 4),
        "net": "Sequential(AvgPool2D(2), Flatten(), Linear(4, 10))",
        "cells": [cell | {"backward": False}, cell | {"backward": True}],
    }
    with getattr(script("workloads"), f"torch_{work}")(settings) as tasks:
        for task in tasks:
            task.step()
    assert [task.amount for task in tasks] == ([3, 3] if work == "layers" else [4])


def test_spread_is_median_and_percentiles(script):
    assert script("harness").spread([11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) == (6, 2, 10)
    assert str(script("harness").spread([1, 2])) == "1.50 (1.10 to 1.90)"


def test_ratio_is_taken_round_by_round(script):
    ratio = script("harness").ratio
    # 1/2, 4/2, 9/3: the median is 2, the ratio of the medians would be 4/2 too, but of the
    # means 14/7; the percentiles lie a fifth of the way between neighbours
    found = ratio({"rates": [1, 4, 9]}, {"rates": [2, 2, 3]})
    assert found == pytest.approx((2, 0.8, 2.8))
    assert ratio({"rates": [1, 10]}, {"rates": [10, 1]}).median == pytest.approx(5.05)
    assert ratio({"rates": [1]}, None) is None


def test_geometric_mean(script):
    assert script("harness").geometric_mean([1, 4, 16]) == pytest.approx(4)


def test_gigaflops(script):
    """10 passes a second over 5e8 multiply-adds are 10 GFLOP/s forward, 30 with backward."""
    gigaflops = script("harness").gigaflops
    assert gigaflops({"rates": [10, 10, 90]}, 500_000_000, backward=False) == pytest.approx(10)
    assert gigaflops({"rates": [10, 10, 90]}, 500_000_000, backward=True) == pytest.approx(30)


def test_find_takes_only_who_took_part(script):
    records = [{"framework": "torch", "skipped": "?"}, {"framework": "torch", "rates": [1]}]
    assert script("harness").find(records, framework="torch") is records[1]
    assert script("harness").find(records, framework="minicnn") is None


def test_markdown(script):
    table = script("harness").markdown(("a", "b"), [(1, None), ("x", 2.5)])
    assert table == "| a | b |\n| --- | --- |\n| 1 | – |\n| x | 2.5 |\n"


def test_peak_memory_grows_with_what_a_process_holds(script):
    harness = script("harness")
    settings = {"framework": "minicnn", "work": "sgemm", "cores": 1}
    peaks = []
    for n in (8, 2048):  # three matrices of 16.8 MB each
        with harness.Contestant(settings | {"sizes": [n]}) as contestant:
            peaks.append(contestant.peak_bytes())
    if None in peaks:
        pytest.skip("there is no /proc with a process's memory here")
    assert 50e6 < peaks[1] - peaks[0] < 100e6


def test_contestant_that_fails_is_skipped_with_its_reason(script):
    harness = script("harness")
    settings = {"framework": "minicnn", "work": "train", "cores": 1, "batch": 1}
    with pytest.raises(harness.Skipped, match="KeyError: 'net'"):
        harness.Contestant(settings)


def lenet_record(framework, work, cores, batch, rate, peak_mb):
    """Two rounds of the same rate."""
    return {
        "framework": framework,
        "work": work,
        "cores": cores,
        "batch": batch,
        "rates": [rate, rate],
        "peak_bytes": peak_mb * 10**6,
        "first_step_seconds": 1.25,
    }


def test_what_must_hold(script):
    bench_layers, bench_lenet = script("bench_layers"), script("bench_lenet")
    records = [
        lenet_record("minicnn", "train", 2, 256, 30_000, 100),
        lenet_record("torch", "train", 2, 256, 15_000, 500),
        lenet_record("torch.compile", "train", 2, 256, 25_000, 600),
        lenet_record("minicnn", "train", 1, 256, 15_000, 80),
        lenet_record("torch", "train", 1, 256, 10_000, 450),
        lenet_record("minicnn", "train", 2, 32, 26_000, 80),
        lenet_record("torch.compile", "train", 2, 32, 20_000, 600),
        lenet_record("minicnn", "infer", 2, 256, 60_000, 90),
        lenet_record("torch", "infer", 2, 256, 50_000, 400),
        lenet_record("minicnn", "infer", 2, 32, 40_000, 90),
        lenet_record("torch", "infer", 2, 32, 50_000, 400),
        lenet_record("minicnn", "train", 2, 8192, 30_000, 130),
    ]
    # passes a second; the geometric mean of 1, 1, 1, 1 and 1/32 is 1/2
    for (layer, shape), rate in zip(bench_layers.WIDE, (32, 32, 32, 32, 1)):
        cell = {"work": "layers", "layer": layer, "shape": list(shape), "backward": True}
        records.append({"framework": "minicnn", "cores": 2, "rates": [rate, rate], **cell})
        records.append({"framework": "torch", "cores": 2, "rates": [32, 32], **cell})
    results = {"environment": {"cores": 2}, "records": records}
    lines = bench_lenet.must_hold(results).splitlines()[2:]
    assert [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines] == [
        ["2.00 (2.00 to 2.00)", "1.25", "2", "aim"],
        ["1.50 (1.50 to 1.50)", "1.3", "1.6", "yes"],
        ["1.20 (1.20 to 1.20)", "1", "1.5", "yes"],
        ["1.30 (1.30 to 1.30)", "–", "1.25", "aim"],
        ["1.20 (1.20 to 1.20)", "1.25", "1.5", "no"],
        ["0.80 (0.80 to 0.80)", "–", "1", "no"],
        ["0.50 (0.50 to 0.50)", "0.75", "1.25", "no"],
        ["2.00 (2.00 to 2.00)", "1.6", "1.9", "aim"],
        ["1/5.0 (100 of 500 MB)", "at most 1/3", "1/5", "aim"],
        ["30.0 MB", "at most the batch, 25 MB", "–", "no"],
    ]
    rates = bench_lenet.rates(results).splitlines()[2:]
    assert rates[0] == "| train | 256 | 2 | minicnn | 30,000 | – | 100 | 1.2 |"
    assert rates[1] == "| train | 256 | 2 | torch | 15,000 | 2.00 (2.00 to 2.00) | 500 | 1.2 |"


AVX512 = {"OpenBLAS": "SkylakeX", "NumPy": "AVX512_SPR", "PyTorch": "AVX512"}
AVX2 = {"OpenBLAS": "Haswell", "NumPy": "X86_V3", "PyTorch": "AVX2"}
XEON = {"CPU": "Intel(R) Xeon(R) Processor", "kernels": AVX512, "held": {}}
HELD = {"kernels": AVX2, "held": {"OPENBLAS_CORETYPE": "Haswell"}}


@pytest.mark.parametrize(
    "environment, folder",
    [
        (XEON, "intel-xeon-avx512"),
        (XEON | HELD, "intel-xeon-held-to-avx2"),
        (XEON | HELD | {"kernels": AVX512 | {"OpenBLAS": "Zen"}}, "intel-xeon-held-to-avx2-avx512"),
        ({"CPU": "AMD EPYC 7763 64-Core Processor", "kernels": AVX2}, "amd-epyc-7763-avx2"),
        ({"CPU": "Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz"}, "intel-core-i7-8550u-avx512"),
        ({"CPU": "Apple M1", "kernels": {"NumPy": "ASIMDDP"}}, "apple-m1-asimddp"),
        ({"GPU": "NVIDIA H200"}, "nvidia-h200"),
        ({"GPU": "NVIDIA H200"} | HELD, "nvidia-h200-held-to-avx2"),
    ],
)
def test_results_lie_by_processor_and_kernels(script, environment, folder):
    assert script("processor").folder(XEON | environment) == folder


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is of x86")
def test_a_run_held_to_avx2_uses_it_and_says_so(tmp_path):
    options = ["--quick", "--held-to", "avx2", "--out", tmp_path]
    result = run("bench_convolutions", *options)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "convolutions.json").read_text())["environment"]
    assert found["kernels"]["OpenBLAS"] == "Haswell"
    assert not [name for name in found["kernels"].values() if "512" in name or "V4" in name]
    assert len(found["held"]) == 5
    assert result.stdout.startswith("**Held to AVX2** by `NPY_DISABLE_CPU_FEATURES=")


def test_a_run_that_is_not_held_says_so(script, monkeypatch, tmp_path):
    harness, processor = script("harness"), script("processor")
    monkeypatch.setattr(processor, "in_use", lambda: {"kernels": AVX512, "held": {"X": "Y"}})
    monkeypatch.setattr(processor, "hold", lambda level: None)
    args = harness.command_line("").parse_args(["--held-to", "avx2", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="--held-to avx2 has no effect: .*SkylakeX"):
        harness.main("name", None, None, None, args)


def test_results_go_to_the_folder_of_the_processor_and_stay_where_they_are(script, monkeypatch):
    harness, processor = script("harness"), script("processor")
    saved = []
    monkeypatch.setattr(processor, "in_use", lambda: {"kernels": AVX512, "held": {}})
    monkeypatch.setattr(processor, "cpu", lambda: "Intel(R) Xeon(R) Processor")
    monkeypatch.setattr(Path, "mkdir", lambda *args, **options: None)
    monkeypatch.setattr(Path, "write_text", lambda path, text: saved.append((path, text)))
    monkeypatch.setattr(harness, "save_figure", lambda figure, path: saved.append((path, figure)))

    def main(*arguments):
        args = harness.command_line("").parse_args(arguments)
        harness.main("name", lambda args: [], lambda results: "table", lambda results: None, args)
        return {path: text for path, text in saved}

    found = BENCHMARKS / "results/intel-xeon-avx512"
    files = main()
    assert {*files} == {found / "name.json", found / "name.md", found / "name.png"}
    assert "(SIMD AVX512_SPR; openblas" in files[found / "name.md"]
    assert "kernels SkylakeX), PyTorch" in files[found / "name.md"]
    older = json.loads(files[found / "name.json"])
    del older["environment"]["kernels"], older["environment"]["held"]
    monkeypatch.setattr(Path, "read_text", lambda path: json.dumps(older))
    saved.clear()
    files = main("--from", "elsewhere/name.json")
    assert {path.parent for path in files} == {Path("elsewhere")}
    assert "SIMD" not in files[Path("elsewhere/name.md")]


def test_the_tables_of_processors_are_up_to_date(script):
    for path, text in script("compare").pages().items():
        assert path.read_text("utf-8") == text, f"python benchmarks/compare.py writes {path.name}"


def test_the_table_of_processors_by_hand(script):
    """Two: one with all figures, one with nothing but minicnn's; and a GPU, which has no column."""
    compare, bench_convolutions = script("compare"), script("bench_convolutions")
    environment = XEON | {"date": "2026-11-22T10:00:00", "commit": "abc", "cores": 2}
    environment |= {"numpy": "2.4", "BLAS": "openblas 0.3", "torch": "2.13", "python": "3.11"}
    later = environment | {"date": "2026-11-29T10:00:00", "commit": "def"}
    sweep = [
        {"framework": framework, "sweep": "channels", "channels": n, "rates": [rate, rate]}
        for framework, rates in (("minicnn", (3, 4, 5)), ("torch", (2, 4, 10)))
        for n, rate in zip((16, 32, 64), rates)
    ]
    epochs = [
        {"framework": name, "rounds": [{"seconds": s, "accuracy": a} for a in (0.8, 0.9)]}
        for name, s in (("minicnn", 5), ("torch", 7.5), ("torch.compile", 6))
    ]
    layer, shape = bench_convolutions.CELLS[0]
    forms = [
        {"framework": name, "layer": layer, "shape": list(shape), "backward": True, "rates": [r]}
        for name, r in (("Conv2D", 3), ("im2col", 4))
    ]
    lenet = [lenet_record("minicnn", "train", 2, 256, 30_000, 100)]
    both = [*lenet, lenet_record("torch", "train", 2, 256, 15_000, 500)]
    full = {"lenet": both, "scaling": sweep, "fast90": epochs, "convolutions": forms}
    processors = {
        "a": {k: {"records": v, "environment": environment} for k, v in full.items()},
        "b": {"lenet": {"records": lenet, "environment": later | HELD}},
        "c": {"lenet_gpu": {"records": [], "environment": environment}},
    }
    processors["a"]["fast90"]["environment"] = later
    lines = compare.ratios(processors).splitlines()
    assert lines[0] == "|  | wanted | a | b |"
    cells = [line.split(" | ")[1:] for line in lines[2:-3]]
    assert cells[0] == ["2", "2.00 (2.00 to 2.00)", "– |"]
    assert cells[8] == ["1/5", "1/5.0 (100 of 500 MB)", "– |"]
    assert cells[-4:] == [
        ["1.1", "1.50, 1.00, 0.50", "– |"],
        ["2", "1.50 (10.0 and 15.0 s)", "– |"],
        ["–", "–", "– |"],
        ["1", "0.75 (0.75 to 0.75)", "– |"],
    ]
    numpy = "NumPy 2.4 (SIMD {}; openblas 0.3, kernels {}), PyTorch 2.13 (SIMD {}), Python 3.11"
    assert lines[-2:] == [
        "- [a](benchmarks/results/a/lenet.md): Intel(R) Xeon(R) Processor, 2 cores; "
        + numpy.format("AVX512_SPR", "SkylakeX", "AVX512")
        + "; measured on 2026-11-22 to 2026-11-29, minicnn abc, def",
        "- [b](benchmarks/results/b/lenet.md): Intel(R) Xeon(R) Processor, 2 cores, held to AVX2; "
        + numpy.format("X86_V3", "Haswell", "AVX2")
        + "; measured on 2026-11-29, minicnn def",
    ]
    dates = compare.dates(processors).splitlines()
    assert dates[0] == "|  | a | b | c |"
    assert "| lenet | [2026-11-22](results/a/lenet.md), abc | [2026-11-29](results/b/" in dates[4]
    assert not re.search(
        "[a-z] (and|to|of) |cores|held|measured", compare.chinese("\n".join(lines))
    )


def test_layer_row(script):
    """Conv2D(3, 32, 3, padding=1) on 64x3x32x32: 64*32*32*32*3*9 = 56,623,104 multiply-adds, so
    10 passes forward and backward a second are 3.4 GFLOP/s, of 2 * 17 a tenth."""
    bench_layers = script("bench_layers")
    record = {"framework": "minicnn", "work": "layers", "cores": 2, "rates": [10, 10]}
    record |= bench_layers.cells(bench_layers.WIDE[:1], [True])[0]
    torch = record | {"framework": "torch", "rates": [20, 20]}
    assert bench_layers.row(record, [record, torch], peak=17) == (
        "64x3x32x32",
        "Conv2D(3, 32, 3, padding=1)",
        "forward, backward",
        2,
        (0.5, 0.5, 0.5),
        "3.4",
        "10%",
    )


def test_convolution_row(script):
    """The layer at 2000 and 1000 calls a second, a form at 500 and 500: 4 and 2 times its time."""
    cell = {"layer": "Conv2D(1, 1, 3)", "shape": [1, 1, 8, 8]}
    record = cell | {"backward": False, "peak_bytes": 2_345_678}
    records = [
        record | {"framework": "im2col", "rates": [500, 500]},
        record | {"framework": "Conv2D", "rates": [2000, 1000]},
        cell | {"framework": "loops", "skipped": "too slow"},
    ]
    row, left_out = script("bench_convolutions").row, (None,) * 3
    name = ("1x1x8x8", "Conv2D(1, 1, 3)")
    figures = ("2,000", pytest.approx((3, 2.2, 3.8)), "2,346")
    assert row("im2col", cell, records) == (*name, "im2col", *figures, *left_out)
    assert row("Conv2D", cell, records) == (*name, "Conv2D", "667", None, "2,346", *left_out)
    assert row("loops", cell, records) == (*name, "loops", *left_out, *left_out)


def test_peak_bytes_of_a_call(script):
    """Two arrays of 8 MB at the same time, then one when both are gone."""

    def call():
        both = [np.ones(10**6), np.ones(10**6)]
        both.clear()
        np.ones(10**6)

    assert script("bench_convolutions").peak_bytes(call) == pytest.approx(16e6, rel=0.01)


def test_seconds_to_an_accuracy(script):
    bench_accuracy = script("bench_accuracy")
    rounds = [{"seconds": 2, "accuracy": a} for a in (0.5, 0.81, 0.79, 0.86)]
    points = bench_accuracy.curve({"rounds": rounds})
    assert points == [(2, 0.5), (4, 0.81), (6, 0.79), (8, 0.86)]
    assert bench_accuracy.seconds_to(points, 0.80) == 4
    assert bench_accuracy.seconds_to(points, 0.85) == 8
    assert bench_accuracy.seconds_to(points, 0.90) is None


@pytest.fixture
def double(monkeypatch):
    """The strict double in place of CuPy."""
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.cupy)
    gpu_problem.cache_clear()
    yield strict_cupy
    gpu_problem.cache_clear()


@pytest.mark.parametrize("work", ["train", "infer", "layers"])
def test_a_step_on_a_gpu_is_in_one_piece_and_waits_for_nothing(script, double, work, monkeypatch):
    def forward(layer, x, compute=Conv2D.forward):
        assert device_of(x) == "gpu" and len(x) == 70
        return compute(layer, x)

    monkeypatch.setattr(Conv2D, "forward", forward)
    cell = {"layer": "Conv2D(1, 2, 3, padding=1)", "shape": (70, 1, 8, 8), "passes": 3}
    settings = {
        "device": "gpu",
        "cores": 2,
        "batch": 70,  # more than a chunk
        "image": (1, 4, 4),
        "net": "Sequential(Conv2D(1, 1, 3), Flatten(), Linear(4, 10))",
        "cells": [cell | {"backward": False}, cell | {"backward": True}],
    }
    with getattr(script("workloads"), f"minicnn_{work}")(settings) as tasks:
        for task in tasks:
            task.step()
            before = vars(double.counts).copy()
            task.step()
            uploads = 1 if work == "train" else 0  # which images
            assert vars(double.counts) == before | {"uploads": before["uploads"] + uploads}
    assert [task.amount for task in tasks] == ([3, 3] if work == "layers" else [70])


def test_a_captured_step_is_one_launch_and_its_pool_counts(script, double, monkeypatch):
    cublas, launched = strict_cublas.false_cublas(), []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: cublas)
    launch = strict_cupy.Graph.launch
    monkeypatch.setattr(
        strict_cupy.Graph, "launch", lambda *args: (launched.append(1), launch(*args))
    )
    pool = SimpleNamespace(total_bytes=lambda: 1)
    monkeypatch.setattr(double.cupy, "get_default_memory_pool", lambda: pool, raising=False)
    monkeypatch.setattr(strict_cupy.MemoryPool, "total_bytes", lambda self: 2, raising=False)
    workloads = script("workloads")
    monkeypatch.setattr(workloads, "EPOCH", 4)
    monkeypatch.setattr(workloads, "_nodes", lambda graph, address: {"nodes": len(graph.nodes)})
    net = "Sequential(Conv2D(1, 1, 3), Flatten(), Linear(4, 10))"
    settings = {"device": "gpu", "cores": 1, "batch": 8, "image": (1, 4, 4), "net": net}
    with workloads.minicnn_captured_train(settings) as (task,):
        assert len(launched) == 1  # the third step
        for _ in range(6):  # into another epoch
            task.step()
        assert len(launched) == 7
        after = task.after()
    assert after["device_bytes"] == 3 and 20 < after["nodes"] < 100
    assert double.cupy.cuda.get_current_stream() is double.cupy.cuda.Stream.null


def test_the_nodes_of_a_graph_are_asked_of_the_driver(script, monkeypatch):
    def count(pointer, nodes, count):
        count._obj.value = 7
        return 0 if pointer.value == 1 << 40 else 1

    driver = SimpleNamespace(cuGraphGetNodes=count)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    nodes = script("workloads")._nodes
    assert nodes(SimpleNamespace(graph=1 << 40), "graph") == {"nodes": 7}
    assert nodes(SimpleNamespace(raw_cuda_graph=lambda: 1 << 40), "raw_cuda_graph") == {"nodes": 7}
    assert nodes(SimpleNamespace(graph=1), "graph") == {}


def test_captured_steps_are_compared_with_eager_ones(script, double, monkeypatch, small_digits):
    cublas, bench_gpu = strict_cublas.false_cublas(), script("bench_gpu")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: cublas)
    monkeypatch.setattr(minicnn, "digits", lambda: (small_digits[0][:1024], None))
    net = "Sequential(AvgPool2D(14), Flatten(), Linear(4, 10, rng=rng))"
    holds, sentence = bench_gpu.capture_check(net)
    assert holds and sentence == f"captured and eager weights of {net} differ by up to 0"
    launch = strict_cupy.Graph.launch
    monkeypatch.setattr(strict_cupy.Graph, "launch", lambda *args: (launch(*args), launch(*args)))
    holds, sentence = bench_gpu.capture_check(net)
    assert not holds and not sentence.endswith(" 0")


def test_all_parts_are_done_although_one_fails(script, monkeypatch, capsys):
    bench_gpu, commands = script("bench_gpu"), []

    def run(command, cwd):
        commands.append(command[2:])
        return SimpleNamespace(returncode=int("pytest" in command))

    monkeypatch.setattr(bench_gpu.subprocess, "run", run)
    monkeypatch.setattr(bench_gpu, "capture_check", lambda net: (True, f"{net} agrees"))

    def benchmark():
        raise RuntimeError("no memory")

    args = SimpleNamespace(device="gpu")
    assert bench_gpu.all_of_it(args, benchmark) == 2
    assert [command[0] for command in commands] == ["pytest", "minicnn"]
    out, err = capsys.readouterr()
    lines = [line.partition(" after")[0] for line in out.splitlines()]
    assert lines == [
        "== tests on devices: FAILED",
        "lenet(rng) agrees",
        "lenet_relu(rng) agrees",
        "== captured steps: done",
        "== benchmark: FAILED",
        "== ten epochs: done",
    ]
    assert err == "RuntimeError: no memory\n"


def test_a_start_has_a_cache_of_kernels_of_its_own_or_that_of_another(script, monkeypatch):
    bench_gpu, environments = script("bench_gpu"), []

    class Contestant:
        first_step_seconds = 1.25

        def __init__(self, settings):
            environments.append(settings["environment"])
            if len(environments) == 3:
                raise bench_gpu.Skipped("no GPU")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(bench_gpu.harness, "Contestant", Contestant)
    records = bench_gpu.start_ups(256)
    caches = [environment["CUPY_CACHE_DIR"] for environment in environments]
    assert caches[0] == caches[2] != caches[1]
    assert [r.get("first_step_seconds") for r in records] == [1.25, 1.25, None]
    assert bench_gpu.starts_table({"records": records}).count("1.2") == 2


def test_a_batch_larger_than_the_usual_data_has_as_many_images(script):
    workloads = script("workloads")
    batch = 2 * workloads.IMAGES
    assert len(workloads._minicnn_data({"batch": batch, "image": (1, 2, 2)})) == batch
    assert next(workloads._slices(batch)) == slice(0, batch)
    assert len(workloads._minicnn_data({"batch": 5, "image": (1, 2, 2)})) == workloads.IMAGES


@pytest.mark.slow
def test_a_gpu_comes_to_the_same_accuracy(script, double):
    settings = {"net": repr(lenet_relu()), "lr": 0.02, "sgd": SGD, "batch": 20, "seed": 0}
    settings |= {"data": ("digits", 500, 100), "parts": 1, "epochs": 4, "cores": 1}
    accuracies = []
    for device in ("cpu", "gpu"):
        with script("workloads").minicnn_epochs(settings | {"device": device}) as (task,):
            for _ in range(4):
                task.step()
            accuracies.append(task.after()["accuracy"])
    assert accuracies[0] > 0.3
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.05)


@pytest.mark.parametrize("framework", ["minicnn", "torch"])
def test_the_gpu_is_waited_for_before_each_reading_of_a_clock(script, monkeypatch, framework):
    """Two events 5 ms apart, in stand-ins for CuPy and PyTorch; a clock that counts in seconds."""
    calls = []

    class Event:
        def __init__(self, **options):
            assert options == ({"enable_timing": True} if framework == "torch" else {})

        def record(self):
            calls.append("event")
            self.recorded = calls.count("event")

        def elapsed_time(self, later):
            return 5.0 * (later.recorded - self.recorded)

    def synchronize():
        calls.append("synchronize")

    def clock():
        calls.append("clock")
        return float(len(calls))

    cupy = SimpleNamespace(
        cuda=SimpleNamespace(
            Event=Event,
            get_elapsed_time=Event.elapsed_time,
            runtime=SimpleNamespace(deviceSynchronize=synchronize),
        ),
        get_default_memory_pool=lambda: SimpleNamespace(total_bytes=lambda: 7),
    )
    torch = SimpleNamespace(
        cuda=SimpleNamespace(Event=Event, synchronize=synchronize, max_memory_reserved=lambda: 7)
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "torch", torch)
    workloads = script("workloads")
    monkeypatch.setattr(workloads.time, "perf_counter", clock)
    task = workloads.Task(lambda: calls.append("step"), 1)
    answer = workloads._timed_on_gpu(task, 2, framework)
    started, *timed, ended = " ".join(calls).split(" clock")
    assert (started, timed, ended) == ("synchronize", [" event step step event synchronize"], "")
    assert answer == {"seconds": 6.0, "device_seconds": 0.005, "device_bytes": 7}


def test_a_record_has_both_clocks_and_the_memory_of_the_gpu(script, monkeypatch):
    harness = script("harness")

    class Contestant(contextlib.nullcontext):
        first_step_seconds, steps = 1.5, []

        def __init__(self, settings):
            super().__init__(self)
            self.settings = settings

        steps_for = harness.Contestant.steps_for

        def run(self, steps, task=0):
            self.steps.append(steps)
            times = {"seconds": 2.0 * steps, "device_seconds": 1.0 * steps}
            return times | {"amount": 8 * steps, "device_bytes": 7}

    monkeypatch.setattr(harness, "Contestant", Contestant)
    settings = {"framework": "minicnn", "device": "gpu"}
    assert harness.race([settings], rounds=2, seconds=4) == [
        settings
        | {"task": 0, "rates": [4.0, 4.0], "device_rates": [8.0, 8.0]}
        | {"first_step_seconds": 1.5, "peak_bytes": 7}
    ]
    assert Contestant.steps == [harness.GPU_WARM_UP, 1, 2, 2]


LAYER_WORK = [  # bytes and operations, forward and with backward; the numbers of x, y, parameters
    (Conv2D(3, 32, 3, padding=1), (64, 3, 32, 32), 9_178_624, 19_147_264, 113_246_208),
    # 196,608 2,097,152 896: 4*(x + p + y), and 4*(dy + x + dp + p + dx) more; 2*y*27
    (Linear(400, 120), (256, 400), 724_960, 2_052_000, 24_576_000),
    # 102,400 30,720 48,120: 4*(x + p + y), and 4*(dy + x + dp + p + dx) more; 2*x*120
    (ReLU(), (2, 5), 80, 200, 0),  # 10 10 0: 4*(x + y), and 4*(dy + y + dx) more
    (MaxPool2D(2), (1, 1, 4, 4), 80, 176, 0),  # 16 4 0: 4*(x + y), 4*(dy + places + dx) more
    (AvgPool2D(2), (1, 1, 4, 4), 80, 160, 0),  # 16 4 0: 4*(x + y), 4*(dy + dx) more
    (Flatten(), (2, 1, 4, 4), 0, 0, 0),
]


@pytest.mark.parametrize("layer, shape, forward, both, operations", LAYER_WORK)
def test_work_of_a_layer_by_hand(script, layer, shape, forward, both, operations):
    layer_work = script("limits").layer_work
    assert layer_work(layer, shape, backward=False) == (forward, operations)
    assert layer_work(layer, shape, backward=True) == (both, 3 * operations)


def test_work_of_a_network_by_hand(script):
    """Two images. In numbers: x 32, convolution 20 parameters, y 16; linear 90 parameters, y 20."""
    network_work = script("limits").network_work
    net = Sequential(Conv2D(1, 2, 3), ReLU(), Flatten(), Linear(8, 10))
    # multiply-adds: 16 * 9 = 144 and 20 * 8 = 160
    forward = (32 + 20 + 16) + (16 + 16) + (16 + 90 + 20)
    assert network_work(net, (2, 1, 4, 4), training=False) == (4 * forward, 2 * (144 + 160))
    backward = (16 + 32 + 20) + (16 + 16 + 16) + (20 + 16 + 90 + 90 + 16)
    rest = (20 + 20) + 5 * (20 + 90)  # logits and their gradient; SGD
    assert network_work(net, (2, 1, 4, 4), training=True) == (
        4 * (forward + backward + rest),
        2 * (2 * 144 + 3 * 160),
    )


def test_floor_is_the_larger_of_the_two(script):
    limits = script("limits")
    device = limits.Peaks(bandwidth=2e12, rate=5e13)
    assert limits.floor_seconds(limits.Work(4 * 10**6, 5 * 10**7), device) == 2e-6
    assert limits.floor_seconds(limits.Work(4 * 10**6, 5 * 10**8), device) == 1e-5


def test_rows_of_the_gpu(script):
    """At 1 GB/s and 1 GFLOP/s: a pass over MaxPool2D(2) of 1x1x4x4 moves 176 bytes, and for 32
    images LeNet takes 2 * 32 * 416,520 = 26,657,280 operations."""
    bench_gpu = script("bench_gpu")
    cell = {"work": "layers", "layer": "MaxPool2D(2)", "shape": [1, 1, 4, 4], "backward": True}
    step = {"work": "infer", "net": repr(lenet()), "image": [1, 28, 28], "batch": 32}
    gpu = {"framework": "minicnn", "device": "gpu", "rates": [1000, 1000]}
    torch, cpu = (
        {"framework": "torch", "rates": [4000, 2000]},
        {
            "device": "cpu",
            "rates": [500, 500],
        },
    )
    records = [cell | gpu | {"device_rates": [2000, 2000]}, cell | gpu | torch, cell | gpu | cpu]
    records += [step | gpu, step | gpu | cpu]
    results = {"records": records, "settings": {"device": "gpu"}}
    rows = [bench_gpu.common_cells(record, results) for record in records]
    assert {row[4:] for row in rows} == {(None, None)}  # nothing was measured of the device
    records += [{"work": "copy", "rates": [1e9]}, {"work": "sgemm", "rates": [1e9, 1e9]}]
    records += [{"work": "sgemm", "rates": [1e8]}]
    rows = [bench_gpu.common_cells(record, results) for record in records[:5]]
    assert rows == [
        ("minicnn, gpu", "1,000.0", "500.0", None, "0.18", "5,681.8"),
        ("torch, gpu", "333.3", None, pytest.approx((0.375, 0.275, 0.475)), "0.18", "1,893.9"),
        ("minicnn, cpu", "2,000.0", None, (2.0, 2.0, 2.0), None, None),
        ("minicnn, gpu", "32,000.0", None, None, "26,657.28", "1.2"),
        ("minicnn, cpu", "64,000.0", None, (2.0, 2.0, 2.0), None, None),
    ]


def test_the_model_of_several_ranks_by_hand(script):
    """8 ranks have 20 chunks of 10 ms, so one has 3; in each of two exchanges, 3 rounds of 1 ms and
    7/8 of 8 MB at 1 GB/s: 30 ms + 2 * (3 ms + 7 ms)."""
    bench_mpi = script("bench_mpi")
    network = 1e-3, 1e9
    assert bench_mpi.step_seconds(0.01, 20, 8, 8e6, network) == pytest.approx(0.05)
    assert bench_mpi.step_seconds(0.01, 20, 1, 8e6, network) == pytest.approx(0.2)
    net = {"parameters": 2_000_000, "chunk_size": 64, "chunk_seconds": [0.01, 0.01]}
    assert bench_mpi.efficiency(net, 20 * 64, 8, network) == pytest.approx(0.2 / (8 * 0.05))
    records = [  # between two ranks: 2 * (1 ms + half of the bytes at 1 GB/s)
        {"length": 250_000, "sliced": [3e-3, 3e-3]},
        {"length": 2_500_000, "sliced": [12e-3, 12e-3]},
    ]
    assert bench_mpi.this_machine(records) == pytest.approx(network)


def test_what_fails_in_the_middle_is_skipped_as_a_whole(script, monkeypatch):
    bench_gpu, harness = script("bench_gpu"), script("harness")

    def race(*arguments):
        raise harness.Skipped("OutOfMemoryError: 7 of 8 GB")

    monkeypatch.setattr(harness, "race", race)
    args = SimpleNamespace(
        frameworks=["minicnn"], device="cpu", rounds=1, seconds_per_round=1, quick=False
    )
    records = bench_gpu.layer_records(args, 256)
    assert harness.skipped(records) == "\nSkipped: layers, batch 256: OutOfMemoryError: 7 of 8 GB\n"
    assert bench_gpu.measured({"records": records}, "layers") == []
