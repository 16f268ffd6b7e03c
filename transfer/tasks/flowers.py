"""Oxford 102 Flowers (Nilsback & Zisserman 2008): photographs of flowers; its classes have numbers and no names."""

from pathlib import Path

import torch

from transfer.listings import assemble, from_one, locate, read_mat
from transfer.tasks import Split, Splits

TITLE = "Oxford 102 Flowers (Nilsback & Zisserman 2008)"
METRIC = "mean_per_class"
SIZES = (102, 1020, 1020, 6149)
FOLDERS = ("Flowers", "flowers-102")
MARKER = "setid.mat"
WHERE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102: 102flowers.tgz, imagelabels.mat and setid.mat"


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The published splits. The test split is the largest; some other code swaps it with the training split.

    Args:
        root: the data root.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the data set is missing, incomplete or damaged.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE)
    numbers = read_mat(folder / "imagelabels.mat", "labels").tolist()
    labels = torch.tensor(from_one(numbers, SIZES[0], str(folder / "imagelabels.mat")))

    def split(name: str) -> Split:
        place = f"{folder / MARKER}, {name}"
        indices = from_one(read_mat(folder / MARKER, name), len(labels), place, kind="image")
        images = tuple(folder / "jpg" / f"image_{index + 1:05d}.jpg" for index in indices)
        return Split(images, labels[indices])

    classes = [str(number + 1) for number in range(int(labels.max()) + 1)]
    train, val, test = split("trnid"), split("valid"), split("tstid")
    return assemble(TITLE, classes, train, val, test, SIZES, check_sizes=check_sizes)
