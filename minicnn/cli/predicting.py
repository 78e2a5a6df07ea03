"""`minicnn predict`, `export` and `evaluate --report`: what a trained network is used for."""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import safetensors.numpy

from minicnn.cli.output import complain
from minicnn.datasets import Dataset
from minicnn.files import as_path, write_atomically
from minicnn.layers import Layer
from minicnn.runs.run_folder import open_run
from minicnn.use.assessment import assess
from minicnn.use.onnx_export import to_onnx
from minicnn.use.predictor import Prediction, Predictor, picture_files, probabilities
from minicnn.use.report import page
from minicnn.use.torch_export import to_torch

Result = tuple[str, Prediction | Exception]


def predict(args: argparse.Namespace) -> int:
    """Print the classes that a run predicts for pictures, with probabilities."""
    predictor = Predictor(*open_run(args.folder, args.model), args.invert)
    write = _json if args.json else _csv if args.csv else _text
    failures = 0

    def told() -> Iterator[Result]:
        nonlocal failures
        for name, result in _results(predictor, args.images, args.top):
            if isinstance(result, Exception):
                failures += 1
                complain(result)
            yield name, result

    write(told(), predictor.classes, args.top)
    return 2 if failures else 0


def _results(predictor: Predictor, paths: list[str], top: int | None) -> Iterator[Result]:
    """In the order of the paths, also of those that name nothing."""
    from tqdm import tqdm  # here: most other commands do not need it

    groups: list[tuple[str, list[Path] | Exception]] = []
    for path in paths:
        try:
            groups.append((path, list(picture_files(path))))
        except (ValueError, OSError) as error:
            groups.append((path, error))
    files = [file for _, group in groups if isinstance(group, list) for file in group]
    results = predictor.each(files, top)
    # where the lines themselves appear on the terminal, a bar would break into them
    quiet = len(files) == 1 or _is_terminal(sys.stdout) or not _is_terminal(sys.stderr)
    with tqdm(total=len(files), desc="pictures", disable=quiet, leave=False) as bar:
        for path, group in groups:
            if isinstance(group, Exception):
                yield path, group
                continue
            given = as_path(path)
            for _ in group:
                file, result = next(results)
                bar.update()
                if isinstance(result, Exception):
                    bar.clear()
                yield (path if file == given else str(file)), result


def _is_terminal(stream: TextIO) -> bool:
    return getattr(stream, "isatty", lambda: False)()


def _text(results: Iterator[Result], classes: tuple[str, ...], top: int | None) -> None:
    for name, result in results:
        if isinstance(result, Prediction):
            print(f"{name}: {result.label}")
            for label, probability in result.ranked:
                print(f"    {probability:7.2%}  {label}")


def _json(results: Iterator[Result], classes: tuple[str, ...], top: int | None) -> None:
    """A list with an object in each line."""
    before = "["
    for name, result in results:
        row: dict = {"file": name}
        if isinstance(result, Prediction):
            row |= {"label": result.label, "probability": result.probability}
            row["ranked"] = [{"label": label, "probability": p} for label, p in result.ranked]
        else:
            row["error"] = str(result)
        print(f"{before}\n{json.dumps(row)}", end="")
        before = ","
    print("\n]" if before == "," else "[]")


def _csv(results: Iterator[Result], classes: tuple[str, ...], top: int | None) -> None:
    """With a column for each class, or with `top` for each rank."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    ranks = range(1, min(top or 0, len(classes)) + 1)
    more = [f"{name}_{rank}" for rank in ranks[1:] for name in ("label", "probability")]
    table.writerow(["file", "label", "probability", *(more if top else classes)])
    for name, result in results:
        if isinstance(result, Prediction):
            ranked = [value for pair in result.ranked[1:] for value in pair]
            rest = ranked if top else result.probabilities.tolist()
            table.writerow([name, result.label, result.probability, *rest])


def export(args: argparse.Namespace) -> None:
    """Write a trained network as a file for other programs: ONNX, or PyTorch."""
    EXPORTS[args.to](args)


def _onnx(args: argparse.Namespace) -> None:
    model = to_onnx(*open_run(args.folder, args.model))
    path = as_path(args.out or _beside(args.folder, "model.onnx"))
    write_atomically(path, model.SerializeToString())
    (image,) = model.graph.input
    shape = " x ".join(str(d.dim_param or d.dim_value) for d in image.type.tensor_type.shape.dim)
    print(
        f"{path}: input {image.name}, float32 {shape}, bytes divided by 255; outputs logits and "
        "probabilities; the metadata have the classes and how a picture is prepared"
    )


def _torch(args: argparse.Namespace) -> None:
    path = as_path(args.out or _beside(args.folder, "torch.safetensors"))
    lines, arrays = to_torch(*open_run(args.folder, args.model), str(path))
    write_atomically(path, safetensors.numpy.save(arrays))
    print(lines, end="")


def report(args: argparse.Namespace, net: Layer, test_set: Dataset) -> None:
    """Write the page on what a network gets right and wrong, or print its numbers as JSON."""
    found = assess(probabilities(net, test_set.images), test_set.labels, test_set.classes)
    path = as_path(args.report or _beside(args.folder, "report.html"))
    if args.report is not None:
        write_atomically(path, page(found, test_set, f"Report on {args.folder}").encode())
    if args.json:
        print(json.dumps(found.to_dict()))
        return
    print(
        f"{test_set.name}: test loss {found.loss:.3f}, test acc {found.accuracy:.4f} "
        f"({len(test_set):,} images)\n{path} has the classes, the worst mistakes and calibration"
    )


EXPORTS: dict[str, Callable[[argparse.Namespace], None]] = {"onnx": _onnx, "torch": _torch}


def _beside(run: str, name: str) -> Path:
    """A file of this name in the folder of a run."""
    folder = as_path(run)
    return (folder if folder.is_dir() else folder.parent) / name
