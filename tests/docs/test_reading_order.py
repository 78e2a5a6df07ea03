"""The reading order is one list, and each page of it is a quarter of an hour at most."""

import os
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
TABLE = README[README.index("| page | module |") : README.index("**The core** is")]
ORDER = [
    REPOSITORY / path
    for row in TABLE.splitlines()
    for path in re.findall(r"\]\((docs/[\w/-]+\.md)\)", row.split(" | ")[0])
]
TO_LOOK_UP = {"museum.md", "cheat-sheet.md"}
WORDS_A_MINUTE, MINUTES = 150, 15
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def words(text):
    """What there is to read before the problems: words of prose, in which a formula is one, words
    of code, and five for each line of displayed mathematics."""
    text = text.partition("## Try it")[0]
    fenced = sum(
        5 * len(body.splitlines()) if language == "math" else len(body.split())
        for language, body in FENCE.findall(text)
    )
    prose = re.sub(r"!\[.*?\]\(.*?\)", "", FENCE.sub("", text), flags=re.DOTALL)
    prose = re.sub(r"\$[^$\n]+\$", "x", re.sub(r"\]\([^)]*\)", "]", prose))
    return fenced + len(prose.split())


def head(path):
    """The second paragraph, where a page says how long it takes and what it takes for granted."""
    return path.read_text().split("\n\n")[1]


def shown(path):
    return path.relative_to(REPOSITORY).as_posix()


def test_the_list_has_every_lesson_once():
    assert len(ORDER) == len(set(ORDER))
    assert set((REPOSITORY / "docs/derivations").glob("*.md")) <= set(ORDER)
    assert not {path.name for path in ORDER} & {"reliability.md", "checking-reference.md"}


@pytest.mark.parametrize("number, path", list(enumerate(ORDER)), ids=lambda item: str(item)[-20:])
def test_a_page_names_the_pages_before_and_after_it(number, path):
    expected = {"Before": ORDER[number - 1] if number else None}
    expected["Next"] = ORDER[number + 1] if number + 1 < len(ORDER) else None
    for word, other in expected.items():
        pattern = rf"(?:^|\. ){word}: \[([^]]+)\]\(([^)]+)\)"
        found = re.search(pattern, path.read_text(), re.MULTILINE)
        if path.name != "cheat-sheet.md":
            link = other and os.path.relpath(other, path.parent).replace(os.sep, "/")
            title = other and other.read_text().partition("\n")[0].removeprefix("# ")
            assert (found and found.groups()) == (other and (title, link)), word


@pytest.mark.parametrize("path", [path for path in ORDER if path.name not in TO_LOOK_UP], ids=shown)
def test_a_page_takes_a_quarter_of_an_hour_at_most_and_says_how_long(path):
    minutes = words(path.read_text()) / WORDS_A_MINUTE
    assert minutes <= MINUTES
    said = re.match(r"\*About (\d+) minutes\. You need ", head(path))
    assert said and -0.5 <= int(said[1]) - minutes <= 1.5


@pytest.mark.parametrize("number, path", list(enumerate(ORDER)), ids=lambda item: str(item)[-20:])
def test_what_a_page_takes_for_granted_stands_before_it(number, path):
    if path.name != "cheat-sheet.md":
        needed = re.findall(r"\]\(([^)]+)\)", head(path))
        assert {(path.parent / each).resolve() for each in needed} <= set(ORDER[:number])


def test_words_are_counted():
    prose, mathematics = "Two words, $x + y$ [here](a.md).\n\n", "```math\nx\n```\n\n"
    code, problems = "```python\n>>> 1\n```\n\n", "## Try it\nmore"
    assert words(prose + mathematics + code + problems) == 4 + 5 + 2
