"""Stanford Cars (Krause et al. 2013): photographs of cars, labelled by make, model and year."""

from pathlib import Path

import torch

from transfer.listings import assemble, from_one, locate, read_mat
from transfer.tasks import Split, Splits

TITLE = "Stanford Cars (Krause et al. 2013)"
METRIC = "accuracy"
SIZES = (196, 8144, None, 8041)
FOLDERS = ("Cars", "stanford_cars")
MARKER = "devkit/cars_train_annos.mat"
WHERE = (
    "its own host is gone since 2023, see https://github.com/pytorch/vision/issues/7545; needed are cars_train, "
    "cars_test, devkit and cars_test_annos_withlabels.mat"
)


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The published splits.

    Args:
        root: the data root. The test labels may lie in ``devkit/`` or, as torchvision has it, beside it.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the data set is missing, incomplete or damaged.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE)
    classes = [str(name) for name in read_mat(folder / "devkit" / "cars_meta.mat", "class_names")]
    beside = folder / "cars_test_annos_withlabels.mat"
    test_labels = beside if beside.exists() else folder / "devkit" / beside.name
    train = _split(folder / MARKER, folder / "cars_train", len(classes))
    test = _split(test_labels, folder / "cars_test", len(classes))
    return assemble(TITLE, classes, train, None, test, SIZES, check_sizes=check_sizes)


def _split(path: Path, images: Path, num_classes: int) -> Split:
    annotations = read_mat(path, "annotations", fields=("class", "fname"))
    labels = from_one(annotations["class"], num_classes, str(path))
    return Split(tuple(images / str(name) for name in annotations["fname"]), torch.tensor(labels))
