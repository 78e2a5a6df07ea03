"""What makes the products of a convolution fast does not change their results."""

import sys

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding

from minicnn import Conv2D
from minicnn.layers import products
from minicnn.layers.products import aligned_empty


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    "limit, length, width",
    [
        (76_800, 640, 640),
        (76_799, 640, 128),
        (10_000, 640, 64),
        (100, 640, 640),
        (50_000, 512, 256),
        (50_000, 650, 650),
    ],
)
def test_a_product_is_the_same_in_pieces(limit, length, width, given, monkeypatch):
    """In pieces as wide as the limit allows, but of one width, and whole if they were narrow."""
    rng, shapes, matmul = np.random.default_rng(0), [], np.matmul
    monkeypatch.setitem(products.PIECE, "cpu", limit)
    monkeypatch.setattr(
        np, "matmul", lambda a, b, out: (shapes.append(b.shape[-1]), matmul(a, b, out=out))[1]
    )
    weight, columns = rng.standard_normal((2, 3, 40)), rng.standard_normal((2, 40, length))
    out = np.empty((2, 3, length)) if given else None
    product = products.product(weight, columns, out=out)
    assert shapes == [width]
    assert out is None or product is out
    exact, size = (
        np.einsum("gmk,gkl->gml", *factors)
        for factors in ((weight, columns), (np.abs(weight), np.abs(columns)))
    )
    assert_equal_but_for_rounding(product, exact, size)


@pytest.mark.parametrize(
    "limit, length, count",  # of multiplications, in all and in a piece; of pieces
    [
        (120 * 3600, 3600, 1),
        (120 * 3599, 3600, 2),
        (120 * 1799, 3600, 3),
        (120 * 520, 3600, 1),  # 7 pieces would be of different lengths
        (120 * 512, 512 * 5, 5),
        (120 * 511, 512 * 5, 1),  # too short
    ],
)
def test_a_sum_of_products_is_the_same_in_pieces(limit, length, count, monkeypatch):
    rng, shapes, matmul = np.random.default_rng(0), [], np.matmul
    monkeypatch.setitem(products.PIECE, "cpu", limit)
    monkeypatch.setattr(
        np, "matmul", lambda a, b, out: (shapes.append(a.shape[-1]), matmul(a, b, out=out))[1]
    )
    a, b = rng.standard_normal((2, 10, length)), rng.standard_normal((2, length, 12))
    found = products.sum_of_products(a, b)
    assert shapes == [length // count]
    exact, size = (
        np.einsum("gkl,glm->gkm", *factors) for factors in ((a, b), (np.abs(a), np.abs(b)))
    )
    assert_equal_but_for_rounding(found, exact, size)


def test_a_sum_of_no_products_is_zero():
    found = products.sum_of_products(np.ones((1, 3, 0)), np.ones((1, 0, 2)))
    np.testing.assert_array_equal(found, np.zeros((1, 3, 2)))


@pytest.mark.parametrize(
    "libraries, in_pieces",
    [
        ([("blas", "SkylakeX")], True),
        ([("blas", "SapphireRapids"), ("blas", "Haswell")], True),
        ([("blas", "Haswell"), ("blas", "SkylakeX")], False),  # NumPy's is the first
        ([("openmp", None), ("blas", "Zen")], False),
        ([("blas", None)], False),  # MKL, say
        ([("openmp", None)], False),
        ([], False),
    ],
)
def test_products_are_in_pieces_where_kernels_copy_no_small_matrix(libraries, in_pieces):
    found = [
        {"user_api": api} | ({"architecture": kernels} if kernels else {})
        for api, kernels in libraries
    ]
    assert products.piece_limit(found) == (1_000_000 if in_pieces else sys.maxsize)


@pytest.mark.parametrize("oh", [3, 4])
@pytest.mark.parametrize("stride", [1, (2, 1)])
@pytest.mark.parametrize("groups, channels", [(1, 16), (1, 17), (2, 32), (2, 34)])
def test_two_rows_together_give_what_one_gives(oh, stride, groups, channels, monkeypatch):
    """Where rows are even and channels few they are taken together, and nowhere else."""
    rng = np.random.default_rng(0)
    layer = Conv2D(2, channels, (7, 2), stride, groups=groups, rng=rng).astype(np.float64)
    sh = layer.window.stride[0]
    x = rng.standard_normal((2, 2, 7 + (oh - 1) * sh, 4))
    dy = rng.standard_normal(layer.output_shape(x.shape))
    counts = []

    def results(layer, x, dy):
        y, saved = layer.forward(x)
        dx, grads = layer.backward(dy, saved)
        counts.append(products.choose_rows(layer.window, channels // groups, oh, x).count)
        return y, dx, grads["weight"], grads["bias"]

    found = results(layer, x, dy)
    monkeypatch.setattr(products, "FEW_CHANNELS", 0)
    one_by_one = results(layer, x, dy)
    for compared in zip(
        found, one_by_one, results(layer.map_arrays(np.abs), np.abs(x), np.abs(dy))
    ):
        assert_equal_but_for_rounding(*compared)
    assert counts == [2 if oh == 4 and channels // groups <= 16 else 1, 1, 1]


def test_numbers_are_looked_at_only_where_two_rows_would_be_taken(monkeypatch):
    looked = []
    monkeypatch.setattr(products, "all_finite", lambda x: looked.append(x) or True)
    for channels, rows, times in (16, 4, 2), (17, 4, 0), (16, 3, 0):
        looked.clear()
        layer = Conv2D(1, channels, 3)
        x = np.ones((1, 1, rows + 2, 4), np.float32)
        y, saved = layer.forward(x)
        layer.backward(y, saved)
        assert len(looked) == times


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_that_begins_with_a_line_of_the_cache_if_it_is_large(dtype):
    few, many = 1000, products.WORTH_ALIGNING // np.dtype(dtype).itemsize
    for size in (0, 1, few, many, many + 1):
        memory = aligned_empty(size, np.ones((), dtype))
        memory[...] = 1
        assert (memory.shape, memory.dtype) == ((size,), dtype)
        assert size <= few or memory.ctypes.data % 64 == 0
