"""What batch norm costs, with the statistics of chunks (ghost batches) and of the whole batch.

python benchmarks/ghost_batches.py [ROUNDS]

Each case trains on batches of 256 random images; cases take turns, and the table has the median,
least and most images a second of all rounds. The whole batch is one chunk, so it has one worker;
chunks on one worker stand beside it, to tell the chunk from the worker.
"""

import statistics
import sys
import time

import numpy as np

from minicnn import SGD
from minicnn.datasets import Dataset
from minicnn.training import chunks, parallel
from minicnn.zoo import MODELS

BATCH, STEPS = 256, 60
CASES = [  # network, images in a chunk, workers
    ("lenet", 64, 2),
    ("lenet-bn", 64, 2),
    ("lenet", 64, 1),
    ("lenet-bn", 64, 1),
    ("lenet-bn", BATCH, 1),
]


def images_per_second(model: str, chunk: int, workers: int, data: Dataset) -> float:
    chunks.CHUNK_SIZE = chunk
    rng = np.random.default_rng(0)
    net, optimizer = MODELS[model].build(rng), SGD(0.1)
    with parallel.batch_gradients(net, data, BATCH, workers) as gradients:
        for step in range(-5, STEPS):  # the first five to warm up
            if step == 0:
                start = time.perf_counter()
            batch = gradients(rng.integers(len(data), size=BATCH))
            optimizer.step(net.params, batch.grads)
        return STEPS * BATCH / (time.perf_counter() - start)


def main(rounds: int = 9) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(20_000, 1, 28, 28), dtype=np.uint8)
    data = Dataset(images, rng.integers(10, size=20_000), tuple("0123456789"), "random images")
    speeds = {case: [] for case in CASES}
    for _ in range(rounds):
        for case, seen in speeds.items():
            seen.append(images_per_second(*case, data))
    print("network   chunk  workers  images/s   least    most")
    for (model, chunk, workers), seen in speeds.items():
        middle = statistics.median(seen)
        print(f"{model:8}{chunk:7}{workers:9}{middle:10,.0f}{min(seen):8,.0f}{max(seen):8,.0f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
