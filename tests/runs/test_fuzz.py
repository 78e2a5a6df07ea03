"""Generated files: a reader returns what their bytes claim to hold, or refuses them in one
sentence. MINICNN_FUZZ=20000 sets how many of each kind are tried.

Checkpoints are forged with a sum that is right, so that what is behind it is reached.
"""

import copy
import gzip
import hashlib
import io
import json
import math
import os
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from minicnn import (
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
)
from minicnn.cli import commands, training
from minicnn.cli import data as cli_data
from minicnn.datasets import read_idx, read_image
from minicnn.runs import run_folder
from minicnn.runs.checkpoint import load_weights
from minicnn.runs.networks import LAYERS, rebuild, to_dict
from minicnn.runs.settings import Origin

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

EXAMPLES = int(os.environ.get("MINICNN_FUZZ", 200))
given = hypothesis.given
fuzz = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


def read(reader, *args):
    """What is read, or None if that was refused in one line."""
    try:
        return reader(*args)
    except ValueError as error:
        assert "\n" not in str(error) and str(args[-1]) in str(error)


@st.composite
def idx_files(draw):
    """A header and values that fit or do not, plain or gzipped, perhaps cut."""
    sizes = draw(st.lists(st.integers(0, 5) | st.integers(0, 2**32 - 1), max_size=5))
    start = bytes([0, *draw(st.sampled_from([(0, 8), (0, 8), (1, 8), (0, 13)]))])
    ndim = draw(st.just(len(sizes)) | st.integers(0, 255))
    values = draw(st.binary(max_size=200) | st.integers(0, 600).map(bytes))
    content = start + bytes([ndim]) + struct.pack(f">{len(sizes)}I", *sizes) + values
    if draw(st.booleans()):
        content = gzip.compress(content)
    return content[: draw(st.just(len(content)) | st.integers(0, len(content)))]


@pytest.mark.slow
@fuzz
@given(content=idx_files() | st.binary(max_size=100))
def test_idx_files(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "idx"
    path.write_bytes(content)
    array = read(read_idx, path)
    if array is not None:
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        ndim = content[3]
        assert array.shape == struct.unpack(f">{ndim}I", content[4 : 4 + 4 * ndim])
        assert array.tobytes() == content[4 + 4 * ndim :]


DTYPES = {"F32": 4, "F64": 8, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "BOOL": 1, "F9": 1}
NUMBERS = st.integers(-1, 40) | st.sampled_from([2**31, 2**63, 2**64 - 1, 10**400])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@st.composite
def tensors(draw):
    """The header's entry for one array, right or wrong."""
    dtype = draw(st.sampled_from(["F32", "F32", "F32", *DTYPES]))
    shape = draw(st.sampled_from([[2, 3], [2]]) | st.lists(NUMBERS, max_size=4))
    begin = draw(st.sampled_from([0, 24, 8]) | NUMBERS)
    size = DTYPES[dtype] * int(np.prod(shape, dtype=object))
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}
    return draw(st.just(entry) | st.just(entry) | JSON)


@st.composite
def safetensors_files(draw):
    """Names, types, shapes and places of two arrays or so, and data that fit them or not."""
    names = st.sampled_from(["weight", "bias", "../../bias", "__metadata__", ""])
    right = {
        "weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "bias": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]},
    }
    header = right | draw(st.dictionaries(names, tensors(), max_size=2))
    content = draw(st.just(json.dumps(header)) | st.just("[" * 2000)).encode()
    content += draw(st.sampled_from([b"", b"", b" ", b"}", content[1:]]))
    length = draw(st.just(len(content)) | st.just(len(content)) | NUMBERS) % 2**64
    return struct.pack("<Q", length) + content + bytes(draw(st.just(32) | st.integers(0, 40)))


LINE_BREAK = b'{"bias": ["\\n"]}'  # among what is wrong, and so in safetensors' message


@pytest.mark.slow
@fuzz
@given(content=safetensors_files() | st.binary(max_size=100))
@hypothesis.example(content=struct.pack("<Q", len(LINE_BREAK)) + LINE_BREAK)
def test_files_of_weights(content, tmp_path_factory):
    """They are all zeros, or refused, and then nothing is changed."""
    path, net = tmp_path_factory.getbasetemp() / "weights", Linear(3, 2)
    before = {name: parameter.copy() for name, parameter in net.params.items()}
    path.write_bytes(content)

    def loaded():
        load_weights(net, path)
        return True

    right = read(lambda _: loaded(), path)
    for name, parameter in net.params.items():
        np.testing.assert_array_equal(parameter, 0 if right else before[name])
        assert (parameter.shape, parameter.dtype) == (before[name].shape, np.float32)


@pytest.fixture
def unfinished(small_digits, tmp_path, monkeypatch):
    """The folder of a run that ended in its second epoch; commands take little data, and draw and
    measure nothing."""
    monkeypatch.setattr(cli_data, "digits", lambda: [part[:60] for part in small_digits])
    monkeypatch.setattr(training, "estimate_seconds", lambda *args, **options: 1.0)
    monkeypatch.setattr(run_folder, "save_figure", lambda figure, path: None)
    monkeypatch.setattr(run_folder, "training_curves", lambda history: None)
    command = ["train", "--data", "digits", "--epochs", "2", "--momentum", "0.9"]
    command += ["--batch-size", "20", "--save-every", "1", "--workers", "1", "--keep", "9"]
    assert commands.main([*command, "--out", str(tmp_path / "run")]) == 0
    for path in run_folder.checkpoints(tmp_path / "run"):
        if path.stem != "00001-000002":
            path.unlink()
    return tmp_path / "run"


def forged(content, change):
    """A checkpoint whose state is changed, and whose sum is right all the same."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    state = json.loads(header["__metadata__"]["minicnn"])
    state = change({"sha256": "0" * 64} | {k: v for k, v in state.items() if k != "sha256"})
    header["__metadata__"]["minicnn"] = json.dumps(state)
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + content[8 + length :]
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


def places(value, above=()):
    """The path of each entry of a tree of dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if key != "sha256":
            yield (*above, key)
            if isinstance(inner, (dict, list)):
                yield from places(inner, (*above, key))


def at(tree, path):
    """What is in one place."""
    for key in path:
        tree = tree[key]
    return tree


def put(tree, path, value):
    """A copy of the tree with another value in one place, or without it."""
    tree = copy.deepcopy(tree)
    above = at(tree, path[:-1])
    if value is DELETED:
        del above[path[-1]]
    else:
        above[path[-1]] = value
    return tree


DELETED = object()


@pytest.fixture
def resumed(unfinished, capsys):
    """A function that changes the state in the checkpoint of `unfinished`, resumes, and says how
    that ended: training goes on to its end, 0, or is refused in one line, 2."""
    (path,) = run_folder.checkpoints(unfinished)
    files = {file: file.read_bytes() for file in unfinished.rglob("*") if file.is_file()}

    def resume(change):
        shutil.rmtree(unfinished)
        for file, content in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        path.write_bytes(forged(files[path], change))
        capsys.readouterr()
        status = commands.main(["train", "--workers", "1", "--resume", str(unfinished)])
        out, err = capsys.readouterr()
        assert status in (0, 2)
        lines = err.splitlines()
        assert status == 0 or (lines and all(line.startswith("minicnn: ") for line in lines))
        return status

    return resume


@pytest.mark.slow
@pytest.mark.filterwarnings("always")
def test_forged_checkpoints(resumed):
    statuses = set()

    @fuzz
    @given(data=st.data())
    def resume(data):
        def change(state):
            place = data.draw(st.sampled_from(list(places(state))))
            values = st.integers(-1, 9) if place == ("settings", "epochs") else JSON  # not for ever
            return put(state, place, data.draw(st.just(DELETED) | values))

        statuses.add(resumed(change))

    resume()
    assert statuses == {0, 2}


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("value", [-1, 10**400, -(10**400), 1e308, math.inf, math.nan])
def test_numbers_out_of_range_in_checkpoints(resumed, value):
    """In place of each number."""
    numbers = []

    def look(state):
        numbers.extend(place for place in places(state) if type(at(state, place)) in (int, float))
        return state

    assert resumed(look) == 0 and len(numbers) > 15
    for place in numbers:
        resumed(lambda state, place=place: put(state, place, value))


def network():
    """Layers of every kind, of which one stands twice, as JSON has them."""
    conv, residual = Conv2D(2, 2, 3, padding=1), Residual(Sequential(ReLU(), BatchNorm2D(2)))
    pooling = MaxPool2D(2), AvgPool2D((2, 1), stride=2), GlobalAvgPool2D()
    other = ConvTranspose2D(2, 4, 2, stride=2, groups=2), Dropout(0.5), LeakyReLU(0.1)
    net = Sequential(conv, residual, residual, *pooling, *other, Flatten(), Linear(4, 3))
    return json.loads(json.dumps(to_dict(net))), sum(array.size for array in net.arrays.values())


@fuzz
@given(data=st.data())
def test_descriptions_of_networks(data):
    """One place or two are forged; what is built needs no more memory than the file accounts
    for."""
    description, entries = network()
    for _ in range(data.draw(st.integers(1, 2))):
        everywhere = list(places(description))
        parts = [at(description, place) for place in everywhere]
        numbers = [place for place, part in zip(everywhere, parts) if type(part) is int]
        place = data.draw(st.sampled_from(everywhere) | st.sampled_from(numbers or everywhere))
        names = st.sampled_from([*LAYERS, "Sequential", "Residual"])
        values = st.just(DELETED) | st.sampled_from(parts) | JSON | names | st.integers(0, 500)
        description = put(description, place, data.draw(values))
    forged = Origin("mine", "digits", (), network=json.dumps(description))
    try:
        net = rebuild(forged, {"weight": np.zeros(entries)})
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert sum(array.size for array in net.arrays.values()) <= 4 * entries


PNG = io.BytesIO()
Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(PNG, "png")


@fuzz
@given(
    start=st.sampled_from(
        [PNG.getvalue()[:33], b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0", b""]
    ),
    rest=st.binary(max_size=200),
)
def test_pictures(start, rest, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "picture"
    path.write_bytes(start + rest)
    picture = read(read_image, path)
    assert picture is None or (picture.shape, picture.dtype) == ((1, 1, 28, 28), np.uint8)
