"""Learning a kernel: gradient descent finds the edge detector that made the data.

Only an image and its edge map are given. Look for the course's losses, step by step; the two
speeds, one for each eigenvector of the curvature; and the learning rate beyond which the loss
grows.

In the course, Dive into Deep Learning: "Convolutions for Images", "Learning a Kernel".
"""

import numpy as np
from gallery import convolution, keep, parser, run
from matplotlib.figure import Figure

from minicnn import SGD, corr2d, squared_error

X = np.ones((1, 1, 6, 8))
X[..., 2:6] = 0
TRUE = np.array([1.0, -1.0])
Y = corr2d(X[0, 0], TRUE[None])[None, None]

# The course does not give its random start. Each step multiplies the kernel's error by I - lr*H;
# undoing ten steps from the kernel that the course prints gives [-0.5807, 0.0387]. Near there, only
# starts within 0.0001 of this one give all printed digits.
START = np.array([-0.58187, 0.03946])


def layer_with(kernel):
    """A convolutional layer with this kernel, (2,)."""
    return convolution(np.array(kernel, float).reshape(1, 1, 1, 2))


def loss_and_grads(layer):
    """The squared error, summed, and its gradient."""
    y, saved = layer.forward(X)
    loss, dy = squared_error(y, Y, "sum")
    return loss, layer.backward(dy, saved, need_dx=False)[1]


def learn(start, lr=0.03, steps=10):
    """The loss before each step, (steps,), and all kernels, (steps + 1, 2)."""
    layer, optimizer = layer_with(start), SGD(lr)
    losses, kernels = [], [np.array(start)]
    for _ in range(steps):
        loss, grads = loss_and_grads(layer)
        optimizer.step(layer.params, grads)
        losses.append(loss)
        kernels.append(layer.params["weight"].ravel().copy())
    return np.array(losses), np.array(kernels)


def hessian():
    """The Hessian, (2, 2). The gradient is linear in the kernel, so its differences are exact."""
    here, right, up = (
        loss_and_grads(layer_with(kernel))[1]["weight"].ravel()
        for kernel in ([0, 0], [1, 0], [0, 1])
    )
    return np.stack([right - here, up - here])


def as_in_the_course():
    """Gradient descent with the course's learning rate, and its losses."""
    print("Each row of the image, and of its edge map:")
    print(X[0, 0, 0].astype(int), Y[0, 0, 0].astype(int))
    losses, kernels = learn(START)
    print(f"Ten steps of gradient descent with lr 0.03, from the kernel {START}:")
    for step in range(2, 11, 2):
        print(f"step {step}, loss {losses[step - 1]:.3f}")
    print("kernel", np.array2string(kernels[10], formatter={"float": "{:.4f}".format}))
    losses, kernels = learn(START, steps=100)
    print(f"After 100 steps the loss is {losses[99]:.3f} and the kernel", end=" ")
    print(np.array2string(kernels[100], formatter={"float": "{:.4f}".format}), end=".\n\n")


def from_other_starts():
    """The loss has a single minimum, so every start leads to the same kernel."""
    starts = np.random.default_rng(0).uniform(-3, 3, (20, 2))
    ends = [learn(start, steps=100)[1][100] for start in starts]
    print("The loss is a bowl with one bottom, so the start does not matter: from 20 others, with")
    print(f"weights wrong by up to {np.abs(starts - TRUE).max():.1f}, 100 steps leave", end=" ")
    print(f"at most {np.abs(ends - TRUE).max():.0e}.\n")


def how_large_a_rate():
    """The eigenvalues of the curvature say which learning rates converge, and how fast."""
    print("The curvature of the loss, from the gradients of the layer:")
    print(hessian())
    eigenvalues, vectors = np.linalg.eigh(hessian())
    low, high = eigenvalues
    print(f"Its eigenvalues are {eigenvalues.round(9)}: one step multiplies the error along each")
    print("eigenvector by 1 - lr*eigenvalue. Both shrink if lr is below 2 over the larger, that is")
    print(f"{2 / high:.5f}; fastest is 2 over their sum, {2 / (low + high):.5f}.\n")
    print("     lr   factors of a step   loss before step 100")
    for lr in (0.01, 2 / (low + high), 0.03, 0.033, 2 / high, 0.034, 0.04):
        factors = 1 - lr * eigenvalues
        loss = learn(START, lr, 100)[0][99]
        print(f"{lr:.5f}   {factors[0]:+.3f}   {factors[1]:+.3f}   {loss:.3e}")
    before, after = (learn(START, 0.03, 1)[1] - TRUE) @ vectors
    print("Measured in the first step with lr 0.03, the factors are", (after / before).round(9))


def picture():
    """The loss against steps, and the kernel's way through the plane of its two weights."""
    figure = Figure(figsize=(9, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = np.meshgrid(np.linspace(-0.9, 1.9, 61), np.linspace(-1.9, 0.9, 61))
    losses = [loss_and_grads(layer_with(kernel))[0] for kernel in np.stack(grid, -1).reshape(-1, 2)]
    levels = [0.5, 2, 8, 18, 32, 50, 72, 98]
    lines = right.contour(
        *grid, np.reshape(losses, (61, 61)), levels, colors="0.75", linewidths=0.8
    )
    right.clabel(lines, fontsize=8, fmt="%g", colors="0.4")
    for lr, colour, style in ((0.034, "black", "s--"), (0.03, "C1", "o-"), (0.01, "C0", "^-")):
        losses, kernels = learn(START, lr, 20)
        left.semilogy(np.arange(1, 21), losses, style, color=colour, markersize=3, label=f"lr {lr}")
        right.plot(*kernels.T, style, color=colour, markersize=3, linewidth=1)
    course = [11.268, 2.573, 0.712, 0.234, 0.086]
    left.plot(range(2, 11, 2), course, "o", color="C1", mfc="none", ms=10, label="in the course")
    left.set(xlabel="step", ylabel="squared error, summed", title="loss before each step")
    left.set_xticks(range(0, 21, 5))
    left.legend()
    left.grid(alpha=0.3)
    right.plot(*TRUE, "*", color="C3", markersize=13)
    right.annotate("start", START, (0, 8), textcoords="offset points", ha="center")
    right.set(xlabel="first weight", ylabel="second weight", aspect="equal")
    right.set_title("the kernel's way to [1, -1]; lines: loss")
    return figure


def main(argv=None):
    args = parser(__doc__).parse_args(argv)
    as_in_the_course()
    from_other_starts()
    how_large_a_rate()
    keep(picture(), "03_learning", args)


if __name__ == "__main__":
    run(main)
