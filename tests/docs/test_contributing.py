"""CONTRIBUTING.md's layer is the one of the package: what the page quotes stands in the files, and
what it shows happens."""

import doctest
import re
from pathlib import Path

import pytest

from minicnn.gradcheck import checklist

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text()
SETUP, *BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
QUOTED = [re.fullmatch(r"# (\S+)\n(.*)", b, re.DOTALL) for _, b in BLOCKS if b.startswith("# ")]
HUNKS = [
    (name, hunk)
    for language, block in BLOCKS
    if language == "diff"
    for change in re.split(r"^--- ", block, flags=re.MULTILINE)[1:]
    for name, *hunks in [change.split("\n@@\n")]
    for hunk in hunks
]


def times(path, text):
    """How often the lines of `text` stand in a file, one after the other."""
    return (REPOSITORY / path).read_text().count(text.rstrip("\n") + "\n")


@pytest.mark.parametrize("path, quoted", [match.groups() for match in QUOTED])
def test_the_code_is_quoted_as_it_is(path, quoted):
    for part in quoted.split("...\n"):
        assert times(path, part) == 1, part


@pytest.mark.parametrize("path, hunk", HUNKS)
def test_the_lines_that_list_the_layer_are_there(path, hunk):
    lines = hunk.splitlines()
    assert times(path, "\n".join(line[1:] for line in lines)) == 1
    assert any(line[0] == "+" and "LeakyReLU" in line for line in lines)


def test_the_page_quotes_and_lists_what_it_says():
    assert [match[1] for match in QUOTED] == [
        "minicnn/layers/activations.py",
        "tests/layers/test_activations.py",
    ]
    assert len(HUNKS) == 5


def test_the_examples_print_what_the_page_says():
    blocks = [block for _, block in BLOCKS if block.startswith(">>>")]
    test = doctest.DocTestParser().get_doctest("".join(blocks), {}, "examples", "page", 0)
    assert len(test.examples) == 8
    assert not doctest.DocTestRunner().run(test).failed


def test_the_commands_find_the_layer_and_its_tests(run_command, monkeypatch):
    assert SETUP[0] == "sh"  # which .ci/run runs
    (commands,) = (block for language, block in BLOCKS if language == "sh")
    test, check = (command.split() for command in commands.split("&&"))
    assert test[0] == "pytest" and all((REPOSITORY / path).exists() for path in test[1:])
    assert check == ["minicnn", "check"]
    monkeypatch.setattr(checklist, "NETWORKS", ())  # which take most of its time
    status, table, _ = run_command(*check[1:])
    assert status == 0
    assert re.search(r"^LeakyReLU\(negative_slope=0\.1\)\n +x .* ok$", table, re.MULTILINE)


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)]+)\)", PAGE))
def test_links_lead_somewhere(path):
    assert (REPOSITORY / path).exists()


def test_files_that_are_named_exist():
    named = re.findall(r"\b(?:minicnn|docs|tests|examples)/[\w/]*(?:\.\w+)?", PAGE)
    assert not [path for path in named if not (REPOSITORY / path).exists()]
