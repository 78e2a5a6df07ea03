"""Counts the lines of code of the core and of what goes beyond it, and holds their budgets.

    python tests/core_lines.py

prints a table and the README's sentence, and exits with status 1 if one is above its budget. Lines
that are blank, or hold nothing but a comment or docstring, do not count.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "minicnn"
CORE = {
    "": "backend checks windows initializers losses optimizers models",
    "layers/": "base linear activations conv pooling reshaping composite sequential",
}
BEYOND = {
    "": "adam zoo",
    "layers/": "normal normalization dropout residual conv_transpose",
}
BUDGET, BEYOND_BUDGET = 1000, 440
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def files(shelf: dict[str, str] = CORE) -> list[str]:
    """The paths of the shelf's files in the package, in reading order."""
    return [f"{folder}{name}.py" for folder, names in shelf.items() for name in names.split()]


def code_lines(source: str) -> int:
    """How many lines of `source` hold code."""
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in LAYOUT
        for line in range(token.start[0], token.end[0] + 1)
    }
    docstrings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    return len(code - docstrings)


def sentence(core: int, beyond: int) -> str:
    """What the README says of both."""
    (top, layers), (more, more_layers) = (
        ([f"{name}.py" for name in names.split()] for names in shelf.values())
        for shelf in (CORE, BEYOND)
    )
    return (
        f"**The core** is {core:,} lines of code: {', '.join(top)} and, in layers/, "
        f"{', '.join(layers[:-1])} and {layers[-1]}. Beyond it are {beyond} lines that LeNet does "
        f"without: {', '.join(more)} and, in layers/, {', '.join(more_layers[:-1])} and "
        f"{more_layers[-1]}."
    )


def main(budget: int = BUDGET, beyond_budget: int = BEYOND_BUDGET) -> int:
    """Prints the table; 1 if one of the two is above its budget, else 0."""
    totals, above = [], []
    for name, shelf, allowed in (
        ("the core", CORE, budget),
        ("what is beyond the core", BEYOND, beyond_budget),
    ):
        lines = {file: code_lines((PACKAGE / file).read_text()) for file in files(shelf)}
        total = sum(lines.values())
        for file, count in [*lines.items(), ("total", total), ("budget", allowed)]:
            print(f"{count:5}  {file}")
        totals.append(total)
        if total > allowed:
            above.append(f"{name} is {total - allowed} lines above its budget")
    print(sentence(*totals))
    print(*above, sep="\n", end="\n" if above else "", file=sys.stderr)
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())
