"""What an exhibit is, and what the checker says about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minicnn.backend import Array
from minicnn.gradcheck.check import LossLayer, check_gradients
from minicnn.gradcheck.diagnosis import diagnose_update
from minicnn.gradcheck.report import Finding, Report
from minicnn.layers import Layer
from minicnn.losses import squared_error

MADE_UP = "made up"
IMAGES, ROWS = (3, 2, 6, 8), (3, 4)


@dataclass(frozen=True)
class Fault:
    """An exhibit: `wrong` in place of `right`, a layer or a loss, with an input that shows it.

    `arguments` are the layer's, `x_shape` is the shape of its input, whose values are normal and
    then go through `values`. `cause` is what the checker says, None if the pattern gives no hint.
    `beside` names which of "forward", "inference" and "updates" to compare with the right layer's,
    because no gradient can give the mistake away.

    `seen` is the issue or pull request on GitHub, owner/repository#number, in which the mistake was
    found or asked about. An exhibit without one was made up for the museum.
    """

    right: type[Layer] | Callable
    wrong: type[Layer] | Callable
    x_shape: tuple[int, ...]
    cause: str | None
    arguments: dict[str, Any] = field(default_factory=dict)
    values: Callable[[Array], Array] = np.asarray
    beside: tuple[str, ...] = ()
    seen: str = MADE_UP

    @property
    def name(self) -> str:
        return self.wrong.__name__

    @property
    def story(self) -> str:
        """How the mistake happens, in a sentence or two."""
        return " ".join((self.wrong.__doc__ or "").split())

    def check(self, seed: int = 0) -> Report:
        """What the checker says about it."""
        rng = np.random.default_rng(seed)
        x = self.values(rng.standard_normal(self.x_shape))
        if not isinstance(self.wrong, type):
            is_squared = self.right is squared_error
            labels = rng.integers(0, self.x_shape[1], len(x))
            target = rng.standard_normal(self.x_shape) if is_squared else labels
            return check_gradients(LossLayer(self.wrong, target), x, seed=seed)
        wrong, right = (
            kind(**self.arguments).astype(np.float64).at((seed,))
            for kind in (self.wrong, self.right)
        )
        for name, array in right.arrays.items():
            array[...] = rng.uniform(0.5, 1.5, array.shape)  # ones, say, would hide some mistakes
            wrong.arrays[name][...] = array
        report = check_gradients(
            wrong,
            x,
            seed=seed,
            reference=(lambda x: right.forward(x)[0]) if "forward" in self.beside else None,
            inference=right if "inference" in self.beside else None,
        )
        found = tuple(_update_findings(wrong, right, x)) if "updates" in self.beside else ()
        return replace(report, findings=report.findings + found)


def _update_findings(wrong: Layer, right: Layer, x: Array) -> Iterator[Finding]:
    asked, expected = (layer.updates(layer.forward(x)[1]) for layer in (wrong, right))
    for name, new in expected.items():
        if not np.allclose(asked[name], new, rtol=1e-9):
            message = f"updates gives {name} {asked[name]}, but the right layer gives {new}"
            yield Finding(name, message, diagnose_update(right, name, asked[name], new, x), "state")
