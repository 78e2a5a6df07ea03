"""Files from the first mirror that has them: complete and verified, or absent."""

import importlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from minicnn.datasets.idx import DataError
from minicnn.files import locked

LOCK = ".lock"  # empty; locked by the process that downloads
PROBE_SECONDS = 5
STALL_SECONDS = 15


def download(mirrors: Sequence[str], md5: dict[str, str], folder: Path) -> None:
    """Puts each file named in `md5` into `folder` unless it is there with that MD5.

    A mirror is an address to which a file's name is appended; if one fails, the next takes over. A
    file is written under a temporary name and renamed once its MD5 is right, so that an
    interruption does no harm. Of several processes one downloads, and the others wait for it.
    Raises DataError, which says what each mirror answered, or that nothing can be written.
    """
    problems = _probe(mirrors, next(iter(md5)))
    failures = [f"{mirror}: {problem}" for mirror, problem in problems.items()]
    mirrors = [mirror for mirror in mirrors if mirror not in problems]
    if mirrors:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / LOCK, f"waiting for another process to download into {folder}"):
                for mirror in mirrors:
                    problem = _fetch_all(mirror, md5, folder)
                    if not problem:
                        return
                    failures.append(problem)
        except OSError as error:
            failures.append(f"{folder} cannot be written to: {error.strerror}")
    raise DataError("\n".join(failures))


def _probe(mirrors: Sequence[str], name: str) -> dict[str, str]:
    """Why mirrors do not answer, all found within PROBE_SECONDS: looking up a host has no timeout
    of its own, and one host may have many addresses, each with a timeout."""
    import pooch  # here: importing it takes half as long as all of minicnn

    importlib.import_module("requests")  # or pooch imports it while the mirrors' time runs
    downloader = pooch.HTTPDownloader(timeout=PROBE_SECONDS)
    problems = dict.fromkeys(mirrors, f"no answer in {PROBE_SECONDS} seconds")

    def ask(mirror: str) -> None:
        try:
            downloader(mirror + name, None, None, check_only=True)
            del problems[mirror]
        except OSError as error:
            cause: BaseException = error
            while cause.__context__:
                cause = cause.__context__
            problems[mirror] = str(cause)

    threads = []
    for mirror in mirrors:
        thread = threading.Thread(target=ask, args=(mirror,), daemon=True)
        try:
            thread.start()
            threads.append(thread)
        except RuntimeError as error:  # the system allows no more threads
            problems[mirror] = str(error)
    deadline = time.monotonic() + PROBE_SECONDS
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return problems.copy()


def _fetch_all(mirror: str, md5: dict[str, str], folder: Path) -> str | None:
    """None, or what went wrong with the first file that could not be downloaded."""
    for name in md5:
        try:
            _fetch(mirror, name, md5[name], folder)
        except OSError as error:
            return f"{mirror}{name}: {error}"
        except ValueError:
            return f"{mirror}{name}: the download is not this file (wrong MD5)"
    return None


def _fetch(mirror: str, name: str, md5: str, folder: Path) -> None:
    import pooch
    from tqdm import tqdm

    pooch.get_logger().setLevel("WARNING")
    # pooch sets the bar's total, but ignores a bar that has none
    with tqdm(desc=name, total=1, unit="B", unit_scale=True, leave=False) as bar:
        downloader = pooch.HTTPDownloader(
            progressbar=bar, chunk_size=1 << 16, timeout=(PROBE_SECONDS, STALL_SECONDS)
        )
        pooch.retrieve(mirror + name, f"md5:{md5}", name, folder, downloader=downloader)
