"""The command line on several ranks: the same files and numbers as of one process, printed and
written once, and one clear message if one of the ranks is not like the others."""

import json
import subprocess
import sys
from pathlib import Path

import faults
import numpy as np
import pytest
from mpiexec import LIMIT_SECONDS, find_mpiexec, needs_mpi, wait_until

from minicnn.runs.run_folder import BEST, HISTORY, WEIGHTS, checkpoints

MINICNN = sys.executable, "-m", "minicnn"
QUICK = sys.executable, faults.__file__, "rank"  # the same, without pictures
OTHER_NUMPY = """
import sys
sys.path.insert(0, sys.argv[1])
import faults
from minicnn.cli import training
from minicnn.training.mpi import world
if world().rank == 1:
    here = training.versions()
    training.versions = lambda: here | {"numpy": "1.99"}
faults.rank()
"""
FAILING = """
import os
import minicnn

def network():
    if os.environ["PMI_RANK"] == "1":
        raise RuntimeError("no memory left")
    return minicnn.lenet()
"""


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    needs_mpi()
    for change in faults.WITHOUT_PICTURES:
        monkeypatch.setattr(*change)


@pytest.fixture
def data(small_digits, tmp_path):
    """Options that train on 600 images in batches of three chunks."""
    train, test = (part[:600] for part in small_digits)
    content = {"x_train": train.images, "y_train": train.labels}
    np.savez(tmp_path / "small.npz", **content, x_test=test.images, y_test=test.labels)
    return "--data", str(tmp_path / "small.npz"), "--batch-size", "150", "--model", "lenet-relu"


def job(*parts):
    """The command of a job: each part has a number of ranks, and what they run."""
    words = [word for ranks, *command in parts for word in (":", "-n", ranks, *command)]
    return list(map(str, [find_mpiexec(), *words[1:]]))


def run(*parts):
    return subprocess.run(job(*parts), capture_output=True, text=True, timeout=LIMIT_SECONDS)


def results(folder):
    history = json.loads((folder / HISTORY).read_text())
    del history["train_seconds"]
    return history, [(folder / name).read_bytes() for name in (WEIGHTS, BEST)]


def trained(run_command, data, out, *options):
    """The folder of a run of one process."""
    status, _, err = run_command("train", *data, "--epochs", 1, *options, "--out", out)
    assert status == 0, err
    return out


@pytest.mark.slow
def test_train_evaluate_and_export_give_what_one_process_gives(run_command, data, tmp_path):
    one = trained(run_command, data, tmp_path / "one")
    two = tmp_path / "two"
    process = run((2, *QUICK, "train", *data, "--epochs", 1, "--out", two))
    assert process.returncode == 0 and process.stdout.count("epoch 1/1") == 1, process.stderr
    assert "on each of 2 ranks" in process.stdout
    assert results(two) == results(one)
    _, expected, _ = run_command("evaluate", one)
    process = run((3, *MINICNN, "evaluate", two))
    assert (process.returncode, process.stdout) == (0, expected), process.stderr
    for command in ("evaluate", "--report"), ("export", "--to", "torch", "--out"):
        files = tmp_path / f"{command[0]} 0", tmp_path / f"{command[0]} 1"
        name, *options = command
        process = run(*((1, *MINICNN, name, two, *options, file) for file in files))
        assert process.returncode == 0, process.stderr
        assert [file.exists() for file in files] == [True, False], "not rank 0 alone writes"


@pytest.mark.slow
def test_sigterm_to_mpiexec_saves_and_other_ranks_resume(run_command, data, tmp_path):
    one = trained(run_command, data, tmp_path / "one", "--momentum", "0.9", "--epochs", 8)
    folder = tmp_path / "stopped"
    command = *QUICK, "train", *data, "--epochs", 8, "--momentum", "0.9", "--save-every", 1
    process = subprocess.Popen(
        job((2, *command, "--out", folder)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: checkpoints(folder))
        process.terminate()
        _, err = process.communicate(timeout=LIMIT_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 143, err
    assert err.count(b"stopped by SIGTERM") == 1
    resumed = run((3, *QUICK, "train", "--resume", folder))
    assert resumed.returncode == 0, resumed.stderr
    assert results(folder) == results(one)


@pytest.mark.slow
def test_ranks_that_are_not_alike_end_all_with_one_message(run_command, data, tmp_path):
    train = "train", *data, "--out", tmp_path / "run"
    failing = tmp_path / "failing.py"
    failing.write_text(FAILING)
    runs = [trained(run_command, data, tmp_path / seed, "--seed", seed) for seed in ("1", "2")]
    for parts, told in (
        ([(2, *MINICNN, *train, "--bogus")], "unrecognized arguments: --bogus"),
        ([(1, *MINICNN, *train), (1, *MINICNN, *train, "--bogus")], "arguments: --bogus"),
        (
            [(1, *MINICNN, *train), (1, *MINICNN, *train, "--data", tmp_path / "none.npz")],
            f"rank 1 of 2: {tmp_path}/none.npz does not exist",
        ),
        (
            [(2, *MINICNN, *train, "--model", f"{failing}:network")],
            "no memory left",
        ),
        (
            [(1, *MINICNN, "evaluate", folder) for folder in runs],
            "the weights of rank 1 are not those of rank 0",
        ),
    ):
        process = run(*parts)
        assert process.returncode == 2, (parts, process.stderr)
        assert process.stderr.count(told) == 1, process.stderr
        assert "Traceback" not in process.stderr and not process.stdout


def test_a_rank_with_another_numpy_is_told(data, tmp_path):
    program = sys.executable, "-c", OTHER_NUMPY, Path(faults.__file__).parent
    process = run((2, *program, "train", *data, "--epochs", 1, "--out", tmp_path / "run"))
    assert process.returncode == 0
    (line,) = process.stderr.splitlines()
    assert line.startswith("minicnn: rank 1 has numpy 1.99, but rank 0 has 2.")
