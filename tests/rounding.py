"""How far rounding may take a sum of floats from the exact one, whatever the processor.

A sum of n products is off by at most n * eps/2 times the sum of their absolute values, its size, in
whatever order they are added (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2002,
section 3.1): 4 * eps for 8 products. Of more, the errors have either sign and mostly cancel: those
of 3,920 random ones, added one by one in 300 random orders, came to 1.5 * eps. The result may
cancel to much less than its size, so no bound is a share of the result.

The exponential, logarithm and tanh of NumPy are off by up to 4 * eps of themselves, depending on
the processor. What is taken for exact is computed in float64: results in float64 differ from it by
the rounding of both, of which 1.8 * eps is the most that was met.
"""

import numpy as np

from minicnn import Layer, MaxPool2D, ReLU, Sequential, Sigmoid, Tanh

MULTIPLE = 4  # of eps


def assert_equal_but_for_rounding(result, exact, size, name=""):
    """Every entry of `result` is within MULTIPLE * eps * size of `exact`, eps being that of the
    result's dtype and `size` the sum of the absolute values of the entry's terms."""
    result, exact = np.asarray(result), np.asarray(exact)
    assert result.shape == exact.shape, f"{name}: {result.shape}, not {exact.shape}"
    error = np.abs(result - exact)
    bound = np.broadcast_to(MULTIPLE * np.finfo(result.dtype).eps * np.asarray(size), error.shape)
    for at in map(tuple, np.argwhere(~(error <= bound)).tolist()):  # also where one is nan
        raise AssertionError(
            f"{name} {at}: {result[at]} is off {exact[at]} by {error[at]:.2g} > {bound[at]:.2g}"
        )


def sizes(layer, run, x, dy, params):
    """The sizes of run(x, dy, params) -> {"y": y, "x": dx, "weight": ...}, the results of a layer;
    if it is linear, run gives them from the absolute values."""
    y = run(x, dy, params)["y"]
    if isinstance(layer, Sigmoid):  # a share of exp(-x) is 1 - y times as much of y
        return {"y": y * (2 - y), "x": np.abs(dy) * y * (2 - y)}
    if isinstance(layer, Tanh):  # dx = dy - dy*y**2
        return {"y": np.abs(y), "x": np.abs(dy) * (1 + y**2)}
    if isinstance(layer, (MaxPool2D, ReLU)):  # each y is one x, and which one is no sum
        return {"y": np.abs(y), "x": run(x, np.abs(dy), params)["x"]}
    return run(np.abs(x), np.abs(dy), {name: np.abs(p) for name, p in params.items()})


def batch_norm_sizes(x, dy, weight, bias, eps):
    """The sizes of the results of BatchNorm2D, where x_hat is off by what x and its mean are."""
    axes = (0, 2, 3)
    weight, bias = (a[:, None, None] for a in (np.abs(weight), np.abs(bias)))
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    inverse_std = 1 / np.sqrt(var + eps)
    x_hat, dy = np.abs(x - mean) * inverse_std, np.abs(dy)
    x_hat_size = (np.abs(x) + np.abs(x).mean(axes, keepdims=True)) * inverse_std + x_hat
    products = x_hat_size * (dy * x_hat).mean(axes, keepdims=True)
    products += x_hat * (dy * x_hat_size).mean(axes, keepdims=True)
    return {
        "y": weight * x_hat_size + bias,
        "x": weight * inverse_std * (dy + dy.mean(axes, keepdims=True) + products),
        "weight": (dy * x_hat_size).sum(axes),
        "bias": dy.sum(axes),
    }


def softmax_size(logits):
    """The size of softmax(logits). Of z, a logit less the largest, a share of eps is lost, and of
    exp(z) then 1 + |z| such shares."""
    logits = np.asarray(logits, np.float64)
    z = logits - logits.max(axis=1, keepdims=True)
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) * (1 - z)


def cross_entropy_sizes(logits, labels):
    """The sizes of the loss and of the dlogits of softmax_cross_entropy(logits, labels)."""
    n, k = logits.shape
    is_label = labels[:, None] == np.arange(k)
    dlogits_size = (softmax_size(logits) + is_label) / n
    distance = logits.max(axis=1) - logits[is_label]
    return dlogits_size.sum() + distance.sum() / n, dlogits_size


class Rounded(Layer):
    """A layer whose results are off by a share of their sizes, up or down."""

    SHARE = 2.0**-30

    def __init__(self, layer, rng):
        self.layer, self.params, self.rng = layer, layer.params, rng

    def _run(self, x, dy, params):
        layer = self.layer.map_arrays(np.copy)
        layer.params.update(params)
        y, saved = layer.forward(x)
        dx, grads = layer.backward(dy, saved)
        return {"y": y, "x": dx, **grads}

    def _rounded(self, results, x, dy):
        size = sizes(self.layer, self._run, x, dy, self.params)
        return {
            name: result + self.SHARE * self.rng.choice([-1, 1], result.shape) * size[name]
            for name, result in results.items()
        }

    def forward(self, x):
        y, saved = self.layer.forward(x)
        return self._rounded({"y": y}, x, np.zeros(y.shape))["y"], (x, saved)

    def backward(self, dy, saved, need_dx=True):
        x, saved = saved
        dx, grads = self.layer.backward(dy, saved)
        grads = self._rounded({"x": dx, **grads}, x, dy)
        return grads.pop("x"), grads


def network_size(results, net):
    """One size for each of results(net) -> {"loss": loss, ...}: how far its entries move if those
    of all layers are off by a share of their sizes, over this share, and the largest entry."""
    right = results(net)
    rng = np.random.default_rng(0)
    moved = results(Sequential(*[Rounded(layer, rng) for layer in net.layers]))
    return {
        name: np.max(np.abs(moved[name] - result)) / Rounded.SHARE + np.max(np.abs(result))
        for name, result in right.items()
    }
