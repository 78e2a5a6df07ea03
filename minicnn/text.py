"""Text to print: aligned columns, and nouns with their number."""

from collections.abc import Sequence


def align(rows: Sequence[Sequence[str]], alignment: str) -> list[str]:
    """A line for each row; `alignment` has `<` (left) or `>` (right) for each column."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    formats = [f"{{:{side}{width}}}" for side, width in zip(alignment, widths)]
    return ["  ".join(f.format(c) for f, c in zip(formats, row)).rstrip() for row in rows]


def number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
