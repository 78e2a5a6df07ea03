"""Losses: the definition by loops, PyTorch, central differences, extreme numbers, wrong labels."""

import sys
from functools import partial

import numpy as np
import pytest
import strict_cupy
from rounding import assert_equal_but_for_rounding, cross_entropy_sizes, softmax_size

from minicnn import fit, reference, softmax, softmax_cross_entropy, squared_error
from minicnn.backend import gpu_problem, to_device
from minicnn.gradcheck import LossLayer, check_gradients, numerical_gradient
from minicnn.training.parallel import batch_gradients


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 4), (1, 10), (3, 1)])
def test_softmax_cross_entropy_is_its_definition(shape, dtype):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(shape).astype(dtype)
    labels = rng.integers(0, shape[1], shape[0]).astype(np.uint8)
    before = logits.tobytes(), labels.tobytes()
    loss, dlogits = softmax_cross_entropy(logits, labels)
    assert (logits.tobytes(), labels.tobytes()) == before
    assert loss.dtype == dlogits.dtype == dtype
    expected_loss, expected_dlogits = reference.softmax_cross_entropy(logits, labels)
    loss_size, dlogits_size = cross_entropy_sizes(logits, labels)
    assert_equal_but_for_rounding(loss, expected_loss, loss_size)
    assert_equal_but_for_rounding(dlogits, expected_dlogits, dlogits_size)


def test_softmax_cross_entropy_has_the_derivative_of_its_loss():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((4, 5)), rng.integers(0, 5, 4)
    _, dlogits = softmax_cross_entropy(logits, labels)
    numerical = numerical_gradient(lambda z: softmax_cross_entropy(z, labels)[0], logits)
    np.testing.assert_allclose(dlogits, numerical, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "logits, label, loss, dlogits",
    [
        ([1000, 0], 0, 0, [0, 0]),
        ([1000, 0], 1, 1000, [1, -1]),
        ([-1e4, -1e4], 1, np.log(2), [0.5, -0.5]),
        ([-1e4, 1e4], 0, 2e4, [-1, 1]),
        ([0, -np.inf], 0, 0, [0, 0]),
    ],
)
def test_extreme_logits(logits, label, loss, dlogits, dtype):
    results = softmax_cross_entropy(np.array([logits], dtype), np.array([label]))
    assert_equal_but_for_rounding(results[0], loss, loss)  # log 2 alone is no exact float
    np.testing.assert_array_equal(results[1], [dlogits])


OPTIONS = [
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0},
    {"class_weights": np.array([0.5, 2, 0, 1])},
    {"label_smoothing": 0.25, "class_weights": np.array([3, 0.25, 1, 1])},
]
WAYS = pytest.mark.parametrize(
    "soft, options",
    [(False, options) for options in OPTIONS] + [(True, options) for options in ({}, *OPTIONS)],
    ids=str,
)


def draw(soft, dtype=np.float64):
    """Logits (5, 4), and labels or probabilities, of which one row is certain."""
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((5, 4)).astype(dtype), rng.integers(0, 4, 5)
    probabilities = softmax(3 * rng.standard_normal((5, 4))).astype(dtype)
    probabilities[2] = [0, 1, 0, 0]
    return logits, probabilities if soft else labels


def target_sizes(logits, labels, label_smoothing=0.0, class_weights=1.0):
    """As cross_entropy_sizes: no q is negative, so none of the sums cancels."""
    images, classes = logits.shape
    t = labels if labels.ndim == 2 else np.eye(classes)[labels]
    q = class_weights * ((1 - label_smoothing) * t + label_smoothing / classes)
    dlogits_size = (softmax_size(logits) * q.sum(axis=1, keepdims=True) + q) / images
    distance = logits.max(axis=1, keepdims=True) - logits
    return dlogits_size.sum() + (q * distance).sum() / images, dlogits_size


@WAYS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_smoothing_weights_and_soft_targets_are_their_definition(soft, options, dtype):
    logits, labels = draw(soft, dtype)
    before = logits.tobytes(), labels.tobytes()
    results = softmax_cross_entropy(logits, labels, **options)
    assert (logits.tobytes(), labels.tobytes()) == before
    assert [result.dtype for result in results] == [dtype, dtype]
    wanted = reference.softmax_cross_entropy(logits, labels, **options)
    for result, exact, size in zip(results, wanted, target_sizes(logits, labels, **options)):
        assert_equal_but_for_rounding(result, exact, size)


@WAYS
def test_pytorch_gives_the_same(soft, options):
    """But for class weights of labels, where it divides by the sum of those of the batch."""
    torch = pytest.importorskip("torch")
    logits, labels = draw(soft)
    logits_torch = torch.tensor(logits, requires_grad=True)
    weights = options.get("class_weights")
    loss = torch.nn.functional.cross_entropy(
        logits_torch,
        torch.tensor(labels),
        weight=None if weights is None else torch.tensor(weights),
        label_smoothing=options.get("label_smoothing", 0.0),
    )
    if weights is not None and not soft:
        loss = loss * (weights[labels].sum() / len(labels))
    loss.backward()
    results = softmax_cross_entropy(logits, labels, **options)
    wanted = loss.item(), logits_torch.grad.numpy()
    for result, exact, size in zip(results, wanted, target_sizes(logits, labels, **options)):
        assert_equal_but_for_rounding(result, exact, size)


@WAYS
def test_the_checker_finds_the_derivative_right(soft, options):
    logits, labels = draw(soft)
    report = check_gradients(LossLayer(partial(softmax_cross_entropy, **options), labels), logits)
    assert report.ok, report


def test_a_label_is_a_row_of_0_and_1():
    logits, labels = draw(False)
    options = {"label_smoothing": 0.25, "class_weights": np.array([3, 0.25, 1, 1])}
    results = softmax_cross_entropy(logits, labels, **options)
    as_rows = softmax_cross_entropy(logits, np.eye(4)[labels], **options)
    for result, same in zip(results, as_rows):
        np.testing.assert_array_equal(result, same)


def test_an_impossible_class_may_have_a_logit_of_minus_infinity():
    logits, targets = np.array([[0, 0, -np.inf]]), np.array([[0.25, 0.75, 0]])
    loss, dlogits = softmax_cross_entropy(logits, targets)
    assert_equal_but_for_rounding(loss, np.log(2), 1)
    np.testing.assert_array_equal(dlogits, [[0.25, -0.25, 0]])


def test_a_batch_in_chunks_has_the_loss_and_the_gradients_of_the_whole(new_net, small_digits):
    """100 images are two chunks, whose labels have other sums of weights."""
    net, data, index = new_net().astype(np.float64), small_digits[0], np.arange(100)
    loss = partial(softmax_cross_entropy, label_smoothing=0.1, class_weights=np.arange(10.0))
    x, labels = data.batch(index, np.float64)
    logits, saved = net.forward(x)
    whole, dlogits = loss(logits, labels)
    _, grads = net.backward(dlogits, saved)
    with batch_gradients(net, data, 100, workers=1, loss=loss) as gradients:
        found = gradients(index)
    np.testing.assert_allclose(found.loss, whole, rtol=1e-12)
    for name, grad in grads.items():
        np.testing.assert_allclose(found.grads[name], grad, rtol=0, atol=1e-12)


def test_training_takes_a_loss_with_options(new_net, small_digits):
    loss, options = partial(softmax_cross_entropy, label_smoothing=0.1), {"progress": False}
    weights = []
    for workers in 1, 2:
        net = new_net()
        history = fit(net, small_digits[0], epochs=2, loss=loss, workers=workers, **options)
        weights.append({name: array.tobytes() for name, array in net.params.items()})
    assert history.train_loss[1] < history.train_loss[0] and weights[0] == weights[1]


@pytest.fixture
def double(monkeypatch):
    """The strict double in place of CuPy."""
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.cupy)
    gpu_problem.cache_clear()
    yield
    gpu_problem.cache_clear()


@WAYS
def test_on_a_gpu_nothing_is_read_back(soft, options, double):
    logits, labels = draw(soft)
    results = softmax_cross_entropy(logits, labels, **options)
    there = {
        name: to_device(value, "gpu") if isinstance(value, np.ndarray) else value
        for name, value in {"logits": logits, "labels": labels, **options}.items()
    }
    with strict_cupy.no_transfers():
        results_there = softmax_cross_entropy(**there)
    for result, same, size in zip(results_there, results, target_sizes(logits, labels, **options)):
        assert_equal_but_for_rounding(to_device(result, "cpu"), same, size)


def test_softmax():
    logits = np.array([[0, np.log(3)], [1000, 0], [-1e4, -1e4]])
    expected = [[0.25, 0.75], [1, 0], [0.5, 0.5]]
    assert_equal_but_for_rounding(softmax(logits), expected, softmax_size(logits))


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 2, 3, 7], r"0\.\.2.* 3 at index 2"),
        ([0, 2, 1, 3], r"0\.\.2.* 3 at index 3"),
        ([0, -1, 1, 5], r"0\.\.2.* -1 at index 1"),
        ([0.0, 1.0, 2.0, 0.0], "integers.*float64"),
        ([True, False, True, False], "integers.*bool"),
        ([0, 1, 2], r"\(4, 3\) and \(3,\)"),
        ([[0], [1], [2], [0]], r"\(4, 3\) and \(4, 1\)"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    with pytest.raises(ValueError, match=message):
        softmax_cross_entropy(np.zeros((4, 3)), np.array(labels))


def test_a_batch_of_no_images_has_no_mean():
    with pytest.raises(ValueError, match=r"N >= 1.*\(0, 3\) and \(0,\)"):
        softmax_cross_entropy(np.zeros((0, 3)), np.zeros(0, int))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "reduction, loss, dprediction",
    [("sum", 14, [[2, -4], [0, 6]]), ("mean", 3.5, [[0.5, -1], [0, 1.5]])],
)
def test_squared_error(reduction, loss, dprediction, dtype):
    prediction, target = np.array([[[1, 2], [3, 5]], [[0, 4], [3, 2]]], dtype)
    before = prediction.tobytes(), target.tobytes()
    results = squared_error(prediction, target, reduction=reduction)
    assert (prediction.tobytes(), target.tobytes()) == before
    assert [result.dtype for result in results] == [dtype, dtype]
    np.testing.assert_array_equal(results[0], loss)
    np.testing.assert_array_equal(results[1], dprediction)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_squared_error_has_the_derivative_of_its_loss(reduction):
    prediction, target = np.random.default_rng(0).standard_normal((2, 3, 4))
    _, dprediction = squared_error(prediction, target, reduction)
    numerical = numerical_gradient(lambda y: squared_error(y, target, reduction)[0], prediction)
    np.testing.assert_allclose(dprediction, numerical, atol=1e-8)


def test_squared_error_of_what_does_not_fit():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3,\)"):
        squared_error(np.zeros((2, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="'none'"):
        squared_error(np.zeros(3), np.zeros(3), reduction="none")


def test_losses_of_integers_are_refused():
    numbers = np.ones((1, 2), np.uint8)
    for loss, arguments in (
        (softmax_cross_entropy, (numbers, np.zeros(1, int))),
        (squared_error, (numbers, numbers.astype(float))),
        (squared_error, (numbers.astype(float), numbers)),
    ):
        with pytest.raises(ValueError, match=f"{loss.__name__} expected .* in float32 .*got uint8"):
            loss(*arguments)


@pytest.mark.parametrize("loss", [softmax_cross_entropy, lambda logits, _: softmax(logits)])
def test_logits_of_integers_are_not_taken_for_images(loss):
    with pytest.raises(ValueError, match=r"got uint8: convert it with \.astype\('float32'\)$"):
        loss(np.ones((1, 2), np.uint8), np.zeros(1, int))


def test_softmax_of_a_vector_is_refused_with_the_shape():
    with pytest.raises(ValueError, match=r"expected logits \(N, K\) .*, got \(3,\)"):
        softmax(np.ones(3, np.float32))
