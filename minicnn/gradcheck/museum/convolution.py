"""Wrong gradients of convolutions, and of transposed ones."""

from dataclasses import replace

import numpy as np

from minicnn.gradcheck.museum.fault import IMAGES, MADE_UP, Fault
from minicnn.layers import Conv2D, ConvTranspose2D, Layer
from minicnn.windows import batch_last, im2col


class ConvPaddingKept(Conv2D):
    """dx still has the border of padding around it, and the layer before fails."""

    def backward(self, dy, saved, need_dx=True):
        border = [(0, 0), (0, 0), *self.window.padding]
        dx, grads = super().backward(dy, saved)
        return np.pad(dx, border), grads


class ConvCropped(Conv2D):
    """The padding is cut off two sides of dx instead of four, so dx is shifted by the padding."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        for axis, (before, _) in zip((2, 3), self.window.padding):
            dx = np.roll(dx, before, axis)
        return dx, grads


class ConvRowsLeftOver(Conv2D):
    """dx gets the size that the windows cover. If the stride does not fit the image, some rows and
    columns are in no window and are missing from dx."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        covered = [
            (outputs - 1) * stride + span - sum(padding)
            for outputs, stride, span, padding in zip(
                dy.shape[2:], self.window.stride, self.window.span, self.window.padding
            )
        ]
        return dx[:, :, : covered[0], : covered[1]], grads


class ConvUnpaddedInput(Conv2D):
    """dweight is summed over the image without the padding that forward put around it."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        ends = [(0, 0), (0, 0), *((0, sum(p)) for p in self.window.padding)]
        windows = self.window.view(batch_last(np.pad(saved, ends)))
        columns = im2col(windows).reshape(-1, dy.size // dy.shape[1])
        dweight = batch_last(dy).reshape(dy.shape[1], -1) @ columns.T
        return dx, grads | {"weight": dweight.reshape(grads["weight"].shape)}


class ConvKernelNotRotated(Conv2D):
    """dx slides the kernel over dy as forward slides it over x, not rotated by 180 degrees. A
    symmetric kernel hides it."""

    def backward(self, dy, saved, need_dx=True):
        turned = self.map_arrays(lambda p: p[..., ::-1, ::-1] if p.ndim == 4 else p)
        return Conv2D.backward(turned, dy, saved)[0], super().backward(dy, saved)[1]


class ConvStrideForgotten(Conv2D):
    """dx is the full convolution of dy itself, without the S - 1 zeros between its entries that a
    stride of S calls for. It is too small, and is put into the upper left corner of zeros."""

    def backward(self, dy, saved, need_dx=True):
        _, grads = super().backward(dy, saved)
        full = ConvTranspose2D(self.out_channels, self.in_channels, 1, groups=self.groups)
        full.params = {"weight": self.params["weight"]}
        full.window = replace(self.window, stride=(1, 1))
        part, _ = full.forward(dy)
        dx = np.zeros_like(saved)
        dx[:, :, : part.shape[2], : part.shape[3]] = part
        return dx, grads


class ConvOverlapAssigned(Conv2D):
    """col2im assigns each tap's gradient instead of adding it: with stride 1 an entry keeps one of
    its KH*KW contributions."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        weight = self.params["weight"].astype(dx.dtype)
        dcolumns = np.einsum("ocij,nopq->ijcpqn", weight, dy)
        dpadded = np.zeros(self.window.padded_shape(saved.shape), dx.dtype)
        for dtap, taken in zip(
            self.window.taps(dpadded), dcolumns.reshape(-1, *dcolumns.shape[2:])
        ):
            dtap[...] = taken
        return self.window.unpad(dpadded), grads


class ConvLastImage(Conv2D):
    """A loop over the images assigns dweight instead of adding: only the last image is left."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx, grads | super().backward(dy[-1:], saved[-1:])[1]


class ConvBiasMean(Conv2D):
    """dbias is the mean over images and positions. The loss has taken the mean over the batch
    already, and the positions belong in a sum."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx, grads | {"bias": dy.mean(axis=(0, 2, 3))}


class ConvBiasLastColumn(Conv2D):
    """dbias is summed over images and rows, and a loop over the columns assigns where it should
    add: only the last column is left."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx, grads | {"bias": dy[..., -1].sum(axis=(0, 2))}


class ConvTransposeKernelRotated(ConvTranspose2D):
    """Transposed is mistaken for rotated by 180 degrees, so dx is a convolution with the kernel
    rotated back."""

    def backward(self, dy, saved, need_dx=True):
        turned = self.map_arrays(lambda p: p[..., ::-1, ::-1] if p.ndim == 4 else p)
        return ConvTranspose2D.backward(turned, dy, saved)[0], super().backward(dy, saved)[1]


class ConvTransposeChannelsExchanged(ConvTranspose2D):
    """The weight is (in, out, KH, KW) here and (out, in, KH, KW) in a convolution. dx confuses the
    two; if both counts are equal, no shape complains."""

    def backward(self, dy, saved, need_dx=True):
        other = self.map_arrays(lambda p: p.swapaxes(0, 1) if p.ndim == 4 else p)
        return ConvTranspose2D.backward(other, dy, saved)[0], super().backward(dy, saved)[1]


_PADDED = {"in_channels": 2, "out_channels": 4, "kernel_size": 3, "padding": 1}
_TRANSPOSED = {"in_channels": 2, "out_channels": 2, "kernel_size": 3, "stride": 2}
_ADD_UP = "overwritten where it should be added up"
_ROTATED = "kernel rotated by 180 degrees"


def _conv(wrong: type[Layer], cause: str | None, seen: str = MADE_UP, **arguments: int) -> Fault:
    return Fault(Conv2D, wrong, IMAGES, cause, _PADDED | arguments, seen=seen)


FAULTS = [
    _conv(ConvPaddingKept, "gradient of the padding kept"),
    _conv(ConvCropped, "shifted by (1, 1) pixels"),
    _conv(
        ConvRowsLeftOver,
        "dx lacks the border pixels that no window covers",
        "torch/DEPRECEATED-torch7-distro#20",
        stride=2,
        padding=0,
    ),
    _conv(ConvStrideForgotten, "as if the stride were 1", "wuziheng/CNN-Numpy#2", stride=2),
    _conv(ConvUnpaddedInput, None),
    _conv(ConvKernelNotRotated, _ROTATED, "asked in ddbourgin/numpy-ml#27"),
    _conv(ConvOverlapAssigned, _ADD_UP),
    _conv(ConvLastImage, _ADD_UP),
    _conv(ConvBiasMean, "divided by N*OH*OW", "sebgao/cTensor#3, of the weights"),
    _conv(ConvBiasLastColumn, "not summed over all columns", "snuspl/cruise#800"),
    Fault(ConvTranspose2D, ConvTransposeKernelRotated, IMAGES, _ROTATED, _TRANSPOSED),
    Fault(ConvTranspose2D, ConvTransposeChannelsExchanged, IMAGES, "transposed", _TRANSPOSED),
]
