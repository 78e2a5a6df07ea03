"""Tests for layers of other projects: pytest runs each check of a layer as a test of its own.

    from minicnn.gradcheck.testing import parametrize_layers

    @parametrize_layers((Swish(4), (3, 4)), (Dropout(0.5), (3, 4), {"inference": lambda x: x}))
    def test_my_layers(check):
        check()

gives `test_my_layers[Swish(4)-dx]`, `[Swish(4)-need_dx]` and so on. Only this module needs pytest.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minicnn.arguments import Shape, require
from minicnn.backend import Array
from minicnn.gradcheck.check import check_gradients, planned_checks
from minicnn.gradcheck.report import Report
from minicnn.layers import Layer

Case = tuple[Layer, Array | Shape] | tuple[Layer, Array | Shape, dict[str, Any]]


def parametrize_layers(*cases: Case) -> pytest.MarkDecorator:
    """Parametrizes a test function with `check`, a function for it to call: one test for each check
    of each layer.

    A case is (layer, x) or (layer, x, settings): x is an input, or a shape, for an input drawn from
    a normal distribution; settings are keyword arguments of `check_gradients`. A failing test shows
    the whole report; a test is skipped if an earlier finding may be the cause.
    """
    params = []
    for case in cases:
        is_case = isinstance(case, tuple) and len(case) in (2, 3) and isinstance(case[0], Layer)
        require(is_case, "expected cases (layer, x) or (layer, x, settings)", case)
        layer, x, *settings = case
        report = functools.cache(functools.partial(_report, layer, x, *settings))
        title = " ".join(repr(layer).split())
        has_reference = bool(settings) and settings[0].get("reference") is not None
        for check in planned_checks(layer, has_reference):
            params.append(
                pytest.param(functools.partial(_check, check, report), id=f"{title}-{check}")
            )
    return pytest.mark.parametrize("check", params)


def _report(layer: Layer, x: Array | Shape, settings: dict[str, Any] | None = None) -> Report:
    if isinstance(x, tuple):
        x = np.random.default_rng(0).standard_normal(x)
    return check_gradients(layer, x, **(settings or {}))


def _check(check: str, report: Callable[[], Report]) -> None:
    """Fails if the check found something."""
    __tracebackhide__ = True  # pytest shows the test and the report, not these lines
    found = report()
    if any(finding.check == check for finding in found.findings):
        pytest.fail(f"{check}:\n{found}", pytrace=False)
    if check not in found.checked:
        pytest.skip(f"not checked, since something else is wrong: {found.findings[0].check}")
