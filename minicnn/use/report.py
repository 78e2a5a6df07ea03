"""The report of a run as one page, which needs no network and no script."""

import base64
import io
from html import escape
from pathlib import Path

import numpy as np

from minicnn.backend import Array
from minicnn.datasets import Dataset
from minicnn.use.assessment import BINS, Assessment

STYLE = Path(__file__).with_name("report.css")
SIDE = 240  # of the diagram, in pixels


def page(found: Assessment, data: Dataset, title: str) -> str:
    """HTML, self-contained."""
    return f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>
{STYLE.read_text("utf-8")}</style>
<main>
<h1>{_text(title)}</h1>
<p>{_text(data.name)}, {len(data):,} images: accuracy {found.accuracy:.4f}, loss {found.loss:.3f},
expected calibration error {found.ece:.3f}.</p>
<h2>Classes</h2>
<p>Recall: of the images of a class, the share that is recognized. Precision: of the images that are
given this label, the share that belongs to the class. F1 is their harmonic mean.</p>
{_classes(found)}
<h2>Confusion matrix</h2>
<p>A row for each label, a column for each prediction.</p>
{_confusion(found)}
<h2>Worst mistakes</h2>
{_mistakes(found, data)}
<h2>Calibration</h2>
<p>If a network says 80 %, it should be right four times in five. Each bar is the accuracy of the
predictions in a range of confidence; on the broken line accuracy and confidence are equal. Where
accuracy is below the mean confidence, the difference is red; where it is above, purple.</p>
{_calibration(found)}
</main>
</html>
"""


def _text(text: str) -> str:
    """Safe in HTML and in UTF-8, whatever the name of a file or class has in it."""
    return escape(text.encode("utf-8", "backslashreplace").decode())


def _classes(found: Assessment) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{count.sum():,}</td>'
        f"<td>{recall:.3f}</td><td>{precision:.3f}</td><td>{f1:.3f}</td></tr>\n"
        for name, count, recall, precision, f1 in zip(
            found.classes, found.counts, found.recall, found.precision, found.f1
        )
    )
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("class", "images", "recall", "precision", "F1")
    )
    return _table("Recall, precision and F1 of each class", head, rows)


def _confusion(found: Assessment) -> str:
    head = '<th scope="col">label</th>' + "".join(
        f'<th scope="col">{_text(name)}</th>' for name in found.classes
    )
    rows = []
    for i, (name, row) in enumerate(zip(found.classes, found.counts)):
        cells = []
        for j, count in enumerate(row):
            kind = "none" if not count else "right" if i == j else "wrong"
            share = count / max(1, row.sum())
            cells.append(f'<td class="{kind}" style="--share: {share:.3f}">{count:,}</td>')
        rows.append(f'<tr><th scope="row">{_text(name)}</th>{"".join(cells)}</tr>\n')
    return _table("Confusion matrix", head, "".join(rows))


def _table(name: str, head: str, rows: str) -> str:
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{name}"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>"
    )


def _mistakes(found: Assessment, data: Dataset) -> str:
    if not found.mistakes:
        return "<p>There are none.</p>"
    items = []
    for index, label, prediction, probability in found.mistakes:
        said = f"taken for {_text(found.classes[prediction])}, {probability:.1%}"
        place = _text(data.files[index]) if data.files else f"image {index}"
        items.append(
            f'<li><figure><img src="{_picture(data.images[index])}" '
            f'alt="{place}: {_text(found.classes[label])}, {said}">'
            f"<figcaption>{_text(found.classes[label])}, {said}<br>{place}</figcaption>"
            "</figure></li>\n"
        )
    first = "<p>The wrong predictions with the highest probability.</p>\n"
    return f'{first}<ul class="mistakes">\n{"".join(items)}</ul>'


def _picture(image: Array) -> str:
    """Bytes (C, H, W) as a data URI; other than 1 or 3 channels, the first."""
    from PIL import Image

    pixels = image.transpose(1, 2, 0) if len(image) == 3 else image[0]
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "png")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def _calibration(found: Assessment) -> str:
    """The reliability diagram, and its numbers as a table."""
    width, bars, rows = SIDE / BINS, [], []
    for b, (count, confidence, accuracy) in enumerate(found.bins):
        if not count:
            continue
        left, low, high = 44 + b * width, *sorted((accuracy, confidence))
        for kind, bottom, top in (("bar", 0, accuracy), ("gap", low, high)):
            bars.append(
                f'<rect class="{kind}" x="{left + 1:.1f}" y="{8 + SIDE * (1 - top):.1f}" '
                f'width="{width - 2:.1f}" height="{SIDE * (top - bottom):.1f}"/>'
            )
        rows.append(
            f'<tr><th scope="row">{b / BINS:.1f} to {(b + 1) / BINS:.1f}</th><td>{count:,}</td>'
            f"<td>{confidence:.3f}</td><td>{accuracy:.3f}</td></tr>\n"
        )
    bottom, right = 8 + SIDE, 44 + SIDE
    ticks = "".join(
        f'<text x="{44 + SIDE * t:.0f}" y="{bottom + 16}" text-anchor="middle">{t:g}</text>'
        f'<text x="38" y="{bottom - SIDE * t + 4:.0f}" text-anchor="end">{t:g}</text>'
        for t in (0, 0.5, 1)
    )
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("confidence", "images", "mean confidence", "accuracy")
    )
    return (
        f'<svg viewBox="0 0 {right + 12} {bottom + 36}" role="img" aria-label="Accuracy against '
        f'confidence; expected calibration error {found.ece:.3f}; the table has the numbers">\n'
        f"{''.join(bars)}\n"
        f'<line x1="44" y1="{bottom}" x2="{right}" y2="{bottom}"/>'
        f'<line x1="44" y1="8" x2="44" y2="{bottom}"/>'
        f'<line x1="44" y1="{bottom}" x2="{right}" y2="8" stroke-dasharray="4"/>\n{ticks}'
        f'<text x="{44 + SIDE / 2}" y="{bottom + 32}" text-anchor="middle">confidence</text>'
        f'<text transform="translate(11 {8 + SIDE / 2}) rotate(-90)" text-anchor="middle">accuracy'
        f"</text></svg>\n{_table('Calibration', head, ''.join(rows))}"
    )
