"""What the benchmark's data sets share: lists that are read strictly, and splits that are checked before their use."""

import difflib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.io import loadmat
from torch import Tensor

from converters.errors import InputError
from converters.images import load_images
from transfer.tasks import Split, Splits, first_folder

Sizes = tuple[int, int, int | None, int]  # classes; training, validation and test images

_AGAIN = "unpack the data set's archive again"


class Row(NamedTuple):
    """One line of a list.

    Attributes:
        place: the list and the line's number, for messages.
        fields: its columns.
    """

    place: str
    fields: list[str]


def locate(title: str, root: Path, folders: Sequence[str], marker: str, where: str) -> Path:
    """The folder below the data root that holds a data set.

    Args:
        title: of the data set.
        root: the data root.
        folders: where it may lie; the first that holds the marker counts.
        marker: what shows that it is there.
        where: where a user gets it.

    Raises:
        InputError: it lies in none of them.
    """
    folder = first_folder(root, folders, marker)
    if folder is None:
        choices = " or ".join(str(Path(folder, marker)) for folder in folders)
        raise InputError(
            f"{title} not found: expected {choices} below {root}; set --data-root to the folder that holds it, or get "
            f"it: {where}"
        )
    return folder


def read_rows(path: Path, example: str, advice: str = _AGAIN) -> list[Row]:
    """The lines of a text file, divided into columns; blank lines are skipped.

    Args:
        path: the list.
        example: a right line; each line must have as many columns, of which the last may contain spaces.
        advice: what to do where the file is missing or wrong.

    Raises:
        InputError: the file is missing, empty or no text, or a line has too few columns.
    """
    lines = [line.strip() for line in _read_text(path, advice).splitlines()]
    num_columns = len(example.split())
    rows = [
        Row(f"{path}, line {number}", line.split(maxsplit=num_columns - 1))
        for number, line in enumerate(lines, start=1)
        if line
    ]
    for place, fields in rows:
        if len(fields) != num_columns:
            raise InputError(f"{place}: expected a line like '{example}', got '{' '.join(fields)}'; {advice}")
    if not rows:
        raise InputError(f"{path} is empty: expected lines like '{example}'; {advice}")
    return rows


def read_json(path: Path) -> dict[str, list[str]]:
    """A JSON file that names, for each class, its images.

    Args:
        path: the file.

    Raises:
        InputError: the file is missing or anything else.
    """
    try:
        content = json.loads(_read_text(path, _AGAIN))
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); {_AGAIN}") from error
    lists = list(content.values()) if isinstance(content, dict) else []
    if not lists or not all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in lists):
        raise InputError(f"{path}: expected a JSON object with a list of image names for each class; {_AGAIN}")
    return {str(name): images for name, images in content.items()}


def read_mat(path: Path, name: str, fields: Sequence[str] = ()) -> npt.NDArray[Any]:
    """One variable of a MATLAB file (up to version 7), as a vector.

    Args:
        path: the file.
        name: of the variable.
        fields: what its elements must hold, if they are structures.

    Raises:
        InputError: the file is missing or damaged, or there is no such variable in it.
    """
    try:
        with path.open("rb") as file:
            content = loadmat(file, squeeze_me=True, variable_names=[name])
    except FileNotFoundError as error:
        raise InputError(f"{path} not found; {_AGAIN}") from error
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{path} is truncated or no MATLAB file ({error}); {_AGAIN}") from error
    if name not in content:
        raise InputError(f"{path}: expected the variable '{name}', which is not in it; {_AGAIN}")
    vector = np.atleast_1d(content[name])
    missing = set(fields) - set(vector.dtype.names or ())
    if missing:
        raise InputError(f"{path}: expected '{name}' with {', '.join(sorted(missing))}; {_AGAIN}")
    return vector


def from_one(values: Iterable[Any], largest: int, place: str, kind: str = "class") -> list[int]:
    """Numbers that count from 1 as indices that count from 0.

    Args:
        values: whole numbers or their decimal digits.
        largest: the largest number that is right.
        place: what they were read from, for messages.
        kind: what they number, for messages.

    Raises:
        InputError: one is no whole number from 1 to `largest`.
    """
    numbers = [(_whole(value), value) for value in values]
    for number, value in numbers:
        if number is None or not 1 <= number <= largest:
            raise InputError(f"{place}: expected {kind} numbers from 1 to {largest}, got '{value}'; {_AGAIN}")
    return [number - 1 for number, _ in numbers if number is not None]


def class_index(name: str, indices: Mapping[str, int], place: str) -> int:
    """The index of a class that a list names.

    Args:
        name: of the class.
        indices: of the classes that there are.
        place: what names it, for messages.

    Raises:
        InputError: there is no such class.
    """
    if name not in indices:
        close = difflib.get_close_matches(name, indices, n=1)
        suggestion = f", did you mean '{close[0]}'?" if close else ""
        raise InputError(f"{place}: '{name}' is none of the {len(indices)} classes{suggestion}; {_AGAIN}")
    return indices[name]


def folder_of(row: Row, advice: str = _AGAIN) -> str:
    """The folder of the image that a line's first column names, which is its class; all of it, not its beginning.

    Args:
        row: of the list.
        advice: what to do where the line is wrong.

    Raises:
        InputError: the image lies in no folder.
    """
    folder, _, image = row.fields[0].rpartition("/")
    if not folder or not image:
        raise InputError(
            f"{row.place}: expected the path of an image in its class's folder, got '{row.fields[0]}'; {advice}"
        )
    return folder


def by_class_name(
    rows: Sequence[Row], classes: Sequence[str], name_and_image: Callable[[Row], tuple[str, Path]]
) -> Split:
    """A split of a list whose lines name the classes.

    Args:
        rows: of the list.
        classes: every class, in order.
        name_and_image: the class and the image of a line.

    Raises:
        InputError: a line names another class.
    """
    indices = {name: index for index, name in enumerate(classes)}
    named = [name_and_image(row) for row in rows]
    labels = [class_index(name, indices, row.place) for row, (name, _) in zip(rows, named, strict=True)]
    return Split(tuple(image for _, image in named), torch.tensor(labels))


def assemble(
    title: str,
    classes: Sequence[str],
    train: Split,
    val: Split | None,
    test: Split,
    sizes: Sizes,
    *,
    certain: bool = True,
    check_sizes: bool = True,
    notes: Sequence[str] = (),
) -> Splits:
    """Splits that are as published and whose images exist.

    Args:
        title: of the data set.
        classes: names.
        train: training split.
        val: validation split, if one is given.
        test: test split.
        sizes: classes and images as published.
        certain: whether another number of images is an error; else it is accepted with a note. Another number of
            classes is always an error.
        check_sizes: False accepts every size with a note, for excerpts.
        notes: what else a user should know.

    Raises:
        InputError: a size differs, a class has no test example, a label is out of range, or an image is missing.
    """
    splits = {"training": train, "validation": val, "test": test}
    given = {name: split for name, split in splits.items() if split is not None}
    got = (len(classes), len(train), None if val is None else len(val), len(test))
    difference = _size_difference(sizes, got)
    if difference and check_sizes and (certain or got[0] != sizes[0]):
        raise InputError(f"{title}: {difference}; {_AGAIN}")
    for name, split in given.items():
        _check_labels(f"{title}, {name} split", split, len(classes))
    _check_test_classes(title, classes, test)
    _check_images(title, [image for split in given.values() for image in _files(split)])
    accepted = [f"accepted sizes that differ from the published ones: {difference}"] if difference else []
    all_notes = dict.fromkeys([*notes, *_repetitions(given), *accepted])
    return Splits(tuple(classes), train, val, test, tuple(all_notes))


def from_memory(title: str, name: str, folder: Path, sizes: Sizes, *, check_sizes: bool = True) -> Splits:
    """The splits of an image set that `converters.images` reads.

    Args:
        title: of the data set.
        name: of the image set there.
        folder: of its files.
        sizes: classes and images as published.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the files are missing or damaged, or a size differs.
    """
    train, test = (load_images(name, split, folder, check_sizes=check_sizes) for split in ("train", "test"))
    splits = [Split(each.images, each.labels) for each in (train, test)]
    return assemble(title, train.classes, splits[0], None, splits[1], sizes, check_sizes=check_sizes)


def lines_and_images(name: str, split: Split) -> str:
    """How many lines a list has, and how many images they name.

    Args:
        name: of the list.
        split: as listed.
    """
    return f"{name} list: {len(split)} lines, {len(set(_files(split)))} different images"


def _read_text(path: Path, advice: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path} not found; {advice}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}); {advice}") from error


def _whole(value: Any) -> int | None:
    """A whole number; None for anything else."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if isinstance(value, str) or number == value else None


def _size_difference(sizes: Sizes, got: Sizes) -> str:
    """What differs, in words; empty if nothing does."""
    units = ("classes", "training images", "validation images", "test images")
    different = [(unit, sizes[i], got[i]) for i, unit in enumerate(units) if sizes[i] != got[i]]
    expected = ", ".join(f"{size} {unit}" for unit, size, _ in different)
    return f"expected {expected}, got {', '.join(str(size) for _, _, size in different)}" if different else ""


def _check_labels(place: str, split: Split, num_classes: int) -> None:
    labels = split.labels
    if len(labels) != len(split) or not len(split):
        raise InputError(f"{place}: expected one label for each image, got {len(labels)} for {len(split)}; {_AGAIN}")
    low, high = (0, num_classes - 1) if labels.ndim == 1 else (-1, 1)
    if labels.min() < low or labels.max() > high:
        wrong = next(label for label in labels.flatten().tolist() if not low <= label <= high)
        raise InputError(f"{place}: expected labels from {low} to {high}, got {wrong}; {_AGAIN}")


def _check_test_classes(title: str, classes: Sequence[str], test: Split) -> None:
    counts = _class_counts(test.labels, len(classes))
    absent = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
    if absent:
        raise InputError(
            f"{title}: expected test examples of every class, got none of '{absent[0]}' "
            f"({len(absent)} of {len(classes)} classes); {_AGAIN}"
        )


def _class_counts(labels: Tensor, num_classes: int) -> Tensor:
    return labels.bincount(minlength=num_classes) if labels.ndim == 1 else (labels == 1).sum(0)


def _check_images(title: str, images: Sequence[Path]) -> None:
    """One reading of each folder: a look at each of 100,000 files takes minutes on a network disk."""
    present: dict[str, set[str]] = {}
    missing = []
    unique = dict.fromkeys(map(str, images))
    for image in unique:
        folder, name = os.path.split(image)
        if folder not in present:
            present[folder] = _names(folder)
        if name not in present[folder]:
            missing.append(image)
    if missing:
        raise InputError(
            f"{title}: expected every listed image, got no {missing[0]} ({len(missing)} of {len(unique)} are missing); "
            f"{_AGAIN}"
        )


def _names(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, ValueError) as error:  # no right to read it; a zero byte in its name
        raise InputError(
            f"cannot read the folder {folder!r} ({error}); make it readable, or correct the list"
        ) from error


def _files(split: Split) -> tuple[Path, ...]:
    return split.images if isinstance(split.images, tuple) else ()


def _repetitions(splits: Mapping[str, Split]) -> list[str]:
    """Notes on images that are listed twice, in one split or in two."""
    files = {name: set(_files(split)) for name, split in splits.items()}
    repeated = [
        lines_and_images(name, split)
        for name, split in splits.items()
        if _files(split) and len(files[name]) < len(split)
    ]
    overlaps = [
        f"{len(files[one] & files[other])} images are in the {one} list and in the {other} list"
        for one, other in combinations(files, 2)
        if files[one] & files[other]
    ]
    return repeated + overlaps
