"""Where data sets are searched for, and how good and bad mirrors end, on this machine alone."""

import contextlib
import dataclasses
import errno
import gzip
import hashlib
import os
import pwd
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from minicnn.cli import doctor
from minicnn.datasets import (
    DataError,
    DatasetNotFound,
    download,
    fashion_mnist,
    mnist,
    read_idx,
    sources,
)

FILES = list(sources.SHAPES)
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def content_of(shapes, seed):
    """Four small IDX files: {name: bytes}."""
    rng = np.random.default_rng(seed)
    return {file: idx(rng.integers(10, size=shape, dtype="u1")) for file, shape in shapes.items()}


def gzipped(content):
    return {f"{file}.gz": gzip.compress(data, mtime=0) for file, data in content.items()}


def md5_of(files):
    return {name: hashlib.md5(data).hexdigest() for name, data in files.items()}


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


SMALL = {TRAIN_IMAGES: (6, 28, 28), TRAIN_LABELS: (6,), TEST_IMAGES: (4, 28, 28), TEST_LABELS: (4,)}
FASHION = content_of(SMALL, seed=0)
DIGITS = content_of(SMALL, seed=1)
OTHER = content_of(SMALL, seed=2)
SERVED = gzipped(FASHION)


@pytest.fixture
def refused():
    """An address where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/"


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch, refused):
    """Data sets of ten images, no mirror that answers, and no folder but those under tmp_path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("MINICNN_DATA", raising=False)
    monkeypatch.setattr(sources, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setattr(sources, "SHAPES", SMALL)
    for name, files in ("FASHION_MNIST", FASHION), ("MNIST", DIGITS):
        source = dataclasses.replace(
            getattr(sources, name),
            sha256={file: hashlib.sha256(data).hexdigest() for file, data in files.items()},
            mirrors=(refused,),
            md5=md5_of(gzipped(files)),
        )
        monkeypatch.setattr(sources, name, source)
        monkeypatch.setattr(doctor, name, source)
    return tmp_path


@pytest.mark.parametrize("spelling", ["{}", "{}.gz"])
@pytest.mark.parametrize("separator", ["-idx", ".idx"])
def test_files_in_each_spelling(world, spelling, separator):
    pack = gzip.compress if spelling.endswith(".gz") else bytes
    names = {file: spelling.format(file.replace("-idx", separator)) for file in FILES}
    write(world / "mine", {names[file]: pack(data) for file, data in FASHION.items()})
    train, test = fashion_mnist(world / "mine")
    assert (train.images.shape, test.images.shape) == ((6, 1, 28, 28), (4, 1, 28, 28))
    assert train.images.tobytes() == FASHION[TRAIN_IMAGES][16:]
    assert test.labels.tolist() == list(FASHION[TEST_LABELS][8:])


def test_the_order_of_places(world, monkeypatch):
    monkeypatch.setenv("MINICNN_DATA", str(world / "data"))
    places = [
        world / name for name in ("data/mnist", "data", "cache/minicnn/mnist", "system/mnist")
    ]
    for place in places:
        write(place, DIGITS)
    read = []

    def note_and_read(path, shape):
        read.append(path.parent)
        return read_idx(path, shape)

    monkeypatch.setattr(sources, "read_idx", note_and_read)
    mnist(places[3])
    assert read == [places[3]] * 4
    for place in places:
        read.clear()
        with contextlib.ExitStack() as stack:
            if place in places[2:]:
                stack.enter_context(pytest.warns(UserWarning, match="MINICNN_DATA is"))
            mnist()
        assert sources.find(sources.MNIST) == place
        assert read == [place] * 4
        for file in FILES:
            (place / file).unlink()
        if place == places[0]:
            place.rmdir()
    assert sources.find(sources.MNIST) is None
    with pytest.warns(UserWarning, match="MINICNN_DATA is"), pytest.raises(DatasetNotFound):
        mnist()


CHOSEN = {  # MINICNN_DATA, and what is wrong with it
    "missing": ("{world}/missing", "no such folder exists"),
    "below home": ("~/missing", "{world}/missing: no such folder exists"),
    "no user": ("~nobody-here/data", "the home folder of ~nobody-here is not known"),
    "file": ("{world}/file", "cannot be read: Not a directory"),
    "empty": ("{world}/empty", f"{', '.join(FILES)} not in it"),
    "partial": ("{world}/partial", f"{', '.join(FILES[1:])} not in it"),
    "for another": ("{world}/other", f"{', '.join(FILES)} not in it"),
    "its own folder": ("{world}/parent", "{world}/parent/mnist: " + f"{', '.join(FILES)} not in"),
    "long": ("/" + 5000 * "x", "cannot be read: File name too long"),
}


@pytest.mark.parametrize("value, problem", CHOSEN.values(), ids=CHOSEN)
def test_a_chosen_place_of_no_use_is_named_and_the_search_goes_on(
    world, monkeypatch, value, problem
):
    value, problem = value.format(world=world), problem.format(world=world)
    write(world / "partial", {TRAIN_IMAGES: DIGITS[TRAIN_IMAGES]})
    write(world / "other" / "fashion-mnist", FASHION)
    write(world / "system" / "mnist", DIGITS)
    (world / "file").touch()
    (world / "empty").mkdir()
    (world / "parent" / "mnist").mkdir(parents=True)
    monkeypatch.setenv("MINICNN_DATA", value)
    with pytest.warns(UserWarning) as warned:
        train, _ = mnist()
    assert train.images.tobytes() == DIGITS[TRAIN_IMAGES][16:]
    (message,) = (str(warning.message) for warning in warned)
    assert warned[0].filename == __file__ and "\n" not in message
    assert message.startswith(f"MINICNN_DATA is {value}, which does not have the files of MNIST")
    assert problem in message and "searching other places" in message
    assert sources.find(sources.MNIST) == world / "system" / "mnist"
    assert re.search(f"^warning +{re.escape(message.split(':')[0])}", doctor.report(), re.MULTILINE)


def test_a_chosen_place_that_may_not_be_read_is_named(world, monkeypatch):
    write(world / "system" / "mnist", DIGITS)
    write(world / "data" / "mnist", DIGITS)
    monkeypatch.setenv("MINICNN_DATA", str(world / "data"))
    stat = os.stat

    def denied(path, **options):  # as for anyone but root
        if str(path).startswith(str(world / "data" / "")):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", denied)
    with pytest.warns(UserWarning, match="MINICNN_DATA is .*cannot be read: Permission denied"):
        mnist()


def test_a_place_below_the_home_folder(world, monkeypatch):
    write(world / "data" / "mnist", DIGITS)
    mnist("~/data/mnist")
    monkeypatch.setenv("MINICNN_DATA", "~/data")
    mnist()
    assert sources.find(sources.MNIST) == world / "data" / "mnist"


def no_home_folder(kind, monkeypatch):
    """As for a user that the system does not know, or as older platformdirs answer then."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in "HOME", "XDG_CACHE_HOME":
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    if kind == "a tilde":
        monkeypatch.setattr("pooch.os_cache", lambda project: Path("~/.cache") / project)


@pytest.mark.parametrize("kind", ["an error", "a tilde"])
def test_without_a_home_folder_the_other_places_are_searched(world, monkeypatch, kind):
    no_home_folder(kind, monkeypatch)
    monkeypatch.chdir(world)
    for name, place in ("MINICNN_DATA", world / "data"), (None, world / "system" / "mnist"):
        monkeypatch.delenv("MINICNN_DATA", raising=False)
        if name:
            monkeypatch.setenv(name, str(place))
        write(place, DIGITS)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mnist()
        assert sources.find(sources.MNIST) == place
    report = doctor.report()
    assert re.search(f"^MNIST +{world / 'system' / 'mnist'}$", report, re.MULTILINE)
    assert re.search("^Fashion-MNIST +not on this machine$", report, re.MULTILINE)
    assert re.search("^warning +there is no cache folder .* home folder", report, re.MULTILINE)
    assert not (world / "~").exists()


@pytest.mark.parametrize("kind", ["an error", "a tilde"])
def test_without_a_home_folder_nothing_is_downloaded(world, monkeypatch, kind):
    no_home_folder(kind, monkeypatch)
    monkeypatch.chdir(world)
    with pytest.raises(DatasetNotFound) as error:
        mnist()
    sentence = "there is no cache folder to download into, because the home folder is not known: "
    assert f"  {sentence}set HOME or XDG_CACHE_HOME to a folder\n" in str(error.value)
    assert not (world / "~").exists()


def test_only_the_folder_given_is_looked_in(world):
    write(world / "system" / "mnist", DIGITS)
    write(world / "mine", {TRAIN_IMAGES: FASHION[TRAIN_IMAGES]})
    with pytest.raises(DatasetNotFound) as error:
        mnist(world / "mine")
    message = str(error.value)
    assert f"mine: {TRAIN_LABELS}, {TEST_IMAGES}, {TEST_LABELS} not in it" in message
    assert "system" not in message and "refused" not in message


WRONG = {
    "MNIST": (DIGITS, "belongs to MNIST, not to Fashion-MNIST"),
    "unknown": (OTHER, "train-images.* is not the official file of Fashion-MNIST.*delete it"),
    "one unknown": (FASHION | {TEST_LABELS: OTHER[TEST_LABELS]}, "t10k-labels.* is not the offi"),
    "cut": ({file: data[:-1] for file, data in FASHION.items()}, "is damaged"),
    "32x32": (
        content_of(SMALL | {TRAIN_IMAGES: (6, 32, 32)}, seed=0),
        "holds 6 x 32 x 32 values, expected 6 x 28 x 28",
    ),
}


@pytest.mark.parametrize("chosen_by", ["argument", "MINICNN_DATA"])
@pytest.mark.parametrize("files, sentence", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_in_the_users_folder_stops(world, monkeypatch, files, sentence, chosen_by):
    write(world / "mine", files)
    write(world / "system" / "fashion-mnist", FASHION)
    if chosen_by == "MINICNN_DATA":
        monkeypatch.setenv("MINICNN_DATA", str(world / "mine"))
    with pytest.raises(DataError, match=sentence) as error:
        fashion_mnist(world / "mine" if chosen_by == "argument" else None)
    assert type(error.value) is DataError
    assert str(world / "mine") in str(error.value)


def test_mnist_is_known_by_its_content_too(world):
    write(world / "mine", DIGITS)
    train, test = mnist(world / "mine")
    assert train.images.tobytes() == DIGITS[TRAIN_IMAGES][16:]
    assert (train.name, test.labels.tolist()) == ("mnist", list(DIGITS[TEST_LABELS][8:]))
    write(world / "mine", {TEST_LABELS: OTHER[TEST_LABELS]})
    with pytest.raises(DataError, match="t10k-labels.* is not the official file of MNIST"):
        mnist(world / "mine")
    write(world / "fashion", FASHION)
    with pytest.raises(DataError, match="train-images.* belongs to Fashion-MNIST, not to MNIST"):
        mnist(world / "fashion")


def test_a_wrong_file_elsewhere_is_passed_over_with_a_warning(world):
    write(world / "cache" / "minicnn" / "fashion-mnist", OTHER)
    write(world / "system" / "fashion-mnist", FASHION)
    with pytest.warns(UserWarning, match="cache.* is not the official file") as warned:
        fashion_mnist()
    assert warned[0].filename == __file__


class Mirror(BaseHTTPRequestHandler):
    """GET /<how>/<name> answers with SERVED[name] in that way, good or bad."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        _, how, name = self.path.split("/")
        getattr(self, how)(SERVED[name])

    def good(self, data):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.server.between_halves()
        self.wfile.write(data[len(data) // 2 :])

    def html(self, data):
        self.good(b"<!DOCTYPE html><title>Sign in</title>")

    def other(self, data):
        self.good(data[::-1])

    def cut(self, data):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:-20])

    def dropped(self, data):
        pass

    def forbidden(self, data):
        self.send_error(403)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.between_halves = lambda: None
        server.handle_error = lambda *_: None
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


BAD_MIRRORS = {
    "html": "the download is not this file",
    "other": "the download is not this file",
    "cut": "IncompleteRead",
    "dropped": "Remote end closed connection without response",
    "forbidden": "403 Client Error: Forbidden",
}


@pytest.mark.parametrize("how, reason", BAD_MIRRORS.items(), ids=BAD_MIRRORS.keys())
def test_after_a_bad_mirror_comes_the_next_one(world, server, how, reason):
    bad, good = f"{server.address}/{how}/", f"{server.address}/good/"
    with pytest.raises(DataError, match=f"{bad}{TRAIN_IMAGES}.gz: .*{reason}"):
        download.download([bad], md5_of(SERVED), world / "files")
    assert contents(world / "files") == {}
    download.download([bad, good], md5_of(SERVED), world / "files")
    assert contents(world / "files") == SERVED


def test_downloads_what_is_missing_or_spoilt_in_the_cache(world, server, monkeypatch):
    source = dataclasses.replace(sources.FASHION_MNIST, mirrors=(f"{server.address}/good/",))
    monkeypatch.setattr(sources, "FASHION_MNIST", source)
    train, test = fashion_mnist()
    assert train.labels.tolist() == list(FASHION[TRAIN_LABELS][8:])

    cache = world / "cache" / "minicnn" / "fashion-mnist"
    (cache / f"{TEST_LABELS}.gz").unlink()
    fashion_mnist()
    damaged = SERVED[f"{TRAIN_IMAGES}.gz"][:-9]
    for name in f"{TRAIN_IMAGES}.gz", TRAIN_IMAGES:
        (cache / f"{TRAIN_IMAGES}.gz").unlink()
        write(cache, {name: damaged})
        with pytest.warns(UserWarning, match="damaged gzip file"):
            fashion_mnist()
        fashion_mnist()  # without a warning
    assert contents(cache) == SERVED | {TRAIN_IMAGES: damaged}


def test_offline_is_told_at_once_and_in_full(world, refused, monkeypatch):
    write(world / "data", {TRAIN_IMAGES: FASHION[TRAIN_IMAGES]})
    monkeypatch.setenv("MINICNN_DATA", str(world / "data"))
    start = time.monotonic()
    with pytest.warns(UserWarning), pytest.raises(DatasetNotFound) as error:
        fashion_mnist()
    assert time.monotonic() - start < 2
    told = str(error.value).splitlines()
    for line, words in zip(
        told,
        [
            ["Fashion-MNIST was not found"],
            [str(world / "data"), TRAIN_LABELS, TEST_IMAGES, TEST_LABELS, "not in it"],
            [str(world / "cache" / "minicnn" / "fashion-mnist"), "no such folder"],
            [str(world / "system" / "fashion-mnist"), "no such folder"],
            [f"{refused}: [Errno", "Connection refused"],
            ["helps"],
            ["the argument folder"],
            ["$MINICNN_DATA"],
            [*SERVED, refused],
            ["apt-get install dataset-fashion-mnist"],
        ],
        strict=True,
    ):
        assert all(word in line for word in words)


def test_hosts_that_do_not_answer_are_given_up_together(world, monkeypatch):
    """One host swallows every packet; looking up the name of the other never ends."""
    monkeypatch.setattr(download, "PROBE_SECONDS", 0.5)
    give_up = threading.Event()
    look_up = socket.getaddrinfo

    def endless(host, *rest, **options):
        if host == "host.invalid":
            give_up.wait(10)
        return look_up("127.0.0.1", *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", endless)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirrors = [f"http://127.0.0.1:{silent.getsockname()[1]}/", "http://host.invalid/"]
        start = time.monotonic()
        with pytest.raises(DataError, match="host.invalid/: no answer in 0.5 seconds"):
            download.download(mirrors, md5_of(SERVED), world / "files")
        assert time.monotonic() - start < 2
        left = set(threading.enumerate()) - {threading.main_thread()}
        assert all(thread.daemon for thread in left)  # so that the program can end
        give_up.set()
    assert not (world / "files").exists()


def test_an_interruption_leaves_nothing_behind(world, server):
    seen = []

    def interrupt():
        seen.extend(os.listdir(world))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    server.between_halves = interrupt
    with pytest.raises(KeyboardInterrupt):
        download.download([f"{server.address}/good/"], md5_of(SERVED), world)
    assert len(seen) == 2 and ".lock" in seen and not SERVED.keys() & set(seen)
    assert os.listdir(world) == [".lock"]


def test_a_cache_that_cannot_be_written_is_told(world, server):
    (world / "file").touch()
    with pytest.raises(DataError, match="file/cache cannot be written to: Not a directory"):
        download.download([f"{server.address}/good/"], md5_of(SERVED), world / "file" / "cache")


@pytest.mark.slow
def test_eight_processes_on_an_empty_cache_download_once(world, server):
    requests = []
    answer = server.RequestHandlerClass.good

    def good(self, data):
        requests.append(self.path)
        answer(self, data)

    def head(self):
        asked.append(self.path)
        Mirror.do_HEAD(self)

    def wait_for_the_others():  # each asks before it downloads or waits
        end = time.monotonic() + 10
        while len(asked) < 8 and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.1)

    asked = []
    server.RequestHandlerClass = type("Counting", (Mirror,), {"good": good, "do_HEAD": head})
    server.between_halves = wait_for_the_others
    program = (
        "from minicnn.datasets.download import download; from pathlib import Path\n"
        f"download(['{server.address}/good/'], {md5_of(SERVED)}, Path({str(world / 'files')!r}))"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    # without the terminal's width, which readline sets for all children, and the bar would fill
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    options = {"stderr": subprocess.PIPE, "text": True, "env": env}
    processes = [subprocess.Popen(command, **options) for _ in range(8)]
    told = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, told
    assert requests == [f"/good/{name}" for name in SERVED]
    assert contents(world / "files") == SERVED
    size = len(SERVED[f"{TRAIN_LABELS}.gz"])
    bar = f"{TRAIN_LABELS}.gz:   0%|          | 0.00/{size}.0 "
    assert sum(bar in stderr for stderr in told) == 1
    assert not any("Downloading" in stderr for stderr in told)  # no log
    waiting = f"waiting for another process to download into {world / 'files'}\n"
    assert any(waiting in stderr for stderr in told)
