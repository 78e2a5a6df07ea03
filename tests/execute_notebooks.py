"""Executes the notebooks, each in a kernel of its own, with settings that make them quick.

    python tests/execute_notebooks.py [en | zh] [the beginnings of names, such as 08]

prints what failed, and exits with status 1 then. It needs nbclient and ipykernel; 11 needs PyTorch.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
QUICK = {  # for the cell after the settings
    "06": "args.data = 'digits'",
    "07": "args.data = 'digits'",
    "08": "args.data, args.images, args.epochs = 'digits', 600, 1",
    "09": "args.data, args.images, args.epochs, args.rows = 'digits', 300, 1, [1, 14]",
    "10": "args.data, args.images = 'digits', 1000",
    "11": "args.data, args.steps = 'digits', 3",
}


def executed(path):
    """The notebook with its outputs. Raises CellExecutionError."""
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    if quick := QUICK.get(path.name[:2]):
        place = [cell.source.startswith("from types") for cell in notebook.cells].index(True)
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(quick))
    where = {"metadata": {"path": str(path.parent)}}
    return nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources=where
    ).execute()


def report(path):
    """Whether the notebook ran to its end."""
    began = time.perf_counter()
    try:
        executed(path)
    except Exception as error:  # whatever its cells raise
        print(f"{path.parent.name}/{path.name}: {error}", flush=True)
        return False
    seconds = time.perf_counter() - began
    print(f"{path.parent.name}/{path.name}: {seconds:.1f} seconds", flush=True)
    return True


def main(arguments):
    languages = [argument for argument in arguments if argument in ("en", "zh")] or ["en", "zh"]
    beginnings = tuple(argument for argument in arguments if argument not in languages) or ""
    paths = [p for language in languages for p in sorted((NOTEBOOKS / language).glob("*.ipynb"))]
    paths = [path for path in paths if path.name.startswith(beginnings)]
    with ThreadPoolExecutor(2) as pool:
        return all(list(pool.map(report, paths)))


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
