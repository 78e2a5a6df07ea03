"""Counts what the double of CuPy would have to start on a GPU: kernels, fills and products.

A launch is a call of the double that computes, fills or copies. Views and empty memory are none; a
`reshape` or an `astype` is one if it has to copy. A product is one, and one more for each operand
or result that CuPy has to copy first: of two axes, unless its rows or columns are contiguous; of
more, unless all of it is. Copies between host and device do not count.
"""

import contextlib
from unittest import mock

import numpy as np
import strict_cupy
from strict_cupy import cupy, ndarray

VIEWS = "asarray broadcast_to empty empty_like expand_dims moveaxis squeeze swapaxes transpose view"
MAYBE_COPIES = "__getitem__ ascontiguousarray astype ravel reshape"


@contextlib.contextmanager
def launches():
    """A list of the names of all launches in the block, in order."""
    started = []

    def counted(name, call):
        def launch(*args, **options):
            result = call(*args, **options)
            started.extend([name] * _launches(name, args, options, result))
            return result

        return launch

    operators = {f"__{side}{name}__" for name in strict_cupy.OPERATORS for side in ("", "i", "r")}
    methods = {*operators, *strict_cupy.METHODS, "__getitem__", "__setitem__", "__matmul__"}
    with contextlib.ExitStack() as stack:
        for owner, names in ((cupy, set(vars(cupy))), (ndarray, methods)):
            for name in sorted(names & set(vars(owner))):
                call = getattr(owner, name)
                if callable(call) and not isinstance(call, type):
                    stack.enter_context(mock.patch.object(owner, name, counted(name, call)))
        yield started


def _launches(name, args, options, result):
    if name in VIEWS.split():
        return 0
    if name in MAYBE_COPIES.split():
        return not np.may_share_memory(result._memory, args[0]._memory)
    if name in ("matmul", "__matmul__"):
        matrices = [*args, *([options["out"]] if options.get("out") is not None else [])]
        return 1 + sum(not _is_taken_as_it_lies(matrix._memory) for matrix in matrices)
    return 1


def _is_taken_as_it_lies(x):
    return x.flags.c_contiguous or (x.ndim == 2 and x.flags.f_contiguous)
