"""The pages of the repository, laid out for Sphinx: each under its name on the site, with links that
lead there.

On the site, docs/derivations/linear.md is derivations/linear.html, and its Chinese twin in docs/zh is
zh/derivations/linear.html. A link to a file that is no page, such as a module, leads to a page that
shows the file; English pages, the API and these files stand in for what is not there in Chinese.
"""

import importlib
import os
import re
import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = {
    "README.md": "index",
    "README.zh.md": "index",
    "examples/README.md": "examples",
    "benchmarks/README.md": "benchmarks",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
}
API = "layers losses optimizers adam initializers models zoo training datasets gradcheck explain use runs reference".split()
LOOKED_UP = ["api/index", "checking-reference", "glossary", "contributing", "changelog"]
WORDS = {
    "en": ("Reading order", "Working with minicnn", "To look up", "Open this page's example, number by number"),
    "zh": ("阅读顺序", "使用 minicnn", "查阅", "逐个数字打开本页的例子"),
}
LINK = re.compile(r'(\]\(|src=")([^)\s"#]+)(#[^)\s"]*)?(?=[)"])')
TOCTREE = "\n\n```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```\n"


def all_pages(language):
    """The name of each page in this language, by its path in the repository."""
    chinese = Path("docs/zh")
    docs = [path.relative_to(REPOSITORY) for path in (REPOSITORY / "docs").rglob("*.md")]
    results = (REPOSITORY / "benchmarks/results").glob("*.md")
    if language == "zh":
        pages = {path: path.relative_to(chinese) for path in docs if chinese in path.parents}
    else:
        pages = {path: path.relative_to("docs") for path in docs if chinese not in path.parents}
        pages |= {Path("benchmarks/results") / p.name: Path("benchmarks") / p.name for p in results}
    names = {path: name.with_suffix("").as_posix() for path, name in pages.items()}
    is_chinese = language == "zh"
    own = {Path(p): n for p, n in NAMES.items() if (p == "README.zh.md") == is_chinese}
    return names | {path: name for path, name in own.items() if (REPOSITORY / path).exists()}


class Layout:
    def __init__(self, language, explained):
        self.language, self.explained = language, explained
        self.pages, self.english = all_pages(language), all_pages("en")
        self.shown = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "minicnn").rglob("*.py")}
        self.copied = set()
