"""The exercises of the course's chapter that a few lines of code can answer.

Look for: each exercise names its section and asks the question in our own words; what is printed is
the answer.

In the course, Dive into Deep Learning: the exercises that close each section on convolutional
networks. Some are answered elsewhere: 01_cross_correlation.py has the convolution as a matrix,
02_edges.py diagonal edges and derivatives, 05_channels.py why two right results differ,
06_pooling.py average pooling as a convolution and maximum pooling from ReLUs,
07_lenet_layer_by_layer.py what the layers of LeNet cost, 09_better_lenet.py a LeNet of today, and
10_what_lenet_sees.py its activations.
"""

import inspect
import math
import time

import numpy as np
from gallery import convolution, keep, largest_difference, parser, photograph, run
from threadpoolctl import threadpool_limits

from minicnn import AvgPool2D, Conv2D, Linear, MaxPool2D, ReLU, Sequential, corr2d, softmax
from minicnn.plotting import image_grid


def random(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in shapes]


def difference(a, b):
    return f"differ by up to {largest_difference(a, b):.1e}"


def kernel_of_one_pixel():
    """From Fully Connected Layers to Convolutions: what is a network of convolutions whose kernels
    cover a single pixel?"""
    first, second, x = random((8, 3), (4, 8), (2, 3, 5, 5))
    one_by_one = [convolution(weight[..., None, None]) for weight in (first, second)]
    net = Sequential(one_by_one[0], ReLU(), one_by_one[1])
    dense = Sequential(Linear(3, 8, bias=False), ReLU(), Linear(8, 4, bias=False)).astype(float)
    dense.load_params({"0.weight": first, "2.weight": second})
    pixels = x.transpose(0, 2, 3, 1).reshape(-1, 3)
    y = dense(pixels).reshape(2, 5, 5, 4).transpose(0, 3, 1, 2)
    print("A network of linear layers that sees the channels of one pixel at a time:")
    print(f"the two {difference(net(x), y)}.")


def convolution_commutes():
    """From Fully Connected Layers to Convolutions: is f * g the same as g * f?"""

    def convolve(f, g):
        rows, columns = g.shape
        return corr2d(np.pad(f, ((rows - 1,) * 2, (columns - 1,) * 2)), g[::-1, ::-1])

    f, g = random((6, 7), (3, 2))
    print("Yes, with zeros around one and the other turned by 180 degrees:")
    print(f"they {difference(convolve(f, g), convolve(g, f))}.")


def convolution_of_sound():
    """From Fully Connected Layers to Convolutions: what is a convolution of sound?"""
    sound, kernel = random(16000, 400)
    layer = convolution(kernel[None, None, None], stride=(1, 160))
    y = layer(sound[None, None, None]).ravel()
    expected = np.correlate(sound, kernel)[::160]
    print("A convolution of an image with one row. For a second of 16,000 samples, 400 weights and")
    print(f"a stride of 160, it and np.correlate {difference(y, expected)}. It takes")
    print(f"{len(y)} * 400 = {layer.multiply_adds((1, 1, 1, 16000)):,} multiply-adds.")


def edge_across_a_direction():
    """Convolutions for Images: which kernel finds edges at right angles to a direction v?"""
    along_x = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    v = np.cos(np.pi / 3), np.sin(np.pi / 3)
    K = v[0] * along_x + v[1] * along_x.T
    print(f"v[0] * K + v[1] * K.T, with K the slope along x. For v at 60 degrees:\n{K.round(3)}")
    y, x = np.mgrid[:3, :3]
    for angle in (0, 60, 150):
        slope = x * np.cos(np.radians(angle)) + y * np.sin(np.radians(angle))
        print(f"brightness that rises at {angle:3} degrees: {abs(corr2d(slope, K)[0, 0]):.3f}")


def smallest_derivative():
    """Convolutions for Images: what excites the kernel of the second derivative most? Why does a
    derivative of order d take d + 1 taps?"""
    second = np.array([[1.0, -2.0, 1.0]])
    for name, row in (("slope", [1, 2, 3]), ("edge", [0, 0, 1]), ("thin line", [0, 1, 0])):
        print(f"{second[0]} on the {name} {row}: {corr2d([row], second)[0, 0]:.0f}")
    powers = np.vander(np.arange(4.0), increasing=True).T
    print("A derivative of order d is 0 for 1, x, ..., x**(d - 1). For 4 taps and d = 4, these are")
    print(f"4 equations of rank {np.linalg.matrix_rank(powers)}: only taps of 0 solve them.")


def stride_on_sound():
    """Padding and Stride: what does a stride of 2 do to sound? What does it save?"""
    t = np.arange(0, 100, 2)
    high, low = np.cos(2 * np.pi * 0.4 * t), np.cos(2 * np.pi * 0.1 * t)
    print("It halves the sampling rate. Tones above half of the new rate come back as lower ones:")
    print(f"every second sample of 0.4 and of 0.1 cycles a sample {difference(high, low)}.")
    sound, image = (1, 1, 1, 16000), (1, 1, 64, 64)
    one, two = (Conv2D(1, 1, (1, 8), stride=stride).multiply_adds(sound) for stride in (1, 2))
    print(f"For a second of sound and a kernel of 8 it takes {two / one:.3f} of the multiply-adds,")
    one, two = (Conv2D(1, 1, 3, padding=1, stride=s).multiply_adds(image) for s in (1, 2))
    print(f"for an image, {two / one:.3f}; and all later layers have as much less to do.")


def mirrored_padding():
    """Padding and Stride, From Fully Connected Layers to Convolutions: what happens at the border
    of an image, and what changes if the padding mirrors the image?"""
    X, blur = np.ones((4, 4)), np.full((3, 3), 1 / 9)
    print("When a white image is blurred, zeros darken its border:")
    print(corr2d(np.pad(X, 1), blur).round(2))
    print('The mirror, np.pad(X, 1, mode="reflect"), keeps it white:')
    print(corr2d(np.pad(X, 1, mode="reflect"), blur).round(2))


def stride_of_one_half():
    """Padding and Stride: what could a stride of 1/2 be?"""
    X, K = np.array([[0.0, 4.0], [8.0, 12.0]]), np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    spread = np.zeros((5, 5))
    spread[1:4:2, 1:4:2] = X
    Y = corr2d(spread, K)
    print("Half a pixel a step: zeros between the pixels, then the kernel. The image")
    print(f"{X}\ngrows to\n{Y}")
    layer = convolution(K[None, None], stride=2)
    _, saved = layer.forward(np.zeros((1, 1, 5, 5)))
    dx, _ = layer.backward(X[None, None], saved)
    print("This is a stride of 2 run backward, a transposed convolution: inside the border")
    print(f"they {difference(dx[0, 0, 1:4, 1:4], Y)}.")


def two_kernels_in_a_row():
    """Multiple Input and Multiple Output Channels: are two convolutions in a row one convolution?
    Is each convolution two smaller ones?"""
    first, second, x = random((4, 3, 3, 3), (2, 4, 5, 5), (1, 3, 12, 12))
    net = Sequential(convolution(first), convolution(second))
    bright = np.zeros((3, 3, 13, 13))
    bright[range(3), range(3), 6, 6] = 1  # image c has one bright pixel, in channel c
    weight = net(bright)[:, :, ::-1, ::-1].swapaxes(0, 1)  # (O, C, KH, KW)
    one = convolution(weight)
    print("Yes. They turn one bright pixel into the rotated kernel: 3x3 and 5x5 make", end=" ")
    print(f"{weight.shape[2]}x{weight.shape[3]}.")
    print(f"The two and the one {difference(net(x), one(x))}.")
    with_relu = Sequential(convolution(first), ReLU(), convolution(second))
    print(f"With a ReLU between the two, no: they {difference(with_relu(x), one(x))}.")
    padded = Sequential(convolution(first, padding=1), convolution(second, padding=2))
    y, y_of_one = padded(x), convolution(weight, padding=3)(x)
    inside = difference(y[..., 2:-2, 2:-2], y_of_one[..., 2:-2, 2:-2])
    print(f"With padding, not at the border: inside they {inside}, but there")
    print(f"they {difference(y, y_of_one)}, as the first one's outputs outside count as zero.")
    print("The converse, not always: in one channel, 3x3 and 5x5 have 34 weights, 7x7 has 49.")


def two_kernels_of_one_pixel():
    """Multiple Input and Multiple Output Channels: can two 1x1 convolutions be one?"""
    first, second, x = random((8, 3), (4, 8), (1, 3, 6, 6))
    layers = [convolution(weight[..., None, None]) for weight in (first, second)]
    one = convolution((second @ first)[..., None, None])
    print(f"Yes, the product of their matrices: they {difference(Sequential(*layers)(x), one(x))}.")
    layers.insert(1, ReLU())
    print(f"With a ReLU between them, no: they {difference(Sequential(*layers)(x), one(x))}.")


def cost_of_a_convolution():
    """Multiple Input and Multiple Output Channels: what do forward and backward cost? What if both
    numbers of channels are doubled, or the padding?"""
    x, weight = random((1, 16, 32, 32), (32, 16, 3, 3))
    layer = convolution(weight, padding=1)
    y, saved = layer.forward(x)
    dx, grads = layer.backward(y, saved)
    cost = layer.multiply_adds(x.shape)
    print(f"{layer} on 16 x 32 x 32:")
    print(f"forward O*OH*OW * C*KH*KW = {y.size:,} * {weight[0].size} = {cost:,} multiply-adds,")
    print(f"backward as many for dweight and again as many for dx, {2 * cost:,}.")
    print(f"Numbers held forward: x {x.size:,}, weight {weight.size:,}, y {y.size:,};")
    print(f"backward also dx {dx.size:,}, dweight {grads['weight'].size:,}, dy {y.size:,}.")
    doubled = Conv2D(32, 64, 3, padding=1).multiply_adds((1, 32, 32, 32))
    padded = Conv2D(16, 32, 3, padding=2).multiply_adds(x.shape)
    print(f"Twice the channels, in and out: {doubled / cost:.3f} times the multiply-adds.")
    print(f"Twice the padding: {padded / cost:.3f} times, as the output grows: (34/32)**2.")


def strips():
    """Multiple Input and Multiple Output Channels: one output at a time from a window k pixels
    wide, or Delta outputs side by side from a strip of k + Delta - 1?"""
    k = 5
    for delta in (1, 2, 8, 64):
        reads = k * (k + delta - 1) / delta
        print(f"k = {k}, Delta = {delta:2}: {reads:5.2f} pixels read per output")
    print("The strip: reads fall from k*k towards k, as long as the strip fits into fast memory.")


def blocks_of_channels():
    """Multiple Input and Multiple Output Channels: how much faster is a matrix of b blocks on the
    diagonal, what is lost, and what brings it back?"""
    full, grouped = Conv2D(12, 12, 1), Conv2D(12, 12, 1, groups=3)
    costs = [layer.multiply_adds((1, 12, 8, 8)) for layer in (full, grouped)]
    print(f"b times: as 3 groups, 12 channels take {costs[1]:,} multiply-adds, not {costs[0]:,}.")
    blocks = np.kron(np.eye(3), np.ones((4, 4)))
    shuffle = np.eye(12)[np.arange(12).reshape(3, 4).T.ravel()]
    in_a_row, shuffled = blocks @ blocks, blocks @ shuffle @ blocks
    print(
        f"Two in a row still connect only {np.count_nonzero(in_a_row[0])} channels with an output;"
    )
    print(f"with the channels shuffled in between, {np.count_nonzero(shuffled[0])}.")


def maximum_is_not_linear():
    """Pooling: why is no convolution a maximum pooling?"""
    pool, x = MaxPool2D(2), np.array([[[[1.0, 2.0], [3.0, 5.0]]]])
    print("For a convolution, y(x) + y(-x) is twice the bias, whatever x is. For the maximum it is")
    for image in (x, 2 * x):
        print(f"{(pool(image) + pool(-image)).item()} for x = {image[0, 0].tolist()}")


def minimum_pooling():
    """Pooling: is a layer for the minimum needed? And one for maximum minus minimum?"""
    (x,) = random((1, 1, 6, 6))
    windows, pool = x.reshape(3, 2, 3, 2), MaxPool2D(2)
    minimum, spread = -pool(-x)[0, 0], (pool(x) + pool(-x))[0, 0]
    print("No: the minimum is -max(-x), maximum minus minimum is max(x) + max(-x). Compared with")
    print(f"each window: the minima {difference(minimum, windows.min(axis=(1, 3)))},")
    print(f"maxima minus minima {difference(spread, np.ptp(windows, axis=(1, 3)))}.")
    print("Maximum minus minimum finds edges of any direction, as the picture shows.")


def cost_of_pooling():
    """Pooling: what does it cost?"""
    outputs = math.prod(MaxPool2D(2).output_shape((1, 6, 28, 28)))
    convolution_before = Conv2D(1, 6, 5, padding=2).multiply_adds((1, 1, 28, 28))
    print("KH*KW - 1 comparisons or additions per output. In LeNet, the first pooling takes")
    print(f"{outputs * 3:,}, the convolution before it {convolution_before:,} multiply-adds.")


def softmax_pooling(x, scale, size=2):
    """Means of the windows of x (H, W), each pixel weighted by the softmax of scale * x."""
    h, w = x.shape
    windows = x.reshape(h // size, size, w // size, size).swapaxes(1, 2).reshape(-1, size * size)
    weights = softmax(scale * windows)
    return (weights * windows).sum(axis=1).reshape(h // size, w // size)


def softmax_for_pooling():
    """Pooling: what if the softmax of a window's pixels weights them, and why is it not used?"""
    (x,) = random((6, 6))
    mean, maximum = (layer(x[None, None])[0, 0] for layer in (AvgPool2D(2), MaxPool2D(2)))
    for scale in (0, 1, 10, 1000):
        y = softmax_pooling(x, scale)
        print(f"softmax of {scale:4} * x: from the mean up to {abs(y - mean).max():.3f}, ", end="")
        print(f"from the maximum {abs(y - maximum).max():.3f}")
    print("It is between the two, and which it is closer to depends on how large x happens to be.")
    print("It takes an exponential of each pixel, where the maximum takes a comparison.")


def kernel_as_large_as_the_image():
    """Beyond the course: what are the gradients if the kernel is as large as the image?"""
    x, weight, dy = random((1, 2, 4, 4), (3, 2, 4, 4), (1, 3, 1, 1))
    layer = convolution(weight)
    _, saved = layer.forward(x)
    dx, grads = layer.backward(dy, saved)
    factor = dy[0][..., None]  # (3, 1, 1, 1)
    print("The same as in a linear layer.")
    print(f"dweight and dy * x {difference(grads['weight'], factor * x)}.")
    print(f"dx and the sum of dy * weight {difference(dx, (factor * weight).sum(axis=0))}.")


def corr2d_by_fourier(X, K):
    """corr2d(X, K) as a product of spectra; the conjugate rotates the kernel."""
    product = np.fft.rfft2(X) * np.fft.rfft2(K, X.shape).conj()
    oh, ow = X.shape[0] - K.shape[0] + 1, X.shape[1] - K.shape[1] + 1
    return np.fft.irfft2(product, X.shape)[:oh, :ow]


def milliseconds(function, *arguments):
    """The median of five runs, on one core."""
    seconds = []
    with threadpool_limits(1):
        for _ in range(5):
            start = time.perf_counter()
            function(*arguments)
            seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds))


def large_kernels():
    """Beyond the course: is there a faster way for large kernels?"""
    X, K = random((40, 40), (9, 9))
    print("A product of Fourier transforms. It and corr2d", end=" ")
    print(f"{difference(corr2d(X, K), corr2d_by_fourier(X, K))}. For 128 x 128 pixels:")
    for size in (3, 7, 15, 31):
        X, K = random((128, 128), (size, size))
        layer = convolution(K[None, None])
        products = layer.multiply_adds((1, 1, 128, 128))
        print(f"{size:2} x {size:2}: {products:9,} products in", end=" ")
        print(f"{milliseconds(layer, X[None, None]):5.2f} ms,", end=" ")
        print(f"Fourier {milliseconds(corr2d_by_fourier, X, K):5.2f} ms")
    print("The transforms hardly depend on the kernel's size: they pay if it is large. The times")
    print("are for one channel on this machine.")


EXERCISES = (
    kernel_of_one_pixel,
    convolution_commutes,
    convolution_of_sound,
    edge_across_a_direction,
    smallest_derivative,
    stride_on_sound,
    mirrored_padding,
    stride_of_one_half,
    two_kernels_in_a_row,
    two_kernels_of_one_pixel,
    cost_of_a_convolution,
    strips,
    blocks_of_channels,
    maximum_is_not_linear,
    minimum_pooling,
    cost_of_pooling,
    softmax_for_pooling,
    kernel_as_large_as_the_image,
    large_kernels,
)


def picture_of_poolings(size=8):
    """A photograph, and its windows of 8x8 pixels pooled in five ways."""
    photo = photograph(352)
    x, pool = photo[None, None], MaxPool2D(size)
    maximum, minimum = pool(x)[0, 0], -pool(-x)[0, 0]
    pictures = {
        "photograph, 352 x 352": photo,
        "minimum, 44 x 44": minimum,
        "mean": AvgPool2D(size)(x)[0, 0],
        "softmax of 10 x": softmax_pooling(photo, 10, size),
        "maximum": maximum,
        "maximum - minimum": maximum - minimum,
    }
    return image_grid(list(pictures.values()), list(pictures), columns=3, size=2.6)


def main(argv=None):
    args = parser(__doc__).parse_args(argv)
    for number, exercise in enumerate(EXERCISES, 1):
        print(f"{number}. {inspect.getdoc(exercise)}\n")
        exercise()
        print()
    keep(picture_of_poolings(), "12_exercises", args)


if __name__ == "__main__":
    run(main)
