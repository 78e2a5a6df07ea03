"""The pages of the repository, laid out for Sphinx under their names on the site.

docs/derivations/linear.md is the page derivations/linear, and docs/zh/derivations/linear.md the
page of that name in Chinese. A link to what is not translated leads to the English page, and a link
to a file that is no page, such as a module, to an English page that shows the file.
"""

import functools
import importlib
import posixpath
import re
import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = {
    "en": {
        "README.md": "index",
        "examples/README.md": "examples",
        "benchmarks/README.md": "benchmarks",
        "CONTRIBUTING.md": "contributing",
        "CHANGELOG.md": "changelog",
    },
    "zh": {"README.zh.md": "index"},
}
FOLDERS = {"en": {"docs": "", "benchmarks/results": "benchmarks/"}, "zh": {"docs/zh": ""}}
ROOTS = {"en": "", "zh": "zh/"}
WORDS = {
    "en": ["Reading order", "Practice", "To look up", "Open this page's example, number by number"],
    "zh": ["阅读顺序", "实践", "查阅", "逐个数字打开本页的例子"],
}
TO_LOOK_UP = ["api/index", "checking-reference", "glossary", "contributing", "changelog"]
MODULES = ["layers", "losses", "optimizers", "adam", "initializers", "models", "zoo", "training"]
MODULES += ["datasets", "gradcheck", "explain", "use", "runs", "plotting", "reference"]
API = """# API

The public names of each module. The most used are also in `minicnn`, as in
`from minicnn import Conv2D, fit`.

| module | names |
|---|---|
"""
LINK = re.compile(r'(\]\(|src=")([^)\s"#]+)(#[^)\s"]*)?(?=[)"])')


@functools.cache
def names(language):
    """The name on the site of each file that is a page in this language."""
    found = {path: n for path, n in FILES[language].items() if (REPOSITORY / path).exists()}
    for folder, prefix in FOLDERS[language].items():
        for file in (REPOSITORY / folder).rglob("*.md"):
            path = file.relative_to(REPOSITORY).as_posix()
            if language == "zh" or not path.startswith("docs/zh/"):
                found[path] = prefix + path.removeprefix(f"{folder}/").removesuffix(".md")
    return found


class Pages:
    """Lays the pages of a language out in `folder`.

    explained: the pages whose example the explainer opens
    files: the files and folders that are no pages, but linked to
    """

    def __init__(self, language, folder, explained):
        self.language, self.folder, self.explained = language, folder, explained
        self.root, self.names, self.files = ROOTS[language], names(language), set()
        for path, name in self.names.items():
            self.write(name, self.text(path, name))
        if language == "en":
            self.write_api()

    def write(self, name, text):
        path = self.folder / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def text(self, path, name):
        """A page as Sphinx gets it."""
        text = (REPOSITORY / path).read_text("utf-8")
        if path.startswith("benchmarks/results/"):
            picture = Path(path).stem + ".png"
            title = name.removeprefix("benchmarks/")
            text = f"# {title}\n\n{text}\n![The numbers of the table as a picture]({picture})\n"
        text = LINK.sub(lambda link: link[1] + self.target(link, path, name), text)
        if name in self.explained:
            title, length, rest = text.split("\n\n", 2)
            link = self.beside(f"explained/{name}.html", name)
            text = "\n\n".join([title, length, f"[{WORDS[self.language][3]}]({link})", rest])
        if name == "index":
            text += self.contents()
        if name == "benchmarks":
            text += toctree(sorted(n for n in self.names.values() if n.startswith(f"{name}/")))
        return text

    def target(self, link, path, name):
        """Where a link of the file `path` leads from the page `name`."""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[2]))
        if not (REPOSITORY / target).exists():  # not translated yet
            target = target.replace("docs/zh/", "docs/", 1)
        if "://" in link[2] or not (REPOSITORY / target).exists():
            return link[0].removeprefix(link[1])
        for file in ("README.md", "__init__.py"):  # which stand for a folder
            if (REPOSITORY / target / file).exists():
                target = f"{target}/{file}"
        if target in self.names:
            return f"/{self.names[target]}.md{link[3] or ''}"
        for language, root in ROOTS.items():
            if page := names(language).get(target):
                return self.beside(f"{root}{page}.html", name)
        if target.endswith((".png", ".svg")):
            (self.folder / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / target, self.folder / target)
            return f"/{target}"
        self.files.add(target)
        return self.beside(url(target), name)

    def beside(self, place, name):
        """A link of the page `name` to what Sphinx knows nothing of; it leaves these alone."""
        return f"site:{posixpath.relpath(place, posixpath.dirname(self.root + name) or '.')}"

    def contents(self):
        """The pages in the order of the README's table, those of practice, and those to look up."""
        readme = (REPOSITORY / "README.md").read_text("utf-8")
        table = readme.partition("| page | module |")[2].partition("\n\n")[0]
        order = re.findall(r"\]\(docs/([\w/-]+)\.md\)", re.sub(r" \|.*", "", table))
        there = {*self.names.values()} | ({"api/index"} if self.language == "en" else set())
        practice = {n for n in there if "benchmarks/" not in n} - {"index", *order, *TO_LOOK_UP}
        groups = zip(WORDS[self.language], (order, sorted(practice), TO_LOOK_UP))
        return "".join(toctree([n for n in group if n in there], word) for word, group in groups)

    def write_api(self):
        """A page for each module, and one that lists their public names."""
        rows = ""
        for module in [importlib.import_module(f"minicnn.{name}") for name in MODULES]:
            own = [n for n, item in vars(module).items() if is_public(n, item, module.__name__)]
            public = sorted(getattr(module, "__all__", own))
            links = [f"{{py:obj}}`{name} <{module.__name__}.{name}>`" for name in public]
            rows += f"| [{module.__name__}]({module.__name__}.md) | {', '.join(links)} |\n"
            members = f".. automodule:: {module.__name__}\n   :members: {', '.join(public)}"
            title = f"# {module.__name__}\n\n"
            self.write(f"api/{module.__name__}", title + f"```{{eval-rst}}\n{members}\n```\n")
        self.write("api/index", API + rows + toctree([f"api/minicnn.{name}" for name in MODULES]))
        modules = (REPOSITORY / "minicnn").rglob("*.py")
        self.files |= {path.relative_to(REPOSITORY).as_posix() for path in modules}


def url(path):
    """Where the site has a file that is no page: as it is, or shown on a page."""
    return f"files/{path}" if path.endswith((".html", ".ipynb")) else f"source/{path}.html"


def is_public(name, item, module):
    return callable(item) and item.__module__ == module and not name.startswith("_")


def toctree(pages, caption=None):
    options = ":hidden:\n" + (f":caption: {caption}\n" if caption else "")
    lines = "".join(f"/{page}\n" for page in pages)
    return f"\n\n```{{toctree}}\n{options}\n{lines}```\n"
