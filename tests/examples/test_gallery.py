"""What the examples share: their options, and what a user is told instead of a traceback."""

import importlib
import sys

import numpy as np
import pytest

from minicnn import corr2d
from minicnn.backend import gpu_problem
from minicnn.datasets import sources


@pytest.fixture
def gallery(run_example):
    return importlib.import_module("gallery")


def test_options(gallery, tmp_path):
    parser = gallery.parser("First line.\n\nMore.", {"fashion-mnist": None, "digits": None})
    assert "First line." in parser.format_help() and "More." not in parser.format_help()
    args = parser.parse_args(["--out", str(tmp_path / "new" / "folder")])
    assert args.data == "fashion-mnist" and not args.show
    assert args.out == tmp_path / "new" / "folder" and args.out.is_dir()
    args = gallery.parser("No data.").parse_args(["--out", str(tmp_path)])
    assert not hasattr(args, "data") and not hasattr(args, "device")
    args = gallery.parser("A device.", device="where").parse_args(["--out", str(tmp_path)])
    assert args.device == "cpu"


@pytest.mark.parametrize(
    "place, why", [("file", "File exists"), ("file/deeper", "Not a directory")]
)
def test_a_place_that_is_no_folder_is_told_at_once(gallery, tmp_path, capsys, place, why):
    (tmp_path / "file").write_text("text")
    with pytest.raises(SystemExit):
        gallery.parser("Its first line.").parse_args(["--out", str(tmp_path / place)])
    told = capsys.readouterr().err
    assert f"--out: the folder '{tmp_path / place}' cannot be made: {why}" in told


@pytest.mark.parametrize("text", ["0", "-5", "1.5", "many", ""])
def test_positive(gallery, text):
    assert gallery.positive("12") == 12
    with pytest.raises(gallery.argparse.ArgumentTypeError, match="integer of at least 1 but got"):
        gallery.positive(text)


def test_a_layer_with_given_weights(gallery):
    rng = np.random.default_rng(0)
    X, K = rng.standard_normal((5, 7)), rng.standard_normal((2, 3))
    y = gallery.convolution(K[None, None], padding=1)(X[None, None])[0, 0]
    assert gallery.largest_difference(y, corr2d(np.pad(X, 1), K)) < 1e-14
    assert gallery.largest_difference(np.array([1.0, -4.0]), np.array([2.0, -1.0])) == 3.0


@pytest.mark.parametrize("name", ["06_pooling", "07_lenet_layer_by_layer", "08_train_lenet"])
def test_missing_data_are_told_with_a_remedy(gallery, tmp_path, monkeypatch, name):
    """The data are in no folder of the machine, and cannot be downloaded."""

    def no_network(*arguments):
        raise sources.DataError("no network")

    monkeypatch.delenv("MINICNN_DATA", raising=False)
    monkeypatch.setattr(sources, "SYSTEM_FOLDER", tmp_path)
    monkeypatch.setattr(sources, "_cache", lambda source: tmp_path / "cache")
    monkeypatch.setattr(sources, "download", no_network)
    monkeypatch.setattr(sys, "argv", [f"examples/{name}.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        gallery.run(importlib.import_module(name).main)
    first, *_, last = str(stopped.value).splitlines()
    assert first == f"{name}.py: Fashion-MNIST was not found:"
    assert last == "  or use --data digits, which needs no download"


@pytest.mark.parametrize(
    "name",
    [
        "07_lenet_layer_by_layer",
        "08_train_lenet",
        "09_better_lenet",
        "10_what_lenet_sees",
        "11_side_by_side_with_pytorch",
    ],
)
def test_no_gpu_is_told_at_once(gallery, tmp_path, capsys, monkeypatch, name):
    gpu_problem.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--out", str(tmp_path), "--device", "gpu"])
    with pytest.raises(SystemExit) as stopped:
        gallery.run(importlib.import_module(name).main)
    gpu_problem.cache_clear()
    sentence = str(stopped.value.code)
    assert sentence.startswith(f"{name}.py: no GPU can be used: CuPy cannot be imported (")
    assert "\n" not in sentence and not capsys.readouterr().out


@pytest.mark.parametrize("error", [ValueError("expected more"), OSError("expected more")])
def test_errors_are_one_sentence(gallery, monkeypatch, error):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["examples/name.py"])
    with pytest.raises(SystemExit) as stopped:
        gallery.run(main)
    assert stopped.value.code == "name.py: expected more"
