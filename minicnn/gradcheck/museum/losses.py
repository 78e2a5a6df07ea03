"""Losses with wrong gradients."""

import numpy as np

from minicnn.gradcheck.museum.fault import ROWS, Fault
from minicnn.losses import softmax, softmax_cross_entropy, squared_error


def cross_entropy_not_averaged(logits, labels):
    """The loss is a mean over the batch, its gradient is not: N times too large, which a smaller
    learning rate hides."""
    loss, dlogits = softmax_cross_entropy(logits, labels)
    return loss, dlogits * len(logits)


def cross_entropy_diagonal(logits, labels):
    """Each probability depends on every logit of its row; only the derivative with respect to its
    own is kept."""
    loss, dlogits = softmax_cross_entropy(logits, labels)
    return loss, dlogits * (labels[:, None] == np.arange(logits.shape[1]))


def cross_entropy_jacobian_forgotten(logits, labels):
    """dp, which is -1/(N p) at the label and 0 elsewhere, is passed on as if it were dlogits: the
    Jacobian of softmax is left out, and the other logits learn nothing."""
    loss, _ = softmax_cross_entropy(logits, labels)
    is_label = labels[:, None] == np.arange(logits.shape[1])
    return loss, np.where(is_label, -1 / (len(logits) * softmax(logits)), 0)


def cross_entropy_overflow(logits, labels):
    """The row's maximum is not subtracted first, so exp overflows from 89 on in float32."""
    exp = np.exp(logits)
    p = exp / exp.sum(axis=1, keepdims=True)
    is_label = labels[:, None] == np.arange(logits.shape[1])
    return -np.log(p[is_label]).mean(), (p - is_label) / logits.dtype.type(len(logits))


def squared_error_opposite_sign(prediction, target):
    """Target minus prediction, which the square hides in the loss: every step goes uphill."""
    loss, dprediction = squared_error(prediction, target)
    return loss, -dprediction


def squared_error_without_two(prediction, target):
    """The 2 of the square is left out; right for half the square, which is not the loss."""
    loss, dprediction = squared_error(prediction, target)
    return loss, dprediction / 2


FAULTS = [
    Fault(
        softmax_cross_entropy,
        cross_entropy_not_averaged,
        ROWS,
        "times N",
        seen="hunkim/DeepLearningZeroToAll#173",
    ),
    Fault(
        softmax_cross_entropy,
        cross_entropy_diagonal,
        ROWS,
        "entries left at zero",
        seen="deeplearning4j/libnd4j#440",
    ),
    Fault(
        softmax_cross_entropy,
        cross_entropy_jacobian_forgotten,
        ROWS,
        "Jacobian of softmax left out",
        seen="asked in hankcs/CS224n#17",
    ),
    Fault(
        softmax_cross_entropy,
        cross_entropy_overflow,
        ROWS,
        "overflow",
        seen="microsoft/CNTK#1834",
    ),
    Fault(
        squared_error,
        squared_error_opposite_sign,
        ROWS,
        "opposite sign",
        seen="asked in makeyourownneuralnetwork/makeyourownneuralnetwork#82",
    ),
    Fault(
        squared_error,
        squared_error_without_two,
        ROWS,
        "divided by 2",
        seen="davisking/dlib#1169",
    ),
]
