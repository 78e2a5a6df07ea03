"""A better LeNet: what each change to the course's network brings, one after another.

Each row of the table keeps the changes of the rows above. Look for the four kinds of change: the
layers (ReLU, maximum pooling, batch normalisation, residual blocks), the optimiser (momentum,
smaller batches, a schedule, weight decay), the size (more channels, smaller kernels), and the data
(mirrored and shifted images). The accuracy for one seed says little: rows that differ by less than
half a percent may well change places with other `--seeds`. The last rows take long: `--rows 14`
trains that row alone.

In the course, Dive into Deep Learning: the exercises of "Convolutional Neural Networks (LeNet)".
"""

import numpy as np
from gallery import keep, parser, positive, run
from matplotlib.figure import Figure

from minicnn import (
    SGD,
    Augmentation,
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    Flatten,
    Linear,
    MaxPool2D,
    ReLU,
    Sequential,
    Sigmoid,
    cosine,
    digits,
    fashion_mnist,
    fit,
    mnist,
)
from minicnn.backend import choose_device
from minicnn.initializers import he_normal
from minicnn.optimizers import SCHEDULES, constant
from minicnn.zoo import resnet_mini

DATA = {"fashion-mnist": fashion_mnist, "mnist": mnist, "digits": digits}
COURSE = {
    "activation": Sigmoid,
    "pooling": AvgPool2D,
    "channels": (6, 16),
    "kernels": [{"kernel_size": 5, "padding": 2}, {"kernel_size": 5}],
    "hidden": (120, 84),
    "he": False,
    "lr": 0.9,
    "momentum": 0.0,
    "nesterov": False,
    "weight_decay": 0.0,
    "batch_size": 256,
    "schedule": constant,
    "mirror": False,
    "normalised": False,
    "residual": False,
    "shift": 0,
    "times_epochs": 1,
}
CHANGES = [
    ("the course's LeNet, lr 0.9", {}),
    ("ReLU for the sigmoid, lr 0.1", {"activation": ReLU, "lr": 0.1}),
    ("maximum pooling", {"pooling": MaxPool2D}),
    ("momentum 0.9, lr 0.05", {"momentum": 0.9, "lr": 0.05}),
    ("batches of 128", {"batch_size": 128}),
    ("lr down to 0 by a cosine", {"schedule": cosine}),
    ("He's initial weights", {"he": True}),
    ("20 and 40 channels, 128 hidden", {"channels": (20, 40), "hidden": (128,)}),
    (
        "3x3 kernels, 24 and 48 channels",
        {"channels": (24, 48), "kernels": [{"kernel_size": 3, "padding": 1}] * 2},
    ),
    ("Nesterov, weight decay 5e-4", {"nesterov": True, "weight_decay": 5e-4}),
    ("each image mirrored or not, by chance", {"mirror": True}),
    ("batch normalisation", {"normalised": True}),
    (
        "resnet-mini in its place, lr 0.15, triangle",
        {"residual": True, "lr": 0.15, "schedule": SCHEDULES["triangle"]},
    ),
    ("shifted by up to 2 pixels, twice the epochs", {"shift": 2, "times_epochs": 2}),
]


def recipes():
    """(what is new, all settings) for each row."""
    settings = COURSE
    for what, change in CHANGES:
        settings = settings | change
        yield what, settings


def network(settings, image_shape, classes, rng):
    """Two convolutions, each with activation and pooling, and linear layers; or resnet-mini."""
    if settings["residual"]:
        return resnet_mini(rng)
    layers, channels = [], image_shape[0]
    for out_channels, kernel in zip(settings["channels"], settings["kernels"]):
        layers.append(Conv2D(channels, out_channels, **kernel, rng=rng))
        if settings["normalised"]:
            layers.append(BatchNorm2D(out_channels))
        layers += [settings["activation"](), settings["pooling"](2)]
        channels = out_channels
    layers.append(Flatten())
    _, features = Sequential(*layers).output_shape((1, *image_shape))
    for hidden in settings["hidden"]:
        layers += [Linear(features, hidden, rng=rng), settings["activation"]()]
        features = hidden
    layers.append(Linear(features, classes, rng=rng))
    if settings["he"]:
        for layer in layers:
            if isinstance(layer, (Conv2D, Linear)):
                layer.params["weight"] = he_normal(layer.params["weight"].shape, rng)
    return Sequential(*layers)


def train(settings, data, test, epochs, seed, device="cpu"):
    """(parameters, history)."""
    net = network(settings, data.images.shape[1:], len(data.classes), np.random.default_rng(seed))
    names = ("lr", "momentum", "nesterov", "weight_decay")
    augment = Augmentation(settings["mirror"], settings["shift"])
    history = fit(
        net.to(device),
        data,
        test,
        epochs=epochs * settings["times_epochs"],
        batch_size=settings["batch_size"],
        optimizer=SGD(**{name: settings[name] for name in names}),
        schedule=settings["schedule"],
        seed=seed,
        augment=None if augment == Augmentation() else augment,
    )
    return sum(parameter.size for parameter in net.params.values()), history


def table(rows):
    """The rows as Markdown; for several seeds the mean, and the lowest and highest accuracy."""
    lines = [("change", "parameters", "training, %", "test set, %", "seconds"), ("---",) * 5]
    for what, parameters, histories in rows:
        cells = []
        for name in ("train_accuracy", "test_accuracy"):
            accuracies = [100 * getattr(history, name)[-1] for history in histories]
            spread = f" ({min(accuracies):.1f} to {max(accuracies):.1f})"
            cells.append(f"{np.mean(accuracies):.1f}" + (spread if len(histories) > 1 else ""))
        seconds = np.mean([sum(history.train_seconds) for history in histories])
        lines.append((what, f"{parameters:,}", *cells, f"{seconds:.0f}"))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def draw(rows):
    """The accuracy of each row, on the test set and in training."""
    figure = Figure(figsize=(8, 0.34 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    for y, (_, _, histories) in enumerate(rows):
        test, training = (
            100 * np.mean([getattr(history, name)[-1] for history in histories])
            for name in ("test_accuracy", "train_accuracy")
        )
        axes.plot([test, training], [y, y], color="0.8", zorder=1)
        axes.scatter(training, y, color="C0", label="training" if y == 0 else None)
        axes.scatter(test, y, color="C1", label="test set" if y == 0 else None)
        axes.annotate(
            f"{test:.1f}", (test, y), (0, 6), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_yticks(range(len(rows)), [what for what, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("accuracy after the last epoch, %")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower left")
    return figure


def options():
    add = (arguments := parser(__doc__, DATA, device="where to compute")).add_argument
    add("--epochs", type=positive, default=10, help="for each row (default: 10)")
    add("--images", type=positive, help="train with the first so many only")
    add("--seeds", type=int, nargs="+", default=[0], help="of weights and order (default: 0)")
    add("--rows", type=positive, nargs="+", help="numbers of rows, from 1 (default: all)")
    return arguments


def main(argv=None):
    args = options().parse_args(argv)
    device = choose_device(args.device)
    data, test = DATA[args.data]()
    if args.images:
        data = data[: args.images]
    seeds = " ".join(map(str, args.seeds))
    print(
        f"{data.name}, {len(data):,} images, {args.epochs} epochs, seeds {seeds}, on the {device}"
    )
    rows = []
    for number, (what, settings) in enumerate(recipes(), start=1):
        if args.rows and number not in args.rows:
            continue
        print(f"{number}. {what}", flush=True)
        trained = [train(settings, data, test, args.epochs, seed, device) for seed in args.seeds]
        rows.append((what, trained[0][0], [history for _, history in trained]))
    print(table(rows))
    keep(draw(rows), "09_better_lenet", args)


if __name__ == "__main__":
    run(main)
