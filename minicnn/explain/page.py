"""The page on which each number of a gradient opens into the products that it is the sum of."""

import base64
import dataclasses
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from minicnn.arguments import require
from minicnn.backend import Array, to_device
from minicnn.explain.report import Trace
from minicnn.explain.steps import Step, check_target, forward, loss_step
from minicnn.explain.steps import title as title_of
from minicnn.files import as_path, write_atomically
from minicnn.layers import Layer, Sequential
from minicnn.losses import softmax_cross_entropy
from minicnn.text import align

FILES = Path(__file__).parent
MOST_BYTES = 5_000_000  # of a page


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `explain` found: `steps` in the order of forward, and a page that opens from disk; above
    it the `trace` of a training step, if there is one."""

    title: str
    steps: list[Step]
    trace: Trace | None = None

    @property
    def html(self) -> str:
        """The page, in one file that asks for no other."""
        arrays: dict[str, Array] = {}
        keys: dict[int, str] = {}  # one array may have a part in two steps
        for step in self.steps:
            for array in step.arrays.values():
                key = keys.setdefault(id(array), str(len(keys)))
                arrays[key] = np.ascontiguousarray(array)
        steps = [
            dataclasses.asdict(dataclasses.replace(step, arrays={}))
            | {
                "arrays": {name: keys[id(array)] for name, array in step.arrays.items()},
                "precision": _precision(step.arrays["x"].dtype),
            }
            for step in self.steps
        ]
        parts = {
            "TITLE": html.escape(self.title),
            "STYLE": (FILES / "page.css").read_text("utf-8"),
            "WORDS": _json(json.loads((FILES / "words.json").read_text("utf-8"))),
            "STEPS": _json(steps),
            "TRACE": _json(self.trace and self.trace.rows_and_sentences()),
            "NUMBERS": base64.b64encode(save(arrays)).decode(),
            "FORMULAS": (FILES / "formulas.js").read_text("utf-8"),
            "SCRIPT": (FILES / "page.js").read_text("utf-8"),
        }
        template = (FILES / "page.html").read_text("utf-8")
        page = re.sub(r"{{(\w+)}}", lambda match: parts[match[1]], template)
        if len(page) > MOST_BYTES:
            count = sum(array.size for array in arrays.values())
            raise ValueError(
                f"the page would take {len(page) / 1e6:.1f} MB, {MOST_BYTES / 1e6:g} at most: "
                f"{count:,} numbers take {len(parts['NUMBERS']) / 1e6:.1f} MB; explain fewer "
                "images, or one layer by itself"
            )
        return page

    def save(self, path: Path | str) -> None:
        """Writes the page to a file."""
        write_atomically(as_path(path), self.html.encode())

    def _repr_html_(self) -> str:
        """For Jupyter: the page in a frame of its own, which can reach nothing outside it."""
        return (
            '<iframe sandbox="allow-scripts" style="width: 100%; height: 44em; border: 0" '
            f'title="{html.escape(self.title)}" srcdoc="{html.escape(self.html)}"></iframe>'
        )

    def __str__(self) -> str:
        rows = [("step", "layer", "x", "y", "largest dx")]
        for step in self.steps:
            x, y = (" x ".join(map(str, step.arrays[name].shape)) for name in ("x", step.output))
            largest = f"{np.abs(step.arrays['dx']).max():.3g}"
            rows.append((step.name, step.layer, x, y, largest))
        findings = [f"{step.name}: {finding}" for step in self.steps for finding in step.findings]
        return "\n".join([self.title, *align(rows, "<<<<>"), *findings])

    __repr__ = __str__


def explain(
    layer: Layer,
    x: Array,
    dy: Array | None = None,
    labels: Array | None = None,
    *,
    loss: Callable[..., Any] = softmax_cross_entropy,
    title: str | None = None,
    trace: Trace | None = None,
) -> Explanation:
    """Where each number comes from, of one pass of training through a layer or a network.

    x: as the layer takes it, float32 or float64
    dy: the upstream gradient; without it and without labels, whole numbers from -2 to 2
    labels: integers (N,), or floats as the scores are, and then `loss` is the last step: softmax
        with cross-entropy for integers, and squared error for floats, or what is meant to be that
    trace: of a step of training with the same network, to stand above, a row for each layer

    The object shows itself in a notebook, and `save(path)` writes a page that a browser opens. A
    layer that is not of this library is measured, and checked, if it is small.
    """
    require(isinstance(layer, Layer), "layer must be a layer, as lenet()", layer)
    require(dy is None or labels is None, "give dy or labels, not both", dy)
    x, layer = np.array(to_device(x, "cpu")), layer.to("cpu").at((0,))
    title = title_of(layer) if title is None else title
    if not isinstance(layer, Sequential):
        layer = Sequential(layer)
    with np.errstate(all="ignore"):  # what is not finite stands on the page
        y, back = forward(layer, x)
        last = []
        if labels is not None:
            target = check_target(y, to_device(labels, "cpu"))
            dy, step = loss_step(loss, y, target)
            last = [step]
        elif dy is None:
            dy = np.random.default_rng(1).integers(-2, 3, y.shape).astype(y.dtype)
        dy = to_device(dy, "cpu")
        fits = dy.shape == y.shape and dy.dtype.kind in "iuf"
        require(fits, f"dy must be of real numbers and have y's shape, {y.shape}", dy)
        _, steps = back(dy.astype(y.dtype))
    require(bool(steps), "layer must have a layer in it", layer)
    return Explanation(title, [*steps, *last], trace)


def _precision(dtype: Any) -> dict[str, float]:
    """What the page needs to know of a dtype's rounding."""
    limits = np.finfo(dtype)
    return {
        "epsilon": float(limits.eps),
        "smallest": float(limits.tiny),
        "largest": float(limits.max),
    }


def _json(value: Any) -> str:
    """JSON that may stand in a script of a page, whatever names are in it."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")
