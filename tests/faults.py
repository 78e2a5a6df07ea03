"""Kills training at random moments, and damages files at random places.

    python tests/faults.py kills --count 300
    python tests/faults.py kills --count 100 --in-full
    python tests/faults.py ranks --count 50
    python tests/faults.py files --count 2000

Kills: training in a process of its own is ended by SIGKILL and resumed until it is through. Then
its files have to be those of a run that nothing interrupted, bit for bit. It has a few hundred of
the built-in digits and a checkpoint after every second step. In full, two workers train, and the
curves are drawn; else one process trains, without the picture, which takes far longer than all the
rest.

Ranks: of a training by two or three ranks, one is killed, and all have to end. It is resumed by
another number of ranks, 1 to 3, and ends with the same bits.

Files: of each kind, a byte is changed, the end is cut off, bytes are appended or doubled. What is
read then has to be refused in one sentence or be exactly what was written. No more memory is taken
than twice that for the whole file, and 2 MiB for buffers; Pillow's own memory is not seen. Some
kinds have no sum over all their bytes, and for them other content of the right form counts too:
plain IDX files of unknown origin, pictures, text and CIFAR's records.
"""

import argparse
import contextlib
import dataclasses
import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from mpiexec import LIMIT_SECONDS, find_mpiexec, wait_until
from PIL import Image
from tqdm import tqdm

from minicnn.cli import commands, training
from minicnn.cli import data as cli_data
from minicnn.datasets import (
    cache,
    digits,
    fashion_mnist,
    open_data,
    read_idx,
    read_image,
    sources,
)
from minicnn.files import write_atomically
from minicnn.runs import run_folder
from minicnn.runs.checkpoint import load_checkpoint

TRAIN = (
    *("train", "--data", "digits", "--epochs", "2", "--batch-size", "20", "--momentum", "0.9"),
    "--out",
)
RESUME = ("train", "--resume")
OPTIONS = ("--save-every", "2", "--workers")
OF_RANKS = (  # three chunks in a batch, for 3, 2 and 1 ranks
    *("--model", "lenet-relu", "--epochs", "4", "--batch-size", "150", "--momentum", "0.9"),
    "--out",
)
BUFFERS = 2 << 20  # bytes
WITHOUT_PICTURES = [
    (training, "estimate_seconds", lambda *args, **options: 1.0),
    (run_folder, "training_curves", lambda history: b"curves"),
    (run_folder, "labelled_images", lambda data, index: b"images"),
    (run_folder, "save_figure", lambda figure, path: write_atomically(path, figure)),
]


def start(arguments: tuple[str, ...], data: list, log: Path, in_full: bool) -> int:
    """The id of a process that runs a command of minicnn."""
    with warnings.catch_warnings():  # forking beside BLAS's threads, which the child does not use
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open(log, "w") as file, contextlib.ExitStack() as patches:
            sys.stdout = sys.stderr = file
            tqdm.set_lock(threading.RLock())  # else one killed while it holds the lock keeps ours
            warnings.simplefilter("error")  # a kill must leave no damaged checkpoint behind
            changes = [(cli_data, "digits", lambda: data)]
            for module, name, value in changes if in_full else changes + WITHOUT_PICTURES:
                patches.enter_context(mock.patch.object(module, name, value))
            try:
                status = commands.main([*arguments, *OPTIONS, "2" if in_full else "1"])
            except BaseException:
                traceback.print_exc()
    finally:
        os._exit(status)


def ended(child: int, log: Path) -> bool:
    """Waits for the end of a process: whether it came to its own end, and not to ours."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    assert status == 0, log.read_text()
    return True


def result(folder: Path) -> tuple[dict, list[bytes]]:
    """What two equal runs share: the history without times, and files."""
    history = json.loads((folder / run_folder.HISTORY).read_text())
    history.pop("train_seconds")
    return history, [(folder / name).read_bytes() for name in (run_folder.WEIGHTS, run_folder.BEST)]


def trained(folder: Path, in_full: bool = False) -> tuple[tuple[dict, list[bytes]], list, float]:
    """(result, data, seconds) of a run that nothing interrupts."""
    data = [part[:200] for part in digits(200, 200)]
    begun = time.perf_counter()
    log = folder.with_suffix(".log")
    assert ended(start((*TRAIN, str(folder)), data, log, in_full), log)
    return result(folder), data, time.perf_counter() - begun


def kills(count: int, seed: int = 0, in_full: bool = False, progress: bool = False) -> str:
    """Kills training `count` times, resumes each time, and returns a summary.

    Raises AssertionError for a run that cannot go on or that ends otherwise.
    """
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as temporary:
        temporary = Path(temporary)
        expected, data, seconds = trained(temporary / "whole", in_full)
        log = temporary / "log"

        def attempt(command: tuple[str, ...], delay: float | None) -> bool:
            child = start(command, data, log, in_full)
            if delay is not None:
                time.sleep(delay)
                os.kill(child, signal.SIGKILL)
            return ended(child, log)

        return _killed(attempt, TRAIN, count, rng, temporary, expected, seconds, progress)


def rank_kills(count: int, seed: int = 0, progress: bool = False) -> str:
    """The same for the ranks of an MPI job, of which one is killed each time."""
    rng = np.random.default_rng(seed)
    before, slowest = 0, 0.0
    with tempfile.TemporaryDirectory() as temporary:
        temporary = Path(temporary)
        train, test = digits(1500, 200)
        content = {"x_train": train.images, "y_train": train.labels}
        np.savez(temporary / "data.npz", **content, x_test=test.images, y_test=test.labels)

        def attempt(command: tuple[str, ...], delay: float | None) -> bool:
            nonlocal before, slowest
            numbers = (1, 2, 3) if delay is None else (2, 3)
            before = int(rng.choice([number for number in numbers if number != before]))
            job = Job(before, command, temporary)
            if delay is None:
                status = job.end()
                assert status == 0, job.log.read_text()
                return True
            time.sleep(delay)
            was_alive, begun = job.kill(int(rng.integers(before))), time.perf_counter()
            status = job.end()
            assert status == 0 or was_alive, job.log.read_text()
            slowest = max(slowest, time.perf_counter() - begun)
            return status == 0

        new = "train", "--data", str(temporary / "data.npz"), *OF_RANKS
        begun = time.perf_counter()
        attempt((*new, str(temporary / "whole")), None)
        seconds, expected = time.perf_counter() - begun, result(temporary / "whole")
        told = _killed(attempt, new, count, rng, temporary, expected, seconds, progress)
    return f"{told}; all ranks had ended {slowest:.2f} s after each kill"


def _killed(
    attempt: Callable[[tuple[str, ...], float | None], bool],
    new: tuple[str, ...],
    count: int,
    rng: np.random.Generator,
    temporary: Path,
    expected: tuple[dict, list[bytes]],
    seconds: float,
    progress: bool,
) -> str:
    """Runs `new` in one folder after another and resumes it until all kills are done. An attempt
    runs a command, which is killed after a delay if that is given, and returns whether the command
    came to its own end."""
    killed = resumed = anew = while_writing = finished = 0
    folders = (temporary / str(i) for i in range(10**9))
    folder = next(folders)
    command = (*new, str(folder))
    with _bar("kills", count, progress) as bar:
        while True:
            kill = killed < count and (command[0:2] != RESUME or rng.random() < 0.6)
            if attempt(command, rng.uniform(0, seconds) if kill else None):
                assert result(folder) == expected, f"run {finished} ended with other numbers"
                finished += 1
                if killed == count:
                    break
                folder = next(folders)
                command = (*new, str(folder))
                continue
            killed += 1
            bar.update()
            while_writing += any(folder.rglob(f".*{run_folder.PART}"))
            if run_folder.checkpoints(folder):
                resumed += 1
                command = (*RESUME, str(folder))
            else:
                anew += 1
                folder = next(folders)
                command = (*new, str(folder))
    return (
        f"{killed} kills, {resumed} resumes bit-identical; {anew} kills before the first "
        f"checkpoint, {while_writing} in the middle of writing a file; {finished} runs, of "
        f"{seconds:.2f} s without a kill"
    )


class Job:
    """A command of minicnn on several ranks, each of which leaves its process's number in
    `folder`."""

    def __init__(self, ranks: int, command: tuple[str, ...], folder: Path) -> None:
        self.files = [folder / f"rank{rank}" for rank in range(ranks)]
        self.log = folder / "log"
        for file in self.files:
            file.unlink(missing_ok=True)
        shell = 'echo $$ > "$0$PMI_RANK"; exec "$@"'  # MPICH's variable
        python = sys.executable, "-W", "error::UserWarning", __file__, "rank"
        of_rank = "sh", "-c", shell, str(folder / "rank"), *python, *command, *OPTIONS, "1"
        with open(self.log, "w") as log:
            self.mpiexec = subprocess.Popen(
                [find_mpiexec(), "-n", str(ranks), *of_rank], stdout=log, stderr=log
            )

    def kill(self, rank: int) -> bool:
        """Kills a rank as soon as it has begun; whether it had not ended yet."""
        file = self.files[rank]
        wait_until(lambda: file.is_file() and file.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)
            return True
        return False

    def end(self) -> int:
        """Waits for the end of all ranks, and returns the status of mpiexec."""
        status = self.mpiexec.wait(LIMIT_SECONDS)
        wait_until(
            lambda: not any(file.is_file() and _runs(file.read_text()) for file in self.files)
        )
        return status


def rank() -> None:
    """What each process of a Job does."""
    with contextlib.ExitStack() as patches:
        for module, name, value in WITHOUT_PICTURES:
            patches.enter_context(mock.patch.object(module, name, value))
        sys.exit(commands.main(sys.argv[2:]))


def _runs(number: str) -> bool:
    try:
        return " Z " not in Path(f"/proc/{number.strip()}/stat").read_text()
    except OSError:
        return False


@dataclasses.dataclass(frozen=True)
class Kind:
    """A file, how it is read, and the form that what is read has to have if nothing guards it."""

    name: str
    path: Path
    load: Callable[[], object]
    form: Callable[[object], object] | None = None
    sealed: bool = False  # by a sum over every byte, so that no damaged file is read at all


def bits(arrays: dict) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


def kinds(folder: Path) -> Iterator[Kind]:
    """One whole file of each kind, written into `folder`."""
    run = folder / "run"
    trained(run)

    def weights() -> tuple[dict[str, bytes], dict]:
        net, origin = run_folder.open_run(run)
        return bits(net.params), origin

    def checkpoint() -> tuple:
        found = load_checkpoint(last)
        rest = dataclasses.replace(found, arrays={}, optimizer={})
        return bits(found.arrays), bits(found.optimizer), rest

    last = run_folder.checkpoints(run)[-1]
    yield Kind("weights", run / run_folder.WEIGHTS, weights, sealed=True)
    yield Kind("checkpoint", last, checkpoint, sealed=True)
    images = np.random.default_rng(0).integers(256, size=(60, 28, 28), dtype=np.uint8)
    plain = folder / "images-idx3-ubyte"
    plain.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes())
    zipped = plain.with_suffix(".gz")
    zipped.write_bytes(gzip.compress(plain.read_bytes()))

    def idx(path: Path) -> tuple:
        array = read_idx(path)
        return array.shape, array.tobytes()

    yield Kind("IDX, plain", plain, lambda: idx(plain), lambda content: content[0])
    yield Kind("IDX, gzipped", zipped, lambda: idx(zipped))
    for name, suffix in ("Fashion-MNIST, plain", ""), ("Fashion-MNIST, gzipped", ".gz"):
        yield _fashion_mnist(name, folder / name, suffix)
    picture = folder / "picture.png"
    Image.fromarray(images[:16].reshape(112, 112)).save(picture)
    yield Kind(
        "PNG", picture, lambda: read_image(picture).tolist(), lambda pixels: np.shape(pixels)
    )
    yield from _own_files(folder)


def _own_files(folder: Path) -> Iterator[Kind]:
    """Files of the kinds that `open_data` finds out."""
    rng = np.random.default_rng(2)
    images = rng.integers(256, size=(30, 8, 8), dtype=np.uint8)
    labels = np.arange(30, dtype=np.uint8) % 3

    def made(name: str) -> Path:
        (folder / name).mkdir()
        return folder / name

    place = made("classes")
    for i, image in enumerate(images):
        (place / f"class {labels[i]}").mkdir(exist_ok=True)
        Image.fromarray(image).save(place / f"class {labels[i]}" / f"{i}.png")
    yield _opened("folder of pictures", place / "class 0" / "0.png", place)
    yield _cached(place, folder / "cache")
    place = made("listed")
    for i, image in enumerate(images):
        Image.fromarray(image).save(place / f"{i}.png")
    rows = "".join(f"{i}.png,class {label}\n" for i, label in enumerate(labels))
    (place / "labels.csv").write_text("filename,label\n" + rows)
    yield _opened("CSV of pictures", place / "labels.csv", place)
    lines = [",".join(map(str, (k, *image.flat))) for k, image in zip(labels, images)]
    header = ",".join(["label", *(f"pixel{i}" for i in range(64))])
    table = "\n".join([header, *lines, ""])
    plain, zipped = folder / "pixels.csv", folder / "pixels.csv.gz"
    plain.write_text(table)
    zipped.write_bytes(gzip.compress(table.encode()))
    yield _opened("CSV of pixels", plain, plain)
    yield _opened("CSV, gzipped", zipped, zipped, has_sum=True)
    for name, save in ("npz", np.savez), ("npz, compressed", np.savez_compressed):
        path = folder / f"{name}.npz"
        save(path, x=images, y=labels)
        yield _opened(name, path, path, has_sum=True)
    place = made("emnist")
    start = "emnist-letters-train"
    _write_idx(place / f"{start}-images-idx3-ubyte", images)
    _write_idx(place / f"{start}-labels-idx1-ubyte", labels + 1)
    (place / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n3 67 99\n")
    yield _opened("EMNIST, images", place / f"{start}-images-idx3-ubyte", place)
    yield _opened("EMNIST, labels", place / f"{start}-labels-idx1-ubyte", place)
    yield _opened("EMNIST, mapping", place / "emnist-letters-mapping.txt", place)
    place = made("qmnist")
    extended = np.zeros((30, 8), ">i4")
    extended[:, 0] = labels
    _write_idx(place / "qmnist-train-images-idx3-ubyte", images)
    _write_idx(place / "qmnist-train-labels-idx2-int", extended)
    yield _opened("QMNIST, labels", place / "qmnist-train-labels-idx2-int", place)
    for name, files, coarse in (
        ("CIFAR-10", ("data_batch_1.bin", "test_batch.bin"), ()),
        ("CIFAR-100", ("train.bin", "test.bin"), (0,)),
    ):
        place = made(name)
        for file in files:
            pixels = rng.integers(256, size=(10, 3072), dtype=np.uint8)
            content = [bytes((*coarse, k)) + pixels[k].tobytes() for k in range(10)]
            (place / file).write_bytes(b"".join(content))
        yield _opened(name, place / files[0], place)


def _opened(name: str, path: Path, place: Path, has_sum: bool = False) -> Kind:
    """The file `path` of a data set in `place`."""

    def load() -> tuple:
        parts = open_data(place)
        arrays = [array.tobytes() for part in parts for array in (part.images, part.labels)]
        return parts[0].images.shape[1:], parts[0].classes, parts[0].files, arrays

    return Kind(name, path, load, None if has_sum else lambda found: found[0])


def _cached(place: Path, entries: Path) -> Kind:
    """An entry of the cache: what is damaged is decoded anew, so that no damage shows."""
    opened = _opened("cache", place, place, has_sum=True)

    def load() -> object:
        with (
            mock.patch.object(cache, "folder", lambda: entries),
            mock.patch.object(cache, "SMALL", 0),
        ):
            return opened.load()

    load()
    return dataclasses.replace(opened, path=next(entries.iterdir()), load=load)


def _write_idx(path: Path, array: np.ndarray) -> None:
    kind = 8 if array.dtype == np.uint8 else 12
    header = struct.pack(f">4B{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def _fashion_mnist(name: str, folder: Path, suffix: str) -> Kind:
    """Four small files in place of the official ones, with their checksums."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    shapes, sums = {}, {}
    for file, shape in sources.SHAPES.items():
        shapes[file] = (60, *shape[1:])
        content = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shapes[file])
        content += rng.integers(10, size=shapes[file], dtype=np.uint8).tobytes()
        sums[file] = sources.hashlib.sha256(content).hexdigest()
        (folder / f"{file}{suffix}").write_bytes(gzip.compress(content) if suffix else content)

    small = dataclasses.replace(sources.FASHION_MNIST, sha256=sums)

    def load() -> list[bytes]:
        with (
            mock.patch.object(sources, "SHAPES", shapes),
            mock.patch.object(sources, "FASHION_MNIST", small),
        ):
            parts = fashion_mnist(folder)
        return [array.tobytes() for part in parts for array in (part.images, part.labels)]

    return Kind(name, folder / f"{next(iter(shapes))}{suffix}", load)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A byte is changed, the end is cut off, bytes are appended or doubled."""
    place = int(rng.integers(len(content)))
    length = int(rng.integers(1, 65))
    way = rng.integers(4)
    if way == 0:
        changed = bytes([content[place] ^ int(rng.integers(1, 256))])
        return content[:place] + changed + content[place + 1 :]
    if way == 1:
        return content[:place]
    if way == 2:
        return content + rng.bytes(length)
    return content[: place + length] + content[place:]


def peak(load: Callable[[], object]) -> tuple[object, int]:
    """(what was read, or the ValueError; the most bytes of memory that it took)."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        found = load()
    except ValueError as error:
        found = error
    return found, tracemalloc.get_traced_memory()[1] - before


def corruptions(count: int, seed: int = 0, progress: bool = False) -> list[str]:
    """Damages a file of each kind `count` times, and returns a row of a summary for each kind.

    Raises AssertionError for damage that is read as if it were none, and whatever is raised that is
    not a ValueError.
    """
    rng = np.random.default_rng(seed)
    rows = [f"{'kind':22}  {'refused':>7}  {'loaded equal':>12}  {'other content':>13}"]
    Image.init()  # loads all of Pillow's formats, as the first file of an unknown format would
    tracemalloc.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for kind in kinds(Path(folder)):
                with _bar(kind.name, count, progress) as bar:
                    rows.append(_row(kind, count, rng, bar))
    finally:
        tracemalloc.stop()
    return rows


def _row(kind: Kind, count: int, rng: np.random.Generator, bar: tqdm) -> str:
    content = kind.path.read_bytes()
    kind.load()  # imports and caches
    expected, honest = peak(kind.load)
    assert not isinstance(expected, ValueError), expected
    refused = equal = other = 0
    for _ in range(count):
        bad = damaged(content, rng)
        kind.path.write_bytes(bad)
        found, size = peak(kind.load)
        assert size <= 2 * honest + BUFFERS, f"{kind.name}: {size:,} bytes, {honest:,} if whole"
        if isinstance(found, ValueError):
            assert "\n" not in str(found), f"{kind.name}: {found}"
            refused += 1
        elif found == expected:
            assert bad == content or not kind.sealed, f"{kind.name}: damage went unseen"
            equal += 1
        else:
            assert kind.form, f"{kind.name}: damage went unseen"
            assert kind.form(found) == kind.form(expected), f"{kind.name}: of another form"
            other += 1
        bar.update()
    kind.path.write_bytes(content)
    return f"{kind.name:22}  {refused:7,}  {equal:12,}  {other if kind.form else '-':>13}"


def _bar(name: str, count: int, progress: bool) -> tqdm:
    return tqdm(desc=name, total=count, disable=not progress, leave=False)


def main() -> None:
    if sys.argv[1:2] == ["rank"]:
        rank()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["kills", "ranks", "files"])
    parser.add_argument("--count", type=int, required=True, help="kills, or damages of each kind")
    parser.add_argument("--in-full", action="store_true", help="kills with workers and curves")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    args = parser.parse_args()
    tqdm.monitor_interval = 0  # no thread beside a fork
    if args.what == "kills":
        print(kills(args.count, args.seed, args.in_full, progress=True))
    elif args.what == "ranks":
        print(rank_kills(args.count, args.seed, progress=True))
    else:
        print("\n".join(corruptions(args.count, args.seed, progress=True)))


if __name__ == "__main__":
    main()
