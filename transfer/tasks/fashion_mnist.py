"""Fashion-MNIST (Xiao et al. 2017), ten classes of grey photographs."""

from pathlib import Path

from converters.images import LabelledImages, load_images
from transfer.tasks import Neighbours

KNN = (Neighbours(200, 0.1),)  # lightly: its setting for CIFAR-10, which has as many classes and images


def load(root: Path | None) -> tuple[LabelledImages, LabelledImages]:
    """Training and test split.

    Args:
        root: see `converters.images.load_images`.

    Raises:
        InputError: the files are missing or damaged.
    """
    return load_images("fashion_mnist", "train", root), load_images("fashion_mnist", "test", root)
