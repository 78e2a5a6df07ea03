"""Each Chinese page has the code, formulas, numbers, links and headings of its English one, block
by block, and is written as Chinese is."""

import importlib.util
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("translation", REPOSITORY / "docs/translation.py")
translation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(translation)
PAGES = translation.pages()

HAN = "[\u4e00-\u9fff]"
HABITS = {
    rf"{HAN}\n *{HAN}": "a new line within a paragraph, which shows as a space",
    rf"{HAN} [A-Za-z0-9`]|[A-Za-z0-9`] {HAN}": "a space between Chinese and Latin",
    rf"{HAN}[,;:?!]|{HAN}\((?![a-zA-Z0-9-])|{HAN}\.(?![\w.])": "punctuation of half width",
}
TERMS = {
    "卷积内核": "卷积核",
    "滤波器": "卷积核",
    "步长": "步幅",
    "填补": "填充",
    "拉平": "展平",
    "特征图": "特征映射",
    "感受域": "感受野",
    "小批次": "小批量",
    "反向传导": "反向传播",
}


def strange(text):
    """What is not written as it should be, each with the reason."""
    text = "\n\n".join(b for b in translation.blocks(text) if not b.startswith("```"))
    text = translation.LINK.sub("]", text)
    for formula in re.finditer(r"(.?)\$[^$\n]+\$(.?)", text):
        if re.match(r"[^\s|]", formula[1]) or re.match(r"\w", formula[2]):
            yield formula[0], "GitHub shows a formula only with a space before and after it"
    for bold in re.finditer(r"(.?)\*\*([^*\n]+)\*\*(.?)", text):
        opens = not re.match(r"\w", bold[1]) or re.match(r"\w", bold[2])
        closes = not re.match(r"\w", bold[3]) or re.search(r"\w$", bold[2])
        if not (opens and closes):
            yield bold[0], "stars between a letter and punctuation: move the punctuation out"
    rest = re.sub(r" ?\$[^$\n]+\$ ?", "F", text)
    for pattern, reason in HABITS.items():
        yield from ((match[0], reason) for match in re.finditer(pattern, rest))
    yield from (
        (word, f"the course says {better}") for word, better in TERMS.items() if word in text
    )
    if "池化" in text.replace("汇聚（池化", "", 1):
        yield "池化", "write 汇聚（池化） once, and then 汇聚"


def test_these_pages_are_translated():
    derivations = (REPOSITORY / "docs" / "derivations").glob("*.md")
    pages = {path.relative_to(REPOSITORY).as_posix() for path in derivations}
    pages |= {"README.md", "docs/checking.md", "docs/museum.md", "examples/README.md"}
    assert not pages - PAGES.keys()


@pytest.mark.parametrize("english", PAGES)
def test_a_page_has_all_that_its_english_one_has(english):
    own = translation.blocks((REPOSITORY / PAGES[english]).read_text())
    others = translation.blocks((REPOSITORY / english).read_text())
    for block, other in zip(own, others):
        found, expected = (
            translation.content(block, PAGES[english]),
            translation.content(other, english),
        )
        assert found == expected, (
            f"{PAGES[english]}: missing {list(expected - found)}, too much "
            f"{list(found - expected)} in:\n{block}\n\n{other}"
        )
    assert len(own) == len(others), f"{PAGES[english]} has {len(own)} blocks, not {len(others)}"


@pytest.mark.parametrize("english", PAGES)
def test_nothing_has_changed_since_it_was_translated(english):
    changed = translation.changed(english)
    assert not changed, f"translate again, then docs/translation.py --done {english}: {changed}"


@pytest.mark.parametrize("english", PAGES)
def test_it_is_written_as_chinese(english):
    faults = [
        f"{what!r}: {why}" for what, why in strange((REPOSITORY / PAGES[english]).read_text())
    ]
    assert not faults, "\n".join([PAGES[english], *faults])


@pytest.mark.parametrize(
    "text",
    [
        "一行\n又一行",
        "用 NumPy写",
        "这是对的.",
        "这里$x$",
        "这里 $x$是",
        "这**很重要：**因为",
        "池化和汇聚（池化）",
        "步长为2",
    ],
)
def test_what_is_written_otherwise_is_found(text):
    assert list(strange(text)), text


@pytest.mark.parametrize(
    "old, new",
    [
        ("3", "4"),
        ("$x$", "$y$"),
        ("`Conv2D`", "`Conv3D`"),
        ("(linear.md)", "(sgd.md)"),
        ("```\nA\n```", "```\nB\n```"),
        ("## ", "### "),
        ("- ", ""),
    ],
)
def test_what_a_translation_loses_is_found(old, new):
    text = "## 3\n\n- $x$ in `Conv2D`, [page](linear.md)\n\n```\nA\n```\n"
    page = "docs/derivations/a.md"
    pairs = zip(translation.blocks(text), translation.blocks(text.replace(old, new)))
    assert old in text and any(
        translation.content(one, page) != translation.content(other, page) for one, other in pairs
    )
