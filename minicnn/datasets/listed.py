"""Pictures listed with their labels in a CSV file: filename,label."""

import collections
import csv
from pathlib import Path

from minicnn.datasets.found import Found, some
from minicnn.datasets.idx import DataError
from minicnn.datasets.pictures import Decoder, check_inside, is_picture
from minicnn.datasets.table import LABELS, first_lines, lines

FILES = {"filename", "file", "file_name", "image", "path", "filepath", "img"}


def is_list(path: Path) -> bool:
    """Whether one of the first two lines of a CSV file names a picture."""
    return any(is_picture(field.strip()) for row in csv.reader(first_lines(path)) for field in row)


def read_list(path: Path, decoder: Decoder) -> Found:
    """The pictures that `path` lists, by paths relative to its folder; not split.

    A header may name the columns, as filename,label; otherwise there are two, the file first.
    Raises DataError for files outside the folder or listed twice, and for incomplete lines.
    """
    try:
        rows = [row for row in csv.reader(lines(path), strict=True) if row]
    except csv.Error as error:
        raise DataError(f"{path} is damaged: {error}") from error
    names = [name.strip().lower() for name in rows[0]]
    has_header = not any(map(is_picture, names))
    file = next((k for k, name in enumerate(names) if has_header and name in FILES), 0)
    label = next((k for k, name in enumerate(names) if has_header and name in LABELS), 1 - file)
    listed = [[row[k].strip() if k < len(row) else "" for k in (file, label)] for row in rows]
    listed = listed[has_header:]
    if incomplete := [k for k, pair in enumerate(listed, 1 + has_header) if "" in pair]:
        raise DataError(f"{path}, entry {incomplete[0]}: expected the name of a file and a label")
    counts = collections.Counter(name for name, _ in listed)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DataError(f"{path} lists {some(twice)} more than once: keep one label for each file")
    for name in counts:
        check_inside(path.parent / name, path.parent)
    classes = sorted({name for _, name in listed}, key=_order)
    index = {name: k for k, name in enumerate(classes)}
    train = decoder.read(path.parent, [name for name, _ in listed], [index[c] for _, c in listed])
    return Found(train, None, dict(enumerate(classes)), invert=False)


def _order(name: str) -> tuple[bool, int, str]:
    """A sorting key: numbers by their value, before other names."""
    is_number = name.isdecimal() and len(name) < 20
    return not is_number, int(name) if is_number else 0, name
