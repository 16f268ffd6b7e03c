"""Describable Textures Dataset (Cimpoi et al. 2014), the first of its ten partitions."""

from pathlib import Path

from transfer.listings import Row, assemble, by_class_name, folder_of, locate, read_rows
from transfer.tasks import Splits

TITLE = "DTD, partition 1 (Cimpoi et al. 2014)"
METRIC = "accuracy"
SIZES = (47, 1880, 1880, 1880)
FOLDERS = ("DTD", "dtd/dtd", "dtd")
MARKER = "labels/train1.txt"
WHERE = "https://www.robots.ox.ac.uk/~vgg/data/dtd, or torchvision's downloader"


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The published splits.

    Args:
        root: the data root.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the data set is missing, incomplete or damaged.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE)
    lists = [
        read_rows(folder / "labels" / f"{name}1.txt", "banded/banded_0002.jpg") for name in ("train", "val", "test")
    ]
    classes = sorted({folder_of(row) for row in lists[0]})

    def name_and_image(row: Row) -> tuple[str, Path]:
        return folder_of(row), folder / "images" / row.fields[0]

    train, val, test = (by_class_name(rows, classes, name_and_image) for rows in lists)
    return assemble(TITLE, classes, train, val, test, SIZES, check_sizes=check_sizes)
