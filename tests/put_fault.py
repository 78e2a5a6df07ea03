"""A pytest plugin that puts each fault of the museum into the real layers and losses, one by one,
and writes to the file $FAULTS_CAUGHT which test is the first to fail.

Mistakes in optimizers are no wrong gradients, and so none for the museum; they stand here.

    FAULTS_CAUGHT=caught.json PYTHONPATH=tests pytest -p put_fault tests/layers/test_layers.py

The tests are collected once; each fault has a forked process of its own. Under "no fault" is what
fails, of the tests that caught a fault, when copies of what is right are put there instead.
"""

import functools
import json
import os
import sys
from pathlib import Path

import numpy as np

from minicnn.adam import Adam, AdamW
from minicnn.gradcheck import museum


class AdamNotCorrected(Adam):
    """m and v are taken as they are, so the first steps are too large."""

    def _update(self, name, w, g, decay, numbers):
        before = w.copy()
        super()._update(name, w, g, decay, numbers)
        w[...] = before
        m, v = self.mean[name], self.mean_square[name]
        w -= self.lr * m / (np.sqrt(v) + self.eps)


class AdamEpsInRoot(Adam):
    """eps is added to the mean square, and so counts as its root."""

    def _update(self, name, w, g, decay, numbers):
        (beta1, beta2), t = self.betas, self.steps + 1
        before = w.copy()
        super()._update(name, w, g, decay, numbers)
        w[...] = before
        m_hat, v_hat = self.mean[name] / (1 - beta1**t), self.mean_square[name] / (1 - beta2**t)
        w -= self.lr * m_hat / np.sqrt(v_hat + self.eps)


class AdamWDecayInGradient(AdamW):
    """The decay is added to the gradient, as in Adam, and then divided by its size."""

    _update = Adam._update


OPTIMIZER_FAULTS = [(Adam, AdamNotCorrected), (Adam, AdamEpsInRoot), (AdamW, AdamWDecayInGradient)]
PAIRS = {fault.name: (fault.right, fault.wrong) for fault in museum.FAULTS}
PAIRS |= {wrong.__name__: (right, wrong) for right, wrong in OPTIMIZER_FAULTS}
"""For each name of a fault what is right and what is put in its place."""
FAULTY = __name__, museum.__name__


def put(right, wrong):
    """What is right is replaced wherever it was imported, but for the modules of the faults. A
    layer or optimizer that is made of it under another name, from now on, is a wrong one too."""
    for name, module in list(sys.modules.items()):
        if not name.startswith(FAULTY) and getattr(module, right.__name__, None) is right:
            setattr(module, right.__name__, wrong)
    if isinstance(right, type):
        init = right.__init__

        @functools.wraps(init)
        def init_wrong(layer, *args, **kwargs):
            init(layer, *args, **kwargs)
            if type(layer) is right:
                layer.__class__ = wrong

        right.__init__ = init_wrong
        wrong.__name__ = right.__name__


def copied(right):
    if isinstance(right, type):
        return type(right.__name__, (right,), {"__module__": right.__module__})
    return functools.wraps(right)(lambda *args, **kwargs: right(*args, **kwargs))


def first_failure(session, items, replacements):
    """The id of the first of these tests that fails once the pairs (right, wrong) are put in."""
    path = Path(os.environ["FAULTS_CAUGHT"])
    child = os.fork()
    if child == 0:
        for right, wrong in replacements:
            put(right, wrong)
        for item, following in zip(items, [*items[1:], None]):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                break
        path.write_text(json.dumps(item.nodeid if session.testsfailed else None))
        os._exit(0)
    os.waitpid(child, 0)
    return json.loads(path.read_text())


def pytest_runtestloop(session):
    caught = {}
    for name, (right, wrong) in PAIRS.items():
        # the tests that name it are likely to fail: "conv", "pool", "norm"
        topic = right.__name__.removesuffix("2D")[-4:].lower()
        items = sorted(session.items, key=lambda item: topic not in item.nodeid.lower())
        caught[name] = first_failure(session, items, [(right, wrong)])
    catching = [item for item in session.items if item.nodeid in caught.values()]
    copies = {right: copied(right) for right, _ in PAIRS.values()}
    caught["no fault"] = first_failure(session, catching, copies.items())
    Path(os.environ["FAULTS_CAUGHT"]).write_text(json.dumps(caught))
    return True
