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

import itertools
import math

import numpy as np

from minicnn.backend import Array

Size = int | tuple[int, int]
"""In pixels: one number for height and width, or (height, width)."""


def _check(X: Array, X_axes: str, K: Array, K_axes: str) -> None:
    dimensions = len(X_axes.split(",")), len(K_axes.split(","))
    if (X.ndim, K.ndim) != dimensions or X.shape[-3:-2] != K.shape[-3:-2]:
        same = ", with the same C," if "C" in K_axes else ""
        raise ValueError(
            f"expected X ({X_axes}) and K ({K_axes}){same} but got X {X.shape} and K {K.shape}"
        )


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
    X, K = np.asarray(X, float), np.asarray(K, float)
    _check(X, "H, W", K, "KH, KW")
    kh, kw = K.shape
    Y = np.zeros(_positions(X.shape, K.shape))
    for i, j in np.ndindex(Y.shape):
        Y[i, j] = (K * X[i : i + kh, j : j + kw]).sum()  # (1)
    return Y


def corr2d_multi_in(X: Array, K: Array) -> Array:
    """Cross-correlation of X (C, H, W) with K (C, KH, KW), summed over the channels: (OH, OW)."""
    X, K = np.asarray(X, float), np.asarray(K, float)
    _check(X, "C, H, W", K, "C, KH, KW")
    return sum(corr2d(x, k) for x, k in zip(X, K))  # (2)


def corr2d_multi_in_out(X: Array, K: Array) -> Array:
    """Cross-correlation of X (C, H, W) with each kernel of K (O, C, KH, KW): (O, OH, OW)."""
    X, K = np.asarray(X, float), np.asarray(K, float)
    _check(X, "C, H, W", K, "O, C, KH, KW")
    return np.stack([corr2d_multi_in(X, k) for k in K])


def corr2d_multi_in_out_1x1(X: Array, K: Array) -> Array:
    """The same for K (O, C, 1, 1): a matrix product over the channels of each pixel."""
    X, K = np.asarray(X, float), np.asarray(K, float)
    _check(X, "C, H, W", K, "O, C, KH, KW")
    if K.shape[2:] != (1, 1):
        raise ValueError(f"expected kernels of 1 x 1 but got K {K.shape}")
    Y = K.reshape(len(K), -1) @ X.reshape(len(X), -1)  # (3), (O, C) @ (C, H*W)
    return Y.reshape(len(K), *X.shape[1:])


def pool2d(X: Array, size: tuple[int, int], mode: str = "max") -> Array:
    """Maximum ("max") or mean ("avg") of each window of size (height, width) in X (H, W)."""
    X = np.asarray(X, float)
    if X.ndim != 2:
        raise ValueError(f"expected X (H, W) but got X {X.shape}")
    if mode not in ("max", "avg"):
        raise ValueError(f'expected mode "max" or "avg" but got {mode!r}')
    height, width = size
    Y = np.zeros(_positions(X.shape, size))
    for i, j in np.ndindex(Y.shape):
        window = X[i : i + height, j : j + width]
        Y[i, j] = window.max() if mode == "max" else window.mean()  # (4)
    return Y


def _pair(value):
    return value if isinstance(value, tuple) else (value, value)


def _windows(image, kernel_size, stride, padding, dilation=1):
    """Output size (OH, OW), and for each output pixel (oh, ow) its taps inside the image.

    A tap is (kh, kw, h, w): a place in the kernel and the pixel under it.
    """
    kernel, stride, padding = _pair(kernel_size), _pair(stride), _pair(padding)
    dilation = _pair(dilation)
    output = tuple(
        (image[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1  # (6)
        for i in range(2)
    )
    taps = {pixel: [] for pixel in np.ndindex(output)}
    for (oh, ow), (kh, kw) in itertools.product(np.ndindex(output), np.ndindex(kernel)):
        h = oh * stride[0] + kh * dilation[0] - padding[0]  # (5)
        w = ow * stride[1] + kw * dilation[1] - padding[1]  # (5)
        if 0 <= h < image[0] and 0 <= w < image[1]:
            taps[oh, ow].append((kh, kw, h, w))
    return output, taps


def _products(images, weight_shape, groups, taps):
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
    output, taps = _windows(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    y = np.zeros((len(x), len(weight), *output))
    if bias is not None:
        y += bias[:, None, None]
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
    _, taps = _windows(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(len(weight))
    for at_y, at_weight, at_x in _products(len(x), weight.shape, groups, taps):
        dx[at_x] += weight[at_weight] * dy[at_y]  # (8)
        dweight[at_weight] += x[at_x] * dy[at_y]  # (9)
    for n, o, oh, ow in np.ndindex(dy.shape):
        dbias[o] += dy[n, o, oh, ow]  # (10)
    return dx, dweight, dbias


def max_pool2d(x: Array, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> Array:
    """Maximum of each window of x (N, C, H, W): y (N, C, OH, OW)."""
    output, taps = _windows(x.shape[2:], kernel_size, stride or kernel_size, padding)
    y = np.zeros((*x.shape[:2], *output))
    for n, c, oh, ow in np.ndindex(y.shape):
        y[n, c, oh, ow] = max(x[n, c, h, w] for _, _, h, w in taps[oh, ow])  # (11)
    return y


def max_pool2d_backward(
    dy: Array, x: Array, kernel_size: Size, stride: Size | None = None, padding: Size = 0
) -> Array:
    """Gradient dx of max_pool2d."""
    _, taps = _windows(x.shape[2:], kernel_size, stride or kernel_size, padding)
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
    output, taps = _windows(x.shape[2:], kernel_size, stride or kernel_size, padding)
    y = np.zeros((*x.shape[:2], *output))
    for n, c, oh, ow in np.ndindex(y.shape):
        divisor = math.prod(_pair(kernel_size)) if count_include_pad else len(taps[oh, ow])
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
    _, taps = _windows(x.shape[2:], kernel_size, stride or kernel_size, padding)
    dx = np.zeros(x.shape)
    for n, c, oh, ow in np.ndindex(dy.shape):
        divisor = math.prod(_pair(kernel_size)) if count_include_pad else len(taps[oh, ow])
        for _, _, h, w in taps[oh, ow]:
            dx[n, c, h, w] += dy[n, c, oh, ow] / divisor  # (14)
    return dx


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Product of x (N, D) with weight (O, D): y (N, O)."""
    y = np.zeros((len(x), len(weight)))
    if bias is not None:
        y += bias
    for n, o, d in np.ndindex(len(x), *weight.shape):
        y[n, o] += weight[o, d] * x[n, d]  # (15)
    return y


def linear_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Gradients (dx, dweight, dbias) of linear, shaped as x, weight and bias."""
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(len(weight))
    for n, o, d in np.ndindex(len(x), *weight.shape):
        dx[n, d] += weight[o, d] * dy[n, o]  # (16)
        dweight[o, d] += x[n, d] * dy[n, o]  # (17)
    for n, o in np.ndindex(dy.shape):
        dbias[o] += dy[n, o]  # (18)
    return dx, dweight, dbias


def flatten(x: Array) -> Array:
    """Images x (N, C, H, W) as rows: y (N, C*H*W)."""
    _, channels, height, width = x.shape
    y = np.zeros((len(x), channels * height * width))
    for n, c, h, w in np.ndindex(x.shape):
        y[n, (c * height + h) * width + w] = x[n, c, h, w]  # (19)
    return y


def flatten_backward(dy: Array, x: Array) -> Array:
    """Gradient dx of flatten."""
    _, _, height, width = x.shape
    dx = np.zeros(x.shape)
    for n, c, h, w in np.ndindex(x.shape):
        dx[n, c, h, w] = dy[n, (c * height + h) * width + w]  # (19)
    return dx


@np.vectorize(otypes=[float])
def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) of each number."""
    e = math.exp(-abs(x))
    return 1 / (1 + e) if x > 0 else e / (1 + e)  # (20)


@np.vectorize(otypes=[float])
def sigmoid_backward(dy: float, x: float) -> float:
    """Gradient dx of sigmoid."""
    e = math.exp(-abs(x))
    return dy * e / (1 + e) ** 2  # (21)


@np.vectorize(otypes=[float])
def tanh(x: float) -> float:
    """Hyperbolic tangent of each number."""
    return math.tanh(x)  # (22)


@np.vectorize(otypes=[float])
def tanh_backward(dy: float, x: float) -> float:
    """Gradient dx of tanh."""
    e = math.exp(-2 * abs(x))
    return dy * 4 * e / (1 + e) ** 2  # (23)


@np.vectorize(otypes=[float])
def relu(x: float) -> float:
    """Each number, or 0 if it is negative."""
    return max(x, 0.0)  # (24)


@np.vectorize(otypes=[float])
def relu_backward(dy: float, x: float) -> float:
    """Gradient dx of relu, 0 at the kink x = 0."""
    return dy if x > 0 else 0.0  # (25)


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """Loss and dlogits of one batch of logits (N, K) with integer labels (N,)."""
    images = len(logits)
    loss, dlogits = 0.0, np.zeros(logits.shape)
    for n, label in enumerate(labels):
        largest = max(logits[n])
        exponentials = [math.exp(z - largest) for z in logits[n]]
        total = math.fsum(exponentials)
        loss += (math.log(total) + largest - logits[n, label]) / images  # (26)
        for k, exponential in enumerate(exponentials):
            dlogits[n, k] = (exponential / total - (k == label)) / images  # (27)
    return loss, dlogits
