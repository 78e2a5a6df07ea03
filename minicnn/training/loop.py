"""The training loop: batches, losses, gradients and steps."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from minicnn.arguments import finite, flag, integer, require, shown
from minicnn.backend import Array, array_module, device_of, synchronize
from minicnn.datasets import Dataset, batches
from minicnn.layers.base import Layer
from minicnn.losses import softmax_cross_entropy
from minicnn.notebook import notebook_cell, rendered
from minicnn.optimizers import SGD, Optimizer, constant
from minicnn.training.capture import CapturedStep, check_capture
from minicnn.training.chunks import training_cut
from minicnn.training.freezing import frozen_names
from minicnn.training.history import (
    History,
    NotFinite,
    Position,
    TrainingError,
    training_curves,
)
from minicnn.training.mpi import world
from minicnn.training.parallel import (
    ALONE,
    Alone,
    Augment,
    Loss,
    batch_gradients,
    loss_and_correct,
    worker_count,
)
from minicnn.training.step import Step

POINTS_PER_EPOCH = 5
SECONDS_BETWEEN_CURVES = 5  # drawing one takes 0.1 s of the training


def fit(
    net: Layer,
    train: Dataset,
    test: Dataset | None = None,
    *,
    epochs: int = 10,
    batch_size: int = 256,
    optimizer: Optimizer | None = None,
    loss: Loss = softmax_cross_entropy,
    schedule: Callable[[float], float] = constant,
    augment: Augment | None = None,
    freeze: Sequence[str] = (),
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    on_epoch: Callable[[History], None] | None = None,
    on_step: Callable[[Position], None] | None = None,
    start: Position | None = None,
    ranks: Alone | None = None,
    capture: bool = False,
) -> History:
    """Trains `net` in place, on the device of its parameters.

    optimizer: SGD(lr=0.9) if None
    loss: a function (logits, labels) -> (loss, dlogits); the loss must be a mean over the images,
        because chunks of a batch are added up by their shares of the images
    schedule: the factor of the learning rate as a function of the share of the training that is
        done, from 0 to 1, such as `optimizers.cosine`
    augment: a function (images, rng) -> images that changes them before each step, such as
        `datasets.Augmentation(mirror=True)`
    freeze: names of layers or parameters as in `net.params`, such as "0" or "0.body", which keep
        their parameters and state. A frozen batch norm still normalises with the statistics of the
        chunk, as `forward` does in every training pass; only what it keeps stands still. `backward`
        computes all gradients; those that are frozen are not used
    seed: epoch e takes the images in an order drawn from (seed, e); all other random numbers are
        drawn, for each chunk of a batch, from a key that follows from seed and step
    workers: processes on a CPU, up to one for each chunk, all cores if None; the result is the
        same for any number
    progress: prints a line for each epoch and shows a bar in a terminal, or a bar and the curve in
        a notebook
    on_epoch: called with the history after each epoch
    on_step: called with the position after each step but the last of an epoch
    start: where to resume, with the history so far; `net` and the state of `optimizer` must be as
        they were there. The result is bit for bit that of training without a break
    ranks: the processes of an MPI job that share each batch, as `mpi.Ranks(comm)`; if None, those
        that mpiexec started. Each calls `fit` with the same arguments and gets the same weights,
        bit for bit those of one process
    capture: whether a GPU replays steps of full batches as a CUDA graph, with one launch for each.
        No GPU has measured it yet. Refused on a CPU, and with dropout, augmentation or several
        ranks, whose steps need the host

    Raises TrainingError, naming epoch, step and layer, if the loss is not finite; the weights are
    then those before the step. Damage done by the last step of an epoch shows only in the loss on
    `test`. On a GPU, where reading the loss holds up the work, it is read a few times per epoch:
    the step is named, but later ones have been taken. Raises ValueError, before any work, for
    settings out of range and for a network that does not fit the images.
    """
    integer("epochs", epochs, 1)
    integer("batch_size", batch_size, 1)
    integer("seed", seed, 0)
    flag("progress", progress)
    flag("capture", capture)
    require(augment is None or callable(augment), "augment must be a function", augment)
    check_fit(net, train, augment)
    if test is not None:
        check_fit(net, test)
    optimizer = SGD(0.9) if optimizer is None else optimizer
    is_optimizer = hasattr(optimizer, "lr") and hasattr(optimizer, "step")
    require(is_optimizer, "optimizer must be an optimizer, such as SGD(0.9)", optimizer)
    frozen = frozen_names(net, freeze)
    _check_loss(loss)
    require(callable(schedule), "schedule must be a function, such as optimizers.cosine", schedule)
    for name, function in {"on_epoch": on_epoch, "on_step": on_step}.items():
        require(function is None or callable(function), f"{name} must be a function", function)
    position = Position(History(len(train), net.device)) if start is None else start
    require(isinstance(position, Position), "start must be a Position", start)
    _check_position(position, len(train), batch_size, epochs)
    ranks = world() if ranks is None else ranks
    if capture:
        check_capture(net, optimizer, augment, ranks.size)
    settings = epochs, batch_size, seed, optimizer.lr, position.step, len(position.history.curve)
    ranks.check_same(
        {
            "training images": [train.images],
            "training labels": [train.labels],
            "weights": net.arrays.values(),
            "settings": map(np.asarray, settings),
        }
    )
    train = train.to(net.device)
    test = None if test is None else test.to(net.device)
    history = position.history
    history.device = net.device
    done = len(history.train_loss) * len(train) + position.seen
    with (
        _lr_restored(optimizer) as lr,
        batch_gradients(net, train, batch_size, workers, loss, augment, ranks) as gradients,
        _Progress(progress and ranks.rank == 0, done, epochs * len(train), history) as show,
    ):
        step = Step(net, optimizer, gradients, frozen)
        if capture:
            step = CapturedStep(net, optimizer, gradients, frozen, batch_size)
        for epoch in range(len(history.train_loss), epochs):
            began = time.perf_counter() - position.seconds
            rng = np.random.default_rng((seed, epoch))
            steps = batches(len(train), batch_size, rng, device_of(train.images))
            shares = [(step / len(steps) + epoch) / epochs for step in range(len(steps))]
            rates = [lr * finite("schedule(share)", schedule(share)) for share in shares]
            try:
                with step.epoch(steps, rates, position.step):
                    for index, rate in zip(steps[position.step :], rates[position.step :]):
                        batch = step.gradients(index, (seed, epoch, position.step))
                        position.keep(batch.loss, batch.correct, len(index))
                        means = _read(position, len(steps))
                        step.update(batch, rate)
                        position.step += 1
                        position.seconds = time.perf_counter() - began
                        show.step(len(index), means)
                        if on_step and position.step < len(steps):
                            on_step(position)
            except NotFinite as error:
                place = f"{error} of {len(steps)}"
                if error.step > position.step and not capture:  # it has not changed the weights
                    place += f": {_first_not_finite(net, train, steps[position.step])}"
                raise TrainingError(f"{place}; {_remedy(lr)}") from None
            synchronize(net.device)
            mean_loss, accuracy = position.means
            history.train_loss.append(mean_loss)
            history.train_accuracy.append(accuracy)
            history.train_seconds.append(time.perf_counter() - began)
            position = Position(history)
            if test is not None:
                _append_test(
                    history, *evaluate(net, test, loss=loss, workers=workers, ranks=ranks), lr
                )
            show.epoch(history, epochs)
            if on_epoch:
                on_epoch(history)
    return history


def _read(position: Position, steps: int) -> tuple[float, float] | None:
    """(loss, accuracy) so far in this epoch, including the current step. On a GPU they are read at
    the points of the curve only, and None in between."""
    history, step = position.history, position.step + 1
    at_point = step % math.ceil(steps / POINTS_PER_EPOCH) == 0 or step == steps
    if history.device != "cpu" and not at_point:
        return None
    position.read()
    if at_point:
        history.curve.append((len(history.train_loss) + step / steps, *position.means))
    return position.means


def _append_test(history: History, loss: float, accuracy: float, lr: float) -> None:
    if not math.isfinite(loss):
        epoch = len(history.train_loss)
        raise TrainingError(f"the test loss is {loss} after epoch {epoch}; {_remedy(lr)}")
    history.test_loss.append(loss)
    history.test_accuracy.append(accuracy)


@contextlib.contextmanager
def _lr_restored(optimizer: Optimizer) -> Iterator[float]:
    lr = optimizer.lr
    try:
        yield lr
    finally:
        optimizer.lr = lr


def evaluate(
    net: Layer,
    data: Dataset,
    *,
    loss: Loss = softmax_cross_entropy,
    workers: int | None = None,
    ranks: Alone = ALONE,
) -> tuple[float, float]:
    """(mean loss, accuracy from 0 to 1) of `net` on `data`, on the device of its parameters; `loss`
    and `ranks` are as in `fit`, but the default is this process alone.

    Raises ValueError for a network that does not fit the images.
    """
    check_fit(net, data)
    _check_loss(loss)
    data = data.to(net.device)
    mean_loss, correct = loss_and_correct(net, data, workers, loss, ranks)
    return mean_loss, correct / len(data)


def estimate_seconds(
    net: Layer,
    train: Dataset,
    *,
    epochs: int,
    batch_size: int,
    workers: int | None = None,
    ranks: Alone = ALONE,
) -> float:
    """How long the training steps of `fit` will take if all of the `ranks` are as fast as this one,
    estimated from its share of one step; changes nothing."""
    train = train.to(net.device)
    batch_size = min(integer("batch_size", batch_size, 1), len(train))
    index = np.arange(math.ceil(batch_size / ranks.size))
    chunks = training_cut(net, train.images.shape[1:])(batch_size)
    workers = worker_count(net, chunks, workers, ranks)
    with batch_gradients(net, train, len(index), workers) as gradients:
        for _ in range(2):  # the first one also warms up
            start = time.perf_counter()
            gradients(index)
            synchronize(net.device)
            seconds = time.perf_counter() - start
    return seconds * epochs * len(train) / batch_size


def check_fit(net: Layer, data: Dataset, augment: Augment | None = None) -> None:
    """Raises ValueError, with the shapes, unless `net` turns the images, at least one, into a score
    for each class; and whatever `augment` raises for the first image."""
    require(isinstance(net, Layer), "net must be a layer, such as lenet()", net)
    require(isinstance(data, Dataset), "data must be a Dataset, such as digits()[0]", data)
    if len(data) == 0:
        raise ValueError(f"expected at least one image of {data.name} but got none")
    shape = (1, *data.images.shape[1:])
    scores = net.output_shape(shape)
    if scores != (1, len(data.classes)):
        raise ValueError(
            f"for images {shape} of {data.name} the network must output a score for each class, "
            f"(1, {len(data.classes)}), but its output is {scores}"
        )
    if augment is not None:
        data.batch(slice(1), change=lambda images: augment(images, np.random.default_rng(0)))


def _check_loss(loss: Loss) -> None:
    require(callable(loss), "loss must be a function, such as softmax_cross_entropy", loss)


def _check_position(position: Position, images: int, batch_size: int, epochs: int) -> None:
    """Raises ValueError unless training with these settings passes through `position`."""
    done, total = len(position.history.train_loss), math.ceil(images / batch_size)
    if position.history.images != images:
        raise ValueError(
            f"training cannot resume: it began with {position.history.images} images, but was "
            f"given {images}"
        )
    if not 0 <= position.step < total or position.seen != position.step * batch_size:
        raise ValueError(
            f"training cannot resume: it saw {position.seen} images in {position.step} steps, but "
            f"an epoch now has {total} steps of {batch_size}"
        )
    if done + (position.step > 0) > epochs:
        raise ValueError(
            f"training cannot resume: {done + (position.step > 0)} epochs have begun, but epochs "
            f"is {epochs}"
        )
    history = position.history
    for name in ("train_accuracy", "train_seconds"):
        if (found := len(getattr(history, name))) != done:
            raise ValueError(f"training cannot resume: {name} has {found} of {done} epochs")


def _first_not_finite(net: Layer, data: Dataset, index: Array) -> str:
    """The first layer whose output, on these images, is not finite."""
    x, _ = data.batch(index, net.dtype)
    with np.errstate(all="ignore"):
        for i, layer in enumerate(getattr(net, "layers", [net])):
            x, _ = layer.forward(x)
            if not array_module(x).isfinite(x).all():
                return f"layer {i}, {shown(layer)}, is the first whose output is not finite"
    return "every layer's output is finite, but too large for the loss"


def _remedy(lr: float) -> str:
    return f"a learning rate below {lr:g} may help"


class _Progress:
    """Prints a line for each epoch and shows a bar in a terminal, or a bar and the curve in a
    notebook; nothing unless `shown`."""

    def __init__(self, shown: bool, done: int, images: int, history: History) -> None:
        self.bar = None
        self.cell = notebook_cell() if shown else None
        self.history, self.drawn_at = history, 0.0
        if shown:
            from tqdm import tqdm  # here, since `import minicnn` does not need it

            # a notebook is no terminal, but shows a bar in the stream that the lines go to
            how = {"file": sys.stdout, "mininterval": 1} if self.cell else {"disable": None}
            self.bar = tqdm(total=images, initial=done, unit=" images", unit_scale=True, **how)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
        self.draw()

    def draw(self) -> None:
        if self.cell is not None and self.history.curve:
            self.cell(rendered(training_curves(self.history), "png"))
            self.drawn_at = time.perf_counter()

    def step(self, images: int, means: tuple[float, float] | None) -> None:
        if self.bar is not None:
            if means is not None:
                loss, accuracy = means
                self.bar.set_postfix_str(f"loss {loss:.3f}, acc {accuracy:.3f}", refresh=False)
            self.bar.update(images)
        if self.cell and time.perf_counter() - self.drawn_at > SECONDS_BETWEEN_CURVES:
            self.draw()

    def epoch(self, history: History, epochs: int) -> None:
        if self.bar is not None:
            test = f", test acc {history.test_accuracy[-1]:.3f}" if history.test_accuracy else ""
            self.bar.write(
                f"epoch {len(history.train_loss)}/{epochs}: loss {history.train_loss[-1]:.3f}, "
                f"train acc {history.train_accuracy[-1]:.3f}{test}"
            )
