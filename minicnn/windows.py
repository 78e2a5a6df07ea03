"""The windows that a kernel sees as it slides over an image, for convolution and pooling alike.

With image size H, kernel size KH, stride S and dilation D along one axis, tap i of output p reads
row p*S + i*D of the padded image, which has H + top + bottom rows:

    OH = floor((H + top + bottom - D*(KH - 1) - 1) / S) + 1   outputs whose taps all fit        (1)
    windows[c, i, j, p, q] = padded[c, p*S + i*D, q*S + j*D]                                    (2)

(2) is only a way to walk over memory, a strided view. It has three uses:

    tap        windows[:, i, j]: what one tap reads at every output; pooling goes over the taps
    im2col     columns = windows, copied out: a matrix with a row for each (c, i, j) and a column
               for each output (p, q)                                                           (3)
    col2im     padded[c, p*S + i*D, q*S + j*D] += columns[c, i, j, p, q]                        (4)

im2col is linear and copies each entry to the places that (2) names; col2im adds up what is in
those places, so it is the transpose: <im2col(x), columns> = <x, col2im(columns)> for all padded x
and columns. Windows may overlap, so (4) adds tap by tap; within one tap no two outputs meet.

Shapes are (N, C, H, W), but the arithmetic is done on (C, H, W, N): with the batch last in memory
each copy runs over long contiguous rows, and a product with the columns comes out in the layout
that the next layer reads.

Source: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from minicnn.arguments import Padding, Pair, Shape, Sides, Size, pair, require, sides
from minicnn.backend import Array, array_module


def batch_last(x: Array) -> Array:
    """x (N, C, H, W) as a C-contiguous (C, H, W, N), copied if memory is ordered otherwise."""
    return array_module(x).ascontiguousarray(x.transpose(1, 2, 3, 0))


def batch_first(x: Array) -> Array:
    """The (N, C, H, W) view of x (C, H, W, N)."""
    return x.transpose(3, 0, 1, 2)


def im2col(windows: Array, memory: Array | None = None) -> Array:
    """A C-contiguous copy of windows (C, KH, KW, OH, OW, N), or of some of their rows, at the
    beginning of one-dimensional `memory` if that is given."""
    if memory is None:
        memory = array_module(windows).empty(windows.size, windows.dtype)
    columns = memory[: windows.size].reshape(windows.shape)
    columns[...] = windows  # (3)
    return columns


@dataclass
class Window:
    """The geometry of a sliding window, in pixels. Each field is (height, width), and `padding`
    ((top, bottom), (left, right)). `span` is the size of what one window covers."""

    kernel: Pair
    stride: Pair
    padding: Sides
    dilation: Pair = (1, 1)
    span: Pair = field(init=False)

    def __post_init__(self) -> None:
        (dh, dw), (kh, kw) = self.dilation, self.kernel
        self.span = dh * (kh - 1) + 1, dw * (kw - 1) + 1

    @classmethod
    def of(
        cls, kernel_size: Size, stride: Size = 1, padding: Padding = 0, dilation: Size = 1
    ) -> "Window":
        """The window for these arguments of a layer, each an int or (height, width); padding also
        (top, bottom, left, right), or "same": with stride 1 the output has the size of the image,
        and an odd pixel of padding goes to the bottom and right."""
        kernel, stride = pair("kernel_size", kernel_size, 1), pair("stride", stride, 1)
        window = cls(kernel, stride, ((0, 0), (0, 0)), pair("dilation", dilation, 1))
        if isinstance(padding, str) and padding == "same":
            require(stride == (1, 1), 'padding="same" needs stride 1: give it in numbers', stride)
            h, w = window.span
            return replace(window, padding=(((h - 1) // 2, h // 2), ((w - 1) // 2, w // 2)))
        return replace(window, padding=sides("padding", padding))

    def output_size(self, size: Shape) -> Pair:
        """(OH, OW) for an image of `size` (H, W). Raises ValueError if no window fits."""
        (top, bottom), (left, right) = self.padding
        outputs = self._outputs(top + size[0] + bottom, left + size[1] + right)
        if min(outputs) < 1:
            axis = 0 if outputs[0] < 1 else 1
            name, h, (before, after) = ("height", "width")[axis], size[axis], self.padding[axis]
            d, k, span = self.dilation[axis], self.kernel[axis], self.span[axis]
            raise ValueError(
                f"the kernel spans dilation*(kernel - 1) + 1 = {d}*({k} - 1) + 1 = {span} but "
                f"the padded {name} is {h} + {before} + {after} = {h + before + after}: use a "
                f"smaller kernel, a larger image or more padding"
            )
        return outputs

    def extended(self, size: Shape) -> "Window":
        """The window for images of `size` with more padding at the bottom and right, so that the
        last stride is not cut short; no window begins in that padding."""
        padding = []
        for h, (before, after), s, span in zip(size, self.padding, self.stride, self.span):
            start = -(-(h + before + after - span) // s) * s  # of the last window, rounded up
            padding.append((before, start + span - h - before if start < h + before else after))
        top_bottom, left_right = padding
        return replace(self, padding=(top_bottom, left_right))

    def padded_shape(self, x_shape: Shape) -> Shape:
        """(C, top + H + bottom, left + W + right, N) for x (N, C, H, W)."""
        n, c, h, w = x_shape
        return c, h + sum(self.padding[0]), w + sum(self.padding[1]), n

    def pad(self, x: Array, value: float = 0) -> Array:
        """x (N, C, H, W) -> padded (C, top + H + bottom, left + W + right, N), C-contiguous, with
        `value` around x; no copy if there is no padding and x already lies so in memory."""
        if self.padding == ((0, 0), (0, 0)):
            return batch_last(x)
        xp, shape = array_module(x), self.padded_shape(x.shape)
        padded = xp.full(shape, value, x.dtype) if value else xp.zeros(shape, x.dtype)
        self.unpad(padded).transpose(1, 2, 3, 0)[...] = x.transpose(1, 2, 3, 0)
        return padded

    def unpad(self, padded: Array) -> Array:
        """padded (C, top + H + bottom, left + W + right, N) -> x (N, C, H, W), a view: the
        transpose of `pad`."""
        (_, h, w, _), ((top, bottom), (left, right)) = padded.shape, self.padding
        return batch_first(padded[:, top : h - bottom, left : w - right])

    def view(self, padded: Array) -> Array:
        """padded (C, H, W, N) -> windows (C, KH, KW, OH, OW, N), a view to read only: its entries
        share memory."""
        (c, h, w, n), (dh, dw), (sh, sw) = padded.shape, self.dilation, self.stride
        c_step, h_step, w_step, n_step = padded.strides
        shape = c, *self.kernel, *self._outputs(h, w), n
        strides = c_step, dh * h_step, dw * w_step, sh * h_step, sw * w_step, n_step  # (2)
        return array_module(padded).lib.stride_tricks.as_strided(padded, shape, strides)

    def taps(self, padded: Array) -> Iterator[Array]:
        """For each tap, row by row, the view (C, OH, OW, N) of what it reads in padded."""
        for rows in self.taps_along(0, padded):
            yield from self.taps_along(1, rows)

    def taps_along(self, axis: int, padded: Array) -> Iterator[Array]:
        """The same of a row of taps, if axis is 1: W of padded (..., H, W, N) becomes OW; or of a
        column of taps, if axis is 0: H becomes OH."""
        d, starts = self.dilation[axis], padded.shape[axis - 3] - self.span[axis] + 1
        for k in range(self.kernel[axis]):
            reads = slice(k * d, k * d + starts, self.stride[axis])  # (2)
            yield padded[..., reads, :] if axis else padded[..., reads, :, :]

    def from_taps(self, shares: Iterable[Array], x_shape: Shape, like: Array) -> Array:
        """dx (N, C, H, W), the transpose of `taps` of padded x: each entry is the sum of the shares
        of the taps that read it. `shares` has one (C, OH, OW, N) for each tap; dtype and device are
        those of `like`."""
        shape, (sh, sw), xp = self.padded_shape(x_shape), self.stride, array_module(like)
        tiled = self.stride == self.kernel == self.span and not (shape[1] % sh or shape[2] % sw)
        padded = (xp.empty if tiled else xp.zeros)(shape, like.dtype)
        for tap, share in zip(self.taps(padded), shares, strict=True):
            if tiled:  # each entry lies in exactly one window
                tap[...] = share
            else:
                tap += share
        return self.unpad(padded)

    def slab(self, padded: Array, rows: slice) -> Array:
        """The part of padded that the windows of these output rows see, a view."""
        sh, span = self.stride[0], self.span[0]
        return padded[:, rows.start * sh : (rows.stop - 1) * sh + span]

    def col2im(self, columns: Array, padded: Array) -> None:
        """Adds columns (C, KH, KW, OH, OW, N) to padded (C, H, W, N): the transpose of im2col.

        A row of taps is added up first, and then the rows, in KW + KH additions, unless KH*KW are
        about as few. If there is one row of outputs, they lie in different rows of padded.
        """
        c, kh, kw, oh, _, n = columns.shape
        if oh > 1 and kh * kw <= kh + kw + 1:
            for k, tap in enumerate(self.taps(padded)):
                tap += columns[:, k // kw, k % kw]  # (4)
            return
        sums = padded[:, : self.span[0] : self.dilation[0], None]  # (C, KH, OH, W, N)
        if oh > 1:
            sums = array_module(padded).zeros((c, kh, oh, padded.shape[2], n), padded.dtype)
        for j, tap in enumerate(self.taps_along(1, sums)):
            tap += columns[:, :, j]  # (4)
        if oh > 1:
            for i, rows in enumerate(self.taps_along(0, padded)):
                rows += sums[:, i]  # (4)

    def _outputs(self, h: int, w: int) -> Pair:
        """(OH, OW) for a padded image of size (h, w)."""
        (sh, sw), (span_h, span_w) = self.stride, self.span
        return (h - span_h) // sh + 1, (w - span_w) // sw + 1  # (1)

    def arguments(self, default_stride: Pair = (1, 1)) -> str:
        """The arguments of a layer with these windows, defaults left out: `5, padding=2`."""
        (top, bottom), (left, right) = self.padding
        padding = (top, left) if (top, left) == (bottom, right) else (top, bottom, left, right)
        named = [
            ("stride", self.stride, default_stride),
            ("padding", padding, (0, 0)),
            ("dilation", self.dilation, (1, 1)),
        ]
        given = [f"{name}={_short(value)}" for name, value, default in named if value != default]
        return ", ".join([_short(self.kernel), *given])


def _short(value: Shape) -> str:
    return str(value[0] if len(set(value)) == 1 else value)
