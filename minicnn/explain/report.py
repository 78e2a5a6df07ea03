"""What a trace of one training step holds: numbers, and the tables and sentences made from them.

The sentences follow from the numbers by these rules, with the constants below.

    y that is not finite        the first layer where this happens
    no gradient                 weights (parameters of two axes or more) whose gradient is all 0
    falls, grows                if there are none: |gradient|/|weight| of the last weights is more
                                than STEEP times that of the first ones, or less than 1/STEEP
    saturated, dead             the layer with the largest share, if it is MANY or more
    near that of guessing       within NEAR of ln K
    the learning rate           the loss rose, or is not finite, although a fall was predicted
    past the lowest point       the loss fell by less than half of what was predicted

For the last one, let the loss on the way to the new weights be loss - a*t + b*t**2/2, with t = 1
at its end: a is the predicted fall. The loss is lowest at t = a/b, and at the end it has fallen by
a - b/2. That is less than half of a if b > a, that is, if the lowest point was passed.
"""

import dataclasses
import html
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.arguments import Shape
from minicnn.backend import Array
from minicnn.text import align

STEEP = 10
MANY = 0.25
NEAR = 0.05
ROUNDING = 1e-6  # of a loss, which may be a float32

Row = tuple[str, ...]
Table = tuple[str, list[Row]]  # the alignment of the columns, and the rows


@dataclass(frozen=True)
class Spread:
    """The mean and the standard deviation of an array's entries."""

    mean: float
    std: float

    @classmethod
    def of(cls, array: Array) -> "Spread":
        values = array.astype(np.float64)
        mean = float(values.mean())
        values -= mean
        return cls(mean, math.sqrt(float((values * values).mean())))


@dataclass(frozen=True)
class ParameterTrace:
    """A parameter, by its name in `net.params`; if it is used twice, the gradients of both uses are
    added up. The ratios are ratios of lengths, as vectors; None if the weights are all 0."""

    name: str
    shape: Shape
    gradient: Spread
    gradient_to_weight: float | None
    update_to_weight: float | None


@dataclass(frozen=True)
class LayerTrace:
    """A layer's row, under its name in the network: "0", or "2.1" in a Sequential inside another,
    or "" if it is the whole network. A block, such as Residual, has a single row.

    multiply_adds: in the forward pass
    kept_bytes: what `forward` adds to the memory that is held until `backward`
    dy: the upstream gradient, which is dx of the next layer
    saturated, dead: the share of saturated entries of y, and of dead units; None if the layer
        cannot have any
    parameters: those that no earlier layer has
    """

    name: str
    layer: str
    output_shape: Shape
    multiply_adds: int
    kept_bytes: int
    y: Spread
    dy: Spread
    saturated: float | None
    dead: float | None
    parameters: tuple[ParameterTrace, ...]


@dataclass(frozen=True)
class Trace:
    """What one step did: a row for each layer, in order, and the loss of the batch before the step,
    as predicted to first order, and after it. `guessing` is ln K, the loss if all K classes get the
    same probability; None for losses other than softmax cross-entropy of labels."""

    layers: tuple[LayerTrace, ...]
    loss: float
    predicted_loss: float
    loss_after: float
    guessing: float | None

    @property
    def sentences(self) -> list[str]:
        """What stands out, in words."""
        return [*self._about_layers(), *self._about_loss()]

    def to_json(self) -> dict[str, Any]:
        """The whole trace as plain numbers, lists and dicts; numbers that are not finite become
        "nan", "inf" or "-inf", since JSON cannot express them."""
        return _plain({**dataclasses.asdict(self), "sentences": self.sentences})

    def __str__(self) -> str:
        tables = ["\n".join(align(rows, alignment)) for alignment, rows in self._tables()]
        return "\n\n".join([*tables, "\n".join(self.sentences)])

    def _repr_html_(self) -> str:
        """For Jupyter: the same tables and sentences."""
        tables = "".join(f"<table>{_html_rows(rows)}</table>" for _, rows in self._tables())
        return tables + "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences)

    def rows_and_sentences(self) -> dict[str, Any]:
        """For the page of `explain`: the rows of the table of layers, and the sentences."""
        (_, layers), _ = self._tables()
        return {"rows": layers, "sentences": self.sentences}

    def _tables(self) -> list[Table]:
        titles = "output shape", "multiply-adds", "bytes kept", "y mean", "std", "dy mean", "std"
        layers: list[Row] = [("layer", "", *titles, "")]
        titles_of_ratios = "|gradient|/|weight|", "|update|/|weight|"
        parameters: list[Row] = [("parameter", "shape", "gradient mean", "std", *titles_of_ratios)]
        for row in self.layers:
            costs = f"{row.multiply_adds:,}", f"{row.kept_bytes:,}"
            numbers = _short(row.y.mean, row.y.std, row.dy.mean, row.dy.std)
            shape = _product(row.output_shape)
            layers.append((row.name, row.layer, shape, *costs, *numbers, _stuck(row)))
            for p in row.parameters:
                ratios = p.gradient_to_weight, p.update_to_weight
                numbers = _short(p.gradient.mean, p.gradient.std, *ratios)
                parameters.append((p.name, _product(p.shape), *numbers))
        return [("<<<>>>>>><", layers), ("<<>>>>", parameters)]

    def _about_layers(self) -> list[str]:
        said = []
        broken = [_place(row.name) for row in self.layers if not math.isfinite(row.y.mean)]
        if broken:
            said.append(f"y is not finite from {broken[0]} on.")
        weights = [
            (_place(p.name.rpartition(".")[0]), p.gradient_to_weight)
            for row in self.layers
            for p in row.parameters
            if len(p.shape) > 1 and p.gradient_to_weight is not None
        ]
        unreached = [place for place, ratio in weights if ratio == 0]
        if unreached:
            said.append(f"The weights of {', '.join(unreached)} get no gradient.")
        elif weights:
            (first, at_first), (last, at_last) = weights[0], weights[-1]
            if max(at_first, at_last) > STEEP * min(at_first, at_last):
                said.append(
                    f"The gradient {'falls' if at_first < at_last else 'grows'} from {at_last:.2g} "
                    f"of the weights at {last} to {at_first:.2g} at {first}."
                )
        for kind, what in (("saturated", "entries"), ("dead", "units")):
            shares = [(getattr(row, kind) or 0.0, row) for row in self.layers]
            share, row = max(shares, key=lambda each: each[0], default=(0.0, None))
            if row is not None and share >= MANY:
                said.append(f"{_percent(share)} of the {what} of {_place(row.name)} are {kind}.")
        return said

    def _about_loss(self) -> list[str]:
        said = []
        if self.guessing is not None and abs(self.loss - self.guessing) < NEAR * self.guessing:
            logarithm = f"ln {math.exp(self.guessing):.0f} = {self.guessing:.3f}"
            said.append(f"The loss is near {logarithm}, that of guessing.")
        numbers = self.loss, self.predicted_loss, self.loss_after
        before, predicted, after = (f"{number:.5g}" for number in numbers)
        expected, fall = self.loss - self.predicted_loss, self.loss - self.loss_after
        if not math.isfinite(expected):
            said.append(f"The loss is {before}, and to first order {predicted} after the step.")
        elif abs(expected) <= ROUNDING * abs(self.loss):
            said.append(f"To first order the step does not change the loss, {before}.")
        elif expected < 0:
            said.append(
                f"To first order the step raises the loss from {before} to {predicted}: it does "
                f"not go against the gradient. The loss became {after}."
            )
        elif not fall >= 0:
            said.append(
                f"The loss rose from {before} to {after} although the first order predicted a fall "
                f"to {predicted}: for this step the learning rate is too large."
            )
        else:
            past = ": the step went past the lowest point" if fall < expected / 2 else ""
            said.append(
                f"The loss fell from {before} to {after}, by {_percent(fall / expected)} of what "
                f"the first order predicted{past}."
            )
        return said


def _place(name: str) -> str:
    return f"layer {name}" if name else "the layer"


def _stuck(row: LayerTrace) -> str:
    shares = {"saturated": row.saturated, "dead": row.dead}
    return "".join(
        f"{_percent(share)} {kind}" for kind, share in shares.items() if share is not None
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _short(*numbers: float | None) -> list[str]:
    return ["-" if number is None else f"{number:.2g}" for number in numbers]


def _product(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _html_rows(rows: list[Row]) -> str:
    cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "".join(f"<tr>{row}</tr>" for row in cells)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
