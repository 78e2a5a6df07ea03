"""Winograd's form of a convolution against the definition, and where Conv2D takes it."""

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding

from minicnn import Conv2D, check_gradients, lenet
from minicnn.layers import winograd
from minicnn.reference.loops import conv2d, conv2d_backward

GEOMETRIES = [  # kernel, padding (top, bottom, left, right), image, images
    ((3, 3), (1, 1, 1, 1), (8, 8), 5),
    ((3, 3), (0, 0, 0, 0), (3, 3), 1),
    ((5, 5), (2, 2, 2, 2), (7, 6), 3),
    ((2, 4), (0, 1, 2, 3), (5, 9), 2),
    ((4, 3), (5, 0, 0, 7), (4, 2), 4),
    ((5, 2), (5, 5, 1, 1), (1, 1), 2),
    ((1, 4), (0, 0, 2, 1), (7, 5), 3),
]
LAYOUTS = {
    "batch last": lambda array: array,
    "batch first": np.ascontiguousarray,
    "upside down": lambda array: array[:, :, ::-1],
}


@pytest.fixture
def always(monkeypatch):
    """Every convolution that can be is in this form, in several blocks."""
    monkeypatch.setattr(winograd, "GAIN", 0)
    monkeypatch.setattr(winograd, "FEWEST", 0)
    monkeypatch.setattr(winograd, "IMAGES", 2)


@pytest.fixture
def taken(monkeypatch):
    """A list of the passes that were in this form."""
    passes = []

    def noting(name, function):
        def noted(*arguments):
            passes.append(name)
            return function(*arguments)

        monkeypatch.setattr(winograd, name, noted)

    for name in ("convolve", "convolve_backward"):
        noting(name, getattr(winograd, name))
    return passes


def problem(kernel, padding, image, n, channels=(3, 2), dtype=np.float64):
    """A layer, x and dy, the batch last in memory."""
    rng = np.random.default_rng(0)
    layer = Conv2D(*channels, kernel, padding=padding, rng=rng).astype(dtype)
    layer.params["bias"][...] = rng.standard_normal(channels[1])
    x = rng.standard_normal((channels[0], *image, n)).astype(dtype).transpose(3, 0, 1, 2)
    n, o, oh, ow = layer.output_shape(x.shape)
    return layer, x, rng.standard_normal((o, oh, ow, n)).astype(dtype).transpose(3, 0, 1, 2)


def results(layer, x, dy):
    y, saved = layer.forward(x)
    dx, grads = layer.backward(dy, saved)
    return {"y": y, "dx": dx} | grads


class Absolute(winograd.Tiles):
    """With the absolute values of all matrices: it computes the sizes of all sums."""

    def __init__(self, weight, *geometry):
        super().__init__(weight, *geometry)
        self.A, self.B, self.G = abs(self.A), abs(self.B), abs(self.G)
        o, c = weight.shape[:2]
        self.U = (self.G @ weight.reshape(o * c, -1).T).reshape(self.U.shape)


def assert_right(found, exact, layer, x, dy, monkeypatch):
    """Equal but for the rounding of the sums of this form."""
    with monkeypatch.context() as patch:
        patch.setattr(winograd, "Tiles", Absolute)
        positive = layer.astype(np.float64).map_arrays(np.abs)
        sizes = results(positive, *(abs(a).astype(np.float64) for a in (x, dy)))
    for name, result in found.items():
        assert_equal_but_for_rounding(result, exact[name], sizes[name], name)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_the_matrices_make_a_correlation(k):
    rng = np.random.default_rng(k)
    m = winograd.TILE + 1 - k
    d, w = rng.standard_normal(winograd.TILE), rng.standard_normal(k)
    A, G = winograd.powers(m).T, winograd.powers(k)
    B = np.linalg.inv(winograd.powers(winograd.TILE)).T
    size = abs(A) @ ((abs(G) @ abs(w)) * (abs(B) @ abs(d)))
    assert_equal_but_for_rounding(A @ ((G @ w) * (B @ d)), np.correlate(d, w, "valid"), size)


@pytest.mark.parametrize("arrange", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel, padding, image, n", GEOMETRIES)
def test_both_passes_against_the_definition(
    kernel, padding, image, n, dtype, arrange, always, taken, monkeypatch
):
    layer, x, dy = problem(kernel, padding, image, n, dtype=dtype)
    x, dy = arrange(x), arrange(dy)
    kept = x.copy(), dy.copy()
    found = results(layer, x, dy)
    assert taken == ["convolve", "convolve_backward"]
    weight, bias = layer.params["weight"], layer.params["bias"]
    dx, dweight, dbias = conv2d_backward(dy, x, weight, padding=padding)
    y = conv2d(x, weight, bias, padding=padding)
    exact = {"y": y, "dx": dx, "weight": dweight, "bias": dbias}
    assert_right(found, exact, layer, x, dy, monkeypatch)
    assert {result.dtype for result in found.values()} == {np.dtype(dtype)}
    for array, copy in zip((x, dy), kept):
        np.testing.assert_array_equal(array, copy)


def test_central_differences(always, taken):
    for kernel, padding, image, n in GEOMETRIES:
        layer, x, _ = problem(kernel, padding, image, n)
        report = check_gradients(layer, x)
        assert report.ok, (layer, report)
    assert taken.count("convolve_backward") >= len(GEOMETRIES)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel, image", [(3, (15, 12)), (5, (9, 10))])
def test_many_channels_against_pytorch(kernel, image, dtype, taken, monkeypatch):
    torch = pytest.importorskip("torch")
    layer, x, dy = problem(kernel, 1, image, 70, (48, 64), dtype)
    found = results(layer, x, dy)
    assert taken == ["convolve", "convolve_backward"]
    weight, bias = (torch.tensor(p, dtype=torch.float64) for p in layer.params.values())
    tensors = torch.tensor(x).double(), weight, bias
    for tensor in tensors:
        tensor.requires_grad = True
    y = torch.nn.functional.conv2d(*tensors, padding=1)
    y.backward(torch.tensor(dy).double())
    gradients = (tensor.grad.numpy() for tensor in tensors)
    exact = {"y": y.detach().numpy()} | dict(zip(("dx", "weight", "bias"), gradients))
    assert_right(found, exact, layer, x, dy, monkeypatch)


def test_without_dx_the_gradients_are_the_same(always):
    layer, x, dy = problem(*GEOMETRIES[0])
    _, saved = layer.forward(x)
    _, grads = layer.backward(dy, saved)
    dx, alone = layer.backward(dy, saved, need_dx=False)
    assert dx is None
    for name, grad in grads.items():
        np.testing.assert_array_equal(alone[name], grad)


def test_without_bias(always):
    layer, x, dy = problem(*GEOMETRIES[0])
    layer.params["bias"][...] = 0
    expected = results(layer, x, dy)
    del layer.params["bias"], expected["bias"]
    found = results(layer, x, dy)
    assert found.keys() == expected.keys()
    for name, result in found.items():
        np.testing.assert_array_equal(result, expected[name])


def test_where_it_is_taken(taken):
    def passes(layer, *shape):
        taken.clear()
        y, saved = layer.forward(np.ones(shape, np.float32))
        layer.backward(np.ones_like(y), saved)
        return len(taken)

    assert passes(Conv2D(32, 64, 3, padding=1), 16, 32, 16, 16) == 2
    assert passes(Conv2D(32, 64, 5, padding=2), 16, 32, 14, 14) == 2
    assert passes(Conv2D(32, 64, 3, padding=1), 3, 32, 16, 16) == 0  # few tiles
    assert passes(Conv2D(3, 64, 3, padding=1), 16, 3, 16, 16) == 0  # few channels
    assert passes(Conv2D(32, 64, 3, padding=1, stride=2), 64, 32, 32, 32) == 0
    assert passes(Conv2D(32, 64, 3, padding=2, dilation=2), 16, 32, 16, 16) == 0
    assert passes(Conv2D(64, 128, 3, padding=1, groups=2), 16, 64, 16, 16) == 0
    assert passes(Conv2D(32, 64, 1), 16, 32, 16, 16) == 0
    assert passes(Conv2D(32, 64, 7, padding=3), 16, 32, 16, 16) == 0
    assert passes(lenet(), 64, 1, 28, 28) == 0
    layer = Conv2D(512, 512, 3, padding=1)  # 4 tiles an image; 512*512 / (512 + 512) / 2 = 128
    for images, pays in ((31, False), (32, True)):
        x = np.ones((images, 512, 8, 8), np.float32)
        found = winograd.pays(layer.params["weight"], layer.window, 1, (8, 8), x)
        assert found == pays


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", ["x", "dy", "weight"])
def test_infinity_stays_where_the_definition_has_it(where, wrong, taken):
    layer, x, dy = problem((3, 3), (1, 1, 1, 1), (8, 8), 32, (32, 32), np.float32)
    arrays = {"x": x, "dy": dy, "weight": layer.params["weight"]}
    arrays[where][2, 1, 1, 2] = wrong
    with np.errstate(invalid="ignore"):
        found = results(layer, x, dy)
    if where == "dy":
        assert taken == ["convolve"]
        assert (~np.isfinite(found["dx"])).sum() == 9 * 32
    else:
        assert taken == []
        assert (~np.isfinite(found["y"])).sum() == {"x": 9 * 32, "weight": 32 * 64}[where]


def test_not_on_a_gpu(taken, monkeypatch):
    monkeypatch.setattr(winograd, "device_of", lambda _: "gpu")
    results(*problem((3, 3), (1, 1, 1, 1), (8, 8), 32, (32, 32)))
    assert taken == []
