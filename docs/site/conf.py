"""The settings of Sphinx, how it reads docstrings, and how it searches Chinese."""

import importlib.util
import inspect
import re
from pathlib import Path

from sphinx.search import SearchLanguage

MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent

project = "minicnn"
highlight_language = "none"  # of what is only indented: commands, and equations in docstrings
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.linkcode", "sphinx.ext.mathjax"]

myst_enable_extensions = ["dollarmath", "html_image"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
myst_url_schemes = {"http": None, "https": None, "site": "{{path}}"}

html_theme = "furo"
html_title = "minicnn"
html_static_path = ["site.css", "site.js", str(MATHJAX / "static/mathjax/tex-svg.js")]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
templates_path = ["templates"]
html_copy_source = False
html_show_search_summary = False  # which would be fetched, and a page on a disk may not fetch
html_use_index = False
html_domain_indices = False

mathjax_path = "tex-svg.js"  # which has its letters as outlines, so that no font is fetched
mathjax3_config = {"options": {"enableMenu": False}}  # for which each formula would take the focus

autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True


def linkcode_resolve(domain, info):
    """Where the source of an object stands, for the page of its module in api/."""
    item = importlib.import_module(info["module"])
    try:
        for name in info["fullname"].split("."):
            item = getattr(item, name)
        item = inspect.unwrap(item.fget if isinstance(item, property) else item)
        path = "".join(inspect.getsourcefile(item).rpartition("minicnn/")[1:])
        return f"../source/{path}.html#L-{inspect.getsourcelines(item)[1]}"
    except (AttributeError, TypeError):  # a value
        return None


def as_restructured_text(app, kind, name, item, options, lines):
    """Turns a docstring, which is Markdown with lines `name: meaning`, into what Sphinx expects."""
    first, *blocks = re.split(r"\n(?: *\n)+", "\n".join(lines).strip("\n"))
    lines[:] = "\n\n".join([escaped(first), *map(converted, blocks)]).split("\n") + [""]


def converted(block):
    if block.startswith("    "):
        return "::\n\n" + block
    if all(re.match(r" |[\w, ]+: ", line) for line in block.split("\n")):
        return re.sub(r"^([^ :][^:]*): ", r":\1: ", escaped(block), flags=re.MULTILINE)
    return escaped(block)


def escaped(text):
    return re.sub(r"`([^`]+)`|([*_|\\])", lambda m: f"``{m[1]}``" if m[1] else f"\\{m[2]}", text)


PAIR_OR_WORD = r"(?=([\u4e00-\u9fff]{2}))|([a-zA-Z0-9_]+)"  # in Python and in JavaScript


class Chinese(SearchLanguage):
    """Finds Chinese text by its pairs of neighbouring characters, into which the browser can cut a
    question as well. Sphinx's own class cuts pages into words, but questions not at all.
    """

    lang = "zh"
    language_name = "Chinese"
    js_splitter_code = f"""
        var splitQuery = (query) =>
          [...query.matchAll(/{PAIR_OR_WORD}/g)].map((match) => match[1] || match[2]);"""

    def split(self, text):
        return [pair or word for pair, word in re.findall(PAIR_OR_WORD, text)]


def setup(app):
    app.add_search_language(Chinese)
    app.connect("autodoc-process-docstring", as_restructured_text)
