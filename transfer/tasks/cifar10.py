"""CIFAR-10 (Krizhevsky 2009), ten classes of photographs."""

from pathlib import Path

from converters import images
from converters.images import LabelledImages, load_images
from transfer.listings import assemble, locate
from transfer.tasks import Neighbours, Split, Splits

TITLE = "CIFAR-10 (Krizhevsky 2009)"
METRIC = "accuracy"
SIZES = (10, 50_000, None, 10_000)
FOLDERS = ("CIFAR10", ".")
MARKER = "cifar-10-batches-py"
WHERE = "https://www.cs.toronto.edu/~kriz/cifar.html, the version for Python, or torchvision's downloader"

KNN = (Neighbours(1, None), Neighbours(200, 0.1))  # Lee & Lee 2023, 5.1; lightly, cifar10_benchmark.py


def load(root: Path | None) -> tuple[LabelledImages, LabelledImages]:
    """Training and test split.

    Args:
        root: see `converters.images.load_images`.

    Raises:
        InputError: the files are missing or damaged.
    """
    return load_images("cifar10", "train", root), load_images("cifar10", "test", root)


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The published splits.

    Args:
        root: the data root.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the files are missing or damaged.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE)
    # load_images refuses excerpts
    train, test = load(folder) if check_sizes else (images._cifar10("train", folder), images._cifar10("test", folder))
    train_split, test_split = (Split(each.images, each.labels) for each in (train, test))
    return assemble(TITLE, train.classes, train_split, None, test_split, SIZES, check_sizes=check_sizes)
