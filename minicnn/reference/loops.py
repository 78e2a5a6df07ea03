"""Each operation as loops written from its definition: slow, for reading and for tests.

The first functions move a window over one image, without padding, one pixel at a time:

    Y[p,q] = sum over i, j of K[i,j] * X[p+i,q+j]                                           (1)
    Y[p,q] = sum over c of corr2d(X[c], K[c])[p,q]         with several channels            (2)
    Y[o,p,q] = sum over c of K[o,c] * X[c,p,q]             for a kernel of one pixel        (3)
    Y[p,q] = max or mean over i, j of X[p+i,q+j]           for pooling                      (4)

The general functions take a batch. Tap (i, j) of the window at output pixel (p, q) lies over pixel

    h = p*stride + i*dilation - top                        and w likewise, with left        (5)

and counts only if that pixel is inside the image. With padding there are

    OH = floor((H + top + bottom - dilation*(KH - 1) - 1) / stride) + 1    and OW likewise  (6)

rows of outputs; pooling with ceil_mode rounds up, unless the last window would begin below the
image.

A convolution sums products of weight and pixel. Filter o sees only the channels of its group; the
c-th of these is channel c':

    y[n,o,p,q] = bias[o] + sum over c, i, j of weight[o,c,i,j] * x[n,c',h,w]                (7)

Each product passes dy on to both its factors, multiplied by the other factor:

    dx[n,c',h,w]     += weight[o,c,i,j] * dy[n,o,p,q]                                       (8)
    dweight[o,c,i,j] += x[n,c',h,w] * dy[n,o,p,q]                                           (9)
    dbias[o]         += dy[n,o,p,q]                                                         (10)

A transposed convolution does to x what (8) does to dy. So its y is that dx, plus the bias; its dx
is that y, by (7); and its dweight is (9) with image and gradient exchanged.

Max pooling gives dy to the largest tap, the first of equals in row-major order, as in PyTorch.
Average pooling gives each tap its share: the divisor is the number of taps inside the padded image,
or inside the image if the padding does not count. Global pooling has one window for each channel.

    y[n,c,p,q] = max over the taps of x[n,c,h,w]                                            (11)
    dx[n,c,h,w] += dy[n,c,p,q]                             at the first maximum             (12)
    y[n,c,p,q] = sum over the taps of x[n,c,h,w] / divisor                                  (13)
    dx[n,c,h,w] += dy[n,c,p,q] / divisor                   at each tap                      (14)

A linear layer multiplies features instead of pixels:

    y[n,o] = bias[o] + sum over d of weight[o,d] * x[n,d]                                   (15)
    dx[n,d]      += weight[o,d] * dy[n,o]                                                   (16)
    dweight[o,d] += x[n,d] * dy[n,o]                                                        (17)
    dbias[o]     += dy[n,o]                                                                 (18)
    y[n,(c*H+h)*W+w] = x[n,c,h,w]                          flatten; dx is its inverse       (19)

Activations are functions of one number. The derivatives of sigmoid and tanh are the same for x and
-x, so the code takes exp of -abs(x), which cannot overflow:

    sigmoid  y = 1 / (1 + exp(-x))                                                          (20)
             dx = dy * exp(-x) / (1 + exp(-x))^2                                            (21)
    tanh     y = tanh(x)                                                                    (22)
             dx = dy * 4 exp(-2x) / (1 + exp(-2x))^2                                        (23)
    relu     y = max(x, 0)                                                                  (24)
             dx = dy where x > 0, else 0                                                    (25)
    leaky    y = x where x > 0, else slope * x                                              (26)
    relu     dx = dy where x > 0, else slope * dy                                           (27)
    gelu     y = x * Phi(x), with Phi(x) = erfc(-x / sqrt(2)) / 2                           (28)
             dx = dy * (Phi(x) + x * exp(-x^2 / 2) / sqrt(2 pi))                            (29)

The loss is a mean over the batch. z are the logits; t the targets, given or 1 at the label and 0
elsewhere; e is the smoothing and w are the class weights, with q = w*((1 - e)*t + e/K):

    loss = -1/N * sum over n, k of q[n,k] * log softmax(z[n])[k]                            (30)
    dz[n,k] = 1/N * sum over j of q[n,j] * (softmax(z[n])[k] - (1 if k = j else 0))         (31)

Batch normalisation gives the M = N*H*W numbers of a channel mean 0 and variance 1. Every y of the
channel depends on every x of it; with v = variance + eps, and numbers m and k of the channel,

    y[m] = weight * (x[m] - mean) / sqrt(v) + bias                                          (32)
    slope[m,k] = weight * ((1 if m = k else 0) - 1/M - (x[m] - mean) * (x[k] - mean) / (M*v))
                 / sqrt(v)                             dy[m]/dx[k] by the quotient rule      (33)
    dx[k]   += slope[m,k] * dy[m]                                                           (34)
    dweight += dy[m] * (x[m] - mean) / sqrt(v)                                              (35)
    dbias   += dy[m]                                                                        (36)

Dropout has a mask of zeros and ones, where p is the probability of a zero:

    y = x / (1 - p) where the mask is 1, else 0                                             (37)
    dx = dy / (1 - p) where the mask is 1, else 0                                           (38)

Results are float64. Source: Zhang, Lipton, Li, Smola, Dive into Deep Learning, sections 7.2 to 7.5.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minicnn.arguments import (
    Padding,
    Pair,
    Shape,
    Sides,
    Size,
    flag,
    integer,
    numbers,
    pair,
    positive,
    require,
    share,
    shown,
    sides,
)
from minicnn.backend import Array

Taps = dict[Shape, list[tuple[int, int, int, int]]]  # for each output pixel its taps
"""In pixels: one number for height and width, or (height, width)."""


def _array(name: str, value: Any, axes: str) -> Array:
    """`value` as a float64 array with these axes; ValueError if it is not an array of numbers."""
    array = numbers(name, value).astype(float)
    if array.ndim != len(axes.split(",")):
        raise ValueError(f"expected {name} ({axes}) but got {name} {array.shape}")
    return array


def _like(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """`value` as a float64 array of this shape; ValueError if its shape differs."""
    array = numbers(name, value).astype(float)
    if array.shape != shape:
        raise ValueError(f"expected {name} {shape} but got {name} {array.shape}")
    return array


def _check(X: Any, X_axes: str, K: Any, K_axes: str) -> tuple[Array, Array]:
    """X and K as float64 arrays; ValueError if they do not have these axes."""
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
    """How many positions (OH, OW) a window has inside an image."""
    if min(window) < 1 or window[0] > image[0] or window[1] > image[1]:
        raise ValueError(
            f"a window of {window[0]} x {window[1]} does not fit into an image of "
            f"{image[0]} x {image[1]}: each side must be from 1 to the image's side"
        )
    return image[0] - window[0] + 1, image[1] - window[1] + 1


def corr2d(X: Array, K: Array) -> Array:
    """Cross-correlation of an image X (H, W) with a kernel K (KH, KW): (H-KH+1, W-KW+1)."""
    X, K = _check(X, "H, W", K, "KH, KW")
    kh, kw = K.shape
    Y = np.zeros(_positions(X.shape, K.shape))
    for p, q in np.ndindex(Y.shape):
        Y[p, q] = (K * X[p : p + kh, q : q + kw]).sum()  # (1)
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
    for p, q in np.ndindex(Y.shape):
        window = X[p : p + height, q : q + width]
        Y[p, q] = window.max() if mode == "max" else window.mean()  # (4)
    return Y


def _geometry(
    kernel_size: Size, stride: Size, padding: Padding, dilation: Size
) -> tuple[Pair, Pair, Sides, Pair]:
    """The arguments for both axes, "same" padding in numbers."""
    kernel, stride = pair("kernel_size", kernel_size, 1), pair("stride", stride, 1)
    dilation = pair("dilation", dilation, 1)
    if isinstance(padding, str) and padding == "same":
        require(stride == (1, 1), 'padding="same" needs stride 1: give it in numbers', stride)
        h, w = (d * (k - 1) for d, k in zip(dilation, kernel))
        padding = h // 2, h - h // 2, w // 2, w - w // 2
    return kernel, stride, sides("padding", padding), dilation


def _windows(
    image: Shape,
    kernel_size: Size,
    stride: Size,
    padding: Padding,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> tuple[Shape, Taps]:
    """Output size (OH, OW), and for each output pixel (p, q) its taps inside the image.

    A tap is (i, j, h, w): a place in the kernel and the pixel under it.
    """
    kernel, stride, border, dilation = _geometry(kernel_size, stride, padding, dilation)
    output = []
    for i, (before, after) in enumerate(border):
        steps = (image[i] + before + after - dilation[i] * (kernel[i] - 1) - 1) / stride[i]
        outputs = (math.ceil(steps) if ceil_mode else math.floor(steps)) + 1  # (6)
        begins_below = (outputs - 1) * stride[i] - before >= image[i]
        output.append(outputs - 1 if ceil_mode and begins_below else outputs)
    if min(output) < 1:
        raise ValueError(
            f"a kernel {kernel} with padding {padding} and dilation {dilation} does not fit into "
            f"an image {image}"
        )
    taps: Taps = {pixel: [] for pixel in np.ndindex(*output)}
    for (p, q), (i, j) in itertools.product(np.ndindex(*output), np.ndindex(kernel)):
        h = p * stride[0] + i * dilation[0] - border[0][0]  # (5)
        w = q * stride[1] + j * dilation[1] - border[1][0]  # (5)
        if 0 <= h < image[0] and 0 <= w < image[1]:
            taps[p, q].append((i, j, h, w))
    return tuple(output), taps


def _pool_windows(
    image: Shape,
    kernel_size: Size,
    stride: Size | None,
    padding: Padding,
    dilation: Size,
    ceil_mode: bool,
) -> tuple[Shape, Taps]:
    """The same for pooling, where no window may lie entirely in the padding."""
    stride = kernel_size if stride is None else stride
    kernel, stride, border, dilation = _geometry(kernel_size, stride, padding, dilation)
    flag("ceil_mode", ceil_mode)
    if any(max(both) > d * (k - 1) for both, k, d in zip(border, kernel, dilation)):
        raise ValueError(
            f"padding must be smaller than what the kernel spans, got {padding} for kernel_size "
            f"{kernel} and dilation {dilation}"
        )
    return _windows(image, kernel, stride, padding, dilation, ceil_mode)


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
    """The indices into y, weight and x of every product of a convolution."""
    filters, group_channels, _, _ = weight_shape
    for n, o, c in np.ndindex(images, filters, group_channels):
        channel = o // (filters // groups) * group_channels + c
        for p, q in taps:
            for i, j, h, w in taps[p, q]:
                yield (n, o, p, q), (o, c, i, j), (n, channel, h, w)


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Padding = 0,
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
    padding: Padding = 0,
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
    for n, o, p, q in np.ndindex(dy.shape):
        dbias[o] += dy[n, o, p, q]  # (10)
    return dx, dweight, dbias


def _transposed(
    x: Array,
    weight: Array,
    stride: Size,
    padding: Padding,
    output_padding: Size,
    groups: int,
    dilation: Size,
) -> tuple[Array, Array, Shape, Taps]:
    """x and weight as arrays, the shape of y, and for each pixel of x its taps in y."""
    x, weight = _array("x", x, "N, C, H, W"), _array("weight", weight, "C, O/groups, KH, KW")
    groups = integer("groups", groups, 1)
    if len(weight) % groups or x.shape[1] != len(weight):
        raise ValueError(
            f"expected x (N, C, H, W) and weight (C, O/groups, KH, KW), C a multiple of groups = "
            f"{groups}, but got x {x.shape} and weight {weight.shape}"
        )
    geometry = _geometry(weight.shape[2:], stride, padding, dilation)
    more = pair("output_padding", output_padding, 0)
    image = tuple(
        (h - 1) * s - sum(both) + d * (k - 1) + 1 + more_of_axis
        for h, k, s, both, d, more_of_axis in zip(x.shape[2:], *geometry, more)
    )
    require(min(image + x.shape[2:]) > 0, "x is too small: no pixel is left of y", x)
    output, taps = _windows(image, weight.shape[2:], stride, padding, dilation)
    sentence = f"output_padding must be smaller than the stride, {geometry[1]}"
    require(output == x.shape[2:], sentence, output_padding)
    return x, weight, (len(x), groups * weight.shape[1], *image), taps


def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Array:
    """Transposed convolution of x (N, C, H, W) with weight (C, O/groups, KH, KW): y (N, O, OH, OW),
    to which each entry of x sends a kernel."""
    geometry = stride, padding, output_padding, groups, dilation
    x, weight, y_shape, taps = _transposed(x, weight, *geometry)
    y = np.zeros(y_shape)
    if bias is not None:
        y += _like("bias", bias, y_shape[1:2])[:, None, None]
    for at_x, at_weight, at_y in _products(len(x), weight.shape, groups, taps):
        y[at_y] += weight[at_weight] * x[at_x]  # (8)
    return y


def conv_transpose2d_backward(
    dy: Array,
    x: Array,
    weight: Array,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dweight, dbias) of conv_transpose2d, shaped as x, weight and bias."""
    geometry = stride, padding, output_padding, groups, dilation
    x, weight, y_shape, taps = _transposed(x, weight, *geometry)
    dy = _like("dy", dy, y_shape)
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(y_shape[1])
    for at_x, at_weight, at_y in _products(len(x), weight.shape, groups, taps):
        dx[at_x] += weight[at_weight] * dy[at_y]  # (7)
        dweight[at_weight] += x[at_x] * dy[at_y]  # (9)
    for n, o, h, w in np.ndindex(dy.shape):
        dbias[o] += dy[n, o, h, w]  # (10)
    return dx, dweight, dbias


def max_pool2d(
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Array:
    """Maximum of each window of x (N, C, H, W): y (N, C, OH, OW)."""
    x = _array("x", x, "N, C, H, W")
    geometry = kernel_size, stride, padding, dilation, ceil_mode
    output, taps = _pool_windows(x.shape[2:], *geometry)
    y = np.zeros((*x.shape[:2], *output))
    for n, c, p, q in np.ndindex(y.shape):
        pixels = (x[n, c, h, w] for _, _, h, w in taps[p, q])
        y[n, c, p, q] = max(pixels, default=-math.inf)  # (11)
    return y


def max_pool2d_backward(
    dy: Array,
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Array:
    """Gradient dx of max_pool2d."""
    x = _array("x", x, "N, C, H, W")
    geometry = kernel_size, stride, padding, dilation, ceil_mode
    output, taps = _pool_windows(x.shape[2:], *geometry)
    dy = _like("dy", dy, (*x.shape[:2], *output))
    dx = np.zeros(x.shape)
    for n, c, p, q in np.ndindex(dy.shape):
        pixels = [(n, c, h, w) for _, _, h, w in taps[p, q]]
        if pixels:
            first_maximum = max(pixels, key=x.__getitem__)
            dx[first_maximum] += dy[n, c, p, q]  # (12)
    return dx


def _divisors(
    image: Shape,
    kernel_size: Size,
    stride: Size | None,
    padding: Padding,
    count_include_pad: bool,
    ceil_mode: bool,
    dilation: Size,
) -> tuple[Shape, Taps, dict[Shape, int]]:
    """The windows of average pooling, and the divisor of each sum."""
    output, taps = _pool_windows(image, kernel_size, stride, padding, dilation, ceil_mode)
    counted = taps
    if flag("count_include_pad", count_include_pad):
        stride = kernel_size if stride is None else stride
        _, _, border, _ = _geometry(kernel_size, stride, padding, dilation)
        padded = tuple(h + sum(both) for h, both in zip(image, border))
        _, counted = _pool_windows(padded, kernel_size, stride, 0, dilation, ceil_mode)
    return output, taps, {pixel: len(counted[pixel]) for pixel in taps}


def avg_pool2d(
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    count_include_pad: bool = True,
    *,
    ceil_mode: bool = False,
    dilation: Size = 1,
) -> Array:
    """Mean of each window of x (N, C, H, W): y (N, C, OH, OW)."""
    x = _array("x", x, "N, C, H, W")
    geometry = kernel_size, stride, padding, count_include_pad, ceil_mode, dilation
    output, taps, divisors = _divisors(x.shape[2:], *geometry)
    y = np.zeros((*x.shape[:2], *output))
    for n, c, p, q in np.ndindex(y.shape):
        for _, _, h, w in taps[p, q]:
            y[n, c, p, q] += x[n, c, h, w] / divisors[p, q]  # (13)
    return y


def avg_pool2d_backward(
    dy: Array,
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    count_include_pad: bool = True,
    *,
    ceil_mode: bool = False,
    dilation: Size = 1,
) -> Array:
    """Gradient dx of avg_pool2d."""
    x = _array("x", x, "N, C, H, W")
    geometry = kernel_size, stride, padding, count_include_pad, ceil_mode, dilation
    output, taps, divisors = _divisors(x.shape[2:], *geometry)
    dy = _like("dy", dy, (*x.shape[:2], *output))
    dx = np.zeros(x.shape)
    for n, c, p, q in np.ndindex(dy.shape):
        for _, _, h, w in taps[p, q]:
            dx[n, c, h, w] += dy[n, c, p, q] / divisors[p, q]  # (14)
    return dx


def global_avg_pool2d(x: Array) -> Array:
    """Mean of each channel of x (N, C, H, W): y (N, C)."""
    x = _array("x", x, "N, C, H, W")
    y = np.zeros(x.shape[:2])
    for n, c, h, w in np.ndindex(x.shape):
        y[n, c] += x[n, c, h, w] / (x.shape[2] * x.shape[3])  # (13)
    return y


def global_avg_pool2d_backward(dy: Array, x: Array) -> Array:
    """Gradient dx of global_avg_pool2d."""
    x = _array("x", x, "N, C, H, W")
    dy = _like("dy", dy, x.shape[:2])
    dx = np.zeros(x.shape)
    for n, c, h, w in np.ndindex(x.shape):
        dx[n, c, h, w] = dy[n, c] / (x.shape[2] * x.shape[3])  # (14)
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
    """`function`, of numbers, for arrays: x, or dy and x, where dy has x's shape or is a number."""
    of_entries, signature = np.vectorize(function, otypes=[float]), inspect.signature(function)

    @functools.wraps(function)
    def of_arrays(*args: Array, **named: Array) -> Array:
        given = signature.bind(*args, **named).arguments
        arrays = {name: numbers(name, array) for name, array in given.items()}
        x, dy = arrays["x"], arrays.get("dy", arrays["x"])
        if dy.shape not in ((), x.shape):
            raise ValueError(f"dy must have x's shape {x.shape} but has {dy.shape}")
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


@_entry_by_entry
def leaky_relu(x: float, negative_slope: float = 0.01) -> float:
    """Each number, multiplied by negative_slope if it is negative."""
    return x if x > 0 else negative_slope * x  # (26)


@_entry_by_entry
def leaky_relu_backward(dy: float, x: float, negative_slope: float = 0.01) -> float:
    """Gradient dx of leaky_relu, negative_slope * dy at the kink x = 0."""
    return dy if x > 0 else negative_slope * dy  # (27)


@_entry_by_entry
def gelu(x: float) -> float:
    """Each number times the share of a normal distribution that lies below it."""
    return x * math.erfc(-x / math.sqrt(2)) / 2  # (28)


@_entry_by_entry
def gelu_backward(dy: float, x: float) -> float:
    """Gradient dx of gelu."""
    density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return dy * (math.erfc(-x / math.sqrt(2)) / 2 + x * density)  # (29)


def softmax_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: Array | None = None,
) -> tuple[float, Array]:
    """Loss and dlogits of logits (N, K) with integer labels (N,), or targets (N, K)."""
    logits, labels = _array("logits", logits, "N, K"), numbers("labels", labels)
    images, classes = logits.shape
    is_label = labels.shape == (images,) and labels.dtype.kind in "iu"
    if not (is_label or labels.shape == logits.shape) or logits.size == 0:
        raise ValueError(
            f"expected logits (N, K) and integer labels (N,), or targets (N, K), N >= 1 and "
            f"K >= 1, but got {logits.shape} and {labels.dtype} {labels.shape}"
        )
    if is_label and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, got {labels.min()} to {labels.max()}"
        )
    smoothing = share("label_smoothing", label_smoothing)
    given = np.ones(classes) if class_weights is None else class_weights
    weights = _like("class_weights", given, (classes,))
    loss, dlogits = 0.0, np.zeros(logits.shape)
    for n, j in np.ndindex(logits.shape):
        target = float(labels[n] == j) if is_label else labels[n, j]
        q = weights[j] * ((1 - smoothing) * target + smoothing / classes)
        if q == 0:
            continue  # the logit may be minus infinity
        largest = max(logits[n])
        exponentials = [math.exp(z - largest) for z in logits[n]]
        total = math.fsum(exponentials)
        loss -= q * (logits[n, j] - largest - math.log(total)) / images  # (30)
        for k, exponential in enumerate(exponentials):
            dlogits[n, k] += q * (exponential / total - (k == j)) / images  # (31)
    return loss, dlogits


def _channels(x: Array, eps: float) -> Iterator[tuple[list[Shape], float, float]]:
    """For each channel the indices of its numbers, their mean, and their variance plus eps."""
    require(x[:, :1].size > 1, "expected more than one number per channel, N*H*W > 1, in x", x)
    eps = positive("eps", eps)
    for c in range(x.shape[1]):
        pixels: list[Shape] = [(n, c, h, w) for n, h, w in np.ndindex(x[:, 0].shape)]
        mean = math.fsum(x[pixel] for pixel in pixels) / len(pixels)
        variance = math.fsum((x[pixel] - mean) ** 2 for pixel in pixels) / len(pixels)
        yield pixels, mean, variance + eps


def batch_norm2d(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    """Batch normalisation of x (N, C, H, W) in training, with weight and bias (C,)."""
    x = _array("x", x, "N, C, H, W")
    weight, bias = (_like(n, a, x.shape[1:2]) for n, a in (("weight", weight), ("bias", bias)))
    y = np.zeros(x.shape)
    for c, (pixels, mean, v) in enumerate(_channels(x, eps)):
        for m in pixels:
            y[m] = weight[c] * (x[m] - mean) / math.sqrt(v) + bias[c]  # (32)
    return y


def batch_norm2d_backward(
    dy: Array, x: Array, weight: Array, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dweight, dbias) of batch_norm2d, shaped as x, weight and bias."""
    x = _array("x", x, "N, C, H, W")
    dy, weight = _like("dy", dy, x.shape), _like("weight", weight, x.shape[1:2])
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for c, (pixels, mean, v) in enumerate(_channels(x, eps)):
        M, std = len(pixels), math.sqrt(v)
        for m, k in itertools.product(pixels, pixels):
            slope = (m == k) - 1 / M - (x[m] - mean) * (x[k] - mean) / (M * v)
            slope *= weight[c] / std  # (33)
            dx[k] += slope * dy[m]  # (34)
        for m in pixels:
            dweight[c] += dy[m] * (x[m] - mean) / std  # (35)
            dbias[c] += dy[m]  # (36)
    return dx, dweight, dbias


def dropout(x: Array, mask: Array, p: float = 0.5) -> Array:
    """Dropout of x with a mask of zeros and ones of its shape, where p is the probability of a
    zero."""
    x = numbers("x", x).astype(float)
    mask, p = _like("mask", mask, x.shape), share("p", p)
    require(p < 1, "p must be below 1", p)
    y = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        y[i] = x[i] / (1 - p) if mask[i] else 0  # (37)
    return y


def dropout_backward(dy: Array, mask: Array, p: float = 0.5) -> Array:
    """Gradient dx of dropout."""
    return dropout(numbers("dy", dy), mask, p)  # (38), which is (37) with dy in place of x
