"""Running an example as from a shell, without a display."""

import importlib
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run_example(tmp_path, capsys, monkeypatch):
    """A function (name, *arguments) -> what the example printed; its pictures are in tmp_path."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("MPLBACKEND", "module://no_display")

    def run(name, *arguments):
        module = importlib.import_module(name)
        module.main(["--out", str(tmp_path), *map(str, arguments)])
        return capsys.readouterr().out

    yield run
    for name in [name for name, module in sys.modules.items() if _is_example(module)]:
        del sys.modules[name]


def _is_example(module):
    return Path(getattr(module, "__file__", None) or "/").parent == EXAMPLES
