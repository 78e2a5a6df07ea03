"""The windows of a kernel against plain counting and indexing.

Values are small integers in float64, so that sums are exact and transposes are compared exactly:
two linear maps A and B are transposes if <A x, y> = <x, B y> for random x and y.
"""

import itertools

import numpy as np
import pytest

from minicnn.windows import Window, batch_first, batch_last

RNG = np.random.default_rng(0)


def integers(shape):
    return RNG.integers(-9, 10, shape).astype(np.float64)


def random_case(one_row):
    """Random windows that fit a random x_shape, with one row of outputs or with several."""
    while True:
        size, *geometry = RNG.integers((1, 1, 1, 1), (12, 5, 4, 4), (2, 4)).T.tolist()
        kernel, stride, dilation = map(tuple, geometry)
        padding = tuple(map(tuple, RNG.integers(0, 4, (2, 2)).tolist()))
        windows = Window(kernel, stride, padding, dilation)
        x_shape = (*RNG.integers(1, 4, 2).tolist(), *size)
        try:
            oh, _ = windows.output_size(size)
        except ValueError:
            continue
        if (oh == 1) == one_row:
            return pytest.param(windows, x_shape, id=f"{x_shape} {windows}")


CASES = [random_case(one_row) for one_row in (True, False) for _ in range(15)]
on_random_cases = pytest.mark.parametrize("windows, x_shape", CASES)


def test_output_size_is_the_number_of_places_where_all_taps_fit():
    def places(size, kernel, stride, padding, dilation):
        taps = dilation * np.arange(kernel)
        return sum(max(start + taps) < size + sum(padding) for start in range(0, 20, stride))

    paddings = [(0, 0), (1, 1), (2, 0), (1, 2)]
    axes = list(itertools.product(range(1, 10), (1, 2, 3, 5), (1, 2, 3), paddings, (1, 2)))
    for height, width in zip(axes, (axes[i] for i in RNG.permutation(len(axes)))):
        size, *geometry = zip(height, width)
        windows, expected = Window(*geometry), (places(*height), places(*width))
        if 0 in expected:
            with pytest.raises(ValueError, match="use a smaller kernel"):
                windows.output_size(size)
        else:
            assert windows.output_size(size) == expected, windows


@pytest.mark.parametrize(
    "size, sentence",
    [
        ((6, 9), r"spans .* = 2\*\(4 - 1\) \+ 1 = 7 but the padded height is 6 \+ 0 \+ 0 = 6"),
        ((7, 3), r"spans .* = 3\*\(3 - 1\) \+ 1 = 7 but the padded width is 3 \+ 1 \+ 2 = 6"),
    ],
)
def test_a_kernel_that_does_not_fit_is_refused_with_the_arithmetic(size, sentence):
    windows = Window.of((4, 3), padding=(0, 0, 1, 2), dilation=(2, 3))
    assert windows.output_size((7, 4)) == (1, 1)
    with pytest.raises(ValueError, match=sentence):
        windows.output_size(size)


@on_random_cases
def test_view_and_taps_read_what_the_equation_says(windows, x_shape):
    padded = integers(windows.padded_shape(x_shape))
    view = windows.view(padded)
    taps = list(windows.taps(padded))
    (kh, kw), (sh, sw), (dh, dw) = windows.kernel, windows.stride, windows.dilation
    oh, ow = windows.output_size(x_shape[2:])
    assert view.shape == (x_shape[1], kh, kw, oh, ow, x_shape[0])
    assert len(taps) == kh * kw
    for i, j, p, q in np.ndindex(kh, kw, oh, ow):
        expected = padded[:, p * sh + i * dh, q * sw + j * dw]
        np.testing.assert_array_equal(view[:, i, j, p, q], expected)
        np.testing.assert_array_equal(taps[i * kw + j][:, p, q], expected)


@on_random_cases
def test_col2im_is_the_transpose_of_im2col(windows, x_shape):
    padded = integers(windows.padded_shape(x_shape))
    im2col = windows.view(padded)
    columns, start = integers(im2col.shape), integers(padded.shape)
    total = start.copy()
    windows.col2im(columns, total)
    assert np.vdot(im2col, columns) == np.vdot(padded, total - start)


def check_from_taps(windows, x_shape, monkeypatch):
    """Where each entry is set exactly once, memory is not cleared first: here it is full of nan."""
    x = integers(x_shape)
    taps = list(windows.taps(windows.pad(x)))
    shares = [integers(tap.shape) for tap in taps]
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", lambda shape, dtype: np.full(shape, np.nan, dtype))
        dx = windows.from_taps(iter(shares), x_shape, x)
    assert dx.shape == x_shape
    assert sum(map(np.vdot, taps, shares)) == np.vdot(x, dx)


@on_random_cases
def test_from_taps_is_the_transpose_of_taps(windows, x_shape, monkeypatch):
    check_from_taps(windows, x_shape, monkeypatch)


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 7), (5, 8)])
@pytest.mark.parametrize("kernel, stride", [((2, 3), (2, 3)), ((2, 2), (2, 3)), ((1, 1), (2, 3))])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 0), (0, 1))])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (1, 2)])
def test_from_taps_of_windows_that_tile_or_nearly(
    kernel, stride, padding, dilation, size, monkeypatch
):
    check_from_taps(Window(kernel, stride, padding, dilation), (2, 3, *size), monkeypatch)


@on_random_cases
def test_slabs_of_rows_make_up_the_whole(windows, x_shape):
    padded = integers(windows.padded_shape(x_shape))
    view = windows.view(padded)
    columns, whole, by_slabs = integers(view.shape), 0 * padded, 0 * padded
    windows.col2im(columns, whole)
    for first in range(0, view.shape[3], 2):
        rows = slice(first, min(first + 2, view.shape[3]))
        part = view[:, :, :, rows]
        np.testing.assert_array_equal(windows.view(windows.slab(padded, rows)), part)
        windows.col2im(columns[:, :, :, rows], windows.slab(by_slabs, rows))
    np.testing.assert_array_equal(by_slabs, whole)


@pytest.mark.parametrize("value", [0, -np.inf])
@on_random_cases
def test_pad_puts_the_value_around_and_unpad_is_its_transpose(windows, x_shape, value):
    x, y = integers(x_shape), integers(windows.padded_shape(x_shape))
    padded = windows.pad(x, value)
    around = np.pad(x, [(0, 0), (0, 0), *windows.padding], constant_values=value)
    np.testing.assert_array_equal(padded, around.transpose(1, 2, 3, 0))
    assert padded.flags.c_contiguous
    np.testing.assert_array_equal(windows.unpad(padded), x)
    assert np.shares_memory(windows.unpad(y), y)
    assert np.vdot(windows.pad(x), y) == np.vdot(x, windows.unpad(y))


def test_what_lies_batch_last_already_is_not_copied():
    x = batch_first(integers((3, 4, 5, 2)))
    assert x.shape == (2, 3, 4, 5)
    assert np.shares_memory(batch_last(x), x)
    assert np.shares_memory(Window.of(2).pad(x), x)
    in_c_order = np.ascontiguousarray(x)
    assert batch_last(in_c_order).flags.c_contiguous
    np.testing.assert_array_equal(batch_first(batch_last(in_c_order)), x)


@pytest.mark.parametrize(
    "arguments, default_stride, text",
    [
        ([(5, 5), (1, 1), (0, 0)], (1, 1), "5"),
        ([(2, 2), (2, 2), (0, 0)], (2, 2), "2"),
        ([(2, 3), (1, 1), (1, 1)], (2, 3), "(2, 3), stride=1, padding=1"),
        ([3, (2, 1), (0, 1), 2], (1, 1), "3, stride=(2, 1), padding=(0, 1), dilation=2"),
        ([3, 1, (1, 1, 2, 2)], (1, 1), "3, padding=(1, 2)"),
        ([3, 1, [1, 1, 0, 1]], (1, 1), "3, padding=(1, 1, 0, 1)"),
        ([3, 1, "same", (1, 2)], (1, 1), "3, padding=(1, 2), dilation=(1, 2)"),
        ([(2, 3), 1, "same"], (1, 1), "(2, 3), padding=(0, 1, 1, 1)"),
    ],
)
def test_arguments_leave_out_the_defaults(arguments, default_stride, text):
    windows = Window.of(*arguments)
    assert windows.arguments(default_stride) == text
    again = eval(f"Window.of({text})", {"Window": Window})
    assert again == windows or default_stride != (1, 1)


@pytest.mark.parametrize("kernel", range(1, 6))
@pytest.mark.parametrize("dilation", range(1, 4))
def test_same_padding_keeps_the_size_and_puts_the_odd_pixel_last(kernel, dilation):
    windows = Window.of((kernel, 1), padding="same", dilation=dilation)
    (top, bottom), (left, right) = windows.padding
    assert windows.output_size((7, 9)) == (7, 9)
    assert bottom - top == dilation * (kernel - 1) % 2
    assert (left, right) == (0, 0)


@pytest.mark.parametrize("size", range(1, 9))
def test_an_extended_window_reaches_every_stride_that_begins_in_the_image(size):
    """Each start before the end of the image, from the first on, gets an output, if the last one
    leaves out less than a stride."""
    for kernel, stride, before, after, dilation in itertools.product(
        (1, 2, 3), (1, 2, 3, 4), (0, 1, 2), (0, 1, 2), (1, 2)
    ):
        windows = Window.of((kernel, 1), (stride, 1), (before, after, 0, 0), (dilation, 1))
        span, padded = windows.span[0], before + size + after
        if max(before, after) >= span or padded - span <= -stride:
            continue
        starts = [p for p in range(0, before + size, stride) if p - stride + span < padded]
        extended = windows.extended((size, 1))
        assert extended.output_size((size, 1)) == (len(starts), 1)
        assert extended.padding[0][0] == before and extended.padding[0][1] >= after
