"""In a notebook's kernel, whose own threads wait while a cell runs, everything is the same; there,
training shows a bar and its curve, and results show themselves."""

import sys

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

CELLS = [
    """
import os
import threading
import numpy as np
import threadpoolctl
from minicnn import digits, evaluate, fit, lenet_relu
from minicnn.training.workers import worker_map

train, test = digits(300, 300)
threads = [library["num_threads"] for library in threadpoolctl.threadpool_info()]
print(threading.active_count())
""",
    """
for _ in range(5):
    with worker_map(lambda _: os.getpid(), 2) as map_:
        print(len(set(map_([1, 2]))))
""",
    """
nets = [lenet_relu(np.random.default_rng(0)) for _ in range(2)]
losses = [fit(net, train, test, epochs=1, workers=n).train_loss for n, net in enumerate(nets, 1)]
print(losses[0] == losses[1], evaluate(nets[0], test) == evaluate(nets[1], test, workers=2))
""",
    """
print([library["num_threads"] for library in threadpoolctl.threadpool_info()] == threads)
""",
]


SHOWN = {
    "summarize(net, (1, 1, 28, 28))": ("text/plain", "multiply-adds"),
    "check_gradients(ReLU(), np.random.default_rng(0).standard_normal((2, 3)))": (
        "text/plain",
        "worst at",
    ),
    "history": ("image/png", ""),
    "training_curves(history)": ("image/png", ""),
    "image_grid([np.eye(3)])": ("image/png", ""),
}
TRAINING = """
import numpy as np
from minicnn import ReLU, check_gradients, digits, fit, lenet_relu
from minicnn.cli.summary import summarize
from minicnn.plotting import image_grid, training_curves

net, (train, test) = lenet_relu(np.random.default_rng(0)), digits(300, 300)
history = fit(net, train, test, epochs=2)
"""


def executed(cells):
    """The outputs of each cell, and what each printed."""
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3")
    client.execute()
    outputs = [cell.outputs for cell in notebook.cells]
    return outputs, ["".join(o.text for o in cell if o.get("name") == "stdout") for cell in outputs]


def test_training_shows_a_bar_and_its_curve_and_results_show_themselves():
    (trained, *results), (printed, *_) = executed([TRAINING, *SHOWN])
    assert "100%" in printed and "epoch 2/2: loss" in printed
    (picture,) = [output for output in trained if output.output_type == "display_data"]
    assert "image/png" in picture.data
    for (result,), (kind, text) in zip(results, SHOWN.values(), strict=True):
        assert text in result.data[kind], result


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")
def test_the_workers_of_a_kernel_are_processes():
    _, printed = executed(CELLS)
    assert int(printed[0]) > 1
    assert printed[1].split() == ["2"] * 5
    assert printed[2].splitlines()[-1] == "True True"
    assert printed[3] == "True\n"
