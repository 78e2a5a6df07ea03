"""Weights and run folders: what is written is read back, and damage is reported."""

import dataclasses
import json
import os
import time

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from rounding import assert_equal_but_for_rounding, network_size

from minicnn import __version__, lenet, lenet_relu
from minicnn.files import write_atomically
from minicnn.runs.checkpoint import load_weights, save_weights
from minicnn.runs.run_folder import WEIGHTS, new_run, open_run, save_config, save_epoch
from minicnn.runs.settings import Origin, Settings
from minicnn.training import History
from minicnn.zoo import MODELS


def bits(net):
    return {name: parameter.tobytes() for name, parameter in net.params.items()}


@pytest.fixture
def saved(new_net, tmp_path):
    """(network, the file of its weights)"""
    net, path = new_net(0), tmp_path / "weights.safetensors"
    save_weights(net, path)
    return net, path


def test_weights_come_back_bit_for_bit(saved, new_net):
    net, path = saved
    other = new_net(1)
    assert bits(other) != bits(net)
    load_weights(other, path)
    assert bits(other) == bits(net)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_file_has_the_names_shapes_and_values(dtype, new_net, tmp_path):
    """Even of a parameter whose memory is not in C order."""
    net, path = new_net().astype(dtype), tmp_path / "weights"
    net.layers[3].params["weight"] = np.asfortranarray(net.params["3.weight"])
    save_weights(net, path)
    stored = safetensors.numpy.load_file(path)
    assert list(stored) == ["0.bias", "0.weight", "3.bias", "3.weight"]
    for name, parameter in net.params.items():
        np.testing.assert_array_equal(stored[name], parameter, strict=True)


def test_pytorch_reads_the_file_and_computes_the_same(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    nn, net = torch.nn, lenet(np.random.default_rng(0))
    for parameter in net.params.values():
        parameter += 0.1
    save_weights(net, tmp_path / "lenet.safetensors")
    net_torch = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.Sigmoid(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Sigmoid(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.Sigmoid(),
        nn.Linear(120, 84),
        nn.Sigmoid(),
        nn.Linear(84, 10),
    )
    net_torch.load_state_dict(safetensors_torch.load_file(tmp_path / "lenet.safetensors"))
    x = np.random.default_rng(1).random((3, 1, 28, 28), np.float32)
    exact = net.astype(np.float64)
    size = network_size(lambda net: {"y": net(x.astype(np.float64))}, exact)["y"]
    y = net_torch(torch.tensor(x)).detach().numpy()
    assert_equal_but_for_rounding(y, exact(x.astype(np.float64)), size)


def rewrite(change):
    """A damage to a file of weights: `change` is applied to the dict of its arrays."""

    def damage(path):
        arrays = safetensors.numpy.load_file(path)
        change(arrays)
        safetensors.numpy.save_file(arrays, path)

    return damage


DAMAGE = {
    "missing": (lambda path: path.unlink(), "there is none"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "there is none"),
    "empty": (lambda path: path.write_bytes(b""), ""),
    "garbage": (lambda path: path.write_bytes(bytes(range(256)) * 4), ""),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1]), ""),
    "another name": (
        rewrite(lambda arrays: arrays.update({"4.bias": arrays.pop("3.bias")})),
        r"missing \['3.bias'\], unknown \['4.bias'\]",
    ),
    "another shape": (
        rewrite(lambda arrays: arrays.update({"3.bias": np.ones((1, 10), np.float32)})),
        r"3.bias has shape \(10,\) .* got \(1, 10\)",
    ),
    "another dtype": (
        rewrite(lambda arrays: arrays.update({"3.bias": np.ones(10)})),
        "3.bias .* dtype float32 but got .* float64",
    ),
}


@pytest.mark.parametrize("damage, sentence", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_is_not_these_weights_is_refused_by_name(damage, sentence, saved, new_net):
    _, path = saved
    damage(path)
    net = new_net(1)
    with pytest.raises(ValueError, match=f"{path}.*{sentence}"):
        load_weights(net, path)
    assert bits(net) == bits(new_net(1))


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_floats_that_numpy_does_not_have_are_refused_by_name(dtype, new_net, tmp_path):
    path = tmp_path / "weights"
    size = {"BF16": 2, "F8_E4M3": 1}[dtype]
    header = {"0.bias": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * size]}}
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(4 * size))
    with pytest.raises(ValueError, match=str(path)):
        load_weights(new_net(), path)


@pytest.mark.parametrize("old", [b"old", None])
@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(fails, old, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    path = tmp_path / "file"
    if old:
        path.write_bytes(old)
    monkeypatch.setattr(os, fails, fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([old] if old else [])


def test_a_file_is_on_the_disk_whole_before_it_takes_its_place(tmp_path, monkeypatch):
    path, synced, replace = tmp_path / "file", [], os.replace
    path.write_bytes(b"old")

    def checked_replace(source, target):
        assert path.read_bytes() == b"old"
        assert synced == [3] and os.path.getsize(source) == 3
        assert os.path.dirname(source) == str(tmp_path)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    monkeypatch.setattr(os, "replace", checked_replace)
    write_atomically(str(path), b"new")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"new"]


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be flushed")
def test_a_new_name_is_on_the_disk_too(tmp_path, monkeypatch):
    steps, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda file: steps.append(os.fstat(file).st_ino))
    monkeypatch.setattr(os, "replace", lambda *paths: (steps.append("named"), replace(*paths)))
    write_atomically(tmp_path / "file", b"new")
    assert steps == [os.stat(tmp_path / "file").st_ino, "named", os.stat(tmp_path).st_ino]


def test_a_file_system_that_cannot_flush_folders_will_do(tmp_path, monkeypatch):
    def refuse(file):
        if os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError("invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


ORIGIN = Origin("lenet-relu", "digits", tuple("0123456789"))
METADATA = {"model": "lenet-relu", "data": "digits", "classes": list("0123456789")}


def test_a_new_run_gets_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in None, tmp_path / "a" / "b":
        made = new_run(folder, ORIGIN)
        assert made == folder or made.match("runs/lenet-relu-digits-*")
        assert list(made.iterdir()) == []
        save_config(made, ORIGIN, Settings(lr=0.1, seed=3))
        config = json.loads((made / "config.json").read_text())
        defaults = dataclasses.asdict(Settings()) | dataclasses.asdict(ORIGIN)
        assert config == json.loads(json.dumps(defaults)) | METADATA | {
            **{"minicnn": __version__, "epochs": 10, "batch_size": 256, "lr": 0.1, "momentum": 0.0},
            **{"nesterov": False, "weight_decay": 0.0, "schedule": "constant", "seed": 3},
        }


def test_a_run_is_never_written_over(tmp_path):
    save_config(new_run(tmp_path, ORIGIN), ORIGIN, Settings())  # ends before its first epoch does
    save_config(new_run(tmp_path, ORIGIN), ORIGIN, Settings())
    save_weights(lenet(), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=f"{tmp_path} is not empty"):
        new_run(tmp_path, ORIGIN)


def test_a_run_can_be_opened_after_each_epoch(tmp_path):
    folder, net = new_run(tmp_path, ORIGIN), lenet_relu(np.random.default_rng(0))
    history = History(5, "cpu", [2.0], [0.1], [2.5], [0.1], [1.5], [(0.5, 2.1, 0.1), (1, 2.0, 0.1)])
    for epoch in range(2):
        net.params["11.bias"][...] = epoch
        history.train_loss[0] = 2 + epoch
        save_epoch(folder, net, history, ORIGIN)
        opened, origin = open_run(folder)
        assert origin == ORIGIN and repr(opened) == repr(net) and bits(opened) == bits(net)
        stored = json.loads((folder / "history.json").read_text())
        assert stored == json.loads(json.dumps(dataclasses.asdict(history)))
        with Image.open(folder / "curves.png") as picture:
            assert picture.format == "PNG"
    names = ["best.safetensors", "curves.png", "history.json", "weights.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names


@pytest.mark.parametrize("name", MODELS)
def test_weights_of_older_versions_are_opened(name, tmp_path):
    """Beside them were three names only."""
    net, classes = MODELS[name].build(np.random.default_rng(0)), tuple("abcdefghij")
    metadata = {"model": name, "data": "digits", "classes": list(classes)}
    save_weights(net, tmp_path / WEIGHTS, metadata)
    opened, origin = open_run(tmp_path)
    assert bits(opened) == bits(net) and repr(opened) == repr(net)
    assert origin == Origin(name, "digits", classes) and origin.input_shape == (1, 28, 28)


NO_ORIGIN = f"{WEIGHTS} does not say which model these weights belong to: "
BROKEN = {
    "none": (None, f"is not the folder of a run that finished an epoch: no {WEIGHTS}"),
    "no origin": ({}, f"{NO_ORIGIN}.*'model'"),
    "another model": (
        {"model": "alexnet"},
        "weights of 'alexnet', which is none of lenet, lenet-relu, .*: build .* load_weights",
    ),
    "a list of models": ({"model": ["lenet"]}, f"{NO_ORIGIN}.*the name of a network, got .'lenet'"),
    "a number of data": ({"data": 1}, f"{NO_ORIGIN}.*the name of a data set, got 1"),
    "no classes": ({"classes": None}, f"{NO_ORIGIN}.*class names, got None"),
    "classes by name": (
        {"classes": dict.fromkeys("0123456789")},
        f"{NO_ORIGIN}.*class names, got {{",
    ),
    "one class": ({"classes": ["0"]}, f"{WEIGHTS}.*10 classes, got .'0'"),
}


@pytest.mark.parametrize("changes, sentence", BROKEN.values(), ids=BROKEN)
def test_a_folder_that_is_no_run_is_refused(changes, sentence, tmp_path):
    if changes is not None:
        origin = METADATA | {"model": "lenet"}
        save_weights(lenet(), tmp_path / WEIGHTS, changes and origin | changes)
    with pytest.raises(ValueError, match=f"{tmp_path}.*{sentence}") as error:
        open_run(tmp_path)
    assert "\n" not in str(error.value) and "Error(" not in str(error.value)


@pytest.mark.parametrize(
    "metadata, sentence",
    [
        (None, "has no metadata of minicnn"),
        ({"format": "pt"}, "has no metadata of minicnn"),
        ({"minicnn": "{}"}, "is damaged"),
    ],
)
def test_weights_that_others_wrote_are_not_a_run(metadata, sentence, tmp_path):
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / WEIGHTS, metadata)
    with pytest.raises(ValueError, match=f"{WEIGHTS} {sentence}"):
        open_run(tmp_path)


def test_weights_whose_sum_is_gone_are_damaged(tmp_path):
    """Else any byte of them could change, and they would count as another program's."""
    save_weights(lenet(), tmp_path / WEIGHTS, METADATA | {"model": "lenet"})
    content = (tmp_path / WEIGHTS).read_bytes()
    for place in range(content.index(b"sha256"), content.index(b"sha256") + 90):
        damaged = content[:place] + bytes([content[place] ^ 32]) + content[place + 1 :]
        (tmp_path / WEIGHTS).write_bytes(damaged)
        for read in lambda: open_run(tmp_path), lambda: load_weights(lenet(), tmp_path / WEIGHTS):
            with pytest.raises(ValueError, match=f"{WEIGHTS} is damaged"):
                read()


def test_an_edited_config_changes_nothing(tmp_path):
    """It is for people; the file of the weights says what network they belong to."""
    folder, net = new_run(tmp_path, ORIGIN), lenet_relu()
    save_weights(net, folder / WEIGHTS, METADATA)
    (folder / "config.json").write_text("{")
    opened, origin = open_run(folder)
    assert origin == ORIGIN and bits(opened) == bits(net)


def test_runs_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda pattern: "now")
    names = [new_run(None, ORIGIN).name for _ in range(3)]
    assert names == [f"lenet-relu-digits-now{suffix}" for suffix in ("", "-2", "-3")]
