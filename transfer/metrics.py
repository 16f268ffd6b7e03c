"""Metrics as pure functions of labels and predictions; every one counts examples, none averages batches.

Each takes how often every example counts, so that a bootstrap resample is a vector of counts and nothing is copied.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer]
Scores = npt.NDArray[np.floating]
Counts = npt.NDArray[np.integer]

_RECALLS = np.arange(11) / 10  # Everingham et al. 2010, section 4.2
_REFERENCE_RECALLS = np.linspace(0, 1, 11)  # ssl-transfer, linear.py; 0.3, 0.6 and 0.7 lie a rounding above
_ECE_BINS = 15  # Guo et al. 2017, section 3


def accuracy(labels: Labels, predicted: Labels, counts: Counts | None = None) -> float:
    """Share of right predictions, in 0..1.

    Args:
        labels: true classes, (N,).
        predicted: classes, (N,).
        counts: how often each example counts, (N,); None for once.
    """
    return float(np.average(labels == predicted, weights=counts))


def mean_per_class_accuracy(labels: Labels, predicted: Labels, counts: Counts | None = None) -> float:
    """Mean over the classes that occur of the share of their examples that are predicted rightly, in 0..1.

    Args:
        labels: true classes, (N,).
        predicted: classes, (N,).
        counts: how often each example counts, (N,); None for once.
    """
    weights = np.ones(len(labels)) if counts is None else counts
    totals = np.bincount(labels, weights=weights)
    right = np.bincount(labels, weights=weights * (labels == predicted), minlength=len(totals))
    return float(np.mean(right[totals > 0] / totals[totals > 0]))


@dataclass(frozen=True)
class Ranking:
    """The examples in the order of their scores, for each of C classes.

    Attributes:
        order: examples by falling score, (C, N).
        positive: whether the examples in that order show the class, (C, N).
        counted: whether they count at all, (C, N).
        last: whether the next one has a lower score: only there a threshold can lie, (C, N).
    """

    order: npt.NDArray[np.integer]
    positive: npt.NDArray[np.bool_]
    counted: npt.NDArray[np.bool_]
    last: npt.NDArray[np.bool_]


def rank(labels: Labels, scores: Scores) -> Ranking:
    """Order examples by their scores.

    Args:
        labels: 1 present, 0 absent, -1 left out, (N, C).
        scores: higher is more likely present, (N, C).
    """
    order = np.argsort(-scores.T, axis=1, kind="stable")
    ordered_labels, ordered_scores = (np.take_along_axis(x.T, order, axis=1) for x in (labels, scores))
    last = np.ones(order.shape, dtype=bool)
    last[:, :-1] = ordered_scores[:, :-1] != ordered_scores[:, 1:]
    return Ranking(order, ordered_labels == 1, ordered_labels != -1, last)


def mean_average_precision(ranking: Ranking, counts: Counts | None = None, *, reference_curve: bool = False) -> float:
    """Mean over classes of the 11-point average precision, in 0..1; classes without a positive example do not count.

    Everingham et al. 2010, section 4.2: the mean over the recalls 0, 0.1, ..., 1 of the highest precision at that
    recall or a higher one, 0 where that recall is not reached.

    Args:
        ranking: from `rank`.
        counts: how often each example counts, (N,); None for once.
        reference_curve: work on scikit-learn's precision-recall curve, as linusericsson/ssl-transfer, linear.py: it
            ends with a point of precision 1 and recall 0 of its own. And compare with recalls as NumPy's linspace has
            them, which a recall of exactly 0.3, 0.6 or 0.7 does not reach.
    """
    weights = ranking.counted * (1 if counts is None else counts[ranking.order])
    found = np.cumsum(weights * ranking.positive, axis=1, dtype=np.float64)
    shown = np.cumsum(weights, axis=1, dtype=np.float64)
    classes = found[:, -1] > 0
    found, shown, last = found[classes], shown[classes], ranking.last[classes]
    # where nothing is shown yet, or no threshold can lie, there is no precision
    precision = np.divide(found, shown, out=np.zeros_like(found), where=last & (shown > 0))
    best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = found / found[:, -1:]
    points = []
    for level in _REFERENCE_RECALLS if reference_curve else _RECALLS:
        first = (recall >= level).argmax(axis=1)  # the last example has recall 1
        points.append(np.take_along_axis(best_from_here, first[:, None], axis=1)[:, 0])
    if reference_curve:
        points[0] = np.ones_like(points[0])
    return float(np.mean(points)) if classes.any() else float("nan")


def expected_calibration_error(labels: Labels, probabilities: Scores, counts: Counts | None = None) -> float:
    """Mean distance between confidence and accuracy over 15 bins of confidence, weighted by their examples, in 0..1.

    Guo et al. 2017, eq. 3.

    Args:
        labels: true classes, (N,).
        probabilities: of the classes, (N, C).
        counts: how often each example counts, (N,); None for once.
    """
    weights = np.ones(len(labels)) if counts is None else counts
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * _ECE_BINS).astype(int) - 1, 0, _ECE_BINS - 1)  # each holds its upper end
    gaps = np.bincount(bins, weights=weights * (confidence - right), minlength=_ECE_BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def softmax(logits: Scores) -> Scores:
    """Probabilities of the classes, (N, C), in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: Scores = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def bootstrap_interval(
    metric: Callable[[Counts], float],
    num_examples: int,
    *,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a metric over resamples of the test examples (Efron 1979).

    It holds the training fixed: it says nothing about other seeds of pretraining.

    Args:
        metric: of how often each example counts, (N,).
        num_examples: N.
        level: share of the resamples inside the interval.
        num_resamples: drawn with replacement, each of N examples.
        seed: of the draws.
    """
    draw = np.random.default_rng(seed)
    rows = (draw.integers(num_examples, size=num_examples) for _ in range(num_resamples))
    values = [metric(np.bincount(row, minlength=num_examples)) for row in rows]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
