"""The floors of the benchmarks, by hand, and what they are compared with; no time is asserted."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from minicnn import Conv2D, Flatten, Linear, ReLU, Sequential, Sigmoid, Tanh

# one core: 1 GFLOP/s; 2 GB/s for up to 1000 bytes, 1 GB/s beyond; exp takes 5 ns and tanh 6
RATE, BANDWIDTHS, SECONDS = 1e9, {1000: 2e9, 4000: 1e9}, {"exp": 5e-9, "tanh": 6e-9}


@pytest.fixture
def script(monkeypatch):
    """A function name -> the module of that script."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module


@pytest.fixture
def limits(script):
    return script("limits")


@pytest.fixture
def core(limits):
    return limits.Core(RATE, BANDWIDTHS, SECONDS)


FLOORS = [  # layer, x, backward too, nanoseconds and what takes them
    # 2 filters of 1*3*3 at 2*2 places: 72 multiply-adds, 144 operations; 16 + 20 + 8 numbers
    (Conv2D(1, 2, 3), (1, 1, 4, 4), False, 144, "products"),
    (Conv2D(1, 2, 3), (1, 1, 4, 4), True, 432, "products"),
    # 10 values of exp, the cheaper one; 20 numbers are 80 bytes, 40 ns
    (Sigmoid(), (2, 5), False, 50, "functions"),
    # backward reads dy and y and writes dx: 50 numbers, 200 bytes at 2 GB/s
    (Sigmoid(), (2, 5), True, 100, "bytes"),
    (Tanh(), (2, 5), False, 60, "functions"),
    # 10 + 10 numbers, 80 bytes; 125 + 125 numbers are 1000 bytes, 126 + 126 are 1008
    (ReLU(), (2, 5), False, 40, "bytes"),
    (ReLU(), (1, 125), False, 500, "bytes"),
    (ReLU(), (1, 126), False, 1008, "bytes"),
    # 8 + 8 numbers an image: chunks of 64 images move 4096 bytes, more than any copy
    (ReLU(), (128, 8), False, 8192, "bytes"),
    # 2 + 2 numbers an image: a chunk of 64 moves 1024 bytes, but one of 62 only 992
    (ReLU(), (62, 2), False, 496, "bytes"),
    (ReLU(), (640, 2), False, 10240, "bytes"),
]


@pytest.mark.parametrize("layer, shape, backward, nanoseconds, cause", FLOORS)
def test_floor_of_a_layer_by_hand(limits, core, layer, shape, backward, nanoseconds, cause):
    floor = limits.layer_floor(layer, shape, backward, core)
    assert floor == (pytest.approx(nanoseconds * 1e-9), cause)


def test_the_batch_is_in_chunks_that_fit_a_cache(limits, core):
    """One number in and one out for each of 640 images: 5120 bytes, in chunks of 64 images, 512
    bytes, at 2 GB/s."""
    assert limits.layer_floor(ReLU(), (640, 1), False, core).seconds == pytest.approx(2.56e-6)


def test_floor_of_a_network_is_the_sum_of_its_layers(limits, core):
    """Convolution: 144 operations forward and as many backward, where it has no dx. Sigmoid: 8
    values of exp; both ways 5 * 8 numbers, 160 bytes at 2 GB/s. Linear: 8 + 90 + 10 numbers, 432
    bytes; both ways dy 10, x 8, gradients 90, dx 8 and parameters 90 more, 1256 bytes. As the first
    layer with parameters, after others, it has no dx: 864 bytes, and these have no way back."""
    net = Sequential(Conv2D(1, 2, 3), Sigmoid(), Flatten(), Linear(8, 10))
    forward, both = 144 + 40 + 216, 288 + 80 + 628
    assert limits.network_floor(net, (1, 1, 4, 4), False, core) == pytest.approx(forward * 1e-9)
    assert limits.network_floor(net, (1, 1, 4, 4), True, core) == pytest.approx(both * 1e-9)
    net = Sequential(Sigmoid(), Flatten(), Linear(8, 10))
    assert limits.network_floor(net, (1, 2, 2, 2), True, core) == pytest.approx(472e-9)


def probes(**rates):
    return [
        {"work": work, "sizes": [*own], "task": task, "rates": [rate, rate]}
        for work, own in rates.items()
        for task, rate in enumerate(own.values())
    ]


def test_what_a_core_reaches_comes_from_the_records(limits, core):
    copy, functions = {500: 2e9, 2000: 1e9}, {"exp": 2e8, "tanh": 1e9 / 6}
    records = probes(sgemm={64: 5e8, 128: 1e9}, copy=copy, functions=functions)
    found = limits.measured_core(records)
    assert found[:2] == (RATE, BANDWIDTHS)
    assert found.seconds == pytest.approx(SECONDS)
    for work in ("sgemm", "copy", "functions"):  # results of older versions have no floors
        assert limits.measured_core([r for r in records if r["work"] != work]) is None


def test_floor_cells_divide_by_the_cores(script, core):
    """Convolution: 144 ns, so 72 ns on two cores; at 5 million passes a second, of 200 ns each."""
    bench_layers = script("bench_layers")
    record = {"layer": "Conv2D(1, 2, 3)", "shape": [1, 1, 4, 4], "backward": False, "cores": 2}
    record["rates"] = [5e6, 5e6]
    assert bench_layers.floor_cells(record, core) == ("0.1", "products", "36%")
    assert bench_layers.floor_cells(record, None) == (None, None, None)
    flatten = record | {"layer": "Flatten()"}
    assert bench_layers.floor_cells(flatten, core) == (None, None, None)


def test_cost_on_paper_by_hand(script):
    """One hidden layer of 10 for 8x8 images: 64*10 + 10*10 multiply-adds and 20 biases, 3040 bytes.
    At 1000 images a second a batch of 256 takes 256 ms."""
    bench_scaling = script("bench_scaling")
    net = bench_scaling.network(8, 1, width=10)
    point = {"net": net, "image": [1, 8, 8], "batch": 256, "sweep": "width", "width": 10}
    assert bench_scaling.on_paper(point) == (740, 3040)
    train = point | {"framework": "minicnn", "work": "train", "rates": [1000] * 3}
    exchange = train | {"work": "exchange", "rates": [4000] * 3}
    table = bench_scaling.exchange_table({"records": [train, exchange]})
    assert table.splitlines()[-1] == "| 760 | 256.0 | 64.0 | 25% |"
    assert bench_scaling.exchange_table({"records": [train]}) == ""


def test_the_exchange_has_no_arithmetic_but_all_the_sums(script, monkeypatch):
    """Four chunks of a batch: gradients are computed once, copied and added four times a step."""
    from minicnn.training import ordered, parallel

    computed, added, real, add = [], [], parallel.gradients, ordered.OrderedSum.add

    def compute(*arguments):
        computed.append(1)
        return real(*arguments)

    def counted(self, term, size=1):
        added.append(np.array(term["grads.1.weight"]))
        return add(self, term, size)

    monkeypatch.setattr(parallel, "gradients", compute)
    monkeypatch.setattr(ordered.OrderedSum, "add", counted)
    settings = {"cores": 1, "batch": 256, "image": (1, 4, 4)}
    settings["net"] = "Sequential(Flatten(), Linear(16, 10))"
    with script("workloads").minicnn_exchange(settings) as (task,):
        task.step()
        task.step()
    assert (len(computed), len(added), task.amount) == (1, 8, 256)
    assert np.abs(added[0]).sum() > 0


def test_functions_are_counted_in_values(script):
    with script("workloads").minicnn_functions({"sizes": ["exp", "tanh"]}) as tasks:
        for task in tasks:
            task.step()
    assert [task.amount for task in tasks] == [1 << 14, 1 << 14]
