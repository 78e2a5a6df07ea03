"""Training that is interrupted, killed or runs out of disk resumes as if nothing had happened."""

import builtins
import contextlib
import copy
import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import minicnn
from minicnn import SGD, cosine, fit
from minicnn.cli import data as cli_data
from minicnn.cli import training
from minicnn.datasets import Dataset
from minicnn.files import write_atomically
from minicnn.layers.sequential import Sequential
from minicnn.optimizers import constant
from minicnn.runs import baseline, run_folder
from minicnn.runs.checkpoint import (
    Checkpoint,
    DamagedCheckpoint,
    data_sha256,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from minicnn.runs.settings import Origin, Settings
from minicnn.training import History, Position, TrainingError, loop

RUN = Settings(lr=0.1), Origin("small", "digits", tuple("0123456789"))


def bits(arrays):
    return {name: array.tobytes() for name, array in arrays.items()}


def told(history):
    """A history without its times."""
    return dataclasses.replace(history, train_seconds=[])


def new_optimizer():
    return SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.001)


@pytest.fixture
def pieces(new_net, small_digits, tmp_path):
    """A function that trains without a break, and writes a checkpoint after each step and epoch:
    (net, optimizer, history, checkpoints)."""

    def train(epochs=3, schedule=cosine, **options):
        train, test = (data[:130] for data in small_digits)
        net, optimizer, paths = new_net(), new_optimizer(), []

        def save(position):
            paths.append(tmp_path / f"{len(paths)}")
            save_checkpoint(Checkpoint.of(net, optimizer, position, *RUN, "0"), paths[-1])

        history = fit(
            *(net, train, test),
            epochs=epochs,
            batch_size=50,
            optimizer=optimizer,
            schedule=schedule,
            progress=False,
            on_step=save,
            on_epoch=lambda history: save(Position(history)),
            **options,
        )
        return net, optimizer, history, [load_checkpoint(path) for path in paths]

    return train


def go_on(checkpoint, new_net, small_digits, epochs=3, schedule=cosine, **options):
    """(net, optimizer, history) of training from a checkpoint to the end."""
    train, test = (data[:130] for data in small_digits)
    net, optimizer = new_net(seed=1), new_optimizer()
    checkpoint.restore(net, optimizer)
    settings = {"batch_size": 50, "optimizer": optimizer, "schedule": schedule, "progress": False}
    settings |= {"epochs": epochs, "start": checkpoint.position, **options}
    return net, optimizer, fit(net, train, test, **settings)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_step_is_as_good_as_any_other_to_go_on_from(workers, pieces, new_net, small_digits):
    """Three steps in each of three epochs, the last one smaller; checkpoints are written by one
    process and read by two, and the other way round."""
    net, optimizer, history, checkpoints = pieces(workers=workers)
    places = [(len(c.position.history.train_loss), c.position.step) for c in checkpoints]
    assert places == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0)]
    for checkpoint in checkpoints:
        resumed = go_on(checkpoint, new_net, small_digits, workers=3 - workers)
        assert bits(resumed[0].params) == bits(net.params)
        assert bits(resumed[1].velocity) == bits(optimizer.velocity)
        assert told(resumed[2]) == told(history)


def test_a_checkpoint_changes_nothing_and_is_not_changed(pieces, new_net, small_digits):
    """Training continues after it was taken, in the arrays and lists that it was copied from."""
    net, optimizer, _, _ = pieces(epochs=1)
    position = Position(History(130, "cpu"), 1, 50, 115.0, 5, 0.5)
    before = bits(net.params), bits(optimizer.state)
    checkpoint = Checkpoint.of(net, optimizer, position, *RUN, "0")
    assert (bits(net.params), bits(optimizer.state)) == before
    net.params["0.bias"] += 1
    optimizer.velocity["0.bias"] += 1
    position.history.train_loss.append(1.0)
    assert (bits(checkpoint.arrays), bits(checkpoint.optimizer)) == before
    assert checkpoint.position == Position(History(130, "cpu"), 1, 50, 115.0, 5, 0.5)


def test_three_epochs_and_seven_more_are_ten(pieces, new_net, small_digits):
    net, _, history, _ = pieces(epochs=10, schedule=constant)
    *_, checkpoint = pieces(epochs=3, schedule=constant)[3]
    resumed = go_on(checkpoint, new_net, small_digits, epochs=10, schedule=constant)
    assert bits(resumed[0].params) == bits(net.params)
    assert told(resumed[2]) == told(history)


def test_the_time_before_an_interruption_counts(new_net, small_digits, monkeypatch):
    """Steps of one second each; two of four were taken, in seven seconds."""
    times = iter(range(100))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(times))
    start = Position(History(1000, "cpu"), 2, 500, 1150.0, 50, seconds=7.0)
    settings = {"epochs": 1, "batch_size": 250, "progress": False, "start": start}
    assert fit(new_net(), small_digits[0], **settings).train_seconds == [10]


def test_numbers_that_wait_on_a_gpu_are_read_for_a_checkpoint_only(
    new_net, small_digits, monkeypatch
):
    seen = []

    def trained(device, reads):
        def on_step(position):
            if position.step in reads:
                assert Checkpoint.of(net, SGD(0.9), position, *RUN, "0").position.seen == 175
            seen.append(position.seen)

        net = new_net()
        with monkeypatch.context() as patch, np.errstate():
            np.setbufsize(1024)  # as the workers do, on which the order of NumPy's sums may depend
            if device == "gpu":
                patch.setattr(Sequential, "device", "gpu")
                patch.setattr(loop, "synchronize", lambda device: None)
                patch.setattr(Dataset, "to", lambda self, device: self)
            options = {"epochs": 1, "batch_size": 25, "on_step": on_step, "progress": False}
            history = fit(net, small_digits[0][:500], **options)  # a batch is one chunk on both
        return bits(net.params), history.curve, history.train_loss

    expected = trained("cpu", [])
    seen.clear()
    assert trained("gpu", [7]) == expected
    read_at = [0, 0, 0, 4, 4, 4, 7, 8, 8, 8, 8, 12, 12, 12, 12, 16, 16, 16, 16]
    assert seen == [25 * step for step in read_at]


NO_START = {
    "other images": (Position(History(999, "cpu")), "it began with 999 images, but was given 1000"),
    "other batches": (Position(History(1000, "cpu"), 1, 200), "it saw 200 images in 1 steps"),
    "beyond": (Position(History(1000, "cpu"), 4, 1000), "an epoch now has 4 steps of 250"),
    "too far": (Position(History(1000, "cpu", [1.0] * 3)), "3 epochs have begun, but epochs is 2"),
    "begun": (Position(History(1000, "cpu", [1.0] * 2), 1, 250), "3 epochs have begun, but epochs"),
    "uneven": (Position(History(1000, "cpu", [1.0], [0.5])), "train_seconds has 0 of 1 epochs"),
}


@pytest.mark.parametrize("start, sentence", NO_START.values(), ids=NO_START)
def test_a_start_that_is_not_on_the_way_is_refused(start, sentence, new_net, small_digits):
    with pytest.raises(ValueError, match=sentence):
        fit(new_net(), small_digits[0], epochs=2, batch_size=250, start=start, progress=False)


def test_every_byte_of_a_checkpoint_is_guarded(pieces, tmp_path):
    """Each byte of the header and every 97th of the rest, with one bit flipped or all of them;
    every 97th length; and what hangs on at the end."""
    pieces(epochs=1)
    content = (tmp_path / "2").read_bytes()
    header = int.from_bytes(content[:8], "little")
    path = tmp_path / "damaged"

    def refused(damaged):
        path.write_bytes(damaged)
        with pytest.raises(DamagedCheckpoint, match=f"{path} is damaged"):
            load_checkpoint(path)

    for place in {*range(8 + header), *range(0, len(content), 97)}:
        for mask in 1, 255:
            changed = bytes([content[place] ^ mask])
            refused(content[:place] + changed + content[place + 1 :])
    for length in range(0, len(content), 97):
        refused(content[:length])
    refused(content + b"\0")
    path.write_bytes(content)
    assert load_checkpoint(path).position.history.images == 130


def test_weights_that_changed_on_the_disk_are_refused(new_net, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(new_net(), path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is damaged: its SHA-256"):
        load_weights(new_net(), path)


def test_weights_that_others_wrote_have_no_sum_and_are_read(new_net, tmp_path):
    net, other = new_net(0), new_net(1)
    for metadata in None, {"format": "pt"}:
        arrays = {name: np.ascontiguousarray(array) for name, array in net.params.items()}
        safetensors.numpy.save_file(arrays, tmp_path / "weights", metadata)
        load_weights(other, tmp_path / "weights")
        assert bits(other.params) == bits(net.params)


def test_weights_that_are_not_finite_make_no_checkpoint(new_net):
    """The remedy is below the rate that was set, where a schedule has made it smaller, too."""
    net = new_net()
    net.params["3.bias"][1] = np.inf
    with pytest.raises(TrainingError, match="3.bias is not finite after no step; .* below 0.1 may"):
        Checkpoint.of(net, SGD(0.05), Position(History(5, "cpu")), *RUN, "0")


def test_a_loss_that_is_not_finite_makes_no_checkpoint(new_net):
    """As on a GPU, where it may not have been read yet."""
    position = Position(History(5, "cpu", [1.0]), 3)
    position.keep(np.float32(np.nan), 1, 2)
    with pytest.raises(TrainingError, match="the loss is nan in epoch 2, step 4"):
        Checkpoint.of(new_net(), SGD(0.9), position, *RUN, "0")


class Averaging:
    """A user's own optimizer: it keeps a mean of the gradients, and counts its steps."""

    lr = 0.1

    def __init__(self):
        self.state = {}

    def load_state(self, state):
        self.state = dict(state)

    def step(self, params, grads):
        count = self.state["steps"] = self.state.get("steps", np.zeros((), int)) + 1
        for name, w in params.items():
            mean = self.state.get(f"mean of {name}", 0)
            self.state[f"mean of {name}"] = mean = mean + (grads[name] - mean) / w.dtype.type(count)
            w -= self.lr * mean


def test_a_checkpoint_keeps_the_state_of_any_optimizer(new_net, small_digits, tmp_path):
    train = small_digits[0][:130]
    options = {"batch_size": 50, "workers": 1, "progress": False}
    whole, optimizer = new_net(), Averaging()

    def save(position):
        if position.step == 1 and len(position.history.train_loss) == 1:
            checkpoint = Checkpoint.of(whole, optimizer, position, *RUN, "0")
            save_checkpoint(checkpoint, tmp_path / "saved")

    fit(whole, train, epochs=2, optimizer=optimizer, on_step=save, **options)
    net, resumed = new_net(seed=1), Averaging()
    checkpoint = load_checkpoint(tmp_path / "saved")
    checkpoint.restore(net, resumed)
    assert resumed.state["steps"] == 4
    start = checkpoint.position
    fit(net, train, epochs=2, optimizer=resumed, start=start, **options)
    assert bits(net.params) == bits(whole.params) and bits(resumed.state) == bits(optimizer.state)


def test_the_sum_of_the_data_is_over_every_image_and_label(small_digits):
    data = small_digits[1]
    first = data_sha256(data)
    assert first == data_sha256(copy.deepcopy(data))
    for name in "images", "labels":
        other = copy.deepcopy(data)
        array = getattr(other, name)
        array.flat[-1] = (array.flat[-1] + 1) % 10
        assert data_sha256(other) != first
    assert data_sha256(data[:299]) != first


@pytest.fixture
def run(run_command, small_digits, monkeypatch):
    """`run_command`, with 300 digits and no picture."""
    monkeypatch.setattr(cli_data, "digits", lambda: [data[:300] for data in small_digits])
    monkeypatch.setattr(training, "estimate_seconds", lambda *args, **options: 1.0)
    monkeypatch.setattr(run_folder, "training_curves", lambda history: b"curves")
    monkeypatch.setattr(run_folder, "labelled_images", lambda data, index: b"images")
    monkeypatch.setattr(
        run_folder, "save_figure", lambda figure, path: write_atomically(path, figure)
    )
    return run_command


TRAIN = ["train", "--data", "digits", "--batch-size", 100, "--workers", 1]
RESUME = ["train", "--workers", 1, "--resume"]


def files(folder):
    """The files that two equal runs share, and their history without times."""
    history = json.loads((folder / "history.json").read_text())
    history.pop("train_seconds")
    names = ["config.json", "weights.safetensors", "best.safetensors"]
    return history, [(folder / name).read_bytes() for name in names]


def checkpoints(folder):
    return [path.stem for path in run_folder.checkpoints(folder)]


class Stopping:
    """Stands in for `SGD.step`: after the k-th step of the process, the signal comes."""

    def __init__(self, k, number):
        self.left, self.number = k, number

    def __get__(self, optimizer, owner):
        def step(params, grads):
            real_step(optimizer, params, grads)
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)

        return step


real_step = SGD.step


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_step_and_says_how_to_go_on(number, status, run, tmp_path, monkeypatch):
    """Three steps an epoch; the signal comes within an epoch, at its end and before the last."""
    options = ["--epochs", 3, "--momentum", 0.9, "--schedule", "cosine", "--out"]
    assert run(*TRAIN, *options, tmp_path / "whole")[0] == 0
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    folder = tmp_path / "a run"
    command, keep = [*TRAIN, *options, folder, "--keep", 5], " --keep 5"
    for steps, place in (2, "2 steps"), (1, "1 epoch"), (5, "2 epochs and 2 steps"):
        monkeypatch.setattr(SGD, "step", Stopping(steps, number))
        sentence = f"stopped by {number.name} after {place}; resume with: "
        last = f"minicnn: {sentence}minicnn train --resume '{folder}' --workers 1{keep}\n"
        got, _, err = run(*command)
        assert (got, err) == (status, last)
        assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
        command, keep = [*RESUME, folder], ""
    monkeypatch.setattr(SGD, "step", real_step)
    got, out, err = run(*command)
    assert (got, err) == (0, "")
    assert out.startswith(f"resuming {folder} after 2 epochs and 2 steps\n")
    assert files(folder) == files(tmp_path / "whole")


def test_the_folder_of_the_data_is_among_what_is_told(run, tmp_path, monkeypatch, small_digits):
    """It is not kept in the run, and the data may be found nowhere else."""
    monkeypatch.setitem(
        cli_data.DATA, "digits", lambda folder: [data[:300] for data in small_digits]
    )
    monkeypatch.setattr(SGD, "step", Stopping(1, signal.SIGTERM))
    err = run(*TRAIN, "--data-folder", "my data", "--out", tmp_path)[2]
    assert err.endswith(f" --resume {tmp_path} --data-folder 'my data' --workers 1\n")


def test_a_second_interrupt_stops_at_once(run, tmp_path, monkeypatch):
    class Twice(Stopping):
        def __get__(self, optimizer, owner):
            def step(params, grads):
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

            return step

    monkeypatch.setattr(SGD, "step", Twice(0, 0))
    status, _, err = run(*TRAIN, "--out", tmp_path)
    assert (status, err) == (130, "minicnn: interrupted\n")
    assert checkpoints(tmp_path) == []


def test_a_signal_that_is_ignored_stays_ignored(run, tmp_path, monkeypatch):
    """As in the background of a script."""
    monkeypatch.setattr(SGD, "step", Stopping(1, signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run(*TRAIN, "--epochs", 1, "--out", tmp_path)[0] == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_checkpoints_are_written_as_asked_and_the_last_ones_kept(run, tmp_path):
    four = ["00001-000000", "00001-000001", "00001-000002", "00002-000000"]
    for options, expected in [
        ([], ["00001-000000", "00002-000000"]),
        (["--keep", 1], ["00002-000000"]),
        (["--save-every", 2], ["00001-000002", "00002-000000"]),
        (["--save-every", 1, "--keep", 4], four),
    ]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        assert run(*TRAIN, "--epochs", 2, *options, "--out", folder)[0] == 0
        assert checkpoints(folder) == expected


def test_a_finished_run_says_so_and_goes_on_to_more_epochs(run, tmp_path):
    for epochs, folder in (4, tmp_path / "whole"), (2, tmp_path / "run"):
        run(*TRAIN, "--epochs", epochs, "--momentum", 0.5, "--seed", 3, "--out", folder)
    (folder / "weights.safetensors").unlink()  # as if killed right after the checkpoint
    status, out, err = run(*RESUME, folder)
    expected = f"{folder} is complete, with 2 epochs: give more --epochs to continue it\n"
    assert (status, out, err) == (0, expected, "")
    assert (folder / "weights.safetensors").exists()
    assert run(*RESUME, folder, "--epochs", 4, "--seed", 3)[0] == 0
    assert files(folder) == files(tmp_path / "whole")


def test_more_epochs_are_kept_in_mind(run, tmp_path, monkeypatch):
    run(*TRAIN, "--epochs", 1, "--out", tmp_path)
    monkeypatch.setattr(SGD, "step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # as if killed at the first step
        run(*RESUME, tmp_path, "--epochs", 2)
    monkeypatch.setattr(SGD, "step", real_step)
    assert "epoch 2/2" in run(*RESUME, tmp_path)[1]


def test_the_best_weights_are_those_of_the_best_epoch(run, tmp_path, monkeypatch):
    """An epoch that is as good as the best one so far is not better."""
    scores, kept = iter([(1.0, 0.3), (1.0, 0.5), (1.0, 0.5), (1.0, 0.4)]), []

    def evaluate(*args, **options):
        kept.append((tmp_path / "weights.safetensors").exists() and files(tmp_path)[1][1])
        return next(scores)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    run(*TRAIN, "--epochs", 4, "--out", tmp_path)
    assert (tmp_path / "best.safetensors").read_bytes() == kept[2] != kept[3]


@pytest.fixture
def unfinished(run, tmp_path, monkeypatch):
    """The folder of a run that ended after 2 epochs and 2 steps, with its last two checkpoints."""
    monkeypatch.setattr(SGD, "step", Stopping(8, signal.SIGTERM))
    assert run(*TRAIN, "--epochs", 3, "--out", tmp_path / "run")[0] == 143
    monkeypatch.setattr(SGD, "step", real_step)
    assert checkpoints(tmp_path / "run") == ["00002-000000", "00002-000002"]
    return tmp_path / "run"


@pytest.mark.filterwarnings("always")
def test_a_damaged_checkpoint_is_passed_over_with_a_sentence(unfinished, run, tmp_path):
    run(*TRAIN, "--epochs", 3, "--out", tmp_path / "whole")
    last = run_folder.checkpoints(unfinished)[-1]
    last.write_bytes(last.read_bytes()[:-1])
    status, out, err = run(*RESUME, unfinished, "--keep", 1)
    assert status == 0 and "after 2 epochs\n" in out
    sentence = "is damaged: its SHA-256 is not the one that was written"
    assert err == f"minicnn: {last} {sentence}; using the checkpoint before it\n"
    assert files(unfinished) == files(tmp_path / "whole")
    assert checkpoints(unfinished) == ["00003-000000"]


def test_a_damaged_checkpoint_does_not_drive_out_a_whole_one(unfinished, run, tmp_path):
    """With one to keep: a damaged one of a later step counts for nothing."""
    first, last = run_folder.checkpoints(unfinished)
    last.write_bytes(b"")
    run_folder.add_checkpoint(unfinished, load_checkpoint(first), keep=1)
    assert run_folder.checkpoints(unfinished) == [first, last]


@pytest.mark.filterwarnings("always")
def test_without_a_whole_checkpoint_there_is_no_going_on(unfinished, run):
    first, last = run_folder.checkpoints(unfinished)
    first.write_bytes(b"")
    last.unlink()
    last.mkdir()  # stands for what cannot be read
    status, out, err = run(*RESUME, unfinished)
    assert (status, out) == (2, "")
    *passed, last = err.splitlines()
    assert len(passed) == 2
    assert last == f"minicnn: {unfinished} has no undamaged checkpoint: start a new run"


def test_a_clock_that_goes_backwards_changes_nothing(unfinished, run, tmp_path, monkeypatch):
    """The last checkpoint is the one with the most steps, whatever its date."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    os.utime(run_folder.checkpoints(unfinished)[-1], (0, 0))
    assert "resuming " in run(*RESUME, unfinished)[1]
    run(*TRAIN, "--epochs", 3, "--out", tmp_path / "whole")
    assert files(unfinished) == files(tmp_path / "whole")


def test_what_a_killed_process_left_half_written_is_removed(unfinished, run):
    left = [unfinished / ".history.json.7.part", unfinished / "checkpoints" / ".1-1.7.part"]
    for path in left:
        path.touch()
    assert run(*RESUME, unfinished)[0] == 0
    assert temporary_files(unfinished) == []


def test_a_file_system_without_locks_will_do(unfinished, run, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "lockf", no_locks)
    assert run(*RESUME, unfinished)[0] == 0


def test_a_run_that_cannot_be_written_to_does_not_go_on(unfinished, run):
    (unfinished / ".lock").unlink()
    (unfinished / ".lock").mkdir()  # stands for a file system that is read-only
    expected = f"minicnn: {unfinished} cannot be written to: Is a directory\n"
    assert run(*RESUME, unfinished) == (2, "", expected)


REFUSED = {
    "--lr 0.2": "lr is 0.1, not 0.2",
    "--seed 1 --batch-size 50": "batch_size is 100, not 50; seed is 0, not 1",
    "--momentum 0.9 --nesterov": "momentum is 0.0, not 0.9; nesterov is False, not True",
    "--weight-decay 0.1": "weight_decay is 0.0, not 0.1",
    "--schedule cosine": "schedule is constant, not cosine",
    "--model lenet": "model is lenet-relu, not lenet",
    "--data mnist": "data is digits, not mnist",
    "--epochs 2": "epochs is 3, not 2",
}


@pytest.mark.parametrize("options, sentence", REFUSED.items(), ids=REFUSED)
def test_settings_that_would_change_the_result_are_refused(options, sentence, unfinished, run):
    before = {path: path.stat().st_mtime_ns for path in unfinished.rglob("*")}
    expected = f"minicnn: {unfinished} cannot be resumed with other settings: {sentence}; leave"
    status, out, err = run(*RESUME, unfinished, *options.split())
    assert (status, out) == (2, "")
    assert err.startswith(expected) and len(err.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in unfinished.rglob("*")} == before


SETTINGS = {
    "seed": (0.0, "expected .*int.*, got 0.0"),
    "schedule": ("linear", "schedule must be one of constant, cosine, .*got 'linear'"),
    "epochs": (0, "epochs must be an integer >= 1, got 0"),
    "momentum": (None, "missing or unknown: momentum"),
    "dropout": (0.5, "missing or unknown: dropout"),
}


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_another_version_are_refused(name, unfinished, run):
    value, reason = SETTINGS[name]
    path = run_folder.checkpoints(unfinished)[-1]

    def change(state):
        state["settings"].pop(name, None)
        state["settings"] |= {} if value is None else {name: value}

    forge(path, change)
    status, out, err = run(*RESUME, unfinished)
    sentence = f"{path} is not a checkpoint of this version of minicnn, {minicnn.__version__}"
    assert (status, out) == (2, "") and re.fullmatch(f"minicnn: {sentence}: .*{reason}.*\n", err)


def forge(path, change):
    """Changes the state in a checkpoint, whose sum is right all the same."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    state = json.loads(header["__metadata__"]["minicnn"]) | {"sha256": "0" * 64}
    change(state)
    header["__metadata__"]["minicnn"] = json.dumps(state)
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + content[8 + length :]
    path.write_bytes(content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1))


UNKNOWN = {
    "a name, but layers of minicnn": ({"model": "alexnet"}, None),
    "a name alone": ({"model": "alexnet", "network": ""}, "here: .* 'alexnet', .* resume_run"),
    "other data": ({"data": "cifar", "spec": None}, "the run was trained on 'cifar': give that as"),
}


@pytest.mark.parametrize("changes, sentence", UNKNOWN.values(), ids=UNKNOWN)
def test_a_run_that_the_command_line_cannot_build_is_refused(changes, sentence, unfinished, run):
    path = run_folder.checkpoints(unfinished)[-1]
    checkpoint = load_checkpoint(path)
    origin = dataclasses.replace(checkpoint.origin, **changes)
    save_checkpoint(dataclasses.replace(checkpoint, origin=origin), path)
    status, _, err = run(*RESUME, unfinished)
    assert status == (2 if sentence else 0)
    assert re.fullmatch(f"minicnn: .*{sentence}.*\n" if sentence else "", err)


@pytest.mark.filterwarnings("always")
def test_a_checkpoint_of_version_0_1_is_refused_in_one_sentence(unfinished, run):
    """It had one dictionary for settings and origin, and the velocity for the optimizer."""

    def as_it_was(state):
        state["config"] = {**state.pop("settings"), **state.pop("origin"), "minicnn": "0.1.0"}
        for name in ("network", "arrays", "optimizer"):
            del state[name]

    path = run_folder.checkpoints(unfinished)[-1]
    forge(path, as_it_was)
    status, out, err = run(*RESUME, unfinished)
    sentence = f"minicnn: {path} is not a checkpoint of this version of minicnn, "
    assert (status, out) == (2, "") and err.startswith(sentence) and len(err.splitlines()) == 1


def test_settings_that_are_those_of_the_run_may_be_given(unfinished, run):
    options = ["--lr", 0.1, "--seed", 0, "--batch-size", 100, "--data", "digits", "--epochs", 3]
    assert run(*RESUME, unfinished, *options, "--save-every", 1, "--keep", 3)[0] == 0


def test_with_a_schedule_the_number_of_epochs_is_fixed(run, tmp_path):
    run(*TRAIN, "--epochs", 1, "--schedule", "cosine", "--out", tmp_path)
    status, _, err = run(*RESUME, tmp_path, "--epochs", 2)
    assert status == 2 and "epochs is 1, not 2" in err


def test_other_data_are_refused_with_both_sums(unfinished, run, small_digits, monkeypatch):
    train, test = (data[:300] for data in small_digits)
    other = dataclasses.replace(train, images=255 - train.images)
    monkeypatch.setattr(cli_data, "digits", lambda: (other, test))
    status, out, err = run(*RESUME, unfinished)
    assert (status, out) == (2, "")
    found = re.findall("[0-9a-f]{64}", err)
    assert found == [data_sha256(train), data_sha256(other)] and "digits differs from" in err


@pytest.mark.filterwarnings("always")
def test_other_versions_are_told(unfinished, run, monkeypatch):
    monkeypatch.setattr(np, "__version__", "9.9")
    status, _, err = run(*RESUME, unfinished)
    assert status == 0
    assert re.fullmatch(r"minicnn: the run .* numpy \d.*, but this is 9\.9: .* differ .*\n", err)


def test_folders_that_cannot_go_on_are_refused(run, tmp_path):
    for folder in tmp_path, tmp_path / "none":
        expected = f"minicnn: {folder} has no checkpoint to resume from: start a new run\n"
        assert run(*RESUME, folder) == (2, "", expected)
    assert list(tmp_path.iterdir()) == []
    assert "leave out --out" in run(*RESUME, tmp_path, "--out", tmp_path)[2]


def disk_full(monkeypatch, when):
    """From now on, files whose path `when` holds for cannot be flushed: the disk is full."""
    fsync = os.fsync

    def full(descriptor):
        if when(os.readlink(f"/proc/self/fd/{descriptor}")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)


def temporary_files(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".part")]


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize("name", ["00002-000000", "history.json", "curves.png"])
def test_a_full_disk_ends_training_with_one_sentence(name, run, tmp_path, monkeypatch):
    """In the second epoch; when there is room again, the run resumes and ends the same."""
    run(*TRAIN, "--epochs", 3, "--out", tmp_path / "whole")
    folder, tries = tmp_path / "run", []

    def when(path):
        tries.extend([path] if name in path else [])
        return len(tries) > (name != "00002-000000")

    with monkeypatch.context() as patch:
        disk_full(patch, when)
        status, _, err = run(*TRAIN, "--epochs", 3, "--out", folder)
    reason = f"{name}.* cannot be written: No space left on device"
    how = f"minicnn train --resume {folder} --workers 1 resumes from the last good checkpoint"
    assert status == 2 and re.fullmatch(f"minicnn: .*{reason}; {how}\n", err)
    saved = ["00001-000000", "00002-000000"]
    assert checkpoints(folder) == saved[: 1 if name == saved[1] else 2]
    assert temporary_files(folder) == []
    assert run(*RESUME, folder)[0] == 0
    assert files(folder) == files(tmp_path / "whole")


def test_a_folder_that_cannot_be_written_any_more(run, tmp_path, monkeypatch):
    def refuse(path, mode="r", *args, **options):
        if mode == "wb" and "00001" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return builtins_open(path, mode, *args, **options)

    builtins_open = open
    monkeypatch.setattr(builtins, "open", refuse)
    status, _, err = run(*TRAIN, "--out", tmp_path)
    path = tmp_path / "checkpoints" / "00001-000000.safetensors"
    sentence = f"{path} cannot be written: Permission denied; there is no checkpoint to resume from"
    assert (status, err) == (2, f"minicnn: {sentence}\n")


def test_a_folder_that_vanishes_is_told(run, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def vanish(optimizer, *args):
        real_step(optimizer, *args)
        shutil.rmtree(folder, ignore_errors=True)

    monkeypatch.setattr(SGD, "step", vanish)
    status, _, err = run(*TRAIN, "--out", folder)
    sentence = f"{folder}/checkpoints cannot be made: No such file or directory; there is no"
    assert (status, err) == (2, f"minicnn: {sentence} checkpoint to resume from\n")
    assert not folder.exists()


def test_divergence_names_the_checkpoint_and_a_lower_rate(run, tmp_path, monkeypatch):
    """Put into the weights in the second epoch."""

    def poison(optimizer, params, grads):
        real_step(optimizer, params, grads)
        if (tmp_path / "history.json").exists():
            params["11.bias"][1] = np.nan

    monkeypatch.setattr(SGD, "step", poison)
    status, _, err = run(*TRAIN, "--lr", 0.25, "--out", tmp_path)
    assert status == 2
    first, second = err.removesuffix("\n").split(" with --lr 0.125, for example (with the ")
    assert first.startswith("minicnn: the loss is nan in epoch 2, step 2 of 3: ")
    assert first.endswith(": start a new run")
    how = f"minicnn train --resume {tmp_path} --workers 1 resumes from the last good checkpoint"
    assert second == f"same one, {how})"


LENET = Origin("lenet", "fashion-mnist", tuple("0123456789"))


def trained(losses, accuracy=0.8):
    return History(60000, "cpu", list(losses), [accuracy] * len(losses))


@pytest.mark.parametrize(
    "losses, word",
    [
        ([2.319], "normal at first: .* sits at ln 10 = 2.303 for most of the first epoch"),
        ([2.294], "normal at first"),
        ([2.292], None),
        ([2.319, 2.303], None),
        (
            [2.319, 2.303, 2.303],
            "no longer normal: train loss 2.303 .* guessing, ln 10 = 2.303; try",
        ),
        ([2.3] * 9, "no longer normal"),
        ([2.3, 2.3, 2.0], None),
    ],
)
def test_the_plateau_is_explained_while_it_lasts(losses, word, run, tmp_path, monkeypatch):
    line = baseline.plateau(LENET, trained(losses))
    assert (line is None) if word is None else re.match(word, line)
    if line:
        told = ("for hundreds of steps", "try --model lenet-relu")[len(losses) >= 3]
        few = dataclasses.replace(trained(losses), images=1000)
        assert told in baseline.plateau(LENET, few)
    for other in {"model": "lenet-relu"}, {"data": "digits"}:
        assert baseline.plateau(dataclasses.replace(LENET, **other), trained(losses)) is None


@pytest.mark.parametrize(
    "loss, place",
    [(0.4484, "outside"), (0.449, "inside"), (0.467, "inside"), (0.525, "inside")]
    + [(0.526, "outside"), (2.3, "outside")],
)
def test_a_run_of_the_course_is_placed_among_the_published_ones(loss, place):
    history = trained([2.3] * 9 + [loss])
    for seed in 0, 7:
        line = baseline.among_published(LENET, Settings(lr=0.9, seed=seed), history)
        assert f"is {place} 0.449 to 0.525, where the 313 published runs" in line
    for other in {"epochs": 9}, {"lr": 0.8}, {"momentum": 0.1}:
        assert baseline.among_published(LENET, Settings(**other), history) is None
    for other in {"data": "mnist"}, {"model": "lenet-relu"}:
        origin = dataclasses.replace(LENET, **other)
        assert baseline.among_published(origin, Settings(), history) is None


def test_the_command_line_prints_what_there_is_to_say(run, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "plateau", lambda origin, history: f"{len(history.curve)} points")
    monkeypatch.setattr(training, "among_published", lambda origin, *_: origin.model)
    _, out, _ = run(*TRAIN, "--epochs", 2, "--out", tmp_path)
    lines = out.splitlines()
    assert lines[4] == "3 points" and lines[6] == "6 points" and lines[-2] == "lenet-relu"


SLOW = """
import sys, time
from minicnn import (digits, optimizers)
from minicnn.cli import commands, data
small = [part[:300] for part in digits(1000, 300)]
data.digits = lambda: small
step = optimizers.SGD.step
def slow(*args):
    step(*args)
    print("step", flush=True)
    time.sleep(0.05)
optimizers.SGD.step = slow
sys.exit(commands.main(sys.argv[1:]))
"""


def started(*args):
    """A process that trains slowly, when it has taken two steps, and the processes that it
    started."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    steps = 0
    while steps < 2:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        steps += line == "step\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return process, [int(child) for child in children]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@needs_proc
@pytest.mark.skipif(sys.platform != "linux", reason="counts forked workers")
def test_a_process_that_is_told_to_end_or_killed_leaves_a_run_to_go_on_with(run, tmp_path):
    """While it trains the run is locked; it leaves no worker behind; killed, it loses the steps
    since the last checkpoint only, and its lock is gone with it."""
    options = ["train", "--data", "digits", "--batch-size", 150, "--epochs", 3]
    options += ["--workers", 3, "--momentum", 0.9, "--save-every", 1, "--out"]
    assert run(*options, tmp_path / "whole")[0] == 0
    for number, status in (signal.SIGTERM, 143), (signal.SIGKILL, -9):
        folder = tmp_path / number.name
        process, children = started(*options, folder)
        assert len(children) == 2 and all(map(alive, children))
        if number == signal.SIGKILL:
            while not checkpoints(folder):
                time.sleep(0.01)
            in_use = f"minicnn: {folder} is in use: another process trains in it\n"
            assert run(*RESUME, folder) == (2, "", in_use)
            os.kill(children[0], signal.SIGSTOP)  # a worker that is slow to end
        process.send_signal(number)
        assert process.wait(timeout=10) == status
        try:
            with run_folder.locked(folder):
                pass
        finally:
            if number == signal.SIGKILL:
                os.kill(children[0], signal.SIGCONT)
        _, err = process.communicate(timeout=10)
        told = f"minicnn train --resume {folder} --workers 3 --save-every 1\n" in err
        assert told == (number == signal.SIGTERM)
        for _ in range(100):
            if not any(map(alive, children)):
                break
            time.sleep(0.02)
        assert not any(map(alive, children))
        assert checkpoints(folder)
        assert run(*RESUME, folder)[0] == 0
        assert files(folder) == files(tmp_path / "whole")


def test_the_config_of_a_run_in_use_is_not_written_over(run, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def locked(folder):
        raise ValueError("in use")
        yield

    settings, origin = RUN
    run_folder.save_config(tmp_path, origin, settings)
    before = (tmp_path / "config.json").read_text()
    monkeypatch.setattr(run_folder, "locked", locked)
    assert run(*TRAIN, "--lr", 2, "--out", tmp_path) == (2, "", "minicnn: in use\n")
    assert json.loads(before)["lr"] == 0.1
    assert (tmp_path / "config.json").read_text() == before


def test_what_a_run_leaves_that_died_before_its_first_checkpoint_is_no_loss(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in (
        "config.json",
        ".lock",
        ".config.json.12.part",
        "checkpoints/.00001-000000.3.part",
    ):
        (tmp_path / name).touch()
    run_folder.check_unused(tmp_path)
    (tmp_path / "checkpoints/00001-000000.safetensors").touch()
    with pytest.raises(ValueError, match="is not empty"):
        run_folder.check_unused(tmp_path)
