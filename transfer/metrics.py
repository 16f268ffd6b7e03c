"""Metrics as pure functions of labels and predictions; every one counts examples, none averages batches."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]


def accuracy(labels: Labels, predicted: Labels) -> float:
    """Share of right predictions, in 0..1.

    Args:
        labels: true classes, (N,).
        predicted: classes, (N,).
    """
    return float(np.mean(labels == predicted))


def balanced_accuracy(labels: Labels, predicted: Labels) -> float:
    """Mean over the classes that occur of the share of their examples that are predicted rightly, in 0..1.

    Args:
        labels: true classes, (N,).
        predicted: classes, (N,).
    """
    totals = np.bincount(labels)
    right = np.bincount(labels, weights=labels == predicted, minlength=len(totals))
    return float(np.mean(right[totals > 0] / totals[totals > 0]))


def bootstrap_interval(
    metric: Callable[[Labels, Labels], float],
    labels: Labels,
    predicted: Labels,
    *,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a metric over resamples of the test examples (Efron 1979).

    It holds the training fixed: it says nothing about other seeds of pretraining.

    Args:
        metric: of labels and predictions.
        labels: true classes, (N,).
        predicted: classes, (N,).
        level: share of the resamples inside the interval.
        num_resamples: drawn with replacement, each of N examples.
        seed: of the draws.
    """
    draw = np.random.default_rng(seed)
    rows = (draw.integers(len(labels), size=len(labels)) for _ in range(num_resamples))
    values = [metric(labels[row], predicted[row]) for row in rows]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
