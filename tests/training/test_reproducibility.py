"""One seed on many machines: for one BLAS kernel the bits agree, for all kernels the losses nearly.

OpenBLAS takes the kernel that suits the processor; OPENBLAS_CORETYPE makes it take that of another
one. Where that variable is set already, it is left as it is.
"""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import threadpoolctl

from minicnn import digits

KERNELS = ("Prescott", "Sandybridge", "Haswell", "Zen", "SkylakeX")
NETWORKS = ("lenet", "lenet_relu")
STEPS = """
import hashlib, json, sys
import numpy, threadpoolctl
numpy.ones((300, 300)) @ numpy.ones((300, 300))
kernel = threadpoolctl.threadpool_info()[0].get("architecture")
if kernel == sys.argv[2]:
    sys.exit(print(json.dumps({"kernel": kernel})))

from minicnn import SGD, lenet, lenet_relu
from minicnn.datasets import Dataset
from minicnn.training.parallel import batch_gradients

train = Dataset(**numpy.load(sys.argv[1]), classes=tuple("0123456789"), name="digits")
result = {"kernel": kernel}
for build, lr in (lenet, 0.9), (lenet_relu, 0.1):
    net, losses = build(numpy.random.default_rng(0)), []
    optimizer = SGD(lr)
    with batch_gradients(net, train, 128, 2) as gradients:
        for step in range(10):
            loss, _, grads, _ = gradients(numpy.arange(128) + 128 * step)
            optimizer.step(net.params, grads)
            losses.append(float(loss))
    weights = b"".join(parameter.tobytes() for parameter in net.params.values())
    result[build.__name__] = losses, hashlib.sha256(weights).hexdigest()
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def train_twice(tmp_path_factory):
    """A function that trains in two processes at once and returns what the two say. A process
    leaves it at the kernel's name if that is `known`, and says None where the processor lacks the
    kernel's instructions."""
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    data = digits(1280, 1)[0]
    np.savez(path, images=data.images, labels=data.labels)

    def train(known="", **env):
        command = [sys.executable, "-c", STEPS, str(path), known]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen(command, env=os.environ | env, **pipes) for _ in range(2)]
        said = []
        for process in processes:
            out, err = process.communicate(timeout=120)
            lacking = process.returncode == -signal.SIGILL
            assert lacking or process.returncode == 0, err
            said.append(None if lacking else json.loads(out))
        return said

    return train


@pytest.fixture(scope="module")
def own(train_twice):
    return train_twice()


@pytest.mark.parametrize("network", NETWORKS)
def test_two_runs_give_the_same_bits(own, network):
    first, second = own
    assert first[network] == second[network]


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_other_kernels_give_nearly_the_same_losses(own, train_twice, kernel):
    blas = [library["internal_api"] for library in threadpoolctl.threadpool_info()]
    if "openblas" not in blas:
        pytest.skip("NumPy's BLAS is not OpenBLAS")
    if "OPENBLAS_CORETYPE" in os.environ:
        pytest.skip(f"OPENBLAS_CORETYPE is {os.environ['OPENBLAS_CORETYPE']} already")
    first, second = train_twice(own[0]["kernel"], OPENBLAS_CORETYPE=kernel)
    if first is None:
        pytest.skip(f"this processor cannot run the {kernel} kernel")
    if first["kernel"] == own[0]["kernel"]:
        pytest.skip(f"{kernel} makes OpenBLAS take {first['kernel']}, as it does by itself")
    assert first == second
    for network in NETWORKS:
        assert first[network][0] == pytest.approx(own[0][network][0], rel=1e-5, abs=0)
