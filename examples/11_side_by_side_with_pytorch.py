"""The same LeNet in minicnn and in PyTorch: same weights, same batches, every step compared.

Look for how far apart the two are, in units of the last digit of each precision. At the first step
loss and gradients agree to within a few roundings: products are summed in a different order. The
course's LeNet, which is smooth, stays the same network for hundreds of steps, in both precisions.

With ReLU and maximum pooling, float32 behaves differently. Each unit makes a choice: above zero or
not, or which of four is the largest. If two candidates are nearly equal, rounding decides, and then
the gradient takes a different path: it differs a thousand times more than by rounding. The weights
move apart, more units choose differently, and soon there are two networks, equally well trained. In
float64, roundings are 5e8 times smaller, and no unit is that close to its edge. So a difference in
float32 is no sign of a wrong gradient; a wrong one would show in float64, at the first step.

In the course, Dive into Deep Learning: "Convolutional Neural Networks (LeNet)", in its PyTorch
edition.
"""

from dataclasses import dataclass, field

import numpy as np
from gallery import keep, largest_difference, parser, positive, run
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from minicnn import SGD, MaxPool2D, ReLU, digits, fashion_mnist, softmax_cross_entropy
from minicnn.backend import choose_device, to_device
from minicnn.datasets import batches
from minicnn.text import align
from minicnn.zoo import MODELS

try:
    import torch
except ImportError:
    torch = None

DATA = {"fashion-mnist": fashion_mnist, "digits": digits}
PRECISIONS = (np.float32, np.float64)
BATCH_SIZE = 32


def lenet_of_pytorch(name, params):
    """LeNet built from PyTorch's layers, with copies of these parameters."""
    nn, smooth = torch.nn, name == "lenet"
    activation, pooling = (nn.Sigmoid, nn.AvgPool2d) if smooth else (nn.ReLU, nn.MaxPool2d)
    net = nn.Sequential(
        *[nn.Conv2d(1, 6, 5, padding=2), activation(), pooling(2)],
        *[nn.Conv2d(6, 16, 5), activation(), pooling(2), nn.Flatten()],
        *[nn.Linear(400, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10)],
    )
    params = {key: torch.tensor(parameter) for key, parameter in params.items()}
    net.load_state_dict(params, assign=True)
    return net.requires_grad_()


def on_the_host(arrays):
    """The same arrays in the memory of the CPU."""
    return {name: to_device(array, "cpu") for name, array in arrays.items()}


def gradients_by_minicnn(net, x, labels):
    logits, saved = net.forward(to_device(x, net.device))
    loss, dlogits = softmax_cross_entropy(logits, to_device(labels, net.device))
    _, grads = net.backward(dlogits, saved, need_dx=False)
    return float(loss), grads


def gradients_by_pytorch(net, x, labels):
    net.zero_grad()
    loss = torch.nn.functional.cross_entropy(net(torch.tensor(x)), torch.tensor(labels))
    loss.backward()
    return loss.item(), {name: param.grad.numpy() for name, param in net.named_parameters()}


def differences(ours, theirs):
    """For each parameter the largest difference, as a share of its largest entry."""
    return {name: largest_difference(a, theirs[name]) / abs(a).max() for name, a in ours.items()}


def different_choices(ours, theirs, x):
    """How many units are on the other side of zero in the other network, or pick a different one of
    their four inputs as the largest (if that is above zero; below, no gradient passes)."""

    def largest_of_four(y):
        n, c, h, w = y.shape
        four = y.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5)
        four = four.reshape(n, c, h // 2, w // 2, 4)
        return np.where(four.max(axis=-1) > 0, four.argmax(axis=-1), 0)

    count, y, z = 0, to_device(x, ours.device), torch.tensor(x)
    for layer, layer_of_pytorch in zip(ours.layers, theirs):
        if isinstance(layer, MaxPool2D):
            largest = largest_of_four(to_device(y, "cpu"))
            count += (largest != largest_of_four(z.numpy())).sum()
        y, z = layer(y), layer_of_pytorch(z).detach()
        if isinstance(layer, ReLU):
            count += ((to_device(y, "cpu") > 0) != (z.numpy() > 0)).sum()
    return int(count)


@dataclass
class Comparison:
    """What each step showed; `first` has the gradients' differences at step 1, by parameter."""

    losses: list = field(default_factory=list)
    gradients: list = field(default_factory=list)
    weights: list = field(default_factory=list)
    choices: list = field(default_factory=list)
    first: dict = field(default_factory=dict)


def train_side_by_side(name, train_set, precision, steps, device):
    """Trains both networks, each with its own gradients, for `steps` steps on the same batches."""
    ours = MODELS[name].build(np.random.default_rng(0)).astype(precision)
    theirs = lenet_of_pytorch(name, ours.params)
    ours = ours.to(device)
    sgd = SGD(MODELS[name].lr)
    sgd_of_pytorch = torch.optim.SGD(theirs.parameters(), MODELS[name].lr)
    seen = Comparison()
    for index in batches(len(train_set), BATCH_SIZE, np.random.default_rng(0))[:steps]:
        x, labels = train_set.batch(index, precision)
        seen.choices.append(different_choices(ours, theirs, x))
        loss, grads = gradients_by_minicnn(ours, x, labels)
        loss_of_pytorch, grads_of_pytorch = gradients_by_pytorch(theirs, x, labels)
        apart = differences(on_the_host(grads), grads_of_pytorch)
        seen.first = seen.first or apart
        seen.losses.append((loss, loss_of_pytorch))
        seen.gradients.append(max(apart.values()))
        sgd.step(ours.params, grads)
        sgd_of_pytorch.step()
        params = {key: param.detach().numpy() for key, param in theirs.named_parameters()}
        seen.weights.append(max(differences(on_the_host(ours.params), params).values()))
    return seen


def tell(name, pair):
    """Prints what was seen in float32 and in float64."""
    single, double = pair
    print(f"\n{name}, gradients at step 1: largest difference, as a share of the largest entry")
    rows = [[key, f"{single.first[key]:.0e}", f"{double.first[key]:.0e}"] for key in single.first]
    print(*align([["parameter", "float32", "float64"], *rows], "<>>"), sep="\n")
    for precision, seen in zip(PRECISIONS, pair):
        print(f"\n{name} in {precision.__name__}")
        rows = [["step", "loss", "PyTorch's", "gradients apart", "weights apart", "other choices"]]
        last = len(seen.losses)
        for step in sorted({1, 10, 20, 50, 100, last} & set(range(1, last + 1))):
            numbers = [*seen.losses[step - 1], seen.gradients[step - 1], seen.weights[step - 1]]
            cells = map(str.format, ["{:.6f}", "{:.6f}", "{:.0e}", "{:.0e}"], numbers)
            rows.append([str(step), *cells, str(seen.choices[step - 1])])
        print(*align(rows, ">>>>>>"), sep="\n")
        roundings = max(seen.weights) / np.finfo(precision).eps
        print(f"the weights were never more than {roundings:,.0f} machine epsilons apart")
        if any(seen.choices):
            step = np.flatnonzero(seen.choices)[0]
            print(
                f"at step {step + 1} the first unit chose differently: the gradients are "
                f"{seen.gradients[step]:.0e} apart, against {seen.gradients[0]:.0e} at step 1"
            )


def draw(comparisons):
    """The difference of the weights against steps, with a panel for each network."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    titles = {
        "lenet": "sigmoid and average pooling: smooth",
        "lenet-relu": "ReLU and maximum pooling: choices",
    }
    panels = figure.subplots(1, len(comparisons), sharey=True)
    for axes, (name, pair) in zip(panels, comparisons.items()):
        for precision, seen, colour in zip(PRECISIONS, pair, ("C0", "C1")):
            steps = range(1, len(seen.weights) + 1)
            axes.semilogy(steps, seen.weights, colour, label=precision.__name__)
            eps = np.finfo(precision).eps
            axes.axhline(eps, color=colour, linestyle=":")
            axes.annotate(
                f"machine epsilon {eps:.1e}", (1, eps), (0, -12), textcoords="offset points"
            )
        axes.set_title(titles[name])
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("largest difference of the weights,\nas a share of the largest")
    panels[0].set_ylim(1e-17, 10)
    panels[0].legend(loc="upper right")
    return figure


def options():
    arguments = parser(__doc__, DATA, device="where minicnn computes; PyTorch is on the CPU")
    arguments.add_argument("--steps", type=positive, default=200, help="of SGD (default: 200)")
    return arguments


def main(argv=None):
    args = options().parse_args(argv)
    device = choose_device(args.device)
    if torch is None:
        print("PyTorch is not installed, so there is nothing to compare with: pip install torch")
        return
    train_set, _ = DATA[args.data]()
    print(f"batches of {BATCH_SIZE} images of {train_set.name}, minicnn on the {device}")
    comparisons = {}
    with threadpool_limits(1):  # so small a batch is slower on several
        for name in ("lenet", "lenet-relu"):
            pair = [train_side_by_side(name, train_set, p, args.steps, device) for p in PRECISIONS]
            tell(name, pair)
            comparisons[name] = pair
    keep(draw(comparisons), "11_side_by_side_with_pytorch", args)


if __name__ == "__main__":
    run(main)
