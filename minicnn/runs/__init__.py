"""A run: training with its settings, weights, history and checkpoints in a folder, from which it
can be resumed. The loop itself is in training/, the command line in cli/."""

from minicnn.runs.checkpoint import (
    Checkpoint,
    DamagedCheckpoint,
    data_sha256,
    load_checkpoint,
    load_weights,
    read_metadata,
    save_checkpoint,
    save_weights,
    versions,
)
from minicnn.runs.resumable import resume_run, train_run
from minicnn.runs.run_folder import (
    add_checkpoint,
    check_unused,
    checkpoints,
    last_checkpoint,
    locked,
    new_run,
    open_run,
    save_config,
    save_epoch,
)
from minicnn.runs.settings import Origin, Settings
from minicnn.runs.stopping import Stopped

__all__ = [
    "Checkpoint",
    "DamagedCheckpoint",
    "Origin",
    "Settings",
    "Stopped",
    "add_checkpoint",
    "check_unused",
    "checkpoints",
    "data_sha256",
    "last_checkpoint",
    "load_checkpoint",
    "load_weights",
    "locked",
    "new_run",
    "open_run",
    "read_metadata",
    "resume_run",
    "save_checkpoint",
    "save_config",
    "save_epoch",
    "save_weights",
    "train_run",
    "versions",
]
