"""The equations of a module and the lines that compute them carry the same numbers."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import minicnn

MODULES = sorted(Path(minicnn.__file__).parent.rglob("*.py"))


def equations(source):
    """The numbers at the ends of lines of the module's docstring."""
    docstring = ast.get_docstring(ast.parse(source)) or ""
    return [int(number) for number in re.findall(r"  \((\d+)\)$", docstring, re.MULTILINE)]


def tags(source):
    """The numbers in comments: `# (3)`, `# (1), (2)`."""
    comments = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    return {int(number) for comment in comments for number in re.findall(r"\((\d+)\)", comment)}


def faults(source):
    numbers = equations(source)
    in_order = numbers == list(range(1, len(numbers) + 1))
    return [] if in_order and tags(source) == set(numbers) else [numbers, sorted(tags(source))]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_each_equation_is_tagged_and_each_tag_has_its_equation(path):
    assert not faults(path.read_text())


GOOD = '''"""Square.

    y = x**2         (1)
    dx = 2 * x * dy  (2)
"""
y = x * x  # (1)
dx = 2 * x * dy  # (2)
'''


@pytest.mark.parametrize(
    "old, new", [("# (2)", "#"), ("# (2)", "# (3)"), ("  (2)", ""), ("         (1)", "  (3)")]
)
def test_a_tag_that_is_lost_or_renumbered_is_found(old, new):
    assert not faults(GOOD)
    assert faults(GOOD.replace(old, new, 1))


def test_the_modules_with_mathematics_have_equations():
    with_equations = {path.stem for path in MODULES if equations(path.read_text())}
    assert with_equations >= {
        "activations",
        "conv",
        "initializers",
        "linear",
        "losses",
        "optimizers",
        "pooling",
        "reshaping",
        "sequential",
        "windows",
    }
