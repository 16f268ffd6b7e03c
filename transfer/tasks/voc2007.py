"""PASCAL VOC 2007 (Everingham et al. 2010) as multi-label classification: photographs of objects of twenty classes."""

from pathlib import Path

import torch
from torch import Tensor

from converters.errors import InputError
from transfer.listings import Row, assemble, locate, read_rows
from transfer.tasks import Split, Splits

TITLE = "PASCAL VOC 2007 (Everingham et al. 2010)"
METRIC = "map_11point"
SIZES = (20, 2501, 2510, 4952)
FOLDERS = ("VOC2007/VOCdevkit/VOC2007", "VOCdevkit/VOC2007", "VOC2007")
MARKER = "ImageSets/Main/aeroplane_train.txt"
WHERE = (
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2007 (moved, it redirects), both VOCtrainval_06-Nov-2007.tar and "
    "VOCtest_06-Nov-2007.tar, or torchvision's downloader"
)

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_LABELS = {"1": 1, "0": -1, "-1": 0}  # the lists' -1 is absent, their 0 present only as difficult objects
_SPLITS = ("train", "val", "test")
_ADVICE = "unpack VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar into the same folder again"


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The published splits.

    The lists write 1 for present, -1 for absent and 0 for present only as objects that are marked "difficult"; here
    these are 1, 0 and -1: who wants the difficult ones as negatives, as Ericsson et al. 2021, takes ``labels == 1``;
    who ignores them, as the devkit does, drops ``labels == -1``.

    Args:
        root: the data root.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the data set is missing, incomplete or damaged.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE)
    train, val, test = (_split(folder, name) for name in _SPLITS)
    counts = [f"{(split.labels == -1).sum()} {name}" for name, split in zip(_SPLITS, (train, val, test), strict=True)]
    note = f"labels that only difficult objects have: {', '.join(counts)}"
    return assemble(TITLE, CLASSES, train, val, test, SIZES, certain=False, check_sizes=check_sizes, notes=[note])


def _split(folder: Path, name: str) -> Split:
    lists = folder / "ImageSets" / "Main"
    rows = {each: read_rows(lists / f"{each}_{name}.txt", "000012 -1", _ADVICE) for each in CLASSES}
    labels = torch.stack([_column(rows[each]) for each in CLASSES], dim=1)
    images = [row.fields[0] for row in rows[CLASSES[0]]]
    for each in CLASSES:
        if [row.fields[0] for row in rows[each]] != images:
            raise InputError(
                f"{lists / f'{each}_{name}.txt'}: expected the images of {CLASSES[0]}_{name}.txt in their order, got "
                f"others; {_ADVICE}"
            )
    return Split(tuple(folder / "JPEGImages" / f"{image}.jpg" for image in images), labels)


def _column(rows: list[Row]) -> Tensor:
    """One class's labels, int8 (N,)."""
    for row in rows:
        if row.fields[1] not in _LABELS:
            raise InputError(f"{row.place}: expected 1, 0 or -1 behind the image, got '{row.fields[1]}'; {_ADVICE}")
    return torch.tensor([_LABELS[row.fields[1]] for row in rows], dtype=torch.int8)
