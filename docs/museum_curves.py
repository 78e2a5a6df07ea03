"""What each fault of the museum does to a training: `python docs/museum_curves.py`, 5 minutes.

Trains a network with each fault in it, and the right one beside it, on the built-in digits: one of
the older layers or a second one of the newer. Leaves all numbers in figures/museum.json, and draws
figures/museum.svg and the tables of museum.md from them. With --missing it trains only what is not
in the file yet, and adds that under a date of its own; with --draw it only draws.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import platform
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import minicnn
from minicnn import (
    GELU,
    SGD,
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
    digits,
    softmax_cross_entropy,
    squared_error,
)
from minicnn.datasets import batches
from minicnn.gradcheck.museum import FAULTS
from minicnn.training.cores import cores

DOCS = Path(__file__).parent
RESULTS, FIGURE = DOCS / "figures" / "museum.json", DOCS / "figures" / "museum.svg"
PAGE, START, END = DOCS / "museum.md", "<!-- results -->", "<!-- end of results -->"

SEEDS, EPOCHS, BATCH, MOMENTUM, TRAIN, TEST = 3, 8, 16, 0.9, 2000, 1000
LR = {softmax_cross_entropy: 0.05, squared_error: 0.2}
NEWER = {LeakyReLU, GELU, ConvTranspose2D, BatchNorm2D, Dropout, Residual}
RIGHT = {
    "softmax_cross_entropy": "the first, `softmax_cross_entropy`",
    "squared_error": "the first, `squared_error`",
    "second network": "the second, `softmax_cross_entropy`",
}
"""The networks without a fault, and what the page calls them."""
BLANK = 64  # pixels below this, of 255, are set to 0, so that blank parts are ties
GROUPS = {
    "No difference": (
        "#3182bd",
        "the losses are those of the right network, up to rounding, and inference differs little",
    ),
    "Within 2 points": ("#31a354", "ends at most 2 points below the right network, or above it"),
    "More than 2 points below": ("#d95f0e", "ends further below the right network"),
    "Does not train": ("#cb181d", "ends below 30 %, where guessing gives 10 %, or stops"),
}
BY_NAME = {fault.name: fault for fault in FAULTS}


def network(right, fault, seed):
    """Digits (N, 1, 28, 28) -> (N, 10): the right network of this name with `fault`, if it is one
    of a layer, in its place."""
    rng = np.random.default_rng(seed)

    def layer(kind, *arguments, **keywords):
        is_wrong = fault is not None and fault.right is kind
        return (fault.wrong if is_wrong else kind)(*arguments, **keywords)

    if right == "second network":
        return Sequential(
            Conv2D(1, 8, 5, stride=2, rng=rng),
            layer(BatchNorm2D, 8),
            layer(LeakyReLU, 0.1),
            AvgPool2D(2),
            layer(Residual, Sequential(Conv2D(8, 8, 3, padding=1, rng=rng), layer(GELU))),
            layer(ConvTranspose2D, 8, 8, 3, stride=2, padding=1, rng=rng),
            Tanh(),
            AvgPool2D(2),
            Flatten(),
            layer(Dropout, 0.25, rng=rng),
            Linear(200, 10, rng=rng),
        )
    return Sequential(
        Conv2D(1, 8, 5, rng=rng),
        layer(MaxPool2D, 3, stride=2, padding=1),
        layer(Tanh),
        layer(Conv2D, 8, 8, 3, stride=2, padding=1, rng=rng),
        layer(ReLU),
        layer(AvgPool2D, 2),
        layer(Flatten),
        layer(Linear, 72, 72, rng=rng),
        layer(Sigmoid),
        Linear(72, 10, rng=rng),
    )


@functools.cache
def data():
    """(train, test)."""
    return tuple(
        dataclasses.replace(part, images=np.where(part.images < BLANK, np.uint8(0), part.images))
        for part in digits(TRAIN, TEST)
    )


def train(right, fault, seed):
    """One training: the mean loss of each epoch, the accuracy on the test set before and after
    each, the loss at step 10, and where and why it stopped."""
    right_loss = squared_error if right == "squared_error" else softmax_cross_entropy
    net, optimizer = network(right, fault, seed), SGD(LR[right_loss], MOMENTUM)
    loss_function = fault.wrong if fault is not None and fault.right is right_loss else right_loss
    training, test = data()
    test_images, test_labels = test.batch(slice(None))
    run = {"loss": [], "accuracy": [], "loss_at_step_10": None, "stopped": None}
    losses = []

    def accuracy():
        return float(np.mean(net(test_images).argmax(axis=1) == test_labels))

    run["accuracy"].append(accuracy())
    for epoch in range(EPOCHS):
        for index in batches(TRAIN, BATCH, np.random.default_rng((seed, epoch))):
            images, target = training.batch(index)
            if right_loss is squared_error:
                target = np.eye(10, dtype=np.float32)[target]
            try:
                at_step = net.at((seed, len(losses)))
                scores, saved = at_step.forward(images)
                loss, dscores = loss_function(scores, target)
                _, grads = at_step.backward(dscores, saved, need_dx=False)
                updates = at_step.updates(saved)
                optimizer.step(net.params, grads)
                for name, array in updates.items():
                    net.state[name][...] = array
            except Exception as error:  # whatever a fault raises is its result
                reason = f"{type(error).__name__}: {error}"
                return run | {"stopped": {"step": len(losses) + 1, "reason": reason}}
            losses.append(float(loss))
            if not np.isfinite(loss):
                reason = f"the loss is {loss}"
                return run | {"stopped": {"step": len(losses), "reason": reason}}
        run["loss"].append(round(float(np.mean(losses[-TRAIN // BATCH :])), 5))
        run["accuracy"].append(accuracy())
    return run | {"loss_at_step_10": losses[9]}


def job(right, fault_name, seed):
    """A training in a process of its own, on one core."""
    with threadpool_limits(1), np.errstate(all="ignore"):
        return train(right, BY_NAME.get(fault_name), seed)


def right_of(fault):
    """The name of the network that has this fault, without it."""
    if fault.right in NEWER:
        return "second network"
    return "squared_error" if fault.right is squared_error else "softmax_cross_entropy"


def measure(known):
    """The trainings whose names are not in `known`, as they go into the file."""
    kinds = [(right, None) for right in RIGHT if right not in known]
    kinds += [(right_of(fault), fault.name) for fault in FAULTS if fault.name not in known]
    runs = {(kind, seed): None for kind in kinds for seed in range(SEEDS)}
    with ProcessPoolExecutor(cores()) as pool:
        futures = {pool.submit(job, *kind, seed): (kind, seed) for kind, seed in runs}
        for future in tqdm(as_completed(futures), total=len(futures), unit=" trainings"):
            runs[futures[future]] = future.result()
    return {
        "date": str(datetime.date.today()),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "minicnn": minicnn.__version__,
        },
        "settings": {
            "train": TRAIN,
            "test": TEST,
            "epochs": EPOCHS,
            "batch": BATCH,
            "momentum": MOMENTUM,
            "lr": {loss.__name__: lr for loss, lr in LR.items()},
        },
        "trainings": {
            fault or right: [runs[(right, fault), seed] for seed in range(SEEDS)]
            for right, fault in kinds
        },
    }


def all_trainings(sittings):
    """{name: its runs} of all sittings."""
    return {name: runs for sitting in sittings for name, runs in sitting["trainings"].items()}


def first_stop(runs):
    """Where and why the first of the trainings that did not come to its end stopped, or None."""
    return next((run["stopped"] for run in runs if run["stopped"]), None)


def final(runs, what):
    """The last number of each training, or None if not all came to their end."""
    return None if first_stop(runs) else [run[what][-1] for run in runs]


def grouped(trainings):
    """{group: its faults}, in each the best first."""
    groups = {group: [] for group in GROUPS}
    for fault in FAULTS:
        groups[group_of(trainings[fault.name], trainings[right_of(fault)])].append(fault)
    for faults in groups.values():
        faults.sort(key=lambda f: -np.mean(final(trainings[f.name], "accuracy") or 0))
    return groups


def group_of(runs, right):
    accuracy = final(runs, "accuracy")
    if accuracy is None or np.mean(accuracy) < 0.3:
        return "Does not train"
    if np.mean(final(right, "accuracy")) - np.mean(accuracy) > 0.02:
        return "More than 2 points below"
    same_losses = all(
        np.isclose(run["loss_at_step_10"], other["loss_at_step_10"], rtol=1e-5, atol=0)
        for run, other in zip(runs, right)
    )
    return "No difference" if same_losses else "Within 2 points"


def draw(trainings):
    """A panel for each fault: accuracy against epochs, the right network's in grey."""
    groups = grouped(trainings)
    rows = [-(-len(faults) // 4) for faults in groups.values()]
    figure = Figure(figsize=(9, 1.35 * sum(rows) + 0.4 * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, height_ratios=[count + 0.3 for count in rows])
    for part, count, (group, faults) in zip(parts, rows, groups.items()):
        colour, meaning = GROUPS[group]
        part.suptitle(f"{group}: {meaning}", color=colour, fontsize=11, x=0.01, ha="left")
        panels = part.subplots(count, 4, sharex=True, sharey=True, squeeze=False)
        for axes in panels.flat[len(faults) :]:
            axes.axis("off")
        for i, (fault, axes) in enumerate(zip(faults, panels.flat)):
            axes.set_title(fault.name, fontsize=8.5)
            for run in trainings[right_of(fault)]:
                axes.plot(run["accuracy"], color="#cccccc", linewidth=3)
            for run in trainings[fault.name]:
                axes.plot(run["accuracy"], color=colour, linewidth=1)
            if stopped := first_stop(trainings[fault.name]):
                text = f"stops at step {stopped['step']}"
                axes.text(EPOCHS / 2, 0.2, text, color=colour, fontsize=8.5, ha="center")
            axes.set(xlim=(0, EPOCHS), ylim=(0, 1), xticks=range(0, EPOCHS + 1, 2))
            axes.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
            axes.grid(alpha=0.3)
            is_lowest = i + 4 >= len(faults)
            axes.tick_params(labelsize=7.5, labelbottom=is_lowest)
            if is_lowest:
                axes.set_xlabel("epochs", fontsize=7.5)
    return figure


def markdown(sittings):
    """The numbers of the page, and a table for each group."""
    trainings, settings = all_trainings(sittings), sittings[0]["settings"]
    sat = [
        f"on {sitting['date']} ({sum(name in BY_NAME for name in sitting['trainings'])} faults, "
        f"NumPy {sitting['versions']['numpy']})"
        for sitting in sittings
    ]
    groups = grouped(trainings)
    same, near, below, not_at_all = map(len, groups.values())
    fell = sum(
        all(not run["stopped"] and run["loss"][-1] < run["loss"][0] for run in trainings[name])
        for name in BY_NAME
    )
    lines = [
        f"- **{same} of {len(FAULTS)}** make no difference to this training.",
        f"- Of the other {len(FAULTS) - same}, **{near}** end at most 2 points below the right "
        f"network's accuracy, or above it, and **{below + not_at_all}** show: **{below}** end "
        f"further below it, and **{not_at_all}** do not train, or stop.",
        f"- The loss of **{fell}** falls, from the first epoch to the last, with every seed.",
        "",
        "| the right network | loss | accuracy |",
        "|---|---|---|",
        *(f"| {RIGHT[right]} | {cells(trainings[right])}" for right in RIGHT),
        "",
        f"All figures are means of {SEEDS} seeds, with the lowest and the highest accuracy in "
        f"brackets. The loss is that of the last of {settings['epochs']} epochs, the accuracy that "
        f"on {settings['test']:,} test images. Trained {', '.join(sat[:-1])} and {sat[-1]}.",
    ]
    for group, faults in groups.items():
        lines += ["", f"### {group}", "", sentence(GROUPS[group][1]), ""]
        lines += [
            "| fault | seen in | the checker says | loss | accuracy |",
            "|---|---|---|---|---|",
        ]
        for fault in faults:
            story, cause = escaped(fault.story), escaped(fault.cause or "wrong, cause not known")
            row = f"`{fault.name}`: {story} | {linked(fault.seen)} | {cause}"
            lines.append(f"| {row} | {cells(trainings[fault.name])}")
    return "\n".join(lines)


def cells(runs):
    """Loss and accuracy, or where it stopped, as the last cells of a row."""
    if stopped := first_stop(runs):
        return f"stops at step {stopped['step']}: {stopped['reason']} | |"
    accuracies = 100 * np.array(final(runs, "accuracy"))
    spread = f"({accuracies.min():.1f}&nbsp;to&nbsp;{accuracies.max():.1f})"
    return f"{np.mean(final(runs, 'loss')):.3f} | {accuracies.mean():.1f}&nbsp;% {spread} |"


def escaped(text):
    """Text in which no star or underscore opens bold or italics."""
    return text.replace("*", r"\*").replace("__", r"\_\_")


def linked(seen):
    """Where a fault was seen, with a link for owner/repository#number."""
    link = r"[\2#\3](https://github.com/\1/\2/issues/\3)"
    return re.sub(r"([\w.-]+)/([\w.-]+)#(\d+)", link, seen)


def sentence(text):
    return f"{text[0].upper()}{text[1:]}."


def put_into(page, content):
    """The page with `content` between the two comments."""
    pattern = f"(?<={START}\n).*(?={END})"
    return re.sub(pattern, lambda _: f"\n{content}\n\n", page, flags=re.DOTALL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--missing", action="store_true", help="train what is not in museum.json")
    mode.add_argument("--draw", action="store_true", help="from the numbers in museum.json")
    args = parser.parse_args()
    sittings = json.loads(RESULTS.read_text()) if args.missing or args.draw else []
    if not args.draw:
        sittings.append(measure(all_trainings(sittings)))
        RESULTS.write_text(json.dumps(sittings, indent=1) + "\n")
    matplotlib.rcParams["svg.hashsalt"] = "the same file each time"
    figure = draw(all_trainings(sittings))
    figure.savefig(FIGURE, facecolor="white", metadata={"Date": None})
    PAGE.write_text(put_into(PAGE.read_text(), markdown(sittings)))


if __name__ == "__main__":
    main()
