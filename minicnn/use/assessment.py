"""What a network gets right on labelled images, what it mistakes, and how far to trust it.

With counts[i, j], how many images of class i are taken for class j,

    recall[k] = counts[k, k] / sum_j counts[k, j]      of those that are k, how many are found  (1)
    precision[k] = counts[k, k] / sum_i counts[i, k]   of those called k, how many are k        (2)
    f1[k] = 2 * counts[k, k] / (sum_j counts[k, j] + sum_i counts[i, k])                        (3)

Each is 0 where it would divide by 0. (3) is the harmonic mean of (1) and (2).

Confidence is the probability of the predicted class. In a calibrated network, of all predictions
with confidence 0.8, four in five are right. The predictions are put into bins of equal width by
their confidence; with n_b of the N predictions in bin b, the expected calibration error is

    ece = sum_b n_b/N * |accuracy_b - confidence_b|                                           (4)

Source: C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On calibration of modern neural networks", ICML
2017, for (4).
"""

import dataclasses
from typing import Any

import numpy as np

from minicnn.arguments import integer
from minicnn.backend import Array

BINS = 10
TINY = float(np.finfo(np.float64).tiny)


@dataclasses.dataclass(frozen=True, eq=False)
class Assessment:
    """How predictions compare with labels.

    classes: their names
    counts: (K, K), rows for the labels and columns for the predictions
    recall, precision, f1: (K,)
    accuracy, loss: over all images; the loss is cross-entropy
    ece: the expected calibration error
    bins: for each bin of confidence, (how many, their mean confidence, their accuracy)
    mistakes: (index, label, prediction, probability of the prediction) of the wrong predictions
        with the highest probability, the worst first
    """

    classes: tuple[str, ...]
    counts: Array
    recall: Array
    precision: Array
    f1: Array
    accuracy: float
    loss: float
    ece: float
    bins: tuple[tuple[int, float, float], ...]
    mistakes: tuple[tuple[int, int, int, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it in values that JSON can hold, with a dictionary for each class."""
        rows = zip(self.classes, self.recall, self.precision, self.f1, self.counts)
        return {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "images": int(self.counts.sum()),
            "expected_calibration_error": self.ece,
            "classes": [
                {
                    "name": name,
                    "images": int(count.sum()),
                    "recall": float(recall),
                    "precision": float(precision),
                    "f1": float(f1),
                }
                for name, recall, precision, f1, count in rows
            ],
            "confusion": self.counts.tolist(),
            "calibration": [
                {"images": n, "confidence": confidence, "accuracy": accuracy}
                for n, confidence, accuracy in self.bins
            ],
            "worst_mistakes": [
                {
                    "index": index,
                    "label": self.classes[label],
                    "prediction": self.classes[prediction],
                    "probability": probability,
                }
                for index, label, prediction, probability in self.mistakes
            ],
        }


def assess(
    probabilities: Array, labels: Array, classes: tuple[str, ...], worst: int = 24
) -> Assessment:
    """For probabilities (N, K) and labels (N,), with the `worst` mistakes."""
    worst, k, n = integer("worst", worst, 0), len(classes), len(labels)
    fits = probabilities.shape == (n, k) and n > 0 and k > 0
    if not fits:
        raise ValueError(
            f"expected probabilities (N, K) for N labels and K classes, with N > 0, but got "
            f"{probabilities.shape} for {n} labels and {k} classes"
        )
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = predicted == labels
    counts = np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k)
    found, of_label, of_prediction = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for b in range(BINS):
        inside = which == b
        amount = int(inside.sum())
        means = [float(a[inside].mean()) if amount else 0.0 for a in (confidence, right)]
        bins.append((amount, means[0], means[1]))
    wrong = np.flatnonzero(~right)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:worst]
    return Assessment(
        classes,
        counts,
        recall=found / np.maximum(of_label, 1),  # (1)
        precision=found / np.maximum(of_prediction, 1),  # (2)
        f1=2 * found / np.maximum(of_label + of_prediction, 1),  # (3)
        accuracy=float(right.mean()),
        loss=float(-np.log(np.maximum(probabilities[np.arange(n), labels], TINY)).mean()),
        ece=sum(amount / n * abs(mean - share) for amount, mean, share in bins),  # (4)
        bins=tuple(bins),
        mistakes=tuple(
            (int(i), int(labels[i]), int(predicted[i]), float(confidence[i])) for i in wrong
        ),
    )
