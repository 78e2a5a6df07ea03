"""Image files of users: each is brought into the form of the training images, or refused."""

import contextlib
import subprocess
import sys
import threading
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from minicnn.datasets import DataError, read_image

UNIFORM = pytest.mark.filterwarnings("ignore:.* comes out uniform")
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


@UNIFORM
def test_16_bits_are_not_clipped(tmp_path):
    x = read_image(save(tmp_path / "x.png", np.full((28, 28), 100 * 256, np.uint16)))
    assert (x == 100).all()


BYTES = np.random.default_rng(0).integers(256, size=(28, 28), dtype=np.uint8)
BYTES[[0, -1]], BYTES[2, 2:4] = 0, (0, 255)
COPIES = {  # of BYTES, in a format that has no fixed range
    "I;16, raw": BYTES.astype(np.uint16),
    "I;16, 256": BYTES.astype(np.uint16) * 256,
    "I;16, 257": BYTES.astype(np.uint16) * 257,
    "I;16, 257, dark": BYTES.astype(np.uint16) // 16 * 257,
    "I;16, dark": BYTES.astype(np.uint16) // 16,
    "I;16, 12 bits": BYTES.astype(np.uint16) * 16 + BYTES // 16,
    "I, raw": BYTES.astype(np.int32),
    "I, 256": BYTES.astype(np.int32) * 256,
    "I, 12 bits": BYTES.astype(np.int32) * 16,
    "I, negative": BYTES.astype(np.int32) - 1000,
    "I, large": BYTES.astype(np.int32) * 2**23 - 2**30,
    "F, 1": BYTES.astype(np.float32) / 255,
    "F, 255": BYTES.astype(np.float32),
    "F, nearly 255": BYTES.astype(np.float32) * np.float32(1 - 1e-6),
    "F, 65535": BYTES.astype(np.float32) * 257,
    "F, negative": BYTES.astype(np.float32) / 255 - 0.5,
    "F, a little over 1": BYTES.astype(np.float32) / 250,
    "F, a little over 255": BYTES.astype(np.float32) * 1.1,
    "F, tiny": BYTES.astype(np.float32) * 1e-30,
    "F, vast": BYTES.astype(np.float32) * 1e36,
}


@pytest.mark.parametrize("name, values", COPIES.items(), ids=COPIES)
def test_pictures_of_other_ranges_are_those_of_bytes(name, values, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the dark ones
        x = read_image(save(tmp_path / "x.tif", values), invert=False)
    np.testing.assert_array_equal(x[0, 0], BYTES // 16 if "dark" in name else BYTES)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16])
def test_a_dim_picture_without_a_fixed_range_is_seen(dtype, tmp_path):
    """A picture of 10 bits, for example, would be dark if it were taken for one of 12."""
    x = read_image(save(tmp_path / "x.tif", BYTES.astype(dtype) * 2))
    np.testing.assert_array_equal(x[0, 0], BYTES)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value, tmp_path):
    values = np.where(BYTES == 255, value, BYTES / 255).astype(np.float32)
    path = save(tmp_path / "x.tif", values)
    with pytest.raises(DataError, match=f"^{path} cannot be read as an image: .* not finite.*$"):
        read_image(path)


UNIFORM_PICTURES = {
    "black": np.zeros((28, 28), np.uint8),
    "white": np.full((28, 28, 3), 255, np.uint8),
    "faint": 100 + BYTES // 64,
    "transparent": np.dstack([BYTES, BYTES, BYTES, 0 * BYTES]),
    "all but transparent": np.dstack([BYTES, BYTES, BYTES, 0 * BYTES + 1]),
    "grey and transparent": np.dstack([BYTES, 0 * BYTES]),
    "a dot that is lost": np.eye(3000, 1, dtype=np.uint8) * 255 * np.eye(1, 3000, dtype=np.uint8),
    "floats": np.full((28, 28), 0.5, np.float32),
    "zeros": np.zeros((28, 28), np.float32),
    "below zero": np.full((28, 28), -7, np.int32),
    "16 bits": np.full((28, 28), 4000, np.uint16),
}


@pytest.mark.parametrize("image", UNIFORM_PICTURES.values(), ids=UNIFORM_PICTURES)
def test_a_picture_that_comes_out_uniform_gets_a_warning_of_one_line(image, tmp_path):
    path = save(tmp_path / ("x.tif" if image.ndim == 2 else "x.png"), image)
    with pytest.warns(UserWarning, match=f"^{path} comes out uniform, .*$") as warned:
        read_image(path)
    assert len(warned) == 1 and warned[0].filename == __file__


def test_a_faint_picture_that_can_be_seen_gets_none(tmp_path):
    image = 100 + BYTES // 8
    np.testing.assert_array_equal(read_image(save(tmp_path / "x.png", image))[0, 0], image)


@UNIFORM
def test_the_first_frame_of_an_animation(tmp_path):
    later = Image.new("L", (28, 28), 90)
    Image.new("L", (28, 28), 60).save(tmp_path / "x.gif", save_all=True, append_images=[later])
    assert (read_image(tmp_path / "x.gif") == 60).all()


@UNIFORM
def test_a_line_is_still_an_image(tmp_path):
    assert (read_image(save(tmp_path / "x.png", np.full((1, 900), 70, "u1"))) == 70).all()


UNREADABLE = {
    "empty": "it is empty, damaged or not a picture",
    "text": "it is empty, damaged or not a picture",
    "cut": ".*truncated",
    "missing": "No such file",
    "folder": "Is a directory|Permission denied",  # the latter on Windows
}


@pytest.mark.parametrize("content, reason", UNREADABLE.items())
def test_what_is_no_image_gets_one_sentence(tmp_path, content, reason):
    path = tmp_path / "x.png"
    if content == "folder":
        path.mkdir()
    elif content != "missing":
        save(path, np.random.default_rng(0).integers(256, size=(40, 40), dtype="u1"))
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "text": b"hello", "cut": whole[:-300]}[content])
    with pytest.raises(DataError, match=f"cannot be read as an image: ({reason})") as error:
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


def test_pictures_are_read_by_several_threads(tmp_path):
    """The warning filters, which all threads share, are as they were, during it too."""
    paths = [save(tmp_path / f"{i}.tif", np.roll(BYTES, i, axis=1)) for i in range(64)]
    before, seen, done = list(warnings.filters), [], threading.Event()

    def watch():
        while not done.is_set():
            seen.append(warnings.filters == before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(read_image, paths))
    done.set()
    watcher.join()
    assert seen and all(seen) and warnings.filters == before
    for i, x in enumerate(read):
        np.testing.assert_array_equal(x[0, 0], np.roll(BYTES, i, axis=1))


def test_threads_may_read_the_first_pictures(tmp_path):
    """Pillow loads its decoders when it meets the first file."""
    path = save(tmp_path / "x.tif", BYTES / np.float32(255))
    program = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from minicnn.datasets import read_image\n"
        f"print(*ThreadPoolExecutor(8).map(lambda _: read_image({str(path)!r}).sum(), range(8)))"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    process = subprocess.run(command, capture_output=True, text=True)
    assert (process.stdout.split(), process.stderr) == (8 * [str(BYTES.sum())], "")


def test_the_limit_of_size_is_read_when_a_picture_is(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", BYTES)
    for limit in None, 28 * 28:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        np.testing.assert_array_equal(read_image(path)[0, 0], BYTES)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 28 * 28 - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        with pytest.raises(DataError, match="cannot be read as an image: its size of 784 pixels"):
            read_image(path)


@pytest.mark.parametrize("shape", [(900, 1), (1, 900), (900, 15), (14, 900), (28, 1), (1, 1)])
def test_a_narrow_picture_leaves_a_line(shape, tmp_path):
    """White on black, so that the line is found again; of Pillow before 13, nothing is left."""
    pixels = np.full(shape, 255, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # uniform, where the picture is a square
        found = read_image(save(tmp_path / "line.png", pixels), invert=False)
    assert found.shape == (1, 1, 28, 28) and found.max() == 255


def test_a_header_that_claims_much_takes_no_memory(tmp_path):
    """Of a damaged chunk, Pillow reads as many bytes as its header says."""
    path = save(tmp_path / "x.png", HALF)
    content = bytearray(path.read_bytes())
    content[33:37] = b"\x20\0\0\0"  # the length of the pixels: half a gigabyte
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with contextlib.suppress(DataError):
            read_image(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_colour_is_kept_if_asked_for(tmp_path):
    rgb = np.zeros((28, 28, 3), np.uint8)
    rgb[...] = (10, 20, 250)
    rgb[8:20, 8:20] = (200, 100, 0)
    path = save(tmp_path / "x.png", rgb)
    np.testing.assert_array_equal(read_image(path, colour=True), rgb.transpose(2, 0, 1)[None])
    wide = read_image(path, (28, 56), colour=True)[0]
    assert (wide[:, :, :10] == np.array([10, 20, 250])[:, None, None]).all()
    inverted = read_image(path, colour=True, invert=True)
    np.testing.assert_array_equal(inverted, 255 - rgb.transpose(2, 0, 1)[None])
