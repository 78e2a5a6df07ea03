"""A network from a user's own file, with a layer that minicnn does not have, on small colour
images: every command, from training to use."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from minicnn import SGD, load
from minicnn.cli import commands
from minicnn.runs import checkpoints, open_run

OWN = """
from minicnn import AvgPool2D, BatchNorm2D, Conv2D, Flatten, Layer, Linear, Sequential


class Doubled(Layer):
    def forward(self, x):
        return 2 * x, None

    def backward(self, dy, saved, need_dx=True):
        return 2 * dy, {}


def mine(rng, input_shape, classes):
    channels, height, width = input_shape
    conv = Conv2D(channels, 4, 3, padding=1, rng=rng)
    last = Linear(4 * (height // 4) * (width // 4), classes, rng=rng)
    return Sequential(conv, BatchNorm2D(4), Doubled(), AvgPool2D(4), Flatten(), last)
"""


def main(*args):
    return commands.main([str(arg) for arg in args])


def train(own, model, folder, workers):
    """Four steps in each of two epochs, each of two chunks."""
    command = ["train", "--data", own / "pixels.npz", "--model", model, "--epochs", 2]
    command += ["--batch-size", 80, "--lr", 0.1, "--momentum", 0.9, "--workers", workers]
    return main(*command, "--out", folder)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder: own.py, 3x32x32 images of three classes in pixels.npz, and two finished runs."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(OWN)
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 3
    images = rng.integers(0, 100, (400, 3, 32, 32)).astype(np.uint8)
    images[np.arange(400), labels] += 100
    parts = {"x_train": images[:300], "y_train": labels[:300]}
    np.savez(folder / "pixels.npz", **parts, x_test=images[300:], y_test=labels[300:])
    assert train(folder, f"{os.path.relpath(folder)}/own.py:mine", folder / "run", 1) == 0
    assert train(folder, "lenet-relu", folder / "lenet", 1) == 0
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_stopped_in_mid_epoch_ends_bit_for_bit_as_one_that_was_not(
    workers, own, tmp_path, monkeypatch
):
    """Started with so many workers, and resumed with the other number."""
    left, real = [6], SGD.step

    def step(optimizer, params, grads):
        real(optimizer, params, grads)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(SGD, "step", step)
    assert train(own, f"{own}/own.py:mine", tmp_path, workers) == 143
    assert checkpoints(tmp_path)[-1].stem == "00001-000002"
    assert main("train", "--resume", tmp_path, "--workers", 3 - workers) == 0
    for name in "config.json", "weights.safetensors", "best.safetensors":
        assert (tmp_path / name).read_bytes() == (own / "run" / name).read_bytes()


def last_line(run_command, *args):
    status, out, err = run_command(*args)
    assert (status, err) == (0, "")
    return out.splitlines()[-1]


@pytest.mark.parametrize("name", ["run", "lenet"])
def test_every_command_opens_a_run(name, own, run_command, tmp_path, monkeypatch):
    """From another folder than the one in which it was trained."""
    monkeypatch.chdir(tmp_path)
    run, page = own / name, tmp_path / "page.html"
    images = np.load(own / "pixels.npz")["x_test"]
    net, origin = open_run(run)
    assert (origin.input_shape, origin.classes) == ((3, 32, 32), ("0", "1", "2"))
    scores = net(images.astype(np.float32) / 255)
    accuracy = np.mean(scores.argmax(axis=1) == np.load(own / "pixels.npz")["y_test"])
    assert f"test acc {accuracy:.4f} (100 images)" in last_line(run_command, "evaluate", run)
    Image.fromarray(images[0].transpose(1, 2, 0)).save(tmp_path / "one.png")
    status, out, _ = run_command("predict", run, "one.png", "--json")
    assert (status, json.loads(out)[0]["label"]) == (0, str(scores[0].argmax()))
    assert last_line(run_command, "explain", run, "--image", 1, "--out", page).startswith(str(page))
    assert "after 2 epochs" in run_command("trace", run)[1].splitlines()[0]
    assert "is complete, with 2 epochs" in last_line(run_command, "train", "--resume", run)


def test_defaults_for_files_of_ones_own_take_enough_steps_to_learn(own, run_command, tmp_path):
    command = ["train", "--data", own / "pixels.npz", "--epochs", 1, "--out", tmp_path / "run"]
    status, out, _ = run_command(*command)
    first, second, *_ = out.splitlines()
    assert status == 0 and first.startswith("lenet-relu, ")
    assert second.startswith("1 epoch, batch 32, lr 0.1, ")


def test_summary_of_an_own_network(own, run_command):
    options = ["--model", f"{own}/own.py:mine", "--input", "3x32x32", "--classes", 3]
    parameters = (3 * 9 + 1) * 4 + 2 * 4 + (4 * 8 * 8 + 1) * 3
    assert last_line(run_command, "summary", *options).split()[:2] == ["total", str(parameters)]


def test_the_new_place_of_a_moved_file_is_given_as_model(own, run_command, tmp_path):
    old, new, other = own / "own.py", tmp_path / "moved.py", tmp_path / "other.py"
    shutil.copytree(own / "run", tmp_path / "run")
    other.write_text(OWN + "\n")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "one.png")
    place = "--model", f"{new}:mine"
    os.rename(old, new)
    try:
        run = tmp_path / "run"
        status, _, err = run_command("evaluate", run)
        assert status == 2 and "if it moved, give its new place as --model FILE.py:function" in err
        status, _, err = run_command("evaluate", run, "--model", f"{other}:mine")
        assert status == 2 and f"{other} has changed since the run began" in err
        status, _, err = run_command("evaluate", run, "--model", "lenet")
        assert status == 2 and "model must be the new place of the file" in err
        assert "test acc" in last_line(run_command, "evaluate", run, *place)
        assert run_command("predict", run, tmp_path / "one.png", *place)[0] == 0
        assert load(run, f"{new}:mine").predict(tmp_path / "one.png")
        command = ["train", "--resume", run, "--epochs", 3]
        assert "cannot be resumed here" in run_command(*command)[2]
        assert run_command(*command, *place)[0] == 0
        assert "test acc" in last_line(run_command, "evaluate", run)  # it kept the new place
    finally:
        os.rename(new, old)
    status, _, err = run_command("evaluate", own / "lenet", "--model", f"{old}:mine")
    assert status == 2 and "the run keeps its network and needs no file: leave out model" in err


def test_the_new_place_of_moved_data_is_given_as_data(own, run_command, tmp_path):
    run, new = tmp_path / "run", tmp_path / "renamed.npz"
    shutil.copytree(own / "lenet", run)
    old = own / "pixels.npz"
    os.rename(old, new)
    try:
        for command in ["evaluate", run], ["train", "--resume", run, "--epochs", 3]:
            status, _, err = run_command(*command)
            assert status == 2 and f"{old}, the data of the run, does not exist: give its" in err
            assert run_command(*command, "--data", new)[0] == 0
        assert "test acc" in last_line(run_command, "evaluate", run)  # it kept the new place
        content = dict(np.load(new))
        np.savez(new, **content | {"x_train": 255 - content["x_train"]})
        status, _, err = run_command("train", "--resume", run, "--epochs", 4)
        assert status == 2 and "differs from the data that the run was trained on" in err
        np.savez(new, **content)
    finally:
        os.rename(new, old)


CHANGES = {
    "changed": (lambda path: path.write_text(OWN + "\n"), " has changed since the run began"),
    "gone": (lambda path: path.unlink(), ", which builds the network, cannot be read: No such"),
}


@pytest.mark.parametrize("change, sentence", CHANGES.values(), ids=CHANGES)
def test_a_run_whose_file_is_not_what_it_was_is_refused(change, sentence, own, run_command):
    path, run = own / "own.py", own / "run"
    try:
        change(path)
        for command in ["evaluate"], ["predict"], ["explain"], ["trace"], ["train", "--resume"]:
            images = ["one.png"] if command == ["predict"] else []
            status, out, err = run_command(*command, run, *images)
            assert (status, out) == (2, "")
            assert f"{path}{sentence}" in err and len(err.splitlines()) == 1
    finally:
        path.write_text(OWN)
