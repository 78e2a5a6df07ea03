"""What the pages under docs say is what happens: examples, quotations, numbers and links.

Display mathematics has to be in ```math blocks, which GitHub takes as they are. In `$` it applies
Markdown first: `BREAKS` is what does not survive that.
"""

import ast
import doctest
import functools
import importlib.util
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from minicnn import Linear, Sequential
from minicnn.gradcheck.check import planned_checks
from minicnn.gradcheck.museum import FAULTS

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted((REPOSITORY / "docs").rglob("*.md"))
DERIVATIONS = REPOSITORY / "docs" / "derivations"
SECTIONS = ["By hand", "In general", "In code", "The check"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$([^$\n]+)\$")
MATRIX = re.compile(r"\\begin\{([pbv]?matrix)\}(.*?)\\end\{\1\}", re.DOTALL)
PYTHON = {r"\cdot": "*", r"\times": "*", "^": "**", "{,}": "", "{": "(", "}": ")"}
FUNCTIONS = {"exp": math.exp, "ln": math.log, "sqrt": math.sqrt, "e": math.e}
BREAKS = {
    r"\\[^\w\s]": "a backslash before punctuation: a ```math block keeps it",
    r"\*": r"a star: use \cdot",
    r"(?<!\w)_(?!\s)": "an underscore that can open italics: put a letter before it",
    r"(?<! )[<>]|[<>](?! )": "< or > without spaces",
    r"\|": r"a bar, which divides the cells of a table: use \lvert, \mid",
    r"^\s|\s$": "a space beside the dollar",
}


def line_of(text, match):
    return text.count("\n", 0, match.start()) + 1


def blocks(text, language):
    """(line of the first line, content) of each block with this language."""
    assert text.count("```") == 2 * len(FENCE.findall(text)), "a fence that is indented or not shut"
    return [(line_of(text, m) + 1, m[2]) for m in FENCE.finditer(text) if m[1] == language]


def prose(text):
    """The text without code, with the same number of lines."""
    text = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    return re.sub(r"`[^`\n]+`", "``", text)


def formulas(text):
    """(line, TeX) of all mathematics, without the spacing of lines, as in `\\\\[1ex]`."""
    rest = prose(text)
    found = blocks(text, "math") + [(line_of(rest, m), m[1]) for m in INLINE.finditer(rest)]
    return [(line, re.sub(r"\\\\\[\w+\]", r"\\\\", tex)) for line, tex in found]


@functools.cache
def run(text):
    """Runs all examples, one after the other: what failed, and the namespace that they leave."""
    failures, namespace = [], {}
    runner = doctest.DocTestRunner(verbose=False)
    for line, code in blocks(text, "python"):
        test = doctest.DocTestParser().get_doctest(code, namespace, "example", "page", line - 1)
        runner.run(test, out=failures.append, clear_globs=False)
        namespace = test.globs
    return failures, namespace


def value(tex):
    """The number that `tex` comes to, or None where it is not plain arithmetic."""
    code = re.sub(r"\\(left|right)\b", "", tex.strip().rstrip(".,;"))
    fraction = r"\\[td]?frac\{([^{}]*)\}\{([^{}]*)\}"
    while re.search(fraction, code):
        code = re.sub(fraction, r"((\1)/(\2))", code)
    for old, new in PYTHON.items():
        code = code.replace(old, new)
    code = re.sub(r"\\(?=[a-z])", " ", re.sub(r"(?<=[\d)])\s*\(", "*(", code)).strip()
    words = set(re.findall(r"[^\d\s.+*/()-]+", code))
    if words - set(FUNCTIONS) or not re.search(r"\d", code) or code.count("(") != code.count(")"):
        return None
    try:
        return float(eval(code, dict(FUNCTIONS)))
    except SyntaxError:
        raise ValueError(f"cannot read the numbers in {tex!r}") from None


def rounding(tex):
    """Half a unit in the last decimal place; 0 for integers."""
    places = max((len(digits) for digits in re.findall(r"\.(\d+)", tex)), default=0)
    return 0.5 * 10.0**-places if places else 0.0


def examples(path, text):
    return [failure.lstrip("*\n") for failure in run(text)[0]]


def quotations(path, text):
    """Each run of lines up to a `...` has to be in the module as it is, indentation apart."""
    for line, code in blocks(text, "python"):
        if ">>>" in code:
            continue
        module, *quoted = code.splitlines()
        if not re.fullmatch(r"# minicnn/[\w/]+\.py", module):
            yield f"{line}: expected examples (>>>) or a first line '# minicnn/....py': {module!r}"
            continue
        source = without_indentation((REPOSITORY / module[2:]).read_text().splitlines())
        at = 0
        for part in without_indentation(quoted).split("\n...\n"):
            part = part.strip("\n")
            found = source.find(f"\n{part}\n", at)
            if found < 0:
                yield f"{line}: not in {module[2:]}, or not in this order: {part!r}"
                break
            at = found + len(part)


def without_indentation(lines):
    return "\n" + "\n".join(line.strip() for line in lines) + "\n"


def equation_numbers(path, text):
    """A number on an equation has to be the tag of a line that the page quotes."""
    comments = re.findall(r"#(.*)", "".join(code for _, code in blocks(text, "python")))
    tags = {tag for comment in comments for tag in re.findall(r"\((\d+)\)", comment)}
    for line, tex in formulas(text):
        for number in re.findall(r"\\qquad \((\d+)\)", tex):
            if number not in tags:
                yield f"{line}: equation ({number}), expected a quoted line with # ({number})"


def matrices(path, text):
    bound = [item for item in run(text)[1].values() if isinstance(item, np.ndarray)]
    for line, tex in formulas(text):
        for _, body in MATRIX.findall(tex):
            rows = [row.split("&") for row in body.strip().removesuffix(r"\\").split(r"\\")]
            if len({len(row) for row in rows}) > 1:
                yield f"{line}: rows of different length in {body.strip()!r}"
                continue
            numbers = [[value(entry) for entry in row] for row in rows]
            if any(number is None for row in numbers for number in row):
                continue
            matrix, tolerance = np.squeeze(numbers), rounding(body) + 1e-9
            same = (np.squeeze(a) for a in bound if np.squeeze(a).shape == matrix.shape)
            if not any(np.allclose(a, matrix, rtol=0, atol=tolerance) for a in same):
                yield f"{line}: no array of the examples is {body.strip()!r}"


def equalities(path, text):
    for line, tex in formulas(text):
        tex = re.sub(r"(\\\\)?\s*&?\s*=", "=", MATRIX.sub("matrix", tex))
        for chain in re.split(r"\\\\|&|,\s|\\q?quad", tex):
            sides = re.split(r"(=|\\approx)", chain)
            for left, relation, right in zip(sides[::2], sides[1::2], sides[2::2]):
                values = value(left), value(right)
                tolerance = 1e-9 + (rounding(right) if relation != "=" else 0)
                if None not in values and not math.isclose(*values, abs_tol=tolerance):
                    yield f"{line}: {left.strip()} is {values[0]:g}, the page has {right.strip()}"


def mathematics(path, text):
    rest = prose(text)
    for number, line in enumerate(rest.splitlines(), 1):
        if "$" in INLINE.sub("", line):
            yield f"{number}: $$ (use a ```math block), or a formula over two lines: {line!r}"
    for match in INLINE.finditer(rest):
        for pattern, reason in BREAKS.items():
            if re.search(pattern, match[1]):
                yield f"{line_of(rest, match)}: {reason}: {match[0]}"
        if not re.search(r"(^|[\s(])$", rest[: match.start()]):
            yield f"{line_of(rest, match)}: expected a space or ( before {match[0]}"
        if not re.match(r"$|[\s.,;:?!)]", rest[match.end() :]):
            yield f"{line_of(rest, match)}: expected a space or punctuation after {match[0]}"
    for line, tex in formulas(text):
        if macros := re.findall(r"\\(?:operatorname|newcommand|def|require|href)\b", tex):
            yield f"{line}: GitHub does not allow {macros}"


def links(path, text):
    rest = prose(text)
    for match in re.finditer(r"\]\(([^)\s#]+)", rest):
        if "://" not in match[1] and not (path.parent / match[1]).exists():
            yield f"{line_of(rest, match)}: there is no {match[1]}"


def sections(path, text):
    if not text.startswith("# "):
        yield "1: expected '# Title' in the first line"
    found = re.findall(r"^## (.+)$", prose(text), re.MULTILINE)
    if path.parent == DERIVATIONS and found != SECTIONS:
        yield f"1: expected the sections {SECTIONS} but found {found}"


CHECKS = [
    examples,
    quotations,
    equation_numbers,
    matrices,
    equalities,
    mathematics,
    links,
    sections,
]


def name(item):
    return item.__name__ if callable(item) else str(item.relative_to(REPOSITORY))


@pytest.mark.parametrize("check", CHECKS, ids=name)
@pytest.mark.parametrize("path", PAGES, ids=name)
def test_page(path, check):
    faults = [f"{name(path)}:{fault}" for fault in check(path, path.read_text())]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("folder", [".", "benchmarks", "examples"])
def test_the_links_of_the_readmes(folder):
    path = REPOSITORY / folder / "README.md"
    assert not list(links(path, path.read_text()))


def causes_in(module):
    """What the functions of a module that return a cause return, and the causes that it gives to
    Finding; `...` where an f-string fills something in."""
    for node in ast.walk(ast.parse((REPOSITORY / "minicnn/gradcheck" / module).read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding":
            found = node.args[2:]
        elif isinstance(node, ast.FunctionDef) and ast.unparse(node.returns or []) == "str | None":
            found = [part.value for part in ast.walk(node) if isinstance(part, ast.Return)]
        else:
            continue
        for text in re.findall(r"'(.*?)'", " ".join(map(ast.unparse, found))):
            yield re.sub(r"\{.*?\}", "...", text)


def test_the_page_lists_the_causes_that_the_checker_names():
    rows = re.findall(r"^\| (`.*?) \|", (REPOSITORY / "docs/checking.md").read_text(), re.MULTILINE)
    listed = {cause for row in rows for cause in re.findall(r"`(.+?)`", row)}
    modules = "check.py", "diagnosis.py", "differences.py", "kinks.py", "protocol.py"
    known = {cause for module in modules for cause in causes_in(module)}
    known -= {", ", " or "}  # between a sign and a factor, and between counts
    assert listed == known | {"opposite sign"}
    for cause in {fault.cause for fault in FAULTS} - {None}:
        patterns = (re.escape(each).replace(r"\.\.\.", ".+") for each in listed)
        assert any(re.fullmatch(pattern, cause) for pattern in patterns), cause


def test_the_page_lists_the_checks():
    page = (REPOSITORY / "docs/checking.md").read_text()
    table = page[page.index("| check |") : page.index("All of this happens on the CPU")]
    rows = re.findall(r"^\| ([\w, .]+) \| ", table, re.MULTILINE)[1:]
    net = Sequential(Linear(2, 2))
    checks = planned_checks(net, reference=True)
    listed = [name for row in rows for name in row.split(", ") if name != "..."]
    assert set(listed) == {name.replace("d0.", "d") for name in checks} - {"dbias"}


def test_the_museum_page_holds_what_was_measured():
    spec = importlib.util.spec_from_file_location("curves", REPOSITORY / "docs/museum_curves.py")
    curves = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(curves)
    page = curves.PAGE.read_text()
    written = curves.markdown(json.loads(curves.RESULTS.read_text()))
    assert curves.put_into(page, written) == page
    assert written in page


GOOD = r"""# Title

Half of $dx_{n,i}$ is $2 \cdot (-3) + \frac{1}{2} = -5.5$, and $\exp(-1) \approx 0.37$ ([index](.)).

## By hand

```python
>>> import numpy as np
>>> x = np.array([[1.0, 2], [-3, 4]])
>>> x.sum()
np.float64(4.0)
>>> y = x / 3
```

```math
x = \begin{bmatrix} 1 & 2 \\ -3 & 4 \end{bmatrix}, \quad
\frac{x}{3} = \begin{bmatrix} 0.33 & 0.67 \\ -1 & 1.33 \end{bmatrix}
```

## In general

```math
\begin{aligned}
dx_{n,i} &= 1 + 2 \cdot 2 \\[1ex]
&= 5 \qquad (2)
\end{aligned}
```

## In code

```python
# minicnn/layers/linear.py
grads = {"weight": dy.T @ x}  # (3)
...
weight = self.params["weight"].astype(x.dtype, copy=False)
return (weight.T @ dy.T).T, grads  # (2)
```

## The check
"""


@pytest.mark.parametrize(
    "check, old, new",
    [
        (examples, "64(4.0)", "64(5.0)"),
        (quotations, "(weight.T @ dy.T).T", "dy @ weight"),
        (quotations, "...\n", ""),
        (quotations, "# minicnn/layers/linear.py\n", ""),
        (equation_numbers, r"\qquad (2)", r"\qquad (4)"),
        (matrices, "-3 & 4", "3 & 4"),
        (matrices, "-3 & 4", "-3"),
        (matrices, "0.67", "0.66"),
        (equalities, "= -5.5", "= -5"),
        (equalities, "0.37", "0.36"),
        (equalities, "&= 5", "&= 6"),
        (mathematics, "$dx_{n,i}$", "$$dx_{n,i}$$"),
        (mathematics, "$dx_{n,i}$ is", "$dx_{n,i}$is"),
        (mathematics, "of $dx", "of-$dx"),
        (mathematics, "$dx_{n,i}$", "$dx_{n,\ni}$"),
        (mathematics, "$dx_{n,i}$", r"$dx\,y$"),
        (mathematics, "$dx_{n,i}$", r"$\mathrm{dx}_{n,i}$"),
        (mathematics, "$dx_{n,i}$", "$n<i$"),
        (mathematics, "$dx_{n,i}$", "$|n|$"),
        (mathematics, "$dx_{n,i}$", "$n*i$"),
        (mathematics, "$dx_{n,i}$", "$ n$"),
        (mathematics, "dx_{n,i} &=", r"\operatorname{dx} &="),
        (links, "(.)", "(nowhere.md)"),
        (sections, "# Title", "Title"),
        (sections, "## In code", "## Code"),
    ],
)
def test_a_page_that_is_wrong_is_found(check, old, new):
    path = DERIVATIONS / "page.md"
    assert not [fault for each in CHECKS for fault in each(path, GOOD)]
    assert old in GOOD
    assert list(check(path, GOOD.replace(old, new, 1)))


@pytest.mark.parametrize(
    "tex, expected",
    [
        (r"2 \cdot 3 - \tfrac{\frac{1}{2}}{2}", 5.75),
        (r"2^{3}\left(1 - 2\right),", -8),
        ("1{,}024.", 1024),
        (r"\sqrt{16} \times 2", 8),
        (r"\ln(e^{2})", 2),
        ("2 x", None),
        ("y_{1}", None),
        ("1, 2", None),
    ],
)
def test_value(tex, expected):
    assert value(tex) == expected


def test_numbers_that_cannot_be_read_are_not_passed_over():
    with pytest.raises(ValueError, match="cannot read"):
        value(r"\ln 10")


@pytest.mark.parametrize("fence", ["```python", "  ```"])
def test_a_fence_that_github_would_read_otherwise_is_found(fence):
    with pytest.raises(AssertionError, match="fence"):
        blocks(f"```python\n>>> 1\n{fence}\n", "python")


def test_every_figure_is_made_by_a_script():
    script = ast.parse((REPOSITORY / "docs/figures.py").read_text())
    drawn = {node.name for node in script.body if isinstance(node, ast.FunctionDef)}
    for path in (REPOSITORY / "docs/figures").glob("*.svg"):
        assert path.stem in drawn | {"museum"}, path.name
