"""What a larger batch, as many ranks need it, does to accuracy, and with which learning rate.

python benchmarks/batch_sizes.py [EPOCHS]

lenet-relu on Fashion-MNIST with plain SGD, seed 0. Batch 256 has the learning rate 0.1; a batch k
times as large has the same, sqrt(k) times and k times that. The table has the test accuracy.
"""

import math
import sys

import numpy as np

from minicnn import SGD, fashion_mnist, fit, lenet_relu
from minicnn.training import TrainingError

BATCHES = (256, 512, 1024, 2048, 4096, 8192)
LR = 0.1
RULES = {"the same": lambda k: 1, "times sqrt(k)": math.sqrt, "times k": lambda k: k}


def main(epochs: int = 10) -> None:
    train, test = fashion_mnist()
    print(f"batch   steps  {'  '.join(f'{rule:>14}' for rule in RULES)}")
    for batch in BATCHES:
        cells = []
        for rule in RULES.values():
            lr = LR * rule(batch / BATCHES[0])
            options = {"epochs": epochs, "batch_size": batch, "optimizer": SGD(lr)}
            try:
                net = lenet_relu(np.random.default_rng(0))
                history = fit(net, train, test, progress=False, **options)
                cells.append(f"{history.test_accuracy[-1]:14.3f}")
            except TrainingError:
                cells.append(f"{'not finite':>14}")
        steps = epochs * math.ceil(len(train) / batch)
        print(f"{batch:5}{steps:8}  {'  '.join(cells)}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
