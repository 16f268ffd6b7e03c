"""The tables of a report, in the form of the GSG paper's Tables 1 to 4, with published numbers where they belong."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from converters.checkpoint import settings_hash
from transfer import tasks
from transfer.published import Published
from transfer.report_records import Record
from transfer.report_rows import MAIN_METRICS, Column, Row, Sample, column_of, row_key, significantly_best, unlike

METRICS = {
    **{"accuracy": "accuracy", "best_accuracy": "accuracy, best epoch", "mean_per_class": "mean per class"},
    **{"map_11point": "11-point mAP", "AP": "AP", "AP50": "AP50", "AP75": "AP75"},
    **{"mIoU": "mIoU", "aAcc": "pixel accuracy", "mAcc": "mean class accuracy"},
}
_KINDS = {"knn": "k-NN", "probe": "linear layer", "linear": "logistic regression"}
_DENSE_METRICS = ("AP50", "AP", "AP75", "mIoU", "aAcc")  # of Table 3

NO_RECORD, OTHER_PROTOCOL, CONTRADICTION = "no record", "another protocol", "contradicting records"
SEVERAL_RECIPES = "several recipes"


class Place(NamedTuple):
    """A column of a table: numbers that may be compared, of one batch size where the table is about it."""

    column: Column
    batch_size: int | None = None


@dataclass(frozen=True)
class Cell:
    """A number of a table, or why there is none.

    Attributes:
        sample: what our runs say; None for a published number and an empty cell.
        published: a published number, or None.
        best: whether it is significantly better than all others of ours in its column.
        why: there is no number; empty if there is one.
        left_out: how many of its measurements have contradicting values, and do not count.
    """

    sample: Sample | None = None
    published: Published | None = None
    best: bool = False
    why: str = ""
    left_out: int = 0


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: for files, e.g. ``"table-1"``.
        title: in words.
        places: the columns.
        headers: of each column, lines from the general to the special.
        rows: title and cells of each method.
        published: likewise of published numbers.
        notes: sentences below it.
    """

    name: str
    title: str
    places: tuple[Place, ...]
    headers: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    published: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Material:
    """What tables are made of.

    Attributes:
        rows: methods with their numbers.
        contradicting: one record of each measurement that has several values.
        published: numbers.
    """

    rows: Sequence[Row]
    contradicting: Sequence[Record]
    published: Sequence[Published]

    @cached_property
    def num_contradicting(self) -> Counter[tuple[Any, Column]]:
        """How many measurements have several values, by the key of a row and the column."""
        results = [record.result for record in self.contradicting]
        return Counter((row_key(each), column_of(each)) for each in results)

    @cached_property
    def by_title(self) -> dict[str, Row]:
        """The methods by their titles."""
        return {row.title: row for row in self.rows}


def build_tables(material: Material) -> list[Table]:
    """The tables that have a number of ours."""
    kinds: tuple[tuple[str, str, Callable[[Column], bool]], ...] = (
        ("table-1", "k-NN and linear layer", lambda c: c.task in ("knn", "probe") and c.metric in METRICS),
        ("table-2", "Linear transfer: logistic regression", lambda c: c.task == "linear" and c.metric in METRICS),
        ("table-3", "Detection and segmentation", lambda c: c.metric in _DENSE_METRICS),
    )
    tables = [_table(name, title, _by_column(material.rows, belongs), material) for name, title, belongs in kinds]
    tables.append(_table("table-4", "Batch size of pretraining", _by_batch_size(material.rows), material))
    return [table for table in tables if table.places]


Lines = dict[str, dict[Place, Sample]]  # samples by the title of their row


def _by_column(rows: Iterable[Row], belongs: Callable[[Column], bool]) -> Lines:
    lines = {row.title: {Place(c): sample for c, sample in row.samples.items() if belongs(c)} for row in rows}
    return {title: samples for title, samples in lines.items() if samples}


def _by_batch_size(rows: Iterable[Row]) -> Lines:
    """Methods that were pretrained with several batch sizes, each with a column for each size.

    Two recipes of one batch size differ in something else, so that they are no study of it: neither is shown.
    """
    found: dict[str, dict[Place, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        size = row.source.get("batch_size")
        for column, sample in row.samples.items():
            if isinstance(size, int) and column.task in ("linear", "probe") and column.metric in METRICS:
                found[row.label][Place(column, size)].append(sample)
    lines = {
        label: {place: samples[0] for place, samples in places.items() if len(samples) == 1}
        for label, places in found.items()
    }
    return {label: samples for label, samples in lines.items() if len({place.batch_size for place in samples}) > 1}


def _table(name: str, title: str, lines: Lines, material: Material) -> Table:
    places = _ordered({place for samples in lines.values() for place in samples})
    best = {
        place: significantly_best({row: samples[place] for row, samples in lines.items() if place in samples})
        for place in places
    }
    rows = []
    for row, samples in lines.items():
        own = material.by_title.get(row)
        cells = (
            Cell(
                samples[place],
                best=best[place] == row,
                left_out=_contradicting(own, place.column, material) if own else 0,
            )
            if place in samples
            else Cell(why=_why(row, place, samples, material))
            for place in places
        )
        rows.append((row, tuple(cells)))
    published = _published_rows(places, material.published)
    return Table(
        name, title, tuple(places), _headers(places), tuple(rows), published, tuple(_notes(rows, places, best))
    )


def _ordered(places: Iterable[Place]) -> list[Place]:
    """The benchmark's data sets in their published order, then others by name; metrics in the order of `METRICS`."""
    order = ("cifar10", *tasks.benchmark(), "imagenet", "voc_2007", "coco_2017", "ade20k")

    def key(place: Place) -> tuple[object, ...]:
        column = place.column
        known = order.index(column.dataset) if column.dataset in order else len(order)
        metric = _DENSE_METRICS.index(column.metric) if column.metric in _DENSE_METRICS else -1
        kind = list(_KINDS).index(column.task) if column.task in _KINDS else len(_KINDS)
        ours = column.protocol, column.protocol_hash, metric, list(METRICS).index(column.metric)
        return known, column.dataset, kind, *ours, place.batch_size or 0, column.data, column.split, column.num_examples

    return sorted(places, key=key)


def _headers(places: Sequence[Place]) -> tuple[tuple[str, ...], ...]:
    headers = [
        (
            place.column.dataset,
            ", ".join(filter(None, (_KINDS.get(place.column.task), METRICS[place.column.metric]))),
            f"{place.column.protocol} ({place.column.protocol_hash})",
            *([f"batch {place.batch_size}"] if place.batch_size else []),
        )
        for place in places
    ]
    data = [f"{c.split}, {c.num_examples} images" for c, _ in places]
    alike = Counter(headers)
    several = Counter(zip(headers, data, strict=True))
    return tuple(
        (
            *header,
            *([told] if alike[header] > 1 else []),
            *([f"data {_digest(place.column.data)}"] if several[header, told] > 1 else []),
        )
        for header, told, place in zip(headers, data, places, strict=True)
    )


def _digest(data: str) -> str:
    return settings_hash({"data": data})[:6]


def _why(row: str, place: Place, samples: Mapping[Place, Sample], material: Material) -> str:
    """Why a method has no number in a column."""
    column = place.column
    own = [each for each in material.rows if row == (each.title if place.batch_size is None else each.label)]
    if place.batch_size is not None:
        own = [each for each in own if each.source.get("batch_size") == place.batch_size]
    if any(_contradicting(each, column, material) for each in own):
        return CONTRADICTION
    if place.batch_size is not None:
        return SEVERAL_RECIPES if sum(column in each.samples for each in own) > 1 else NO_RECORD
    kind = column.task, column.dataset, column.metric
    same = any((each.column.task, each.column.dataset, each.column.metric) == kind for each in samples)
    return OTHER_PROTOCOL if same else NO_RECORD


def _contradicting(row: Row, column: Column, material: Material) -> int:
    """How many measurements of a row in a column have several values."""
    return material.num_contradicting[row.key, column]


def _published_rows(
    places: Sequence[Place], published: Sequence[Published]
) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    """The methods of published tables that have a number measured as one of the columns is."""
    rows: dict[str, dict[Place, Published]] = {}
    for number in published:
        for place in places:
            if _stands_in(number, place):
                row = rows.setdefault(number.named(batch=place.batch_size is None), {})
                assert place not in row, f"two numbers of {number.title} are called the same"
                row[place] = number
    return tuple(
        (name, tuple(Cell(published=row[place]) if place in row else Cell(why="not published") for place in places))
        for name, row in rows.items()
    )


def _stands_in(number: Published, place: Place) -> bool:
    column = place.column
    right_size = place.batch_size in (None, number.pretraining.get("batch_size"))
    return (
        number.measures_like(column) and right_size and number.procedure.counterpart(column.protocol_hash) is not None
    )


def _notes(
    rows: Sequence[tuple[str, Sequence[Cell]]], places: Sequence[Place], best: Mapping[Place, str | None]
) -> Iterable[str]:
    yield (
        "Per cent. Several seeds: mean and deviation, and the 95 % interval of the mean by Student's t, test images "
        "held fixed. One run: the interval over its test images, which says nothing of other seeds."
    )
    samples = [cell.sample for _, cells in rows for cell in cells if cell.sample]
    if any(len(sample.on_top) > 1 for sample in samples):
        yield (
            "Several trainings on top of one checkpoint are one run: their mean, and their deviation after 'on top', "
            "which says nothing of other seeds of pretraining."
        )
    if any(best.values()):
        yield (
            "Bold: better than every other row of its column, for other seeds and other test images (5 %, Holm's "
            "correction within the column)."
        )
    elif len(rows) > 1:
        yield (
            "Nothing is bold: no row is significantly better than every other (5 %, Holm's correction within a column; "
            "a row of a single seed says nothing of its others)."
        )
    whys = {cell.why for _, cells in rows for cell in cells if cell.why}
    meanings = {
        NO_RECORD: "no record: it was not measured, or its line could not be used",
        OTHER_PROTOCOL: "another protocol: measured, but not by this column's protocol or on its data",
        CONTRADICTION: "contradicting records: see the problems",
        SEVERAL_RECIPES: "several recipes of this batch size, which differ in something else",
    }
    if whys:
        yield f"Empty cells: {'; '.join(meanings[why] for why in meanings if why in whys)}."
    yield from _protocol_notes(rows, places)
    if any(place.column.dataset.startswith("sample") for place in places):
        yield "The sample says that the pipeline works; it says nothing about any other data."


def _protocol_notes(rows: Sequence[tuple[str, Sequence[Cell]]], places: Sequence[Place]) -> Iterable[str]:
    """What differs between columns of the same data set and metric, which share none for that reason."""
    first: dict[tuple[str, str, str], tuple[Place, Sample]] = {}
    for index, place in enumerate(places):
        column = place.column
        sample = next(cells[index].sample for _, cells in rows if cells[index].sample)
        assert sample is not None
        kind = column.task, column.dataset, column.metric
        other, reference = first.setdefault(kind, (place, sample))
        if other.column == column or column.metric not in MAIN_METRICS:
            continue
        told = unlike(other.column, reference, column, sample)
        more = f", and {len(told) - 4} more" if len(told) > 4 else ""
        yield (
            f"{column.dataset}, {METRICS[column.metric]}: {other.column.protocol} ({other.column.protocol_hash}) and "
            f"{column.protocol} ({column.protocol_hash}) differ in {'; '.join(told[:4])}{more}."
        )
