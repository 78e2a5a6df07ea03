"""One training by several processes, on one machine or many, that communicate through MPI.

Each process, or rank, has the whole network and all images, takes its share of a batch's chunks,
and adds up what it can of their `ordered.OrderedSum`. Each rank then adds up the rest for a slice
of the entries: it receives that slice of all ranks' sums, adds them in order, and sends the result
to all. With R ranks and gradients of G bytes, a rank sends G * (R - 1) / R bytes for each sum that
it starts with, and as many for the result. If each rank sent its sums to all others, these would be
G * (R - 1) bytes for each sum; so only few numbers are gathered like this, as one message takes
less time than two:

    seconds = latency + G * (R - 1) / bandwidth              gathered                      (1)
    seconds = 2 * (latency + G * (R - 1) / R / bandwidth)    in slices                     (2)

Sums are added in one order for any number of ranks and workers, so the weights have the same bits.
"""

import functools
import hashlib
import itertools
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import numpy as np

from minicnn.backend import Array, to_device
from minicnn.training.ordered import OrderedSum, Term
from minicnn.training.parallel import ALONE, Alone

FEW = 1024  # numbers for which one message takes less time than two
# where MPICH, Open MPI and MVAPICH say how many they started; Slurm's number counts only with PMIx
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


class Ranks(Alone):
    """The processes of a communicator of mpi4py, the world if None. All of them must call the same
    methods in the same order."""

    def __init__(self, comm: Any = None) -> None:
        try:
            from mpi4py import MPI
        except ImportError as error:
            raise ValueError(
                f"this is one of several processes, which need mpi4py to work together "
                f'({error}): pip install "minicnn[mpi]"'
            ) from None
        comm = MPI.COMM_WORLD if comm is None else comm
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        here = comm.Split_type(MPI.COMM_TYPE_SHARED)  # those of this machine
        self.local_rank = here.rank
        affinity = getattr(os, "sched_getaffinity", lambda _: {0})  # Linux only
        bound_to = here.allgather(affinity(0))
        self.neighbours = sum(not bound_to[here.rank].isdisjoint(other) for other in bound_to)
        self._kinds: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

    def share(self, count: int) -> range:
        return self._shares(count)[self.rank]

    def _shares(self, count: int) -> list[range]:
        """As equal as possible, in order."""
        bounds = [count * rank // self.size for rank in range(self.size + 1)]
        return [range(first, stop) for first, stop in itertools.pairwise(bounds)]

    def total(self, own: OrderedSum, count: int, device: str = "cpu") -> Term:
        if not self._kinds:  # a rank without a term learns them from one that has some
            root = next(rank for rank, share in enumerate(self._shares(count)) if share)
            first = own.blocks[0].total if own.blocks else {}
            kinds = {name: ((a := _on_host(b)).shape, a.dtype) for name, b in first.items()}
            self._kinds = self.comm.bcast(kinds, root)
        sizes = [_block_sizes(share) for share in self._shares(count)]
        total: Term = {}
        for dtype in dict.fromkeys(dtype for _, dtype in self._kinds.values()):
            shapes = {name: shape for name, (shape, kind) in self._kinds.items() if kind == dtype}
            lengths = [math.prod(shape) for shape in shapes.values()]
            rows = np.empty((len(own.blocks), sum(lengths)), dtype)
            for row, block in zip(rows, own.blocks):
                numbers = [_on_host(block.total[name]).ravel() for name in shapes]
                np.concatenate(numbers, out=row)
            add_up = self._gathered_sum if rows.shape[1] <= FEW else self._sliced_sum
            parts = np.split(add_up(rows, sizes), np.cumsum(lengths)[:-1])
            arrays = (part.reshape(shapes[name]) for name, part in zip(shapes, parts))
            total |= {name: to_device(array, device) for name, array in zip(shapes, arrays)}
        return total

    def _gathered_sum(self, rows: Array, sizes: list[list[int]]) -> Array:
        """The sum of all ranks' rows, as in (1); `sizes` says, by rank, of how many terms each row
        is the sum."""
        every = np.empty((sum(map(len, sizes)), rows.shape[1]), rows.dtype)
        self.comm.Allgatherv(rows, [every, [len(s) * rows.shape[1] for s in sizes]])  # (1)
        return _added(every, sizes)

    def _sliced_sum(self, rows: Array, sizes: list[list[int]]) -> Array:
        """The same as in (2)."""
        length = rows.shape[1]
        slices = self._shares(length)
        mine = len(slices[self.rank])
        outgoing = np.concatenate([rows[:, s.start : s.stop].ravel() for s in slices])
        incoming = np.empty((sum(map(len, sizes)), mine), rows.dtype)
        self.comm.Alltoallv(  # (2)
            [outgoing, [len(rows) * len(s) for s in slices]],
            [incoming, [len(s) * mine for s in sizes]],
        )
        total = np.empty(length, rows.dtype)
        self.comm.Allgatherv(_added(incoming, sizes), [total, [len(s) for s in slices]])
        return total

    def check_same(self, things: dict[str, Iterable[Array]]) -> None:
        sums = []
        for arrays in things.values():
            sha256 = hashlib.sha256()
            for array in arrays:
                sha256.update(np.ascontiguousarray(to_device(array, "cpu")).data)
            sums.append(sha256.digest())
        for name, of_ranks in zip(things, zip(*self.comm.allgather(sums))):
            others = [rank for rank, sum_ in enumerate(of_ranks) if sum_ != of_ranks[0]]
            if others:
                raise ValueError(
                    f"the {name} of rank {others[0]} are not those of rank 0: give each rank the "
                    "same files, seed and settings"
                )

    def gathered(self, own: Any) -> list:
        return self.comm.allgather(own)

    def from_first(self, function: Callable[[], Any]) -> Any:
        return self.comm.bcast(function() if self.rank == 0 else None)

    def end(self, text: str, status: int) -> None:
        """Rank 0 ends the job first, so that an error of all ranks is printed once."""
        time.sleep(min(self.rank, 1))
        print(text, file=sys.__stderr__, flush=True)
        time.sleep(0.3)  # mpiexec may drop what it has not read when it ends the job
        self.comm.Abort(status)
        os._exit(status)  # Abort may return before the process is killed

    def end_all(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Prints an exception, and ends the job."""
        text = "".join(traceback.format_exception(kind, error, trace))
        self.end(f"rank {self.rank} of {self.size}:\n{text}", 1)


def _on_host(number: Any) -> Array:
    return to_device(number, "cpu") if hasattr(number, "dtype") else np.asarray(number)


def _added(rows: Array, sizes: list[list[int]]) -> Array:
    sums = OrderedSum()
    for row, size in zip(rows, itertools.chain(*sizes)):
        sums.add({"": row}, size)
    return sums.total()[""]


@functools.cache
def _block_sizes(terms: range) -> list[int]:
    """How many terms there are in each block of an OrderedSum of these."""
    sums = OrderedSum(terms.start)
    for _ in terms:
        sums.add({})
    return [block.size for block in sums.blocks]


@functools.cache
def world() -> Alone:
    """The ranks of the job that mpiexec or a batch system started, or this process alone. In a job,
    an uncaught exception on one rank ends all, since the others would wait for it for ever."""
    started = [os.environ[name] for name in SIZES if name in os.environ]
    if "PMIX_RANK" in os.environ:
        started.append(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if set(started) <= {"1"}:
        return ALONE
    ranks = Ranks()
    if ranks.size == 1:
        raise ValueError(
            f"this is one of {started[0]} processes, but mpi4py sees no other: start them with the "
            "mpiexec of the MPI that mpi4py uses"
        )
    sys.excepthook = ranks.end_all
    return ranks
