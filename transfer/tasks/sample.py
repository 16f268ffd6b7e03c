"""The sample pictures of this project, ten classes of drawings: they say that the pipeline works, and no more."""

from pathlib import Path

from converters.images import LabelledImages, load_images
from transfer.tasks import Neighbours

KNN = (Neighbours(20, None),)  # the setting of the baselines that the sample was made with; nothing is published on it


def load(root: Path | None) -> tuple[LabelledImages, LabelledImages]:
    """Training and test split.

    Args:
        root: see `converters.images.load_images`.

    Raises:
        InputError: the files are missing or damaged.
    """
    return load_images("sample", "train", root), load_images("sample", "test", root)
