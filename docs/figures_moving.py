"""Draws the figures that move: `python docs/figures_moving.py` all, with names only those.

A figure is a few frames, one after the other, with a sentence below each. It is plain SVG: CSS
keyframes show each part in its frames, so that it moves in an <img>, without a script. Where
nothing may move, as with prefers-reduced-motion, the last frame stands, which has the results.
"""

import itertools
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from drawing import BLUE, GREEN, GREY, ORANGE, PLAIN

FOLDER = Path(__file__).parent / "figures"
CELL = 46  # pixels
SECONDS, GLIDE = 4, 0.6  # of a frame, the last has twice as many; of a window's way to its place
STYLE = (
    "text{font:16px 'DejaVu Sans',Verdana,sans-serif;text-anchor:middle;dominant-baseline:central}"
    ".name{font-size:18px}.small{font-size:11px;text-anchor:start}.line{text-anchor:start}"
    "rect{stroke:black}.frame{fill:none;stroke:#d62728;stroke-width:4}"
)


class Movie:
    """The SVG of some frames. Places are (x, y) in cells, from the upper left corner."""

    def __init__(self, title, size, captions):
        """size: (width, height) in cells; captions: for each frame, a text of one line or two."""
        self.title, (self.width, self.height), self.frames = title, size, len(captions)
        self.parts, self.keyframes = [], {}
        for frame, caption in enumerate(captions):
            for line, text in enumerate(caption.split("\n")):
                self.text((0.2, self.height - 1.2 + 0.65 * line), text, "line", (frame, frame))

    def text(self, place, text, kind="", frames=None):
        """In all frames, or from the first to the last of `frames`."""
        attributes = self._shown(kind, frames) + self._at(place)
        self.parts.append(f"<text{attributes}>{escape(str(text))}</text>")

    def cell(self, place, colour, frames=None):
        attributes = self._shown("", frames) + self._at(place)
        self.parts.append(f'<rect{attributes} width="{CELL}" height="{CELL}" fill="{colour}"/>')

    def grid(self, name, corner, title, numbers, fills=None):
        """A matrix, in a group that is called `name`. Each frame has its `numbers` (frames, rows,
        columns), "" for none, and its `fills`, a list of {(row, column): colour}."""
        (x, y), (_, rows, columns) = corner, numbers.shape
        self.parts.append(f'<g id="{name}">')
        self.text((x + columns / 2, y - 0.4), title, "name")
        for i, j in np.ndindex(rows, columns):
            colours = [fill.get((i, j), PLAIN) for fill in fills or [{}] * self.frames]
            for colour, frames in runs(colours):
                self.cell((x + j, y + i), colour, frames)
            for number, frames in runs(numbers[:, i, j]):
                if number != "":
                    self.text((x + j + 0.5, y + i + 0.58), number, "", frames)
        self.parts.append("</g>")

    def window(self, corner, places, labels):
        """A frame that goes to (row, column) of the matrix at `corner`, or is not there at None,
        with its `labels` (frames, rows, columns), small numbers in its cells."""
        _, rows, columns = labels.shape
        there = [frame for frame, place in enumerate(places) if place is not None]
        assert there == list(range(there[0], there[-1] + 1))
        stops = []
        for frame in there:
            x, y = (CELL * (c + d) for c, d in zip(corner, places[frame][::-1]))
            move = f"transform:translate({x:g}px,{y:g}px)"
            stops += [(self._percent(frame), move), (self._percent(frame + 1, GLIDE), move)]
        name = f"way{len(self.keyframes)}"
        self.keyframes[name] = "ease-in-out", stops
        self.parts.append(f"<g{self._shown('', (there[0], there[-1]))}>")
        self.parts.append(f'<g class="{name}" transform="translate({x:g} {y:g})">')
        size = f'width="{CELL * columns - 4}" height="{CELL * rows - 4}"'
        self.parts.append(f'<rect class="frame" x="2" y="2" {size}/>')
        for i, j in np.ndindex(rows, columns):
            for label, frames in runs(labels[:, i, j]):
                if label != "":
                    self.text((j + 0.1, i + 0.2), label, "small", frames)
        self.parts.append("</g></g>")

    def svg(self):
        width, height, seconds = CELL * self.width, CELL * self.height, SECONDS * (self.frames + 1)
        moving = "".join(
            f".{name}{{animation:{name} {seconds}s {timing} infinite}}"
            f"@keyframes {name}{{{''.join(f'{at:g}%{{{what}}}' for at, what in stops)}}}"
            for name, (timing, stops) in self.keyframes.items()
        )
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
                f'width="{width:g}" height="{height:g}" role="img">',
                f"<title>{escape(self.title)}</title>",
                f"<style>{STYLE}@media (prefers-reduced-motion:no-preference){{{moving}}}</style>",
                '<path fill="white" d="M0 0H9999V9999H0z"/>',
                *self.parts,
                "</svg>\n",
            ]
        )

    def _at(self, place):
        x, y = place
        return f' x="{CELL * x:g}" y="{CELL * y:g}"'

    def _percent(self, frame, before=0):
        """When a frame begins, or some seconds before that, in percent of the whole."""
        if frame == self.frames:
            return 100
        return round(100 * (frame * SECONDS - before) / (SECONDS * (self.frames + 1)), 2)

    def _shown(self, kind, frames):
        """The attributes of what is shown from the first to the last of `frames`. By itself it is
        hidden unless the last frame has it; the keyframes change that."""
        first, last = frames or (0, self.frames - 1)
        end = last == self.frames - 1
        if first > 0 or not end:
            name = f"from{first}to{last}"
            before = [(0, "opacity:0")] if first else []
            after = [] if end else [(self._percent(last + 1), "opacity:0")]
            stops = [*before, (self._percent(first), "opacity:1"), *after]
            self.keyframes[name] = "step-end", stops
            kind = f"{kind} {name}".strip()
        return (f' class="{kind}"' if kind else "") + ("" if end else ' opacity="0"')


def runs(values):
    """(value, (first, last)) for each run of equal ones."""
    at = 0
    for value, same in itertools.groupby(values):
        count = len(list(same))
        yield value, (at, at + count - 1)
        at += count


def still(matrix, frames):
    return np.array([matrix] * frames, dtype=object)


def signed(number):
    return f"({number})" if number < 0 else f"{number}"


def product_of(factors):
    return " + ".join(f"{signed(a)}·{signed(b)}" for a, b in factors)


def border(fill, shape):
    """`fill` with the cells at the edges of a matrix of this shape grey where it has no colour."""
    return cells((0, 0), shape, GREY) | cells((1, 1), np.subtract(shape, 2), PLAIN) | fill


def cells(corner, shape, colour):
    return {(corner[0] + i, corner[1] + j): colour for i, j in np.ndindex(*shape)}


def add(total, numbers, pixels, touched, colour):
    """Adds the numbers to these pixels of `total`: (the colours of the pixels, the sums where one
    had a number before). `touched`, the pixels that had one, gets the new ones."""
    colours, sums = {}, []
    for pixel, number in zip(pixels, numbers):
        colours[pixel] = GREEN if pixel in touched else colour
        if pixel in touched:
            sums.append(f"{total[pixel]} + {signed(number)} = {total[pixel] + number}")
        total[pixel] += number
    touched.update(colours)
    return colours, ", ".join(sums)


IMAGE = np.array([[1, 2, 0, -1], [3, -1, 2, 1], [0, 1, -2, 3]])
KERNEL, BIAS = np.array([[1, 2, -1], [3, -2, 1]]), 1
UPSTREAM = np.array([[1, -1], [2, 3]])
OUTPUTS = list(np.ndindex(2, 2))
CORNERS = [(2 * p, 2 * q) for p, q in OUTPUTS]  # of the windows, at stride 2


def moving_forward():
    """A window goes over the padded image in steps of two."""
    padded, y = np.pad(IMAGE, 1), np.full((2, 2), "", dtype=object)
    captions = ["The image has a border of zeros, padding = 1.\nThe window begins in its corner."]
    shown, fills = [y.copy()], [{}]
    for (p, q), (h, w) in zip(OUTPUTS, CORNERS):
        window = padded[h : h + 2, w : w + 3]
        y[p, q] = int(np.sum(KERNEL * window)) + BIAS
        sums = product_of(zip(KERNEL.flat, window.flat))
        captions.append(f"y[{p},{q}] = {sums} + {BIAS} = {y[p, q]}")
        shown.append(y.copy())
        fills.append({(p, q): ORANGE})
    captions.append(
        "The next step of two would leave the image:\nno window sees the last row and column."
    )
    shown.append(y.copy())
    fills.append({})
    frames = len(captions)
    title = "A convolution with stride 2 and padding 1, forward"
    movie = Movie(title, (17.5, 7.6), captions)
    seen = [cells(corner, (2, 3), BLUE) for corner in CORNERS]
    unseen = cells((4, 0), (1, 6), ORANGE) | cells((0, 5), (5, 1), ORANGE)
    image = [border(fill, padded.shape) for fill in ({}, *seen, unseen)]
    movie.grid("padded", (0.4, 1), "x, padded", still(padded, frames), image)
    movie.grid("kernel", (8.5, 2.5), "K", still(KERNEL, frames), [cells((0, 0), (2, 3), BLUE)] * 6)
    movie.grid("y", (14, 2.5), "y", np.array(shown), fills)
    movie.text((12.7, 3.5), f"bias {BIAS}")
    places = [CORNERS[0], *CORNERS, None]
    movie.window((0.4, 1), places, still(KERNEL, frames))
    return movie.svg()


def moving_backward():
    """The same windows back: each adds the kernel times its dy to the gradient."""
    dpadded, touched = np.zeros((5, 6), int), set()
    captions = ["Backward begins with zeros.\nThe window goes the same way again."]
    shown, pieces, fills = [dpadded.copy()], [np.full((2, 3), "", object)], [{}]
    for output, corner in zip(OUTPUTS, CORNERS):
        dy, window = UPSTREAM[output], cells(corner, (2, 3), BLUE)
        colours, sums = add(dpadded, (dy * KERNEL).flat, window, touched, BLUE)
        text = f"dy[{output[0]},{output[1]}] = {dy}: the window gets {dy} times the kernel."
        captions.append(text + (f"\nTwo windows share a column: {sums}." if sums else ""))
        shown.append(dpadded.copy())
        pieces.append(np.vectorize("{:+d}".format, otypes=[object])(dy * KERNEL))
        fills.append(colours)
    captions.append(
        "The border was constant, so it is cut off: what is left is dx.\n"
        "The last row and column of the border were in no window."
    )
    shown.append(dpadded.copy())
    pieces.append(pieces[-1])
    fills.append(cells((1, 1), IMAGE.shape, GREEN))
    frames = len(captions)
    title = "A convolution with stride 2 and padding 1, backward"
    movie = Movie(title, (17.5, 7.6), captions)
    upstream = [{}, *({output: ORANGE} for output in OUTPUTS), {}]
    movie.grid("dy", (0.6, 2.5), "dy", still(UPSTREAM, frames), upstream)
    movie.text((3.4, 3.5), "times")
    movie.grid("kernel", (4.5, 2.5), "K", still(KERNEL, frames), [cells((0, 0), (2, 3), BLUE)] * 6)
    movie.text((8.9, 3.5), "added to")
    image = [border(fill, dpadded.shape) for fill in fills]
    movie.grid("dpadded", (10.6, 1), "gradient of the padded image", np.array(shown), image)
    movie.window((10.6, 1), [None, *CORNERS, None], np.array(pieces))
    return movie.svg()


WEIGHTS = np.array([[1, 2, -1, 3, -2, 1], [0, 1, 2, -1, 1, 0]])
ROWS_UPSTREAM = np.array([[1, -1, 2, 3], [2, 0, -1, 1]])


def moving_col2im():
    """The rows of dcolumns are added back to the pixels that their taps read."""
    dcolumns = WEIGHTS.T @ ROWS_UPSTREAM
    dpadded, touched = np.zeros((5, 6), int), set()
    captions = ["Each row of dcolumns belongs to one tap,\nand has a number for each output."]
    shown, rows, fills = [dpadded.copy()], [{}], [{}]
    for k, (i, j) in enumerate(np.ndindex(2, 3)):
        pixels = [(h + i, w + j) for h, w in CORNERS]
        colours, sums = add(dpadded, dcolumns[k], pixels, touched, ORANGE)
        text = f"Tap ({i}, {j}) read four pixels, two apart: each gets its number."
        text += f"\nTwo of them have one from tap ({i}, {j - 2}): {sums}." if sums else ""
        captions.append(text)
        shown.append(dpadded.copy())
        rows.append(cells((k, 0), (1, 4), ORANGE))
        fills.append(colours)
    captions.append("The border is cut off: what is left is dx.")
    shown.append(dpadded.copy())
    rows.append({})
    fills.append(cells((1, 1), IMAGE.shape, GREEN))
    frames = len(captions)
    movie = Movie("col2im, tap by tap", (15.2, 8.6), captions)
    movie.grid("dcolumns", (2.4, 1), "dcolumns", still(dcolumns, frames), rows)
    for k, (i, j) in enumerate(np.ndindex(2, 3)):
        movie.text((1.2, 1.5 + k), f"tap ({i}, {j})")
    movie.text((7.5, 3.5), "added to")
    image = [border(fill, dpadded.shape) for fill in fills]
    movie.grid("dpadded", (8.6, 1), "gradient of the padded image", np.array(shown), image)
    return movie.svg()


POOLED = {
    "max": np.array([[1, 2, 0, 3], [4, 6, 1, -4], [3, 5, 8, -3]]),
    "average": np.array([[1, 2, 0, 3], [4, 1, 1, -4], [3, 4, 2, -3]]),
}
POOLED_UPSTREAM = {
    "max": np.array([[2, -1, 3], [4, 1, -2]]),
    "average": np.array([[4, 8, -4], [0, 12, -8]]),
}


def pooling(kind, title, forward, backward, ends, colours):
    """Windows of 2x2 with stride 1 go over X and dX, where each adds its shares of dY.

    forward(window) is y; backward(window, dy) are the shares (2, 2), and how the caption begins.
    `ends` is the last caption, with its colours.
    """
    x, dy = POOLED[kind], POOLED_UPSTREAM[kind]
    places = list(np.ndindex(dy.shape))
    y = np.array([forward(x[p : p + 2, q : q + 2]) for p, q in places]).reshape(dy.shape)
    dx = np.zeros_like(x)
    captions = ["Backward: the layers after this one have sent back dY.\ndX begins with zeros."]
    shown, found, given = [dx.copy()], [{}], [{}]
    for p, q in places:
        shares, text = backward(x[p : p + 2, q : q + 2], dy[p, q])
        gets = {(p + i, q + j): shares[i, j] for i, j in np.argwhere(shares | (kind == "average"))}
        sums = [f"{dx[at]} + {signed(share)} = {dx[at] + share}" for at, share in gets.items()]
        dx[p : p + 2, q : q + 2] += shares
        captions.append(f"Window ({p}, {q}): {text}\nIn dX: {', '.join(sums)}")
        shown.append(dx.copy())
        found.append(cells((p, q), (2, 2), BLUE) | dict.fromkeys(gets, ORANGE))
        given.append({(p, q): ORANGE})
    captions, shown = [*captions, ends], np.array([*shown, dx])
    found, given = [*found, colours], [*given, {}]
    count = len(captions)
    movie = Movie(title, (16.4, 5.6), captions)
    movie.grid("X", (0.4, 1), "X", still(x, count), found)
    movie.grid("Y", (5, 1.5), "Y", still(y, count), given)
    movie.grid("dY", (8.6, 1.5), "dY", still(dy, count), given)
    movie.grid("dX", (12.2, 1), "dX", shown, found)
    for corner in (0.4, 1), (12.2, 1):
        movie.window(corner, [None, *places, None], still([["", ""]] * 2, count))
    return movie.svg()


def moving_max_pooling():
    """In each window the winner gets dY; who wins several windows gets several."""

    def backward(window, dy):
        shares = np.zeros((2, 2), int)
        shares.flat[window.argmax()] = dy
        return shares, f"{window.max()} is the largest and gets all of dY = {dy}."

    title = "Max pooling with windows that overlap, backward"
    ends = "The 6 won three windows: 2 + (-1) + 4 = 5.\nThe 8 won two: 1 + (-2) = -1."
    return pooling("max", title, np.max, backward, ends, {(1, 1): ORANGE, (2, 2): ORANGE})


def moving_average_pooling():
    """Each window sends a quarter of its dY to each of its entries."""

    def backward(window, dy):
        return np.full((2, 2), dy // 4), f"each of the four entries gets a quarter of dY = {dy}."

    title = "Average pooling with windows that overlap, backward"
    ends = "This entry is in four windows: 1 + 2 + 0 + 3 = 6.\nOne in a corner is in one."
    return pooling("average", title, lambda w: w.sum() // 4, backward, ends, {(1, 1): ORANGE})


MOVING = {
    figure.__name__: figure
    for figure in [
        moving_forward,
        moving_backward,
        moving_col2im,
        moving_max_pooling,
        moving_average_pooling,
    ]
}


def main(names):
    for name in names or MOVING:
        (FOLDER / f"{name}.svg").write_text(MOVING[name](), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
