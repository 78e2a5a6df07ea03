"""Makes cheat-sheet.md, the same to print, and glossary.md: `python docs/cheat_sheet.py`.

The equations are those at the heads of the modules, and the mistakes those of the museum. What the
sheet says of shapes, of what is saved and of multiply-adds, tests compare with the layers.
"""

import html
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
PRINT, GLOSSARY_PAGE = PAGE.with_suffix(".html"), PAGE.with_name("glossary.md")
WIDTH, LINES = 110, 90  # what an A4 page holds in print of 7.5 points
WINDOW = {"kernel_size": (3, 2), "stride": 2}
ANY, SAME = "any", "the same"
IMAGE, OUTPUT = "(N, C, H, W)", "(N, C, OH, OW)"

INTRO = """# Cheat sheet

Every layer, forward and backward: [cheat-sheet.html](cheat-sheet.html) prints it on one A4 page.
The equations have the numbers of their modules and pages. Multiply-adds are those of forward; dx
and dweight take as many each, so backward costs twice as much. The mistakes are those of [the
museum](museum.md), and the letters and words those of [the glossary](glossary.md).
`python docs/cheat_sheet.py` makes all of these pages.
"""

HTML = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>minicnn: cheat sheet</title>
<style>
@page { size: A4; margin: 10mm 12mm; }
body { margin: 0; }
pre { margin: 0 auto; width: max-content; font: 7.5pt/8.6pt "DejaVu Sans Mono", monospace; }
</style>
<pre>
{sheet}
</pre>
</html>
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
        softmax_cross_entropy, "(N, O)", "()", "nothing: it returns dz", "losses", [1, 2, 3],
        "dz = -1/(N p) at the label, without softmax's Jacobian",
        "cross_entropy_jacobian_forgotten",
    ),
    Entry(
        squared_error, ANY, "()", "nothing: it returns dy", "losses", [7, 8],
        "t - y for y - t", "squared_error_opposite_sign",
    ),
]  # fmt: skip

NOTES = {
    "windows": "what tap (i, j) of output (p, q) reads: row p*S + i*D, column q*S + j*D of the "
    "padded image",
    "OH": "floor((H + top + bottom - D*(KH - 1) - 1) / S) + 1, and likewise OW",
    "M": "the numbers that a mean is over: N*H*W in a channel, all entries of a prediction",
    "[...]": "around a condition, as in [k = t[n]]: 1 where it holds, else 0",
}

LETTERS = {
    "A": "the weight matrix of a linear layer, in code `weight`; in Winograd's form $A$, $B$ "
    "and $G$ are powers of points, or their inverse",
    "B": "in Winograd's form, see $A$",
    "C": "channels of the image; $c$ is one of them",
    "D": "dilation, the distance of two taps",
    "E": "expected value",
    "F": "the fans of a layer, where both are the same",
    "G": "groups of channels; in Winograd's form, see $A$",
    "H": "height, the rows of an image; $h$ is one of them; for derivatives, $h$ is a small step",
    "I": "inputs of a linear layer; in bold, the identity matrix",
    "J": "Jacobian, the matrix of the derivatives of a map",
    "K": "kernel of a convolution, in code `weight`; it has $KH$ rows and $KW$ columns",
    "L": "loss, one number",
    "M": "numbers that a mean is over; $m$ is one of them, or any output; in SGD the momentum, in "
    "Adam the mean; in Winograd's form the products of $U$ and $V$",
    "N": "images of a batch; $n$ is one of them",
    "O": "outputs: features, filters or classes; $o$ is one of them",
    "P": "rows or columns of padding, if all sides have as many; else top, bottom, left and right",
    "Q": "projection, in batch normalisation",
    "R": "output rows that are computed as one product",
    "S": "stride",
    "T": "matrix of a convolution; as an exponent, transposed",
    "U": "in Winograd's form, the values of the kernels at the points",
    "V": "two kernels as one; in Winograd's form what $U$ is multiplied by",
    "W": "width, the columns of an image; $w$ is one of them, or a single weight",
    "X": "$x$ as a matrix, input of a layer; likewise $Y$, its output",
    "i": "$(i, j)$ is a tap, a place in the kernel; $i$ alone an input, $j$ any index",
    "k": "a class or an entry; in SGD and Adam the number of the step",
    "l": "the number of a layer, from 1",
    "p": "$(p, q)$ is an output's place in the image; in softmax and dropout $p$ is a probability",
    "s": "the inverse of the standard deviation, in code `inverse_std`",
    "t": "target: a label, or what should be predicted",
    "v": "what an optimizer keeps: in SGD the velocity, in Adam the mean of the squares; "
    "in Winograd's form $(u, v)$ is a tap",
    "z": "logits, or what goes into an activation",
    r"\sigma": "the sigmoid",
    r"\star": "cross-correlation",
    r"\ast": "convolution, the true one: the kernel is rotated",
}
"""Capital letters mean one thing on all pages, and so do s, t and v."""

GLOSSARY = {
    "activation": ("a function of each entry, such as ReLU", "activations"),
    "batch": ("the examples that one step looks at", "chain-rule"),
    "bias": ("a number that is added to every output of a feature or filter", "linear"),
    "bias correction": ("division that makes running means right from the first step on", "adam"),
    "body": ("the layers that a shortcut leads around", "residual"),
    "cache": ("a small fast memory that keeps what was used last", "fast-convolution"),
    "central difference": ("the slope between a step to the right and one to the left", "checking"),
    "channel": ("one of the planes of an image, such as its red", "channels"),
    "clipping": ("shortening all gradients by one factor", "sgd"),
    "col2im": ("adds the gradient of what each tap read to the pixel that it read", "col2im"),
    "columns": ("the windows of an image as columns of a matrix", "im2col"),
    "convolution": ("here a cross-correlation; a true one rotates the kernel", "cross-correlation"),
    "cross-entropy": ("minus the logarithm of the label's probability", "softmax-cross-entropy"),
    "dilation": ("the distance of two taps, in pixels", "strides"),
    "dropout": ("setting entries to 0 at random in training", "dropout"),
    "fan": ("how many products make an output, or in how many outputs an input is", "glorot"),
    "filter": ("the kernels that make one channel of the output", "convolution"),
    "full convolution": ("one whose kernel goes wherever it touches the image", "convolution"),
    "gradient": ("dx, the derivatives of the loss with respect to the entries of x", "chain-rule"),
    "groups": ("convolutions side by side, each on its share of the channels", "strides"),
    "im2col": ("copies each window of an image into a column", "im2col"),
    "inference": ("using a network without training it", "batch-norm-inference"),
    "Jacobian": ("the derivatives of all outputs with respect to all inputs", "activations"),
    "kernel": ("the small array of weights that slides over an image", "cross-correlation"),
    "kink": ("a place where the slopes to the left and to the right differ", "checking"),
    "label": ("the number of the right class", "one-pass"),
    "layer": ("turns one array into another, and back: forward and backward", "chain-rule"),
    "learning rate": ("what a step multiplies the gradient by", "one-pass"),
    "logits": ("z, what goes into softmax", "one-pass"),
    "loss": ("one number that says how wrong the outputs are", "chain-rule"),
    "momentum": ("the share of the last velocity that a step keeps", "sgd"),
    "padding": ("a border of constants, zeros for a convolution", "strides"),
    "parameter": ("a weight or bias, which training changes", "chain-rule"),
    "pooling": ("the mean or the maximum of each window", "average-pooling"),
    "receptive field": ("the pixels that an output depends on", "two-convolutions"),
    "running mean": ("a mean in which older values count less and less", "batch-norm-inference"),
    "saturation": ("where an activation is so flat that little gradient passes", "activations"),
    "schedule": ("how the learning rate changes over the training", "sgd"),
    "shortcut": ("the way around a body: x is added to what the body returns", "residual"),
    "slab": ("the rows of an image that the windows of one block see", "fast-convolution"),
    "softmax": ("makes probabilities of logits: exp, divided by the sum", "softmax-cross-entropy"),
    "stride": ("how many pixels a window moves by", "strides"),
    "subgradient": ("a slope between those to the left and to the right", "max-pooling"),
    "tap": ("(i, j), a place in the kernel", "chain-rule"),
    "tape": ("what the layers save in forward, for backward", "one-pass"),
    "tile": ("outputs that are computed together, and the entries that they see", "winograd"),
    "tie": ("several largest entries in one window", "max-pooling"),
    "transposed convolution": ("the dx of a convolution, as a layer", "transposed-convolution"),
    "upstream gradient": ("dy, the gradient of a layer's output", "chain-rule"),
    "warm-up": ("a learning rate that rises at the start", "sgd"),
    "weight decay": ("making each weight smaller in each step", "sgd"),
    "window": ("the pixels that the taps of one output read", "chain-rule"),
}
"""A word: its meaning, and the page that explains it."""


def sheet() -> str:
    lines = [line for entry in ENTRIES for line in block(entry)]
    return "\n".join([*lines, "", *(f"{word:8} {meaning}" for word, meaning in NOTES.items())])


def page() -> str:
    """The sheet, as Markdown."""
    return f"{INTRO}\n```text\n{sheet()}\n```\n"


def print_page() -> str:
    """The sheet, as HTML that prints on one page."""
    return HTML.replace("{sheet}", html.escape(sheet(), quote=False))


def glossary() -> str:
    """The letters and words of all pages, as Markdown."""
    rows = [
        "# Glossary",
        "",
        "Letters and words that the pages use in a sense of their own. dx is the gradient of x.",
        "`python docs/cheat_sheet.py` makes this page.",
        "",
        "| letter | meaning |",
        "|---|---|",
        *(f"| ${letter}$ | {meaning} |" for letter, meaning in LETTERS.items()),
        "",
        "| word | meaning |",
        "|---|---|",
    ]
    for word, (meaning, name) in sorted(GLOSSARY.items(), key=lambda item: item[0].lower()):
        rows.append(f"| [{word}]({where(name).relative_to(PAGE.parent)}) | {meaning} |")
    return "\n".join(rows) + "\n"


def where(name: str) -> Path:
    """The page of this name."""
    path = PAGE.parent / "derivations" / f"{name}.md"
    return path if path.exists() else PAGE.parent / f"{name}.md"


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
    for path, text in {PAGE: page(), PRINT: print_page(), GLOSSARY_PAGE: glossary()}.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
