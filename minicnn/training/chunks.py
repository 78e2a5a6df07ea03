"""How a batch is cut into chunks: by its size, the network's shapes, and whether it is on a GPU.

Another cut rounds differently, so the number of workers has no say.

- A chunk has up to 64 images in training and 128 in evaluation, there 4096 on a GPU. Rows in memory
  are as long as that number times the width of an image, and longer ones are no faster on a CPU.
- Each chunk's gradients are copied and added up. So where the parameters outnumber what the layers
  put out for 64 images, as with a hidden layer of a thousand units, a chunk in training has up to
  128 or 256, to bring these numbers into balance, even if some cores then have no chunk.
- From 32 images on, a batch has at least two chunks, so that two cores have work. Smaller ones stay
  whole: with LeNet, 8 images take three quarters of the time of 16.
- Of large images a chunk has fewer: all layers together put out at most 2**26 numbers for it, 256
  MB of float32, unless one image alone exceeds them; in evaluation on a GPU 16 times as many.
  Training keeps most of them until backward. A GPU trains on whole batches where it can, and else
  takes the chunks of a CPU: see parallel.py.
- If a layer mixes images, as batch norm does, training computes something else with other chunks,
  and statistics are better over many images. There a chunk has up to 64, however large they are,
  and a batch of up to 64 is one chunk; where memory is short, take a smaller batch.
"""

import itertools
import math
from dataclasses import dataclass

from minicnn.arguments import Shape
from minicnn.layers.base import Layer
from minicnn.layers.residual import Residual
from minicnn.layers.sequential import Sequential

CHUNK_SIZE = 64  # images
LARGEST_CHUNK_SIZE = 256  # images
EVALUATION_CHUNK_SIZES = {"cpu": 128, "gpu": 4096}  # images; a GPU wants few, large products
WORTH_A_CORE = 16  # images
MOST_OUTPUTS = 1 << 26  # numbers


@dataclass(frozen=True)
class Cut:
    """Cuts a batch into as few chunks as `most` images in each allow, but into two as soon as each
    has `least`."""

    most: int
    least: int

    def __call__(self, n: int) -> list[range]:
        """The images 0 to n - 1 in chunks, in order, whose sizes differ by at most one: a small
        last chunk would give poor statistics, and leave cores idle."""
        count = max(1, math.ceil(n / self.most), min(2, n // self.least))
        bounds = [c * n // count for c in range(count + 1)]
        return [range(first, stop) for first, stop in itertools.pairwise(bounds)]


def training_cut(net: Layer, image_shape: Shape) -> Cut:
    """For images (C, H, W) of `image_shape`."""
    if net.mixes_images:
        return Cut(CHUNK_SIZE, CHUNK_SIZE)
    params = sum(parameter.size for parameter in net.params.values())
    balanced = params // max(1, outputs(net, (1, *image_shape)))  # images
    most = CHUNK_SIZE
    while 2 * most <= min(balanced, LARGEST_CHUNK_SIZE):  # powers of 2, as batches mostly are
        most *= 2
    return Cut(images_that_fit(net, image_shape, most), WORTH_A_CORE)


def evaluation_cut(net: Layer, image_shape: Shape) -> Cut:
    """For images (C, H, W) of `image_shape`; inference mixes none."""
    most = EVALUATION_CHUNK_SIZES[net.device]
    if net.device == "gpu":
        most = images_that_fit(net, image_shape, most, 16 * MOST_OUTPUTS)
        return Cut(most, most)
    return Cut(images_that_fit(net, image_shape, most), WORTH_A_CORE)


def images_that_fit(net: Layer, image_shape: Shape, most: int, limit: int | None = None) -> int:
    """How many images, from 1 to `most`, for which `net` puts out no more numbers than `limit`, or
    than MOST_OUTPUTS."""
    limit = limit or MOST_OUTPUTS
    return max(1, min(most, limit // max(1, outputs(net, (1, *image_shape)))))


def outputs(layer: Layer, x_shape: Shape) -> int:
    """How many numbers `layer` and the layers in it put out for x of `x_shape`."""
    if isinstance(layer, Sequential):
        return sum(outputs(part, shape) for part, shape, _ in layer.trace(x_shape))
    own = math.prod(layer.output_shape(x_shape))
    if isinstance(layer, Residual):
        own += sum(outputs(part, x_shape) for part in layer.parts.values())
    return own
