"""LeNet layer by layer: shapes, parameters, arithmetic, memory and time, forward and backward.

Look for: the linear layers hold nearly all parameters, the convolutions do most of the arithmetic,
and the first feature maps take most of the memory. The feature maps are drawn to scale.

In the course, Dive into Deep Learning: "Convolutional Neural Networks (LeNet)".
"""

import time

import numpy as np
from gallery import keep, parser, run
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from threadpoolctl import threadpool_limits

from minicnn import (
    SGD,
    Conv2D,
    digits,
    fashion_mnist,
    fit,
    lenet,
    lenet_relu,
    softmax,
    softmax_cross_entropy,
)
from minicnn.backend import choose_device, synchronize
from minicnn.cli.summary import summarize, table

BATCH = 256  # images
DATA = {"fashion-mnist": fashion_mnist, "digits": digits}
STAGES = {  # of the picture: the layer it shows the output of, and its name
    1: "convolution 5x5\nReLU",
    2: "maximum pooling 2x2",
    4: "convolution 5x5\nReLU",
    5: "maximum pooling 2x2",
    8: "linear, ReLU",
    10: "linear, ReLU",
    11: "linear, softmax",
}


def table_of_the_course(net):
    """The output shape and the costs of each layer, for one image."""
    print("LeNet for one image:")
    print(table(summarize(net, (1, 1, 28, 28))))
    x, equal = np.zeros((1, 1, 28, 28), np.float32), True
    for layer, _, shape in net.trace(x.shape):
        x = layer(x)
        equal &= x.shape == shape
    print(f"These shapes follow from the arguments alone; running it gives the same: {equal}")
    sizes = [sum(p.size for p in layer.params.values()) for layer in net.layers if layer.params]
    print("Parameters:", " + ".join(f"{size:,}" for size in sizes), f"= {sum(sizes):,}")


def products_of_backward(net, x_shape):
    """Multiply-adds of each layer: as many as forward for dweight, and as many again for dx, which
    the first layer does not need."""
    forward = [layer.multiply_adds(shape) for layer, shape, _ in net.trace(x_shape)]
    return [forward[0], *(2 * products for products in forward[1:])]


def clock(device):
    """Seconds, read when `device` has finished its work."""
    synchronize(device)
    return time.perf_counter()


def one_step(net, x, labels):
    """For each layer, the seconds (forward, backward) and the bytes of the gradients."""
    seconds, gradient_bytes, tape = np.zeros((len(net.layers), 2)), [], []
    for i, layer in enumerate(net.layers):
        start = clock(net.device)
        x, saved = layer.forward(x)
        seconds[i, 0] = clock(net.device) - start
        tape.append(saved)
    _, dy = softmax_cross_entropy(x, labels)
    for i, layer in reversed(list(enumerate(net.layers))):
        start = clock(net.device)
        dy, grads = layer.backward(dy, tape[i], need_dx=i > 0)
        seconds[i, 1] = clock(net.device) - start
        made = [*grads.values()] + [dy] * (i > 0)
        gradient_bytes.insert(0, sum(gradient.nbytes for gradient in made))
    return seconds, gradient_bytes


def costs(net, data, steps=9):
    """For each title, a row (forward, backward) for each layer."""
    x, labels = data.batch(slice(0, BATCH))
    rows = summarize(net.to("cpu"), x.shape)
    with threadpool_limits(1):  # one core, whatever else the machine does
        seconds, gradient_bytes = zip(*(one_step(net, x, labels) for _ in range(steps)))
    products = [row.multiply_adds for row in rows], products_of_backward(net, x.shape)
    memory = [row.kept_bytes for row in rows], gradient_bytes[0]
    return {
        "million multiply-adds": np.transpose(products) / 1e6,
        "MB": np.transpose(memory) / 1e6,
        "milliseconds": np.median(seconds, axis=0) * 1e3,
    }


def print_costs(net, columns):
    """The same for a batch, forward and backward, with the time that it takes."""
    print(f"\nA batch of {BATCH}, forward and backward:")
    print(f"{'':<25}" + "".join(f"{title:>24}" for title in columns))
    for i, layer in enumerate(net.layers):
        cells = [f"{row[i, 0]:14.2f}{row[i, 1]:10.2f}" for row in columns.values()]
        print(f"{layer!r:<25}" + "".join(cells))
    sums = [f"{a:14.2f}{b:10.2f}" for a, b in (c.sum(axis=0) for c in columns.values())]
    print(f"{'sum':<25}" + "".join(sums))
    print("Backward has twice the products, once for dweight, once for dx; the first layer has no")
    print("dx. MB forward are kept until backward, and an array that two layers keep counts at the")
    print("first. MB backward are gradients; dx is kept only until the layer before has used it.")
    place = "the GPU" if net.device == "gpu" else "one core of this machine"
    print(f"Milliseconds were measured on {place}, medians of 9 steps.")
    for title, column in columns.items():
        share = column[[isinstance(layer, Conv2D) for layer in net.layers]].sum() / column.sum()
        print(f"The convolutions have {share:.0%} of the {title.removeprefix('million ')}.")


def picture_of_costs(net, columns):
    """Where the parameters, the arithmetic, the memory and the time are."""
    names = [type(layer).__name__ for layer in net.layers]
    parameters = [sum(p.size for p in layer.params.values()) / 1e3 for layer in net.layers]
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    panels[0].barh(range(len(names)), parameters, color="0.4")
    panels[0].set_xlabel("thousand parameters")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    for axes, (title, column) in zip(panels[1:], columns.items()):
        axes.barh(range(len(names)), column[:, 0], label="forward")
        axes.barh(range(len(names)), column[:, 1], left=column[:, 0], label="backward")
        axes.set_xlabel(title)
    panels[1].legend(loc="lower right")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"LeNet, a batch of {BATCH} images", fontsize=11)
    return figure


def trained_for_a_moment(train, device):
    """A network that has learned enough for its feature maps to show something."""
    net = lenet_relu(np.random.default_rng(0)).to(device)
    history = fit(net, train, epochs=3, batch_size=32, optimizer=SGD(0.01, 0.9), progress=False)
    print("\nThe next picture's network has ReLU, maximum pooling and the same shapes. It has seen")
    print(f"{len(train)} images three times; training accuracy {history.train_accuracy[-1]:.2f}.")
    return net


def picture_of_feature_maps(net, image, classes):
    """An image (1, 1, 28, 28) on its way through the network. Pixels have the same size everywhere,
    and each map goes from black, zero, to white, its own maximum."""
    stages, x = [("image", image[0])], image
    for i, layer in enumerate(net.layers):
        x = layer(x)
        if i in STAGES:
            stages.append((STAGES[i], x[0]))
    stages[-1] = stages[-1][0], softmax(x)[0]
    figure = Figure(figsize=(9, 6.6), layout="constrained")
    axes, top = figure.subplots(), 0
    for name, y in stages:
        strip = y.ndim == 1  # features, drawn as one image with one row
        height, maps = (6, y[None, None]) if strip else (y.shape[1], y)
        half = 90 if strip else height / 2
        for middle, channel in zip((np.arange(len(maps)) + 0.5) * 180 / len(maps), maps):
            extent = middle - half, middle + half, top + height, top
            axes.imshow(channel, cmap="gray", vmin=0, vmax=channel.max(), extent=extent)
        if strip:
            axes.add_patch(Rectangle((0, top), 180, height, fill=False, edgecolor="0.5"))
        text = f"{name}\n" + " x ".join(map(str, y.shape))
        axes.text(-5, top + height / 2, text, ha="right", va="center", fontsize=9)
        top += height + 7
    for i, (name, p) in enumerate(zip(classes, y)):
        axes.text(18 * i + 9, top - 5, f"{name}\n{p:.0%}", ha="center", va="top", fontsize=8)
    axes.set(xlim=(-52, 181), ylim=(top + 3, -1), aspect="equal")
    axes.set_axis_off()
    return figure


def options():
    return parser(__doc__, DATA, device="where to compute")


def main(argv=None):
    args = options().parse_args(argv)
    device = choose_device(args.device)
    train, test = DATA[args.data]()
    net = lenet(np.random.default_rng(0))
    table_of_the_course(net)
    net, train = net.to(device), train.to(device)
    columns = costs(net, train)
    print_costs(net, columns)
    keep(picture_of_costs(net, columns), "07_lenet_cost", args)
    net = trained_for_a_moment(train[:5000], device).to("cpu")
    image, _ = test.batch(slice(1, 2))
    keep(picture_of_feature_maps(net, image, test.classes), "07_lenet_feature_maps", args)


if __name__ == "__main__":
    run(main)
