"""Modules that have moved can still be imported under their names in version 0.1."""

import importlib
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

MOVED = {
    "checklist": "gradcheck.checklist",
    "checkpoint": "runs.checkpoint",
    "contract": "gradcheck.protocol",
    "convolutions": "reference.convolutions",
    "cores": "training.cores",
    "diagnosis": "gradcheck.diagnosis",
    "doctor": "cli.doctor",
    "forking": "training.forking",
    "locking": "files",
    "museum": "gradcheck.museum",
    "parallel": "training.parallel",
    "report": "gradcheck.report",
    "sequential": "layers.sequential",
    "session": "runs.resumable",
    "stopping": "runs.stopping",
    "summary": "cli.summary",
    "tables": "text",
    "verdict": "runs.baseline",
    "workers": "training.workers",
}


class _Finder:  # and loader, without the base classes in importlib.abc, which is slow to import
    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, module = name.partition(".")
        moved = package == "minicnn" and module in MOVED
        return importlib.machinery.ModuleSpec(name, _FINDER) if moved else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """None, for the usual empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Replaces this empty module by the one that has moved."""
        old = module.__name__
        place = MOVED[old.removeprefix("minicnn.")]
        sys.modules[old] = importlib.import_module(f"minicnn.{place}")


_FINDER: Any = _Finder()
sys.meta_path.append(_FINDER)
