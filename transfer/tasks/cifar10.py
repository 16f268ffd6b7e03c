"""CIFAR-10 (Krizhevsky 2009), ten classes of photographs."""

from pathlib import Path

from transfer.listings import from_memory, locate
from transfer.tasks import Neighbours, Splits

TITLE = "CIFAR-10 (Krizhevsky 2009)"
METRIC = "accuracy"
SIZES = (10, 50_000, None, 10_000)
FOLDERS = ("CIFAR10", ".")
MARKER = "cifar-10-batches-py"
WHERE = "https://www.cs.toronto.edu/~kriz/cifar.html, the version for Python, or torchvision's downloader"

KNN = (Neighbours(1, None), Neighbours(200, 0.1))  # Lee & Lee 2023, 5.1; lightly, cifar10_benchmark.py


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The published splits.

    Args:
        root: the data root.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the files are missing or damaged.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE)
    return from_memory(TITLE, "cifar10", folder, SIZES, check_sizes=check_sizes)
