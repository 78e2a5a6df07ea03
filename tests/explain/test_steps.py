"""What `explain` takes apart, refuses and says without a browser; `minicnn explain`."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn import (
    GELU,
    BatchNorm2D,
    Conv2D,
    Dropout,
    Flatten,
    Layer,
    Linear,
    ReLU,
    Residual,
    Sequential,
    Tanh,
    lenet,
    softmax_cross_entropy,
)
from minicnn.explain import explain
from minicnn.explain.steps import KINDS
from minicnn.gradcheck.museum import ConvKernelNotRotated, ReLUWritesIntoUpstream

PACKAGE = Path(minicnn.__file__).parent
RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def test_the_steps_are_those_of_the_network_and_its_loss():
    net, x, labels = lenet(np.random.default_rng(0)), floats(2, 1, 28, 28), np.array([1, 7])
    steps = explain(net, x, labels=labels).steps
    assert [step.name for step in steps] == [*map(str, range(12)), "loss"]
    y, saved = net.forward(x)
    loss, dy = softmax_cross_entropy(y, labels)
    dx, grads = net.backward(dy, saved)
    assert steps[-1].arrays["loss"] == np.float32(loss)
    np.testing.assert_array_equal(steps[0].arrays["dx"], dx)
    for name, grad in grads.items():
        number, parameter = name.split(".")
        np.testing.assert_array_equal(steps[int(number)].arrays[f"d{parameter}"], grad)
    for before, after in zip(steps[:-1], steps[1:]):
        assert before.arrays["y"] is after.arrays["x"]


def test_both_branches_of_a_residual_block_have_their_steps():
    block = Residual(Sequential(Linear(3, 4), Tanh()), Linear(3, 4))
    steps = explain(Sequential(Linear(3, 3), block), floats(2, 3)).steps
    assert [step.name for step in steps] == ["0", "1.body.0", "1.body.1", "1.shortcut", "1"]
    by_body, by_shortcut = (steps[-1].arrays[f"dx by {part}"] for part in ("body", "shortcut"))
    np.testing.assert_allclose(steps[-1].arrays["dx"], by_body + by_shortcut, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_names_equations_that_its_module_has(kind):
    """With the text of the equation, and a line that carries the number."""
    arguments = {"Conv2D": (2, 2, 3), "ConvTranspose2D": (2, 2, 3), "Linear": (4, 2)}
    pooling = {"MaxPool2D": (2,), "AvgPool2D": (2,), "Residual": (Tanh(),)}
    layer = kind(*(arguments | pooling).get(kind.__name__, ()))
    x = floats(1, 4) if kind is Linear else floats(1, 2, 4, 4)
    step = explain(layer, x).steps[-1]
    assert set(step.equations) >= {"y", "dx"}
    for equations in step.equations.values():
        for number, equation, line, place in equations:
            module, at = re.fullmatch(r"minicnn\.(layers\.\w+), line (\d+)", place).groups()
            source = (PACKAGE / f"{module.replace('.', '/')}.py").read_text().splitlines()
            assert line in source[int(at) - 1] and f"({number})" in source[int(at) - 1]
            assert equation and any(text.endswith(f"({number})") for text in source)


def test_the_arguments_are_left_as_they_were():
    layer, x, dy = ReLUWritesIntoUpstream(), floats(2, 3), floats(2, 3)
    before = x.copy(), dy.copy()
    explain(layer, x, dy)
    np.testing.assert_array_equal((x, dy), before)
    norm = BatchNorm2D(2)
    explain(norm, floats(2, 2, 3, 3))
    np.testing.assert_array_equal(norm.state["running_mean"], 0)


def test_a_parameter_with_the_name_of_another_array_is_refused():
    layer = Scale()
    layer.params["x"] = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"parameters of Scale\(.*\) must not be named x, y"):
        explain(layer, floats(2, 3))


def test_two_explanations_of_dropout_agree():
    layer, x = Dropout(0.5), floats(2, 8)
    first, second = (explain(layer, x).steps[0].arrays["y"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


class Scale(Layer):
    """A layer of a user, which the explainer has no formula for."""

    def __init__(self):
        super().__init__()
        self.params["factor"] = np.full(3, 2, np.float32)

    def forward(self, x):
        return x * self.params["factor"].astype(x.dtype), x

    def backward(self, dy, saved, need_dx=True):
        factor = self.params["factor"].astype(dy.dtype)
        return dy * factor, {"factor": (dy * saved).sum(axis=0)}


def test_a_layer_without_a_formula_is_measured():
    (step,) = explain(Scale(), floats(2, 3)).steps
    assert (step.kind, step.findings) == ("measured", [])
    slopes = step.arrays["slopes of x"]
    np.testing.assert_allclose(slopes, 2 * np.eye(6), atol=1e-7)
    x = step.arrays["x"]
    expected = np.concatenate([np.diag(row) for row in x], axis=1)
    np.testing.assert_allclose(step.arrays["slopes of factor"], expected, rtol=1e-6, atol=1e-7)


def test_a_network_with_a_forward_of_its_own_is_one_step():
    class Doubled(Sequential):
        def forward(self, x):
            y, saved = super().forward(x)
            return 2 * y, saved

    (step,) = explain(Doubled(Linear(3, 3)), floats(2, 3)).steps
    assert (step.layer, step.kind) == ("Doubled", "measured") and step.findings


def test_what_is_not_finite_is_shown_and_not_measured():
    (step,) = explain(GELU(), np.array([[np.nan, 1]], np.float32)).steps
    assert (step.findings, "slopes of x" in step.arrays) == ([], False)


def test_numbers_that_the_page_cannot_read_become_floats():
    class Whole(Scale):
        def backward(self, dy, saved, need_dx=True):
            dx, grads = super().backward(dy, saved, need_dx)
            return dx.astype(np.int64), grads

    explanation = explain(Whole(), floats(2, 3))
    assert explanation.steps[0].arrays["dx"].dtype == np.float32 and explanation.steps[0].findings


def test_a_large_layer_without_a_formula_is_shown_and_not_measured():
    (step,) = explain(Scale(), floats(200, 3)).steps
    assert step.kind == "measured" and "slopes of x" not in step.arrays


def test_a_wrong_layer_is_named():
    explanation = explain(ConvKernelNotRotated(1, 1, 3), floats(1, 1, 5, 5))
    assert "kernel rotated by 180 degrees" in str(explanation)
    assert not explain(Conv2D(1, 1, 3), floats(1, 1, 5, 5)).steps[0].findings


def test_as_text():
    lines = str(explain(Sequential(Flatten(), Linear(8, 2)), floats(1, 2, 2, 2))).splitlines()
    assert [line.split()[0] for line in lines] == ["Sequential", "step", "0", "1"]
    assert lines[2].split()[1:-1] == ["Flatten()", *"1 x 2 x 2 x 2".split(), *"1 x 8".split()]


def test_one_image_of_lenet_takes_less_than_a_megabyte():
    page = explain(lenet(), floats(1, 1, 28, 28), labels=np.array([0])).html
    assert len(page.encode()) < 1_000_000
    assert not re.search(r"https?://", page)


def test_a_page_of_more_than_5_megabytes_is_refused():
    explanation = explain(lenet(), floats(64, 1, 28, 28))
    with pytest.raises(
        ValueError, match=r"would take \d+\.\d MB, but the limit is 5 MB: [\d,]+ numbers take"
    ):
        explanation._repr_html_()


def test_the_words_are_the_same_in_both_languages():
    names = ("words.json", "page.js", "page.html", "formulas.js")
    files = {name: (PACKAGE / "explain" / name).read_text("utf-8") for name in names}
    words = json.loads(files["words.json"])
    assert words["en"].keys() == words["zh"].keys()
    for name, text in words["en"].items():
        assert sorted(re.findall(r"{\d}", text)) == sorted(re.findall(r"{\d}", words["zh"][name]))
    script = "".join(text for name, text in files.items() if name != "words.json")
    assert all(f'"{name}"' in script or f"word: {name}" in script for name in words["en"])


def test_a_loss_with_settings_is_refused():
    smoothed = functools.partial(softmax_cross_entropy, label_smoothing=0.1)
    with pytest.raises(ValueError, match="loss must be a function without settings"):
        explain(Tanh(), floats(2, 2), labels=np.arange(2), loss=smoothed)


class Nothing(Tanh):
    def backward(self, dy, saved, need_dx=True):
        return None, {}


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ((3, floats(1, 2)), "layer must be a layer"),
        ((Sequential(), floats(1, 2)), "layer must contain at least one layer"),
        ((Nothing(), floats(1, 2)), r"backward of Nothing\(\) must return \(dx, grads\)"),
        ((Tanh(), floats(2, 2), floats(2, 2) * 1j), "dy must hold real numbers"),
        ((Tanh(), floats(2, 2), [[1, 2], [3, 4]]), "expected a NumPy or CuPy array but got list"),
        ((Tanh(), floats(2, 2), None, floats(2, 2)), "integers for softmax_cross_entropy"),
        ((Tanh(), floats(2, 2), floats(2, 3)), r"dy must hold real numbers and have .* \(2, 2\)"),
        ((Tanh(), floats(2, 2), floats(2, 2), np.arange(2)), "give dy or labels, not both"),
        ((Tanh(), floats(2, 2), None, np.arange(3)), r"labels must be integers \(2,\), or floats"),
        ((Tanh(), floats(2, 2), None, floats(2, 3)), r"labels must be .* of the scores, \(2, 2\)"),
        ((Linear(3, 2), floats(2, 2)), r"\(N, 3\)"),
        ((ReLU(), np.arange(3)), "ReLU"),
        ((ReLU(), None), "expected a NumPy or CuPy array but got NoneType"),
    ],
)
def test_bad_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        explain(*arguments)


def test_the_command(run_command, tmp_path):
    path = tmp_path / "page.html"
    status, out, _ = run_command("explain", "--stride", 2, "--padding", 1, "--out", path)
    assert status == 0 and "Conv2D(2, 2, 3, stride=2, padding=1)" in out
    assert path.read_text().startswith("<!doctype html>")
    status, out, _ = run_command("explain", "--exhibit", "ConvCropped", "--out", path)
    assert status == 0 and "shifted by (1, 1) pixels" in out
    status, out, _ = run_command(
        "explain", "--model", "lenet", "--data", "digits", "--image", 3, "--out", path
    )
    assert status == 0 and out.startswith("lenet, not trained: image 3 of")


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--exhibit", "No"], "--exhibit must be one of MaxPool"),
        (["--exhibit", "ConvCropped", "--model", "lenet"], "only one of RUN"),
        (["--model", "lenet", "--kernel", 3], "--kernel is for the small convolution"),
        (["--model", "lenet", "--data", "digits", "--image", 99999], "--image must be below"),
        (["/no/run"], "/no/run"),
        (["--image", 3], "--image is for an image through a network: give RUN or --model"),
        (["--exhibit", "ConvCropped", "--data-folder", "x"], "--data-folder is for an image"),
    ],
)
def test_bad_arguments_of_the_command(arguments, sentence, run_command):
    status, _, err = run_command("explain", *arguments)
    assert status == 2 and sentence in err and len(err.splitlines()) == 1
