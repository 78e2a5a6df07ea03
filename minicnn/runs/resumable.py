"""Training any network in the folder of a run: saved as it goes, stopped by a signal where it can
go on, and resumed with the network, settings and data that it began with, bit for bit."""

import copy
import dataclasses
import itertools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from minicnn.arguments import flag, integer, require
from minicnn.backend import Array
from minicnn.datasets import Dataset
from minicnn.files import as_path
from minicnn.layers.base import Layer
from minicnn.optimizers import SCHEDULES, Optimizer
from minicnn.runs import run_folder
from minicnn.runs.checkpoint import Checkpoint, data_sha256, describe, versions
from minicnn.runs.settings import Origin, Settings
from minicnn.runs.stopping import StopSignals
from minicnn.training.history import History, Position
from minicnn.training.loop import check_fit, fit


def train_run(
    net: Layer,
    train: Dataset,
    test: Dataset | None,
    folder: Path | str,
    settings: Settings | None = None,
    *,
    model: str | None = None,
    workers: int | None = None,
    save_every: int | None = None,
    keep: int = 2,
    progress: bool = True,
    on_start: Callable[[Position], None] | None = None,
    on_epoch: Callable[[History], None] | None = None,
) -> History:
    """Trains `net` in place on softmax cross-entropy, and keeps weights, history and
    checkpoints in `folder`, from which `resume_run` goes on.

    test: None for no test set, and no best weights
    folder: new or empty; run_folder.py tells what it holds
    settings: Settings() if None
    model: the network's name, as it stands beside the weights; with one of models.MODELS,
        `open_run` and the command line can build it again. The name of its class if None
    workers, progress: as in `fit`
    save_every: a checkpoint after so many steps, too, and not after each epoch only
    keep: how many checkpoints are kept
    on_start: called with the position before the first step, when the folder is locked
    on_epoch: called with the history after each epoch, when it is saved

    In the main thread, SIGINT and SIGTERM end the step, save it and raise Stopped; a second SIGINT
    raises KeyboardInterrupt at once. Raises ValueError, before any work, for what does not fit and
    for a folder in use; TrainingError as `fit` does; OSError where nothing can be written. After
    both, `resume_run` goes on from the last checkpoint.
    """
    settings = Settings() if settings is None else settings
    name = type(net).__name__ if model is None else model
    run = _Run(net, train, test, settings, workers, save_every, keep, progress, on_start, on_epoch)
    origin = Origin(name, train.name, train.classes)
    folder = run_folder.new_run(as_path(folder), origin)
    with run_folder.locked(folder):
        run_folder.check_unused(folder)  # another process may have been here before the lock
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
    on_start: Callable[[Position], None] | None = None,
    on_epoch: Callable[[History], None] | None = None,
) -> History:
    """Goes on with a run that was stopped or killed: weights and history are then those of a run
    in one piece. If the run is complete, nothing is trained.

    net: built as it was for `train_run`; its weights are replaced by those of the run
    settings: those of the run if None; with a constant schedule there may be more epochs
    checkpoint: where to go on, the last one in the folder if None

    The other arguments, and what is raised, are those of `train_run`. Raises ValueError, too, for
    another network, other settings and other data than the run's, and warns of other versions.
    """
    if checkpoint is None:
        checkpoint = run_folder.last_checkpoint(folder)
    require(isinstance(checkpoint, Checkpoint), "checkpoint must be a Checkpoint", checkpoint)
    settings = checkpoint.settings if settings is None else settings
    run = _Run(net, train, test, settings, workers, save_every, keep, progress, on_start, on_epoch)
    folder, origin = as_path(folder), checkpoint.origin
    check_same(folder, checkpoint.settings, settings)
    check_same(folder, origin, Origin(origin.model, train.name, train.classes))
    _check_network(folder, checkpoint, net)
    _check_data(checkpoint, train)
    position, optimizer = copy.deepcopy(checkpoint.position), settings.new_optimizer()
    history = position.history
    with run_folder.locked(folder):
        checkpoint.restore(net, optimizer)
        if history.train_loss and position.step == 0:  # it may have been killed before this
            run_folder.save_epoch(folder, net, history, origin)
        if len(history.train_loss) == settings.epochs:
            return history
        _warn_of_versions(checkpoint)
        if settings != checkpoint.settings:
            longer = dataclasses.replace(checkpoint, settings=settings)
            run_folder.add_checkpoint(folder, longer, keep)
            run_folder.save_config(folder, origin, settings)
        return run.train(folder, origin, checkpoint.data_sha256, optimizer, position)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What is trained, and how; checked before a folder is made or written to."""

    net: Layer
    data: Dataset
    test: Dataset | None
    settings: Settings
    workers: int | None
    save_every: int | None
    keep: int
    progress: bool
    on_start: Callable[[Position], None] | None
    on_epoch: Callable[[History], None] | None

    def __post_init__(self) -> None:
        sentence = "settings must be Settings, as Settings(lr=0.1)"
        require(isinstance(self.settings, Settings), sentence, self.settings)
        check_fit(self.net, self.data, self.settings.augment())
        if self.test is not None:
            check_fit(self.net, self.test)
        for name in ("workers", "save_every"):
            if getattr(self, name) is not None:
                integer(name, getattr(self, name), 1)
        integer("keep", self.keep, 1)
        flag("progress", self.progress)
        for name in ("on_start", "on_epoch"):
            function = getattr(self, name)
            require(function is None or callable(function), f"{name} must be a function", function)

    def train(
        self, folder: Path, origin: Origin, sha256: str, optimizer: Optimizer, start: Position
    ) -> History:
        """Trains from `start` to the end, and saves into the folder, which is locked."""
        settings, stop = self.settings, StopSignals()

        def save(position: Position) -> None:
            checkpoint = Checkpoint.of(self.net, optimizer, position, settings, origin, sha256)
            run_folder.add_checkpoint(folder, checkpoint, self.keep)

        def on_step(position: Position) -> None:
            if stop.number or (self.save_every and position.step % self.save_every == 0):
                save(position)
                stop.check(position)

        def on_epoch(history: History) -> None:
            position = Position(history)
            save(position)
            run_folder.save_epoch(folder, self.net, history, origin)
            if self.on_epoch:
                self.on_epoch(history)
            if len(history.train_loss) < settings.epochs:
                stop.check(position)

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
                seed=settings.seed,
                workers=self.workers,
                progress=self.progress,
                on_epoch=on_epoch,
                on_step=on_step,
                start=start,
            )


def check_same(folder: Path, old: Settings | Origin, new: Settings | Origin) -> None:
    """Raises ValueError if a run with `new` would not go on as it did with `old`."""
    then, now = dataclasses.asdict(old), dataclasses.asdict(new)
    if then.get("schedule") == "constant" and then["epochs"] < now["epochs"]:
        del then["epochs"]  # only a schedule depends on how many there will be
    differences = "; ".join(f"{n} is {then[n]}, not {now[n]}" for n in then if then[n] != now[n])
    if differences:
        raise ValueError(
            f"{folder} cannot go on with other settings: {differences}; leave them out, or start "
            "a new run"
        )


def _check_network(folder: Path, checkpoint: Checkpoint, net: Layer) -> None:
    """Raises ValueError unless `net` is built as the network of the checkpoint was."""
    before = _description(checkpoint.network, checkpoint.arrays)
    after = _description(describe(net), net.arrays)
    for lines in zip(before, after):
        for then, now in itertools.zip_longest(*lines, fillvalue="nothing more"):
            if then != now:
                raise ValueError(
                    f"{folder} cannot go on with another network: expected {then}, got {now}; "
                    "build it as for the run, or start a new run"
                )


def _description(network: str, arrays: Mapping[str, Array]) -> tuple[list[str], list[str]]:
    """Its layers, a line each, and its arrays."""
    layers = [line.strip(" ,") for line in network.splitlines() if line.strip(" ,") != ")"]
    return layers, [f"{name} {a.shape} of {a.dtype}" for name, a in sorted(arrays.items())]


def _check_data(checkpoint: Checkpoint, data: Dataset) -> None:
    """Raises ValueError for other data than the checkpoint's."""
    sha256 = data_sha256(data)
    if sha256 != checkpoint.data_sha256:
        raise ValueError(
            f"{data.name} is not what the run was trained on: its SHA-256 is {sha256}, expected "
            f"{checkpoint.data_sha256}"
        )


def _warn_of_versions(checkpoint: Checkpoint) -> None:
    for name, now in versions().items():
        if (then := checkpoint.versions.get(name)) != now:
            warnings.warn(
                f"the run began with {name} {then}, and this is {now}: the last digits may differ "
                "from those of a run in one piece",
                stacklevel=3,
            )
