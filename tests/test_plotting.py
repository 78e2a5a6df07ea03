"""Pictures: what they show is what was given, and a live one goes where it can be seen."""

import io
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from minicnn.plotting import LiveFigure, confusion_matrix, image_grid, save_figure

PIXELS = [np.array([[i, 10 * i], [3, 4]]) for i in range(1, 6)]


def shown(figure):
    """The axes that show an image, row by row."""
    return [axes for axes in figure.axes if axes.images]


@pytest.mark.parametrize("columns, rows", [(2, 3), (3, 2), (8, 1)])
def test_image_grid_shows_each_image_in_its_place(columns, rows):
    titles = [f"number {i}" for i in range(5)]
    figure = image_grid(PIXELS, titles, columns=columns, size=2)
    columns = min(columns, 5)
    assert len(figure.axes) == rows * columns and not any(axes.axison for axes in figure.axes)
    for i, axes in enumerate(shown(figure)):
        np.testing.assert_array_equal(axes.images[0].get_array(), PIXELS[i])
        place = axes.get_subplotspec()
        assert (place.rowspan.start, place.colspan.start) == divmod(i, columns)
        assert axes.get_title() == titles[i]
    assert len(shown(figure)) == 5 and figure.get_figwidth() == 2 * columns


def test_image_grid_scales_each_image_to_its_own_range():
    for axes, pixels in zip(shown(image_grid(PIXELS)), PIXELS, strict=True):
        grey = axes.images[0].to_rgba(pixels)[..., :3]
        assert grey[pixels == pixels.min()].max() == 0 and grey[pixels == pixels.max()].min() == 1
        assert (np.ptp(grey, axis=-1) == 0).all() and axes.get_title() == ""


def test_signed_images_are_white_at_zero_and_on_one_scale():
    images = [np.array([[-2.0, 0.0], [1.0, 2.0]]), np.array([[4.0, 0.0], [0.0, -1.0]])]
    first, second = (axes.images[0] for axes in shown(image_grid(images, signed=True)))
    assert first.get_clim() == second.get_clim() == (-4, 4)
    colours = {value: first.to_rgba(np.array([value]))[0, :3] for value in (-2.0, 0.0, 2.0)}
    assert colours[0.0].min() > 0.95
    assert colours[-2.0].argmax() == 2 and colours[2.0].argmax() == 0  # blue, red
    (only,) = shown(image_grid([np.zeros((2, 2))], signed=True))
    assert only.images[0].get_clim() == (-1, 1)


def test_image_grid_takes_colours_and_leaves_room_for_lines_of_titles():
    picture = np.zeros((4, 8, 3), np.uint8)
    heights = [
        image_grid([picture], titles).get_figheight() for titles in (None, ["one"], ["one\ntwo"])
    ]
    assert heights == sorted(set(heights)) and heights[0] > 1.3 * 4 / 8
    assert shown(image_grid([picture]))[0].images[0].get_array().shape == (4, 8, 3)


def test_confusion_matrix_shows_counts_and_colours_shares_of_rows():
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 2000, 2000]])
    (axes,) = confusion_matrix(counts, ("cat", "dog", "cow")).axes
    texts = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert texts == {(i, j): f"{counts[i, j]:,}" for i in range(3) for j in range(3)}
    shares = axes.images[0].get_array()
    np.testing.assert_array_equal(shares, [[0.75, 0.25, 0], [0, 0, 0], [0, 0.5, 0.5]])
    for labels in axes.get_xticklabels(), axes.get_yticklabels():
        assert [label.get_text() for label in labels] == ["cat", "dog", "cow"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")
    colours = {text.get_position()[::-1]: text.get_color() for text in axes.texts}
    assert (colours[0, 0], colours[0, 1], colours[0, 2]) == ("white", "black", "lightgrey")


def figure_of(width):
    return Figure(figsize=(width, 1))


def width_of(png):
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return round(picture.width / 120)


@pytest.fixture
def headless(monkeypatch):
    """No notebook and, as on a server, a Tk that finds no display."""

    def no_display(**options):
        raise tkinter.TclError("no display name and no $DISPLAY environment variable")

    tkinter = ModuleType("tkinter")
    tkinter.TclError, tkinter.Tk = type("TclError", (Exception,), {}), no_display
    monkeypatch.setitem(sys.modules, "tkinter", tkinter)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    return tkinter


@pytest.mark.parametrize("tk_installed", [True, False])
def test_without_a_display_the_file_is_always_the_latest(
    headless, tk_installed, monkeypatch, tmp_path
):
    if not tk_installed:
        monkeypatch.setitem(sys.modules, "tkinter", None)
    path = tmp_path / "live.png"
    live = LiveFigure(path)
    assert live.place == str(path)
    for width in 2, 3:
        live.show(figure_of(width))
        assert width_of(path.read_bytes()) == width


def test_in_a_window_each_figure_takes_the_place_of_the_last(headless, monkeypatch, tmp_path):
    """Up to the moment when the window is closed by hand, which stops nothing."""
    on_screen, open_windows = [], []
    label = SimpleNamespace(pack=lambda: None, image=None)

    def photo_image(master, data):
        if not open_windows:
            raise headless.TclError("application has been destroyed")
        return data

    def tk(**options):
        open_windows.append(SimpleNamespace(update=lambda: on_screen.append(label.shown)))
        return open_windows[0]

    label.configure = lambda image: setattr(label, "shown", image)
    monkeypatch.setattr(headless, "Tk", tk)
    monkeypatch.setattr(headless, "Label", lambda window: label, raising=False)
    monkeypatch.setattr(headless, "PhotoImage", photo_image, raising=False)
    live = LiveFigure(tmp_path / "live.png")
    assert live.place == "a window"
    live.show(figure_of(2))
    live.show(figure_of(3))
    assert label.image is label.shown  # Tk drops an image that Python does not hold
    open_windows.clear()
    live.show(figure_of(4))
    assert [width_of(png) for png in on_screen] == [2, 3] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("shell", [SimpleNamespace(kernel="a notebook's"), SimpleNamespace(), None])
def test_in_a_notebook_one_output_is_updated(headless, shell, monkeypatch, tmp_path):
    """In IPython in a terminal, which has no kernel, it is the file."""
    updates, ipython = [], ModuleType("IPython")

    def display(first, display_id):
        assert display_id is True
        return SimpleNamespace(update=updates.append)

    ipython.get_ipython = lambda: shell
    ipython.display = SimpleNamespace(display=display, Markdown=str, Image=bytes)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    path = tmp_path / "live.png"
    live = LiveFigure(path)
    for width in 2, 3:
        live.show(figure_of(width))
    if hasattr(shell, "kernel"):
        assert live.place == "the notebook" and not path.exists()
        assert [width_of(png) for png in updates] == [2, 3]
    else:
        assert live.place == str(path) and width_of(path.read_bytes()) == 3


@pytest.mark.parametrize(
    "ending, magic", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")]
)
def test_the_ending_names_the_format(ending, magic, tmp_path):
    save_figure(figure_of(2), tmp_path / f"picture.{ending}")
    assert (tmp_path / f"picture.{ending}").read_bytes().startswith(magic)
