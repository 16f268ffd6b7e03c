"""From records to the cells of tables: which runs are one method, which numbers share a column, and what they say."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from transfer import significance
from transfer.report_records import Record, data_of
from transfer.results import Result
from transfer.significance import Comparison, Interval
from transfer.training_folder import differences

# one number for each evaluation: others of the same predictions say nothing new
MAIN_METRICS = ("accuracy", "mean_per_class", "map_11point", "AP", "mIoU")

_NORMAL = 3.92  # widths of a standard error in a 95 % interval of the normal distribution: 2 * 1.96


class Column(NamedTuple):
    """Numbers that may be compared: of one task, data, protocol and metric.

    Attributes:
        task: as in results, like the others.
        dataset: name.
        split: name.
        metric: name.
        protocol: name.
        protocol_hash: of all its settings.
        data: fingerprint.
        num_examples: that are tested on.
    """

    task: str
    dataset: str
    split: str
    metric: str
    protocol: str
    protocol_hash: str
    data: str
    num_examples: int


def column_of(result: Result) -> Column:
    """The column of a result."""
    return Column(
        *(result.task, result.dataset, result.split, result.metric),
        *(result.protocol, result.protocol_hash, data_of(result), result.num_examples),
    )


@dataclass(frozen=True)
class Sample:
    """What the runs of a method say in a column.

    Attributes:
        records: of all runs.
        values: one for each seed of pretraining, (n,): the mean of what was trained on top of it.
    """

    records: tuple[Record, ...]
    values: tuple[float, ...]

    @property
    def on_top(self) -> tuple[float, ...]:
        """The values of several trainings on top of one checkpoint; empty if there are none.

        They are no seeds of the method: the next checkpoint may differ by more than they do.
        """
        several = len(self.values) == 1 and len(self.records) > 1
        return tuple(float(record.result.value) for record in self.records) if several else ()

    @cached_property
    def mean(self) -> float:
        """Of the values."""
        return float(np.mean(self.values))

    @property
    def is_of_one_seed(self) -> bool:
        """Whether other seeds may give other values, and there is one; raw pixels have no seed."""
        result = self.records[0].result
        return len(self.values) == 1 and (result.seed is not None or result.checkpoint_sha256 is not None)

    @property
    def deviation(self) -> float | None:
        """Of the values; None for a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @cached_property
    def interval(self) -> Interval | None:
        """Of the mean over seeds by Student's t; of a single run, over its test examples; None if it is not known."""
        if len(self.values) > 1:
            return significance.seed_interval(self.values)
        if len(self.records) == 1:
            interval = self.records[0].result.interval
            return interval if np.isfinite(interval).all() else None
        half = _NORMAL / 2 * self.image_variance**0.5
        return (self.mean - half, self.mean + half) if np.isfinite(half) else None

    @property
    def image_variance(self) -> float:
        """Of the mean, over test examples, as large as that of a run: they see the same ones, and err alike.

        Infinite where no run tells its interval: then nothing is significant.
        """
        widths = [record.result.interval[1] - record.result.interval[0] for record in self.records]
        known = [width for width in widths if np.isfinite(width)]
        return float(np.mean([(width / _NORMAL) ** 2 for width in known])) if known else float("inf")

    def against(self, other: "Sample") -> Comparison:
        """How it differs from another one of the same column."""
        return significance.compare_recorded(self.values, other.values, (self.image_variance, other.image_variance))


@dataclass(frozen=True)
class Row:
    """A method: runs that differ in their seeds alone.

    Attributes:
        title: in words, unlike all others'.
        label: the results' representation.
        source: of its first checkpoint, as in results' details; empty for a control.
        samples: by column.
        key: of all its results, see `row_key`.
    """

    title: str
    label: str
    source: Mapping[str, Any]
    samples: Mapping[Column, Sample]
    key: tuple[Any, ...] = ()

    @property
    def records(self) -> list[Record]:
        """All of its records."""
        return [record for sample in self.samples.values() for record in sample.records]

    @property
    def checkpoints(self) -> list[str]:
        """The sha256 of its checkpoints, each once."""
        found = (record.result.checkpoint_sha256 for record in self.records)
        return list(dict.fromkeys(each for each in found if each))


_Key = tuple[Any, ...]


def rows_of(records: Sequence[Record]) -> tuple[list[Row], list[str]]:
    """Methods with their numbers, in the order of their first record, and what there is to say about them.

    Runs are one method if their checkpoints say so: by method, architecture, data set, epochs, reading and recipe. A
    foreign file does not say of which seed it is: it is a method of its own.

    Args:
        records: each measurement once.
    """
    groups: dict[_Key, list[Record]] = defaultdict(list)
    for record in _completed(records):
        groups[row_key(record.result)].append(record)
    groups, told = _split(groups)
    told += _unknown_recipes(groups)
    titles = _titles(groups)
    rows = []
    for key, group in groups.items():
        columns: dict[Column, list[Record]] = defaultdict(list)
        for record in group:
            columns[column_of(record.result)].append(record)
        samples = {column: sample_of(each) for column, each in columns.items()}
        first = group[0].result
        rows.append(Row(titles[key], first.representation, source_of(first), samples, row_key(first)))
    return rows, told


def _completed(records: Sequence[Record]) -> Iterator[Record]:
    """Lines of an earlier version do not say what a checkpoint says of itself; others of the same checkpoint may."""
    said = {record.result.checkpoint_sha256: source for record in records if (source := source_of(record.result))}
    for record in records:
        known = said.get(record.result.checkpoint_sha256)
        if record.result.checkpoint_sha256 and known and not source_of(record.result):
            details = {**record.result.details, "source": known}
            record = record._replace(result=replace(record.result, details=details))
        yield record


def source_of(result: Result) -> dict[str, Any]:
    """What a result's details say of the checkpoint; empty for a control, or of lines that do not say it."""
    source = result.details.get("source")
    return source if isinstance(source, dict) else {}


def row_key(result: Result) -> tuple[Any, ...]:
    """What results of one method have in common."""
    source = source_of(result)
    own = result.checkpoint_sha256 if result.seed is None else None
    return (
        *(result.representation, result.details.get("reading"), source.get("recipe")),
        *(source.get("batch_size"), own),
    )


def _split(groups: Mapping[_Key, list[Record]]) -> tuple[dict[_Key, list[Record]], list[str]]:
    """Make several rows of a group in which one seed has several checkpoints: they are not repeats of one recipe."""
    split, told = dict[_Key, list[Record]](), list[str]()
    for key, group in groups.items():
        by_seed: dict[int | None, set[str | None]] = defaultdict(set)
        for record in group:
            by_seed[record.result.seed].add(record.result.checkpoint_sha256)
        if all(len(each) == 1 for each in by_seed.values()):
            split[key] = group
            continue
        for record in group:
            split.setdefault((*key, record.result.checkpoint_sha256), []).append(record)
        seed, several = next((seed, each) for seed, each in by_seed.items() if len(each) > 1)
        told.append(
            f"{len(several)} checkpoints call themselves {group[0].result.representation}, seed {seed}: each has a row "
            "of its own, since they cannot be repeats of one recipe"
        )
    return split, told


def _unknown_recipes(groups: Mapping[_Key, Sequence[Record]]) -> list[str]:
    """Rows whose checkpoints do not say whether they are of one recipe, which is not known then."""
    told = []
    for group in groups.values():
        first = group[0].result
        checkpoints = {record.result.checkpoint_sha256 for record in group}
        if first.checkpoint_sha256 and len(checkpoints) > 1 and not source_of(first).get("recipe"):
            told.append(
                f"{len(checkpoints)} checkpoints of {first.representation} do not say their recipe (an earlier version "
                "wrote them): they are taken for seeds of one, which may be wrong"
            )
    return told


def _titles(groups: Mapping[_Key, Sequence[Record]]) -> dict[_Key, str]:
    """As long as is needed to tell the rows apart."""
    candidates = {}
    for key, group in groups.items():
        result = group[0].result
        source = source_of(result)
        batch = f", batch {source['batch_size']}" if source.get("batch_size") else ""
        recipe = f", recipe {source['recipe']}" if source.get("recipe") else ""
        sha256 = f", {result.checkpoint_sha256[:8]}" if result.checkpoint_sha256 else ""
        reading = f", read as {result.details.get('reading')}"
        base = result.representation
        parts = (base, base + batch, base + batch + recipe, base + batch + recipe + sha256)
        candidates[key] = (*parts, base + sha256 + reading, base + batch + recipe + sha256 + reading)
    used = Counter(name for names in candidates.values() for name in set(names))
    return {key: next((name for name in names if used[name] == 1), names[-1]) for key, names in candidates.items()}


def sample_of(records: Iterable[Record]) -> Sample:
    """What some runs of a method say, in one column."""
    records = tuple(records)
    by_seed: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for record in records:
        by_seed[record.result.seed, record.result.checkpoint_sha256].append(float(record.result.value))
    return Sample(records, tuple(float(np.mean(each)) for each in by_seed.values()))


def unlike(one: Column, first: Sample, other: Column, second: Sample) -> list[str]:
    """In what two columns of one data set and metric differ: settings, split, images or data.

    Args:
        one: a column.
        first: one of its samples.
        other: another column.
        second: one of its samples.
    """
    if one.protocol_hash != other.protocol_hash:
        ours, theirs = (each.records[0].result.details.get("settings") for each in (first, second))
        known = isinstance(ours, dict) and isinstance(theirs, dict)
        return differences(ours, theirs) if known else ["settings that their lines do not tell"]
    if one.split != other.split:
        return [f"the split: {one.split} and {other.split}"]
    if one.num_examples != other.num_examples:
        return [f"the number of images: {one.num_examples} and {other.num_examples}"]
    return ["the data: other images or labels"]


def significantly_best(samples: Mapping[Any, Sample], *, level: float = 0.05) -> Any:
    """Which of several methods is better than every other, Holm's correction over them applied; None if none is.

    Where a method has a single seed, nothing is known of its other seeds, and none is better than every other.

    Args:
        samples: of one column.
        level: of the tests together.
    """
    if len(samples) < 2:
        return None
    best = max(samples, key=lambda key: samples[key].mean)
    others = [sample for key, sample in samples.items() if key != best]
    if any(sample.is_of_one_seed for sample in samples.values()):
        return None
    ps = significance.holm([samples[best].against(other).p for other in others])
    return best if max(ps) < level else None
