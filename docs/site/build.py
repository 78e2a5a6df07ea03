"""Builds the site: python docs/site/build.py

It has the pages of the repository and an API reference from its docstrings, in English, and in zh/
the pages that are translated. Its files are static: they open from a disk and from any folder of a
server, and ask nothing of another host. A warning of Sphinx is an error, and so is a link that
leads nowhere.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from links import problems
from pages import FOLDERS, REPOSITORY, Pages, names, url
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import JsonLexer, PythonLexer, YamlLexer
from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent


def build(out):
    if out.exists() and not (out / ".nojekyll").exists():
        sys.exit(f"{out} is no site that was built here: give another --out, or remove it")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / ".nojekyll").touch()  # without it, GitHub Pages leaves out _static
    explained = explain_examples(out / "explained/derivations")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2) as pool:
        pages = [Pages(language, Path(folder, language), explained) for language in FOLDERS]
        status = pool.map(run_sphinx, pages, repeat(out))  # which runs only once in a process
        for path in set().union(*[each.files for each in pages]):
            add(path, out)
        if any(status):
            sys.exit("Sphinx warned of the above")


def explain_examples(folder):
    """The names of the pages whose example the explainer has opened in `folder`."""
    command = [sys.executable, REPOSITORY / "docs/worked_examples.py", "--out", folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {f"derivations/{path.stem}" for path in folder.iterdir()}


def run_sphinx(pages, out):
    twins = set(names("en").values()) & set(names("zh").values())
    language = {"en": "en", "zh": "zh_CN"}[pages.language]
    settings = {"language": language, "html_context": {"twins": twins}}
    place, temporary = out / pages.root, pages.folder / ".doctrees"
    app = Sphinx(
        *(pages.folder, HERE, place, temporary, "html", settings, None),
        warningiserror=True,
        parallel=2,
    )
    app.build()
    return app.statuscode


def add(path, out):
    """Adds a file or folder that is no page: as it is, or shown, with an anchor for each line."""
    source, place = REPOSITORY / path, out / url(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    if url(path).startswith("files/"):
        shutil.copy(source, place)
        return
    root = "../" * (path.count("/") + 1)
    if source.is_dir():
        files = [f"{path}/{file.name}" for file in sorted(source.iterdir()) if file.is_file()]
        link = '<p><a href="{}">{}</a></p>'
        body = "\n".join(link.format(root + url(file), Path(file).name) for file in files)
        for file in files:
            add(file, out)
    else:
        lexer = {".json": JsonLexer, ".yml": YamlLexer}.get(source.suffix, PythonLexer)
        body = highlight(source.read_text("utf-8"), lexer(), HtmlFormatter(linespans="L"))
    template = (HERE / "source.html").read_text("utf-8")
    place.write_text(template.format(path=path, root=root, body=body), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default="build/site", help="(default: build/site)")
    out = parser.parse_args().out.resolve()
    build(out)
    found = problems(out)
    sys.exit("\n".join(found) or print(f"{out}/index.html"))
