"""The Chinese pages, block by block beside the English ones.

python docs/translation.py                what has changed in English since it was translated
python docs/translation.py --done PAGE    the translation of this page, or of several, is up to date

A page is a list of blocks: what lies between empty lines, and each fenced block. `TRANSLATED` keeps
for each English page the checksums of the blocks that were translated.
"""

import hashlib
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
TRANSLATED = REPOSITORY / "docs" / "zh" / "translated.json"
ELSEWHERE = {"README.md": "README.zh.md", "examples/README.md": "docs/zh/examples.md"}

BLOCK = re.compile(r"^```.*?^```$|(?:^(?!```)[^\n]+\n?)+", re.MULTILINE | re.DOTALL)
FENCE, CODE, FORMULA = re.compile(r"^```"), re.compile(r"`[^`]+`"), re.compile(r"\$[^$\n]+\$")
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def pages() -> dict[str, str]:
    """The Chinese page of each English one that has one, as paths in the repository."""
    here = {
        f"docs/{p.relative_to(TRANSLATED.parent)}": str(p.relative_to(REPOSITORY))
        for p in TRANSLATED.parent.rglob("*.md")
    }
    return {
        english: chinese
        for english, chinese in (here | ELSEWHERE).items()
        if (REPOSITORY / english).exists() and (REPOSITORY / chinese).exists()
    }


def blocks(text: str) -> list[str]:
    return [match[0].strip("\n") for match in BLOCK.finditer(text)]


def content(block: str, page: str) -> Counter:
    """All that a translation keeps of a block on this page."""
    if FENCE.match(block):
        return Counter([block])
    kept: Counter = Counter()
    kept["heading " + "#" * (len(block) - len(block.lstrip("#")))] += 1
    for kind, pattern in (("rows", r"^\|"), ("cells", r"\|"), ("points", r"^ *(?:[-*]|\d+\.) ")):
        kept[kind] = len(re.findall(pattern, CODE.sub("", block), re.MULTILINE))
    kept.update(link_target(match[1] or match[2], page) for match in LINK.finditer(block))
    block = LINK.sub("", block)
    for pattern in (CODE, FORMULA, NUMBER):
        kept.update(" ".join(found.split()) for found in pattern.findall(block))
        block = pattern.sub("", block)
    return kept


def link_target(target: str, page: str) -> str:
    """Where a link on this page leads, by the name of the English page; without the heading."""
    if "://" in target:
        return target
    path, _, heading = target.partition("#")
    path = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
    path = {chinese: english for english, chinese in ELSEWHERE.items()}.get(path, path)
    return f"link to {path.replace('docs/zh/', 'docs/')}{'#' if heading else ''}"


def checksum(block: str) -> str:
    return hashlib.sha256(block.encode()).hexdigest()[:12]


def changed(english: str) -> list[str]:
    """The blocks of an English page that were not yet so when it was translated."""
    known = json.loads(TRANSLATED.read_text()).get(english, [])
    own = blocks((REPOSITORY / english).read_text())
    missing = [block for block in own if checksum(block) not in known]
    return missing or [] if len(known) == len(own) or missing else ["(a block was taken out)"]


def main(arguments: list[str]) -> None:
    done = json.loads(TRANSLATED.read_text()) if TRANSLATED.exists() else {}
    if arguments[:1] == ["--done"]:
        for page in arguments[1:]:
            if page not in pages():
                sys.exit(f"{page} is not an English page that has a Chinese one")
            done[page] = [checksum(b) for b in blocks((REPOSITORY / page).read_text())]
        TRANSLATED.write_text(json.dumps(dict(sorted(done.items())), indent=0) + "\n")
    for page in pages():
        for block in changed(page):
            print(f"{page}: {block.splitlines()[0]}")


if __name__ == "__main__":
    main(sys.argv[1:])
