"""The command line from end to end: what it prints, what it writes and how it refuses."""

import codecs
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import minicnn
from minicnn import SGD, backend, fit, lenet_relu, optimizers
from minicnn.backend import gpu_problem
from minicnn.cli import commands, doctor
from minicnn.cli import data as cli_data
from minicnn.datasets import DataError, DatasetNotFound, sources
from minicnn.gradcheck import checklist, museum
from minicnn.runs import resumable
from minicnn.runs.checkpoint import save_weights
from minicnn.runs.run_folder import open_run
from minicnn.runs.settings import RECIPES, Settings


@pytest.fixture
def run(run_command, small_digits, monkeypatch):
    """`run_command`, with a few digits for all commands."""
    monkeypatch.setattr(cli_data, "digits", lambda: small_digits)
    return run_command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(process, folder) of an epoch over the digits, run as from a shell; the backend that is set
    for matplotlib cannot be had, as on a machine without a display."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    command = [sys.executable, "-m", "minicnn", "train", "--data", "digits", "--epochs", "1"]
    process = subprocess.run(
        [*command, "--batch-size", "32", "--out", folder],
        capture_output=True,
        text=True,
        env=os.environ | {"MPLBACKEND": "module://no_display"},
    )
    return process, folder


HALF = np.repeat(np.array([[0, 255]], np.uint8), 14, axis=1).repeat(28, axis=0)


def assert_refused(err, sentence):
    """The last line says what is wrong; at most the usage comes before it."""
    *before, line = err.splitlines()
    assert re.fullmatch(f"minicnn.*: .*{sentence}.*", line)
    assert before == [] or before[0].startswith("usage: minicnn")
    assert "Traceback" not in err


def test_train_says_what_it_does_and_writes_the_run(trained):
    process, folder = trained
    assert (process.returncode, process.stderr) == (0, "")
    history = json.loads((folder / "history.json").read_text())
    scores = (
        f"loss {history['train_loss'][0]:.3f}, train acc {history['train_accuracy'][0]:.3f}, "
        f"test acc {history['test_accuracy'][0]:.3f}"
    )
    expected = [
        r"lenet-relu, 61,706 parameters, on digits \(6,000 images .* 1,000 to test\), "
        r"on the cpu with \d+ workers?",
        r"1 epochs?, batch 32, lr 0\.1, momentum 0, weight decay 0, seed 0",
        rf"about \d+ seconds?, .* {folder}",
        f"epoch 1/1: {scores}",
        scores,
        r"\d+\.\d examples/sec on cpu",
        f"weights, history and curves are in {folder}",
    ]
    lines = process.stdout.splitlines()
    if lines[-2].startswith("never predicted on the test set"):  # it depends on matplotlib's fonts
        del lines[-2]
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line)
    names = [".lock", "best.safetensors", "checkpoints", "config.json", "curves.png"]
    names += ["first_batch.png", "history.json", "weights.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [
        "00001-000000.safetensors"
    ]
    with Image.open(folder / "curves.png") as picture:
        assert picture.format == "PNG"


def test_evaluate_finds_the_accuracy_that_training_ended_with(trained, run, monkeypatch):
    _, folder = trained
    monkeypatch.setattr(cli_data, "digits", minicnn.digits)
    history = json.loads((folder / "history.json").read_text())
    loss, accuracy = history["test_loss"][0], history["test_accuracy"][0]
    assert accuracy > 0.5
    expected = f"digits: test loss {loss:.3f}, test acc {accuracy:.4f} (1,000 images)\n"
    assert run("evaluate", folder) == (0, expected, "")


def test_predict_prints_the_probabilities_of_all_classes(trained, run, small_digits, tmp_path):
    _, folder = trained
    net, _ = open_run(folder)
    for i, image in enumerate(small_digits[1].images[:3]):
        path = tmp_path / f"{i}.png"
        Image.fromarray(image[0]).save(path)
        logits = net(image[None].astype(np.float32) / 255)[0].astype(np.float64)
        expected = np.exp(logits) / np.exp(logits).sum()

        status, out, err = run("predict", folder, path)
        assert (status, err) == (0, "")
        first, *rest = out.splitlines()
        rows = [re.fullmatch(r" +(\d+\.\d\d)%  (\d)", line).groups() for line in rest]
        percent = [float(number) for number, _ in rows]
        classes = [int(name) for _, name in rows]
        assert first == f"{path}: {expected.argmax()}"
        assert classes == np.argsort(-expected).tolist()
        np.testing.assert_allclose(percent, 100 * expected[classes], atol=0.006)
        assert sum(percent) == pytest.approx(100, abs=0.05)


def test_predict_takes_dark_on_bright_as_it_is_told(trained, run, small_digits, tmp_path):
    image = small_digits[1].images[0, 0]
    Image.fromarray(image).save(tmp_path / "bright.png")
    Image.fromarray(255 - image).save(tmp_path / "dark.png")

    def rows(name, *options):
        status, out, _ = run("predict", trained[1], tmp_path / name, *options)
        assert status == 0
        return out.splitlines()[1:]

    expected = rows("bright.png")
    assert rows("bright.png", "--no-invert") == expected
    assert rows("dark.png") == rows("dark.png", "--invert") == expected
    assert rows("dark.png", "--no-invert") == rows("bright.png", "--invert") != expected


def test_a_bad_image_does_not_keep_the_others_from_being_predicted(trained, run, tmp_path):
    for name in "ac":
        Image.fromarray(HALF).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_text("no image")
    paths = [tmp_path / f"{name}.png" for name in "abcd"]
    status, out, err = run("predict", trained[1], *paths)
    assert status == 2
    assert re.findall(r"(.)\.png: \d$", out, re.MULTILINE) == ["a", "c"]
    for line, path in zip(err.splitlines(), (paths[1], paths[3]), strict=True):
        assert line.startswith(f"minicnn: {path} cannot be read as an image")


@pytest.mark.filterwarnings("always")
def test_a_uniform_picture_is_told_in_a_line(trained, run, tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(np.full((28, 28), 0.5, np.float32)).save(path)
    status, out, err = run("predict", trained[1], path)
    assert status == 0 and out.startswith(f"{path}: ")
    assert re.fullmatch(f"minicnn: {path} comes out uniform, .*\n", err)


def test_too_large_a_picture_is_told_in_a_line(trained, run, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 28 * 28 - 1)
    Image.fromarray(HALF).save(tmp_path / "x.png")
    status, out, err = run("predict", trained[1], tmp_path / "x.png")
    assert (status, out) == (2, "")
    assert_refused(err, "its size of 784 pixels exceeds limit of 783")


ODD = "caf\udce9"  # as Python reads a name with the byte e9, which is not UTF-8
ENCODINGS = {
    "utf-8": (r"caf\udce9", "é"),
    "ascii": (r"caf\udce9", r"\xe9"),
    "ascii:surrogateescape": (r"caf\udce9", r"\xe9"),
    "latin-1": (r"caf\udce9", "é"),
}


@pytest.fixture
def odd(small_digits, tmp_path, monkeypatch):
    """A folder with pictures and the folder of a run, whose names and classes few terminals have;
    a function (file) -> what a command is given for it."""
    origin = {"model": "lenet-relu", "data": "digits"}
    origin["classes"] = [f"é{ODD}{i}" for i in range(10)]
    for name in f"{ODD}.png", "é.png", "ok.png":
        with open(tmp_path / name, "wb") as file:
            Image.fromarray(HALF).save(file, "png")
    (tmp_path / f"{ODD} run").mkdir()
    save_weights(lenet_relu(), tmp_path / f"{ODD} run" / "weights.safetensors", origin)
    monkeypatch.setattr(cli_data, "digits", lambda: small_digits)
    return lambda name: str(tmp_path / name)


@pytest.mark.parametrize("encoding, shown", ENCODINGS.items(), ids=ENCODINGS)
def test_what_the_terminal_cannot_encode_is_escaped(encoding, shown, odd):
    caf, e = shown
    names = f"{ODD}.png", f"{ODD}.txt", "é.png", "ok.png"
    process = subprocess.run(
        [sys.executable, "-m", "minicnn", "predict", odd(f"{ODD} run"), *map(odd, names)],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )
    out, err = (text.decode(encoding.split(":")[0]) for text in (process.stdout, process.stderr))
    first = [line for line in out.splitlines() if not line.startswith(" ")]
    assert len(first) == 3 and len(out.splitlines()) == 33
    for line, name in zip(first, (f"{caf}.png", f"{e}.png", "ok.png")):
        assert re.fullmatch(f".*/{re.escape(name)}: {re.escape(e + caf)}\\d", line)
    assert err.startswith("minicnn: ") and f"{caf}.txt cannot be read as an image" in err
    assert (process.returncode, len(err.splitlines())) == (2, 1)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_run_may_have_any_name(encoding, odd, tmp_path):
    """Lines beside a progress bar and the command that resumes are printed too."""
    program = (
        "import sys; from minicnn import digits; from minicnn.cli import commands, data, training\n"
        "data.digits = lambda: [data[:200] for data in digits(200, 200)]\n"
        "training.plateau = lambda *args: 'at \\xe9\\udce9'\n"
        "raise SystemExit(commands.main(sys.argv[1:]))"
    )
    options = ["--epochs", "1", "--data", "digits", "--batch-size", "50", "--out", odd(f"é{ODD}")]
    process = subprocess.run(
        [sys.executable, "-c", program, "train", *options],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert (process.returncode, process.stderr) == (0, b"")
    out = process.stdout.decode(encoding).replace(r"\xe9", "é")
    assert "\nat é\\udce9\n" in out
    assert out.endswith("weights, history and curves are in " + odd("écaf\\udce9") + "\n")


class Cell:
    """A stream as a notebook has it: text goes to a browser, and nothing can be reconfigured."""

    encoding = "UTF-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        text.encode()
        self.text += text

    def flush(self):
        pass


STREAMS = {
    "strict": lambda: io.TextIOWrapper(io.BytesIO(), "ascii"),
    "notebook": Cell,
    "memory": io.StringIO,
    "codec": lambda: codecs.getwriter("ascii")(io.BytesIO()),
    "none": lambda: None,
}
COMMANDS = {
    "returns": ("predict", f"{ODD} run", f"{ODD}.png", "ok.png"),
    "refuses": ("evaluate", f"{ODD} nothing"),
    "does not parse": ("summary", ODD),
    "raises": ("doctor",),
}


@pytest.mark.parametrize("new_stream", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_leaves_the_process_as_it_was(command, new_stream, odd, monkeypatch):
    def fail():
        warnings.warn(f"é{ODD}", stacklevel=1)
        raise RuntimeError

    monkeypatch.setattr(doctor, "report", fail)
    args = [odd(part) if part.startswith(ODD) else part for part in command]
    streams = out, err = new_stream(), new_stream()
    modes = [getattr(stream, "errors", None) for stream in streams]
    filters = list(warnings.filters)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            show = warnings.showwarning
            with contextlib.suppress(SystemExit, RuntimeError):
                commands.main(args)
            assert warnings.showwarning is show
        assert (sys.stdout, sys.stderr) == streams
    assert [getattr(stream, "errors", None) for stream in streams] == modes
    assert warnings.filters == filters
    if isinstance(err, Cell):
        written = err.text if command[0] != "predict" else out.text
        assert r"caf\udce9" in written


def test_output_that_goes_nowhere(odd, tmp_path):
    """Python has no stdout and no stderr then."""
    options = ["--epochs", "1", "--data", "digits", "--batch-size", "1000", "--out", odd("run")]
    command = f"{sys.executable} -m minicnn train {' '.join(options)} >&- 2>&-"
    assert subprocess.run(["bash", "-c", command]).returncode == 0
    command = f"{sys.executable} -m minicnn evaluate {tmp_path / 'nothing'} 2>&-"
    process = subprocess.run(["bash", "-c", command], capture_output=True)
    assert (process.returncode, process.stdout) == (2, b"")


def test_paths_below_the_home_folder(run, tmp_path, monkeypatch):
    """As in --out=~/runs/x, where the shell does not insert the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Image.fromarray(HALF).save(tmp_path / "x.png")
    options = ["--data", "digits", "--batch-size", 1000, "--epochs", 1, "--out=~/runs/x"]
    status, out, err = run("train", *options)
    assert (status, err) == (0, "")
    assert out.endswith(f"weights, history and curves are in {tmp_path}/runs/x\n")
    assert run("train", "--resume=~/runs/x", "--epochs", 2)[::2] == (0, "")
    assert run("evaluate", "~/runs/x")[::2] == (0, "")
    status, out, err = run("predict", "~/runs/x", "~/x.png")
    assert (status, err) == (0, "") and re.match(r"~/x\.png: \d\n", out)
    status, _, err = run("train", "--data", "mnist", "--data-folder=~/data")
    assert status == 2 and f"{tmp_path}/data: no such folder" in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        "train --data digits --out ~nobody-here/x",
        "train --resume ~nobody-here/x",
        "train --data mnist --data-folder ~nobody-here/x",
        "evaluate ~nobody-here/x",
        "predict ~nobody-here/x y.png",
    ],
)
def test_an_unknown_home_folder_is_told_in_a_line(command, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*command.split())
    assert (status, out) == (2, "")
    assert_refused(err, "~nobody-here/x cannot be found: the home folder of ~nobody-here is not k")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_home_folder_does_not_keep_other_images_from_being_predicted(
    trained, run, tmp_path
):
    Image.fromarray(HALF).save(tmp_path / "x.png")
    status, out, err = run("predict", trained[1], "~nobody-here/x.png", tmp_path / "x.png")
    assert status == 2 and out.startswith(f"{tmp_path / 'x.png'}: ")
    assert_refused(err, "the home folder of ~nobody-here is not known")


@pytest.mark.parametrize("out", [None, "file/x"])
def test_a_folder_that_cannot_be_made_is_told_in_a_line(out, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "file", "runs":
        (tmp_path / name).touch()
    status, _, err = run("train", "--data", "digits", *(["--out", out] if out else []))
    assert status == 2
    assert_refused(err, f"{out or 'runs/lenet-relu-digits'} cannot be made: .*; choose another")


def test_train_is_fit_with_the_settings_that_were_given(run, small_digits, tmp_path):
    folder = tmp_path / "run"
    settings = {
        **{"model": "lenet-relu", "epochs": 2, "batch_size": 100, "lr": 0.05, "momentum": 0.9},
        **{"weight_decay": 0.001, "schedule": "cosine", "seed": 3},
    }
    options = [(f"--{name.replace('_', '-')}", value) for name, value in settings.items()]
    data = ("--data", "digits", "--nesterov", "--workers", 2, "--out", folder)
    status, out, _ = run("train", *sum(options, ()), *data)
    assert status == 0
    assert "lr 0.05 (cosine schedule), momentum 0.9" in out

    net = lenet_relu(np.random.default_rng(3))
    optimizer = SGD(0.05, 0.9, nesterov=True, weight_decay=0.001)
    work = {"epochs": 2, "batch_size": 100, "seed": 3, "progress": False}
    work["schedule"] = optimizers.cosine
    history = fit(net, *small_digits, optimizer=optimizer, **work)
    stored = safetensors.numpy.load_file(folder / "weights.safetensors")
    for name, parameter in net.params.items():
        np.testing.assert_array_equal(stored[name], parameter, strict=True)
    assert json.loads((folder / "history.json").read_text())["test_loss"] == history.test_loss
    config = json.loads((folder / "config.json").read_text())
    defaults = asdict(Settings()) | asdict(open_run(folder)[1])
    assert config == json.loads(json.dumps(defaults)) | settings | {
        "nesterov": True,
        "data": "digits",
        "classes": list("0123456789"),
        "minicnn": minicnn.__version__,
    }


def test_a_recipe_is_a_network_and_its_settings_and_other_options_change_it(run, tmp_path):
    options = ("--epochs", 1, "--batch-size", 500, "--no-decay-biases", "--mirror", "--erase", 0.5)
    where = ("--data", "digits", "--out", tmp_path / "run")
    status, out, _ = run("train", "--recipe", "fast90", *options, *where)
    assert status == 0 and out.startswith("lenet-fast, 78,714 parameters, on digits")
    assert (
        "lr 0.15 (triangle schedule), momentum 0.9, weight decay 0.0005, nesterov, no decay of bi"
        in out
    )
    assert "mirrored, erased with probability 0.5, seed 0\n" in out
    changed = {"epochs": 1, "batch_size": 500, "decay_biases": False, "mirror": True, "erase": 0.5}
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    expected = {"model": "lenet-fast", **asdict(replace(RECIPES["fast90"].settings, **changed))}
    expected["freeze"] = []  # JSON has no tuples
    assert {name: config[name] for name in expected} == expected
    status, _, err = run("train", "--resume", tmp_path / "run", "--recipe", "fast90")
    assert status == 2
    assert_refused(err, "--resume uses the settings of the run: leave out --recipe")


@pytest.mark.parametrize("optimizer, lr", [("sgd", 0.1), ("adam", 0.001), ("adamw", 0.001)])
def test_the_learning_rate_depends_on_network_and_optimizer(optimizer, lr, run, tmp_path):
    options = ("--optimizer", optimizer, "--data", "digits", "--epochs", 1, "--out", tmp_path)
    assert run("train", *options)[0] == 0
    assert json.loads((tmp_path / "config.json").read_text())["lr"] == lr


NO_SETTINGS = {
    "--optimizer lion": "--optimizer: .*'lion'",
    "--optimizer adam --momentum 0.9": "adam has no momentum or nesterov: leave them out",
    "--clip-norm 0": "clip_norm must be a finite number > 0, got 0",
    "--label-smoothing 2": "label_smoothing must be a number from 0 to 1, got 2",
    "--shift -1": "--shift: .* at least 0 but got '-1'",
    "--erase -1": "erase must be a number from 0 to 1, got -1",
    "--recipe slow": "--recipe: .*'slow'",
    "--epochs 0": "--epochs: expected an integer of at least 1 but got '0'",
    "--epochs 1.5": "--epochs: .* got '1.5'",
    "--batch-size 0": "--batch-size: .* at least 1 but got '0'",
    "--workers 0": "--workers: .* at least 1 but got '0'",
    "--seed -1": "--seed: .* at least 0 but got '-1'",
    "--lr -1": "lr must be a finite number > 0, got -1",
    "--lr 0": "lr .* got 0",
    "--lr nan": "lr .* got nan",
    "--lr fast": "--lr: .*'fast'",
    "--momentum 1": r"momentum must be in \[0, 1\), got 1",
    "--weight-decay -1": "weight_decay .* got -1",
    "--nesterov": "nesterov needs momentum",
    "--model alexnet": "--model: .*'alexnet'",
    "--data cifar": "cifar does not exist: give a path, or one of fashion-mnist, mnist, digits",
    "--device tpu": "--device: .*'tpu'",
    "--device gpu": "no GPU can be used: it is asleep",
    "--capture": "--capture needs a GPU, and training would be on the CPU: use --device gpu",
    "--capture --device gpu": "no GPU can be used: it is asleep",
    "--capture --device auto": "--capture needs a GPU, and training would be on the CPU",
    "--freeze 12": "expected to freeze layers or parameters among 0.weight, .*, got '12'",
    "--freeze 0 3 7 9 11": "every parameter is frozen: leave at least one to train",
    "--from nowhere": "nowhere is not the folder of a run that finished an epoch",
    "--from nowhere --model lenet": "--from uses the network of the run: leave out --model",
    "--from nowhere --resume there": "--from starts a new run and --resume continues one",
}


@pytest.mark.parametrize("options, sentence", NO_SETTINGS.items(), ids=NO_SETTINGS)
def test_settings_that_make_no_sense_are_refused_in_one_line(
    options, sentence, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(backend, "gpu_problem", lambda *_: "it is asleep")
    folder = tmp_path / "run"
    status, out, err = run("train", "--data", "digits", "--out", folder, *options.split())
    assert (status, out) == (2, "")
    assert_refused(err, sentence)
    assert not folder.exists()


def test_a_run_on_own_pictures_starts_from_one_on_the_digits(trained, run, small_digits, tmp_path):
    """Dark on bright at first, of which a sentence tells; then with --invert, on fewer classes."""
    for digit in (1, 7, 8):
        folder = tmp_path / "paper" / f"number {digit}"
        folder.mkdir(parents=True)
        for i, image in enumerate(small_digits[0].images[small_digits[0].labels == digit][:20]):
            Image.fromarray(255 - image[0]).save(folder / f"{i}.png")
    command = ["train", "--from", trained[1], "--data", tmp_path / "paper", "--freeze", "0", "3"]
    command += ["--epochs", 4, "--batch-size", 8]
    status, out, _ = run(*command, "--out", tmp_path / "dark")
    assert status == 0 and "most images of paper have a bright border" in out
    status, out, _ = run(*command, "--invert", "--out", tmp_path / "run")
    assert status == 0 and "bright border" not in out
    assert "the last layer is new, for 3 classes" in out and "frozen: 0 3" in out
    (before, _), (net, origin) = (open_run(folder) for folder in (trained[1], tmp_path / "run"))
    same = [
        name for name in net.arrays if net.arrays[name].tobytes() == before.arrays[name].tobytes()
    ]
    assert same == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert origin.started_from == str(trained[1]) and origin.spec.invert
    assert origin.preparation.invert is True
    status, out, _ = run("evaluate", tmp_path / "run")
    assert status == 0 and float(re.search(r"test acc (\S+)", out)[1]) > 0.6
    status, out, _ = run("predict", tmp_path / "run", tmp_path / "paper" / "number 7" / "0.png")
    assert out.splitlines()[0].endswith(": number 7")


@pytest.mark.parametrize("arguments", ["", "fly", "evaluate", "predict RUN"])
def test_commands_that_are_not_whole_are_refused(arguments, run):
    status, out, err = run(*arguments.split())
    assert (status, out) == (2, "")
    assert_refused(err, "error")


@pytest.mark.parametrize(
    "command, sentence",
    [
        ("train --data digits --out", "is not empty: choose a new or empty folder"),
        ("evaluate", "is not the folder of a run that finished an epoch"),
        ("predict --invert", "is not the folder of a run that finished an epoch"),
    ],
)
def test_a_folder_that_holds_something_else_is_refused(command, sentence, run, tmp_path):
    (tmp_path / "notes.txt").write_text("keep me")
    picture = [tmp_path / "notes.txt"] if command.startswith("predict") else []
    status, out, err = run(*command.split(), tmp_path, *picture)
    assert (status, out) == (2, "")
    assert_refused(err, f"{tmp_path} {sentence}")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["keep me"]


def test_a_batch_may_be_larger_than_the_data(run, tmp_path):
    options = ["--data", "digits", "--epochs", 1, "--workers", 99]
    status, out, _ = run("train", *options, "--batch-size", 10**30, "--out", tmp_path)
    assert status == 0
    assert "with 16 workers" in out  # 1,000 digits are 16 chunks


def test_a_run_of_unknown_data_is_refused(run, tmp_path):
    origin = {"model": "lenet", "data": "cifar", "classes": list("0123456789")}
    path = tmp_path / "weights.safetensors"
    save_weights(minicnn.lenet(), path, origin)
    status, out, err = run("evaluate", tmp_path)
    assert (status, out) == (2, "")
    assert_refused(err, "the run was trained on 'cifar': give that as --data PATH")


def test_training_that_diverges_ends_with_the_place_and_the_remedy(run, tmp_path):
    status, _, err = run("train", "--data", "digits", "--lr", 1e30, "--out", tmp_path)
    assert status == 2
    assert_refused(err, r"epoch 1, step 2 of 4: layer \d+, .* learning rate")


def test_an_interruption_has_the_status_of_one(run, tmp_path, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(resumable, "fit", interrupt)
    status, _, err = run("train", "--data", "digits", "--out", tmp_path)
    assert (status, err) == (130, "minicnn: interrupted\n")


@pytest.mark.filterwarnings("always")
def test_a_warning_is_one_line(run, small_digits, tmp_path, monkeypatch):
    def warn():
        warnings.warn("a folder is passed over", stacklevel=1)
        return small_digits

    monkeypatch.setattr(cli_data, "digits", warn)
    status, _, err = run("train", "--data", "digits", "--epochs", 1, "--out", tmp_path)
    assert (status, err) == (0, "minicnn: a folder is passed over\n")


@pytest.fixture
def no_fashion(monkeypatch):
    """Fashion-MNIST is not available."""

    def missing(folder):
        raise DatasetNotFound(f"looked in {folder or 'all places'}")

    monkeypatch.setattr(cli_data, "fashion_mnist", missing)
    monkeypatch.setitem(cli_data.DATA, "fashion-mnist", missing)


def test_without_the_default_data_digits_are_trained_on_loudly(no_fashion, run, tmp_path):
    status, out, err = run("train", "--epochs", 1, "--out", tmp_path)
    assert status == 0
    assert "looked in all places" in err and "TRAINING ON THE BUILT-IN DIGITS INSTEAD" in err
    assert out.startswith("lenet-relu, 61,706 parameters, on digits (1,000 images")
    assert json.loads((tmp_path / "config.json").read_text())["data"] == "digits"


@pytest.mark.parametrize(
    "options, place",
    [
        (["--data", "fashion-mnist"], "all places"),
        (["--data", "fashion-mnist", "--data-folder", "data"], "data"),
        (["--data-folder", "data"], "data"),
    ],
)
def test_data_that_were_asked_for_are_not_replaced(options, place, no_fashion, run, tmp_path):
    folder = tmp_path / "run"
    expected = (2, "", f"minicnn: looked in {place}\n{cli_data.HINT}\n")
    assert run("train", "--out", folder, *options) == expected
    assert not folder.exists()


def test_an_empty_data_folder_is_told_with_the_remedies(run, tmp_path):
    status, out, err = run("train", "--data", "fashion-mnist", "--data-folder", tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith(f"minicnn: Fashion-MNIST was not found:\n  {tmp_path}: ")
    assert "--data-folder" in err and "MINICNN_DATA" in err and "Traceback" not in err


def test_the_default_is_lenet_on_the_real_fashion_mnist(run, tmp_path, monkeypatch):
    def refuse(*_):
        raise DataError("tests do not download")

    required = os.environ.get("MINICNN_REQUIRE_DATA") == "1"
    if not required and sources.find(sources.FASHION_MNIST) is None:
        pytest.skip("Fashion-MNIST is not on this machine")
    monkeypatch.setattr(sources, "download", refuse)
    first = [data[:512] for data in minicnn.fashion_mnist()]
    monkeypatch.setattr(cli_data, "fashion_mnist", lambda folder: first)
    status, out, err = run("train", "--epochs", 1, "--out", tmp_path)
    assert (status, err) == (0, "")
    assert out.startswith("lenet, 61,706 parameters, on fashion-mnist (512 images")
    assert "batch 256, lr 0.9, momentum 0, weight decay 0, seed 0" in out
    assert "Ankle boot" in json.loads((tmp_path / "config.json").read_text())["classes"]


def test_summary_shows_the_numbers_of_the_course(run):
    status, out, err = run("summary")
    assert (status, err) == (0, "")
    assert re.search(r"^total +61,706 +416,520 ", out, re.MULTILINE)


def test_check_shows_every_layer(run):
    status, out, err = run("check")
    assert (status, err) == (0, "")
    for name in "Linear Conv2D MaxPool2D AvgPool2D ReLU Sigmoid Tanh Flatten".split():
        assert f"\n{name}(" in out
    for name in ["softmax_cross_entropy", "squared_error", "lenet", "lenet-relu"]:
        assert f"\n{name}\n" in out
    assert "WRONG" not in out
    assert out.endswith("33 of 33 layers and networks are right (seed 0)\n")


def test_check_fails_with_a_wrong_layer(run, monkeypatch):
    monkeypatch.setattr(checklist, "Linear", museum.LinearBatchMean)
    status, out, err = run("check", "--seed", "3")
    assert (status, err) == (1, "")
    assert "WRONG" in out and "Likely cause: divided by N (seed 3)" in out
    assert out.endswith("32 of 33 layers and networks are right (seed 3)\n")


def test_check_museum_shows_every_fault(run):
    status, out, err = run("check", "--museum")
    assert (status, err) == (0, "")
    for fault in museum.FAULTS:
        cause = fault.cause or "-"
        assert re.search(
            rf"^{fault.name} +{fault.right.__name__} +yes +{re.escape(cause)}$", out, re.M
        )
    assert out.endswith("56 of 56 caught, 54 named\n")


def test_check_museum_fails_if_a_fault_is_not_caught(run, monkeypatch):
    right = replace(museum.FAULTS[-1], wrong=minicnn.squared_error)
    monkeypatch.setattr(checklist, "FAULTS", [museum.FAULTS[0], right])
    status, out, err = run("check", "--museum")
    assert (status, err) == (1, "")
    assert out.endswith("1 of 2 caught, 1 named\n")


def test_check_museum_fails_if_another_cause_is_named(run, monkeypatch):
    monkeypatch.setattr(checklist, "FAULTS", [replace(museum.FAULTS[0], cause="transposed")])
    status, out, _ = run("check", "--museum")
    assert (status, out.endswith("1 of 1 caught, 1 named\n")) == (1, True)


def test_check_steps_shows_errors_that_fall_and_rise(run):
    status, out, err = run("check", "--steps")
    title, *rows = (line.split() for line in out.splitlines())
    assert (status, err, title[0], len(rows)) == (0, "", "step", len(checklist.STEPS))
    errors = np.array(rows, float)[:, 1:]
    best = errors.argmin(axis=0)
    assert best[title.index("Sigmoid") - 1] in (3, 4, 5)
    assert (errors[-1] > 100 * errors.min(axis=0)).all()


def test_check_takes_one_mode(run):
    status, out, err = run("check", "--museum", "--steps")
    assert (status, out) == (2, "")
    assert_refused(err, "--steps: not allowed with argument --museum")


def test_doctor_finds_versions_data_and_the_gpu_problem(run, tmp_path, monkeypatch):
    for name in sources.SHAPES:
        (tmp_path / name).touch()
    monkeypatch.setenv("MINICNN_DATA", str(tmp_path))
    monkeypatch.setattr(doctor, "cores", lambda: 17)
    gpu_problem.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    status, out, err = run("doctor")
    gpu_problem.cache_clear()
    assert (status, err) == (0, "")
    findings = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert findings["minicnn"] == minicnn.__version__
    assert findings["numpy"] == np.__version__
    assert findings["cores"] == "17"
    assert findings["Fashion-MNIST"] == str(tmp_path)
    assert findings["GPU"].startswith("CuPy cannot be imported")


def test_the_version_is_that_of_the_package(run):
    assert run("--version") == (0, f"minicnn {minicnn.__version__}\n", "")


def test_digits_have_no_folder(run, tmp_path):
    status, _, err = run("train", "--data", "digits", "--data-folder", tmp_path)
    assert status == 2
    assert_refused(err, "leave out --data-folder")


def test_a_reader_that_goes_away_gets_no_traceback():
    command = f"{sys.executable} -m minicnn summary | true"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert process.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="needs pipes as POSIX has them")
@pytest.mark.parametrize("command", ["summary", "doctor"])
def test_a_reader_that_has_gone_is_no_error(command):
    """What a command prints is written at its end, where its output is a pipe."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "minicnn", command], stdout=writer, stderr=subprocess.PIPE, env=env
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
