"""Two methods compared on what their runs have stored of every test image."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from converters.errors import InputError, first_few
from transfer import metrics, significance
from transfer.archives import read_archive
from transfer.detection_curves import Matches
from transfer.report_records import Record
from transfer.report_rows import MAIN_METRICS, Column, Row, Sample, sample_of, unlike
from transfer.segmentation_metrics import METRICS as SEGMENTATION_METRICS
from transfer.segmentation_metrics import Confusions, draws
from transfer.significance import Comparison, Floats, Runs

_RESAMPLES, _SEED = 1000, 0
_FEWEST_RESAMPLES = 100  # from which a variance is known within a seventh
_EQUAL = 1e-6  # a stored number and that of its predictions, which are stored in single precision


@dataclass(frozen=True)
class Compared:
    """Two methods on a task.

    Attributes:
        column: the task.
        first: the mean of the first one.
        second: of the second one.
        num_runs: of both.
        comparison: the first less the second.
        test: the p value's, in words.
        adjusted: p value with Holm's correction over all tasks.
    """

    column: Column
    first: float
    second: float
    num_runs: tuple[int, int]
    comparison: Comparison
    test: str
    adjusted: float


@dataclass(frozen=True)
class Paired:
    """Two methods on all tasks that both have.

    Attributes:
        first: title of the first one.
        second: of the second one.
        tasks: that they were compared on.
        ranks: their mean ranks over the data sets of linear transfer, with their number and Wilcoxon's p value; None
            where there are fewer than two.
        problems: what was not compared, and why.
    """

    first: str
    second: str
    tasks: tuple[Compared, ...]
    ranks: tuple[float, float, int, float] | None
    problems: tuple[str, ...]


class _Run(NamedTuple):
    """A run's number on the test images and on resamples of them.

    Attributes:
        value: on all images.
        drawn: on resamples, (R,).
        shares: what each image adds to the value, (N,); None where it is no sum over images.
    """

    value: float
    drawn: Floats
    shares: Floats | None = None


def find_row(rows: Sequence[Row], name: str) -> Row:
    """The method that a user names.

    Args:
        rows: to choose from.
        name: a title, a part that no other title has, or the first digits of a checkpoint's sha256: then this
            checkpoint alone.

    Raises:
        InputError: none or several fit.
    """
    exact = [row for row in rows if row.title == name]
    by_digest = [(row, each) for row in rows for each in row.checkpoints if len(name) >= 6 and each.startswith(name)]
    if len(by_digest) == 1 and not exact:
        return _only(*by_digest[0])
    found = exact or [row for row, _ in by_digest] or [row for row in rows if name in row.title]
    if len(found) != 1:
        names = first_few([row.title for row in found or rows], 12)
        what = "fits several methods" if found else "fits no method"
        raise InputError(f"--compare: '{name}' {what}; expected a name, a part that no other has, or a sha256: {names}")
    return found[0]


def _only(row: Row, sha256: str) -> Row:
    """A method's runs of one checkpoint."""
    samples = {}
    for column, sample in row.samples.items():
        records = tuple(record for record in sample.records if record.result.checkpoint_sha256 == sha256)
        if records:
            samples[column] = sample_of(records)
    return replace(row, title=f"{row.title}, {sha256[:8]}", samples=samples)


def check_two(first: Row, second: Row) -> None:
    """Refuse to compare a method with itself.

    Raises:
        InputError: they are one method, or one is a part of the other.
    """
    if first.title == second.title or set(first.checkpoints) & set(second.checkpoints):
        raise InputError(f"--compare: expected two methods, got one: {first.title} and {second.title} share runs")


def compare_rows(first: Row, second: Row, say: Callable[[str], None]) -> Paired:
    """Paired tests of two methods on every task that both were measured on by one protocol.

    Args:
        first: a method.
        second: another one.
        say: is told which task is being compared.

    Raises:
        InputError: they share no task, or are one method.
    """
    check_two(first, second)
    columns = [column for column in first.samples if column in second.samples and column.metric in MAIN_METRICS]
    compared, problems = [], list(_unshared(first, second))
    for column in columns:
        say(f"comparing on {column.dataset}, {column.metric} ({column.protocol})")
        try:
            compared.append(_compare(column, first.samples[column], second.samples[column]))
        except InputError as error:
            problems.append(f"{column.dataset}, {column.metric}: not compared: {error}")
    if not compared:
        why = f": {problems[0]}" if problems else ""
        raise InputError(f"--compare: {first.title} and {second.title} share no task with stored predictions{why}")
    adjusted = significance.holm([each.comparison.p for each in compared])
    tasks = tuple(replace(each, adjusted=p) for each, p in zip(compared, adjusted, strict=True))
    return Paired(first.title, second.title, tasks, _ranks(compared), tuple(problems))


def _unshared(first: Row, second: Row) -> Iterator[str]:
    """Tasks that both have, by other protocols or on other data."""
    for column in first.samples:
        kind = column.task, column.dataset, column.metric
        alike = [each for each in second.samples if (each.task, each.dataset, each.metric) == kind]
        if column.metric in MAIN_METRICS and alike and column not in second.samples:
            told = first_few(unlike(column, first.samples[column], alike[0], second.samples[alike[0]]))
            yield (
                f"{column.dataset}, {column.metric}: not compared: {column.protocol} ({column.protocol_hash}) and "
                f"{alike[0].protocol} ({alike[0].protocol_hash}) differ in {told}"
            )


def _ranks(compared: Sequence[Compared]) -> tuple[float, float, int, float] | None:
    linear = [each for each in compared if each.column.task == "linear"]
    protocols = [each.column.protocol_hash for each in linear]
    chosen = [each for each in linear if each.column.protocol_hash == max(protocols, key=protocols.count)]
    by_dataset = {each.column.dataset: [each.first, each.second] for each in chosen}
    if len(by_dataset) < 2:
        return None
    scores = np.array(list(by_dataset.values()))
    first, second = significance.mean_ranks(scores.round(12)).tolist()
    differ = (scores[:, 0] - scores[:, 1]).round(12)  # as many right answers more are ties, whatever their rounding
    p = float(stats.wilcoxon(differ).pvalue) if differ.any() else 1.0
    return first, second, len(scores), p


def _compare(column: Column, first: Sample, second: Sample) -> Compared:
    # with one pretraining on either side, what was trained on top of it may have several seeds
    on_top = len(first.values) == len(second.values) == 1 and bool(first.on_top or second.on_top)
    loaded = [_load(sample, column, on_top=on_top) for sample in (first, second)]
    if not _same(*(truth for truth, _ in loaded)):
        raise InputError("the stored predictions are of different test images or labels; evaluate both again")
    (runs_a, singles_a), (runs_b, singles_b) = (runs for _, runs in loaded)
    # a resample that has lost every object has no value; it is left out for both
    known = ~np.isnan(np.hstack([runs_a.drawn, runs_b.drawn])).any(axis=1)
    if known.sum() < _FEWEST_RESAMPLES:
        raise InputError(f"{_RESAMPLES - known.sum()} of {_RESAMPLES} resamples of the images have no object")
    runs_a, runs_b = (Runs(each.values, each.drawn[known]) for each in (runs_a, runs_b))
    comparison, test = significance.compare(runs_a, runs_b), "bootstrap over images"
    if len(runs_a.values) > 1 or len(runs_b.values) > 1:
        level = "seeds of the training on top of these two checkpoints alone" if on_top else "seeds"
        test = f"{level} by t, images by bootstrap"
    elif singles_a is not None and singles_b is not None:
        exact = column.metric == "accuracy"
        p = (
            significance.mcnemar(singles_a > 0, singles_b > 0)
            if exact
            else significance.sign_flips(singles_a - singles_b)
        )
        comparison, test = replace(comparison, p=p), "McNemar, exact" if exact else "permutation of images"
    num_runs = len(runs_a.values), len(runs_b.values)
    means = float(runs_a.values.mean()), float(runs_b.values.mean())
    return Compared(column, *means, num_runs, comparison, test, comparison.p)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Confusions):
        one.check_same_truth(other)
        return True
    return bool(np.array_equal(one, other))


def _load(sample: Sample, column: Column, *, on_top: bool) -> tuple[Any, tuple[Runs, Floats | None]]:
    """The truth of a method's runs, and the runs: of every seed the mean of its own; shares where there is one run."""
    by_seed: dict[tuple[Any, ...], list[_Run]] = defaultdict(list)
    truth: Any = None
    for record in sample.records:
        own, run = _read(record, column)
        if not abs(run.value - record.result.value) <= _EQUAL:
            raise InputError(
                f"{record.place} says {100 * record.result.value:.4f}, and the predictions that it names give "
                f"{100 * run.value:.4f}; evaluate again"
            )
        if truth is not None and not _same(truth, own):
            raise InputError(f"{record.place} is of other test images or labels than the other runs; evaluate again")
        truth = own
        outer = record.result.seed, record.result.checkpoint_sha256
        by_seed[(record.place,) if on_top else outer].append(run)
    values = np.array([np.mean([run.value for run in runs]) for runs in by_seed.values()])
    drawn = np.stack([np.mean([run.drawn for run in runs], axis=0) for runs in by_seed.values()], axis=1)
    singles = [run.shares for runs in by_seed.values() for run in runs]
    return truth, (Runs(values, drawn), singles[0] if len(singles) == 1 else None)


def _read(record: Record, column: Column) -> tuple[Any, _Run]:
    if column.task not in _READERS or column.metric not in _STORED[column.task]:
        raise InputError(f"{record.place}: nothing is stored of {column.task}, {column.metric}; evaluate again")
    return _READERS[column.task](record, column)


def _named(record: Record, name: str, what: str) -> Path:
    """A file that a result names."""
    file = record.result.details.get(name)
    if not isinstance(file, str):
        raise InputError(f"{record.place} names no {what}: it was written by an earlier version; evaluate again")
    return record.path.parent / file


def _read_predictions(record: Record, column: Column) -> tuple[Any, _Run]:
    content = read_archive(_named(record, "predictions", "predictions"), "predictions", "evaluate again")
    try:
        labels = content["labels"]
        answers = content["scores" if column.metric == "map_11point" else "predicted"]
        _check_predictions(record, labels, answers, 2 if column.metric == "map_11point" else 1)
        if column.metric == "map_11point":
            return labels, _ranking(record, labels, answers)
        return labels, _classes(column.metric, labels, answers)
    except KeyError as error:
        raise InputError(f"{record.place}: its predictions lack {error}; evaluate again") from error


def _check_predictions(
    record: Record, labels: npt.NDArray[Any], answers: npt.NDArray[Any], num_dimensions: int
) -> None:
    """Refuse arrays that are no predictions of the images of a line."""
    right = labels.dtype.kind in "iu" and answers.dtype.kind in ("f" if num_dimensions == 2 else "iu")
    right = right and labels.shape == answers.shape and labels.ndim == num_dimensions
    if not right or len(labels) != record.result.num_examples or labels.min() < 1 - num_dimensions:
        raise InputError(
            f"{record.place}: expected predictions of {record.result.num_examples} images, got labels "
            f"{labels.dtype} {labels.shape} and answers {answers.dtype} {answers.shape}; evaluate again"
        )


def _classes(metric: str, labels: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer]) -> _Run:
    right = (labels == predicted).astype(np.float64)
    of_class = np.bincount(labels)
    per_image = 1 / (of_class[labels] * (of_class > 0).sum()) if metric == "mean_per_class" else 1 / len(labels)
    shares = right * per_image
    if metric == "accuracy":
        drawn = np.concatenate([counts @ shares for counts in draws(len(labels), _RESAMPLES, _SEED)])
    else:
        drawn = np.concatenate(
            [_mean_per_class(counts, labels, right) for counts in draws(len(labels), _RESAMPLES, _SEED)]
        )
    return _Run(float(shares.sum()), drawn, shares)


def _mean_per_class(counts: Floats, labels: npt.NDArray[np.integer], right: Floats) -> Floats:
    """Mean per-class accuracy of resamples, (R,): a class that one has lost is left out, as in the metric."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    shown = np.add.reduceat(counts[:, order], starts, axis=1)
    found = np.add.reduceat((counts * right)[:, order], starts, axis=1)
    with np.errstate(invalid="ignore"):
        means: Floats = np.nanmean(found / shown, axis=1)
    return means


def _ranking(record: Record, labels: npt.NDArray[np.integer], scores: npt.NDArray[np.floating]) -> _Run:
    curve = bool((record.result.details.get("settings") or {}).get("reference_curve", False))
    value = partial(metrics.mean_average_precision, metrics.rank(labels, scores), reference_curve=curve)
    drawn = [value(row.astype(np.int64)) for counts in draws(len(labels), _RESAMPLES, _SEED) for row in counts]
    return _Run(value(None), np.array(drawn))


def _read_matches(record: Record, column: Column) -> tuple[Any, _Run]:
    matches = Matches.load(_named(record, "matches", "matches of detections"))
    drawn = matches.resampled(_RESAMPLES, _SEED)[column.metric]
    truth = np.concatenate([[matches.num_images], matches.sought_image, matches.sought_class])
    return truth, _Run(matches.values()[column.metric], drawn)


def _read_confusions(record: Record, column: Column) -> tuple[Any, _Run]:
    confusions = Confusions.load(_named(record, "confusions", "confusion matrices"))
    drawn = confusions.resampled(_SEED, _RESAMPLES)[:, SEGMENTATION_METRICS.index(column.metric)]
    return confusions, _Run(confusions.values()[column.metric], drawn)


_STORED = {
    **dict.fromkeys(("linear", "knn", "probe"), ("accuracy", "mean_per_class", "map_11point")),
    "detection": ("AP",),
    "segmentation": ("mIoU",),
}
_READERS: dict[str, Callable[[Record, Column], tuple[Any, _Run]]] = {
    **dict.fromkeys(("linear", "knn", "probe"), _read_predictions),
    "detection": _read_matches,
    "segmentation": _read_confusions,
}
