"""Image files of users: each is brought into the form of the training images, or refused."""

import warnings

import numpy as np
import pytest
from PIL import Image

from minicnn.datasets import DataError, read_image

HALF = np.zeros((40, 40), np.uint8)
HALF[:, :20] = 255


def save(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


def with_alpha(grey, alpha):
    """`grey` where there is anything to see, and under the rest a colour that must not count."""
    return np.stack(3 * [np.where(alpha, grey, 255 - grey).astype("u1")] + [alpha], axis=-1)


def test_a_picture_becomes_28_by_28_and_grey(tmp_path):
    green = np.zeros((56, 56, 3), np.uint8)
    green[20:36, 20:36, 1] = 255
    x = read_image(save(tmp_path / "green.png", green))
    assert x.shape == (1, 1, 28, 28) and x.dtype == np.uint8
    assert abs(x[0, 0, 13, 13] - 0.587 * 255) < 3  # the weight of green in grey
    assert (x[0, 0, :6] == 0).all()


@pytest.mark.parametrize("invert, expected", [(None, 255), (True, 255), (False, 0)])
def test_dark_on_bright_is_inverted(tmp_path, invert, expected):
    dark_on_bright = np.full((28, 28), 255, np.uint8)
    dark_on_bright[10:18, 10:18] = 0
    path = save(tmp_path / "paper.png", dark_on_bright)
    assert (read_image(path, invert=invert)[0, 0, 10:18, 10:18] == expected).all()
    inverted = read_image(save(tmp_path / "chalk.png", 255 - dark_on_bright), invert=invert)
    assert (inverted[0, 0, 10:18, 10:18] == (0 if invert else 255)).all()


@pytest.mark.parametrize(
    "shape, around", [((20, 60), np.s_[:8]), ((60, 20), np.s_[:, :8])], ids=["wide", "high"]
)
def test_proportions_are_kept_on_the_colour_of_the_border(tmp_path, shape, around):
    image = np.full(shape, 40, np.uint8)
    image[4:-4, 4:-4] = 200
    x = read_image(save(tmp_path / "x.png", image))[0, 0]
    assert (x[around] == 40).all()
    assert abs(x[14, 14] - 200.0) < 5
    assert read_image(tmp_path / "x.png", size=(10, 30)).shape == (1, 1, 10, 30)


def test_exif_orientation_is_respected(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise: the left becomes the top
    x = read_image(save(tmp_path / "x.jpg", HALF, exif=exif), invert=False)[0, 0]
    assert (x[:12] > 240).all() and (x[16:] < 15).all()


@pytest.mark.parametrize("grey", [30, 220])
@pytest.mark.parametrize("name", ["x.png", "x.gif"])
def test_strokes_on_transparency_come_out_bright_on_dark(tmp_path, name, grey):
    alpha = np.zeros((28, 28), np.uint8)
    alpha[10:18, 10:18] = 255
    x = read_image(save(tmp_path / name, with_alpha(grey, alpha)))[0, 0]
    assert (x[12:16, 12:16] > 210).all()
    assert (x[:6] == 0).all()


def test_half_transparency_is_mixed(tmp_path):
    x = read_image(save(tmp_path / "x.png", with_alpha(255, HALF // 255 * 128)))[0, 0]
    assert (x[:, :12] == 128).all()


def test_16_bits_are_not_clipped(tmp_path):
    x = read_image(save(tmp_path / "x.png", np.full((28, 28), 100 * 256, np.uint16)))
    assert (x == 100).all()


def test_the_first_frame_of_an_animation(tmp_path):
    later = Image.new("L", (28, 28), 90)
    Image.new("L", (28, 28), 60).save(tmp_path / "x.gif", save_all=True, append_images=[later])
    assert (read_image(tmp_path / "x.gif") == 60).all()


def test_a_line_is_still_an_image(tmp_path):
    assert (read_image(save(tmp_path / "x.png", np.full((1, 900), 70, "u1"))) == 70).all()


@pytest.mark.parametrize("content", ["empty", "text", "cut", "missing", "folder"])
def test_what_is_no_image_gets_one_sentence(tmp_path, content):
    path = tmp_path / "x.png"
    if content == "folder":
        path.mkdir()
    elif content != "missing":
        save(path, np.random.default_rng(0).integers(256, size=(40, 40), dtype="u1"))
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "text": b"hello", "cut": whole[:-300]}[content])
    with pytest.raises(DataError, match="cannot be read as an image: ") as error:
        read_image(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("limit", [1000, 500])
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
    """Pillow warns from the limit on, and raises from twice the limit on."""
    path = save(tmp_path / "x.png", HALF)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match="1600 pixels.* exceeds limit of"):
            read_image(path)
