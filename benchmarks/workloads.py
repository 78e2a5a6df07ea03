"""What contestants do. harness.py starts this file as a fresh process for each of them.

A process first fixes its cores and then imports only its own framework. Networks are written as
text that both frameworks evaluate: their names of layers and arguments differ only in 2D and 2d.

The setting "device" is "cpu", which is the default, or "gpu": then networks and data are on it
before the clock starts, and the host chooses the images of each step.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

IMAGES = 8192  # in memory, to take batches from; more if a batch is larger
CLASSES = 10
LR, MOMENTUM = 0.01, 0.9
EPOCH = 234  # steps of a captured epoch, as of Fashion-MNIST in batches of 256


@dataclass
class Task:
    """A piece of work: one step, its amount, and what to report after a round."""

    step: Callable[[], object]
    amount: float
    after: Callable[[], dict] = dict


@contextlib.contextmanager
def minicnn_train(settings: dict) -> Iterator[list[Task]]:
    """The step of minicnn.fit: random images of bytes, picked and scaled within the step."""
    import numpy as np

    from minicnn import SGD
    from minicnn.training.parallel import batch_gradients

    net, data, batch = _minicnn_net(settings), _minicnn_data(settings), settings["batch"]
    optimizer, rng = SGD(LR, MOMENTUM), np.random.default_rng(0)
    with batch_gradients(net, data, batch, settings["cores"]) as gradients:

        def step() -> None:
            _, _, grads, _ = gradients(rng.integers(len(data), size=batch))
            optimizer.step(net.params, grads)

        yield [Task(step, batch)]


@contextlib.contextmanager
def minicnn_captured_train(settings: dict) -> Iterator[list[Task]]:
    """The same, captured: minicnn.fit(capture=True), in epochs of EPOCH steps."""
    import numpy as np

    from minicnn import SGD
    from minicnn.backend import to_device
    from minicnn.training.capture import EAGER_STEPS, CapturedStep
    from minicnn.training.parallel import batch_gradients

    net, data, batch = _minicnn_net(settings), _minicnn_data(settings), settings["batch"]
    rng = np.random.default_rng(0)
    with batch_gradients(net, data, batch, settings["cores"]) as gradients:
        captured = CapturedStep(net, SGD(LR, MOMENTUM), gradients, set(), batch)

        def steps() -> Iterator[None]:
            while True:
                order = [*to_device(rng.integers(len(data), size=(EPOCH, batch)), "gpu")]
                with captured.epoch(order, [LR] * EPOCH, 0):
                    for number, index in enumerate(order):
                        captured.gradients(index, (number,))
                        yield

        def after() -> dict:
            pools = captured.xp.get_default_memory_pool(), captured.pool
            held = sum(pool.total_bytes() for pool in pools)
            return _nodes(captured.graph, "graph") | {"device_bytes": held}

        taken = steps()
        for _ in range(EAGER_STEPS + 1):  # if it cannot be captured, the others still take part
            next(taken)
        yield [Task(lambda: next(taken), batch, after)]
        taken.close()


@contextlib.contextmanager
def torch_graph_train(settings: dict) -> Iterator[list[Task]]:
    """PyTorch's step as its own CUDA graph; batches are copied to where it reads them."""
    import torch

    net, (images, classes) = _torch_net(settings), _torch_data(settings)
    optimizer = torch.optim.SGD(net.parameters(), LR, MOMENTUM)
    parts = _slices(settings["batch"])
    part = next(parts)
    x, labels = images[part].clone(), classes[part].clone()

    def work() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # as PyTorch's documentation asks
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph):
        work()
    nodes = _nodes(graph, "raw_cuda_graph")
    graph.instantiate()

    def step() -> None:
        part = next(parts)
        x.copy_(images[part])
        labels.copy_(classes[part])
        graph.replay()

    yield [Task(step, settings["batch"], lambda: nodes)]


@contextlib.contextmanager
def torch_train(settings: dict) -> Iterator[list[Task]]:
    """Floats, scaled before the clock starts, in batches that are slices of them: no DataLoader,
    no picking, no scaling."""
    import torch

    net, (x, labels) = _torch_net(settings), _torch_data(settings)
    optimizer = torch.optim.SGD(net.parameters(), LR, MOMENTUM)
    parts = _slices(settings["batch"])

    def step() -> None:
        part = next(parts)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x[part]), labels[part]).backward()
        optimizer.step()

    yield [Task(step, settings["batch"])]


@contextlib.contextmanager
def minicnn_infer(settings: dict) -> Iterator[list[Task]]:
    """The classes of images of bytes, in chunks over the cores like minicnn.evaluate; on a GPU in
    one piece."""
    import numpy as np

    from minicnn.training.chunks import evaluation_cut
    from minicnn.training.parallel import worker_count
    from minicnn.training.workers import worker_map

    net, data, batch = _minicnn_net(settings), _minicnn_data(settings), settings["batch"]
    chunks = [range(batch)]
    if net.device == "cpu":
        chunks = evaluation_cut(net, settings["image"])(batch)
    parts = _slices(batch)

    def classes(chunk: slice) -> np.ndarray:
        return net(data.batch(chunk)[0]).argmax(axis=1)

    with worker_map(classes, worker_count(net, chunks, settings["cores"])) as map_:

        def step() -> None:
            first = next(parts).start
            map_([slice(first + chunk.start, first + chunk.stop) for chunk in chunks])

        yield [Task(step, batch)]


@contextlib.contextmanager
def torch_infer(settings: dict) -> Iterator[list[Task]]:
    """The classes of floats, scaled before the clock starts."""
    import torch

    net, (x, _) = _torch_net(settings), _torch_data(settings)
    parts = _slices(settings["batch"])
    with torch.inference_mode():
        yield [Task(lambda: net(x[next(parts)]).argmax(dim=1), settings["batch"])]


@contextlib.contextmanager
def minicnn_layers(settings: dict) -> Iterator[list[Task]]:
    """A task for each cell {"layer", "shape" of x, "backward" too?, "passes" a step}, counted in
    passes. A worker makes the arrays of its chunks itself, so none goes through a pipe. On a GPU
    the batch is in one piece."""
    import numpy as np

    from minicnn.backend import Array, to_device
    from minicnn.training.chunks import CHUNK_SIZE
    from minicnn.training.workers import worker_map

    cells, device = settings["cells"], _device(settings)
    workers = settings["cores"] if device == "cpu" else 1
    layers = [_minicnn_layer(cell["layer"], device) for cell in cells]
    arrays = {}

    def random(shape: tuple[int, ...]) -> Array:
        values = np.random.default_rng(0).random((*shape[1:], shape[0]), np.float32)
        # the batch last in memory, as between layers
        return to_device(values, device).transpose(len(shape) - 1, *range(len(shape) - 1))

    def work(job: tuple[int, int]) -> None:
        i, n = job
        layer, shape = layers[i], (n, *cells[i]["shape"][1:])
        if job not in arrays:
            arrays[job] = random(shape), random(layer.output_shape(shape))
        x, dy = arrays[job]
        if cells[i]["backward"]:
            layer.backward(dy, layer.forward(x)[1])
        else:
            layer(x)

    def jobs(i: int) -> list[tuple[int, int]]:
        n = cells[i]["shape"][0]
        size = min(CHUNK_SIZE, math.ceil(n / workers)) if device == "cpu" else n
        chunks = [(i, min(size, n - first)) for first in range(0, n, size)]
        return chunks * cells[i]["passes"]

    with worker_map(work, workers) as map_:
        yield [Task(lambda i=i: map_(jobs(i)), cell["passes"]) for i, cell in enumerate(cells)]


@contextlib.contextmanager
def torch_layers(settings: dict) -> Iterator[list[Task]]:
    """The same cells."""
    import torch

    device = _torch_device(settings)

    def task(cell: dict) -> Task:
        layer = _torch_eval(cell["layer"]).to(device)
        x = torch.rand(cell["shape"], device=device)
        dy = torch.rand_like(layer(x))

        def forward() -> None:
            with torch.inference_mode():
                for _ in range(cell["passes"]):
                    layer(x)

        def forward_and_backward() -> None:
            for _ in range(cell["passes"]):
                layer.zero_grad()
                layer(x.detach().requires_grad_()).backward(dy)

        return Task(forward_and_backward if cell["backward"] else forward, cell["passes"])

    yield [task(cell) for cell in settings["cells"]]


@contextlib.contextmanager
def minicnn_sgemm(settings: dict) -> Iterator[list[Task]]:
    """Square matrix products in NumPy or CuPy, counted in floating-point operations."""
    import numpy as np

    from minicnn.backend import array_module, to_device

    def task(n: int) -> Task:
        values = np.random.default_rng(0).random((3, n, n), np.float32)
        a, b, c = to_device(values, _device(settings))
        matmul = array_module(a).matmul
        return Task(lambda: matmul(a, b, out=c), 2 * n**3)

    yield [task(n) for n in settings["sizes"]]


@contextlib.contextmanager
def minicnn_copy(settings: dict) -> Iterator[list[Task]]:
    """One array copied into another, counted in bytes moved: each is read and written."""
    import numpy as np

    from minicnn.backend import array_module, to_device

    def task(size: int) -> Task:
        values = np.random.default_rng(0).random((2, size // 4), np.float32)
        source, target = to_device(values, _device(settings))
        copyto = array_module(source).copyto
        return Task(lambda: copyto(target, source), 2 * source.nbytes)

    yield [task(size) for size in settings["sizes"]]


@contextlib.contextmanager
def minicnn_functions(settings: dict) -> Iterator[list[Task]]:
    """NumPy's functions of the names in "sizes", on a block in cache, counted in values."""
    import numpy as np

    x = np.random.default_rng(0).standard_normal(1 << 14, np.float32)
    y = np.empty_like(x)

    def task(name: str) -> Task:
        function = getattr(np, name)
        return Task(lambda: function(x, out=y), x.size)

    yield [task(name) for name in settings["sizes"]]


@contextlib.contextmanager
def minicnn_exchange(settings: dict) -> Iterator[list[Task]]:
    """The step of minicnn_train without its arithmetic: each process has the gradients of its first
    chunk ready for all others, which leaves the jobs, the copies and the sums."""
    from unittest import mock

    import numpy as np

    from minicnn.training import parallel

    net, data, batch = _minicnn_net(settings), _minicnn_data(settings), settings["batch"]
    compute, ready = parallel.gradients, []

    def gradients(*arguments: Any) -> Any:
        if not ready:
            ready.append(compute(*arguments))
        return ready[0]

    with mock.patch.object(parallel, "gradients", gradients):
        with parallel.batch_gradients(net, data, batch, settings["cores"]) as summed:
            yield [Task(functools.partial(summed, np.arange(batch)), batch)]


@contextlib.contextmanager
def minicnn_epochs(settings: dict) -> Iterator[list[Task]]:
    """A step is a part of an epoch, counted in images; its test accuracy is reported after it."""
    from minicnn import SGD, evaluate
    from minicnn.training.parallel import batch_gradients

    net = _initial_net(settings).to(_device(settings))
    train, test = (data.to(net.device) for data in _datasets(settings))
    optimizer = SGD(settings["lr"], **settings["sgd"])
    parts = _parts(settings, len(train))
    with batch_gradients(net, train, settings["batch"], settings["cores"]) as gradients:

        def step() -> None:
            for index, lr in next(parts):
                _, _, grads, _ = gradients(index)
                optimizer.lr = lr
                optimizer.step(net.params, grads)

        def after() -> dict:
            return {"accuracy": evaluate(net, test, workers=settings["cores"])[1]}

        yield [Task(step, len(train) / settings["parts"], after)]


@contextlib.contextmanager
def torch_epochs(settings: dict) -> Iterator[list[Task]]:
    """The same initial weights, the same batches."""
    import torch

    (train, test), initial = _datasets(settings), _initial_net(settings)
    device = _torch_device(settings)
    net = _torch_eval(repr(initial))
    net.load_state_dict({k: torch.tensor(p) for k, p in initial.params.items()})
    net.to(device)
    (x, labels), (x_test, labels_test) = (
        (
            torch.from_numpy(data.images).to(device).float() / 255,
            torch.from_numpy(data.labels).to(device),
        )
        for data in (train, test)
    )
    forward = torch.compile(net) if settings["framework"] == "torch.compile" else net
    optimizer = torch.optim.SGD(net.parameters(), settings["lr"], **settings["sgd"])
    parts = _parts(settings, len(train))

    def step() -> None:
        for numbers, lr in next(parts):
            optimizer.param_groups[0]["lr"] = lr
            index = torch.from_numpy(numbers).to(device)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(forward(x[index]), labels[index]).backward()
            optimizer.step()

    def after() -> dict:
        with torch.inference_mode():
            correct = [
                (net(x_test[part]).argmax(dim=1) == labels_test[part]).sum().item()
                for part in torch.arange(len(test), device=device).split(1000)
            ]
        return {"accuracy": sum(correct) / len(test)}

    yield [Task(step, len(train) / settings["parts"], after)]


def _nodes(graph: Any, address: str) -> dict:
    """{"nodes": how many operations the graph has}; without, if the driver does not tell."""
    import ctypes

    where, count = getattr(graph, address), ctypes.c_size_t()
    pointer = ctypes.c_void_p(where() if callable(where) else where)
    status = ctypes.CDLL("libcuda.so.1").cuGraphGetNodes(pointer, None, ctypes.byref(count))
    return {} if status else {"nodes": count.value}


def _device(settings: dict) -> str:
    return settings.get("device", "cpu")


def _torch_device(settings: dict) -> str:
    return {"cpu": "cpu", "gpu": "cuda"}[_device(settings)]


def _minicnn_net(settings: dict) -> Any:
    return _minicnn_layer(settings["net"], _device(settings))


def _minicnn_layer(text: str, device: str) -> Any:
    import minicnn

    return eval(text, vars(minicnn)).to(device)


def _torch_net(settings: dict) -> Any:
    import torch

    net = _torch_eval(settings["net"]).to(_torch_device(settings))
    return torch.compile(net) if settings["framework"] == "torch.compile" else net


def _torch_eval(text: str) -> Any:
    import torch

    return eval(text.replace("2D", "2d"), vars(torch.nn))


def _minicnn_data(settings: dict) -> Any:
    import numpy as np

    from minicnn.datasets import Dataset

    rng, n = np.random.default_rng(0), _images(settings["batch"])
    images = rng.integers(256, size=(n, *settings["image"]), dtype=np.uint8)
    labels = rng.integers(CLASSES, size=n)
    data = Dataset(images, labels, tuple(map(str, range(CLASSES))), "random images")
    return data.to(_device(settings))


def _torch_data(settings: dict) -> tuple[Any, Any]:
    import torch

    n, device = _images(settings["batch"]), _torch_device(settings)
    return torch.rand(n, *settings["image"]).to(device), torch.randint(CLASSES, (n,)).to(device)


def _slices(batch: int) -> Iterator[slice]:
    starts = range(0, _images(batch) - batch + 1, batch)
    return itertools.cycle(slice(i, i + batch) for i in starts)


def _images(batch: int) -> int:
    return max(IMAGES, batch)


def _datasets(settings: dict) -> tuple[Any, Any]:
    import minicnn

    name, *sizes = settings["data"]
    return getattr(minicnn, name)(*sizes)


def _initial_net(settings: dict) -> Any:
    """The network with He's weights."""
    import numpy as np

    from minicnn.initializers import he_normal

    net, rng = _minicnn_net(settings | {"device": "cpu"}), np.random.default_rng(settings["seed"])
    for layer in net.layers:
        if "weight" in layer.params:
            layer.params["weight"] = he_normal(layer.params["weight"].shape, rng)
    return net


def _parts(settings: dict, n: int) -> Iterator[list[tuple[Any, float]]]:
    """The batches of each part of each epoch and their learning rates, as in minicnn.fit."""
    import numpy as np

    from minicnn.datasets import batches
    from minicnn.optimizers import SCHEDULES

    schedule = SCHEDULES[settings.get("schedule", "cosine")]
    for epoch in range(settings["epochs"]):
        rng = np.random.default_rng((settings["seed"], epoch))
        steps = batches(n, settings["batch"], rng)
        done = (np.arange(len(steps)) / len(steps) + epoch) / settings["epochs"]
        rated = [(index, settings["lr"] * schedule(share)) for index, share in zip(steps, done)]
        bounds = np.linspace(0, len(steps), settings["parts"] + 1).astype(int)
        for first, end in itertools.pairwise(bounds):
            yield rated[first:end]


def _timed(task: Task, steps: int) -> dict:
    """{"seconds": how long the steps took}."""
    start = time.perf_counter()
    for _ in range(steps):
        task.step()
    return {"seconds": time.perf_counter() - start}


def _timed_on_gpu(task: Task, steps: int, framework: str) -> dict:
    """{"seconds" by the wall clock, read when the GPU has nothing left to do; "device_seconds"
    between two events in its stream, in which it may have waited for the host too; "device_bytes",
    the most that the framework has held of its memory}."""
    if framework == "minicnn":
        import cupy

        event, milliseconds = cupy.cuda.Event, cupy.cuda.get_elapsed_time
        synchronize = cupy.cuda.runtime.deviceSynchronize
        held_bytes = cupy.get_default_memory_pool().total_bytes  # it gives nothing back by itself
    else:
        import torch

        event = functools.partial(torch.cuda.Event, enable_timing=True)
        milliseconds = torch.cuda.Event.elapsed_time
        synchronize, held_bytes = torch.cuda.synchronize, torch.cuda.max_memory_reserved
    first, last = event(), event()
    synchronize()
    start = time.perf_counter()
    first.record()
    for _ in range(steps):
        task.step()
    last.record()
    synchronize()
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "device_seconds": milliseconds(first, last) / 1000,
        "device_bytes": held_bytes(),
    }


def _serve(settings: dict) -> None:
    """One step, then as many as each incoming line "task steps" says, with an answer after each."""
    answers, sys.stdout = sys.stdout, sys.stderr
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of the input ends it, Ctrl-C or not
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings["cores"]])
        framework, _, variant = settings["framework"].partition(".")
        timed = _timed
        if _device(settings) == "gpu":
            timed = functools.partial(_timed_on_gpu, framework=framework)
        if framework == "torch":
            import torch

            torch.set_num_threads(settings["cores"])
            torch.set_num_interop_threads(1)
            if _device(settings) == "gpu":  # full float32, which is CuPy's default
                torch.backends.cudnn.allow_tf32 = False
                torch.backends.cuda.matmul.allow_tf32 = False
        work = f"{framework}_{variant}_{settings['work']}"  # a variant may have its own, or not
        work = work if work in globals() else f"{framework}_{settings['work']}"
        with globals()[work](settings) as tasks:
            for line in itertools.chain(["0 1"], sys.stdin):
                i, steps = map(int, line.split())
                answer = timed(tasks[i], steps) | {"amount": steps * tasks[i].amount}
                print(json.dumps(answer | tasks[i].after()), file=answers, flush=True)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        print(json.dumps({"error": f"{type(error).__name__}: {reason}"}), file=answers, flush=True)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
