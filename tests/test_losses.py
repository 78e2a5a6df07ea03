"""Losses: the definition by loops, central differences, extreme numbers, wrong labels."""

import numpy as np
import pytest
from rounding import assert_equal_but_for_rounding, cross_entropy_sizes, softmax_size

from minicnn import reference, softmax, softmax_cross_entropy, squared_error
from minicnn.gradcheck import numerical_gradient


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
        with pytest.raises(ValueError, match=f"{loss.__name__} expected .* of float32 .*got uint8"):
            loss(*arguments)


@pytest.mark.parametrize("loss", [softmax_cross_entropy, lambda logits, _: softmax(logits)])
def test_logits_of_integers_are_not_taken_for_images(loss):
    with pytest.raises(ValueError, match=r"got uint8: convert it with \.astype\('float32'\)$"):
        loss(np.ones((1, 2), np.uint8), np.zeros(1, int))


def test_softmax_of_a_vector_is_refused_with_the_shape():
    with pytest.raises(ValueError, match=r"expected logits \(N, K\) .*, got \(3,\)"):
        softmax(np.ones(3, np.float32))
