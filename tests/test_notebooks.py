"""The notebooks are what the examples say, in both languages, and run in a kernel."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MADE = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
EXERCISE = r"{number}. {inspect.getdoc(exercise)}\n"  # is a heading in the notebook
BETWEEN = re.compile(r"[\u4e00-\u9fff] +[\w`$]|[\w`$] +[\u4e00-\u9fff]")


@pytest.fixture
def make(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    spec = importlib.util.spec_from_file_location("make", ROOT / "notebooks" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "torch", None)  # which 11 would import, for seconds
    before = set(sys.modules)
    yield module
    for name in set(sys.modules) - before:
        if name == "gallery" or name in module.NAMES:
            del sys.modules[name]


def cells(path, kind):
    notebook = json.loads(path.read_text("utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def sources(path, kind):
    return ["".join(cell["source"]) for cell in cells(path, kind)]


def test_the_notebooks_are_those_that_the_examples_make(make):
    made = make.files()
    assert set(made) == set(MADE) and len(MADE) == 24
    stale = [str(path) for path in MADE if path.read_text("utf-8") != made[path]]
    assert not stale, f"run python notebooks/make.py: {stale} are not what it makes"


def test_each_paragraph_is_translated_and_no_other(make):
    chinese = json.loads((ROOT / "notebooks" / "zh.json").read_text("utf-8"))
    english = {
        paragraph: name
        for name in make.NAMES
        for kind, text in make.Notebook(name).cells
        if kind == "markdown"
        for paragraph in text
    }
    missing = [f"{english[paragraph]}: {paragraph}" for paragraph in english.keys() - chinese]
    assert not missing, f"notebooks/zh.json has no translation of {missing}"
    assert not chinese.keys() - english, "these paragraphs of zh.json stand in no example"


def test_translations_keep_code_and_numbers_and_no_blanks():
    chinese = json.loads((ROOT / "notebooks" / "zh.json").read_text("utf-8"))
    for english, text in chinese.items():
        for kept in (r"`[^`]+`", r"\d+(?:\.\d+)?"):
            lost = set(re.findall(kept, english)) - set(re.findall(kept, text))
            assert not lost, f"{lost} of {english!r} is not in its translation {text!r}"
        assert not BETWEEN.search(re.sub("^#+ ", "", text)), f"a blank beside Chinese: {text!r}"
        assert re.search(r"[\u4e00-\u9fff]", text) and not re.search(r"[\u4e00-\u9fff][,;:?]", text)


@pytest.mark.parametrize("path", MADE, ids=lambda path: f"{path.parent.name}-{path.stem[:2]}")
def test_a_notebook_is_whole_and_without_outputs(path):
    codes = sources(path, "code")
    assert codes == sources(ROOT / "notebooks" / "en" / path.name, "code")
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells(path, "code"))
    assert "%pip install" in codes[0] and not any(
        "import gallery" in c or "from gallery" in c for c in codes
    )
    assert any("display(" in code for code in codes) and not any("keep(" in c for c in codes)
    script = (ROOT / "examples" / f"{path.stem}.py").read_text("utf-8")
    printed = set(re.findall(r'print\(\n?\s*f?"([^"]+)"', script)) - {EXERCISE}
    assert not [text for text in printed if text not in "\n".join(codes)]
    assert sources(path, "markdown")[0].startswith("# ")


# the others take a minute; CI runs tests/execute_notebooks.py
@pytest.mark.parametrize("name, pictures", [("en/02_edges", 1), ("zh/08_train_lenet", 2)])
def test_a_notebook_runs_in_a_kernel(name, pictures):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    from execute_notebooks import executed

    notebook = executed(ROOT / "notebooks" / f"{name}.ipynb")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output for output in outputs if "image/png" in output.get("data", ())]
    assert len(shown) == pictures
