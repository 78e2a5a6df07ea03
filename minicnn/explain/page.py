"""The page on which each number of a gradient opens into the products that add up to it."""

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
    """What `explain` found: `steps` in the order of forward, and a page that opens from disk, with
    the `trace` of a training step at the top, if there is one."""

    title: str
    steps: list[Step]
    trace: Trace | None = None

    @property
    def html(self) -> str:
        """The page, in one self-contained file."""
        arrays: dict[str, Array] = {}
        keys: dict[int, str] = {}  # two steps may share an array
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
                f"the page would take {len(page) / 1e6:.1f} MB, but the limit is "
                f"{MOST_BYTES / 1e6:g} MB: {count:,} numbers take "
                f"{len(parts['NUMBERS']) / 1e6:.1f} MB; explain fewer images, or a single layer"
            )
        return page

    def save(self, path: Path | str) -> None:
        """Writes the page to a file."""
        write_atomically(as_path(path), self.html.encode())

    def _repr_html_(self) -> str:
        """For Jupyter: the page in a frame of its own, which cannot reach anything outside it."""
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
    """Where each number comes from in one training pass through a layer or a network.

    x: the layer's input, float32 or float64
    dy: the upstream gradient; without it and without labels, whole numbers from -2 to 2
    labels: integers (N,), or floats in the shape of the scores; then `loss` is the last step:
        softmax with cross-entropy for integers, squared error for floats, or your version of it
    trace: of a training step with the same network, shown at the top with a row for each layer

    The object shows itself in a notebook, and `save(path)` writes a page for a browser. A small
    layer that does not belong to this library is measured and checked.
    """
    require(isinstance(layer, Layer), "layer must be a layer, such as lenet()", layer)
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
        require(fits, f"dy must hold real numbers and have y's shape, {y.shape}", dy)
        _, steps = back(dy.astype(y.dtype))
    require(bool(steps), "layer must contain at least one layer", layer)
    return Explanation(title, [*steps, *last], trace)


def _precision(dtype: Any) -> dict[str, float]:
    """What the page needs to know about a dtype's rounding."""
    limits = np.finfo(dtype)
    return {
        "epsilon": float(limits.eps),
        "smallest": float(limits.tiny),
        "largest": float(limits.max),
    }


def _json(value: Any) -> str:
    """JSON that is safe inside a script of a page, whatever names are in it."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")
