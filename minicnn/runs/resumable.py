"""Training any network in the folder of a run: saved along the way, stopped by a signal where it
can be resumed, and resumed with the same network, settings and data, bit for bit."""

import contextlib
import copy
import dataclasses
import itertools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from minicnn.arguments import flag, integer, require
from minicnn.backend import Array
from minicnn.datasets import Dataset, DataSpec
from minicnn.files import as_path
from minicnn.layers.base import Layer
from minicnn.optimizers import SCHEDULES, Optimizer
from minicnn.runs import networks, run_folder
from minicnn.runs.checkpoint import Checkpoint, data_sha256, describe, versions
from minicnn.runs.settings import Origin, Settings
from minicnn.runs.stopping import StopSignals
from minicnn.training.capture import check_capture
from minicnn.training.freezing import frozen_names
from minicnn.training.history import History, Position
from minicnn.training.loop import check_fit, fit
from minicnn.training.mpi import world


def train_run(
    net: Layer,
    train: Dataset,
    test: Dataset | None,
    folder: Path | str,
    settings: Settings | None = None,
    *,
    model: str | None = None,
    spec: DataSpec | None = None,
    started_from: str = "",
    workers: int | None = None,
    save_every: int | None = None,
    keep: int = 2,
    progress: bool = True,
    capture: bool = False,
    on_start: Callable[[Position], None] | None = None,
    on_epoch: Callable[[History], None] | None = None,
) -> History:
    """Trains `net` in place on softmax cross-entropy, and keeps weights, history and checkpoints in
    `folder`, where `resume_run` can resume it.

    test: if None, there are no test results and no best weights
    folder: new or empty; run_folder.py lists what it will hold
    settings: Settings() if None
    model: the network's name, stored with the weights; the name of its class if None. `open_run`
        and the command line can build a network of minicnn's layers again. If it has others, and
        the name is FILE.py:function or package.module:function, they call that
    spec: what data this is, for the command line to find it again
    started_from: the run whose weights `net` has, as from fine_tuning.py; stored with the weights
    workers, progress, capture: as in `fit`
    save_every: if given, a checkpoint is also written each time this many steps have passed
    keep: how many checkpoints are kept
    on_start: called with the position before the first step, once the folder is locked
    on_epoch: called with the history after each epoch, once it is saved

    In the main thread, SIGINT and SIGTERM let the step finish, save it and raise Stopped; a second
    SIGINT raises KeyboardInterrupt at once. Raises ValueError, before any work, for arguments that
    do not fit and for a folder in use; TrainingError as `fit` does; OSError if nothing can be
    written. After the last two, `resume_run` resumes from the last checkpoint.
    """
    settings = Settings() if settings is None else settings
    name = type(net).__name__ if model is None else model
    run = _Run(
        net, train, test, settings, workers, save_every, keep, progress, capture, on_start, on_epoch
    )
    origin = networks.origin(net, train, name, spec)
    origin = dataclasses.replace(origin, started_from=started_from)
    is_first = world().rank == 0  # of several ranks, only one reads and writes the folder
    folder = run_folder.new_run(as_path(folder), origin) if is_first else as_path(folder)
    with run_folder.locked(folder) if is_first else contextlib.nullcontext():
        if is_first:
            run_folder.check_unused(folder)  # another process may have used it before the lock
            run_folder.save_config(folder, origin, settings)
        start = Position(History(len(train), net.device))
        return run.train(folder, origin, data_sha256(train), settings.new_optimizer(), start)


def resume_run(
    net: Layer,
    train: Dataset,
    test: Dataset | None,
    folder: Path | str,
    settings: Settings | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    workers: int | None = None,
    save_every: int | None = None,
    keep: int = 2,
    progress: bool = True,
    capture: bool = False,
    on_start: Callable[[Position], None] | None = None,
    on_epoch: Callable[[History], None] | None = None,
) -> History:
    """Resumes a run that was stopped or killed: weights and history are then those of an unbroken
    run. If the run is complete, nothing is trained.

    net: built as it was for `train_run`; its weights are replaced by those of the run
    settings: the run's if None; with a constant schedule there may be more epochs
    checkpoint: where to resume; the last one in the folder if None

    The other arguments and the errors are those of `train_run`. Also raises ValueError if network,
    settings or data differ from the run's, and warns if versions differ.
    """
    if checkpoint is None:
        checkpoint = world().from_first(lambda: run_folder.last_checkpoint(folder))
    require(isinstance(checkpoint, Checkpoint), "checkpoint must be a Checkpoint", checkpoint)
    settings = checkpoint.settings if settings is None else settings
    run = _Run(
        net, train, test, settings, workers, save_every, keep, progress, capture, on_start, on_epoch
    )
    folder, origin = as_path(folder), checkpoint.origin
    check_same(folder, checkpoint.settings, settings)
    check_same(folder, origin, dataclasses.replace(origin, data=train.name, classes=train.classes))
    _check_network(folder, checkpoint, net)
    _check_data(checkpoint, train)
    position, optimizer = copy.deepcopy(checkpoint.position), settings.new_optimizer()
    history, is_first = position.history, world().rank == 0
    with run_folder.locked(folder) if is_first else contextlib.nullcontext():
        checkpoint.restore(net, optimizer)
        if is_first and history.train_loss and position.step == 0:  # it may have been killed before
            run_folder.save_epoch(folder, net, history, origin)
        if len(history.train_loss) == settings.epochs:
            return history
        _warn_of_versions(checkpoint)
        if is_first and settings != checkpoint.settings:
            longer = dataclasses.replace(checkpoint, settings=settings)
            run_folder.add_checkpoint(folder, longer, keep)
            run_folder.save_config(folder, origin, settings)
        return run.train(folder, origin, checkpoint.data_sha256, optimizer, position)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What is trained, and how; checked before a folder is made or changed."""

    net: Layer
    data: Dataset
    test: Dataset | None
    settings: Settings
    workers: int | None
    save_every: int | None
    keep: int
    progress: bool
    capture: bool
    on_start: Callable[[Position], None] | None
    on_epoch: Callable[[History], None] | None

    def __post_init__(self) -> None:
        sentence = "settings must be Settings, such as Settings(lr=0.1)"
        require(isinstance(self.settings, Settings), sentence, self.settings)
        check_fit(self.net, self.data, self.settings.augment())
        frozen_names(self.net, self.settings.freeze)
        if self.test is not None:
            check_fit(self.net, self.test)
        for name in ("workers", "save_every"):
            if getattr(self, name) is not None:
                integer(name, getattr(self, name), 1)
        integer("keep", self.keep, 1)
        flag("progress", self.progress)
        if flag("capture", self.capture):
            settings = self.settings
            check_capture(self.net, settings.new_optimizer(), settings.augment(), world().size)
        for name in ("on_start", "on_epoch"):
            function = getattr(self, name)
            require(function is None or callable(function), f"{name} must be a function", function)

    def train(
        self, folder: Path, origin: Origin, sha256: str, optimizer: Optimizer, start: Position
    ) -> History:
        """Trains from `start` to the end, and saves into the folder, which is locked."""
        settings, stop, ranks = self.settings, StopSignals(), world()

        def has_stopped() -> bool:
            """Whether a signal has reached a rank; all ranks then stop after the same step."""
            if number := max(ranks.gathered(stop.number or 0)):
                stop.number = number
            return number > 0

        def save(position: Position) -> None:
            if ranks.rank == 0:
                checkpoint = Checkpoint.of(self.net, optimizer, position, settings, origin, sha256)
                run_folder.add_checkpoint(folder, checkpoint, self.keep)

        def on_step(position: Position) -> None:
            stopped = has_stopped()
            if stopped or (self.save_every and position.step % self.save_every == 0):
                save(position)
            if stopped:  # and not if a signal has come since, of which other ranks do not know
                stop.check(position)

        def on_epoch(history: History) -> None:
            position = Position(history)
            save(position)
            if ranks.rank == 0:
                run_folder.save_epoch(folder, self.net, history, origin)
            if self.on_epoch:
                self.on_epoch(history)
            if len(history.train_loss) < settings.epochs and has_stopped():
                stop.check(position)

        others = [] if self.test is None else [self.test.images, self.test.labels]
        text = np.frombuffer(repr(settings).encode(), np.uint8)
        ranks.check_same({"settings": [text], "test images and labels": others})
        if self.on_start:
            self.on_start(start)
        with stop.on_signals():
            return fit(
                self.net,
                self.data,
                self.test,
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                optimizer=optimizer,
                loss=settings.loss(),
                schedule=SCHEDULES[settings.schedule],
                augment=settings.augment(),
                freeze=settings.freeze,
                seed=settings.seed,
                workers=self.workers,
                progress=self.progress,
                capture=self.capture,
                on_epoch=on_epoch,
                on_step=on_step,
                start=start,
            )


def check_same(folder: Path, old: Settings | Origin, new: Settings | Origin) -> None:
    """Raises ValueError if a run with `old` cannot be resumed with `new`."""
    then, now = dataclasses.asdict(old), dataclasses.asdict(new)
    if then.get("schedule") == "constant" and then["epochs"] < now["epochs"]:
        del then["epochs"]  # only other schedules depend on the number of epochs
    differences = "; ".join(f"{n} is {then[n]}, not {now[n]}" for n in then if then[n] != now[n])
    if differences:
        raise ValueError(
            f"{folder} cannot be resumed with other settings: {differences}; leave them out, or "
            f"start a new run from its weights with minicnn train --from {folder}"
        )


def _check_network(folder: Path, checkpoint: Checkpoint, net: Layer) -> None:
    """Raises ValueError unless `net` is built as the network of the checkpoint was."""
    before = _description(checkpoint.network, checkpoint.arrays)
    after = _description(describe(net), net.arrays)
    for lines in zip(before, after):
        for then, now in itertools.zip_longest(*lines, fillvalue="nothing more"):
            if then != now:
                raise ValueError(
                    f"{folder} cannot be resumed with another network: expected {then}, got {now}; "
                    "build it as for the run, or start a new run"
                )


def _description(network: str, arrays: Mapping[str, Array]) -> tuple[list[str], list[str]]:
    """The network's layers, one per line, and its arrays."""
    layers = [line.strip(" ,") for line in network.splitlines() if line.strip(" ,") != ")"]
    return layers, [f"{name} {a.shape} of {a.dtype}" for name, a in sorted(arrays.items())]


def _check_data(checkpoint: Checkpoint, data: Dataset) -> None:
    """Raises ValueError if `data` differ from the checkpoint's."""
    sha256 = data_sha256(data)
    if sha256 != checkpoint.data_sha256:
        raise ValueError(
            f"{data.name} differs from the data that the run was trained on: expected SHA-256 "
            f"{checkpoint.data_sha256}, got {sha256}"
        )


def _warn_of_versions(checkpoint: Checkpoint) -> None:
    for name, now in versions().items():
        if (then := checkpoint.versions.get(name)) != now:
            warnings.warn(
                f"the run began with {name} {then}, but this is {now}: the last digits may differ "
                "from those of an unbroken run",
                stacklevel=3,
            )
