"""minicnn trace: what one training step does to a new network, or after a run's checkpoint."""

import argparse
import dataclasses
import json

from minicnn.backend import choose_device
from minicnn.cli.data import data_of, load
from minicnn.cli.training import asked_for, given, new_network
from minicnn.explain.page import explain
from minicnn.explain.trace import trace
from minicnn.files import as_path
from minicnn.runs.checkpoint import Checkpoint, load_checkpoint
from minicnn.runs.networks import rebuild
from minicnn.runs.run_folder import checkpoints
from minicnn.runs.settings import Settings
from minicnn.training.loop import check_fit

NEW = ("recipe", "model", "seed", "optimizer")  # options for a new network


def trace_step(args: argparse.Namespace) -> None:
    """Print what one step of training does to each layer and to the loss."""
    device, checkpoint = choose_device(args.device), None
    if args.folder is None:
        train_set, _ = load(args.data, args)
        name, settings = asked_for(args, train_set)
        net = new_network(name, settings.seed, train_set)
    else:
        checkpoint = _last_checkpoint(args)
        name = checkpoint.origin.model
        settings = dataclasses.replace(checkpoint.settings, **given(args, Settings))
        train_set, _ = load(data_of(checkpoint.origin, args), args)
        net = rebuild(checkpoint.origin, checkpoint.arrays)
    net, optimizer = net.to(device), settings.new_optimizer()
    if checkpoint is not None:
        checkpoint.restore(net, optimizer)
    check_fit(net, train_set)
    x, labels = train_set[: settings.batch_size].to(device).batch(slice(None), net.dtype)
    traced = trace(net, x, labels, optimizer, loss=settings.loss())
    done = "no step" if checkpoint is None else checkpoint.position.place
    if args.json:
        step = {"model": name, "data": train_set.name, "done": done, "images": len(labels)}
        step |= {"optimizer": settings.optimizer, "lr": settings.lr, "seed": settings.seed}
        print(json.dumps(step | traced.to_json(), indent=2, allow_nan=False))
        return
    title = (
        f"{name}, after {done}, on the first {len(labels):,} images of {train_set.name}, with "
        f"{settings.optimizer} and lr {settings.lr:g}, seed {settings.seed}"
    )
    if args.page is not None:
        first = f"{title}; below, the first of these images by itself"
        explain(net, x[:1], labels=labels[:1], title=first, trace=traced).save(args.page)
    print(f"{title}\n\n{traced}")
    if args.page is not None:
        print(f"\n{args.page} has the same, with a page for each layer: open it in a browser")


def _last_checkpoint(args: argparse.Namespace) -> Checkpoint:
    """The run's last checkpoint. Unlike resuming, this needs no lock: a run may be traced while it
    trains."""
    for option in NEW:
        if getattr(args, option) is not None:
            raise ValueError(f"a run has its own {option}: leave out --{option}, or the run")
    folder = as_path(args.folder)
    paths = checkpoints(folder)
    if not paths:
        raise ValueError(f"{folder} has no checkpoint of a run: train one first")
    return load_checkpoint(paths[-1])
