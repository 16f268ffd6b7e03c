"""Metrics by worked examples, against scikit-learn, and the coverage of the interval."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from transfer.metrics import Labels, accuracy, balanced_accuracy, bootstrap_interval


def _example(num: int = 300, classes: int = 5, share_right: float = 0.6) -> tuple[Labels, Labels]:
    draw = np.random.default_rng(0)
    labels = np.minimum(draw.geometric(0.4, size=num) - 1, classes - 1)  # imbalanced
    return labels, np.where(draw.random(num) < share_right, labels, draw.integers(classes, size=num))


def test_worked_example() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 2])
    assert accuracy(labels, predicted) == pytest.approx(4 / 6)
    assert balanced_accuracy(labels, predicted) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_metrics_equal_those_of_scikit_learn() -> None:
    labels, predicted = _example()
    assert accuracy(labels, predicted) == pytest.approx(accuracy_score(labels, predicted))
    assert balanced_accuracy(labels, predicted) == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_classes_without_test_examples_do_not_count() -> None:
    assert balanced_accuracy(np.array([0, 0, 3]), np.array([0, 4, 3])) == pytest.approx((1 / 2 + 1) / 2)


def test_naming_the_most_frequent_class_scores_chance_when_balanced() -> None:
    labels, _ = _example()
    assert balanced_accuracy(labels, np.zeros_like(labels)) == pytest.approx(1 / len(np.unique(labels)))


def test_interval_is_the_binomials_for_accuracy() -> None:
    labels = np.zeros(2000, dtype=np.int64)
    predicted = (np.arange(2000) % 10 >= 7).astype(np.int64)  # 70 % right
    low, high = bootstrap_interval(accuracy, labels, predicted)
    half_width = 1.96 * np.sqrt(0.7 * 0.3 / 2000)
    assert low == pytest.approx(0.7 - half_width, abs=0.003)
    assert high == pytest.approx(0.7 + half_width, abs=0.003)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    labels = np.zeros(200, dtype=np.int64)
    covered = 0
    for trial in range(200):
        predicted = (draw.random(200) >= 0.6).astype(np.int64)  # right with probability 0.6
        low, high = bootstrap_interval(accuracy, labels, predicted, num_resamples=300, seed=trial)
        covered += low <= 0.6 <= high
    assert 0.90 <= covered / 200 <= 0.985  # 0.95 +- 3 deviations of 200 trials, less the percentile method's own bias


def test_interval_is_a_function_of_its_seed() -> None:
    labels, predicted = _example()
    interval = bootstrap_interval(balanced_accuracy, labels, predicted)
    assert bootstrap_interval(balanced_accuracy, labels, predicted) == interval
    assert bootstrap_interval(balanced_accuracy, labels, predicted, seed=1) != interval


def test_perfect_predictions_have_no_width() -> None:
    labels, _ = _example()
    assert bootstrap_interval(balanced_accuracy, labels, labels) == (1.0, 1.0)
