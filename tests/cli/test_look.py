"""minicnn data: what it counts, measures and draws, of files that are known."""

import numpy as np
from PIL import Image

from minicnn.cli.look import mean_and_deviation
from minicnn.datasets import Dataset


def test_what_a_folder_holds_is_printed_and_drawn(run_command, tmp_path):
    images = np.random.default_rng(0).integers(256, size=(12, 6, 6), dtype=np.uint8)
    images[10] = images[0]  # a cat of train, under another name in test
    for i, image in enumerate(images):
        part = "train" if i < 10 else "test"
        place = tmp_path / "pets" / part / ("cat", "dog")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i}.png")
    picture = tmp_path / "some.png"
    path = tmp_path / "pets"
    status, out, err = run_command("data", path, "--size", 6, "--out", picture)
    mean, deviation = images[:10].mean() / 255, images[:10].std() / 255
    assert status == 0 and out.splitlines() == [
        "pets: 10 images to train, 2 to test, 6x6, grey",
        "",
        "class  train  test",
        "cat        5     1",
        "dog        5     1",
        "",
        f"pixels, from 0 to 1: mean {mean:.4f}, standard deviation {deviation:.4f}",
        "equal images: 0 in train, 0 of them with another label; 1 of test are in train, "
        "test/cat/10.png as train/cat/0.png",
        f"{picture} shows 10 images",
    ]
    with Image.open(picture) as image:
        assert min(image.size) > 100
    Image.fromarray(255 - images[0]).save(path / "test" / "cat" / "10.png")
    assert "\nno two images are equal\n" in run_command("data", path, "--out", picture)[1]


def test_mean_and_deviation_are_those_of_all_pixels():
    images = np.random.default_rng(1).integers(256, size=(9, 3, 4, 5), dtype=np.uint8)
    data = Dataset(images, np.zeros(9, int), ("a",), "x")
    expected = images.mean() / 255, images.std() / 255
    np.testing.assert_allclose(mean_and_deviation(data), expected, rtol=1e-12)


def test_options_without_files_of_ones_own_are_refused(run_command, tmp_path):
    status, _, err = run_command("train", "--size", 8, "--out", tmp_path / "run")
    assert status == 2 and "--size is for files of your own" in err
    status, _, err = run_command("data", "digits", "--colour", "--out", tmp_path / "x.png")
    assert status == 2 and "digits is used as it is: leave out colour" in err
