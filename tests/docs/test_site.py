"""The site: each link leads somewhere, nothing comes from another host, and in a real browser all
formulas are set, the search finds pages, and axe and the width of a phone are content."""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SITE = Path(__file__).parents[2] / "docs/site"
spec = importlib.util.spec_from_file_location("links", SITE / "links.py")
links = importlib.util.module_from_spec(spec)
spec.loader.exec_module(links)
PAGES = [
    root + path
    for root in ("", "zh/")
    for path in ("index.html", "derivations/strides.html", "examples.html")
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for library in ("sphinx", "myst_parser", "furo", "sphinx-mathjax-offline"):
        pytest.importorskip(library, reason="needs the extra `site`")
    out = tmp_path_factory.mktemp("site") / "a folder"
    subprocess.run([sys.executable, SITE / "build.py", "--out", out], check=True)
    return out


@pytest.fixture
def show(browser, site):
    """A function that opens a page of the site as a file: (path, width of the screen)."""
    contexts, found = [], []

    def open_page(path, width=1200):
        contexts.append(browser.new_context(viewport={"width": width, "height": 844}))
        page = contexts[-1].new_page()
        page.on("request", lambda r: r.url.startswith("file:") or found.append(r.url))
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on("console", lambda message: found.append(message.text))
        page.goto((site / path).as_uri())
        page.evaluate("() => window.MathJax?.startup.promise")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not found


def test_the_builder_tells_of_each_link_that_leads_nowhere(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/other.html").write_text('<h1 id="there">.</h1><img src="../a.png">')
    (tmp_path / "a.png").touch()
    right = ["a/other.html", "a/other.html#there", "#here", "a.png?v=1", "https://example.org/"]
    wrong = ["missing.html", "a", "a/other.html#missing", "#missing", "../outside/missing.html"]
    anchors = "".join(f'<a href="{link}">.</a>\n' for link in right + wrong)
    remote = '<script\n  src="https://example.org/a.js"></script><img alt="" src="//example.org/a">'
    (tmp_path / "page.html").write_text(f'<p id="here">{anchors}{remote}</p>')
    told = links.problems(tmp_path)
    assert [line.split()[-1] for line in told] == [
        *wrong,
        "https://example.org/a.js",
        "//example.org/a",
    ]
    assert all(line.startswith("page.html: ") for line in told)


class Targets(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.links, self.fetched = [], []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src"):
                (self.links if tag == "a" else self.fetched).append(value)


def test_the_pages_and_what_they_need_are_there(site):
    for path in [*PAGES, "api/minicnn.layers.html", "source/minicnn/layers/conv.py.html"]:
        targets = Targets(site / path)
        urls = targets.fetched + [url for url in targets.links if "://" not in url]
        files = {re.split("[?#]", url)[0] for url in urls} - {""}
        assert len(files) > 3
        assert [file for file in files if not (site / path).parent.joinpath(file).is_file()] == []


def test_each_public_name_is_in_the_reference(site):
    import minicnn

    reference = "".join(path.read_text() for path in (site / "api").glob("minicnn.*.html"))
    missing = [name for name in minicnn.__all__ if f'.{name}">' not in reference]
    assert not missing


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("path", PAGES)
def test_a_page_in_a_browser(path, width, show):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = show(path, width)
    formulas = page.locator(".math")
    assert formulas.count() == page.locator(".math > mjx-container").count()
    assert page.locator("[data-mjx-error]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == width
    found = axe.Axe().run(page, options={"preload": False}).response["violations"]
    assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []


def test_from_the_start_to_the_gradient_of_a_strided_convolution(show):
    page = show("index.html")
    page.get_by_role("link", name="Stride, padding, dilation and groups").first.click()
    assert page.locator("h1").inner_text().startswith("Stride")
    page.get_by_role("link", name="Open this page").click()
    assert page.title().startswith("Stride")


def test_a_page_leads_to_its_translation_and_back(show):
    page = show("derivations/linear.html")
    page.get_by_role("link", name="中文").click()
    assert page.locator("h1").inner_text().startswith("线性层")
    page.get_by_role("link", name="English").click()
    assert page.url.endswith("a%20folder/derivations/linear.html")


@pytest.mark.parametrize(
    "path, words, page_found",
    [
        ("search.html", "strided convolution", "derivations/strides.html"),
        ("search.html", "softmax_cross_entropy", "api/minicnn.losses.html"),
        ("zh/search.html", "线性层", "derivations/linear.html"),
        ("zh/search.html", "权重的梯度", "derivations/linear.html"),
    ],
)
def test_the_search_finds_pages(path, words, page_found, show):
    page = show("index.html")
    page.goto(page.url.replace("index.html", f"{path}?q={words}"))
    page.locator(f'#search-results a[href*="{page_found}"]').first.wait_for(timeout=20_000)
