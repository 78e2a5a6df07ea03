"""Losses: one number for a batch, and its exact derivative.

Softmax and cross-entropy together, for logits z (N, K) and labels t (N,):

    p[n, k] = exp(z[n, k]) / sum_j exp(z[n, j])                                            (1)
    loss = -(1/N) sum_n log p[n, t[n]]                                                     (2)
    dz[n, k] = (p[n, k] - [k = t[n]]) / N                                                  (3)

because log p[n, t] = z[n, t] - log sum_j exp(z[n, j]), and the derivative of the log of the sum by
z[n, k] is p[n, k] itself. Taking the row's maximum off z first leaves (1) as it is, and no exp
overflows.

Squared error, for prediction y and target t of one shape, with M entries:

    loss = (1/M) sum (y - t)**2      reduction "mean";  without 1/M for "sum"              (4)
    dy = (2/M) (y - t)               likewise                                              (5)

Source: C. Bishop, "Pattern Recognition and Machine Learning", 2006, sections 4.3.4 and 5.2.
"""

import numpy as np

from minicnn.arguments import shown
from minicnn.backend import Array, array_module
from minicnn.checks import check_device, check_float


def softmax(logits: Array) -> Array:
    """Probabilities (N, K) of logits (N, K), K >= 1: each row is positive and sums to 1."""
    check_float("softmax", logits, "logits")
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"expected logits (N, K) with K >= 1, got {logits.shape}")
    xp = array_module(logits)
    p = xp.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)  # (1)


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """(loss, dlogits) of logits (N, K) and labels (N,), integers from 0 to K-1.

    The loss is a mean over the batch, in the dtype of the logits; on a GPU it stays there. Raises
    ValueError for shapes that do not fit, and on the CPU for labels out of range; on a GPU reading
    them would hold up the work, so there they must have been checked before.
    """
    xp = array_module(logits)
    _check_labels(logits, labels)
    n, k = logits.shape
    z = logits - logits.max(axis=1, keepdims=True)
    exp_z = xp.exp(z)
    sum_exp = exp_z.sum(axis=1, keepdims=True)
    is_label = labels[:, None] == xp.arange(k)
    loss = (xp.log(sum_exp).sum() - xp.where(is_label, z, 0).sum()) / n  # (2)
    return loss, (exp_z / sum_exp - is_label) / n  # (1), (3)


def squared_error(prediction: Array, target: Array, reduction: str = "mean") -> tuple[Array, Array]:
    """(loss, dprediction) of two arrays of one shape; `reduction` is "mean" or "sum"."""
    check_float("squared_error", prediction, "prediction")
    check_float("squared_error", target, "target")
    check_device("squared_error", "target", target, prediction)
    if prediction.shape != target.shape:
        raise ValueError(
            f"expected a target of the prediction's shape {prediction.shape}, got {target.shape}"
        )
    if prediction.size == 0:
        raise ValueError(f"expected at least one prediction, got shape {prediction.shape}")
    if not isinstance(reduction, str) or reduction not in ("mean", "sum"):
        raise ValueError(f'reduction must be "mean" or "sum", got {shown(reduction)}')
    m = prediction.size if reduction == "mean" else 1
    difference = prediction - target
    return (difference * difference).sum() / m, difference * (2 / m)  # (4), (5)


def _check_labels(logits: Array, labels: Array) -> None:
    check_float("softmax_cross_entropy", logits, "logits")
    check_device("softmax_cross_entropy", "labels", labels, logits)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.size == 0:
        raise ValueError(
            f"expected logits (N, K) and labels (N,) with N >= 1 and K >= 1, "
            f"got {logits.shape} and {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if array_module(labels) is np and (labels.min() < 0 or labels.max() >= logits.shape[1]):
        first = np.argmax((labels < 0) | (labels >= logits.shape[1]))
        raise ValueError(
            f"labels must lie in 0..{logits.shape[1] - 1} for logits of shape {logits.shape}, "
            f"got {labels[first]} at index {first}"
        )
