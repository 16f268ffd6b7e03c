"""The sample pictures of this project, ten classes of drawings: they say that the pipeline works, and no more."""

from pathlib import Path

from converters.images import SAMPLE_ROOT
from transfer.listings import from_memory, locate
from transfer.tasks import Neighbours, Splits

TITLE = "sample pictures (Openclipart 2015)"
METRIC = "accuracy"
SIZES = (10, 2_000, None, 500)
FOLDERS = (".", str(SAMPLE_ROOT))
MARKER = "index.csv"
WHERE = "the folder configs/demo/pictures of a checkout; an installed package does not hold it"

KNN = (Neighbours(20, None),)  # the setting of the baselines that the sample was made with; nothing is published on it


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The split that was made with the sample.

    Args:
        root: the data root; the pictures of this checkout serve where it holds none.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the files are missing or damaged.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE)
    return from_memory(TITLE, "sample", folder, SIZES, check_sizes=check_sizes)
