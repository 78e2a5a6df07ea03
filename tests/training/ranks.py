"""What each rank of the MPI tests does: trains with the workers that the first argument says, and,
as the second one says, has something happen to rank 1. Rank 0 prints the SHA-256 of the bits."""

import hashlib
import os
import signal
import sys

import numpy as np

from minicnn import (
    SGD,
    BatchNorm2D,
    Conv2D,
    Dropout,
    Flatten,
    Linear,
    MaxPool2D,
    ReLU,
    Sequential,
    digits,
    fit,
    softmax_cross_entropy,
)
from minicnn.training.mpi import world


def network() -> Sequential:
    rng = np.random.default_rng(0)
    return Sequential(
        Conv2D(1, 4, 5, rng=rng),
        BatchNorm2D(4),
        ReLU(),
        MaxPool2D(4),
        Dropout(0.2),
        Flatten(),
        Linear(144, 64, rng=rng),
        Linear(64, 10, rng=rng),
    )


def main(workers: int, event: str = "nothing") -> None:
    train, test = digits(500, 150, seed=int(event == "other data" and world().rank == 1))

    def loss(logits, labels):
        if event == "exception" and world().rank == 1:
            raise RuntimeError("something that only rank 1 knows of")
        if event == "kill" and world().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return softmax_cross_entropy(logits, labels)

    net = network()
    # 5 chunks and, in the second batch, 4, of which some of 3 ranks have more than others
    options = {"epochs": 2, "batch_size": 280, "optimizer": SGD(0.1, momentum=0.9)}
    history = fit(net, train, test, loss=loss, workers=workers, progress=False, **options)
    history.train_seconds.clear()
    if world().rank == 0:
        sha256 = hashlib.sha256(repr(history).encode())
        for array in net.arrays.values():
            sha256.update(array.tobytes())
        print(world().size, sha256.hexdigest())


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
