"""The protocol in layers/base.py is enough to write a layer that follows it."""

import copy
import pickle
import sys
import textwrap

import numpy as np
import pytest
import strict_cupy

from minicnn import (
    SGD,
    Flatten,
    Layer,
    Linear,
    Sequential,
    Tanh,
    check_gradients,
    fit,
)
from minicnn.backend import Array, array_module, gpu_problem, to_device
from minicnn.checks import check_gradient, check_input
from minicnn.datasets import Dataset
from minicnn.layers import base


class LeakyReLU(Layer):
    """Any shape in, the same shape out: y = x where x > 0, else slope * x; `slope` is learned.

    params: slope (), `initial` at first.
    """

    def __init__(self, initial: float = 0.01) -> None:
        super().__init__()
        self.initial = initial
        self.params["slope"] = np.array(initial, np.float32)

    def forward(self, x: Array) -> tuple[Array, Array]:
        check_input(self, x)
        slope = self.params["slope"].astype(x.dtype, copy=False)
        return array_module(x).where(x > 0, x, slope * x), x

    def backward(self, dy: Array, saved: Array, need_dx: bool = True) -> base.Result:
        x = saved
        check_gradient(self, dy, x.shape, x)
        xp = array_module(x)
        slope = self.params["slope"].astype(x.dtype, copy=False)
        grads = {"slope": xp.where(x > 0, 0, dy * x).sum()}
        return (xp.where(x > 0, dy, slope * dy) if need_dx else None), grads


class NoisyCentering(Layer):
    """x (N, D) -> y: the mean of the batch off, and `amount` of noise on; state and a key in one.

    For inference there is no noise, and the mean is the running one.
    """

    mixes_images = True

    def __init__(self, features: int, amount: float = 0.1) -> None:
        super().__init__()
        self.features, self.amount, self.key = features, amount, (0,)
        self.state["mean"] = np.zeros(features, np.float32)
        self.state["steps"] = np.zeros((), np.int64)

    def at(self, key: base.Key) -> "NoisyCentering":
        same = copy.copy(self)
        same.key = key
        return same

    def __call__(self, x: Array) -> Array:
        check_input(self, x)
        return x - self.state["mean"].astype(x.dtype, copy=False)

    def forward(self, x: Array) -> tuple[Array, Array]:
        check_input(self, x)
        noise = np.random.default_rng(self.key).standard_normal(x.shape).astype(x.dtype)
        mean = x.mean(axis=0)
        return x - mean + self.amount * array_module(x).asarray(noise), mean

    def backward(self, dy: Array, saved: Array, need_dx: bool = True) -> base.Result:
        return (dy - dy.mean(axis=0) if need_dx else None), {}

    def updates(self, saved: Array) -> dict[str, Array]:
        old = self.state["mean"]
        mean = (0.5 * old + 0.5 * saved).astype(old.dtype)
        return {"mean": mean, "steps": self.state["steps"] + 1}


def told():
    """The layer of the docstring, from its text."""
    doc = base.__doc__
    start, end = doc.index("    import numpy"), doc.index("`check_gradients(Scale")
    names = {}
    exec(textwrap.dedent(doc[start:end]), names)
    return names["Scale"]


LAYERS = {
    "as told": lambda: told()(4),
    "LeakyReLU": lambda: LeakyReLU(0.1),
    "NoisyCentering": lambda: NoisyCentering(4),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]()


def test_the_checker_finds_nothing_and_leaves_nothing_out(layer):
    inference = layer.astype(np.float64) if layer.state else None
    x = np.random.default_rng(0).standard_normal((3, 4))
    report = check_gradients(layer, x, inference=inference)
    left_out = ["images_apart, batch_size (mixes_images is True)"] if layer.mixes_images else []
    assert report.ok and list(report.unchecked) == left_out, report


def test_the_repr_shows_the_arguments_of_the_constructor():
    assert repr(told()(4)) == "Scale(features=4)"
    assert repr(LeakyReLU()) == "LeakyReLU(initial=0.01)"

    class Odd(Layer):
        def __init__(self, size, table, rng=None, *, name="a"):
            super().__init__()
            self.table, self.name = table, name

    assert repr(Odd(3, np.ones((2, 3)), name="b")) == (
        "Odd(table=an array of float64 (2, 3), name='b')"
    )
    assert repr(Layer()) == "Layer()"


def test_messages_name_the_layer():
    with pytest.raises(ValueError, match=r"^Scale\(features=4\) expected x \(N, 4\), got \(2, 3\)"):
        told()(4)(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"^LeakyReLU\(initial=0.01\) expected x in float32"):
        LeakyReLU()(np.ones((2, 3), int))


def test_it_is_copied_cast_and_saved_like_any_other(layer):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(LeakyReLU(0.1)))):
        assert other.arrays.keys() and repr(other).startswith(type(other).__name__)
    double = layer.astype(np.float64)
    assert {a.dtype for a in double.arrays.values() if a.dtype.kind == "f"} == {np.dtype(float)}
    assert layer.dtype == np.float32
    assert double(x).dtype == layer(x).dtype == np.float32
    assert layer(x.astype(np.float64)).dtype == np.float64
    double.load_params(layer.astype(np.float64).arrays)


def test_it_runs_on_a_gpu(layer, monkeypatch):
    """On a strict double of CuPy, which refuses what it refuses."""
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.cupy)
    gpu_problem.cache_clear()
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    y, saved = layer.forward(x)
    dx, grads = layer.backward(y, saved)
    there = layer.to("gpu")
    y_there, saved = there.forward(to_device(x, "gpu"))
    dx_there, grads_there = there.backward(y_there, saved)
    pairs = [(y, y_there), (dx, dx_there), *((grads[k], grads_there[k]) for k in grads)]
    for here, result in pairs:
        np.testing.assert_allclose(to_device(result, "cpu"), here, rtol=1e-6)
    gpu_problem.cache_clear()


def test_a_network_with_it_trains_to_the_same_bits_with_any_number_of_workers():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (160, 1, 4, 4), dtype=np.uint8)
    labels = (images.mean(axis=(1, 2, 3)) > 127).astype(np.uint8)
    data = Dataset(images, labels, ("dark", "bright"), "brightness")
    weights = []
    for workers in (1, 2):
        rng = np.random.default_rng(0)
        first, last = Linear(16, 8, rng=rng), Linear(8, 2, rng=rng)
        net = Sequential(Flatten(), first, LeakyReLU(0.1), NoisyCentering(8), last, Tanh())
        settings = {"epochs": 2, "batch_size": 160, "workers": workers, "progress": False}
        fit(net, data, optimizer=SGD(0.1), **settings)
        weights.append({name: array.tobytes() for name, array in net.arrays.items()})
    assert weights[0] == weights[1]
    assert net.state["3.steps"] == 2 and net.state["3.mean"].any()
    assert np.frombuffer(weights[0]["2.slope"], np.float32) != np.float32(0.1)


def test_a_layer_that_is_not_written_as_told_is_found():
    class Keeps(LeakyReLU):
        def forward(self, x):
            self.x = x
            return super().forward(x)

        def backward(self, dy, saved, need_dx=True):
            return super().backward(dy, self.x, need_dx)

    class Promotes(LeakyReLU):
        def forward(self, x):
            return np.where(x > 0, x, np.sqrt(self.initial) ** 2 * x), x

    class DoesNotCast(LeakyReLU):
        def forward(self, x):
            return np.where(x > 0, x, self.params["slope"] * x), x

    x = np.random.default_rng(0).standard_normal((3, 4))
    assert check_gradients(DoesNotCast(0.1), x).cause == "parameter not cast to the dtype of x"
    assert check_gradients(Keeps(0.1), x).cause == "a batch kept in the layer"
    assert check_gradients(Promotes(0.1), x).cause == "dtype lost"

    class Updates(NoisyCentering):
        def forward(self, x):
            self.state["mean"] += 1
            return super().forward(x)

    class Accumulates(NoisyCentering):
        def updates(self, saved):
            self.state["steps"] += 1
            return super().updates(saved)

    class Forgets(NoisyCentering):
        def updates(self, saved):
            return {"mean": saved}

    class Draws(NoisyCentering):
        def forward(self, x):
            y, saved = super().forward(x)
            return y + np.random.default_rng().standard_normal(x.shape).astype(x.dtype), saved

    class Copies(NoisyCentering):
        def at(self, key):
            return copy.deepcopy(super().at(key))

    class Mixes(NoisyCentering):
        def __call__(self, x):
            return x - x.mean(axis=0)

    assert check_gradients(Updates(4), x).cause == "argument changed"
    assert check_gradients(Accumulates(4), x).cause == "argument changed"
    assert check_gradients(Forgets(4), x).cause == "state and updates differ"
    assert check_gradients(Draws(4), x).cause == "random numbers in forward"
    assert check_gradients(Copies(4), x).cause == "key not understood"
    assert check_gradients(Mixes(4), x).cause == "images of a batch mixed"
