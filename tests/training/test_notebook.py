"""In a notebook's kernel, whose own threads wait while a cell runs, everything is the same."""

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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")
def test_the_workers_of_a_kernel_are_processes():
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, CELLS)))
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3")
    client.execute()
    printed = [
        "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
        for cell in notebook.cells
    ]
    assert int(printed[0]) > 1
    assert printed[1].split() == ["2"] * 5
    assert printed[2].splitlines()[-1] == "True True"
    assert printed[3] == "True\n"
