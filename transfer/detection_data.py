"""The detection data sets: found, checked before training starts, and named to Detectron2.

What is wrong in a file would else show itself after hours, by a traceback or only in the number.
"""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from converters.errors import InputError, first_few, unknown
from converters.targets import quiet
from transfer.detection_boxes import UNPACK_AGAIN, BoxSet
from transfer.detection_coco import CATEGORIES, coco_set
from transfer.detection_voc import voc_set
from transfer.tasks.voc2007 import CLASSES as VOC_CLASSES

with quiet():
    from detectron2.data import DatasetCatalog, MetadataCatalog

_VOC_TRAIN = {"07+12": ("voc_2007_trainval", "voc_2012_trainval"), "07": ("voc_2007_trainval",)}


@dataclass(frozen=True)
class BoxData:
    """What a detector is trained on, and what it is tested on.

    Attributes:
        train: sets that are joined for training.
        test: sets that are tested on one by one.
    """

    train: tuple[BoxSet, ...]
    test: tuple[BoxSet, ...]


def find_root(argument: Path | None) -> Path:
    """The data root: what the user gave, else the variable of the environment that Detectron2 reads, else ``data/``."""
    return (argument or Path(os.environ.get("DETECTRON2_DATASETS") or "data")).expanduser()


def voc(root: Path, train: str = "07+12", *, check_sizes: bool = True) -> BoxData:
    """PASCAL VOC: training on the trainval images of 2007 and 2012 or of 2007 only, test on those of 2007.

    Args:
        root: the folder that holds ``VOCdevkit/``, that folder itself, or ``VOC2007/`` with ``VOC2012/`` beside it.
        train: ``"07+12"`` or ``"07"``.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the data set is missing, incomplete or damaged, or `train` is something else.
    """
    if train not in _VOC_TRAIN:
        raise unknown("VOC training set", train, _VOC_TRAIN)
    devkit = _devkit(root)

    def read(name: str) -> BoxSet:
        _, year, split = name.split("_")
        return voc_set(name, devkit / f"VOC{year}", split, VOC_CLASSES, check_sizes=check_sizes)

    return _disjoint(BoxData(tuple(map(read, _VOC_TRAIN[train])), (read("voc_2007_test"),)))


def coco(root: Path, *, check_sizes: bool = True) -> BoxData:
    """COCO 2017: training on its training images, test on its validation images.

    Args:
        root: the folder that holds ``coco/``, or that folder itself.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the data set is missing, incomplete or damaged.
    """
    folder = _coco_folder(root)
    train, test = (
        coco_set(f"coco_2017_{split}", folder, split, CATEGORIES, check_sizes=check_sizes) for split in ("train", "val")
    )
    return _disjoint(BoxData((train,), (test,)))


def sample(voc_root: Path, coco_root: Path, categories: Mapping[int, str]) -> BoxData:
    """The sample scenes: training on VOC's layout, test on the same scenes in both.

    Args:
        voc_root: as `voc` takes it; the scenes lie in ``VOC2007/``.
        coco_root: as `coco` takes it; the test scenes lie in ``val2017/``.
        categories: names by the category ids of COCO's layout, which rise with the labels.

    Raises:
        InputError: the scenes are missing, incomplete or damaged.
    """
    folder = _devkit(voc_root) / "VOC2007"
    train, test = (
        voc_set(f"sample_voc_{split}", folder, split, tuple(categories.values()), check_sizes=False)
        for split in ("trainval", "test")
    )
    other = coco_set("sample_coco_val", _coco_folder(coco_root), "val", categories, check_sizes=False)
    return _disjoint(BoxData((train,), (test, other)))


def register(data: BoxData) -> None:
    """Name the sets to Detectron2, in place of its own entries of the same names, which look in ``datasets/``."""
    for each in (*data.train, *data.test):
        for catalogue in (DatasetCatalog, MetadataCatalog):
            if each.name in catalogue:
                catalogue.remove(each.name)
        DatasetCatalog.register(each.name, partial(copy.deepcopy, each.dicts))  # who reads them may change them
        MetadataCatalog.get(each.name).set(thing_classes=list(each.classes), **each.metadata)


def _devkit(root: Path) -> Path:
    """The folder that holds VOC2007, or should."""
    if (root / "JPEGImages").is_dir():
        return root.absolute().parent  # "." has no other parent than itself
    return root if (root / "VOC2007").is_dir() else root / "VOCdevkit"


def _coco_folder(root: Path) -> Path:
    return root if (root / "annotations").is_dir() else root / "coco"


def _disjoint(data: BoxData) -> BoxData:
    """The data, if no image is for training and test.

    Raises:
        InputError: one is.
    """
    for train, test in product(data.train, data.test):
        tested = {each["image_id"] for each in test.dicts}
        common = [str(each["image_id"]) for each in train.dicts if each["image_id"] in tested]
        if common:
            raise InputError(
                f"{train.name} and {test.name}: expected no common image, got {first_few(common)}; {UNPACK_AGAIN}"
            )
    return data
