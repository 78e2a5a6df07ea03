"""What is wrong with the links of a folder of pages."""

import functools
import re
from urllib.parse import unquote

LINK = re.compile(r'<(\w+)\b[^>]*?\s(?:href|src)="([^"]*)"')
ANCHOR = re.compile(r'\s(?:id|name)="([^"]+)"')


def problems(folder):
    """A line for each link that leads nowhere and for all that another host is asked for."""
    found = []
    for page in sorted(folder.rglob("*.html")):
        for tag, link in LINK.findall(page.read_text("utf-8")):
            if "://" in link or link.startswith(("//", "data:", "mailto:")):
                if tag != "a" and not link.startswith("data:"):
                    found.append(f"{page.relative_to(folder)}: fetches {link}")
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (page.parent / path.partition("?")[0]).resolve() if path else page
            if not target.is_file():
                found.append(f"{page.relative_to(folder)}: no file for {link}")
            elif anchor and target.suffix == ".html" and anchor not in anchors(target):
                found.append(f"{page.relative_to(folder)}: no heading for {link}")
    return found


@functools.cache
def anchors(page):
    return set(ANCHOR.findall(page.read_text("utf-8")))
