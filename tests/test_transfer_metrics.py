"""Metrics by worked examples, against scikit-learn, and the coverage of the interval."""

from functools import partial

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_recall_curve

from transfer.metrics import (
    Counts,
    Labels,
    accuracy,
    bootstrap_interval,
    expected_calibration_error,
    mean_average_precision,
    mean_per_class_accuracy,
    rank,
    softmax,
)


def _example(num: int = 300, classes: int = 5, share_right: float = 0.6) -> tuple[Labels, Labels]:
    draw = np.random.default_rng(0)
    labels = np.minimum(draw.geometric(0.4, size=num) - 1, classes - 1)  # imbalanced
    return labels, np.where(draw.random(num) < share_right, labels, draw.integers(classes, size=num))


def _counts(num: int = 300) -> Counts:
    return np.random.default_rng(3).integers(0, 4, size=num)


def test_worked_example() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 2])
    assert accuracy(labels, predicted) == pytest.approx(4 / 6)
    assert mean_per_class_accuracy(labels, predicted) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_metrics_equal_those_of_scikit_learn() -> None:
    labels, predicted = _example()
    assert accuracy(labels, predicted) == pytest.approx(accuracy_score(labels, predicted))
    assert mean_per_class_accuracy(labels, predicted) == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_example_that_counts_n_times_is_as_good_as_n_examples() -> None:
    labels, predicted = _example()
    counts = _counts()
    repeated = np.repeat(np.arange(300), counts)
    draw = np.random.default_rng(5)
    probabilities = softmax(draw.normal(size=(300, 5)))
    marks, scores = draw.integers(-1, 2, size=(300, 3)), np.round(draw.normal(size=(300, 3)), 1)
    for metric, arrays in (
        (accuracy, (labels, predicted)),
        (mean_per_class_accuracy, (labels, predicted)),
        (expected_calibration_error, (labels, probabilities)),
        (lambda marks, scores, counts=None: mean_average_precision(rank(marks, scores), counts), (marks, scores)),
    ):
        assert metric(*arrays, counts) == pytest.approx(metric(*(array[repeated] for array in arrays)), abs=1e-12)


def test_classes_without_test_examples_do_not_count() -> None:
    assert mean_per_class_accuracy(np.array([0, 0, 3]), np.array([0, 4, 3])) == pytest.approx((1 / 2 + 1) / 2)


def test_naming_the_most_frequent_class_scores_chance_when_averaged_over_classes() -> None:
    labels, _ = _example()
    chance = 1 / len(np.unique(labels))
    assert mean_per_class_accuracy(labels, np.zeros_like(labels)) == pytest.approx(chance)


# --- average precision ---


def test_average_precision_of_a_worked_example() -> None:
    """Right, wrong, right, wrong: precision 1 up to recall 0.5, then 2/3."""
    labels, scores = np.array([[1], [0], [1], [0]]), np.array([[0.9], [0.8], [0.7], [0.1]])
    assert mean_average_precision(rank(labels, scores)) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_recall_zero_is_what_the_protocols_differ_in() -> None:
    """The only positive is the last of four: precision 1/4 at every recall, and 1 where the curve is made to end."""
    labels, scores = np.array([[0], [0], [0], [1]]), np.array([[0.9], [0.8], [0.7], [0.1]])
    ranking = rank(labels, scores)
    assert mean_average_precision(ranking) == pytest.approx(1 / 4)
    assert mean_average_precision(ranking, reference_curve=True) == pytest.approx((1 + 10 / 4) / 11)


def test_examples_of_equal_score_are_shown_together() -> None:
    labels = np.array([[1], [0]])
    assert mean_average_precision(rank(labels, np.array([[0.5], [0.5]]))) == pytest.approx(1 / 2)
    assert mean_average_precision(rank(labels[::-1], np.array([[0.5], [0.5]]))) == pytest.approx(1 / 2)


def test_examples_that_are_left_out_are_as_good_as_absent() -> None:
    draw = np.random.default_rng(2)
    labels, scores = draw.integers(-1, 2, size=(100, 1)), draw.normal(size=(100, 1))
    kept = labels[:, 0] != -1
    assert 0 < kept.sum() < 100
    alone = mean_average_precision(rank(labels[kept], scores[kept]))
    assert mean_average_precision(rank(labels, scores)) == pytest.approx(alone)


def test_average_precision_equals_the_reference_on_the_curve_of_scikit_learn() -> None:
    """Ericsson et al. 2021: the mean over 11 recalls of the highest precision at a recall that is not lower."""
    draw = np.random.default_rng(4)
    labels = (draw.random((200, 6)) < np.linspace(0.05, 0.9, 6)).astype(int)
    scores = np.round(labels + draw.normal(size=labels.shape), 1)  # with ties
    expected = []
    for column in range(6):
        precision, recall, _ = precision_recall_curve(labels[:, column], scores[:, column])
        expected.append(np.mean([precision[recall >= level].max() for level in np.linspace(0, 1, 11)]))
    assert mean_average_precision(rank(labels, scores), reference_curve=True) == pytest.approx(np.mean(expected))


def test_average_precision_is_a_matter_of_order_alone() -> None:
    draw = np.random.default_rng(6)
    labels, scores = draw.integers(0, 2, size=(80, 4)), draw.normal(size=(80, 4))
    order = draw.permutation(80)
    value = mean_average_precision(rank(labels, scores))
    assert mean_average_precision(rank(labels, np.exp(scores) - 7)) == value
    assert mean_average_precision(rank(labels[order], scores[order])) == pytest.approx(value)
    assert mean_average_precision(rank(labels, labels.astype(float))) == 1


# --- calibration ---


def test_calibration_error_of_a_worked_example() -> None:
    """Confidences 0.9 (right), 0.9 (wrong) share a bin, 0.6 (right) has one of its own: (2 * 0.4 + 0.4) / 3."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    assert expected_calibration_error(np.array([0, 1, 1]), probabilities) == pytest.approx(1.2 / 3)


def test_confidence_at_the_end_of_a_bin_belongs_to_it() -> None:
    """1/3 and 0.4 end the fifth and the sixth of fifteen bins; an error of each sign in one bin would cancel."""
    probabilities = np.array([[0.4, 0.3, 0.3], [0.34, 0.33, 0.33]])
    assert expected_calibration_error(np.array([0, 1]), probabilities) == pytest.approx(abs(0.34 - 0.6) / 2)


def test_confident_and_right_is_calibrated_and_confident_and_wrong_is_not() -> None:
    labels = np.arange(4)
    assert expected_calibration_error(labels, np.eye(4)) == 0
    assert expected_calibration_error(labels, np.eye(4)[::-1]) == 1


def test_softmax_stands_large_logits_and_absent_classes() -> None:
    probabilities = softmax(np.array([[1000.0, 1000.0, -np.inf]], dtype=np.float32))
    np.testing.assert_array_equal(probabilities, [[0.5, 0.5, 0.0]])


# --- intervals ---


def test_interval_is_the_binomials_for_accuracy() -> None:
    labels = np.zeros(2000, dtype=np.int64)
    predicted = (np.arange(2000) % 10 >= 7).astype(np.int64)  # 70 % right
    low, high = bootstrap_interval(partial(accuracy, labels, predicted), 2000)
    half_width = 1.96 * np.sqrt(0.7 * 0.3 / 2000)
    assert low == pytest.approx(0.7 - half_width, abs=0.003)
    assert high == pytest.approx(0.7 + half_width, abs=0.003)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    labels = np.zeros(200, dtype=np.int64)
    covered = 0
    for trial in range(200):
        predicted = (draw.random(200) >= 0.6).astype(np.int64)  # right with probability 0.6
        low, high = bootstrap_interval(partial(accuracy, labels, predicted), 200, num_resamples=300, seed=trial)
        covered += low <= 0.6 <= high
    assert 0.90 <= covered / 200 <= 0.985  # 0.95 +- 3 deviations of 200 trials, less the percentile method's own bias


def test_interval_is_a_function_of_its_seed() -> None:
    metric = partial(mean_per_class_accuracy, *_example())
    interval = bootstrap_interval(metric, 300)
    assert bootstrap_interval(metric, 300) == interval
    assert bootstrap_interval(metric, 300, seed=1) != interval


def test_perfect_predictions_have_no_width() -> None:
    labels, _ = _example()
    assert bootstrap_interval(partial(mean_per_class_accuracy, labels, labels), 300) == (1.0, 1.0)
