"""What the pages under docs say is what happens: examples, quotations, numbers and links.

Display mathematics has to be in ```math blocks, which GitHub takes as they are. In `$` it applies
Markdown first: `BREAKS` is what does not survive that.
"""

import ast
import doctest
import functools
import importlib.util
import inspect
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from minicnn import Linear, Sequential, check_gradients, lenet, softmax_cross_entropy
from minicnn.gradcheck.check import planned_checks
from minicnn.gradcheck.museum import FAULTS

REPOSITORY = Path(__file__).parents[2]
CHINESE = sorted((REPOSITORY / "docs/zh").rglob("*.md"))  # whose content test_chinese.py compares
PAGES = [page for page in sorted((REPOSITORY / "docs").rglob("*.md")) if page not in CHINESE]
DERIVATIONS = REPOSITORY / "docs" / "derivations"
SECTIONS = ["By hand", "In general", "In code", "The check"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$([^$\n]+)\$")
MATRIX = re.compile(r"\\begin\{([pbv]?matrix)\}(.*?)\\end\{\1\}", re.DOTALL)
PYTHON = {r"\cdot": "*", r"\times": "*", "^": "**", "{,}": "", "{": "(", "}": ")"}
FUNCTIONS = {"exp": math.exp, "ln": math.log, "sqrt": math.sqrt, "e": math.e}
NUMBERS = re.compile(r"  # \(\d+\).*$", re.MULTILINE)
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
    """Each run of lines up to a `...` has to be in the module as it is, indentation apart, with the
    numbers of its equations or without them all."""
    for line, code in quoted_blocks(text):
        module, *quoted = code.splitlines()
        if not re.fullmatch(r"# minicnn/[\w/]+\.py", module):
            yield f"{line}: expected examples (>>>) or a first line '# minicnn/....py': {module!r}"
            continue
        source = (REPOSITORY / module[2:]).read_text()
        if not NUMBERS.search(code):
            source = NUMBERS.sub("", source)
        source = without_indentation(source.splitlines())
        at = 0
        for part in without_indentation(quoted).split("\n...\n"):
            part = part.strip("\n")
            found = source.find(f"\n{part}\n", at)
            if found < 0:
                yield f"{line}: not in {module[2:]}, or not in this order: {part!r}"
                break
            at = found + len(part)


def quoted_blocks(text):
    """The blocks that are no examples: lines of a module."""
    return [(line, code) for line, code in blocks(text, "python") if ">>>" not in code]


def without_indentation(lines):
    return "\n" + "\n".join(line.strip() for line in lines) + "\n"


def equation_numbers(path, text):
    """A number on an equation is the tag of a line that the page quotes, and means one thing on it:
    it is given once, and all lines with it are of one module."""
    modules, given = {}, set()
    for line, code in quoted_blocks(text):
        module = code.partition("\n")[0]
        for tag in re.findall(r"\((\d+)\)", " ".join(NUMBERS.findall(code))):
            if modules.setdefault(tag, module) != module:
                yield f"{line}: ({tag}) is also in {modules[tag][2:]}: quote one without numbers"
    for line, tex in formulas(text):
        for number in re.findall(r"\\qquad \((\d+)\)", tex):
            if number not in modules:
                yield f"{line}: equation ({number}), expected a quoted line with # ({number})"
            if number in given:
                yield f"{line}: a second equation ({number})"
            given.add(number)


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
    if path.parent == DERIVATIONS and found not in (SECTIONS, [*SECTIONS, "Try it"]):
        yield f"1: expected the sections {SECTIONS}, and perhaps 'Try it', but found {found}"


def hidden_answers(path, text):
    """Each problem has an answer that GitHub folds, which the examples in it compute."""
    form = r"^<details>\n<summary>\w+</summary>\n\n(.*?)\n\n</details>$"
    answers = re.findall(form, text, re.MULTILINE | re.DOTALL)
    problems = re.findall(r"^\*\*\d+\.\*\*", text.partition("## Try it")[2], re.MULTILINE)
    if not len(problems) == len(answers) == text.count("<details>"):
        yield f"1: {len(problems)} problems, but {len(answers)} answers with empty lines around"
    for number, answer in enumerate(answers, 1):
        if not any(">>>" in code for _, code in blocks(answer, "python")):
            yield f"1: no example computes answer {number}"


CHECKS = [
    examples,
    quotations,
    equation_numbers,
    matrices,
    equalities,
    mathematics,
    links,
    sections,
    hidden_answers,
]


def name(item):
    return item.__name__ if callable(item) else str(item.relative_to(REPOSITORY))


@pytest.mark.parametrize("check", CHECKS, ids=name)
@pytest.mark.parametrize("path", PAGES, ids=name)
def test_page(path, check):
    faults = [f"{name(path)}:{fault}" for fault in check(path, path.read_text())]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", CHINESE, ids=name)
def test_the_links_of_a_chinese_page(path):
    assert not list(links(path, path.read_text()))


def test_the_readme_names_the_modules_whose_numbers_a_page_takes():
    rows = re.findall(
        r"^\| (.*docs/derivations/.*?) \| (.*?) \|", (REPOSITORY / "README.md").read_text(), re.M
    )
    assert len(rows) > 10
    for pages, modules in rows:
        for page in re.findall(r"\((docs/derivations/[\w-]+\.md)\)", pages):
            quoted = quoted_blocks((REPOSITORY / page).read_text())
            numbered = {code.partition("\n")[0][2:] for _, code in quoted if NUMBERS.search(code)}
            assert numbered <= set(re.findall(r"\((minicnn/[\w/]+\.py)\)", modules)), page


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
    page = (REPOSITORY / "docs/checking-reference.md").read_text().partition("## The causes")[2]
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    listed = {cause for row in rows for cause in re.findall(r"`(.+?)`", row)}
    modules = "check.py", "diagnosis.py", "differences.py", "kinks.py", "protocol.py"
    known = {cause for module in modules for cause in causes_in(module)}
    known -= {", ", " or "}  # between a sign and a factor, and between counts
    assert listed == known | {"opposite sign"}
    for cause in {fault.cause for fault in FAULTS} - {None}:
        patterns = (re.escape(each).replace(r"\.\.\.", ".+") for each in listed)
        assert any(re.fullmatch(pattern, cause) for pattern in patterns), cause


def test_the_page_lists_the_options():
    page = (REPOSITORY / "docs/checking-reference.md").read_text()
    table = page.partition("## Your own loss")[0]
    listed = re.findall(r"^\| `(\w+)` \| (\S+) \|", table, re.MULTILINE)
    parameters = inspect.signature(check_gradients).parameters.values()
    options = [(each.name, each.default) for each in parameters if each.kind == each.KEYWORD_ONLY]
    assert [(name, ast.literal_eval(value)) for name, value in listed] == options


def test_the_page_lists_the_checks():
    page = (REPOSITORY / "docs/checking-reference.md").read_text()
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


def test_the_table_of_a_pass_through_lenet_holds_its_shapes():
    page = text_of("one-pass.md")
    rows = re.findall(r"^\| \d+ \| `(.+)` \| (.+) \| (.+) \| (.*) \| (.*) \|$", page, re.MULTILINE)
    net = lenet(np.random.default_rng(0))
    x, tape = np.ones((7, 1, 28, 28), np.float32), []
    for layer in net.layers:
        x, saved = layer.forward(x)
        tape.append(saved)
    shown = []
    _, dx = softmax_cross_entropy(x, np.zeros(7, int))
    for layer, saved in zip(net.layers[::-1], tape[::-1]):
        dy = dx
        dx, grads = layer.backward(dy, saved)
        y, back = f"{dx.shape} → {dy.shape}", f"{dy.shape} → {dx.shape}"
        shapes = [str(grads[name].shape) if grads else "" for name in ("weight", "bias")]
        shown.insert(0, (repr(layer), y.replace("(7,", "(N,"), back.replace("(7,", "(N,"), *shapes))
    shown[0] = (*shown[0][:2], "(N, 6, 28, 28) → not needed", *shown[0][3:])
    assert rows == shown


def test_the_rounding_errors_of_winograd_are_those_of_its_script(monkeypatch):
    """Apart from what depends on the processor's order of additions."""
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    found = importlib.import_module("winograd_errors").table()
    ((_, page),) = blocks(text_of("winograd.md"), "text")
    number = re.compile(r"\d\.\de-\d\d")
    assert number.sub("", found) == number.sub("", page.rstrip("\n"))
    errors = [np.array(number.findall(text), float) for text in (found, page)]
    np.testing.assert_allclose(*errors, rtol=0.5)


def test_the_figure_of_one_pass_has_the_numbers_of_its_page(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    figure = importlib.import_module("figures_chain_rule").one_pass()
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    drawn = sorted(float(text) for text in texts if re.fullmatch(r"-?[\d.]+", text))
    page = run(text_of("one-pass.md"))[1]
    names = "x0 x1 x2 x4 x5 L K b weight bias dx0 dx1 dx2 dx4 dx5 dK db dweight dbias".split()
    numbers = [1.0, *(number for name in names for number in np.ravel(page[name]))]
    np.testing.assert_allclose(drawn, sorted(numbers), rtol=0, atol=0.0005 + 1e-9)


def test_the_list_of_questions_leads_to_each():
    page = (REPOSITORY / "docs/questions.md").read_text()
    asked = re.findall(r"^## (.+)$", page, re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in asked]
    listed = re.findall(r"^- \[([^]]+)\]\(#([\w-]+)\)$", page, re.MULTILINE)
    assert listed == list(zip(asked, anchors))


def test_the_answers_take_their_ratios_from_the_readme():
    readme = (REPOSITORY / "README.md").read_text()
    page = " ".join((REPOSITORY / "docs/questions.md").read_text().split())
    last, first = re.search(r"falls from ([\d.]+) of .* to ([\d.]+) at layer 0", readme).groups()
    update = re.search(r"^0\.weight .* ([\d.]+)$", readme, re.MULTILINE)[1]
    assert f"{last} at the last layer and {first} at the first" in page
    assert f"changes the first layer's weights by {update} of" in page


def text_of(name):
    return (DERIVATIONS / name).read_text()


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
grads = {"weight": matmul(dy.T, x)}  # (3)
...
weight = self.params["weight"].astype(x.dtype, copy=False)
return matmul(weight.T, dy.T).T, grads  # (2)
```

## The check

## Try it

**1.** What is twice 4?

<details>
<summary>Answer</summary>

```python
>>> 2 * 4
8
```

</details>
"""


OTHER_MODULE = """```python
# minicnn/layers/conv.py
dweight += matrix @ dy_block.transpose(0, 2, 1)  # (2)
```
"""


@pytest.mark.parametrize(
    "check, old, new",
    [
        (examples, "64(4.0)", "64(5.0)"),
        (quotations, "matmul(weight.T, dy.T).T", "dy @ weight"),
        (quotations, "...\n", ""),
        (quotations, "# minicnn/layers/linear.py\n", ""),
        (equation_numbers, r"\qquad (2)", r"\qquad (4)"),
        (equation_numbers, r"\qquad (2)", r"\qquad (2) \\ 1 &= 1 \qquad (2)"),
        (equation_numbers, "## The check", f"{OTHER_MODULE}\n## The check"),
        (quotations, "# (3)", "# (5)"),
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
        (sections, "## Try it", "## Exercises"),
        (hidden_answers, "**1.** What", "What"),
        (hidden_answers, "</summary>\n", "</summary>"),
        (hidden_answers, "\n</details>", ""),
        (hidden_answers, ">>> 2 * 4\n8", "8"),
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
    scripts = [ast.parse(path.read_text()) for path in (REPOSITORY / "docs").glob("figures*.py")]
    parts = [node for script in scripts for node in script.body]
    drawn = {node.name for node in parts if isinstance(node, ast.FunctionDef)}
    for path in (REPOSITORY / "docs/figures").glob("*.svg"):
        assert path.stem in drawn | {"museum"}, path.name
