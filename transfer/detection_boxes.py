"""A set of labelled boxes, and what is checked of it whatever its layout."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from converters.errors import InputError, first_few
from transfer.detection_metrics import Truth

# images: Everingham et al. 2010 and the development kits of 2007 and 2012; cocodataset.org, "Download"
_SIZES = {
    "voc_2007_trainval": 5011,
    "voc_2007_test": 4952,
    "voc_2012_trainval": 11_540,
    "coco_2017_train": 118_287,
    "coco_2017_val": 5000,
}
_BORDER = 1.0  # pixels over the border of the image: the official corners are rounded there
_DECIMALS = 0.01  # pixels; COCO writes two of them

HOW_TO_FIND = "set --data-root or DETECTRON2_DATASETS to the folder that holds it"
UNPACK_AGAIN = "unpack the data set's archives again"

Layout = Literal["voc", "coco"]
Record = dict[str, Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BoxSet:
    """One split of a data set of boxes.

    Attributes:
        name: under which Detectron2 knows it, such as ``"voc_2007_test"``.
        layout: whose files these are.
        classes: names, by label.
        category_ids: the files' own numbers of the classes, by label; VOC has none, so they count from 1.
        dicts: one for each image, as Detectron2's loader of this layout gives them, without masks and keypoints.
        truth: all objects in the order of `dicts`; those that Detectron2 drops in training are among them, since its
            evaluators count them.
        metadata: what Detectron2's evaluator of this layout asks its catalogue for, apart from the classes.
        notes: what a user should know, one sentence each.
        fingerprint: 12 hexadecimal digits of a SHA-256 over classes, image ids and sizes, and the objects.
    """

    name: str
    layout: Layout
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    dicts: list[Record]
    truth: Truth
    metadata: Record
    notes: tuple[str, ...]
    fingerprint: str


class Object(NamedTuple):
    """One labelled object, with the attributes of `Truth`."""

    image: int
    label: int
    box: list[float]
    ignored: bool
    area: float


def box_set(
    name: str,
    layout: Layout,
    categories: Mapping[int, str],
    dicts: list[Record],
    objects: Sequence[Object],
    place: Callable[[int], str],
    metadata: Record,
    notes: Sequence[str] = (),
) -> BoxSet:
    """Put a set together and check its boxes; `place` says where a row of `objects` stands, for messages."""
    if not objects:
        raise InputError(f"{name}: expected labelled objects, got none in {len(dicts)} images; {UNPACK_AGAIN}")
    classes = tuple(categories.values())
    truth = _truth(objects, len(dicts), len(classes))
    notes = (*notes, *_check_boxes(layout, truth, dicts, place), *_content_notes(truth))
    if metadata.get("split") == "test":
        notes = (*notes, *_class_notes(truth, classes))
    return BoxSet(
        name, layout, classes, tuple(categories), dicts, truth, metadata, notes, _fingerprint(classes, dicts, truth)
    )


def _truth(objects: Sequence[Object], num_images: int, num_classes: int) -> Truth:
    image, label, box, ignored, area = zip(*objects, strict=True)
    return Truth(
        image=np.array(image, dtype=np.int64),
        label=np.array(label, dtype=np.int64),
        box=np.array(box, dtype=np.float64),
        ignored=np.array(ignored, dtype=np.bool_),
        area=np.array(area, dtype=np.float64),
        num_images=num_images,
        num_classes=num_classes,
    )


def _check_boxes(layout: Layout, truth: Truth, dicts: list[Record], place: Callable[[int], str]) -> list[str]:
    """Refuse boxes that lie outside their image or are turned inside out; what the official files contain is noted."""
    start, stop = _corners(layout, truth.box)
    limits = np.array([[each["width"], each["height"]] for each in dicts], dtype=np.float64)[truth.image]
    outside = np.maximum(-start, stop - limits).max(axis=1)
    sides = (stop - start).min(axis=1)
    wrong = np.flatnonzero(~((sides >= 0) & (outside <= _BORDER)))  # NaN fails every comparison
    if len(wrong):
        first = int(wrong[0])
        width, height = (f"{each:g}" for each in limits[first])
        raise InputError(
            f"{place(first)}: expected a box within {width} x {height} pixels, got {truth.box[first].tolist()} "
            f"({len(wrong)} such boxes in all); {UNPACK_AGAIN}"
        )
    over = int(np.count_nonzero(outside > _DECIMALS))
    empty = int(np.count_nonzero(sides == 0))
    return [
        *note(f"boxes up to {_BORDER:g} pixel over the border, where Detectron2 cuts them in training", over),
        *note("boxes without area, tested on but not trained on", empty),
    ]


def _corners(layout: Layout, box: Floats) -> tuple[Floats, Floats]:
    """Upper left and lower right corner in pixels from 0, (G, 2) each."""
    if layout == "coco":
        return box[:, :2], box[:, :2] + box[:, 2:]
    return box[:, :2] - 1, box[:, 2:]  # VOC's pixels count from 1, and the last one belongs to the box


def _content_notes(truth: Truth) -> list[str]:
    rows = np.column_stack([truth.image, truth.label, truth.box])
    return [
        *note("images without an object, tested on but not trained on", truth.num_images - len(np.unique(truth.image))),
        *note("objects that repeat another one's image, class and box", len(rows) - len(np.unique(rows, axis=0))),
    ]


def _class_notes(truth: Truth, classes: Sequence[str]) -> list[str]:
    counted = set(truth.label[~truth.ignored].tolist())
    absent = [name for label, name in enumerate(classes) if label not in counted]
    if not absent:
        return []
    return [f"classes without an object that counts, each an AP of 0 for Detectron2's evaluator: {first_few(absent)}"]


def note(text: str, count: int) -> list[str]:
    """What a user should know, if there is any of it."""
    return [f"{text}: {count}"] if count else []


def _fingerprint(classes: tuple[str, ...], dicts: list[Record], truth: Truth) -> str:
    images = [[each["image_id"], each["width"], each["height"]] for each in dicts]
    digest = hashlib.sha256(json.dumps([classes, images]).encode())
    for column in (truth.image, truth.label, truth.box, truth.ignored, truth.area):
        digest.update(column.astype("<f8").tobytes())
    return digest.hexdigest()[:12]


def check_count(name: str, path: Path, count: int, check_sizes: bool) -> None:
    """Refuse another number of images than the official one, unless an excerpt is welcome."""
    if check_sizes and count != _SIZES[name]:
        raise InputError(f"{name}: expected {_SIZES[name]} images, got {count} in {path}; put the original file there")


def check_files(listing: Path, folder: Path, names: Sequence[str]) -> None:
    """Refuse a list that names files which are not in a folder."""
    present = {each.name for each in folder.iterdir()} if folder.is_dir() else set()  # one look instead of thousands
    missing = [name for name in names if name not in present]
    if missing:
        raise InputError(
            f"{listing}: expected {folder / missing[0]}, which does not exist ({len(missing)} of {len(names)} "
            f"such files are missing); {UNPACK_AGAIN}"
        )


def check_unique(path: Path, what: str, ids: Sequence[Any]) -> None:
    """Refuse what is listed twice."""
    repeated = [str(each) for each, count in Counter(ids).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: expected each {what} once, got {first_few(repeated)} repeatedly; {UNPACK_AGAIN}")


def check_header(place: Path, size: tuple[int, int], jpeg: Path) -> None:
    """Refuse an image that is not as large as its annotation says; opening reads no more than its header."""
    try:
        with Image.open(jpeg) as image:
            actual = image.size
    except OSError as error:  # Pillow's errors for files that are no images are kinds of it
        raise InputError(f"cannot read {jpeg} ({error}); {UNPACK_AGAIN}") from error
    if actual != size:
        sizes = [" x ".join(map(str, each)) for each in (actual, size)]
        raise InputError(
            f"{place}: expected {sizes[0]} pixels, the size of {jpeg.name}, got {sizes[1]}; {UNPACK_AGAIN}"
        )
