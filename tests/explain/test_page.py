"""The page, in a real browser: each cell is the sum of the products that it shows, wrong cells are
marked, and one can walk from the loss to a pixel by mouse, keyboard and finger."""

import re

import numpy as np
import pytest

from minicnn import (
    GELU,
    SGD,
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
    lenet,
    squared_error,
)
from minicnn.explain import Explanation, explain, trace
from minicnn.gradcheck.museum import FAULTS

EACH_CELL = """() => STEPS.map((step) => [step.layer, Object.values(step.arrays).map((array) => {
    const cell = (flat) => explainCell(step, array.name, array.index(flat));
    const cells = [...array.data.keys()].map(cell);
    const wrong = [...cells.keys()].filter((flat) => cells[flat] && !cells[flat].right);
    return [array.name, cells.filter((cell) => cell).length, wrong];
})])"""


def geometry(rng):
    """Random arguments of a sliding window."""
    return {
        "kernel_size": (int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        "stride": (int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        "dilation": (int(rng.integers(1, 3)), int(rng.integers(1, 3))),
    }


def random_layers(seed):
    """Layers of all kinds that slide, each with the shape of its x."""
    rng = np.random.default_rng(seed)
    window, sides = geometry(rng), tuple(int(side) for side in rng.integers(0, 3, 4))
    groups, shape = int(rng.integers(1, 3)), (2, 4, 7, 8)
    yield Conv2D(4, 6, **window, padding=sides, groups=groups, rng=rng), shape
    more = tuple(int(rng.integers(0, stride)) for stride in window["stride"])
    yield (
        ConvTranspose2D(4, 2, **window, output_padding=more, groups=groups, rng=rng),
        (2, 4, 3, 4),
    )
    span = [d * (k - 1) + 1 for d, k in zip(window["dilation"], window["kernel_size"])]
    small = tuple(int(rng.integers(0, min(span))) for _ in range(4))
    ceil_mode, include = bool(rng.integers(2)), bool(rng.integers(2))
    yield MaxPool2D(**window, padding=small, ceil_mode=ceil_mode), shape
    yield (
        AvgPool2D(**window, padding=small, ceil_mode=ceil_mode, count_include_pad=include),
        shape,
    )


def others():
    rng = np.random.default_rng(0)
    body = Sequential(Conv2D(2, 2, 3, padding=1, rng=rng), Tanh())
    images, rows = (2, 2, 3, 4), (3, 5)
    return [
        (Linear(5, 4, rng=rng), rows),
        (Linear(5, 1, bias=False, rng=rng), rows),
        (Sigmoid(), rows),
        (Tanh(), images),
        (ReLU(), images),
        (LeakyReLU(0.2), images),
        (GELU(), images),
        (Flatten(), images),
        (GlobalAvgPool2D(), images),
        (Dropout(0.4, rng=rng), images),
        (BatchNorm2D(2), images),
        (Residual(body), images),
        (Residual(body, Conv2D(2, 2, 1, rng=rng)), images),
    ]


def one_page(cases, dtype):
    """All steps of many layers, as one page. Half of the numbers are whole, so that there are ties;
    the upstream gradient is random."""
    rng, steps = np.random.default_rng(3), []
    for i, (layer, shape) in enumerate(cases):
        x = rng.standard_normal(shape).astype(dtype)
        x = np.round(x) if i % 2 and not isinstance(layer, (ReLU, LeakyReLU)) else x
        dy = rng.standard_normal(layer.output_shape(shape)).astype(dtype)
        steps += explain(layer, x, dy).steps
    return Explanation("many", steps)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_cell_is_the_sum_of_its_products(dtype, show):
    cases = [case for seed in range(25) for case in random_layers(seed)] + others()
    explained = 0
    for layer, arrays in show(one_page(cases, dtype)).evaluate(EACH_CELL):
        counts = {name: count for name, count, _ in arrays}
        explained += sum(counts.values())
        assert counts["dx"] > 0, layer
        assert not [(layer, name, wrong) for name, _, wrong in arrays if wrong]
    assert explained > 20_000


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross-entropy", "squared error"])
def test_each_cell_of_a_network_with_its_loss(loss, show):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 1, 28, 28)).astype(np.float32)
    if loss == "cross-entropy":
        explanation = explain(lenet(rng), x, labels=np.array([3]))
    else:
        target = rng.standard_normal((1, 10)).astype(np.float32)
        explanation = explain(lenet(rng), x, labels=target, loss=squared_error)
    found = show(explanation).evaluate(EACH_CELL)
    assert [wrong for _, arrays in found for _, _, wrong in arrays if wrong] == []
    counts = {name: count for name, count, _ in found[-1][1]}
    assert counts["loss"] == 1 and counts["dx"] == 10


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_small_error_in_one_cell_is_seen(dtype, show):
    """Of one part in 10,000 of what is summed, in one entry of each array that was computed."""
    (step,) = explain(Conv2D(2, 3, 3, padding=1), np.ones((1, 2, 5, 5), dtype)).steps
    for name in ("y", "dx", "dweight", "dbias"):
        step.arrays[name] = step.arrays[name].copy()
        step.arrays[name].flat[-1] += 1e-4 * np.abs(step.arrays[name]).max()
    ((_, arrays),) = show(Explanation("wrong", [step])).evaluate(EACH_CELL)
    last = {name: step.arrays[name].size - 1 for name in ("y", "dx", "dweight", "dbias")}
    assert {name: wrong for name, _, wrong in arrays if wrong} == {n: [k] for n, k in last.items()}


def filled(value, layer, *shape):
    """The steps of a layer for an x of this shape that has one value, beside random numbers."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x.flat[:1] = value
    return explain(layer, x).steps


class Kinked(Layer):
    """A right layer without a formula, at its kink."""

    def forward(self, x):
        return np.maximum(x, 0), x > 0

    def backward(self, dy, saved, need_dx=True):
        return dy * saved, {}


class Recurrent(Layer):
    """With a parameter whose name, without its first letter, is that of x."""

    def __init__(self):
        super().__init__()
        self.params["wx"] = np.full(3, 2, np.float32)

    def forward(self, x):
        return x * self.params["wx"].astype(x.dtype), x

    def backward(self, dy, saved, need_dx=True):
        return dy * self.params["wx"].astype(dy.dtype), {"wx": (dy * saved).sum(axis=0)}


class Masked(Layer):
    """Logits of which one is minus infinity."""

    def forward(self, x):
        return np.where(np.arange(3) == 0, -np.inf, x).astype(x.dtype), None

    def backward(self, dy, saved, need_dx=True):
        return np.where(np.arange(3) == 0, 0, dy).astype(dy.dtype), {}


def test_no_right_cell_is_marked_at_the_edge_of_the_numbers(show):
    """Where functions are flat, sums overflow or are not finite, and slopes are hard to measure."""
    rng, infinite = np.random.default_rng(0), np.full((1, 3), np.inf, np.float32)
    line, normal = np.linspace(-9, 9, 60, dtype=np.float32)[None], rng.standard_normal
    images = normal((4, 2, 3, 3))
    broken = Conv2D(1, 1, 3, padding=1)
    broken.params["weight"].flat[0] = np.inf
    steps = [
        *explain(Tanh(), line).steps,
        *filled(np.nan, Tanh(), 1, 3),
        *explain(Sigmoid(), 100 * infinite, infinite).steps,
        *filled(np.nan, MaxPool2D(2), 1, 1, 4, 4),
        *explain(MaxPool2D(2, padding=2, dilation=4), np.ones((1, 1, 2, 2), np.float32)).steps,
        *filled(1, broken, 1, 1, 4, 4),
        *explain(Dropout(0.5), np.ones((1, 9)), np.full((1, 9), np.inf)).steps,
        *explain(Linear(3, 2, rng=rng), np.full((2, 3), 3e38, np.float32)).steps,
        *filled(np.nan, GELU(), 1, 9),
        *explain(GELU(), np.linspace(-0.76, -0.74, 50, dtype=np.float32)[None]).steps,
        *explain(BatchNorm2D(2), (images + 1000).astype(np.float32)).steps,
        *explain(BatchNorm2D(2), images + 1000).steps,
        *explain(BatchNorm2D(2), images / 10_000).steps,
        *explain(Kinked(), np.array([[0, 1, -1]], np.float32), np.ones((1, 3), np.float32)).steps,
        *explain(Recurrent(), np.ones((2, 3), np.float32)).steps,
        *explain(Masked(), np.ones((2, 3), np.float32), labels=np.array([1, 2])).steps,
    ]
    found = show(Explanation("edge", steps)).evaluate(EACH_CELL)
    marked = [(layer, name, wrong) for layer, arrays in found for name, _, wrong in arrays if wrong]
    assert marked == []


@pytest.mark.parametrize("value", [0, -np.inf, np.nan])
def test_what_should_be_infinite_and_is_not_is_marked(value, show):
    (step,) = explain(Linear(1, 1), np.full((1, 1), np.inf, np.float32)).steps
    step.arrays["y"] = np.full((1, 1), value * np.sign(step.arrays["weight"]), np.float32)
    ((_, arrays),) = show(Explanation("wrong", [step])).evaluate(EACH_CELL)
    assert {name: wrong for name, _, wrong in arrays}["y"] == [0]


def test_a_small_number_of_double_precision_has_to_be_right_too(show):
    (step,) = explain(Linear(3, 1, bias=False), np.full((1, 3), 1e-50)).steps
    step.arrays["y"] = 2 * step.arrays["y"]
    ((_, arrays),) = show(Explanation("wrong", [step])).evaluate(EACH_CELL)
    assert {name: wrong for name, _, wrong in arrays}["y"] == [0]


LAYERS = [fault for fault in FAULTS if isinstance(fault.wrong, type)]


def of(fault, kind):
    """The steps of a fault's layer, wrong or right, with one x, dy and parameters."""
    rng = np.random.default_rng(5)
    layer = getattr(fault, kind)(**fault.arguments).at((0,))
    for array in layer.params.values():
        array[...] = rng.uniform(0.5, 1.5, array.shape)
    x = fault.values(rng.standard_normal(fault.x_shape))
    dy = rng.standard_normal(layer.output_shape(x.shape))
    return explain(layer, x, dy).steps


@pytest.mark.slow
def test_wrong_cells_of_the_museum_are_marked_and_no_right_one(show):
    """What is wrong is known from the right layer, wherever its forward is the same."""
    wrong = [of(fault, "wrong")[-1] for fault in LAYERS]
    right = [of(fault, "right")[-1] for fault in LAYERS]
    pages = [show(Explanation("museum", wrong[i : i + 4])) for i in range(0, len(wrong), 4)]
    found = [step for page in pages for step in page.evaluate(EACH_CELL)]
    marked = 0
    for fault, step, expected, (_, arrays) in zip(LAYERS, wrong, right, found):
        in_a_pass = not {"updates", "inference"} & set(fault.beside)
        assert step.findings or any(cells for *_, cells in arrays) or not in_a_pass, fault
        if not np.allclose(step.arrays["y"], expected.arrays["y"], rtol=1e-12):
            continue
        for name, count, cells in arrays:
            if name in step.shapes:
                assert count == 0
            elif count:
                surely, at_all = (
                    np.flatnonzero(~np.isclose(step.arrays[name], expected.arrays[name], *share))
                    for share in ((1e-7, 1e-12), (1e-11, 1e-14))
                )
                assert set(surely) <= set(cells) <= set(at_all), (step.layer, name)
                marked += len(cells)
    assert marked > 500


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda terms: terms[0], "As if this product were missing: weight[0, 0]·x[0, 0]."),
        (lambda terms: -terms[1], "As if this product were added twice: weight[0, 1]·x[0, 1]."),
        (lambda terms: 2 * terms[2], "As if this product had the opposite sign: weight[0, 2]·"),
        (lambda terms: 2 * terms.sum(), "It has the opposite sign."),
        (lambda terms: terms.sum(), "It seems never to have been computed."),
        (lambda terms: -3 * terms.sum(), "It is 4 times the sum."),
    ],
)
def test_the_page_says_which_product_is_wrong(change, sentence, show):
    layer, x = Linear(3, 1, bias=False), np.array([[2, 3, 5]], np.float32)
    layer.params["weight"][...] = [[1, 7, -11]]
    (step,) = explain(layer, x).steps
    step.arrays["y"] = step.arrays["y"] - np.float32(change(np.array([2, 21, -55])))
    page = show(Explanation("wrong", [step]))
    page.evaluate("() => open(0, {array: 'y', index: [0, 0]})")
    assert sentence in page.locator("#announcement").inner_text()
    assert page.locator("figure", has_text="y(1, 1)").locator(".wrong").is_visible()
    assert page.get_by_text("1 of 1 cells of y are wrong.").is_visible()


def test_all_mistakes_that_may_have_been_made_are_named(show):
    """y is 2 too small: a product of 2 is missing, one of two, or one of -2 was added twice."""
    layer = Linear(4, 1, bias=False)
    layer.params["weight"][...] = [[2, 2, -2, 9]]
    (step,) = explain(layer, np.ones((1, 4), np.float32)).steps
    step.arrays["y"] = step.arrays["y"] - 2
    page = show(Explanation("wrong", [step]))
    page.evaluate("() => open(0, {array: 'y', index: [0, 0]})")
    said = page.locator("#announcement").inner_text()
    assert "missing: weight[0, 0]·x[0, 0] or weight[0, 1]·x[0, 1]." in said
    assert "added twice: weight[0, 2]·x[0, 2]." in said


def test_at_a_kink_the_page_says_so(show):
    page = show(explain(Kinked(), np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)))
    page.evaluate("() => open(0, {array: 'dx', index: [0, 0]})")
    assert "y has a kink here" in page.locator("#announcement").inner_text()


@pytest.mark.parametrize(
    "step, name, sentence",
    [
        (1, "x", "comes from step 0 Linear(3, 3), where it is y[0, 0]"),
        (1, "dy", "comes from step 2 Residual, where it is dx[0, 0]"),
        (2, "body", "comes from step 2.body Tanh(), where it is y[0, 0]"),
        (2, "dx by body", "comes from step 2.body Tanh(), where it is dx[0, 0]"),
        (0, "x", "is given"),
        (2, "dy", "is given"),
        (0, "weight", "A parameter"),
        (1, "y", "This array has no formula here"),
    ],
)
def test_where_a_number_that_is_no_sum_comes_from(step, name, sentence, show):
    net = Sequential(Linear(3, 3), GELU(), Residual(Tanh()))
    page = show(explain(net, np.ones((1, 3), np.float32)))
    order = [0, 1, 3]  # of the steps: the body comes before the block
    page.evaluate(f"() => open({order[step]}, {{array: '{name}', index: [0, 0]}})")
    assert sentence in page.locator("#announcement").inner_text()


def strided():
    """A convolution with stride 2 in which dx[0, 0, 1, 1] comes from one output by one tap."""
    layer = Conv2D(1, 1, 3, stride=2)
    layer.params["weight"][...] = np.arange(9).reshape(1, 1, 3, 3)
    dy = np.array([[[[1, 2], [3, 4]]]], np.float32)
    return explain(layer, np.ones((1, 1, 5, 5), np.float32), dy)


def test_a_step_that_was_opened_by_key_keeps_the_focus(show):
    page = show(network())
    page.locator("#steps button").nth(2).focus()
    page.keyboard.press("Enter")
    assert page.locator("#step-name").inner_text() == "2 Flatten()"
    assert page.evaluate("document.activeElement.textContent").startswith("2 Flatten()")


def test_an_empty_batch_is_no_error(show):
    page = show(explain(Linear(3, 2), np.ones((0, 3), np.float32)))
    canvas(page, "x").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#cell-name").inner_text() == ""


def canvas(page, name):
    return page.get_by_role("application", name=re.compile(rf"^{name} \("))


def test_pointing_at_a_cell_shows_its_products_and_why_taps_do_not_count(show):
    page = show(strided())
    canvas(page, "dx").hover(position={"x": 52 + 20, "y": 28 + 10})
    assert page.locator("#cell-name").inner_text() == "dx[0, 0, 1, 1] = 4"
    rows = page.locator("#terms tr").all_inner_texts()
    assert len(rows) == 9
    assert "p = (1 + 0 - 0*1)/2 = 0.5: between two outputs" in rows[0]
    assert rows[4].split() == ["o=0", "i=1", "j=1", "weight", "4", "×", "dy", "1", "4", "4"]
    assert page.locator("#sum").inner_text().split() == [
        *["sum", "4", "in", "the", "array", "4", "difference", "0"]
    ]
    equation = page.locator("#equations").inner_text()
    assert "dx = col2im(dwindows), without the border that is padding (4)" in equation
    assert "minicnn.layers.conv, line " in equation
    assert page.evaluate("[...views.weight.lit]") == [
        [k, "used" if k == 4 else "out"] for k in range(9)
    ]
    canvas(page, "dx").hover(position={"x": 20, "y": 10})  # it follows the pointer
    assert page.locator("#cell-name").inner_text() == "dx[0, 0, 0, 0] = 0"


def test_a_click_keeps_the_cell_and_escape_lets_it_go(show):
    page = show(strided())
    canvas(page, "y").click(position={"x": 10, "y": 10})
    assert page.locator("#cell-name").inner_text() == "y[0, 0, 0, 0] = 36"
    canvas(page, "x").hover(position={"x": 10, "y": 10})
    assert page.locator("#cell-name").inner_text() == "y[0, 0, 0, 0] = 36"
    page.keyboard.press("Escape")
    canvas(page, "x").hover(position={"x": 60, "y": 10})
    assert page.locator("#cell-name").inner_text() == "x[0, 0, 0, 1] = 1"


def network():
    rng = np.random.default_rng(0)
    net = Sequential(Conv2D(1, 2, 3, rng=rng), ReLU(), Flatten(), Linear(8, 3, rng=rng))
    return explain(net, rng.uniform(1, 2, (1, 1, 4, 4)).astype(np.float32), labels=np.array([1]))


def test_factors_lead_from_the_loss_to_a_pixel_and_back(show):
    page = show(network())
    page.evaluate("() => open(4, {array: 'loss', index: [0]})")
    seen = [page.locator("#cell-name").inner_text().split(" ")[0]]
    for _ in range(5):
        names = page.locator("#terms tr:not(.out) button").all_inner_texts()
        last = max(k for k, name in enumerate(names) if name.split()[0] not in ("weight", "bias"))
        page.locator("#terms tr:not(.out) button").nth(last).click()
        heading = page.locator("#cell-name").inner_text()
        seen.append(f"{page.evaluate('state.step')} {heading.split('[')[0]}")
    assert seen == ["loss[0]", "3 y", "2 y", "1 y", "0 y", "0 x"]
    assert "This number is given" in page.locator("#announcement").inner_text()
    for _ in range(5):
        page.locator("#back").click()
    assert page.locator("#cell-name").inner_text().startswith("loss[0]")
    assert page.locator("#back").is_disabled()


@pytest.mark.slow
def test_each_row_of_a_trace_opens_its_layer(show):
    net, x, labels = lenet(np.random.default_rng(0)), np.ones((2, 1, 28, 28), np.float32), [1, 2]
    traced = trace(net, x, np.array(labels), SGD(0.9))
    page = show(explain(net, x[:1], labels=np.array([1]), trace=traced))
    for sentence in traced.sentences:
        assert page.get_by_text(sentence).is_visible()
    page.locator("#trace").get_by_role("button", name="7", exact=True).click()
    assert page.locator("#step-name").inner_text() == "7 Linear(400, 120)"
    assert page.locator("#trace tr").count() == 13
    assert show(network()).locator("#trace").is_hidden()


def test_the_keyboard_reaches_every_cell(show):
    page = show(network())
    stops = []
    while "application" not in stops or stops[-1] == "application":
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.getAttribute('role')"))
    assert stops.count("application") == page.evaluate("Object.keys(views).length")
    canvas(page, "dx").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    assert page.locator("#cell-name").inner_text().startswith("dx[0, 0, 2, 1]")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#cell-name").inner_text().startswith("dx[0, 0, 2, 0]")


def test_a_large_array_is_a_picture_that_turns_into_numbers(show):
    page = show(explain(Flatten(), np.ones((1, 1, 28, 28), np.float32)))
    assert page.evaluate("views.x.numbers") is False
    before = canvas(page, "x").bounding_box()
    canvas(page, "x").focus()
    page.keyboard.press("z")
    assert page.evaluate("views.x.numbers") is True
    for _ in range(27):
        page.keyboard.press("ArrowDown")
    assert page.locator("#cell-name").inner_text() == "x[0, 0, 27, 0] = 1"
    assert page.evaluate("views.x.box.scrollTop") > before["height"]


def test_a_phone(show):
    page = show(network(), viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("application", name="dx (").tap(position={"x": 10, "y": 10})
    assert page.locator("#cell-name").inner_text().startswith("dx[0, 0, 0, 0]")
    panel, screen = page.locator("#cell").bounding_box(), 640
    assert 0 <= panel["y"] < screen - 100  # what was tapped at is explained in view


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_axe_finds_nothing(scheme, language, show):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = show(network(), color_scheme=scheme, locale=language)
    page.evaluate("() => open(0, {array: 'dx', index: [0, 0, 1, 1]})")
    found = axe.Axe().run(page).response
    assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found["violations"]] == []
    assert len(found["passes"]) > 10


def test_chinese(show):
    page = show(network())
    page.evaluate("() => open(0, {array: 'dx', index: [0, 0, 1, 1]})")
    page.get_by_role("button", name="中文").click()
    page.mouse.move(30, 300)  # over an array
    assert page.locator("#cell-name").inner_text().startswith("dx[0, 0, 1, 1]")  # it is kept
    assert "个乘积的和" in page.locator("#announcement").inner_text()
    assert page.locator("#head").inner_text().split() == ["位置", "因子", "乘积", "累计和"]
    assert page.locator("html").get_attribute("lang") == "zh"
    assert show(network(), locale="zh-CN").get_by_role("button", name="English").is_visible()


def test_names_cannot_break_out_of_the_page(show):
    class Scale(Tanh):
        def __repr__(self):
            return "</script><b>Scale</b><!--" + 50 * "long"

    narrow = {"viewport": {"width": 360, "height": 640}}
    page = show(
        explain(Scale(), np.ones((1, 2), np.float32), title="<i>&amp;</i>{{WORDS}}"), **narrow
    )
    assert page.locator("h1").inner_text() == "<i>&amp;</i>{{WORDS}}"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert "</script><b>Scale</b><!--" in page.locator("#steps").inner_text()


def test_in_a_notebook_the_page_is_in_a_frame(browser):
    page = browser.new_page()
    page.set_content(network()._repr_html_())
    frame = page.frame_locator("iframe")
    frame.get_by_role("application", name="dx (").click(position={"x": 10, "y": 10})
    assert frame.locator("#cell-name").inner_text().startswith("dx[0, 0, 0, 0]")
    page.close()
