"""ImageNet, the thousand classes of ILSVRC 2012 (Russakovsky et al. 2015)."""

from pathlib import Path

import torch

from converters.errors import InputError, first_few
from converters.folder import class_labels, open_folder
from transfer.listings import locate
from transfer.tasks import Neighbours, Split, Splits

TITLE = "ImageNet (Russakovsky et al. 2015)"
METRIC = "accuracy"
SIZES = (1000, 1_281_167, None, 50_000)  # the validation images serve as test split, as in every paper
FOLDERS = ("ImageNet", "imagenet", ".")
MARKER = "val"
WHERE = "https://image-net.org, with the images of val/ sorted into the same class folders as those of train/"

KNN = (Neighbours(200, None), Neighbours(200, 0.2))  # Lee & Lee 2023, 5.1; bych-lee/gsg, main_knn.py


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The published splits, from the remembered listing of `converters.folder`.

    Args:
        root: the data root.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the data set is missing or incomplete, or the class folders of the two splits differ.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE)
    (classes, train), (test_classes, test) = (_read(folder / name) for name in ("train", "val"))
    if classes != test_classes:
        odd = first_few(sorted(set(classes) ^ set(test_classes)))
        raise InputError(f"{TITLE}: expected the same class folders in {folder}/train and val, only one has {odd}")
    # not by `listings.assemble`: it would list again on the disk what has just been listed
    got = (len(classes), len(train), None, len(test))
    difference = f"expected {_in_words(SIZES)}, got {_in_words(got)}" if got != SIZES else ""
    if difference and check_sizes:
        raise InputError(f"{TITLE}: {difference}; unpack the data set's archives again")
    notes = (f"accepted sizes that differ from the published ones: {difference}",) if difference else ()
    return Splits(classes, train, None, test, notes)


def _read(folder: Path) -> tuple[tuple[str, ...], Split]:
    if not folder.is_dir():
        raise InputError(f"{TITLE} not found: expected train and val in {folder.parent}; get it: {WHERE}")
    images = open_folder(folder)
    classes, labels = class_labels(images)
    return classes, Split(tuple(images.path(index) for index in range(len(images))), torch.from_numpy(labels))


def _in_words(sizes: tuple[int, int, int | None, int]) -> str:
    return f"{sizes[0]} classes, {sizes[1]} training and {sizes[3]} test images"
