"""CONTRIBUTING.md's layer works: its blocks are written, listed, checked and tested as it says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_equations import equations, faults

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text()
SETUP, *BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The package and its tests, with what the page adds."""
    root = tmp_path_factory.mktemp("clone")
    unwanted = shutil.ignore_patterns("__pycache__")
    for folder in "minicnn", "tests":
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=unwanted)
    shutil.copy(REPOSITORY / "setup.cfg", root)
    for language, block in BLOCKS:
        if language == "diff":
            for change in re.split(r"^--- ", block, flags=re.MULTILINE)[1:]:
                name, *hunks = change.split("\n@@\n")
                for hunk in hunks:
                    add_lines(root / name, hunk.splitlines())
        elif language == "python" and not block.startswith(">>>"):
            name, content = re.fullmatch(r"# (\S+)\n(.*)", block, re.DOTALL).groups()
            assert not (root / name).exists()
            (root / name).write_text(content)
    return root


def add_lines(path, lines):
    """Applies one hunk of a diff, whose context has to be in one place only."""
    old = "".join(f"{line[1:]}\n" for line in lines if line[0] == " ")
    new = "".join(f"{line[1:]}\n" for line in lines)
    content = path.read_text()
    assert content.count(old) == 1, f"{path.name} has not one place with\n{old}"
    path.write_text(content.replace(old, new))


def run(root, *command):
    env = {name: text for name, text in os.environ.items() if name != "PYTEST_ADDOPTS"}
    env |= {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.run(
        command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


def test_the_examples_print_what_the_page_says(clone):
    blocks = [block for language, block in BLOCKS if block.startswith(">>>")]
    (clone / "examples.txt").write_text("\n".join(blocks))
    run(clone, sys.executable, "-W", "error", "-m", "doctest", "examples.txt")
    assert sum(block.count(">>>") for block in blocks) > 3


def test_the_commands_find_the_layer_and_its_tests(clone):
    assert SETUP[0] == "sh"  # which .ci/run runs
    (commands,) = (block for language, block in BLOCKS if language == "sh")
    test, check = commands.strip().split(" && ")
    assert "3 passed" in run(clone, sys.executable, "-m", *test.split())
    assert check == "minicnn check"  # without the whole networks, which take most of its time
    check = "from minicnn import cli, models; models.MODELS.clear(); cli.main(['check'])"
    table = run(clone, sys.executable, "-c", check)
    assert re.search(r"^LeakyReLU\(slope=0\.1\)\n +x .* ok$", table, re.MULTILINE)


def test_the_equations_carry_their_numbers(clone):
    source = (clone / "minicnn" / "layers" / "leaky_relu.py").read_text()
    assert equations(source) == [1, 2] and not faults(source)


def test_the_code_passes_the_linter(clone):
    pytest.importorskip("ruff")
    shutil.copy(REPOSITORY / "pyproject.toml", clone)
    names = re.findall(r"^(?:#|---) (\S+\.py)$", PAGE, re.MULTILINE)
    assert len(names) == 4
    for command in ("check",), ("format", "--check"):
        run(clone, sys.executable, "-m", "ruff", *command, *names)


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)]+)\)", PAGE))
def test_links_lead_somewhere(path):
    assert (REPOSITORY / path).exists()


def test_files_that_are_named_exist():
    named = re.findall(r"\b(?:minicnn|docs|tests|examples)/[\w/]*(?:\.\w+)?", PAGE)
    missing = {path for path in named if not (REPOSITORY / path).exists()}
    assert missing <= {"minicnn/layers/leaky_relu.py", "tests/layers/test_leaky_relu.py"}
