"""A double of the library cuBLAS on the host: `false_cublas()` takes the place of ctypes.CDLL(...).

As in a library that ctypes has opened, nothing says what a function takes: arguments go through
ctypes to C, and are read there as the header of cuBLAS 12 declares them. Products then read and
write the memory at the addresses that they are given. Whatever is wrong makes a function return a
status other than 0.
"""

import ctypes
from types import SimpleNamespace

import numpy as np
import strict_cupy

HANDLE = 0x7FFF_1234_5678  # more than 32 bits, as addresses have
NOT_SUPPORTED = 15
ADDRESS, INT, LENGTH = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
MATRIX = ADDRESS, INT, LENGTH
GEMM = (ADDRESS, *[INT] * 5, ADDRESS, *MATRIX, *MATRIX, ADDRESS, *MATRIX, INT)


def false_cublas():
    """With `stream` and `workspace`, what was set last, and `products`, how many were started."""
    calls = SimpleNamespace(stream=None, workspace=None, products=0)

    def create(handle):
        ctypes.c_void_p.from_address(handle).value = HANDLE

    def set_stream(handle, stream):
        assert handle == HANDLE
        calls.stream, calls.workspace = stream, None

    def set_workspace(handle, workspace, size):
        assert handle == HANDLE and workspace % 256 % 16 == 0
        calls.workspace = size

    def gemm(dtype, handle, op_a, op_b, m, n, k, alpha, *rest):
        """C = A B, all by columns: so memory by rows holds C.T = B.T A.T."""
        first, second, (beta, *result, count) = rest[:3], rest[3:6], rest[6:]
        assert handle == HANDLE and calls.workspace == 32 << 20 and {op_a, op_b} <= {0, 1}
        assert calls.stream == strict_cupy.cupy.cuda.get_current_stream().ptr
        assert (_numbers(alpha, dtype), _numbers(beta, dtype)) == (1, 0)
        a = _by_rows(*first, dtype, count, k, m, op_a)
        b = _by_rows(*second, dtype, count, n, k, op_b)
        c = _by_rows(*result, dtype, count, n, m, 0)
        assert not np.may_share_memory(c, a) and not np.may_share_memory(c, b)
        calls.products += 1

        def multiply():
            with np.errstate(all="ignore"):
                np.matmul(b, a, out=c)

        strict_cupy.do(multiply)

    calls.cublasCreate_v2 = _function(create, ADDRESS)
    calls.cublasSetStream_v2 = _function(set_stream, ADDRESS, ADDRESS)
    calls.cublasSetWorkspace_v2 = _function(set_workspace, ADDRESS, ADDRESS, ctypes.c_size_t)
    for letter, dtype in {"S": np.float32, "D": np.float64}.items():
        product = _function(lambda *arguments, dtype=dtype: gemm(dtype, *arguments), *GEMM)
        setattr(calls, f"cublas{letter}gemmStridedBatched", product)
    return calls


def _function(python, *types):
    """`python` behind a C function that ctypes knows no types of."""

    def call(*arguments):
        try:
            python(*arguments)
        except Exception:  # C cannot raise it
            return NOT_SUPPORTED
        return 0

    typed = ctypes.CFUNCTYPE(INT, *types)(call)
    function = ctypes.CFUNCTYPE(INT)(ctypes.cast(typed, ADDRESS).value)
    function.typed = typed  # to keep it
    return function


def _numbers(address, dtype, count=1):
    return np.frombuffer((ctypes.c_char * (count * dtype().itemsize)).from_address(address), dtype)


def _by_rows(address, row, stack, dtype, count, rows, columns, transposed):
    """What lies by columns at the address, transposed: (count, rows, columns)."""
    size = dtype().itemsize
    assert address % size == 0 and row >= (rows if transposed else columns)
    strides = (1, row) if transposed else (row, 1)
    last = (count - 1) * stack + (rows - 1) * strides[0] + (columns - 1) * strides[1]
    return np.lib.stride_tricks.as_strided(
        _numbers(address, dtype, last + 1),
        (count, rows, columns),
        [size * stride for stride in (stack, *strides)],
    )
