"""Makes cheat-sheet.md: `python docs/cheat_sheet.py`.

The equations are those at the heads of the modules, and the mistakes those of the museum. What the
sheet says of shapes, of what is saved and of multiply-adds, tests compare with the layers.
"""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minicnn import (
    GELU,
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sigmoid,
    Tanh,
    softmax_cross_entropy,
    squared_error,
)

PAGE = Path(__file__).with_name("cheat-sheet.md")
WIDTH, LINES = 110, 105  # what an A4 page holds in print of 7 points
WINDOW = {"kernel_size": (3, 2), "stride": 2}
ANY, SAME = "any", "the same"
IMAGE, OUTPUT = "(N, C, H, W)", "(N, C, OH, OW)"

INTRO = """# Cheat sheet

Every layer, forward and backward, on one A4 page in print of 7 points. The equations have the
numbers of their modules. Multiply-adds are those of forward; dx and dweight take as many each, so
backward costs twice as much. The mistakes are those of [the museum](museum.md).
`python docs/cheat_sheet.py` makes this page.
"""


@dataclass(frozen=True)
class Entry:
    """What the sheet says of a layer or loss: the shapes of x and y, what forward saves, the
    numbers of its equations in `module`, a mistake, the fault of the museum that it is, and the
    multiply-adds of forward."""

    kind: Layer | Callable
    x: str
    y: str
    saved: str
    module: str
    numbers: list[int]
    mistake: str
    fault: str
    multiply_adds: str = "0"


ENTRIES = [
    Entry(
        Linear(5, 6), "(N, I)", "(N, O)", "x", "layers.linear", [1, 2, 3, 4],
        "dweight as X^T dY, which fits where the layer is square", "LinearTransposed", "N*O*I",
    ),
    Entry(
        Conv2D(4, 6, **WINDOW, groups=2), IMAGE, "(N, O, OH, OW)", "x", "layers.conv",
        [1, 2, 3, 4, 5], "dx without the S - 1 zeros that a stride puts between the entries of dy",
        "ConvStrideForgotten", "N*O*OH*OW*C/G*KH*KW",
    ),
    Entry(
        ConvTranspose2D(6, 4, **WINDOW, groups=2), "(N, O, H, W)", OUTPUT, "x",
        "layers.conv_transpose", [1, 2, 3, 4, 5, 6], "the weight taken for that of Conv2D(O, C)",
        "ConvTransposeChannelsExchanged", "N*O*H*W*C/G*KH*KW",
    ),
    Entry(
        MaxPool2D(**WINDOW), IMAGE, OUTPUT, "x and y", "layers.pooling", [1, 2],
        "= for +=: who wins two windows keeps the dy of one", "MaxPoolOverlapAssigned",
    ),
    Entry(
        AvgPool2D(**WINDOW), IMAGE, OUTPUT, "the shape of x", "layers.pooling", [3, 4],
        "dx not divided by the count", "AvgPoolShareForgotten",
    ),
    Entry(
        GlobalAvgPool2D(), IMAGE, "(N, C)", "the shape of x", "layers.pooling", [5, 6],
        "1 spread for dy, which a check with dy = 1 accepts", "AvgPoolUpstreamIgnored",
    ),
    Entry(
        Sigmoid(), ANY, SAME, "y", "layers.activations", [1, 2],
        "y * (1 - y) given y where it expects x: the sigmoid taken twice", "SigmoidOfOutput",
    ),
    Entry(
        Tanh(), ANY, SAME, "y", "layers.activations", [3, 4],
        "(1 - y)**2 for 1 - y**2", "TanhPrecedence",
    ),
    Entry(
        ReLU(), ANY, SAME, "y", "layers.activations", [5, 6],
        "dx = dy where dy > 0", "ReLUMaskOfUpstream",
    ),
    Entry(
        LeakyReLU(), ANY, SAME, "y", "layers.activations", [7, 8],
        "the backward of ReLU", "LeakyReLUSlopeForgotten",
    ),
    Entry(
        GELU(), ANY, SAME, "the derivative", "layers.activations", [9, 10],
        "forward exact, backward that of the approximation with tanh", "GELUOfApproximation",
    ),
    Entry(
        Flatten(), IMAGE, "(N, C*H*W)", "the shape of x", "layers.reshaping", [1, 2],
        "another order of channel, row and column in backward", "FlattenOtherOrder",
    ),
    Entry(
        BatchNorm2D(4), IMAGE, SAME, "x_hat, inverse_std, mean, var", "layers.normalization",
        [1, 2, 3, 4, 5, 6, 7], "mean and variance taken as constants in dx",
        "BatchNormConstantStatistics",
    ),
    Entry(
        Dropout(0.5, rng=np.random.default_rng(0)), ANY, SAME, "keep", "layers.dropout", [1, 2, 3],
        "backward draws a mask of its own", "DropoutOtherMask",
    ),
    Entry(
        Residual(Tanh()), ANY, SAME, "what body and shortcut save", "layers.residual", [1, 2],
        "dx is the body's alone", "ResidualShortcutForgotten",
    ),
    Entry(
        softmax_cross_entropy, "(N, K)", "()", "nothing: it returns dz", "losses", [1, 2, 3],
        "dz = -1/(N p) at the label, without softmax's Jacobian",
        "cross_entropy_jacobian_forgotten",
    ),
    Entry(
        squared_error, ANY, "()", "nothing: it returns dy", "losses", [7, 8],
        "t - y for y - t", "squared_error_opposite_sign",
    ),
]  # fmt: skip

GLOSSARY = {
    "dy": "the upstream gradient: the derivative of the loss with respect to y",
    "tap": "(i, j), a place in the kernel; window: what the taps of one output (p, q) read",
    "windows": "what tap (i, j) of output (p, q) reads: row p*S + i*D, column q*S + j*D of the "
    "padded image",
    "S, D, G": "stride; dilation, the distance of two taps; groups, each a convolution of its own",
    "OH": "floor((H + top + bottom - D*(KH - 1) - 1) / S) + 1, and likewise OW",
    "col2im": "adds each entry of dwindows to the pixel that its tap read",
    "logits": "z, what goes into softmax; p, the probabilities that come out",
    "M": "the numbers that a mean is over: N*H*W in a channel, all entries of a prediction",
}


def page() -> str:
    """The sheet, as Markdown."""
    lines = [INTRO, "```text"]
    for entry in ENTRIES:
        lines += block(entry)
    lines += ["", *(f"{word:8} {meaning}" for word, meaning in GLOSSARY.items()), "```", ""]
    return "\n".join(lines)


def block(entry: Entry) -> list[str]:
    name = getattr(entry.kind, "__name__", type(entry.kind).__name__)
    docstring = importlib.import_module(f"minicnn.{entry.module}").__doc__
    count = "" if entry.multiply_adds == "0" else f"; {entry.multiply_adds} multiply-adds"
    title = f"{name}  {entry.x} -> {entry.y}; saves {entry.saved}{count}"
    return [
        justified(title, entry.module.removeprefix("layers.") + ".py"),
        *(equation(docstring, number) for number in entry.numbers),
        justified(f"    Usual mistake: {entry.mistake}", entry.fault),
    ]


def equation(docstring: str, number: int) -> str:
    """The line of the docstring that ends in this number, without the name of the layer in front,
    and with gaps of three spaces at most."""
    line = next(line for line in docstring.splitlines() if line.endswith(f"({number})"))
    text = re.sub(r"^[\w ]+  (?=\w+(\[.*?\])? =)", "", line.removesuffix(f"({number})").strip())
    return justified(f"    {re.sub(r' {3,}', '   ', text)}", f"({number})")


def justified(left: str, right: str) -> str:
    return f"{left:{WIDTH - len(right)}}{right}"


def main() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
