"""What each operation computes, as loops from its definition: slow, for reading and for tests.

The functions of the course move a window over one image, without padding, one pixel at a time:

    Y[i,j] = sum over a, b of K[a,b] * X[i+a,j+b]                                           (1)
    Y[i,j] = sum over c of corr2d(X[c], K[c])[i,j]         with several channels            (2)
    Y[o,i,j] = sum over c of K[o,c] * X[c,i,j]             for a kernel of one pixel        (3)
    Y[i,j] = max or mean over a, b of X[i+a,j+b]           for pooling                      (4)

The general ones take a batch. Tap (kh, kw) of the window at output pixel (oh, ow) lies over pixel

    h = oh*stride + kh*dilation - padding                  and w likewise                   (5)

and counts only where that pixel is inside the image. With padding p on both sides there are

    OH = floor((H + 2p - dilation*(KH - 1) - 1) / stride) + 1    and OW likewise            (6)

A convolution sums products of weight and pixel. Filter o sees the channels of its group only; the
c-th of these is channel c':

    y[n,o,oh,ow] = bias[o] + sum over c, kh, kw of weight[o,c,kh,kw] * x[n,c',h,w]          (7)

Each product passes dy on to both of its factors, times the other one:

    dx[n,c',h,w]       += weight[o,c,kh,kw] * dy[n,o,oh,ow]                                 (8)
    dweight[o,c,kh,kw] += x[n,c',h,w] * dy[n,o,oh,ow]                                       (9)
    dbias[o]           += dy[n,o,oh,ow]                                                     (10)

Max pooling gives dy to the tap that won, the first of equals in row-major order as in PyTorch.
Average pooling gives each tap its share: the divisor is KH*KW, or the number of taps inside the
image where the padding is not to count.

    y[n,c,oh,ow] = max over the taps of x[n,c,h,w]                                          (11)
    dx[n,c,h,w] += dy[n,c,oh,ow]                           at the first maximum             (12)
    y[n,c,oh,ow] = sum over the taps of x[n,c,h,w] / divisor                                (13)
    dx[n,c,h,w] += dy[n,c,oh,ow] / divisor                 at each tap                      (14)

A linear layer has the products of features instead of pixels:

    y[n,o] = bias[o] + sum over d of weight[o,d] * x[n,d]                                   (15)
    dx[n,d]      += weight[o,d] * dy[n,o]                                                   (16)
    dweight[o,d] += x[n,d] * dy[n,o]                                                        (17)
    dbias[o]     += dy[n,o]                                                                 (18)
    y[n,(c*H+h)*W+w] = x[n,c,h,w]                          flatten; dx is its inverse       (19)

The functions of one number; the derivatives of sigmoid and tanh are the same for x and -x, so that
exp is taken of -abs(x) and cannot overflow:

    sigmoid  y = 1 / (1 + exp(-x))                                                          (20)
             dx = dy * exp(-x) / (1 + exp(-x))^2                                            (21)
    tanh     y = tanh(x)                                                                    (22)
             dx = dy * 4 exp(-2x) / (1 + exp(-2x))^2                                        (23)
    relu     y = max(x, 0)                                                                  (24)
             dx = dy where x > 0, else 0                                                    (25)

The loss is the mean over the batch of -log softmax(z)[label], where z are the logits:

    loss = 1/N * sum over n of (log(sum over k of exp(z[n,k])) - z[n,label])                (26)
    dz[n,k] = 1/N * (exp(z[n,k]) / sum over j of exp(z[n,j]) - (1 if k = label else 0))     (27)

Results are float64. Source: Zhang, Lipton, Li, Smola, Dive into Deep Learning, sections 7.2 to 7.5.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minicnn.arguments import Shape, Size, flag, integer, numbers, pair, require, shown
from minicnn.backend import Array

Taps = dict[Shape, list[tuple[int, int, int, int]]]  # for each output pixel its taps
"""In pixels: one number for height and width, or (height, width)."""


def _array(name: str, value: Any, axes: str) -> Array:
    """`value` as an array of float64 with these axes; ValueError if it is none of numbers."""
    array = numbers(name, value).astype(float)
    if array.ndim != len(axes.split(",")):
        raise ValueError(f"expected {name} ({axes}) but got {name} {array.shape}")
    return array


def _like(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """`value` as an array of float64 of this shape; ValueError if it has another."""
    array = numbers(name, value).astype(float)
    if array.shape != shape:
        raise ValueError(f"expected {name} {shape} but got {name} {array.shape}")
    return array


def _check(X: Any, X_axes: str, K: Any, K_axes: str) -> tuple[Array, Array]:
    """X and K as arrays of float64; ValueError if they do not have these axes."""
    X, K = numbers("X", X).astype(float), numbers("K", K).astype(float)
    dimensions = len(X_axes.split(",")), len(K_axes.split(","))
    if (X.ndim, K.ndim) != dimensions or X.shape[-3:-2] != K.shape[-3:-2]:
        same = ", with the same C," if "C" in K_axes else ""
        raise ValueError(
            f"expected X ({X_axes}) and K ({K_axes}){same} but got X {X.shape} and K {K.shape}"
        )
    require(0 not in K.shape[:-2], "expected at least one kernel and one channel", K)
    return X, K


def _positions(image: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """How many steps (OH, OW) of one pixel a window has inside an image."""
    if min(window) < 1 or window[0] > image[0] or window[1] > image[1]:
        raise ValueError(
            f"a window of {window[0]} x {window[1]} does not fit into an image of "
            f"{image[0]} x {image[1]}: each side takes 1 to the image's number of pixels"
        )
    return image[0] - window[0] + 1, image[1] - window[1] + 1


def corr2d(X: Array, K: Array) -> Array:
    """Cross-correlation of an image X (H, W) with a kernel K (KH, KW): (H-KH+1, W-KW+1)."""
    X, K = _check(X, "H, W", K, "KH, KW")
    kh, kw = K.shape
    Y = np.zeros(_positions(X.shape, K.shape))
    for i, j in np.ndindex(Y.shape):
        Y[i, j] = (K * X[i : i + kh, j : j + kw]).sum()  # (1)
    return Y


def corr2d_multi_in(X: Array, K: Array) -> Array:
    """Cross-correlation of X (C, H, W) with K (C, KH, KW), summed over the channels: (OH, OW)."""
    X, K = _check(X, "C, H, W", K, "C, KH, KW")
    return np.sum([corr2d(x, k) for x, k in zip(X, K)], axis=0)  # (2)


def corr2d_multi_in_out(X: Array, K: Array) -> Array:
    """Cross-correlation of X (C, H, W) with each kernel of K (O, C, KH, KW): (O, OH, OW)."""
    X, K = _check(X, "C, H, W", K, "O, C, KH, KW")
    return np.stack([corr2d_multi_in(X, k) for k in K])


def corr2d_multi_in_out_1x1(X: Array, K: Array) -> Array:
    """The same for K (O, C, 1, 1): a matrix product over the channels of each pixel."""
    X, K = _check(X, "C, H, W", K, "O, C, KH, KW")
    if K.shape[2:] != (1, 1):
        raise ValueError(f"expected kernels of 1 x 1 but got K {K.shape}")
    Y = K.reshape(len(K), -1) @ X.reshape(len(X), -1)  # (3), (O, C) @ (C, H*W)
    return Y.reshape(len(K), *X.shape[1:])


def pool2d(X: Array, size: Size, mode: str = "max") -> Array:
    """Maximum ("max") or mean ("avg") of each window of `size` in X (H, W)."""
    X = _array("X", X, "H, W")
    if not isinstance(mode, str) or mode not in ("max", "avg"):
        raise ValueError(f'expected mode "max" or "avg" but got {shown(mode)}')
    height, width = pair("size", size, 0)
    Y = np.zeros(_positions(X.shape, (height, width)))
    for i, j in np.ndindex(Y.shape):
        window = X[i : i + height, j : j + width]
        Y[i, j] = window.max() if mode == "max" else window.mean()  # (4)
    return Y


def _windows(
    image: Shape, kernel_size: Size, stride: Size, padding: Size, dilation: Size = 1
) -> tuple[Shape, Taps]:
    """Output size (OH, OW), and for each output pixel (oh, ow) its taps inside the image.

    A tap is (kh, kw, h, w): a place in the kernel and the pixel under it.
    """
    kernel, stride = pair("kernel_size", kernel_size, 1), pair("stride", stride, 1)
    padding, dilation = pair("padding", padding, 0), pair("dilation", dilation, 1)
    output = tuple(
        (image[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1  # (6)
        for i in range(2)
    )
    if min(output) < 1:
        raise ValueError(
            f"a kernel {kernel} with padding {padding} and dilation {dilation} does not fit into "
            f"an image {image}"
        )
    taps: Taps = {pixel: [] for pixel in np.ndindex(output)}
    for (oh, ow), (kh, kw) in itertools.product(np.ndindex(output), np.ndindex(kernel)):
        h = oh * stride[0] + kh * dilation[0] - padding[0]  # (5)
        w = ow * stride[1] + kw * dilation[1] - padding[1]  # (5)
        if 0 <= h < image[0] and 0 <= w < image[1]:
            taps[oh, ow].append((kh, kw, h, w))
    return output, taps


def _pool_windows(
    image: Shape, kernel_size: Size, stride: Size | None, padding: Size
) -> tuple[Shape, Taps]:
    """The same for pooling, where no window may lie in the padding alone."""
    kernel, padding = pair("kernel_size", kernel_size, 1), pair("padding", padding, 0)
    if any(2 * p > k for p, k in zip(padding, kernel)):
        raise ValueError(f"padding must be at most half of kernel_size {kernel}, got {padding}")
    return _windows(image, kernel, kernel if stride is None else stride, padding)


def _convolved(x: Array, weight: Array, groups: int) -> tuple[Array, Array]:
    """x and weight as arrays; ValueError if their channels do not fit."""
    x, weight = _array("x", x, "N, C, H, W"), _array("weight", weight, "O, C/groups, KH, KW")
    groups = integer("groups", groups, 1)
    if len(weight) % groups or x.shape[1] != groups * weight.shape[1]:
        raise ValueError(
            f"expected x (N, C, H, W) and weight (O, C/groups, KH, KW), O a multiple of groups = "
            f"{groups}, but got x {x.shape} and weight {weight.shape}"
        )
    return x, weight


def _products(
    images: int, weight_shape: Shape, groups: int, taps: Taps
) -> Iterator[tuple[Shape, Shape, Shape]]:
    """Yield the indices into y, weight and x of every product of a convolution."""
    filters, group_channels, _, _ = weight_shape
    for n, o, c in np.ndindex(images, filters, group_channels):
        channel = o // (filters // groups) * group_channels + c
        for oh, ow in taps:
            for kh, kw, h, w in taps[oh, ow]:
                yield (n, o, oh, ow), (o, c, kh, kw), (n, channel, h, w)


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Array:
    """Convolution of x (N, C, H, W) with weight (O, C/groups, KH, KW): y (N, O, OH, OW)."""
    x, weight = _convolved(x, weight, groups)
    output, taps = _windows(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    y = np.zeros((len(x), len(weight), *output))
    if bias is not None:
        y += _like("bias", bias, weight.shape[:1])[:, None, None]
    for at_y, at_weight, at_x in _products(len(x), weight.shape, groups, taps):
        y[at_y] += weight[at_weight] * x[at_x]  # (7)
    return y


def conv2d_backward(
    dy: Array,
    x: Array,
    weight: Array,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dweight, dbias) of conv2d, shaped as x, weight and bias."""
    x, weight = _convolved(x, weight, groups)
    output, taps = _windows(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    dy = _like("dy", dy, (len(x), len(weight), *output))
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(len(weight))
    for at_y, at_weight, at_x in _products(len(x), weight.shape, groups, taps):
        dx[at_x] += weight[at_weight] * dy[at_y]  # (8)
        dweight[at_weight] += x[at_x] * dy[at_y]  # (9)
    for n, o, oh, ow in np.ndindex(dy.shape):
        dbias[o] += dy[n, o, oh, ow]  # (10)
    return dx, dweight, dbias


def max_pool2d(x: Array, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> Array:
    """Maximum of each window of x (N, C, H, W): y (N, C, OH, OW)."""
    x = _array("x", x, "N, C, H, W")
    output, taps = _pool_windows(x.shape[2:], kernel_size, stride, padding)
    y = np.zeros((*x.shape[:2], *output))
    for n, c, oh, ow in np.ndindex(y.shape):
        y[n, c, oh, ow] = max(x[n, c, h, w] for _, _, h, w in taps[oh, ow])  # (11)
    return y


def max_pool2d_backward(
    dy: Array, x: Array, kernel_size: Size, stride: Size | None = None, padding: Size = 0
) -> Array:
    """Gradient dx of max_pool2d."""
    x = _array("x", x, "N, C, H, W")
    output, taps = _pool_windows(x.shape[2:], kernel_size, stride, padding)
    dy = _like("dy", dy, (*x.shape[:2], *output))
    dx = np.zeros(x.shape)
    for n, c, oh, ow in np.ndindex(dy.shape):
        pixels = [(n, c, h, w) for _, _, h, w in taps[oh, ow]]
        first_maximum = max(pixels, key=x.__getitem__)
        dx[first_maximum] += dy[n, c, oh, ow]  # (12)
    return dx


def avg_pool2d(
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    count_include_pad: bool = True,
) -> Array:
    """Mean of each window of x (N, C, H, W): y (N, C, OH, OW)."""
    x, kernel = _array("x", x, "N, C, H, W"), pair("kernel_size", kernel_size, 1)
    output, taps = _pool_windows(x.shape[2:], kernel, stride, padding)
    flag("count_include_pad", count_include_pad)
    y = np.zeros((*x.shape[:2], *output))
    for n, c, oh, ow in np.ndindex(y.shape):
        divisor = math.prod(kernel) if count_include_pad else len(taps[oh, ow])
        for _, _, h, w in taps[oh, ow]:
            y[n, c, oh, ow] += x[n, c, h, w] / divisor  # (13)
    return y


def avg_pool2d_backward(
    dy: Array,
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    count_include_pad: bool = True,
) -> Array:
    """Gradient dx of avg_pool2d."""
    x, kernel = _array("x", x, "N, C, H, W"), pair("kernel_size", kernel_size, 1)
    output, taps = _pool_windows(x.shape[2:], kernel, stride, padding)
    dy = _like("dy", dy, (*x.shape[:2], *output))
    flag("count_include_pad", count_include_pad)
    dx = np.zeros(x.shape)
    for n, c, oh, ow in np.ndindex(dy.shape):
        divisor = math.prod(kernel) if count_include_pad else len(taps[oh, ow])
        for _, _, h, w in taps[oh, ow]:
            dx[n, c, h, w] += dy[n, c, oh, ow] / divisor  # (14)
    return dx


def _multiplied(x: Array, weight: Array) -> tuple[Array, Array]:
    """x and weight as arrays; ValueError if their features do not fit."""
    x, weight = _array("x", x, "N, D"), _array("weight", weight, "O, D")
    if x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"expected x (N, D) and weight (O, D) with the same D but got x {x.shape} and weight "
            f"{weight.shape}"
        )
    return x, weight


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Product of x (N, D) with weight (O, D): y (N, O)."""
    x, weight = _multiplied(x, weight)
    y = np.zeros((len(x), len(weight)))
    if bias is not None:
        y += _like("bias", bias, weight.shape[:1])
    for n, o, d in np.ndindex(len(x), *weight.shape):
        y[n, o] += weight[o, d] * x[n, d]  # (15)
    return y


def linear_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Gradients (dx, dweight, dbias) of linear, shaped as x, weight and bias."""
    x, weight = _multiplied(x, weight)
    dy = _like("dy", dy, (len(x), len(weight)))
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(len(weight))
    for n, o, d in np.ndindex(len(x), *weight.shape):
        dx[n, d] += weight[o, d] * dy[n, o]  # (16)
        dweight[o, d] += x[n, d] * dy[n, o]  # (17)
    for n, o in np.ndindex(dy.shape):
        dbias[o] += dy[n, o]  # (18)
    return dx, dweight, dbias


def flatten(x: Array) -> Array:
    """Images x (N, C, H, W) as rows: y (N, C*H*W)."""
    x = _array("x", x, "N, C, H, W")
    _, channels, height, width = x.shape
    y = np.zeros((len(x), channels * height * width))
    for n, c, h, w in np.ndindex(x.shape):
        y[n, (c * height + h) * width + w] = x[n, c, h, w]  # (19)
    return y


def flatten_backward(dy: Array, x: Array) -> Array:
    """Gradient dx of flatten."""
    x = _array("x", x, "N, C, H, W")
    dy = _like("dy", dy, (len(x), math.prod(x.shape[1:])))
    _, _, height, width = x.shape
    dx = np.zeros(x.shape)
    for n, c, h, w in np.ndindex(x.shape):
        dx[n, c, h, w] = dy[n, (c * height + h) * width + w]  # (19)
    return dx


def _entry_by_entry(function: Callable[..., float]) -> Callable[..., Array]:
    """`function`, of numbers, for arrays: x, or dy and x, where dy is like x or one number."""
    of_entries, signature = np.vectorize(function, otypes=[float]), inspect.signature(function)

    @functools.wraps(function)
    def of_arrays(*args: Array, **named: Array) -> Array:
        given = signature.bind(*args, **named).arguments
        arrays = {name: numbers(name, array) for name, array in given.items()}
        x, dy = arrays["x"], arrays.get("dy", arrays["x"])
        if dy.shape not in ((), x.shape):
            raise ValueError(f"expected dy of x's shape {x.shape} but got {dy.shape}")
        return of_entries(*arrays.values())

    return of_arrays


@_entry_by_entry
def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) of each number."""
    e = math.exp(-abs(x))
    return 1 / (1 + e) if x > 0 else e / (1 + e)  # (20)


@_entry_by_entry
def sigmoid_backward(dy: float, x: float) -> float:
    """Gradient dx of sigmoid."""
    e = math.exp(-abs(x))
    return dy * e / (1 + e) ** 2  # (21)


@_entry_by_entry
def tanh(x: float) -> float:
    """Hyperbolic tangent of each number."""
    return math.tanh(x)  # (22)


@_entry_by_entry
def tanh_backward(dy: float, x: float) -> float:
    """Gradient dx of tanh."""
    e = math.exp(-2 * abs(x))
    return dy * 4 * e / (1 + e) ** 2  # (23)


@_entry_by_entry
def relu(x: float) -> float:
    """Each number, or 0 if it is negative."""
    return max(x, 0.0)  # (24)


@_entry_by_entry
def relu_backward(dy: float, x: float) -> float:
    """Gradient dx of relu, 0 at the kink x = 0."""
    return dy if x > 0 else 0.0  # (25)


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """Loss and dlogits of one batch of logits (N, K) with integer labels (N,)."""
    logits, labels = _array("logits", logits, "N, K"), numbers("labels", labels)
    images, classes = logits.shape
    if labels.shape != (images,) or labels.dtype.kind not in "iu" or logits.size == 0:
        raise ValueError(
            f"expected logits (N, K) and integer labels (N,), N >= 1 and K >= 1, but got "
            f"{logits.shape} and {labels.dtype} {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, got {labels.min()} to {labels.max()}"
        )
    loss, dlogits = 0.0, np.zeros(logits.shape)
    for n, label in enumerate(labels):
        largest = max(logits[n])
        exponentials = [math.exp(z - largest) for z in logits[n]]
        total = math.fsum(exponentials)
        loss += (math.log(total) + largest - logits[n, label]) / images  # (26)
        for k, exponential in enumerate(exponentials):
            dlogits[n, k] = (exponential / total - (k == label)) / images  # (27)
    return loss, dlogits
