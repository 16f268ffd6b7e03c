"""CIFAR-10 (Krizhevsky 2009), ten classes of photographs."""

from pathlib import Path

from converters.images import LabelledImages, load_images
from transfer.tasks import Neighbours

KNN = (Neighbours(1, None), Neighbours(200, 0.1))  # Lee & Lee 2023, 5.1; lightly, cifar10_benchmark.py


def load(root: Path | None) -> tuple[LabelledImages, LabelledImages]:
    """Training and test split.

    Args:
        root: see `converters.images.load_images`.

    Raises:
        InputError: the files are missing or damaged.
    """
    return load_images("cifar10", "train", root), load_images("cifar10", "test", root)
