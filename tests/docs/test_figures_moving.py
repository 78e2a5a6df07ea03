"""The figures that move are what their script makes, need no script to move, and show in each frame
what minicnn computes."""

import importlib
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from minicnn import AvgPool2D, Conv2D, MaxPool2D

DOCS = Path(__file__).parents[2] / "docs"
NAMES = sorted(path.stem for path in (DOCS / "figures").glob("moving_*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def moving(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("figures_moving")


def parsed(name):
    return ElementTree.parse(DOCS / "figures" / f"{name}.svg").getroot()


def frames_of(root):
    """How many frames there are: what is shown from the last one on is not hidden."""
    shown = [each.get("class", "") for each in root.iter() if each.get("opacity") is None]
    return 1 + max(int(last) for last in re.findall(r"from\d+to(\d+)", " ".join(shown)))


def numbers(root, name, frame):
    """Those of a matrix in a frame, by the keyframes; in the last one, also without keyframes."""
    last = frames_of(root) - 1
    frame = last if frame == -1 else frame
    found = []
    for text in root.find(f".//{SVG}g[@id='{name}']").iter(f"{SVG}text"):
        kind = text.get("class", "")
        if kind == "name":
            continue
        first, end = map(int, (re.findall(r"from(\d+)to(\d+)", kind) or [(0, last)])[0])
        assert (end == last) == (text.get("opacity") is None)
        if first <= frame <= end:
            found.append(float(text.text))
    return found


def assert_shows(root, name, frame, array):
    np.testing.assert_array_equal(numbers(root, name, frame), np.ravel(array))


def test_every_moving_figure_is_up_to_date(moving):
    assert sorted(moving.MOVING) == NAMES
    for name, draw in moving.MOVING.items():
        assert (DOCS / "figures" / f"{name}.svg").read_text("utf-8") == draw()


@pytest.mark.parametrize("name", NAMES)
def test_a_moving_figure_is_plain_svg_that_may_stand_still(name):
    path = DOCS / "figures" / f"{name}.svg"
    text, root = path.read_text("utf-8"), parsed(name)
    assert path.stat().st_size < 60_000
    used = {each.tag.removeprefix(SVG) for each in root.iter()}
    assert used <= {"svg", "title", "style", "path", "rect", "text", "g"}
    assert not re.search(r"\bon\w+=|href|javascript|https?://(?!www\.w3\.org/2000/svg)", text)
    still, _, moves = root.find(f"{SVG}style").text.partition(
        "@media (prefers-reduced-motion:no-preference){"
    )
    assert "animation" not in still and "@keyframes" in moves
    classes = {name for each in root.iter() for name in each.get("class", "").split()}
    animated = set(re.findall(r"@keyframes (\w+)", moves))
    assert animated == {each for each in classes if re.match(r"from\d|way\d", each)}


def test_the_sums_below_the_frames_are_right():
    sums = 0
    for name in NAMES:
        for text in parsed(name).iter(f"{SVG}text"):
            for left, right in re.findall(r"([-\d][-\d()+· ]*) = (-?\d+)", text.text):
                assert eval(left.replace("·", "*")) == int(right), text.text
                sums += any(sign in left for sign in "+·")
    assert sums > 40


def test_a_page_shows_it_with_its_content_in_words():
    pages = "".join(path.read_text() for path in (DOCS / "derivations").glob("*.md"))
    for name in NAMES:
        (words,) = re.findall(rf"!\[([^]]+)\]\(\.\./figures/{name}\.svg\)", pages)
        assert len(words) > 100


def strided(moving):
    layer = Conv2D(1, 1, (2, 3), stride=2, padding=1)
    layer.params["weight"] = moving.KERNEL[None, None].astype(float)
    layer.params["bias"] = np.array([float(moving.BIAS)])
    return layer


def backward(layer, x, dy):
    _, saved = layer.forward(x[None, None].astype(float))
    return layer.backward(dy[None].reshape(1, -1, *dy.shape[-2:]).astype(float), saved)[0][0, 0]


def first(count, array):
    """`array` with zeros after its first entries."""
    return np.where(np.arange(array.size).reshape(array.shape) < count, array, 0)


def inside(numbers):
    """Without the border of padding."""
    return np.reshape(numbers, (5, 6))[1:-1, 1:-1]


def test_forward_shows_what_the_layer_computes(moving):
    root, layer = parsed("moving_forward"), strided(moving)
    y = layer(moving.IMAGE[None, None].astype(float))[0, 0].ravel()
    assert frames_of(root) == 6
    for frame, count in enumerate([0, 1, 2, 3, 4, 4]):
        assert numbers(root, "y", frame) == list(y[:count])
    assert_shows(root, "padded", -1, np.pad(moving.IMAGE, 1))
    assert_shows(root, "kernel", -1, moving.KERNEL)


def test_backward_shows_dx_of_the_outputs_so_far(moving):
    root, layer = parsed("moving_backward"), strided(moving)
    assert frames_of(root) == 6
    for frame, count in enumerate([0, 1, 2, 3, 4, 4]):
        dx = backward(layer, moving.IMAGE, first(count, moving.UPSTREAM))
        np.testing.assert_array_equal(inside(numbers(root, "dpadded", frame)), dx)
    assert_shows(root, "dy", -1, moving.UPSTREAM)


def test_col2im_shows_dx_of_the_taps_so_far(moving):
    root = parsed("moving_col2im")
    assert frames_of(root) == 8
    for frame, count in enumerate([0, 1, 2, 3, 4, 5, 6, 6]):
        layer = Conv2D(1, 2, (2, 3), stride=2, padding=1, bias=False)
        kept = [first(count, weight) for weight in moving.WEIGHTS]
        layer.params["weight"] = np.reshape(kept, (2, 1, 2, 3)).astype(float)
        dx = backward(layer, moving.IMAGE, moving.ROWS_UPSTREAM.reshape(2, 2, 2))
        np.testing.assert_array_equal(inside(numbers(root, "dpadded", frame)), dx)


@pytest.mark.parametrize("kind, layer", [("max", MaxPool2D(2, 1)), ("average", AvgPool2D(2, 1))])
def test_pooling_shows_dx_of_the_windows_so_far(kind, layer, moving):
    root, x = parsed(f"moving_{kind}_pooling"), moving.POOLED[kind]
    assert frames_of(root) == 8
    assert_shows(root, "X", -1, x)
    assert_shows(root, "Y", -1, layer(x[None, None].astype(float)))
    for frame, count in enumerate([0, 1, 2, 3, 4, 5, 6, 6]):
        dy = first(count, moving.POOLED_UPSTREAM[kind])
        assert_shows(root, "dX", frame, backward(layer, x, dy))
