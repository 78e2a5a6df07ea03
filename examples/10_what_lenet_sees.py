"""What a trained LeNet sees: its filters, its activations, its mistakes.

Filters of the first layer find edges with one orientation, stripes, or just blur; each map shows
what its filter responds to. Look for the bottom row of that picture, the mean over all coats minus
the mean over all pullovers, red above zero: coats are brighter in the middle and narrower at the
shoulders. The second layer sees the same in coarse maps. A map that is black for every image has a
dead ReLU: no gradient passes where it is zero, so its weights never move again. In the confusion
matrix most mistakes are among the tops: shirts, T-shirts, pullovers, coats. People would make some
of the network's most confident mistakes too. And noise or a portrait also gets an answer, because
the network has no way to say that an image is none of these things.

In the course, Dive into Deep Learning: the exercises of "Convolutional Neural Networks (LeNet)" on
the activations for sweaters and coats, and for images of something else.
"""

import numpy as np
from gallery import keep, parser, photograph, positive, run
from matplotlib.figure import Figure

from minicnn import SGD, cosine, digits, fashion_mnist, fit, lenet_relu, mnist, softmax
from minicnn.backend import choose_device
from minicnn.plotting import confusion_matrix, image_grid
from minicnn.runs.run_folder import open_run
from minicnn.text import align
from minicnn.training.loop import estimate_seconds

DATA = {"fashion-mnist": fashion_mnist, "mnist": mnist, "digits": digits}
TWO_CLASSES = {"Pullover": "Coat", "4": "9"}
FIRST, SECOND = 1, 4  # the layers whose outputs are the activations of the two convolutions


def train_quickly(train_set, device="cpu"):
    """A LeNet with ReLU and maximum pooling, which learns faster than the course's."""
    net = lenet_relu(np.random.default_rng(0)).to(device)
    settings = {"epochs": 3, "batch_size": 128}
    seconds = estimate_seconds(net, train_set, **settings)
    print(f"training lenet-relu for 3 epochs, about {seconds:.0f} seconds", flush=True)
    fit(net, train_set, optimizer=SGD(0.02, momentum=0.9), schedule=cosine, **settings)
    return net.to("cpu")


def activations(net, x):
    """The outputs (n, C, H, W) of the two convolutions, after the activation function."""
    outputs = []
    for layer in net.layers[: SECOND + 1]:
        x = layer(x)
        outputs.append(x)
    return outputs[FIRST], outputs[SECOND]


def empty_grid(rows, columns):
    """(figure, axes), with row names, a column for images, then one for each map. Everything is
    drawn into a single axes, where a cell is one unit wide: a hundred axes would be slow."""
    width, margin = 9, 0.3  # inches
    figure = Figure((width, margin + len(rows) * (width - margin) / (columns + 1)))
    side = margin / (width - margin) * (columns + 1)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for row, name in enumerate(rows):
        axes.text(-side / 2, row + 0.5, name, rotation=90, ha="center", va="center", fontsize=7)
    for k in range(columns):
        name = f"map {k}" if columns < 10 else k
        axes.text(k + 1.5, -side / 2, name, ha="center", va="center", fontsize=8)
    axes.set(xlim=(-side, columns + 1), ylim=(len(rows), -side), autoscale_on=False)
    return figure, axes


def show_cells(axes, row, column, images, **style):
    """Draws images in a row, beginning at `column`."""
    for k, image in enumerate(images, column):
        axes.imshow(image, extent=(k + 0.02, k + 0.98, row + 0.98, row + 0.02), **style)


def show_signed(axes, row, images, limit):
    show_cells(axes, row, 1, images, cmap="RdBu_r", vmin=-limit, vmax=limit)


def draw_activations(images, names, maps, difference, filters=None):
    """A row for each image (H, W) with its maps (C, H, W), each map on one grey scale from zero;
    below, the difference (C, H, W); above, if each map has a single filter, the filters."""
    top = [] if filters is None else ["filter"]
    rows = [*top, *names, "difference"]
    figure, axes = empty_grid(rows, len(difference))
    if top:
        show_signed(axes, 0, filters, abs(filters).max())
    largest = maps.max(axis=(0, 2, 3), initial=1e-6)
    for row, (image, maps_of_image) in enumerate(zip(images, maps), len(top)):
        show_cells(axes, row, 0, [image], cmap="gray")
        scaled = maps_of_image / largest[:, None, None]
        show_cells(axes, row, 1, scaled, cmap="gray", vmin=0, vmax=1)
    show_signed(axes, len(rows) - 1, difference, abs(difference).max())
    return figure


def show_activations(net, data, args):
    """Two images from each of two classes, and the means over the whole test set."""
    first = next(name for name in TWO_CLASSES if name in data.classes)
    names = first, TWO_CLASSES[first]
    x, labels = data.batch(slice(None))
    of_class = [x[labels == data.classes.index(name)] for name in names]
    maps_of_class = [activations(net, images) for images in of_class]
    filters = net.params["0.weight"][:, 0], None
    for place, layer in enumerate(("first", "second")):
        one, other = (maps[place] for maps in maps_of_class)
        means = np.stack([maps.mean(axis=(0, 2, 3)) for maps in (one, other)])
        print(f"\n{layer} layer, mean of each map: over all {first}s, over all {names[1]}s")
        print(means)
        figure = draw_activations(
            [*of_class[0][:2, 0], *of_class[1][:2, 0]],
            [name for name in names for _ in range(2)],
            np.concatenate([one[:2], other[:2]]),
            other.mean(axis=0) - one.mean(axis=0),
            filters[place],
        )
        keep(figure, f"10_activations_{layer}", args)


def show_filters(net, args):
    """The 5x5 filters of the second layer: a column for each map that it makes, and a row for each
    map of the first layer that it reads."""
    weight = net.params["3.weight"]  # (O, C, KH, KW)
    o, c, kh, kw = weight.shape
    sizes = np.sqrt((weight**2).mean(axis=(0, 2, 3)))
    print(f"\nsecond layer: {o} x {c} filters of {kh} x {kw}; their size (root mean square),")
    print(f"by the map of the first layer that they read: {sizes}")
    figure, axes = empty_grid([""] * c, o)
    for i in range(c):
        axes.text(0.9, i + 0.5, f"of map {i}", ha="right", va="center", fontsize=8)
        show_signed(axes, i, weight[:, i], abs(weight).max())
    keep(figure, "10_filters_second", args)


def show_mistakes(net, data, args):
    """The confusion matrix, and the wrong predictions with the highest probability."""
    x, labels = data.batch(slice(None))
    probabilities = softmax(net(x))
    predictions = probabilities.argmax(axis=1)
    k = len(data.classes)
    counts = np.bincount(k * labels + predictions, minlength=k * k).reshape(k, k)
    print(
        f"\n{np.trace(counts):,} of {len(data):,} test images are right; true class by predicted:"
    )
    print(counts)
    wrong = counts - np.diag(np.diag(counts))
    true, predicted = np.unravel_index(wrong.argmax(), wrong.shape)
    print(
        f"the most frequent mistake: {wrong.max()} times {data.classes[true]} "
        f"was taken for {data.classes[predicted]}"
    )
    keep(confusion_matrix(counts, data.classes), "10_confusion_matrix", args)
    certainty = np.where(predictions == labels, 0, probabilities.max(axis=1))
    worst = certainty.argsort()[::-1][: min(18, wrong.sum())]
    print("\nthe most confident mistakes")
    titles = []
    for i in worst:
        true, predicted = data.classes[labels[i]], data.classes[predictions[i]]
        print(f"image {i:4}: {true}, taken for {predicted} with probability {certainty[i]:.3f}")
        titles.append(f"{true}, seen as\n{predicted} ({certainty[i]:.1%})")
    grid = image_grid(data.images[worst, 0], titles, columns=6, size=1.4)
    keep(grid, "10_confident_mistakes", args)


def show_strangers(net, data):
    """What the network makes of images unlike those that it was trained on."""
    noise = np.random.default_rng(0).random((1000, 1, 28, 28), np.float32)
    portrait = photograph(28).astype(np.float32)[None, None]
    rows = [["images", "first layer", "second layer", "answer", "probability"]]
    for name, x in (
        (f"test images of {data.name}", data.batch(slice(0, 1000))[0]),
        ("noise", noise),
        ("a portrait", portrait),
    ):
        probabilities = softmax(net(x))
        answer = np.bincount(probabilities.argmax(axis=1)).argmax()
        means = [f"{maps.mean():.2f}" for maps in activations(net, x)]
        rows.append([name, *means, data.classes[answer], f"{probabilities.max(axis=1).mean():.2f}"])
    print(
        "\nimages of something else: the mean activation of each layer, the most frequent answer,"
    )
    print("and the mean of the probability that the network gives to its answers")
    print(*align(rows, "<>><>"), sep="\n")


def options():
    add = (arguments := parser(__doc__, device="where to train a network")).add_argument
    add("--run", help="folder of a run of minicnn train (default: train a network first)")
    add("--data", choices=DATA, help="data set (default: that of the run, or fashion-mnist)")
    add("--images", type=positive, help="use only so many images of each set (default: all)")
    return arguments


def main(argv=None):
    args = options().parse_args(argv)
    device = choose_device(args.device)
    net, origin = open_run(args.run) if args.run else (None, None)
    name = args.data or (origin.data if origin else "fashion-mnist")
    if name not in DATA:
        raise ValueError(f"the run used {name!r}: choose {', '.join(DATA)} with --data")
    train_set, test_set = (part[: args.images] for part in DATA[name]())
    print(f"{len(train_set):,} images of {train_set.name} to train, {len(test_set):,} to test")
    net = net or train_quickly(train_set, device)
    with np.printoptions(precision=2, suppress=True):
        show_activations(net, test_set, args)
        show_filters(net, args)
    show_mistakes(net, test_set, args)
    show_strangers(net, test_set)


if __name__ == "__main__":
    run(main)
