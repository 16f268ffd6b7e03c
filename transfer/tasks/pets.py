"""Oxford-IIIT Pets (Parkhi et al. 2012): photographs of cats and dogs, labelled by their breed."""

from pathlib import Path

import torch

from converters.errors import InputError
from transfer.listings import Row, assemble, class_index, from_one, locate, read_rows
from transfer.tasks import Split, Splits

TITLE = "Oxford-IIIT Pets (Parkhi et al. 2012)"
METRIC = "mean_per_class"
SIZES = (37, 3680, None, 3669)
FOLDERS = ("Pets", "oxford-iiit-pet")
MARKER = "annotations/trainval.txt"
WHERE = "https://www.robots.ox.ac.uk/~vgg/data/pets: images.tar.gz and annotations.tar.gz; the host is unreliable"


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The published splits. Some files are PNG or GIF in spite of their suffix, as in the original.

    Args:
        root: the data root.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the data set is missing, incomplete or damaged.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE)
    # image, class number from 1, species, number of the breed within the species
    lists = [read_rows(folder / "annotations" / f"{name}.txt", "Abyssinian_100 1 1 1") for name in ("trainval", "test")]
    classes = list(dict.fromkeys(map(_breed, sorted(lists[0], key=_number))))
    train, test = (_split(rows, classes, folder / "images") for rows in lists)
    return assemble(TITLE, classes, train, None, test, SIZES, check_sizes=check_sizes)


def _breed(row: Row) -> str:
    return row.fields[0].rpartition("_")[0]


def _number(row: Row) -> int:
    return from_one(row.fields[1:2], SIZES[0], row.place)[0]


def _split(rows: list[Row], classes: list[str], images: Path) -> Split:
    """A list's split, whose names and numbers must agree."""
    indices = {name: index for index, name in enumerate(classes)}
    for row in rows:
        if class_index(_breed(row), indices, row.place) != _number(row):
            raise InputError(
                f"{row.place}: expected class number {indices[_breed(row)] + 1} for '{_breed(row)}', got "
                f"{row.fields[1]}; unpack annotations.tar.gz again"
            )
    return Split(tuple(images / f"{row.fields[0]}.jpg" for row in rows), torch.tensor([_number(row) for row in rows]))
