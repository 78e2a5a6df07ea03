"""Counts the lines of code of the core, and holds its budget.

    python tests/core_lines.py

prints a table and the README's sentence, and exits with status 1 if the core is above the budget.
Lines that are blank, or hold nothing but a comment or docstring, do not count.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "minicnn"
CORE = {
    "": "backend checks windows initializers losses optimizers models",
    "layers/": "base linear activations conv pooling reshaping sequential",
}
BUDGET = 720
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def core_files() -> list[str]:
    """The paths of the core's files in the package, in reading order."""
    return [f"{folder}{name}.py" for folder, names in CORE.items() for name in names.split()]


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


def sentence(total: int) -> str:
    """What the README says of the core."""
    top, layers = ([f"{name}.py" for name in names.split()] for names in CORE.values())
    return (
        f"**The core** is {total} lines of code: {', '.join(top)} and, in layers/, "
        f"{', '.join(layers[:-1])} and {layers[-1]}."
    )


def main(budget: int = BUDGET) -> int:
    """Prints the table; 1 if the core is above the budget, else 0."""
    lines = {file: code_lines((PACKAGE / file).read_text()) for file in core_files()}
    total = sum(lines.values())
    for file, count in [*lines.items(), ("total", total), ("budget", budget)]:
        print(f"{count:5}  {file}")
    print(sentence(total))
    if total > budget:
        print(f"the core is {total - budget} lines above its budget", file=sys.stderr)
    return int(total > budget)


if __name__ == "__main__":
    sys.exit(main())
