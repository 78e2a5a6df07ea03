"""Products of matrices by a cuBLAS handle of our own, through ctypes, because CuPy refuses to call
cuBLAS while a stream is captured (its issue 6290). No GPU has run this yet.

cuBLAS stores matrices by columns. Memory that holds c = a @ b by rows holds c.T = b.T @ a.T by
columns, so b is its first operand.

Source: NVIDIA, cuBLAS documentation, cublas<t>gemmStridedBatched and cublasSetWorkspace.
"""

import ctypes
import sys
from typing import Any

WORKSPACE = 32 << 20  # bytes, what NVIDIA recommends for its largest GPUs


class Multiplier:
    """a @ b for matrices or stacks of them, in `stream`. What is recorded with it needs it later:
    its handle and workspace live as long as it does."""

    def __init__(self, xp: Any, stream: Any) -> None:
        one = xp.ones((1, 1))
        one @ one  # has CuPy load the library, wherever it lies
        version = xp.cuda.runtime.runtimeGetVersion() // 1000
        name = f"cublas64_{version}.dll" if sys.platform == "win32" else f"libcublas.so.{version}"
        self.xp, self.cublas = xp, ctypes.CDLL(name)
        self.handle, self.workspace = ctypes.c_void_p(), xp.cuda.alloc(WORKSPACE)
        self._call("cublasCreate_v2", ctypes.byref(self.handle))
        self._call("cublasSetStream_v2", self.handle, ctypes.c_void_p(stream.ptr))
        size = ctypes.c_size_t(WORKSPACE)  # only now: a new stream takes the workspace away
        self._call("cublasSetWorkspace_v2", self.handle, ctypes.c_void_p(self.workspace.ptr), size)

    def __call__(self, a: Any, b: Any, out: Any = None) -> Any:
        a, b = (x if _rows(x) else self.xp.ascontiguousarray(x) for x in (a, b))
        (*stack, m, k), n = a.shape, b.shape[-1]
        c = self.xp.empty((*stack, m, n), a.dtype) if out is None else out
        if (rows := _rows(c)) is None or rows[0]:
            c[...] = self(a, b)
            return c
        (transposed_a, row_a), (transposed_b, row_b), (_, row_c) = _rows(a), _rows(b), rows
        kind, number = {4: ("S", ctypes.c_float), 8: ("D", ctypes.c_double)}[a.itemsize]
        one, zero = ctypes.byref(number(1)), ctypes.byref(number(0))
        self._call(
            f"cublas{kind}gemmStridedBatched",
            *(self.handle, transposed_b, transposed_a, n, m, k),
            *(one, _address(b), row_b, _step(b), _address(a), row_a, _step(a)),
            *(zero, _address(c), row_c, _step(c), len(c) if stack else 1),
        )
        return c

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self.cublas, name)(*arguments):
            raise RuntimeError(f"{name} failed with status {status}")


def _rows(x: Any) -> Any:
    """(whether they are the columns of x, numbers from one to the next) for rows that each lie in
    one piece; None if there are none."""
    for are_columns, (far, near) in enumerate((x.strides[-2:], x.strides[:-3:-1])):
        length = x.shape[-2] if are_columns else x.shape[-1]
        if near == x.itemsize and far % near == 0 and far >= length * near:
            return are_columns, far // near
    return None


def _address(x: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data.ptr)


def _step(x: Any) -> ctypes.c_longlong:
    """Numbers from one matrix of a stack to the next."""
    return ctypes.c_longlong(x.strides[0] // x.itemsize if x.ndim == 3 else 0)
