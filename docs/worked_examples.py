"""Opens the worked examples of the derivation pages: python docs/worked_examples.py

Each page works an example by hand and then asks a layer. What that layer is given, in the page's
first `forward` and `backward`, is explained in a page of its own.
"""

import argparse
import contextlib
import doctest
import re
from pathlib import Path

from minicnn.explain import explain

PAGES = Path(__file__).parent / "derivations"
CALL = r".*= ([\w()]+)\.{}\((.*){}\)"
FORWARD, BACKWARD = (
    re.compile(CALL.format(*of)) for of in (("forward", ""), ("backward", r", \w+"))
)


def explanation(page):
    """Of the example of a page; None if no layer is asked there."""
    text = page.read_text("utf-8")
    names, asked, x = {"__name__": "__main__"}, None, None
    for example in doctest.DocTestParser().get_examples(text):
        with contextlib.redirect_stdout(None):
            exec(example.source, names)
        line = example.source.partition("  #")[0].strip()
        if asked is None and (match := FORWARD.fullmatch(line)):
            asked, x = match[1], eval(match[2], names)
        elif (match := BACKWARD.fullmatch(line)) and match[1] == asked:
            title = text.splitlines()[0].removeprefix("# ")
            return explain(eval(asked, names), x, eval(match[2], names), title=title)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default="explained", help="folder (default: explained)")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for page in sorted(PAGES.glob("*.md")):
        if found := explanation(page):
            found.save(out / f"{page.stem}.html")
            print(out / f"{page.stem}.html")


if __name__ == "__main__":
    main()
