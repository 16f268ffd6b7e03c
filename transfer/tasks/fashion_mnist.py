"""Fashion-MNIST (Xiao et al. 2017), ten classes of grey photographs."""

from pathlib import Path

from transfer.listings import from_memory, locate
from transfer.tasks import Neighbours, Splits

TITLE = "Fashion-MNIST (Xiao et al. 2017)"
METRIC = "accuracy"
SIZES = (10, 60_000, None, 10_000)
FOLDERS = ("FashionMNIST/raw", ".", "/usr/share/datasets/fashion-mnist")  # torchvision's layout; Debian's package
MARKER = "train-images-idx3-ubyte*"
WHERE = "Debian's package dataset-fashion-mnist, or torchvision's downloader"

KNN = (Neighbours(200, 0.1),)  # lightly: its setting for CIFAR-10, which has as many classes and images


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The published splits.

    Args:
        root: the data root.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the files are missing or damaged.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE)
    return from_memory(TITLE, "fashion_mnist", folder, SIZES, check_sizes=check_sizes)
