"""Makes a notebook in English and one in Chinese from each example: python notebooks/make.py

The code is the script's. Before each statement of its `main` come the functions and constants that
it is the first to need, also from gallery.py. A function that `main` calls is a section, and its
body is a cell if it has no arguments and its names mean nothing else in the script. The text comes
from the docstrings, and from comments above constants and in `main`. zh.json translates each
paragraph; tests/test_notebooks.py names those that it lacks.
"""

import ast
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

NOTEBOOKS = Path(__file__).parent
EXAMPLES = NOTEBOOKS.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("[0-9]*.py"))
SCRIPT_ONLY = {"args", "keep", "options", "parser", "run"}

INSTALL = """
import importlib.util
from pathlib import Path

if importlib.util.find_spec("minicnn") is None:
    here = Path.cwd()
    around = [folder for folder in (here, *here.parents) if (folder / "minicnn").is_dir()]
    found = [*here.glob("minicnn-*.whl"), *around]
    if not found:
        raise ModuleNotFoundError("put a wheel of minicnn, minicnn-*.whl, beside this notebook")
    %pip install --quiet "{found[0]}"
%matplotlib inline
"""
INSTALL_TEXT = """If minicnn is missing, as on Colab or Kaggle, the next cell installs it: from a
wheel, `minicnn-*.whl`, that you have put beside this notebook, or from the clone around it."""
SETTINGS_TEXT = """These settings are the options of the script: `data="digits"` is its option
`--data digits`."""


class Source:
    """A file, and for each name the statement at its top level that binds it."""

    def __init__(self, path: Path) -> None:
        self.lines = path.read_text("utf-8").splitlines()
        self.tree = ast.parse("\n".join(self.lines))
        self.bound = {name: node for node in self.tree.body for name in bound_by(node)}

    def code(self, node: ast.AST, body_only: bool = False) -> str:
        """Without the docstring; pictures are displayed, not kept as files."""
        starts = [node.lineno, *(part.lineno for part in getattr(node, "decorator_list", []))]
        first = node.body[bool(text_of(node))].lineno if body_only else min(starts)
        lines = self.lines[first - 1 : node.end_lineno]
        if text_of(node) and not body_only:
            start, end = (line - first for line in (node.body[0].lineno, node.body[0].end_lineno))
            lines[start : end + 1 + (not lines[end + 1])] = []  # and an empty line after it
        return re.sub(r'\bkeep\((.+), f?"[^"]+", args\)', r"display(\1)", dedent("\n".join(lines)))

    def comment_above(self, node: ast.stmt) -> str:
        first = last = node.lineno - 1
        while self.lines[first - 1].lstrip().startswith("#"):
            first -= 1
        return " ".join(line.strip(" #") for line in self.lines[first:last])


def text_of(node: ast.AST) -> str:
    can_have_one = isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
    return can_have_one and ast.get_docstring(node) or ""


def names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, context)}


def bound_by(node: ast.stmt) -> set[str]:
    """The names that a statement at the top level binds; gallery.py is read itself."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.ImportFrom) and node.module == "gallery":
        return set()
    imported = [alias for n in ast.walk(node) for alias in getattr(n, "names", [])]
    return names(node, ast.Store) | {alias.asname or alias.name for alias in imported}


def paragraphs(text: str) -> list[str]:
    """Each on one line, with the characters escaped that Markdown would read as markup."""
    parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part]
    return [re.sub(r"(`[^`]*`)|([*<])", lambda m: m[1] or f"\\{m[2]}", part) for part in parts]


class Notebook:
    """The cells made of an example: ("code", text), or ("markdown", paragraphs)."""

    def __init__(self, name: str) -> None:
        self.script, shared = Source(EXAMPLES / f"{name}.py"), Source(EXAMPLES / "gallery.py")
        self.sources = {node: file for file in (self.script, shared) for node in file.tree.body}
        self.order = list(self.sources)
        self.bound = shared.bound | self.script.bound
        self.done, self.imports = set(SCRIPT_ONLY), []
        self.cells: list[tuple[str, str | list[str]]] = []
        self.new_cell = True
        for statement in self.steps():
            self.add_step(statement)
        body, self.cells = self.cells, []
        title, *rest = paragraphs(text_of(self.script.tree))
        self.tell([f"# {title.removesuffix('.')}", *rest, *paragraphs(INSTALL_TEXT)])
        imports = sorted(self.imports, key=self.order.index)
        imported = "\n".join(self.sources[node].code(node) for node in imports)
        self.cells += [("code", INSTALL.strip()), ("code", imported)]
        code = "\n".join(text for kind, text in body if kind == "code")
        if "args." in code:
            self.tell(paragraphs(SETTINGS_TEXT))
            self.cells.append(("code", settings(name, code)))
        self.cells += body

    def steps(self) -> Iterator[ast.stmt]:
        """The statements of main after the options; a loop over functions is a call of each."""
        self.main = self.script.bound["main"]
        is_options = ["parse_args" in ast.unparse(statement) for statement in self.main.body]
        for node in self.main.body[is_options.index(True) + 1 :]:
            over = names(node.iter, ast.Load) if isinstance(node, ast.For) else ()
            values = [getattr(self.bound.get(name), "value", None) for name in over]
            if functions := [f for value in values for f in getattr(value, "elts", [])]:
                yield from (ast.Expr(ast.Call(function, [], [])) for function in functions)
            elif ast.unparse(node) != "print()":
                yield node

    def add_step(self, node: ast.stmt) -> None:
        in_main, step = node in self.main.body, self.step_of(node)
        if in_main and (comment := self.script.comment_above(node)):
            self.tell(paragraphs(comment))
        if step:
            heading = f"## {step.name.replace('_', ' ').capitalize()}"
            self.tell([heading, *paragraphs(text_of(step))])
        alone = step is not None and self.stands_alone(node.value, step)
        self.define(ast.Module(step.body, []) if alone else node, step)
        if alone:
            code = self.script.code(step, body_only=True).removesuffix("\nprint()")
        else:
            code = self.script.code(node) if in_main else ast.unparse(node)
        self.write(re.sub(r"\n    return$", "\n    raise SystemExit", code))
        self.new_cell = step is not None or code.startswith("display(")

    def step_of(self, node: ast.stmt) -> ast.FunctionDef | None:
        """The script's function that this statement of main calls, or keeps the picture of."""
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "keep":
            call = call.args[0]
        called = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        found = self.script.bound.get(called)
        return found if isinstance(found, ast.FunctionDef) else None

    def stands_alone(self, call: ast.Call, step: ast.FunctionDef) -> bool:
        """Whether the body of a step means the same outside its function."""
        taken = set(self.script.bound) | names(self.main, ast.Store)
        returns = isinstance(step.body[-1], ast.Return)
        return not (call.args or returns or names(step, ast.Store) & taken)

    def define(self, node: ast.AST, step: ast.stmt | None) -> None:
        """Writes what `node` needs and no cell has; the text of the step is written already."""
        needed: set[ast.stmt] = set()
        used = names(node, ast.Load)
        while used := {name for name in used - self.done if name in self.bound}:
            found = {self.bound[name] for name in used}
            needed |= found
            self.done |= {name for definition in found for name in bound_by(definition)}
            used = {name for definition in found for name in names(definition, ast.Load)}
        for definition in sorted(needed, key=self.order.index):
            if isinstance(definition, (ast.Import, ast.ImportFrom, ast.Try)):
                self.imports.append(definition)
                continue
            source = self.sources[definition]
            if definition is not step and (text := text_of(definition)):
                self.tell(paragraphs(f"`{definition.name}`: {text}"))
            elif text := source.comment_above(definition):
                self.tell(paragraphs(text))
            self.write(source.code(definition))

    def tell(self, text: list[str]) -> None:
        if not self.cells or self.cells[-1][0] == "code":
            self.cells.append(("markdown", []))
        self.cells[-1][1].extend(text)

    def write(self, code: str) -> None:
        kind, before = self.cells[-1] if self.cells else ("", "")
        if kind == "code" and not self.new_cell:
            is_block = re.match(r"def|class|@", before.split("\n\n\n")[-1])
            gap = "\n\n\n" if is_block or re.match(r"def|class|@", code) else "\n"
            code = self.cells.pop()[1] + gap + code
        self.cells.append(("code", code))
        self.new_cell = False


def settings(name: str, code: str) -> str:
    """The options that the code reads, with their defaults and what they mean."""
    lines = ["from types import SimpleNamespace", "", "args = SimpleNamespace("]
    for option in importlib.import_module(name).options()._actions:
        if re.search(rf"\bargs\.{option.dest}\b", code):
            default = json.dumps(option.default).replace("null", "None")
            meaning = re.sub(rf" \(default: {option.default}\)", "", option.help)
            choices = f"; one of {', '.join(option.choices)}" if option.choices else ""
            lines.append(f"    {option.dest}={default},  # {meaning}{choices}")
    return "\n".join([*lines, ")"])


def as_json(cells: list[tuple[str, str | list[str]]], chinese: dict[str, str] | None) -> str:
    """The file of a notebook. A paragraph without a translation stays English."""
    made = []
    for number, (kind, text) in enumerate(cells):
        if kind == "markdown":
            text = "\n\n".join(chinese.get(part, part) if chinese else part for part in text)
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
        cell |= {"execution_count": None, "outputs": []} if kind == "code" else {}
        made.append(cell | {"source": text.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def files() -> dict[Path, str]:
    """All that this script writes."""
    chinese = json.loads((NOTEBOOKS / "zh.json").read_text("utf-8"))
    examples = {f"{name}.ipynb": Notebook(name).cells for name in NAMES}
    languages = {"en": None, "zh": chinese}
    return {
        NOTEBOOKS / language / file: as_json(cells, translations)
        for language, translations in languages.items()
        for file, cells in examples.items()
    }


if __name__ == "__main__":
    sys.path.insert(0, str(EXAMPLES))
    for path, content in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, "utf-8")
