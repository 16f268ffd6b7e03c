"""Labelled data sets to evaluate on: one file each, found by its file name.

Each holds

    TITLE       the set's name, with the paper
    METRIC      one of `METRICS`
    SIZES       classes, training, validation (None: not given) and test images, as published
    FOLDERS     where below the data root, or at an absolute path, it may lie; of the benchmark's sets the reference's
                layout first, then torchvision's
    MARKER      a path, or a pattern of paths, that shows in which of these folders it lies
    WHERE       where a user gets it
    splits      ``splits(root, *, check_sizes=True)``, which returns `Splits`

and, where it has them,

    KNN             the settings of k-NN that are always evaluated, a tuple of `Neighbours`
    strict_splits   ``splits`` as the papers' text says, where the benchmark's code does something else

To add a data set, add a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from converters.plugins import plugins

METRICS = ("accuracy", "mean_per_class", "map_11point")  # ssl-transfer, linear.py

_BENCHMARK = ("aircraft", "caltech101", "cars", "cifar10", "dtd", "flowers", "food", "pets", "sun397", "voc2007")
_SAMPLES = ("sample", "fashion_mnist", "digits")


class Neighbours(NamedTuple):
    """A setting of the k-NN classifier.

    Attributes:
        k: number of neighbours.
        temperature: of the weights exp(similarity / temperature); None for a majority vote.
    """

    k: int
    temperature: float | None


@dataclass(frozen=True)
class Split:
    """One split of a labelled data set.

    Attributes:
        images: files in the order of the set's list, or uint8 (N, 3, H, W), RGB. Files may be grey, of a palette, or of
            another format than their suffix says; their existence is checked, their content is not.
        labels: int64 (N,), indices into the classes; or int8 (N, C) for a multi-label set: 1 present, 0 absent, -1
            present only as objects that are marked "difficult".
    """

    images: tuple[Path, ...] | Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Splits:
    """A labelled data set as its authors, or the benchmark's, divided it.

    Attributes:
        classes: names, in the data set's own order where it has one, else sorted.
        train: training split.
        val: validation split; None where none is given and a seeded fifth of the training split takes its place.
        test: test split; every class occurs in it.
        notes: what a user should know, one sentence each: duplicates, overlaps, accepted differences in size.
    """

    classes: tuple[str, ...]
    train: Split
    val: Split | None
    test: Split
    notes: tuple[str, ...] = ()


names, find = plugins(__name__, "data set")


def benchmark() -> tuple[str, ...]:
    """The names of the linear-transfer benchmark's ten data sets, in the published order."""
    return _BENCHMARK


def samples() -> tuple[str, ...]:
    """The names of the small sets that stand in where none of the benchmark is there."""
    return _SAMPLES


def found(name: str, root: Path) -> bool:
    """Whether a data set lies below the data root; whether it is complete, ``splits`` finds out.

    Args:
        name: of the data set.
        root: the data root.

    Raises:
        InputError: the name is unknown.
    """
    module = find(name)
    return first_folder(root, module.FOLDERS, module.MARKER) is not None


def expected(name: str) -> Path:
    """What to look for below the data root: the marker of a data set, in its preferred folder.

    Raises:
        InputError: the name is unknown.
    """
    module = find(name)
    return Path(module.FOLDERS[0], module.MARKER)


def first_folder(root: Path, folders: Sequence[str], marker: str) -> Path | None:
    """The first of some folders that holds a marker; None if none does.

    Args:
        root: the data root.
        folders: paths below it, or absolute ones; the preferred one first.
        marker: path below each of them, or a pattern of such.
    """
    return next((root / folder for folder in folders if any((root / folder).glob(marker))), None)
