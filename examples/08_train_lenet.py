"""LeNet on Fashion-MNIST, with the course's training loop written out with the library's parts.

Look for three things. The loss stays near ln 10 = 2.303, that of guessing, through the first epoch,
and then falls suddenly: sigmoids pass little gradient on. The training curves have a step at each
epoch, because they are means over the epoch so far, as in the course; those of the test set jump,
because at a learning rate of 0.9 the last few batches count for much. And the loop ends with the
same weights as `minicnn train` with the same seed, bit for bit, because it takes the same steps.

The curve is drawn while it trains: in a notebook, in a window, or else into a file.

In the course, Dive into Deep Learning: "Convolutional Neural Networks (LeNet)", the training.
"""

import math
import time

import numpy as np
from gallery import keep, largest_difference, parser, positive, run

from minicnn import SGD, digits, evaluate, fashion_mnist, softmax_cross_entropy
from minicnn.backend import choose_device
from minicnn.datasets import batches
from minicnn.plotting import LiveFigure, training_curves
from minicnn.training import History
from minicnn.training.parallel import batch_gradients
from minicnn.zoo import MODELS

BATCH_SIZE = 256
DATA = {"fashion-mnist": (fashion_mnist, "lenet"), "digits": (digits, "lenet-relu")}


def gradients_in_one_piece(net, data, index):
    """(loss, correct, grads) of the images `index`: all that one step needs."""
    x, labels = data.batch(index, net.dtype)
    logits, saved = net.forward(x)
    loss, dlogits = softmax_cross_entropy(logits, labels)
    _, grads = net.backward(dlogits, saved, need_dx=False)
    return loss, (logits.argmax(axis=1) == labels).sum(), grads


def train(net, train_set, test_set, gradients, *, epochs, lr, seed, show=lambda history: None):
    """Trains `net` and returns the history; gradients(index) is as above. The clock runs only while
    the network learns, not while it is evaluated or drawn."""
    optimizer = SGD(lr)
    history = History(len(train_set), net.device)
    for epoch in range(epochs):
        steps = batches(len(train_set), BATCH_SIZE, np.random.default_rng((seed, epoch)))
        seen, loss_sum, correct_sum, seconds = 0, 0.0, 0, 0.0
        for step, index in enumerate(steps, 1):
            start = time.perf_counter()
            loss, correct, grads, *_ = gradients(index)
            optimizer.step(net.params, grads)
            seen += len(index)
            loss_sum += float(loss) * len(index)
            correct_sum += int(correct)
            seconds += time.perf_counter() - start
            if step % math.ceil(len(steps) / 5) == 0 or step == len(steps):
                point = (epoch + step / len(steps), loss_sum / seen, correct_sum / seen)
                history.curve.append(point)
                show(history)
        test_loss, test_accuracy = evaluate(net, test_set)
        history.train_loss.append(loss_sum / seen)
        history.train_accuracy.append(correct_sum / seen)
        history.train_seconds.append(seconds)
        history.test_loss.append(test_loss)
        history.test_accuracy.append(test_accuracy)
        print(
            f"epoch {epoch + 1}/{epochs}: loss {history.train_loss[-1]:.3f}, "
            f"train acc {history.train_accuracy[-1]:.3f}, test acc {test_accuracy:.3f}",
            flush=True,
        )
    return history


def compare_one_step(net, train_set, gradients):
    """Prints how much the gradients of a batch in chunks differ from those of the whole batch."""
    index = np.arange(min(BATCH_SIZE, len(train_set)))
    _, _, whole = gradients_in_one_piece(net, train_set, index)
    _, _, summed, _ = gradients(index)
    largest = max(float(abs(grad).max()) for grad in whole.values())
    apart = max(largest_difference(whole[name], summed[name]) for name in whole)
    print(
        f"first batch: the largest gradient is {largest:.2g}; taken in chunks of 64 images over "
        f"the cores, or in one piece, no gradient differs by more than {apart:.1g}"
    )


def options():
    add = (arguments := parser(__doc__, DATA, device="where to compute")).add_argument
    add("--epochs", type=positive, default=10, help="passes over the data (default: 10)")
    add("--seed", type=int, default=0, help="of weights and order of images (default: 0)")
    add("--images", type=positive, help="use only so many images of each set (default: all)")
    return arguments


def main(argv=None):
    args = options().parse_args(argv)
    device = choose_device(args.device)
    load, name = DATA[args.data]
    train_set, test_set = (part[: args.images].to(device) for part in load())
    net = MODELS[name].build(np.random.default_rng(args.seed)).to(device)
    parameters = sum(parameter.size for parameter in net.params.values())
    print(
        f"{name}, {parameters:,} parameters, on {train_set.name} ({len(train_set):,} images to "
        f"train, {len(test_set):,} to test), on the {device}"
    )
    with batch_gradients(net, train_set, BATCH_SIZE) as gradients:
        compare_one_step(net, train_set, gradients)
        live = LiveFigure(f"{args.out}/08_train_lenet.png")
        print(f"the curve is drawn in {live.place}", flush=True)
        history = train(
            net,
            train_set,
            test_set,
            gradients,
            epochs=args.epochs,
            lr=MODELS[name].lr,
            seed=args.seed,
            show=lambda history: live.show(training_curves(history)),
        )
    print(history.summary())
    keep(training_curves(history), "08_train_lenet", args)


if __name__ == "__main__":
    run(main)
