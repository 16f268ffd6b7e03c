"""Handwritten digits of 8 x 8 pixels, as scikit-learn carries them: they say that the pipeline works, and no more."""

from pathlib import Path

import sklearn.datasets
import torch

from transfer.listings import assemble
from transfer.tasks import Neighbours, Split, Splits

TITLE = "digits of scikit-learn (Alpaydin & Kaynak 1998)"
METRIC = "accuracy"
SIZES = (10, 1_438, None, 359)  # of the 1,797 images the last fifth is to test
FOLDERS = (str(Path(sklearn.datasets.__file__).parent),)
MARKER = "data/digits*"
WHERE = "scikit-learn carries them"

KNN = (Neighbours(20, None),)  # as the sample's; nothing is published on this split

_INK = 16  # the darkest value


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The first four fifths to train, the rest to test.

    Args:
        root: not used.
        check_sizes: not used, since there is no excerpt.
    """
    digits = sklearn.datasets.load_digits()
    grey = torch.from_numpy(digits.images * (255 / _INK)).round().to(torch.uint8)
    images, labels = grey[:, None].expand(-1, 3, -1, -1), torch.from_numpy(digits.target).long()
    train, test = (Split(images[rows], labels[rows]) for rows in (slice(SIZES[1]), slice(SIZES[1], None)))
    return assemble(TITLE, [str(digit) for digit in range(10)], train, None, test, SIZES)
