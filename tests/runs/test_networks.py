"""How a run keeps its network: descriptions that are built again, forged ones, and own files."""

import json
import os
import py_compile

import numpy as np
import pytest

from minicnn import Conv2D, Linear, MaxPool2D, ReLU, Residual, Sequential, Sigmoid, lenet
from minicnn.runs import networks
from minicnn.runs.settings import Origin
from minicnn.zoo import MODELS


def again(net):
    return networks.from_dict(json.loads(json.dumps(networks.to_dict(net))))


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_built_again_from_its_description(name):
    net = MODELS[name].build(np.random.default_rng(0), input_shape=(3, 32, 32), classes=47)
    other = again(net)
    assert repr(other) == repr(net)
    for own, array in zip(other.arrays.values(), net.arrays.values(), strict=True):
        own[...] = array
    x = np.random.default_rng(1).random((2, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(other(x), net(x))


def random_network(rng, depth):
    """Keeps the shape (N, 2, H, W)."""
    kinds = [ReLU, lambda: Conv2D(2, 2, 3, padding=1, bias=bool(rng.integers(2)))]
    if depth:
        kinds += [
            lambda: Residual(random_network(rng, depth - 1)),
            lambda: Sequential(*[random_network(rng, depth - 1) for _ in range(3)]),
        ]
    return kinds[rng.integers(len(kinds))]()


@pytest.mark.parametrize("seed", range(30))
def test_nested_networks_are_built_again(seed):
    net = Sequential(random_network(np.random.default_rng(seed), 4), MaxPool2D(2))
    assert repr(again(net)) == repr(net)
    assert again(net).arrays.keys() == net.arrays.keys()


def test_a_layer_that_stands_twice_stays_shared():
    linear = Linear(3, 3)
    parts = again(Sequential(linear, Residual(linear), ReLU())).parts
    assert parts["1"].parts["body"] is parts["0"]


LINEAR = {"layer": "Linear", "arguments": {"in_features": 3, "out_features": 3}}


@pytest.mark.parametrize(
    "forged, message",
    [
        ({"layer": "os.system", "arguments": {}}, "a layer of minicnn"),
        ({"layer": ["Linear"], "arguments": {}}, "a layer of minicnn"),
        ({"layer": "Linear", "arguments": {"command": 1}}, "has no argument 'command'"),
        (LINEAR | {"arguments": {"in_features": 10**9, "out_features": 10**9}}, "more numbers"),
        (LINEAR | {"arguments": {"in_features": "3", "out_features": 3}}, "integer"),
        ({"layer": "Sequential", "parts": [LINEAR, LINEAR]}, "more numbers"),
        ({"layer": "Sequential", "parts": [{"same_as": 0}]}, "a layer before it"),
        ({"layer": "Sequential", "parts": 3}, "does not describe"),
        ({}, "does not describe"),
    ],
)
def test_a_forged_description_is_refused(forged, message):
    with pytest.raises(ValueError, match=message):
        networks.from_dict({"dtype": "float32"} | forged, entries=12)
    for other in "ab", []:
        with pytest.raises(ValueError, match="expected the dictionary of a network"):
            networks.from_dict(other)


OWN = "from minicnn import Flatten, Linear, Sequential\n\n\ndef mine(rng, classes):\n"
OWN += "    return Sequential(Flatten(), Linear(784, classes, rng=rng))\n"


def test_a_file_is_executed_only_while_it_is_what_it_was(tmp_path):
    path, told = tmp_path / "own.py", tmp_path / "told"
    path.write_text(OWN)
    place = f"{path}:mine"
    origin = Origin(place, "digits", ("a", "b"), source_sha256=networks.source_sha256(place))
    assert networks.rebuild(origin, {}).output_shape((1, 1, 28, 28)) == (1, 2)
    path.write_text(f"open({str(told)!r}, 'w')\n{OWN}")
    with pytest.raises(ValueError, match="own.py has changed since the run began"):
        networks.rebuild(origin, {})
    assert not told.exists()


def test_the_package_around_a_changed_module_is_not_executed(tmp_path, monkeypatch):
    told, package = tmp_path / "told", tmp_path / "package_of_a_run"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(told)!r}, 'w')\n")
    (package / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    forged = Origin("package_of_a_run.own:mine", "digits", ("a",), source_sha256="0" * 64)
    with pytest.raises(ValueError, match="own.py has changed since the run began"):
        networks.rebuild(forged, {})
    assert not told.exists()
    assert networks.build(forged.model, None, (1, 28, 28), 2).layers[1].out_features == 2


def test_byte_code_beside_an_own_file_is_not_used(tmp_path):
    """Python would take it for that of the file, whose size and time are the same."""
    path = tmp_path / "own.py"
    path.write_text(OWN.replace("classes, rng", "1, rng"))
    py_compile.compile(path)
    status = path.stat()
    path.write_text(OWN.replace("classes, rng", "3, rng"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert networks.build(f"{path}:mine", None, (1, 28, 28), 9).layers[1].out_features == 3


def test_the_function_gets_random_numbers_when_a_run_is_opened(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN.replace("    return", "    rng.random()\n    return"))
    place = f"{path}:mine"
    origin = Origin(place, "digits", ("a",), source_sha256=networks.source_sha256(place))
    assert networks.rebuild(origin, {}).layers[1].out_features == 1


def test_other_layers_under_a_name_of_minicnn_are_refused(small_digits):
    """Opened by its name, this would be lenet, with the same shapes."""

    class Sine(Sigmoid):
        pass

    net = lenet()
    layers = [Sine() if isinstance(layer, Sigmoid) else layer for layer in net.layers]
    assert networks.origin(net, small_digits[0], "lenet").network
    with pytest.raises(ValueError, match="must not be the name of its network, got 'lenet'"):
        networks.origin(Sequential(*layers), small_digits[0], "lenet")


BAD_ARGUMENT = "from minicnn import Conv2D\n\ndef mine():\n    return Conv2D(0, 1, 1)\n"


def test_what_goes_wrong_in_an_own_file_is_one_sentence(tmp_path):
    path = tmp_path / "own.py"
    for text, message in [
        ("def mine(:\n", r"own.py cannot be imported: .* \(own.py, line 1\)"),
        ("import torch_of_mine\n", "own.py, line 1: ModuleNotFoundError"),
        ("raise ValueError('a\\nb')\n", "own.py, line 1: ValueError: a b"),
        ("def mine():\n    return 1 / 0\n", "own.py, line 2: ZeroDivisionError"),
        (BAD_ARGUMENT, "own.py, line 4: ValueError: in_channels must be an integer >= 1, got 0"),
        ("def mine():\n    return 3\n", "must return a layer"),
        ("from minicnn import fit\ndef other():\n    pass\n", "no function 'mine': it has other$"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            networks.build(f"{path}:mine", None, (1, 28, 28), 10)


def test_too_small_an_image_is_told_with_the_network(tmp_path):
    sentence = r"lenet does not fit images of 3x5x5: layer 3: .* 5 but the padded height is 2 "
    with pytest.raises(ValueError, match=sentence):
        networks.build("lenet", None, (3, 5, 5), 10)
