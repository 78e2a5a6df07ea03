"""The examples' README has a row with a picture for each of them, in their order."""

import re
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_each_example_has_its_row_and_picture():
    rows = re.findall(
        r"^\| \*\*\[(\w+\.py)\]\(\1\)\*\*: .+ \| !\[.+\]\((pictures/\w+\.png)\) \|$",
        (EXAMPLES / "README.md").read_text(),
        re.MULTILINE,
    )
    scripts = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
    assert [script for script, _ in rows] == scripts and len(scripts) == 12
    for script, picture in rows:
        assert Path(picture).name[:2] == script[:2]
        with Image.open(EXAMPLES / picture) as image:
            assert image.width >= 600
