"""The core keeps its budget of lines, and is what the README says it is."""

import subprocess
import sys
from pathlib import Path

import core_lines
import pytest

README = Path(__file__).parents[1] / "README.md"
SOURCE = '''"""A module.

Its mathematics.
"""

import math  # and why


class Circle:
    """Round."""

    radius: float
    """In pixels."""

    # the next line takes three
    def area(self, name="""a
string"""):
        """pi * r**2."""
        return (
            math.pi * self.radius**2  # (1)
        )
'''


def test_lines_of_code_are_those_with_neither_docstring_nor_comment_alone():
    counted = [
        "import math  # and why",
        "class Circle:",
        "    radius: float",
        '    def area(self, name="""a',
        'string"""):',
        "        return (",
        "            math.pi * self.radius**2  # (1)",
        "        )",
    ]
    assert set(counted) <= set(SOURCE.splitlines())
    assert core_lines.code_lines(SOURCE) == len(counted)
    assert core_lines.code_lines("") == 0


def test_the_core_keeps_its_budget():
    script = subprocess.run(
        [sys.executable, core_lines.__file__], capture_output=True, text=True, check=False
    )
    *table, sentence = script.stdout.splitlines()
    assert (script.returncode, script.stderr) == (0, "")
    rows = [(file, int(count)) for count, file in map(str.split, table)]
    end = rows.index(("budget", core_lines.BUDGET)) + 1
    for shelf, budget in (
        (rows[:end], core_lines.BUDGET),
        (rows[end:], core_lines.BEYOND_BUDGET),
    ):
        *counts, (_, total), last = shelf
        assert last == ("budget", budget)
        assert total == sum(count for _, count in counts) <= budget
        assert f" {total:,} lines " in sentence


@pytest.mark.parametrize("spare, status", [(1, 0), (0, 0), (-1, 1)])
@pytest.mark.parametrize("beyond", [False, True])
def test_only_above_the_budget_it_fails(beyond, spare, status, capsys):
    shelf = core_lines.BEYOND if beyond else core_lines.CORE
    files = [core_lines.PACKAGE / file for file in core_lines.files(shelf)]
    total = sum(core_lines.code_lines(file.read_text()) for file in files)
    budgets = {"beyond_budget" if beyond else "budget": total + spare}
    assert core_lines.main(**budgets) == status
    name = "what is beyond the core" if beyond else "the core"
    error = f"{name} is 1 lines above its budget\n" if status else ""
    assert capsys.readouterr().err == error


def test_the_readme_calls_the_core_what_the_script_prints(capsys):
    core_lines.main()
    sentence = capsys.readouterr().out.splitlines()[-1]
    assert sentence in " ".join(README.read_text().split())
    order = README.read_text().partition("## Reading order")[2].partition("\n## ")[0]
    assert sentence in " ".join(order.split())


def test_each_layer_is_in_the_core():
    """What is in layers/ and not counted has to be named here, with the reason."""
    rooms = {
        "layers/__init__.py",  # imports alone
        "layers/parameters.py",  # casting, moving and loading alone
        "layers/products.py",  # speed alone
        "layers/winograd.py",  # speed alone
    }
    layers = {f"layers/{path.name}" for path in (core_lines.PACKAGE / "layers").glob("*.py")}
    counted = core_lines.files(core_lines.CORE) + core_lines.files(core_lines.BEYOND)
    assert layers - rooms == {file for file in counted if "/" in file}
