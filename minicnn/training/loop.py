"""The training loop: batches, losses, gradients and steps."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from minicnn.arguments import finite, flag, integer, require, shown
from minicnn.backend import Array, array_module, device_of, synchronize
from minicnn.datasets import Dataset, batches
from minicnn.layers.base import Layer
from minicnn.losses import softmax_cross_entropy
from minicnn.optimizers import SGD, Optimizer, constant
from minicnn.training.history import History, NotFinite, Position, TrainingError
from minicnn.training.parallel import Augment, Loss, batch_gradients, loss_and_correct

POINTS_PER_EPOCH = 5


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
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    on_epoch: Callable[[History], None] | None = None,
    on_step: Callable[[Position], None] | None = None,
    start: Position | None = None,
) -> History:
    """Trains `net` in place, on the device of its parameters.

    optimizer: the course's SGD(lr=0.9) if None
    loss: a function (logits, labels) -> (loss, dlogits); the loss is a mean over the images, as
        chunks of a batch are added up by their shares of the images
    schedule: factor of the learning rate for each share of the training that is done, from 0 to
        1, as `optimizers.cosine`
    augment: a function (images, rng) -> images that changes them before each step, as
        `datasets.Augmentation(mirror=True)`
    seed: of the order of the images, epoch e has the order drawn from (seed, e); and of all else
        that is random, drawn for each chunk of a batch from a key that follows from seed and step
    workers: processes on a CPU, up to one for each chunk, all cores if None; the result is the
        same for any number
    progress: a line for each epoch and, in a terminal, a bar
    on_epoch: called with the history after each epoch
    on_step: called with the position after each step but the last of an epoch
    start: where to go on, and its history is continued; `net` and the state of `optimizer` have
        to be as they were there. The result is that of training in one piece, bit for bit

    Raises TrainingError, naming epoch, step and layer, when the loss is not finite; the weights
    are then those before the step. What the last step of an epoch spoils shows only in the loss on
    `test`. On a GPU, where reading the loss holds up the work, that is done a few times an epoch:
    the step is named, but later ones have been taken. Raises ValueError, before any work, for
    settings out of range and for a network that does not fit the images.
    """
    integer("epochs", epochs, 1)
    integer("batch_size", batch_size, 1)
    integer("seed", seed, 0)
    flag("progress", progress)
    require(augment is None or callable(augment), "augment must be a function", augment)
    check_fit(net, train, augment)
    if test is not None:
        check_fit(net, test)
    optimizer = SGD(0.9) if optimizer is None else optimizer
    is_optimizer = hasattr(optimizer, "lr") and hasattr(optimizer, "step")
    require(is_optimizer, "optimizer must be one, as SGD(0.9)", optimizer)
    _check_loss(loss)
    require(callable(schedule), "schedule must be a function, as optimizers.cosine", schedule)
    for name, function in {"on_epoch": on_epoch, "on_step": on_step}.items():
        require(function is None or callable(function), f"{name} must be a function", function)
    position = Position(History(len(train), net.device)) if start is None else start
    require(isinstance(position, Position), "start must be a Position", start)
    _check_position(position, len(train), batch_size, epochs)
    train = train.to(net.device)
    test = None if test is None else test.to(net.device)
    history = position.history
    history.device = net.device
    done = len(history.train_loss) * len(train) + position.seen
    with (
        _lr_restored(optimizer) as lr,
        batch_gradients(net, train, batch_size, workers, loss, augment) as gradients,
        _Progress(progress, done, epochs * len(train)) as show,
    ):
        for epoch in range(len(history.train_loss), epochs):
            began = time.perf_counter() - position.seconds
            rng = np.random.default_rng((seed, epoch))
            steps = batches(len(train), batch_size, rng, device_of(train.images))
            shares = [(step / len(steps) + epoch) / epochs for step in range(len(steps))]
            rates = [lr * finite("schedule(share)", schedule(share)) for share in shares]
            try:
                for index, rate in zip(steps[position.step :], rates[position.step :]):
                    batch = gradients(index, (seed, epoch, position.step))
                    position.keep(batch.loss, batch.correct, len(index))
                    means = _read(position, len(steps))
                    optimizer.lr = rate
                    optimizer.step(net.params, batch.grads)
                    state = net.state if batch.state else {}  # gathered, which takes a while
                    for name, array in batch.state.items():
                        state[name][...] = array
                    position.step += 1
                    position.seconds = time.perf_counter() - began
                    show.step(len(index), means)
                    if on_step and position.step < len(steps):
                        on_step(position)
            except NotFinite as error:
                place = f"{error} of {len(steps)}"
                if error.step > position.step:  # the weights are still those that it had
                    place += f": {_first_not_finite(net, train, steps[position.step])}"
                raise TrainingError(f"{place}; {_remedy(lr)}") from None
            synchronize(net.device)
            mean_loss, accuracy = position.means
            history.train_loss.append(mean_loss)
            history.train_accuracy.append(accuracy)
            history.train_seconds.append(time.perf_counter() - began)
            position = Position(history)
            if test is not None:
                _append_test(history, *evaluate(net, test, loss=loss, workers=workers), lr)
            show.epoch(history, epochs)
            if on_epoch:
                on_epoch(history)
    return history


def _read(position: Position, steps: int) -> tuple[float, float] | None:
    """(loss, accuracy) so far in this epoch, with the step that is being taken. On a GPU that is
    read at the points of the curve only, and None in between."""
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
) -> tuple[float, float]:
    """(mean loss, accuracy between 0 and 1) of `net` on `data`, on the device of its parameters;
    `loss` is that of `fit`.

    Raises ValueError for a network that does not fit the images.
    """
    check_fit(net, data)
    _check_loss(loss)
    data = data.to(net.device)
    mean_loss, correct = loss_and_correct(net, data, workers, loss)
    return mean_loss, correct / len(data)


def estimate_seconds(
    net: Layer, train: Dataset, *, epochs: int, batch_size: int, workers: int | None = None
) -> float:
    """How long the training steps of `fit` will take, from the time of one; changes nothing."""
    train = train.to(net.device)
    index = np.arange(min(integer("batch_size", batch_size, 1), len(train)))
    with batch_gradients(net, train, len(index), workers) as gradients:
        for _ in range(2):  # the first one also warms up
            start = time.perf_counter()
            gradients(index)
            synchronize(net.device)
            seconds = time.perf_counter() - start
    return seconds * epochs * len(train) / len(index)


def check_fit(net: Layer, data: Dataset, augment: Augment | None = None) -> None:
    """Raises ValueError, with the shapes, unless `net` turns the images into a score a class, and
    there is at least one; and what `augment` raises for the first of them."""
    require(isinstance(net, Layer), "net must be a layer, as lenet()", net)
    require(isinstance(data, Dataset), "data must be a Dataset, as digits()[0]", data)
    if len(data) == 0:
        raise ValueError(f"expected at least one image of {data.name} but got none")
    shape = (1, *data.images.shape[1:])
    scores = net.output_shape(shape)
    if scores != (1, len(data.classes)):
        raise ValueError(
            f"for images {shape} of {data.name} the network must put out a score for each class, "
            f"(1, {len(data.classes)}), but puts out {scores}"
        )
    if augment is not None:
        data.batch(slice(1), change=lambda images: augment(images, np.random.default_rng(0)))


def _check_loss(loss: Loss) -> None:
    require(callable(loss), "loss must be a function, as softmax_cross_entropy", loss)


def _check_position(position: Position, images: int, batch_size: int, epochs: int) -> None:
    """Raises ValueError unless training with these settings passes through `position`."""
    done, total = len(position.history.train_loss), math.ceil(images / batch_size)
    if position.history.images != images:
        raise ValueError(
            f"training cannot go on: it had {position.history.images} images, and now {images}"
        )
    if not 0 <= position.step < total or position.seen != position.step * batch_size:
        raise ValueError(
            f"training cannot go on: {position.seen} images were seen in {position.step} steps, "
            f"but an epoch has {total} steps of {batch_size}"
        )
    if done + (position.step > 0) > epochs:
        raise ValueError(
            f"training cannot go on: expected at least {done + (position.step > 0)} epochs, "
            f"which have begun, got {epochs}"
        )


def _first_not_finite(net: Layer, data: Dataset, index: Array) -> str:
    """Which layer's output is the first, on these images, that is not finite."""
    x, _ = data.batch(index, net.dtype)
    with np.errstate(all="ignore"):
        for i, layer in enumerate(getattr(net, "layers", [net])):
            x, _ = layer.forward(x)
            if not array_module(x).isfinite(x).all():
                return f"the first output that is not finite is that of layer {i}, {shown(layer)}"
    return "every layer's output is finite, but too large for the loss"


def _remedy(lr: float) -> str:
    return f"a learning rate below {lr:g} may help"


class _Progress:
    """A line for each epoch and, in a terminal, a bar; nothing at all unless it is `shown`."""

    def __init__(self, shown: bool, done: int, images: int) -> None:
        self.bar = None
        if shown:
            from tqdm import tqdm  # here, since `import minicnn` does without it

            self.bar = tqdm(
                total=images, initial=done, unit=" images", unit_scale=True, disable=None
            )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, images: int, means: tuple[float, float] | None) -> None:
        if self.bar is not None:
            if means is not None:
                loss, accuracy = means
                self.bar.set_postfix_str(f"loss {loss:.3f}, acc {accuracy:.3f}", refresh=False)
            self.bar.update(images)

    def epoch(self, history: History, epochs: int) -> None:
        if self.bar is not None:
            test = f", test acc {history.test_accuracy[-1]:.3f}" if history.test_accuracy else ""
            self.bar.write(
                f"epoch {len(history.train_loss)}/{epochs}: loss {history.train_loss[-1]:.3f}, "
                f"train acc {history.train_accuracy[-1]:.3f}{test}"
            )
