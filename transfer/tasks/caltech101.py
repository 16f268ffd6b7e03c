"""Caltech-101 (Fei-Fei et al. 2004): photographs of objects, and a class of clutter, BACKGROUND_Google.

The authors give no split. The benchmark's lists come with the code of Ericsson et al. 2021 and keep the clutter as a
class, the 102nd. Their training list was drawn with replacement: 3060 lines until 2023-10-25, since then the 2416
different ones (ssl-transfer, issue 10). Either is taken as it is. The text of the papers says 30 images of each class.
"""

import os
from pathlib import Path

import numpy as np
import torch

from converters.errors import InputError
from transfer.listings import Row, assemble, by_class_name, folder_of, lines_and_images, locate, read_rows
from transfer.tasks import Split, Splits

TITLE = "Caltech-101 (Fei-Fei et al. 2004)"
METRIC = "mean_per_class"
SIZES = (102, 2416, None, 6728)
FOLDERS = ("Caltech101/caltech101", "Caltech101", "caltech101", "caltech-101")
MARKER = "101_ObjectCategories"
STRICT_SIZES = (102, 3060, None, 6084)  # Kornblith et al. 2019, Table 1
_PER_CLASS = 30
_SEED = 0
_LISTS = "its train.txt and test.txt come from the folder caltech101-splits of github.com/linusericsson/ssl-transfer"
WHERE = f"the images come from https://doi.org/10.22002/D1.20086; {_LISTS}"
_ADVICE = f"{_LISTS}; put them beside the folder of the images"


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The splits of the benchmark's lists, ``train.txt`` and ``test.txt``, which lie beside the folder of the images.

    Args:
        root: the data root.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the data set or a list is missing, incomplete or damaged.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE)
    lists = folder if (folder / "train.txt").exists() else root / folder.relative_to(root).parts[0]
    rows = {name: read_rows(lists / f"{name}.txt", "accordion/image_0001.jpg 5", _ADVICE) for name in ("train", "test")}
    classes = sorted({folder_of(row, _ADVICE) for row in rows["train"]})
    train, test = (_split(rows[name], classes, folder / MARKER) for name in ("train", "test"))
    num_classes, num_train, num_val, num_test = SIZES
    if len(set(train.images)) == num_train:  # the list with repetitions is as good as the one without
        num_train = len(train)
    notes = [lines_and_images(name, split) for name, split in (("training", train), ("test", test))]
    sizes = (num_classes, num_train, num_val, num_test)
    return assemble(TITLE, classes, train, None, test, sizes, check_sizes=check_sizes, notes=notes)


def strict_splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """Thirty different images of each class to train and all others to test, drawn once with a fixed seed.

    Args:
        root: the data root.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the data set is missing or incomplete.
    """
    images = locate(TITLE, root, FOLDERS, MARKER, WHERE) / MARKER
    classes = sorted(entry.name for entry in os.scandir(images) if entry.is_dir())
    draw = np.random.RandomState(_SEED)  # the legacy generator, whose draws NumPy keeps for ever
    drawn: list[tuple[Path, int]] = []
    rest: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        files = sorted((images / name).glob("*.jpg"))
        if len(files) <= _PER_CLASS:
            raise InputError(
                f"{TITLE}: expected more than {_PER_CLASS} images of '{name}', got {len(files)}; "
                "unpack the archive again"
            )
        order = draw.permutation(len(files))
        drawn += [(files[index], label) for index in np.sort(order[:_PER_CLASS])]
        rest += [(files[index], label) for index in np.sort(order[_PER_CLASS:])]
    train, test = (_pairs(each) for each in (drawn, rest))
    return assemble(TITLE, classes, train, None, test, STRICT_SIZES, check_sizes=check_sizes)


def _pairs(listed: list[tuple[Path, int]]) -> Split:
    return Split(tuple(image for image, _ in listed), torch.tensor([label for _, label in listed]))


def _split(rows: list[Row], classes: list[str], images: Path) -> Split:
    """A list's split, whose numbers must agree with the names: they count the sorted classes from 0."""
    split = by_class_name(rows, classes, lambda row: (folder_of(row, _ADVICE), images / row.fields[0]))
    for row, label in zip(rows, split.labels.tolist(), strict=True):
        if row.fields[1] != str(label):
            raise InputError(
                f"{row.place}: expected class number {label} for '{classes[label]}', got {row.fields[1]}; {_ADVICE}"
            )
    return split
