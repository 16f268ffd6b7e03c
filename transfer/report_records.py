"""The result lines that a report reads: found, checked, each measurement once."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from converters.errors import InputError, first_few
from transfer.results import Result, read_lines

FILE = "results.jsonl"

_ROUNDING = 1e-8  # of a share: a hundredth of one image among a million


class Record(NamedTuple):
    """A result and where it stands.

    Attributes:
        result: the result.
        path: of its file.
        line: its number, from 1 on.
    """

    result: Result
    path: Path
    line: int

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.path}, line {self.line}"


@dataclass(frozen=True)
class Records:
    """What was read.

    Attributes:
        records: usable ones, each measurement once.
        problems: a sentence for every line, or group of lines, that was left out, and for what else to know.
        contradicting: measurements with several values, none of which is used.
    """

    records: tuple[Record, ...]
    problems: tuple[str, ...]
    contradicting: tuple[Record, ...]


def read_records(places: Sequence[Path]) -> Records:
    """Every result below some folders.

    Args:
        places: folders, searched with all below them, or files of results.

    Raises:
        InputError: a place is missing or holds no file of results, or no line can be used.
    """
    paths, empty = _files(places)
    lines = [(path, number, line) for path in paths for number, line in _lines(path)]
    broken = [line for _, _, line in lines if isinstance(line, str)]
    records = [Record(line, path, number) for path, number, line in lines if isinstance(line, Result)]
    if not records:
        what = f"{len(broken)} lines and no result: {broken[0]}" if broken else "no line at all"
        raise InputError(f"expected results in {first_few([str(path) for path in paths])}, got {what}; evaluate first")
    single, told, contradicting = _once(records)
    if not single:
        raise InputError(f"expected measurements with one value, got none; {told[0]}")
    return Records(tuple(single), (*empty, *broken, *told), tuple(contradicting))


def _lines(path: Path) -> Iterator[tuple[int, Result | str]]:
    """The lines of a file; of one that cannot be read, why."""
    try:
        yield from read_lines(path)
    except InputError as error:
        yield 0, str(error)


def _files(places: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Each file of results once, and what to say of folders that hold none."""
    found, empty = list[Path](), list[str]()
    for place in places:
        if not place.exists():
            raise InputError(f"{place} not found; expected folders of runs, such as runs/, or a {FILE}")
        below = sorted(_below(place)) if place.is_dir() else [place]
        if not below:
            empty.append(
                f"{place} holds no {FILE}; expected the folder of an evaluation: run transfer/linear.py, detection.py "
                "or segmentation.py first, or name another folder"
            )
        found += below
    if not found:
        raise InputError(empty[0])
    return list({path.resolve(): path for path in found}.values()), empty


def _below(place: Path) -> Iterator[Path]:
    """The files of results in a folder and all below it, through links to folders, each folder once."""
    seen = set[str]()
    for folder, folders, names in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()  # a link that leads back
            continue
        seen.add(real)
        folders.sort()
        if FILE in names:
            yield Path(folder, FILE)


def measurement(result: Result) -> tuple[Any, ...]:
    """What was measured, by which any two values of one measurement are known as such."""
    details = result.details
    return (
        *(result.task, result.dataset, result.split, result.metric, result.protocol_hash, result.num_examples),
        *(result.checkpoint_sha256 or result.representation, result.seed, details.get("reading")),
        *(details.get("run_seed"), data_of(result)),
    )


def data_of(result: Result) -> str:
    """The fingerprint of the data, of the training's and the test's where there are several."""
    return json.dumps(result.details.get("data"))


def _once(records: Iterable[Record]) -> tuple[list[Record], list[str], list[Record]]:
    """The measurements with one value; what to say of the others, and one record of each that has several values."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(measurement(record.result), []).append(record)
    single, contradicting, told, again = [], [], list[str](), list[Record]()
    for group in groups.values():
        values = [record.result.value for record in group]
        if max(values) - min(values) <= _ROUNDING:
            single.append(group[0])
            again += group[1:]
        else:
            contradicting.append(group[0])
            told.append(_contradiction(group))
    if again:
        of = "lines repeat" if len(again) > 1 else "line repeats"
        told.insert(0, f"{len(again)} {of} a measurement and its value, used once: {_places(again)}")
    return single, told, contradicting


def _contradiction(group: Sequence[Record]) -> str:
    result = group[0].result
    digits = next((n for n in range(2, 8) if len({f"{100 * each.result.value:.{n}f}" for each in group}) > 1), 8)
    values = ", ".join(f"{100 * record.result.value:.{digits}f} ({record.place})" for record in group[:4])
    more = f", and {len(group) - 4} more" if len(group) > 4 else ""
    return (
        f"contradicting values of {result.metric} on {result.dataset} for {result.representation}, none is used: "
        f"{values}{more}; leave out the folders of all but one"
    )


def _places(records: Sequence[Record]) -> str:
    return first_few([record.place for record in records])
