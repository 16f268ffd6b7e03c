"""Food-101 (Bossard et al. 2014): photographs of dishes; the training labels are noisy by intention."""

from pathlib import Path

import torch

from converters.errors import InputError
from transfer.listings import assemble, class_index, locate, read_json
from transfer.tasks import Split, Splits

TITLE = "Food-101 (Bossard et al. 2014)"
METRIC = "accuracy"
SIZES = (101, 75_750, None, 25_250)
FOLDERS = ("Food/food-101", "food-101")
MARKER = "meta/train.json"
WHERE = "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz (5 GB), or torchvision's downloader"


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The published splits.

    Args:
        root: the data root.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the data set is missing, incomplete or damaged.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE)
    lists = {name: read_json(folder / "meta" / f"{name}.json") for name in ("train", "test")}
    classes = sorted(lists["train"])
    train, test = (_split(folder, name, lists[name], classes) for name in ("train", "test"))
    return assemble(TITLE, classes, train, None, test, SIZES, check_sizes=check_sizes)


def _split(folder: Path, split: str, listed: dict[str, list[str]], classes: list[str]) -> Split:
    place = str(folder / "meta" / f"{split}.json")
    indices = {name: index for index, name in enumerate(classes)}
    images, labels = [], []
    for name, entries in listed.items():
        label = class_index(name, indices, place)
        for entry in entries:
            if entry.rpartition("/")[0] != name:
                raise InputError(f"{place}: expected images of '{name}', got '{entry}'; unpack the archive again")
            images.append(folder / "images" / f"{entry}.jpg")
            labels.append(label)
    return Split(tuple(images), torch.tensor(labels))
