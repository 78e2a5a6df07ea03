"""Losses: one number for a batch, and its exact derivative.

Softmax and cross-entropy together, for logits z (N, O) and labels t (N,):

    p[n, k] = exp(z[n, k]) / sum_j exp(z[n, j])                                            (1)
    loss = -(1/N) sum_n log p[n, t[n]]                                                     (2)
    dz[n, k] = (p[n, k] - [k = t[n]]) / N                                                  (3)

because log p[n, t] = z[n, t] - log sum_j exp(z[n, j]), and the derivative of that last term with
respect to z[n, k] is p[n, k] itself. Subtracting its maximum from each row of z first does not
change (1), and keeps exp from overflowing.

Labels may be smoothed, classes may be weighted, and the targets t (N, O) may be any probabilities;
a label is the row [k = t[n]]. With smoothing e and class weights w:

    q[n, k] = w[k] * ((1 - e) * t[n, k] + e/O)                                             (4)
    loss = -(1/N) sum_n sum_k q[n, k] log p[n, k]                                          (5)
    dz[n, k] = (p[n, k] sum_j q[n, j] - q[n, k]) / N                                       (6)

Whatever the weights, the divisor is N. PyTorch does the same for probabilities; for labels it
divides by the sum of w[t[n]], and then the loss of a batch would depend on how it is cut into
chunks.

Squared error, for a prediction y and a target t of the same shape, with M entries:

    loss = (1/M) sum (y - t)**2      reduction "mean";  without 1/M for "sum"              (7)
    dy = (2/M) (y - t)               likewise                                              (8)

Source: C. Bishop, "Pattern Recognition and Machine Learning", 2006, sections 4.3.4 and 5.2;
C. Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016, section
7, for label smoothing.
"""

import numpy as np

from minicnn.arguments import share, shown
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


def softmax_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: Array | None = None,
) -> tuple[Array, Array]:
    """(loss, dlogits) of logits (N, K) and labels: (N,), integers from 0 to K-1, or (N, K),
    probabilities.

    label_smoothing: the share of each target, from 0 to 1, that is spread evenly over all classes
    class_weights: (K,), numbers >= 0; all 1 if None

    The loss is a mean over the batch, in the dtype of the logits; on a GPU it stays there. Raises
    ValueError for shapes that do not fit, and on the CPU for labels or weights out of range. On a
    GPU it does not look at them, since that would hold up the work: check them beforehand.
    """
    xp = array_module(logits)
    _check_labels(logits, labels)
    label_smoothing = share("label_smoothing", label_smoothing)
    n, k = logits.shape
    z = logits - logits.max(axis=1, keepdims=True)
    exp_z = xp.exp(z)
    sum_exp = exp_z.sum(axis=1, keepdims=True)
    if labels.ndim == 2 or label_smoothing or class_weights is not None:
        q = _targets(logits, labels, label_smoothing, class_weights)
        loss = (q * (xp.log(sum_exp) - xp.where(q == 0, 0, z))).sum() / n  # (5)
        return loss, (exp_z / sum_exp * q.sum(axis=1, keepdims=True) - q) / n  # (1), (6)
    is_label = labels[:, None] == xp.arange(k)
    loss = (xp.log(sum_exp).sum() - xp.where(is_label, z, 0).sum()) / n  # (2)
    return loss, (exp_z / sum_exp - is_label) / n  # (1), (3)


def squared_error(prediction: Array, target: Array, reduction: str = "mean") -> tuple[Array, Array]:
    """(loss, dprediction) of two arrays of the same shape; `reduction` is "mean" or "sum"."""
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
    return (difference * difference).sum() / m, difference * (2 / m)  # (7), (8)


def _targets(
    logits: Array, labels: Array, label_smoothing: float, class_weights: Array | None
) -> Array:
    """q (N, K), in the dtype of the logits."""
    xp, k, dtype = array_module(logits), logits.shape[1], logits.dtype
    w: Array | float = 1.0
    if class_weights is not None:
        check_float("softmax_cross_entropy", class_weights, "class_weights")
        check_device("softmax_cross_entropy", "class_weights", class_weights, logits)
        if class_weights.shape != (k,):
            raise ValueError(
                f"expected class_weights of shape ({k},) for logits {logits.shape}, "
                f"got {class_weights.shape}"
            )
        _check_range("class_weights", class_weights, np.inf)
        w = class_weights.astype(dtype)
    t = labels if labels.ndim == 2 else labels[:, None] == xp.arange(k)
    return w * ((1 - label_smoothing) * t.astype(dtype) + label_smoothing / k)  # (4)


def _check_labels(logits: Array, labels: Array) -> None:
    check_float("softmax_cross_entropy", logits, "logits")
    check_device("softmax_cross_entropy", "labels", labels, logits)
    fits = labels.shape in (logits.shape, logits.shape[:1])
    if logits.ndim != 2 or not fits or logits.size == 0:
        raise ValueError(
            f"expected logits (N, K) and labels (N,) or (N, K) with N >= 1 and K >= 1, "
            f"got {logits.shape} and {labels.shape}"
        )
    if labels.ndim == 2:
        check_float("softmax_cross_entropy", labels, "labels (N, K)")
        _check_range("labels (N, K)", labels, 1)
        return
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    _check_range("labels", labels, logits.shape[1] - 1)


def _check_range(name: str, array: Array, largest: float) -> None:
    """Raises ValueError, on the CPU, unless all entries are numbers from 0 to `largest`."""
    if array_module(array) is np and not (array.min() >= 0 and array.max() <= largest):
        first = np.argwhere(~((array >= 0) & (array <= largest)))[0]
        raise ValueError(
            f"{name} must lie in 0..{largest}, got {array[tuple(first)]} at index "
            f"{', '.join(map(str, first))}"
        )
