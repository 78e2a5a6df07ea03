"""Paths as people write them: ~ is the home folder wherever a path comes in."""

import os
import pwd
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from minicnn import Linear, fashion_mnist, mnist
from minicnn.datasets import DatasetNotFound, read_idx, read_image
from minicnn.files import as_path
from minicnn.optimizers import SGD
from minicnn.plotting import LiveFigure, save_figure
from minicnn.runs import run_folder
from minicnn.runs.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    read_metadata,
    save_checkpoint,
    save_weights,
)
from minicnn.runs.settings import Origin, Settings
from minicnn.training import History, Position

ORIGIN = Origin("lenet", "digits", ("0",))
METADATA = {"model": "lenet", "data": "digits", "classes": ["0"]}
HISTORY = History(1, "cpu", curve=[(1.0, 2.0, 0.5)])


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder, which is not the current folder."""
    for name in "home", "here":
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.fixture
def homeless(home, monkeypatch):
    """There is no home folder, as in a container that runs under an unknown user number."""

    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


def new_checkpoint():
    position = Position(History(1, "cpu"))
    return Checkpoint.of(Linear(2, 3), SGD(0.1), position, Settings(), ORIGIN, "0")


def live_figure(path):
    live = LiveFigure(path)
    assert live.place == str(as_path(path))
    live.show(Figure(figsize=(1, 1)))


def in_a_folder(write):
    def make_and_write(path):
        as_path(path).mkdir()
        write(path)

    return make_and_write


def lock(path):
    with run_folder.locked(path):
        pass


WRITERS = {
    "save_weights": lambda path: save_weights(Linear(2, 3), path),
    "save_checkpoint": lambda path: save_checkpoint(new_checkpoint(), path),
    "save_figure": lambda path: save_figure(Figure(figsize=(1, 1)), path),
    "LiveFigure": live_figure,
    "new_run": lambda path: run_folder.new_run(path, ORIGIN),
    "save_config": in_a_folder(lambda path: run_folder.save_config(path, ORIGIN, Settings())),
    "save_epoch": in_a_folder(
        lambda path: run_folder.save_epoch(path, Linear(2, 3), HISTORY, ORIGIN),
    ),
    "add_checkpoint": in_a_folder(
        lambda path: run_folder.add_checkpoint(path, new_checkpoint(), 1)
    ),
    "locked": in_a_folder(lock),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("kind", [str, Path])
def test_what_is_written_below_the_home_folder(write, kind, home, monkeypatch):
    monkeypatch.setitem(sys.modules, "tkinter", None)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    write(kind("~/new.png"))
    assert os.listdir(home) == ["new.png"] and os.listdir() == []
    if (home / "new.png").is_dir() and write is not WRITERS["new_run"]:
        assert os.listdir(home / "new.png")


def is_idx(path):
    return read_idx(path).tolist() == [7]


def is_picture(path):
    return read_image(path)[0, 0, 0, 0] == 0


def holds_weights(path):
    load_weights(Linear(2, 3), path)
    return read_metadata(path) == METADATA


def holds_checkpoint(path):
    return load_checkpoint(path).origin == ORIGIN


def is_used(path):
    with pytest.raises(ValueError, match=f"^{as_path(path)} is not empty"):
        run_folder.check_unused(path)
    return True


def has_a_checkpoint(path):
    (found,) = run_folder.checkpoints(path)
    return as_path(path) in found.parents and run_folder.last_checkpoint(path).origin == ORIGIN


def is_no_run(path):
    with pytest.raises(ValueError, match=f"^{as_path(path)}/weights.* metadata|does not say which"):
        run_folder.open_run(path)
    return True


def lacks_data(path):
    for read in fashion_mnist, mnist:
        with pytest.raises(DatasetNotFound, match=f"{as_path(path)}: train-images.* not in it"):
            read(path)
    return True


READERS = {
    "read_idx": ("values", is_idx),
    "read_image": ("x.png", is_picture),
    "weights": ("weights", holds_weights),
    "load_checkpoint": ("checkpoint", holds_checkpoint),
    "check_unused": ("run", is_used),
    "checkpoints": ("run", has_a_checkpoint),
    "open_run": ("run", is_no_run),
    "data sets": ("run", lacks_data),
}


@pytest.mark.parametrize("name, reads", READERS.values(), ids=READERS)
@pytest.mark.parametrize("kind", [str, Path])
def test_what_is_read_below_the_home_folder(name, reads, kind, home):
    (home / "values").write_bytes(bytes.fromhex("00000801 00000001 07"))
    Image.fromarray(np.eye(28, dtype=np.uint8)[::-1] * 255).save(home / "x.png")
    save_weights(Linear(2, 3), home / "weights", METADATA)
    save_checkpoint(new_checkpoint(), home / "checkpoint")
    (home / "run").mkdir()
    save_weights(Linear(2, 3), home / "run" / "weights.safetensors", {})
    run_folder.add_checkpoint(home / "run", new_checkpoint(), 1)
    assert reads(kind(f"~/{name}"))


PATHS = {
    "~": "{home}",
    "~/a/../b": "{home}/a/../b",
    "~root/x": os.path.expanduser("~root/x"),
    "a/~/b": "a/~/b",
    "a~": "a~",
    "/~": "/~",
}


@pytest.mark.parametrize("written, meant", PATHS.items(), ids=PATHS)
def test_a_tilde_counts_at_the_start_only(written, meant, home):
    assert str(as_path(written)) == str(as_path(as_path(written))) == meant.format(home=home)


def test_a_file_may_be_called_tilde(home):
    """As the shell passes it on for *.png, and as one writes it to keep the shell from it."""
    for name in "~scan.png", "~":
        with open(name, "w"):
            pass
    assert as_path("~scan.png").samefile("~scan.png")
    assert as_path(as_path("./~")).samefile("./~")


@pytest.mark.parametrize("path", ["~nobody-here/x.png", "~nobody-here"])
def test_an_unknown_user_is_told_in_a_sentence(path, home):
    sentence = f"{path} cannot be found: the home folder of ~nobody-here is not known; give the"
    paths = [lambda: as_path(path)]
    readers = (read_idx, read_image, fashion_mnist, mnist, read_metadata, load_checkpoint)
    for read in (
        *readers,
        run_folder.open_run,
        run_folder.checkpoints,
        run_folder.check_unused,
        LiveFigure,
    ):
        paths.append(lambda read=read: read(path))
    for write in WRITERS.values():
        paths.append(lambda write=write: write(path))
    for use in paths:
        with pytest.raises(ValueError, match=f"^{sentence}"):
            use()
    assert os.listdir(home) == os.listdir() == []


def test_no_home_folder_is_told_in_a_sentence(homeless):
    with pytest.raises(ValueError, match="^~/x cannot be found: the home folder of ~ is not known"):
        as_path("~/x")
    assert str(as_path("x")) == "x"
