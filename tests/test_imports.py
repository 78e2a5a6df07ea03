"""`import minicnn` is light, and the dependencies of its modules point one way."""

import ast
import functools
import graphlib
import json
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "minicnn"
SLOW = {"argparse", "importlib.metadata", "importlib.resources", "tkinter", "unittest"}

# from the bottom to the top; a module imports from its own room and from the levels below
LEVELS = [
    {"_moved", "_version", "cuda", "files", "notebook", "text"},
    {"backend"},
    {"arguments"},
    {"checks"},
    {"windows", "initializers", "losses", "optimizers"},
    {"layers", "adam"},
    {"models", "datasets", "reference"},
    {"zoo"},
    {"gradcheck", "training"},
    {"plotting", "explain"},
    {"runs"},
    {"use"},
    {"cli"},
    {"__init__", "__main__"},
]


@functools.cache
def loaded_by(statement):
    """The modules that a new process loads for `statement`."""
    program = "import json, sys; before = set(sys.modules); "
    program += f"{statement}; print(json.dumps(sorted(set(sys.modules) - before)))"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return set(json.loads(process.stdout))


def test_import_minicnn_loads_numpy_and_what_limits_its_threads():
    loaded = loaded_by("import minicnn")
    others = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names - {"minicnn"}
    # extension modules make modules of their own that no file holds, such as cython_runtime
    assert {name for name in others if PathFinder.find_spec(name)} == {"numpy", "threadpoolctl"}
    assert not loaded & SLOW - loaded_by("import numpy")


def test_the_command_line_does_not_load_what_draws_or_downloads():
    installed = {name.partition(".")[0] for name in loaded_by("import minicnn.cli")}
    assert not installed & {"matplotlib", "pooch", "requests"}


@functools.cache
def imports():
    """{module: modules of minicnn that it imports anywhere}, by dotted names."""
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("minicnn", *path.relative_to(PACKAGE).with_suffix("").parts)
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: set(imported_by(path, modules)) for name, path in modules.items()}


def imported_by(path, modules):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == "minicnn")


def room(module):
    return (module.split(".") + ["__init__"])[1]


def test_every_room_has_its_level():
    assert {name for level in LEVELS for name in level} == {room(name) for name in imports()}


@pytest.mark.parametrize("module", sorted(imports()))
def test_dependencies_point_down(module):
    level = {name: height for height, names in enumerate(LEVELS) for name in names}
    for imported in imports()[module]:
        assert imported != "minicnn", f"{module} imports the top of the package"
        own = room(imported) == room(module)
        assert own or level[room(imported)] < level[room(module)], f"{module} imports {imported}"


def test_there_is_no_circle():
    graphlib.TopologicalSorter(imports()).prepare()  # raises CycleError
