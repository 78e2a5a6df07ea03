"""The pytest helper: each check of a layer is a test, and a wrong layer fails with the cause."""

import subprocess
import sys

import pytest

pytest_plugins = "pytester"

LAYERS = """
    import numpy as np
    from minicnn import Layer, Linear, Sequential, Tanh
    from minicnn.gradcheck.testing import parametrize_layers


    class Scale(Layer):
        def __init__(self, features):
            super().__init__()
            self.features = features
            self.params["factor"] = np.ones(features, np.float32)

        def forward(self, x):
            return x * self.params["factor"].astype(x.dtype), x

        def backward(self, dy, saved, need_dx=True):
            dx = dy * self.params["factor"].astype(dy.dtype) if need_dx else None
            return dx, {"factor": (dy * saved).sum(axis=0)}


    class Mean(Scale):
        def backward(self, dy, saved, need_dx=True):
            return super().backward(dy, saved)[0], {"factor": (dy * saved).mean(axis=0)}


    class Raises(Scale):
        def backward(self, dy, saved, need_dx=True):
            return dy @ saved, {}


    class Half(Scale):
        def __call__(self, x):
            return x / 2
"""
TEST = """

    @parametrize_layers({cases})
    def test_layers(check):
        check()
"""


@pytest.fixture
def run(pytester):
    """Runs tests of the cases, written as code: (outcomes, output)."""

    pytester.makeini("[pytest]")

    def run_cases(cases):
        pytester.makepyfile(LAYERS + TEST.format(cases=cases))
        result = pytester.runpytest("-v", "-rs", "-p", "no:cacheprovider")
        return result.parseoutcomes(), result.stdout.str()

    return run_cases


def test_a_right_layer_passes_test_by_test(run):
    outcomes, out = run("(Scale(4), (3, 4)), (Linear(4, 2), np.ones((2, 4)))")
    for check in (
        "dx",
        "dfactor",
        "dtype",
        "arguments_unchanged",
        "need_dx",
        "call",
        "two_threads",
    ):
        assert f"test_layers[Scale(features=4)-{check}] PASSED" in out
    assert "test_layers[Linear(4, 2)-dweight] PASSED" in out
    assert outcomes.keys() == {"passed"}


@pytest.mark.parametrize(
    "case, failing, skipped, messages",
    [
        ("Mean(4), (3, 4)", "dfactor", 1, ["Mean(features=4)", "Likely cause: divided by N"]),
        ("Raises(4), (3, 4)", "returns", 17, ["ValueError in backward", "return dy @ saved, {}"]),
        ("Half(4), (3, 4)", "call", 1, ["layer(x) is", "__call__ differs from forward"]),
        ("Scale(4), (3, 4), {'reference': np.tanh}", "reference", 1, ["forward is wrong"]),
        ("Scale(4), (3, 4), {'inference': np.tanh}", "call", 1, ["but inference gives"]),
        ("Sequential(Tanh(), Mean(4)), (3, 4)", "layers", 1, ["layer 1, Mean(features=4)"]),
    ],
)
def test_a_wrong_layer_fails_with_the_cause_and_what_it_may_spoil_is_skipped(
    run, case, failing, skipped, messages
):
    outcomes, out = run(f"({case})")
    failed = [line for line in out.splitlines() if " FAILED " in line]
    assert f"-{failing}] FAILED" in failed[-1] and outcomes["failed"] == len(failed)
    assert outcomes["skipped"] == skipped
    for message in [*messages, "not checked, since something else is wrong: "]:
        assert message in out


def test_a_layer_that_differs_in_inference_on_purpose_passes(run):
    outcomes, _ = run("(Half(4), (3, 4), {'inference': lambda x: x / 2})")
    assert outcomes.keys() == {"passed"}


def test_the_seed_and_other_settings_are_handed_on(run):
    _, out = run("(Mean(4), (3, 4), {'seed': 7})")
    assert "(seed 7)" in out


def test_what_is_no_case_is_refused():
    from minicnn.gradcheck.testing import parametrize_layers

    for case in (None, ("Tanh", (2, 3)), ()):
        with pytest.raises(ValueError, match=r"expected cases \(layer, x\)"):
            parametrize_layers(case)


def test_pytest_is_imported_by_the_helper_only():
    code = "import sys, minicnn.gradcheck.checklist; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
