"""Predictions for files and arrays, from Python and at the command line."""

import csv
import io
import json
import os
from dataclasses import asdict

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import minicnn
from minicnn import Flatten, Linear, Sequential
from minicnn.datasets import Preparation, as_input
from minicnn.runs import networks
from minicnn.runs.checkpoint import save_weights
from minicnn.use import predictor as predictor_module

CLASSES = ("plain", 'a "quoted", name', "é")
RNG = np.random.default_rng(0)


def run_of(folder, shape, **preparation):
    """The folder of a run whose network is linear, for images of this shape."""
    folder.mkdir()
    net = Sequential(Flatten(), Linear(int(np.prod(shape)), 3, rng=np.random.default_rng(1)))
    data = minicnn.datasets.Dataset(
        np.zeros((1, *shape), np.uint8),
        np.array([0]),
        CLASSES,
        "own",
        Preparation(shape[1:], shape[0] == 3, **preparation),
    )
    save_weights(net, folder / "weights.safetensors", asdict(networks.origin(net, data, "x")))
    return folder, net


@pytest.fixture
def colour(tmp_path):
    return run_of(tmp_path / "colour", (3, 6, 8), invert=False)


@pytest.fixture
def grey(tmp_path):
    return run_of(tmp_path / "grey", (1, 6, 8))


def expected(net, images):
    logits = net(as_input(images)).astype(float)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def shares(predictions):
    return np.array([prediction.probabilities for prediction in predictions])


def noise(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


def test_arrays_in_the_network_s_size_are_used_as_they_are(colour, grey):
    folder, net = colour
    images = noise(5, 3, 6, 8)
    predict = minicnn.load(folder).predict
    wanted = expected(net, images)
    found = predict(images)
    np.testing.assert_allclose(shares(found), wanted, atol=1e-6)
    for prediction, row in zip(found, wanted):
        assert prediction.label == CLASSES[row.argmax()]
        assert prediction.probability == prediction.probabilities.max()
        assert [label for label, _ in prediction.ranked] == [CLASSES[k] for k in np.argsort(-row)]
    np.testing.assert_allclose(shares(predict(images.transpose(0, 2, 3, 1))), wanted, atol=1e-6)
    np.testing.assert_allclose(shares(predict(images[0].transpose(1, 2, 0))), wanted[:1], atol=1e-6)
    folder, net = grey
    images = noise(5, 1, 6, 8) // 2 + 128  # with bright borders
    predict = minicnn.load(folder).predict
    wanted = expected(net, images)
    for given in (images, images[:, 0], images.transpose(0, 2, 3, 1)):
        np.testing.assert_allclose(shares(predict(given)), wanted, atol=1e-6)
    np.testing.assert_allclose(shares(predict(images[0, 0])), wanted[:1], atol=1e-6)
    assert predict(noise(0, 6, 8)) == []


def test_other_arrays_are_prepared_as_files_are(colour, grey, tmp_path):
    for folder, _ in (colour, grey):
        predict = minicnn.load(folder).predict
        for shape in ((12, 9), (12, 9, 3)):
            pixels = noise(*shape) // 4 + 190  # with a bright border
            Image.fromarray(pixels).save(tmp_path / "x.png")
            np.testing.assert_array_equal(
                shares(predict(pixels)), shares(predict(tmp_path / "x.png"))
            )


def test_the_preparation_of_the_run_is_used(colour, grey, tmp_path):
    bright = noise(6, 8, 3) // 4 + 190
    Image.fromarray(bright).save(tmp_path / "x.png")
    folder, net = colour
    images = bright.transpose(2, 0, 1)[None]
    for invert, wanted in ((None, images), (False, images), (True, 255 - images)):
        predictor = minicnn.use.Predictor(*minicnn.runs.run_folder.open_run(folder), invert)
        found = predictor.predict(tmp_path / "x.png")
        np.testing.assert_allclose(shares(found), expected(net, wanted), atol=1e-6)
        np.testing.assert_allclose(shares(predictor.predict(images)), shares(found), atol=1e-6)
    folder, net = grey
    images = 255 - np.asarray(Image.fromarray(bright).convert("L"))[None, None]
    found = minicnn.load(folder).predict(tmp_path / "x.png")
    np.testing.assert_allclose(shares(found), expected(net, images), atol=1e-6)


@pytest.fixture
def pictures(tmp_path):
    """A folder with pictures in two subfolders, and a file that is none."""
    folder = tmp_path / "pictures"
    for name in ("b/2.png", "b/1.png", "a/x.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(9, 9)).save(folder / name)
    (folder / "notes.txt").write_text("none")
    return folder


def test_folders_wildcards_and_lists(colour, pictures, monkeypatch):
    """Of any number, whatever fits into a forward pass."""
    predict = minicnn.load(colour[0]).predict
    one_by_one = [predict(pictures / name)[0] for name in ("a/x.jpg", "b/1.png", "b/2.png")]
    monkeypatch.setattr(predictor_module, "CHUNK", 2)
    for images in (pictures, str(pictures / "[ab]"), str(pictures / "**" / "*.[jp]*g")):
        np.testing.assert_allclose(shares(predict(images)), shares(one_by_one), atol=1e-6)
    both = predict([pictures / "b" / "*.png", str(pictures / "a")])
    np.testing.assert_allclose(shares(both), shares([*one_by_one[1:], one_by_one[0]]), atol=1e-6)


def test_weights_by_their_file(colour):
    folder, _ = colour
    images = noise(2, 3, 6, 8)
    os.rename(folder / "weights.safetensors", folder / "best.safetensors")
    best = minicnn.load(folder / "best.safetensors")
    assert best.predict(images, top=2)[0].ranked == best.predict(images)[0].ranked[:2]
    with pytest.raises(ValueError, match="is not the folder of a run"):
        minicnn.load(folder)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 2)), 3, None, noise(2), noise(2, 2, 2, 2), noise(0, 3), [noise(2, 2)]]
)
def test_what_is_no_picture_is_refused(colour, images):
    with pytest.raises(ValueError, match="^images must be paths, or uint8 in one of the shapes"):
        minicnn.load(colour[0]).predict(images)


def test_the_command_line_prints_json_and_csv(colour, pictures, run_command):
    folder, _ = colour
    odd = pictures / 'é "x", \udce9\n.png'
    with open(odd, "wb") as file:
        Image.fromarray(noise(9, 9)).save(file, "png")
    bad = pictures / "bad.png"
    bad.write_text("no picture")
    files = [pictures / "bad.png", odd, *(pictures / n for n in ("a/x.jpg", "b/1.png", "b/2.png"))]
    good = [file for file in files if file != bad]
    wanted = minicnn.load(folder).predict(good)

    status, out, err = run_command("predict", folder, pictures, "--json")
    rows = {row["file"]: row for row in json.loads(out)}
    assert status == 2 and err.startswith(f"minicnn: {bad} cannot be read") and err.count("\n") == 1
    assert rows.keys() == set(map(str, files)) and "cannot be read" in rows[str(bad)]["error"]
    for file, prediction in zip(good, wanted):
        row = rows[str(file)]
        assert (row["label"], row["probability"]) == (prediction.label, prediction.probability)
        assert [(r["label"], r["probability"]) for r in row["ranked"]] == list(prediction.ranked)

    odd.rename(pictures / 'é "x",\n.png')
    status, out, _ = run_command("predict", folder, pictures, "--csv")
    head, *rows = csv.reader(io.StringIO(out, newline=""))
    assert (status, head) == (2, ["file", "label", "probability", *CLASSES])
    found = {row[0]: [float(value) for value in row[3:]] for row in rows}
    assert found.keys() == {str(file).replace(" \udce9", "") for file in good}
    np.testing.assert_allclose(found[str(good[-1])], wanted[-1].probabilities)

    status, out, _ = run_command("predict", folder, pictures / "b", "--csv", "--top", "2")
    head, *rows = csv.reader(io.StringIO(out))
    assert head == ["file", "label", "probability", "label_2", "probability_2"]
    assert rows[-1][3] == wanted[-1].ranked[1][0] and status == 0

    status, out, _ = run_command("predict", folder, pictures / "b", "--top", "1")
    assert len(out.splitlines()) == 4
    assert run_command("predict", folder, pictures / "none*", "--json")[:2][0] == 2


def test_what_export_and_report_write(colour, run_command, tmp_path):
    folder, net = colour
    status, out, _ = run_command("export", folder, "--to", "torch")
    assert status == 0 and "nn.Linear(144, 3, bias=True)" in out
    arrays = safetensors.numpy.load_file(folder / "torch.safetensors")
    assert arrays.keys() == net.params.keys()
    np.savez(tmp_path / "x.npz", x_train=noise(6, 6, 8, 3), y_train=np.arange(6) % 3,
             x_test=noise(6, 6, 8, 3), y_test=np.arange(6) % 3)  # fmt: skip
    options = ["evaluate", folder, "--data", tmp_path / "x.npz"]
    status, out, err = run_command(*options)
    assert (status, err) == (0, "")
    status, reported, _ = run_command(*options, "--report")
    assert status == 0 and reported.startswith(out)
    assert (folder / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    status, printed, _ = run_command(*options, "--json")
    assert status == 0 and f"test acc {json.loads(printed)['accuracy']:.4f}" in out
    pytest.importorskip("onnx")
    status, out, _ = run_command("export", folder, "--to", "onnx", "--out", tmp_path / "x.onnx")
    assert status == 0 and "float32 N x 3 x 6 x 8" in out
    assert (tmp_path / "x.onnx").stat().st_size > 144 * 3 * 4
