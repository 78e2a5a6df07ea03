"""A strict double of CuPy on the host: it computes with NumPy and refuses what CuPy 14 refuses.

`cupy` takes the place of the module, `ndarray` that of its class. What NumPy accepts and CuPy does
not raises the same type of error here. Where CuPy accepts it but differs, so does the
double: results are C-ordered, those without axes stay arrays, indices out of range wrap around, and
floats below the normal ones become 0 in ufuncs.
It refuses more than CuPy in four places: an array of the host as an index or in `sum` or
`zeros_like`, which CuPy uploads, or leaves to NumPy, unseen; NumPy's own functions, which CuPy
takes over; writing to a view of `as_strided` whose entries may share memory; and all names and
keywords that are not in the tables below.

A stream can capture: operations are then recorded with their arrays, done when the graph is
launched, and refused if a capture refuses them.

`counts` counts the copies from the device (reads), those to it (uploads) and what else waits for
it. Inside `no_transfers()` each of them raises Transfer.

Source: "Differences between CuPy and NumPy" and the API reference of CuPy 14.2, docs.cupy.dev.
"""

import contextlib
import functools
import operator
import weakref
from types import SimpleNamespace

import numpy as np

IN_PLACE = {  # operators that come as x + y and as x += y, and their ufuncs
    **{"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide"},
    **{"floordiv": "floor_divide", "mod": "remainder", "pow": "power"},
    **{"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"},
}
OPERATORS = IN_PLACE | {
    **{"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater"},
    **{"ge": "greater_equal", "neg": "negative", "abs": "absolute", "invert": "invert"},
}
UFUNCS = {
    *OPERATORS.values(),
    "exp",
    "isfinite",
    "isnan",
    "log",
    "maximum",
    "minimum",
    "rint",
    "sqrt",
}
UFUNCS |= {"logical_and", "logical_not", "logical_or", "square", "tanh"}
COMPUTING = {  # functions of an array, or of a list of them: the keywords that they take
    **dict.fromkeys(("max", "min", "any", "all"), ("axis", "keepdims")),
    **dict.fromkeys(("sum", "prod", "mean", "argmax", "argmin"), ("axis", "dtype", "keepdims")),
    **dict.fromkeys(("concatenate", "stack", "repeat", "take"), ("axis",)),
    **dict.fromkeys(("ascontiguousarray", "clip", "dot"), ()),
}
WAITING = dict.fromkeys(("argwhere", "bincount", "nonzero", "unique"), ())
KEEPING = {  # what makes a view, or a copy that lies in memory as x does
    **dict.fromkeys(("empty_like", "ones_like", "zeros_like"), ("dtype",)),
    **dict.fromkeys(("broadcast_to", "expand_dims", "moveaxis", "ravel", "reshape"), ()),
    **dict.fromkeys(("squeeze", "swapaxes", "transpose"), ()),
    **{"astype": ("order", "copy"), "copy": ("order",), "view": ()},
}
METHODS = """all any argmax argmin astype copy dot max mean min nonzero prod ravel repeat reshape
squeeze sum swapaxes take transpose view""".split()
CREATING = ("arange", "empty", "full", "ones", "zeros")
CONSTANTS = ("bool_", "float32", "float64", "inf", "int32", "int64", "nan", "newaxis", "uint8")
ATTRIBUTES = ("dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides")
READING = "bool complex float format int repr str".split()  # as __bool__ and so on
READING = [*(f"__{name}__" for name in READING), "item", "tobytes", "tolist"]

counts = SimpleNamespace(reads=0, uploads=0, waits=0)
_forbidden = []
_recording = None  # the graph that is being recorded
_allocators, _streams = [], []  # in use, the innermost last


class Transfer(AssertionError):
    """An array moved between host and device, or the host waited, where neither may be."""


@contextlib.contextmanager
def no_transfers():
    _forbidden.append(True)
    try:
        yield
    finally:
        _forbidden.pop()


class Graph:
    """What a stream recorded: operations with their very arrays, in order. As on a GPU, recording
    does none of the work, results hold garbage until the launch, and the memory is the pool's."""

    def __init__(self):
        if not _allocators:
            raise RuntimeError("the memory of a capture must come from a pool of its own")
        self.nodes, self.memory, self.pool = [], [], weakref.ref(_allocators[-1])

    def launch(self, stream):
        if self.pool() is None:
            raise RuntimeError("the pool of the graph's memory is gone")
        with np.errstate(all="ignore"):
            for node in self.nodes:
                node()


def do(node):
    """Does the work of `node`, or records it."""
    node() if _recording is None else _recording.nodes.append(node)


def _new(wrap, compute):
    """The result of compute(), wrapped; while recording, an array that a launch fills."""
    result = wrap(compute())
    if _recording is not None and not isinstance(result, tuple):
        memory = result._memory
        _recording.nodes.append(lambda: np.copyto(memory, compute()))
        memory.view(np.uint8 if memory.ndim else memory.dtype).fill(1)
    return result


class Stream:
    null = None

    def __init__(self, non_blocking=False):
        self.ptr = id(self) if non_blocking else 0

    def __enter__(self):
        _streams.append(self)

    def __exit__(self, *_):
        _streams.pop()

    def synchronize(self):
        _count("waits", "synchronize")

    def begin_capture(self):
        global _recording
        if _streams[-1] is not self or self.ptr == 0:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: not the stream in use")
        _recording = Graph()

    def end_capture(self):
        global _recording
        graph, _recording = _recording, None
        return graph


class MemoryPool:
    def malloc(self, size):
        raise NotImplementedError("the double has no memory of its own")


def _alloc(size):
    memory = np.empty(size, np.uint8)
    return SimpleNamespace(ptr=memory.ctypes.data, memory=memory)


@contextlib.contextmanager
def _using_allocator(malloc):
    _allocators.append(malloc.__self__)
    try:
        yield
    finally:
        _allocators.pop()


def _count(kind, what):
    if _recording is not None:
        raise RuntimeError(f"cudaErrorStreamCaptureUnsupported: {what}")
    if _forbidden:
        raise Transfer(f"{what} is one of the {kind}")
    setattr(counts, kind, getattr(counts, kind) + 1)


class ndarray:
    """An array of the device; `_memory` is the NumPy array that plays its memory."""

    __module__ = "cupy"
    __slots__ = ("_memory",)
    __array_ufunc__ = None  # NumPy's operators then leave the work to those of this class
    __hash__ = None

    def __init__(self, memory):
        self._memory = memory
        if _recording is not None:
            _recording.memory.append(memory)

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed; use get()")

    def __array_function__(self, function, *args):
        raise TypeError(f"numpy.{function.__name__} got an array of the device")

    def __len__(self):
        return len(self._memory)

    def __deepcopy__(self, memo):
        return self.copy()

    def __matmul__(self, other):
        return _matmul(self, other)

    def __rmatmul__(self, other):
        return _matmul(other, self)

    def __getitem__(self, key):
        given = key
        key, is_copy = _numpy_key(self, given)
        if not is_copy:
            return ndarray(self._memory[key])
        return _new(_result, lambda: self._memory[_numpy_key(self, given, False)[0]])

    def __setitem__(self, key, value):
        if isinstance(value, (np.ndarray, list)):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        value, _ = _operand(value), _numpy_key(self, key)

        def assign():
            self._memory[_numpy_key(self, key, False)[0]] = value

        do(assign)

    def get(self):
        _count("reads", "get")
        return np.array(self._memory, order="C")


def _numpy_key(x, key, counted=True):
    """(the key for NumPy, whether it copies what that names)."""
    parts, is_copy = list(key) if isinstance(key, tuple) else [key], False
    for i, part in enumerate(parts):
        if type(part) is ndarray:
            is_copy, parts[i] = True, part._memory
            if part.dtype == bool:
                if counted:
                    _count("waits", "a mask as an index")
            elif any(before is None or before is Ellipsis for before in parts[:i]):
                raise NotImplementedError("an array as an index after None or Ellipsis")
            else:
                parts[i] = part._memory % x.shape[i]
        elif isinstance(part, (np.ndarray, list)):
            raise TypeError("an array of the host as an index is uploaded unseen")
    if not any(part is Ellipsis for part in parts):
        parts.append(Ellipsis)  # makes NumPy keep an array without axes
    return tuple(parts), is_copy


def _array(x):
    if type(x) is not ndarray:
        raise TypeError(f"expected cupy.ndarray, got {type(x)}")
    return x._memory


def _operand(x):
    """What NumPy computes with in place of an array of the device or a scalar."""
    return x if isinstance(x, (int, float, complex, np.generic)) else _array(x)


def _argument(x):
    """The same, of what may also be a shape, an axis or a type."""
    return _operand(x) if isinstance(x, (ndarray, np.ndarray)) else x


def _result(memory):
    if isinstance(memory, tuple):
        return tuple(map(_result, memory))
    return ndarray(np.asarray(memory, order="C"))


def _check(name, options, keywords):
    for option in options.keys() - set(keywords):
        raise TypeError(f"{name}() got an unexpected keyword argument {option!r}")


def _ufunc(name):
    def call(*args, out=None, **options):
        _check(name, options, ("dtype", "casting"))
        if out is not None:
            options["out"] = _array(out)
        operands = [*map(_operand, args)]

        def compute():
            with np.errstate(all="ignore"):
                return _flushed(getattr(np, name)(*operands, **options))

        if out is None:
            return _new(_result, compute)
        do(compute)
        return out

    return call


def _flushed(y):
    """y, with 0 for float32 numbers below the normal ones, as CuPy's kernels are compiled."""
    if y.dtype == np.float32:
        is_small = (np.abs(y) < np.finfo(np.float32).tiny) & (y != 0)
        if is_small.any():
            y = np.asarray(y)
            y[is_small] *= 0
    return y


def _function(name):
    function = getattr(np.ndarray, name, None) or getattr(np, name)
    keywords = (COMPUTING | WAITING | KEEPING)[name]
    wrap = ndarray if name in KEEPING else _result
    wraps_around = {"mode": "wrap"} if name == "take" else {}

    def call(x, *args, **options):
        _check(name, options, keywords)
        if name in WAITING:
            _count("waits", name)
        x = list(map(_array, x)) if isinstance(x, (list, tuple)) else _array(x)
        with np.errstate(all="ignore"):
            given = [*map(_argument, args)]
            compute = functools.partial(function, x, *given, **options, **wraps_around)
            result = compute()
            if isinstance(x, list) or not (name in KEEPING and np.may_share_memory(result, x)):
                return _new(wrap, compute) if not name.startswith("empty") else wrap(result)
            return wrap(result)

    return call


def _creating(name):
    def call(*args, **options):
        _check(name, options, ("dtype",))
        if name == "full" and isinstance(args[1], np.ndarray):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        given = [*map(_argument, args)]
        if name == "empty":
            return ndarray(np.empty(*given, **options))
        return _new(ndarray, lambda: getattr(np, name)(*given, **options))

    return call


def _reading(name):
    def call(self, *args):
        _count("reads", name)
        if name == "item" and args:
            raise TypeError("item() takes exactly 0 positional arguments")
        return getattr(self._memory, name)(*args)

    return call


def _as_array(x):
    if type(x) is ndarray:
        return x
    _count("uploads", "an array of the host")
    host = np.asarray(x)
    return ndarray(np.array(host, order="F" if host.flags.fnc else "C"))


def _matmul(x, y, out=None):
    if _recording is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is unsupported")
    x, y = _array(x), _array(y)
    with np.errstate(all="ignore"):
        if out is None:
            return _result(np.matmul(x, y))
        if np.shares_memory(_array(out), x) or np.shares_memory(_array(out), y):
            raise ValueError("out is one of the operands")
        np.matmul(x, y, out=_array(out))
    return out


def _where(*args):
    if len(args) == 1:
        _count("waits", "where of one argument")
    operands = [*map(_operand, args)]
    return _new(_result, lambda: np.where(*operands))


def _as_strided(x, shape=None, strides=None):
    writeable, reach = True, 1  # bytes that the axes of smaller strides span
    for stride, size in sorted(zip(strides, shape)):
        writeable &= size == 1 or stride >= reach or x.size == 0
        reach += stride * (size - 1)
    view = np.lib.stride_tricks.as_strided(_array(x), shape, strides, writeable=bool(writeable))
    return ndarray(view)


Stream.null = Stream()
_streams.append(Stream.null)
cupy = SimpleNamespace(
    __version__="14.2.0",
    ndarray=ndarray,
    asarray=_as_array,
    matmul=_matmul,
    where=_where,
    lib=SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=_as_strided)),
    cuda=SimpleNamespace(
        runtime=SimpleNamespace(
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 12090,
            getDevice=lambda: 0,
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda number: {"name": b"a double of CuPy"},
            memGetInfo=lambda: (1 << 30, 2 << 30),
        ),
        memory=SimpleNamespace(OutOfMemoryError=type("OutOfMemoryError", (MemoryError,), {})),
        get_current_stream=lambda: _streams[-1],
        alloc=_alloc,
        Stream=Stream,
        MemoryPool=MemoryPool,
        using_allocator=_using_allocator,
    ),
    **{name: getattr(np, name) for name in CONSTANTS},
    **{name: _creating(name) for name in CREATING},
    **{name: _ufunc(name) for name in UFUNCS},
    **{
        name: _function(name)
        for name in COMPUTING | WAITING | KEEPING
        if name not in ("astype", "view")
    },
)
cupy.copy = lambda x: x.copy("K")
cupy.array = lambda x: _as_array(x).copy("K")
for _name, _ufunc_name in OPERATORS.items():
    _call = getattr(cupy, _ufunc_name)
    setattr(ndarray, f"__{_name}__", lambda *operands, call=_call: call(*operands))
    if _name in IN_PLACE:
        setattr(ndarray, f"__r{_name}__", lambda x, y, call=_call: call(y, x))
        setattr(ndarray, f"__i{_name}__", lambda x, y, call=_call: call(x, y, out=x))
for _name in METHODS:
    setattr(ndarray, _name, _function(_name))
for _name in READING:
    setattr(ndarray, _name, _reading(_name))
for _name in ATTRIBUTES:
    setattr(ndarray, _name, property(operator.attrgetter(f"_memory.{_name}")))
FLAGS = "c_contiguous", "f_contiguous", "owndata", "fnc", "forc"
ndarray.flags = property(
    lambda x: SimpleNamespace(**{name: getattr(x._memory.flags, name) for name in FLAGS})
)
ndarray.T = property(lambda x: ndarray(x._memory.T))
ndarray.data = property(
    lambda x: SimpleNamespace(ptr=x._memory.__array_interface__["data"][0])  # where it lies
)
