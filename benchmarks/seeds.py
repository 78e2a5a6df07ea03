"""Is one run like another? The course's LeNet on Fashion-MNIST, ten epochs, from several seeds.

python benchmarks/seeds.py              seeds 0 to 4; the first once more, for its weights' hash
"""

import hashlib

import numpy as np

import minicnn

SEEDS = (0, 1, 2, 3, 4, 0)


def main() -> None:
    train, test = minicnn.fashion_mnist()
    print("seed  train loss  train acc  test acc  images/s  SHA-256 of the weights")
    for seed in SEEDS:
        net = minicnn.lenet(np.random.default_rng(seed))
        history = minicnn.fit(net, train, test, seed=seed, progress=False)
        weights = b"".join(parameter.tobytes() for parameter in net.params.values())
        print(
            f"{seed:4d}{history.train_loss[-1]:12.3f}{history.train_accuracy[-1]:11.3f}"
            f"{history.test_accuracy[-1]:10.3f}{history.images_per_second:10,.0f}"
            f"  {hashlib.sha256(weights).hexdigest()[:16]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
