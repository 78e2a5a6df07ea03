"""An equation has one number, and a letter one meaning: in a module, on the lines that compute it,
on the pages and on the cheat sheet."""

import ast
import importlib.util
import io
import re
import tokenize
from pathlib import Path

import pytest

import minicnn

DOCS = Path(__file__).parents[2] / "docs"
MODULES = sorted(Path(minicnn.__file__).parent.rglob("*.py"))
PAGES = {path.stem: path for path in sorted(DOCS.rglob("*.md")) if DOCS / "zh" not in path.parents}
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


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


NAMES = {"K": "weight", "A": "weight", "a": "weight", "b": "bias", "L": "loss", "Y": "y"}
NAMES |= {"x_l": "y", "k": "keep", "columns": "windows", "padded": "x", "step": "g", "f'(x)": "dx"}
"""The names that modules have for the letters of the pages."""


def named(left):
    """The name of what stands at the left of an equation, the same for a page and a module."""
    left = re.sub(r"\\begin\{\w+\}|\\text\{.*?\}|\\q?quad|\\\\|&|\s", " ", left).strip()
    left = re.sub(r"\(x \\star k\)", "y", left)
    left = re.sub(r"\\hat\s?\{?(\w)\}?", r"\1hat", re.sub(r"\\mathrm\{(\w+)\}", r"\1", left))
    left = left if left in NAMES else re.split(r"[_'(\[ ]", left)[0]
    prefix = "d" if left[0] == "d" and left not in ("dropout",) and len(left) > 1 else ""
    return prefix + NAMES.get(left.removeprefix(prefix), left.removeprefix(prefix))


def of_module(path):
    """Number -> name, for the equations of a module's docstring in which a name is computed."""
    found = {}
    for line in (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines():
        match = re.search(r"(?:^|\s)(\w+)(?:\[[^]]*\]|\(\w+\))? \+?= .*  \((\d+)\)$", line)
        if match:
            found[int(match[2])] = named(match[1].replace("_hat", "hat"))
    return found


def formulas(text):
    displayed = re.findall(r"^```math\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    return displayed + re.findall(r"\$([^$\n]+)\$", rest)


def of_page(text):
    """(number, name, module) of each equation of a page; the module is that of the quoted line."""
    modules = {
        number: block.partition("\n")[0].removeprefix("# ")
        for block in CODE.findall(text)
        for number in re.findall(r"\((\d+)\)", " ".join(re.findall(r"  # (\(.*)$", block, re.M)))
        if ">>>" not in block
    }
    for block in formulas(text):
        parts = re.split(r"(?:&& )?\\qquad \((\d+)\)", block)
        for equation, number in zip(parts[::2], parts[1::2]):
            last = re.split(r"\\qquad\\text\{and so\}\\qquad|\\text\{so\}\\qquad", equation)[-1]
            left = re.split(r"(?:\\mathrel\{\+\})?=", last)[0]
            yield int(number), named(left), DOCS.parent / modules[number]


@pytest.mark.parametrize("page", PAGES)
def test_an_equation_has_the_number_of_its_module(page):
    for number, name, module in of_page(PAGES[page].read_text()):
        known = of_module(module)
        if module.stem == "windows":  # whose col2im adds up any columns
            name = name.removeprefix("d")
        if module.stem != "initializers":  # whose equations are solved for a variance
            assert known.get(number, name) == name, f"({number}) of {module.name}"


def test_a_convolution_has_the_same_numbers_on_all_pages_and_on_the_cheat_sheet():
    package = Path(minicnn.__file__).parent
    expected = {1: "y", 2: "dweight", 3: "dwindows", 4: "dx", 5: "dbias"}
    assert of_module(package / "layers/conv.py") == expected
    found = of_module(package / "reference/convolutions.py")
    assert {number: found[number] for number in expected} == expected
    for page in "cross-correlation", "convolution", "strides", "channels", "im2col", "col2im":
        numbers = [(number, name) for number, name, _ in of_page(PAGES[page].read_text())]
        assert numbers and dict(numbers).items() <= expected.items(), page
    sheet = PAGES["cheat-sheet"].read_text().partition("Conv2D")[2].partition("Usual")[0]
    lines = re.findall(r"^ +(\w+).* = .*\((\d)\)$", sheet, re.MULTILINE)
    assert {int(number): named(name) for name, number in lines} == expected


ONLY_ON = {
    "s": {"batch-norm"},
    "t": {"softmax-cross-entropy", "squared-error", "one-pass"},
    "v": {"adam", "sgd", "winograd"},
    "B": {"winograd"},
    "E": {"dropout", "glorot"},
    "F": {"glorot"},
    "Q": {"batch-norm"},
    "R": {"fast-convolution"},
    "U": {"winograd"},
    "V": {"two-convolutions", "winograd"},
}
"""The letters of the glossary that could be mistaken, and the pages that may use them."""


def letters(text):
    """All letters and gradients of letters in the mathematics of a page."""
    for formula in formulas(text):
        plain = re.sub(r"\\(text|math\w+)\{[^}]*\}|\\(begin|end)\{\w+\}|\\[a-zA-Z]+", " ", formula)
        yield from re.findall(r"[A-Za-z]+", plain)


def wrong_letters(page, text, known):
    found = set(letters(text))
    for word in found:
        letter = word.removeprefix("d") or "d"
        if len(letter) == 1 and page not in ONLY_ON.get(letter, {page}):
            yield f"{word} is for {sorted(ONLY_ON[letter])}"
        if letter.isupper() and len(letter) == 1 and letter not in known:
            yield f"{word} is not in the glossary"
    if "dW" in found or re.search(r"\bW ?[_^]|\bW = \D", " ".join(formulas(text))):
        yield "W is the width"
    for code in CODE.findall(text):
        if re.search(r"\bd?W\d?\b", re.sub(r"#.*", "", code)):
            yield "W is the width, in code too"


def glossary():
    spec = importlib.util.spec_from_file_location("cheat_sheet", DOCS / "cheat_sheet.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return {letter.upper() for letter in script.LETTERS} | {"Y"}


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"glossary"}))
def test_a_letter_has_one_meaning(page):
    assert not list(wrong_letters(page, PAGES[page].read_text(), glossary()))


@pytest.mark.parametrize(
    "text",
    [
        "$dW$",
        "$X W^T$",
        "$W_1$",
        "```python\n>>> W = 3\n```",
        "$t$",
        "$v_{i,j}$",
        "$B$",
        "```math\ns x\n```",
    ],
)
def test_a_letter_with_a_second_meaning_is_found(text):
    assert list(wrong_letters("linear", text, glossary()))
