"""The worked examples of the pages, opened: what is explained is what the page shows."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def worked_examples(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(DOCS), *sys.path])
    return importlib.import_module("worked_examples")


@pytest.mark.parametrize(
    "page, kind",
    [
        ("linear", "linear"),
        ("convolution", "convolution"),
        ("flatten", "flatten"),
        ("batch-norm", "measured"),
    ],
)
def test_the_example_of_a_page_is_explained(page, kind, worked_examples):
    path = DOCS / "derivations" / f"{page}.md"
    explanation = worked_examples.explanation(path)
    (step,) = explanation.steps
    assert step.kind == kind and not step.findings
    assert np.abs(step.arrays["dx"]).sum() > 0
    assert path.read_text().startswith(f"# {explanation.title}\n")


def test_a_page_without_a_layer_has_none(worked_examples):
    assert worked_examples.explanation(DOCS / "derivations" / "sgd.md") is None
