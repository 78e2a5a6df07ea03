"""Several ranks compute what one process does, bit for bit; an error on one of them ends all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mpiexec import LIMIT_SECONDS, find_mpiexec, needs_mpi

from minicnn.runs import run_folder
from minicnn.runs.resumable import train_run
from minicnn.runs.stopping import Stopped
from minicnn.training import mpi
from minicnn.training.ordered import OrderedSum

RANKS = Path(__file__).with_name("ranks.py")


class Named:
    """A term that tells in which order it was added up."""

    def __init__(self, text):
        self.text = text

    def __iadd__(self, other):
        return Named(f"({self.text}+{other.text})")


def named_sum(first, stop):
    sums = OrderedSum(first)
    for number in range(first, stop):
        sums.add({"t": Named(str(number))})
    return sums


def test_terms_are_added_in_pairs():
    assert named_sum(0, 1).total()["t"].text == "0"
    assert named_sum(0, 4).total()["t"].text == "((0+1)+(2+3))"
    assert named_sum(0, 7).total()["t"].text == "(((0+1)+(2+3))+((4+5)+6))"


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13, 21])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 16])
def test_the_order_is_the_same_for_any_number_of_ranks(count, ranks):
    expected, sums = named_sum(0, count).total()["t"].text, OrderedSum()
    sent = 0
    for rank in range(ranks):
        share = range(count * rank // ranks, count * (rank + 1) // ranks)
        blocks = named_sum(share.start, share.stop).blocks
        assert [block.size for block in blocks] == mpi._block_sizes(share)
        sent = max(sent, len(blocks))
        for block in blocks:
            sums.add(block.total, block.size)
    assert sums.total()["t"].text == expected
    assert sent <= 2 * count.bit_length(), "a rank sends more than it has to"


def test_a_term_is_not_written_into():
    sums, term = OrderedSum(), {"t": np.ones(3)}
    for _ in range(5):
        sums.add(term)
    assert term["t"].tolist() == [1, 1, 1] and sums.total()["t"].tolist() == [5, 5, 5]


def run(ranks, *arguments):
    """So many processes that run ranks.py."""
    command = [find_mpiexec(), "-n", str(ranks), sys.executable, str(RANKS), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)


@pytest.mark.slow
@pytest.mark.slow
def test_any_number_of_ranks_and_workers_gives_the_same_bits():
    """Batch statistics, dropped units, momentum and batches that do not divide are among it."""
    needs_mpi()
    alone = subprocess.run(
        [sys.executable, str(RANKS), "1"], capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    size, expected = alone.stdout.split()
    assert size == "1", alone.stderr
    for ranks, workers in ((2, 1), (1, 2), (2, 2), (3, 1), (4, 1), (8, 1)):
        process = run(ranks, str(workers))
        assert process.stdout.split() == [str(ranks), expected], (ranks, workers, process.stderr)


def test_many_numbers_go_in_slices_and_few_do_not(monkeypatch):
    needs_mpi()
    program = (
        "import numpy as np, sys; from minicnn.training import mpi, ordered\n"
        "ranks, many = mpi.world(), int(sys.argv[1])\n"
        "rows = np.random.default_rng(0).normal(size=(7, many)).astype(np.float32)\n"
        "own, share = ordered.OrderedSum(ranks.share(7).start), ranks.share(7)\n"
        "for i in share:\n"
        "    own.add({'a': rows[i], 'b': np.float32(i), 'n': np.int64(2**53 - 7 + i)})\n"
        "total = ranks.total(own, 7)\n"
        "p = (rows[0]+rows[1])+(rows[2]+rows[3]); q = (rows[4]+rows[5])+rows[6]\n"
        "assert total['a'].tobytes() == (p + q).tobytes()\n"
        "assert total['b'] == 21 and total['n'] == 7 * (2**53 - 7) + 21, total\n"
        "print('same')\n"
    )
    for many in (1, 5000):
        command = [find_mpiexec(), "-n", "3", sys.executable, "-c", program, str(many)]
        process = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        assert process.stdout.count("same") == 3, process.stderr


@pytest.mark.parametrize(
    "event, told",
    [
        ("exception", "RuntimeError: something that only rank 1 knows of"),
        ("other data", "the training images of rank 1 are not those of rank 0"),
        ("kill", ""),
    ],
)
def test_what_befalls_one_rank_ends_all(event, told):
    needs_mpi()
    process = run(3, "1", event)
    assert process.returncode != 0
    assert told in process.stderr
    if event == "exception":
        assert "rank 1 of 3:" in process.stderr
    assert process.stderr.count("Traceback") <= 1, "told more than once"


def test_a_signal_while_a_rank_saves_stops_all_after_the_next_step(
    monkeypatch, new_net, small_digits, tmp_path
):
    """After this one only that rank, which alone has seen the signal, would stop."""
    saved = []

    def add_checkpoint(folder, checkpoint, keep):
        saved.append(checkpoint.position.step)
        if len(saved) == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(run_folder, "add_checkpoint", add_checkpoint)
    with pytest.raises(Stopped, match="after 2 steps"):
        train_run(new_net(), *small_digits, tmp_path / "run", save_every=1, progress=False)
    assert saved == [1, 2]


def test_without_mpi4py_one_sentence_says_what_to_install():
    environment = os.environ | {"PMI_SIZE": "2"}
    program = (
        "import sys; sys.modules['mpi4py'] = None; from minicnn.training.mpi import world; world()"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert "minicnn[mpi]" in process.stderr.splitlines()[-1]
