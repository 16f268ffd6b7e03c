"""Paired comparisons of stored predictions against computations of their own, and what cannot be compared."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from sklearn.metrics import precision_recall_curve

from converters.errors import InputError
from tests.test_transfer_report import SETTINGS, digest, measured, predicted, rows_in, store
from transfer import report_comparison, significance
from transfer.detection_curves import Matches
from transfer.detection_metrics import Detections, Truth, coco_matches, voc_matches
from transfer.report_comparison import Compared, Paired, compare_rows, find_row
from transfer.report_ranks import ranked
from transfer.segmentation_metrics import Confusions, confusion

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

A, B = "simsiam,", "guided"  # parts of the two titles
METHODS = ("simsiam", "simsiam-guided")
CLASSES = 4


def compared(folder: Path, first: str = A, second: str = B) -> Paired:
    rows = rows_in(folder)
    return compare_rows(find_row(rows, first), find_row(rows, second), lambda line: None)


def only(paired: Paired) -> Compared:
    assert not paired.problems
    (task,) = paired.tasks
    return task


def answers(labels: Ints, share: float, draw: np.random.Generator, like: Ints | None = None) -> Ints:
    """Predictions right for a share of the images; nearly all as another method's, if one is given."""
    wrong = (labels + 1 + draw.integers(CLASSES - 1, size=len(labels))) % CLASSES
    own = np.where(draw.random(len(labels)) < share, labels, wrong)
    return own if like is None else np.where(draw.random(len(labels)) < 0.8, like, own)


def share_right(labels: Ints, answer: Ints) -> float:
    return float(np.mean(labels == answer))


def per_class(labels: Ints, answer: Ints) -> float:
    return float(np.mean([np.mean(answer[labels == each] == each) for each in np.unique(labels)]))


def eleven_points(labels: Ints, scores: Floats) -> float:
    """11-point mAP of labels 1, 0 and -1 (left out) from scikit-learn's curve without the point that it adds."""
    precisions = []
    for truth, score in zip(labels.T, scores.T, strict=True):
        counted = truth != -1
        if (truth[counted] == 1).any():
            precision, recall, _ = precision_recall_curve(truth[counted] == 1, score[counted])
            points = (precision[:-1][recall[:-1] >= level - 1e-12].max(initial=0) for level in np.arange(11) / 10)
            precisions.append(np.mean(list(points)))
    return float(np.mean(precisions))


def deviation_of_difference(
    value: Callable[[Ints], float], num_images: int, num_resamples: int = 400, seed: int = 99
) -> float:
    """Bootstrap deviation of what `value` says of rows of images, by draws of its own."""
    draw = np.random.default_rng(seed)
    return float(np.std([value(draw.integers(num_images, size=num_images)) for _ in range(num_resamples)], ddof=1))


def check(task: Compared, values: Sequence[float], deviation: float, tolerance: float = 0.12) -> None:
    """Means and difference exactly, its interval and the detectable difference as far as draws can agree."""
    assert (task.first, task.second) == pytest.approx(tuple(values), abs=1e-12)
    comparison = task.comparison
    assert comparison.difference == pytest.approx(values[0] - values[1], abs=1e-12)
    assert (comparison.low + comparison.high) / 2 == pytest.approx(comparison.difference)
    assert (comparison.high - comparison.low) / (2 * 1.95996) == pytest.approx(deviation, rel=tolerance)
    assert comparison.detectable == pytest.approx((1.95996 + 0.84162) * deviation, rel=tolerance)
    assert task.num_runs == (1, 1)


# Against computations of their own.


@pytest.mark.parametrize("task", ["linear", "knn", "probe"])
def test_accuracies_of_one_run_each_are_compared_by_mcnemar(task: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    labels = draw.integers(CLASSES, size=300)
    first = answers(labels, 0.6, draw)
    both = first, answers(labels, 0.75, draw, first)
    for method, answer in zip(METHODS, both, strict=True):
        arrays = {"labels": labels, "predicted": answer, "confidence": np.ones(300, np.float32)}
        predicted(tmp_path, arrays, share_right(labels, answer), method=method, task=task, num_examples=300)
    found = only(compared(tmp_path))
    differ = (both[0] == labels).astype(float) - (both[1] == labels)
    check(found, [share_right(labels, each) for each in both], differ.std() / 300**0.5, 0.08)
    # the exact binomial test in whole numbers: twice the smaller tail of fair coins
    wins, losses = int((differ > 0).sum()), int((differ < 0).sum())
    tail = sum(math.comb(wins + losses, k) for k in range(min(wins, losses) + 1)) / 2 ** (wins + losses)
    assert found.comparison.p == pytest.approx(min(1, 2 * tail))
    assert found.adjusted == found.comparison.p
    assert "McNemar" in found.test


def test_mean_per_class_of_one_run_each_is_compared_by_permutation(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    labels = np.repeat([0, 1, 3], [60, 25, 15])  # of a class between them there is no image
    first = answers(labels, 0.7, draw)
    second = first.copy()
    changed = draw.choice(100, 14, replace=False)
    second[changed] = np.where(first[changed] == labels[changed], (labels[changed] + 1) % CLASSES, labels[changed])
    second[changed[:6]] = labels[changed[:6]]
    for method, answer in zip(METHODS, (first, second), strict=True):
        arrays = {"labels": labels, "predicted": answer}
        value = per_class(labels, answer)
        predicted(tmp_path, arrays, value, method=method, metric="mean_per_class", num_examples=100)
    found = only(compared(tmp_path))
    deviation = deviation_of_difference(
        lambda rows: per_class(labels[rows], first[rows]) - per_class(labels[rows], second[rows]), 100, 600
    )
    check(found, [per_class(labels, first), per_class(labels, second)], deviation)
    # every exchange of the two answers to the images that decide
    shares = ((first == labels).astype(float) - (second == labels)) / (3 * np.bincount(labels)[labels])
    decided = shares[shares != 0]
    sums = np.array(list(itertools.product((-1, 1), repeat=len(decided)))) @ decided
    exact = float(np.mean(np.abs(sums) >= abs(decided.sum()) - 1e-12))
    assert found.comparison.p == pytest.approx(exact, abs=0.015)
    assert "permutation" in found.test


@pytest.mark.parametrize("reference_curve", [False, True])
def test_eleven_point_precision_is_compared_by_its_curve(reference_curve: bool, tmp_path: Path) -> None:
    draw, settings = np.random.default_rng(3), {**SETTINGS, "reference_curve": reference_curve}
    labels = draw.choice([1, 0, -1], p=[0.35, 0.6, 0.05], size=(80, 3))
    scores = [draw.normal(size=(80, 3)) + shift * (labels == 1) for shift in (0.8, 1.6)]
    scores = [each.astype(np.float32) for each in scores]

    def value(rows: Ints, each: Floats) -> float:
        mean = eleven_points(labels[rows], each[rows])
        if not reference_curve:
            return mean
        # the same curve with a first point of precision 1; recalls of exactly 0.3, 0.6 or 0.7 do not occur here
        firsts = [
            max(precision_recall_curve(t[t != -1] == 1, s[t != -1])[0][:-1])
            for t, s in zip(labels[rows].T, each[rows].T, strict=True)
        ]
        return mean + float(np.mean(1 - np.array(firsts))) / 11

    everything = np.arange(80)
    for method, each in zip(METHODS, scores, strict=True):
        predicted(
            tmp_path,
            {"labels": labels.astype(np.int8), "scores": each},
            value(everything, each),
            **{"method": method, "metric": "map_11point", "num_examples": 80, "settings": settings},
        )
    found = only(compared(tmp_path))
    deviation = deviation_of_difference(lambda rows: value(rows, scores[0]) - value(rows, scores[1]), 80, 150)
    check(found, [value(everything, each) for each in scores], deviation, 0.2)
    assert found.comparison.p == pytest.approx(
        2 * stats.norm.sf(abs(found.comparison.difference) / deviation), rel=2, abs=1e-6
    )
    assert "bootstrap" in found.test


def detected(draw: np.random.Generator, share: float, num_images: int = 40) -> tuple[Truth, Detections]:
    """A square in every place of a grid; a share of them is found, the other detections are elsewhere."""
    image = np.repeat(np.arange(num_images), 3)
    label = np.tile([0, 1, 1], num_images)
    corner = np.tile([[0.0, 0.0], [200.0, 0.0], [0.0, 200.0]], (num_images, 1))
    box = np.hstack([corner, corner + 100])
    truth = Truth(image, label, box, np.zeros(len(image), bool), np.full(len(image), 1e4), num_images, 2)
    moved = np.where(draw.random(len(image)) < share, 0.0, 400.0)[:, None]
    score = draw.normal(size=len(image)) - moved[:, 0] / 400
    return truth, Detections(image, label, score, (box + moved).astype(np.float32))


def of_images(truth: Truth, found: Detections, rows: Ints) -> tuple[Truth, Detections]:
    """A data set of its own of some images, each as often as it is named."""
    truths, detections = ([np.flatnonzero(each.image == row) for row in rows] for each in (truth, found))
    kept, shown = np.concatenate(truths), np.concatenate(detections)
    images = np.repeat(np.arange(len(rows)), [len(each) for each in truths])
    shown_in = np.repeat(np.arange(len(rows)), [len(each) for each in detections])
    resampled = replace(
        truth,
        **{name: getattr(truth, name)[kept] for name in ("label", "box", "ignored", "area")},
        **{"image": images, "num_images": len(rows)},
    )
    return resampled, Detections(shown_in, found.label[shown], found.score[shown], found.box[shown])


@pytest.mark.parametrize("matches_of", [voc_matches, coco_matches])
def test_resampled_matches_are_those_of_a_data_set_with_these_images(
    matches_of: Callable[[Truth, Detections], Matches], tmp_path: Path
) -> None:
    truth, found = detected(np.random.default_rng(4), 0.7, num_images=12)
    matches = matches_of(truth, found)
    drawn = matches.resampled(6, 17)
    draw = np.random.default_rng(17)
    for index in range(6):
        values = matches_of(*of_images(truth, found, draw.integers(12, size=12))).values()
        assert {name: each[index] for name, each in drawn.items()} == pytest.approx(values, nan_ok=True)
    assert all(np.array_equal(each, drawn[name], True) for name, each in matches.resampled(6, 17).items())
    matches.save(tmp_path / "matches.npz")
    again = Matches.load(tmp_path / "matches.npz")
    for field in fields(Matches):
        one, other = getattr(matches, field.name), getattr(again, field.name)
        assert np.array_equal(one, other, equal_nan=field.name in ("absent", "recalls"))
        assert np.asarray(one).dtype == np.asarray(other).dtype
    assert again.values() == pytest.approx(matches.values(), nan_ok=True)


def write_detection(folder: Path, method: str, matches: Matches, **changes: Any) -> None:
    matches.save(store(folder, []) / f"matches_{method}.npz")
    details = {"matches": f"matches_{method}.npz", "run_seed": 0}
    for metric in ("AP", "AP50"):
        line = {"method": method, "task": "detection", "metric": metric, "num_examples": matches.num_images, **changes}
        store(folder, [measured(line.pop("value", matches.values()[metric]), details=details, **line)])


def test_average_precision_is_compared_from_saved_matches(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    both = [detected(draw, share) for share in (0.5, 0.7)]
    for method, each in zip(METHODS, both, strict=True):
        write_detection(tmp_path / method, method, voc_matches(*each))
    found = only(compared(tmp_path))  # AP alone: AP50 would count the same images again

    def value(rows: Ints) -> float:
        """Of squares that are found exactly or not at all, by the 11-point rule of the classes' curves."""
        return squares(*both[0], rows) - squares(*both[1], rows)

    def squares(truth: Truth, detections: Detections, rows: Ints) -> float:
        right = np.array([(truth.box[i] == detections.box[i]).all() for i in range(len(truth.image))])
        counts = np.bincount(rows, minlength=40)[truth.image]
        repeated = np.repeat(np.arange(len(right)), counts)
        of_class = [repeated[truth.label[repeated] == label] for label in (0, 1)]
        return float(np.mean([curve(right[each], detections.score[each]) for each in of_class]))

    def curve(right: npt.NDArray[np.bool_], score: Floats) -> float:
        order = np.argsort(-score, kind="stable")
        hits = np.cumsum(right[order])
        precision, recall = hits / np.arange(1, len(right) + 1), hits / len(right)
        return float(np.mean([precision[recall >= level].max(initial=0) for level in np.arange(0.0, 1.1, 0.1)]))

    everything = np.arange(40)
    check(found, [squares(*each, everything) for each in both], deviation_of_difference(value, 40, 400))
    assert found.column.metric == "AP"


def label_maps(draw: np.random.Generator, share: float, truth: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    wrong = draw.integers(CLASSES, size=truth.shape, dtype=np.uint8)
    shown = np.where(truth == 255, wrong, truth)
    return np.where(draw.random(truth.shape) < share * draw.random((len(truth), 1, 1)), shown, wrong)


def write_segmentation(
    folder: Path, method: str, truth: npt.NDArray[np.uint8], maps: npt.NDArray[np.uint8], **changes: Any
) -> None:
    cells = [confusion(*pair, CLASSES) for pair in zip(truth, maps, strict=True)]
    confusions = Confusions.of(cells, [f"image {i}" for i in range(len(truth))], CLASSES)
    confusions.save(store(folder, []) / "confusions.npz")
    for metric, value in confusions.values().items():
        line = {"method": method, "task": "segmentation", "metric": metric, "num_examples": len(truth), **changes}
        store(folder, [measured(value, details={"confusions": "confusions.npz", "run_seed": 0}, **line)])


def mean_iou(truth: npt.NDArray[np.uint8], maps: npt.NDArray[np.uint8]) -> float:
    labelled = truth != 255
    shares = []
    for label in range(CLASSES):
        shown, taken = (truth == label) & labelled, (maps == label) & labelled
        if (shown | taken).any():
            shares.append((shown & taken).sum() / (shown | taken).sum())
    return float(np.mean(shares))


def test_mean_iou_is_compared_from_confusions(tmp_path: Path) -> None:
    draw = np.random.default_rng(6)
    truth = draw.choice(np.array([0, 1, 2, 3, 255], np.uint8), p=[0.5, 0.3, 0.1, 0.05, 0.05], size=(30, 8, 8))
    both = [label_maps(draw, share, truth) for share in (0.9, 1.0)]
    for method, maps in zip(METHODS, both, strict=True):
        write_segmentation(tmp_path / method, method, truth, maps)
    found = only(compared(tmp_path))
    values = [mean_iou(truth, maps) for maps in both]
    deviation = deviation_of_difference(
        lambda rows: mean_iou(truth[rows], both[0][rows]) - mean_iou(truth[rows], both[1][rows]), 30, 400
    )
    check(found, values, deviation)


# Seeds.


def seeds_of(draw: np.random.Generator, labels: Ints, shares: Sequence[float]) -> list[Ints]:
    return [answers(labels, share, draw) for share in shares]


def expected_of(labels: Ints, first: Sequence[Sequence[Ints]], second: Sequence[Sequence[Ints]]) -> Any:
    """significance.compare of the mean of every seed's runs, on resamples of its own."""
    draw = np.random.default_rng(99)
    counts = draw.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=2000)
    right = [np.array([np.mean([labels == run for run in runs], axis=0) for runs in each]) for each in (first, second)]
    return significance.compare(
        *(significance.Runs(each.mean(axis=1), counts @ each.T / len(labels)) for each in right)
    )


def check_seeds(task: Compared, expected: Any) -> None:
    assert task.comparison.difference == pytest.approx(expected.difference)
    width = task.comparison.high - task.comparison.low
    assert width == pytest.approx(expected.high - expected.low, rel=0.08)
    assert task.comparison.p == pytest.approx(expected.p, rel=0.25)
    assert task.comparison.degrees == pytest.approx(expected.degrees, rel=0.25)


def test_several_seeds_are_the_outer_level_and_their_own_runs_one_value(tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    labels = draw.integers(CLASSES, size=150)
    runs = {method: [seeds_of(draw, labels, (share, share)) for share in (0.6, 0.65, 0.7)] for method in METHODS}
    for method, seed, run in itertools.product(METHODS, range(3), range(2)):
        answer = runs[method][seed][run]
        changes = {"method": method, "seed": seed, "task": "probe", "num_examples": 150, "details": {"run_seed": run}}
        predicted(tmp_path, {"labels": labels, "predicted": answer}, share_right(labels, answer), **changes)
    found = only(compared(tmp_path))
    assert found.num_runs == (3, 3)
    check_seeds(found, expected_of(labels, *runs.values()))


def test_one_run_against_several_seeds_is_compared_by_their_deviation(tmp_path: Path) -> None:
    draw = np.random.default_rng(8)
    labels = draw.integers(CLASSES, size=150)
    runs = {METHODS[0]: seeds_of(draw, labels, (0.5, 0.6, 0.7)), METHODS[1]: seeds_of(draw, labels, (0.7,))}
    for method, of_method in runs.items():
        for seed, answer in enumerate(of_method):
            changes = {"method": method, "seed": seed, "num_examples": 150}
            predicted(tmp_path, {"labels": labels, "predicted": answer}, share_right(labels, answer), **changes)
    found = only(compared(tmp_path))
    assert found.num_runs == (3, 1)
    check_seeds(found, expected_of(labels, *([[run] for run in each] for each in runs.values())))
    assert "McNemar" not in found.test


def test_runs_on_top_of_one_checkpoint_are_the_outer_level_where_there_is_no_other(tmp_path: Path) -> None:
    draw = np.random.default_rng(9)
    labels = draw.integers(CLASSES, size=150)
    runs = {method: seeds_of(draw, labels, (0.6, 0.7)) for method in METHODS}
    for method, of_method in runs.items():
        for run, answer in enumerate(of_method):
            changes = {"method": method, "task": "probe", "num_examples": 150, "details": {"run_seed": run}}
            predicted(tmp_path, {"labels": labels, "predicted": answer}, share_right(labels, answer), **changes)
    found = only(compared(tmp_path))
    assert found.num_runs == (2, 2)
    check_seeds(found, expected_of(labels, *([[run] for run in each] for each in runs.values())))


# Equality.


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_equal_predictions_differ_in_nothing(num_seeds: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(10)
    labels = draw.integers(CLASSES, size=50)
    for seed in range(num_seeds):
        answer = answers(labels, 0.6, draw)
        for method, metric in itertools.product(METHODS, ("accuracy", "mean_per_class")):
            value = (share_right if metric == "accuracy" else per_class)(labels, answer)
            changes = {"method": method, "seed": seed, "metric": metric, "dataset": metric, "num_examples": 50}
            predicted(tmp_path, {"labels": labels, "predicted": answer}, value, **changes)
    paired = compared(tmp_path)
    for each in paired.tasks:
        assert each.comparison.difference == 0
        assert each.comparison.low <= 0 <= each.comparison.high
        assert each.comparison.p == pytest.approx(1)
        assert each.adjusted == 1
    assert paired.ranks == (1.5, 1.5, 2, 1.0)


@pytest.mark.parametrize(("num_seeds", "num_tasks"), [(1, 250), (3, 150)])
def test_false_alarms_of_equal_methods_are_at_most_six_per_cent(
    num_seeds: int, num_tasks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_comparison, "_RESAMPLES", 100)  # the simulation repeats what draws would smooth
    draw, size = np.random.default_rng(num_seeds), 80
    moved = 0.05 if num_seeds > 1 else 0  # of one run each nothing is said of other seeds
    for task in range(num_tasks):
        labels = np.zeros(size, np.int64)
        difficulty = draw.beta(2, 1, size)  # common to all runs
        for method, seed in itertools.product(METHODS, range(num_seeds)):
            wrong = draw.random(size) >= np.clip(difficulty + draw.normal(0, moved), 0, 1)
            changes = {"method": method, "seed": seed, "dataset": f"set {task}", "num_examples": size}
            predicted(tmp_path, {"labels": labels, "predicted": wrong.astype(np.int64)}, 1 - wrong.mean(), **changes)
    tasks = compared(tmp_path).tasks
    assert len(tasks) == num_tasks
    alarms = np.mean([each.comparison.p < 0.05 for each in tasks])
    assert 0 < alarms <= 0.06
    assert not any(each.adjusted < 0.05 for each in tasks)


# Several tasks.


def ten_tasks(folder: Path, draw: np.random.Generator, num_tasks: int = 10) -> list[tuple[float, float]]:
    """Both methods on several data sets; returns their accuracies."""
    values = []
    for task in range(num_tasks):
        labels = draw.integers(CLASSES, size=120)
        first = answers(labels, 0.6, draw)
        both = first, answers(labels, 0.6 + 0.02 * task, draw, first)
        values.append((share_right(labels, both[0]), share_right(labels, both[1])))
        for method, answer, value in zip(METHODS, both, values[-1], strict=True):
            changes = {"method": method, "dataset": f"set {task}", "num_examples": 120}
            predicted(folder, {"labels": labels, "predicted": answer}, value, **changes)
    return values


def test_holm_corrects_over_the_tasks_and_ranks_are_over_their_data_sets(tmp_path: Path) -> None:
    values = np.array(ten_tasks(tmp_path, np.random.default_rng(11)))
    paired = compared(tmp_path)
    assert np.array([(each.first, each.second) for each in paired.tasks]) == pytest.approx(values)
    ps = [each.comparison.p for each in paired.tasks]
    # Holm 1979: the largest over the smaller ones of each p times how many are at least as large
    ordered = sorted(ps)
    expected = [min(1, max((10 - rank) * ordered[rank] for rank in range(ordered.index(p) + 1))) for p in ps]
    assert [each.adjusted for each in paired.tasks] == pytest.approx(expected)
    assert paired.ranks is not None
    wins, ties = (values[:, 0] > values[:, 1]).sum(), (values[:, 0] == values[:, 1]).sum()
    first = (1 * wins + 1.5 * ties + 2 * (10 - wins - ties)) / 10
    assert paired.ranks[:3] == pytest.approx((first, 3 - first, 10))
    right = np.rint(120 * values)  # in images, whose differences are equal where they should be
    assert paired.ranks[3] == pytest.approx(stats.wilcoxon(right[:, 0], right[:, 1]).pvalue)


def test_as_many_right_answers_to_other_images_are_a_tie(tmp_path: Path) -> None:
    draw = np.random.default_rng(23)
    for task in range(6):
        labels = np.zeros(377, np.int64)
        for method in METHODS:
            answer = draw.permutation(np.arange(377) < 120 + task).astype(np.int64)
            changes = {"method": method, "dataset": f"set {task}", "num_examples": 377}
            predicted(tmp_path, {"labels": labels, "predicted": answer}, share_right(labels, answer), **changes)
    paired = compared(tmp_path)
    assert all(each.first == pytest.approx(each.second, abs=1e-12) for each in paired.tasks)
    assert paired.ranks == (1.5, 1.5, 6, 1.0)


def test_a_data_set_by_two_protocols_is_one_in_the_ranks(tmp_path: Path) -> None:
    draw = np.random.default_rng(12)
    labels = draw.integers(CLASSES, size=60)
    for protocol, method in itertools.product(("native", "ericsson"), METHODS):
        answer = answers(labels, 0.6, draw)
        changes = {"method": method, "protocol": protocol, "settings": {"name": protocol}, "num_examples": 60}
        predicted(tmp_path, {"labels": labels, "predicted": answer}, share_right(labels, answer), **changes)
    paired = compared(tmp_path)
    assert len(paired.tasks) == 2
    assert paired.ranks is None or paired.ranks[2] == 1


def test_ranks_hold_only_methods_on_all_data_sets_of_one_protocol(tmp_path: Path) -> None:
    shares = {"simsiam": (0.5, 0.6, 0.7), "byol": (0.6, 0.6, 0.8), "moco": (0.4, 0.5, None)}
    for method, values in shares.items():
        for dataset, value in zip("xyz", values, strict=True):
            if value is not None:
                store(tmp_path, [measured(value, method=method, dataset=dataset)])
                store(tmp_path, [measured(value, method=method, dataset=dataset, task="knn")])
                store(tmp_path, [measured(0.1, method=method, dataset=dataset, metric="calibration_error")])
    store(tmp_path, [measured(0.9, method="moco", dataset="z", settings={"name": "another"})])
    titles, scores, columns = ranked(rows_in(tmp_path))
    assert [title.partition(",")[0] for title in titles] == ["simsiam", "byol"]
    assert [column.dataset for column in columns] == ["x", "y", "z"]
    assert scores.tolist() == [[0.5, 0.6], [0.6, 0.6], [0.7, 0.8]]


def test_two_tests_of_a_data_set_are_one_in_the_ranks(tmp_path: Path) -> None:
    lines = [
        measured(0.5 + 0.1 * (split == "val"), method=method, split=split)
        for method, split in itertools.product(METHODS, ("val", "test"))
    ]
    _, _, columns = ranked(rows_in(store(tmp_path, lines)))
    assert len({column.dataset for column in columns}) == len(columns)


def test_tasks_by_other_protocols_or_on_other_data_are_named_with_what_differs(tmp_path: Path) -> None:
    draw = np.random.default_rng(13)
    ten_tasks(tmp_path, draw, 1)
    other = {**SETTINGS, "size": 224}
    lines = [measured(0.5, dataset="resized"), measured(0.5, dataset="resized", method=METHODS[1], settings=other)]
    lines += [
        measured(0.5, dataset="moved"),
        measured(0.5, {"data": "ffffffffffff"}, dataset="moved", method=METHODS[1]),
    ]
    lines += [measured(0.5, dataset="alone")]
    paired = compared(store(tmp_path, lines))
    assert [each.column.dataset for each in paired.tasks] == ["set 0"]
    resized, moved = sorted(paired.problems, reverse=True)
    assert resized.startswith("resized, accuracy: not compared: native-path (")
    assert all(digest(json.dumps(each))[:12] in resized for each in (SETTINGS, other))
    assert "size: None and 224" in resized
    assert moved.startswith("moved, accuracy: not compared")
    assert "the data" in moved


def test_methods_without_a_shared_task_are_refused(tmp_path: Path) -> None:
    store(tmp_path, [measured(0.5, dataset="one"), measured(0.5, dataset="two", method=METHODS[1])])
    with pytest.raises(InputError, match=r"share no task"):
        compared(tmp_path)


# Predictions that do not fit.

Archive = dict[str, npt.NDArray[Any]]


def _spoiled() -> Iterator[tuple[str, Callable[[Archive], Archive | bytes | None], str]]:
    """Changes of one method's stored predictions, and words that name the trouble."""
    yield "missing", lambda arrays: None, "not found"
    yield "truncated", lambda arrays: b"PK\x03\x04 but no more", "no NumPy archive"
    yield "without labels", lambda arrays: {"predicted": arrays["predicted"]}, "labels"
    yield "of other answers", lambda arrays: {**arrays, "predicted": 3 - arrays["predicted"]}, "predictions"
    yield "of other labels", _relabelled, "test images or labels"
    yield "of fewer answers", lambda arrays: {**arrays, "predicted": arrays["predicted"][:-1]}, "predictions"
    yield "of no image", lambda arrays: {name: each[:0] for name, each in arrays.items()}, "predictions"
    yield "negative labels", lambda arrays: {**arrays, "labels": arrays["labels"] - 2}, "predictions"
    yield "labels between classes", lambda arrays: {**arrays, "labels": arrays["labels"] + 0.5}, "predictions"
    yield "a table of labels", lambda arrays: {**arrays, "labels": arrays["labels"][:, None]}, "predictions"
    yield "text", lambda arrays: {**arrays, "labels": arrays["labels"].astype(str)}, "predictions"


def _relabelled(arrays: Archive) -> Archive:
    """Another data set on which as many answers are right."""
    return {"labels": (arrays["labels"] + 1) % CLASSES, "predicted": (arrays["predicted"] + 1) % CLASSES}


SPOILED = {name: (change, told) for name, change, told in _spoiled()}


@pytest.mark.parametrize("metric", ["accuracy", "mean_per_class"])
@pytest.mark.parametrize("kind", list(SPOILED))
def test_predictions_that_do_not_fit_are_named_and_the_other_tasks_compared(
    kind: str, metric: str, tmp_path: Path
) -> None:
    draw = np.random.default_rng(14)
    ten_tasks(tmp_path / "good", draw, 2)
    labels = np.sort(draw.integers(CLASSES, size=60))
    for method in METHODS:
        arrays = {"labels": labels, "predicted": answers(labels, 0.6, draw)}
        value = (share_right if metric == "accuracy" else per_class)(*arrays.values())
        line = predicted(tmp_path, arrays, value, method=method, dataset="bad", metric=metric, num_examples=60)
    path, (change, told) = tmp_path / line.details["predictions"], SPOILED[kind]
    spoiled = change(arrays)
    path.unlink()
    if isinstance(spoiled, bytes):
        path.write_bytes(spoiled)
    elif spoiled is not None:
        np.savez(path, allow_pickle=False, **spoiled)
    paired = compared(tmp_path)
    assert [each.column.dataset for each in paired.tasks] == ["set 0", "set 1"]
    (problem,) = paired.problems
    assert problem.startswith(f"bad, {metric}: not compared: ")
    assert told in problem
    assert "\n" not in problem


def test_a_number_that_its_predictions_do_not_give_is_named_with_both(tmp_path: Path) -> None:
    draw = np.random.default_rng(15)
    ten_tasks(tmp_path / "good", draw, 1)
    labels = np.arange(100) % CLASSES
    for method, value in zip(METHODS, (1.0, 0.97), strict=True):
        predicted(tmp_path, {"labels": labels, "predicted": labels}, value, method=method, num_examples=100)
    (problem,) = compared(tmp_path).problems
    assert "97.0000" in problem
    assert "100.0000" in problem
    assert str(tmp_path / "results.jsonl") in problem


def test_lines_without_predictions_or_of_unknown_tasks_cost_no_other_task(tmp_path: Path) -> None:
    ten_tasks(tmp_path, np.random.default_rng(16), 1)
    for method in METHODS:
        lines = [measured(0.5, dataset="early", method=method)]
        lines += [measured(0.5, dataset="tomorrow", method=method, task="few-shot")]
        lines += [
            measured(0.5, dataset="boxes", method=method, task="detection", metric=name) for name in ("AP", "mIoU")
        ]
        store(tmp_path, lines)
    paired = compared(tmp_path)
    assert [each.column.dataset for each in paired.tasks] == ["set 0"]
    assert {problem.partition(",")[0] for problem in paired.problems} == {"early", "tomorrow", "boxes"}


def test_precisions_without_settings_are_compared_by_the_usual_curve(tmp_path: Path) -> None:
    labels, scores = np.array([[1], [0]] * 20, np.int8), np.arange(40, dtype=np.float32)[:, None]
    for method in METHODS:
        changes = {"method": method, "metric": "map_11point", "num_examples": 40, "details": {"settings": None}}
        value = eleven_points(labels, scores)
        predicted(tmp_path, {"labels": labels, "scores": scores}, value, **changes)
    assert only(compared(tmp_path)).comparison.difference == 0


@pytest.mark.parametrize("kind", ["objects in other images", "an image less", "an image more"])
def test_matches_of_other_boxes_are_not_compared(kind: str, tmp_path: Path) -> None:
    truth, found = detected(np.random.default_rng(17), 0.7)
    kept = truth.image != 7  # one image holds nothing, so that none can be taken for another one
    arrays = {name: getattr(truth, name)[kept] for name in ("image", "label", "box", "ignored", "area")}
    truth, found = replace(truth, **arrays), replace(found, label=np.where(kept, found.label, 1 - found.label))
    other = {
        "objects in other images": (replace(truth, image=39 - truth.image), replace(found, image=39 - found.image)),
        "an image less": of_images(truth, found, np.arange(39)),
        "an image more": (replace(truth, num_images=41), found),  # with nothing to be found
    }
    write_detection(tmp_path / "first", METHODS[0], voc_matches(truth, found))
    write_detection(tmp_path / "second", METHODS[1], voc_matches(*other[kind]), num_examples=40)
    with pytest.raises(InputError, match=r"test images or labels"):
        compared(tmp_path)


def _spoiled_matches() -> Iterator[tuple[str, Callable[[Archive], Archive | bytes | None]]]:
    yield "missing", lambda arrays: None
    yield "truncated", lambda arrays: b"PK\x03\x04"
    yield "without recalls", lambda arrays: {name: each for name, each in arrays.items() if name != "recalls"}
    yield "one image less", lambda arrays: {**arrays, "num_images": arrays["num_images"] - 1}
    yield "fewer points", lambda arrays: {**arrays, "point_image": arrays["point_image"][:-3]}
    yield "fewer curves", lambda arrays: {**arrays, "start": arrays["start"][:-1]}
    yield "text", lambda arrays: {**arrays, "right": arrays["right"].astype(str)}
    yield "numbers for tables", lambda arrays: dict.fromkeys(arrays, np.int64(1))  # type: ignore[arg-type]


SPOILED_MATCHES = dict(_spoiled_matches())


@pytest.mark.parametrize("kind", list(SPOILED_MATCHES))
def test_damaged_matches_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path, matches = tmp_path / "matches.npz", voc_matches(*detected(np.random.default_rng(18), 0.7))
    matches.save(path)
    with np.load(path) as archive:
        spoiled = SPOILED_MATCHES[kind](dict(archive))
    path.unlink()
    if isinstance(spoiled, bytes):
        path.write_bytes(spoiled)
    elif spoiled is not None:
        np.savez(path, allow_pickle=False, **spoiled)
    with pytest.raises(InputError, match=r"matches\.npz.*--eval-only"):
        Matches.load(path)


def test_segmentations_of_other_images_or_labels_are_named_and_others_compared(tmp_path: Path) -> None:
    draw = np.random.default_rng(19)
    truth = draw.integers(CLASSES, size=(12, 6, 6), dtype=np.uint8)
    for method in METHODS:
        write_segmentation(tmp_path / f"good {method}", method, truth, label_maps(draw, 0.8, truth))
    maps = label_maps(draw, 0.8, truth)
    for index, (other, answer) in enumerate(((truth[::-1], maps[::-1]), (3 - truth, 3 - maps), (truth[1:], maps[1:]))):
        dataset = {"dataset": f"bad {index}"}
        write_segmentation(tmp_path / f"one {index}", METHODS[0], truth, maps, **dataset)
        write_segmentation(tmp_path / f"other {index}", METHODS[1], other, answer, **dataset, num_examples=12)
    paired = compared(tmp_path)
    assert len(paired.tasks) == 1
    assert len(paired.problems) == 3
    assert all("expected the same" in problem for problem in paired.problems)


def test_a_metric_that_some_resamples_lack_is_compared_on_the_others(tmp_path: Path) -> None:
    truth, found = detected(np.random.default_rng(20), 0.7, num_images=4)
    kept = truth.image == 0  # a third of the resamples has no object
    arrays = {name: getattr(truth, name)[kept] for name in ("image", "label", "box", "ignored", "area")}
    for method, moved in zip(METHODS, (0.0, 400.0), strict=True):
        box = found.box.copy()
        box[kept] = truth.box[kept] + moved
        box[np.flatnonzero(kept)[0]] = truth.box[0]
        detections = replace(found, box=box)
        write_detection(tmp_path / method, method, coco_matches(replace(truth, **arrays), detections))
    task = only(compared(tmp_path))
    assert np.isfinite([task.comparison.p, task.comparison.low, task.comparison.high, task.comparison.detectable]).all()


def test_a_number_of_predictions_that_give_none_is_named(tmp_path: Path) -> None:
    ten_tasks(tmp_path, np.random.default_rng(21), 1)
    unlabelled, maps = np.full((4, 6, 6), 255, np.uint8), np.zeros((4, 6, 6), np.uint8)
    for method in METHODS:
        cells = [confusion(*pair, CLASSES) for pair in zip(unlabelled, maps, strict=True)]
        Confusions.of(cells, list("abcd"), CLASSES).save(tmp_path / f"{method}.npz")
        changes: Mapping[str, Any] = {"method": method, "task": "segmentation", "metric": "mIoU", "num_examples": 4}
        store(tmp_path, [measured(0.5, {"confusions": f"{method}.npz"}, **changes)])
    paired = compared(tmp_path)
    assert [each.column.metric for each in paired.tasks] == ["accuracy"]
    assert len(paired.problems) == 1


# Names.


def three(folder: Path) -> Path:
    """Two seeds of one method and one of another, with predictions."""
    draw = np.random.default_rng(22)
    labels = draw.integers(CLASSES, size=40)
    for method, seed in (("simsiam", 0), ("simsiam", 1), ("byol", 0)):
        answer = answers(labels, 0.6, draw)
        changes = {"method": method, "seed": seed, "num_examples": 40}
        predicted(folder, {"labels": labels, "predicted": answer}, share_right(labels, answer), **changes)
    return folder


def test_methods_are_found_by_title_by_a_part_and_by_digest(tmp_path: Path) -> None:
    rows = rows_in(three(tmp_path))
    titles = [row.title for row in rows]
    assert find_row(rows, titles[0]) == rows[0]
    assert find_row(rows, "byo") == rows[1]
    one = find_row(rows, digest("simsiam 1")[:10])
    assert one.checkpoints == [digest("simsiam 1")]
    assert one.title.startswith(titles[0])
    assert one.title not in titles
    (sample,) = one.samples.values()
    assert len(sample.values) == 1
    assert find_row(rows, digest("byol 0")).checkpoints == [digest("byol 0")]


def test_names_that_fit_none_or_several_are_refused_with_the_choices(tmp_path: Path) -> None:
    rows = rows_in(three(tmp_path))
    for name, told in (("moco", "fits no method"), ("resnet18", "fits several methods"), ("", "fits several methods")):
        with pytest.raises(InputError, match=told) as refused:
            find_row(rows, name)
        assert all(row.title in str(refused.value) for row in rows)


def test_a_title_that_is_part_of_another_one_is_found(tmp_path: Path) -> None:
    store(tmp_path, [measured(0.5, representation="simsiam"), measured(0.5, representation="simsiam-guided", seed=1)])
    rows = rows_in(tmp_path)
    assert find_row(rows, "simsiam").label == "simsiam"


def test_a_digest_of_one_checkpoint_read_in_two_ways_fits_several(tmp_path: Path) -> None:
    store(tmp_path, [measured(0.5), measured(0.6, {"reading": "own, resnet18, target"})])
    rows = rows_in(tmp_path)
    assert len(rows) == 2
    with pytest.raises(InputError, match=r"fits several"):
        find_row(rows, digest("simsiam 0")[:12])


def test_a_method_against_itself_is_refused_by_whatever_names(tmp_path: Path) -> None:
    rows = rows_in(three(tmp_path))
    own = digest("byol 0")
    for first, second in (("byol", "byo"), (own[:8], own), ("byol", own[:8]), ("simsiam", digest("simsiam 0")[:9])):
        with pytest.raises(InputError, match=r"expected two methods"):
            compare_rows(find_row(rows, first), find_row(rows, second), lambda line: None)


def test_two_seeds_of_a_method_can_be_compared_by_their_digests(tmp_path: Path) -> None:
    rows = rows_in(three(tmp_path))
    both = [find_row(rows, digest(f"simsiam {seed}")[:8]) for seed in range(2)]
    paired = compare_rows(*both, lambda line: None)
    assert paired.tasks[0].num_runs == (1, 1)
    assert "McNemar" in paired.tasks[0].test
