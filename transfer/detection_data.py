"""Labelled boxes in the layouts of VOC and COCO: found, checked before training starts, and named to Detectron2.

The files are read here and not by Detectron2's loaders, which take what they find: what is wrong in a file would show
itself after hours, by a traceback or only in the number.
"""

import copy
import hashlib
import json
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from converters.errors import InputError, first_few, printable, unknown
from converters.targets import quiet
from transfer.detection_metrics import Truth
from transfer.tasks.voc2007 import CLASSES as VOC_CLASSES

with quiet():
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
    from detectron2.structures import BoxMode

# images: Everingham et al. 2010 and the development kits of 2007 and 2012; cocodataset.org, "Download"
_SIZES = {
    "voc_2007_trainval": 5011,
    "voc_2007_test": 4952,
    "voc_2012_trainval": 11_540,
    "coco_2017_train": 118_287,
    "coco_2017_val": 5000,
}
_VOC_TRAIN = {"07+12": ("voc_2007_trainval", "voc_2012_trainval"), "07": ("voc_2007_trainval",)}
_COCO = {int(each["id"]): str(each["name"]) for each in COCO_CATEGORIES if each["isthing"]}
_BORDER = 1.0  # pixels over the border of the image: the official corners are rounded there
_DECIMALS = 0.01  # pixels; COCO writes two of them
_NO_MASK = "has no usable polygon"

_ROOT = "set --data-root or DETECTRON2_DATASETS to the folder that holds it"
_AGAIN = "unpack the data set's archives again"

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


@dataclass(frozen=True)
class BoxData:
    """What a detector is trained on, and what it is tested on.

    Attributes:
        train: sets that are joined for training.
        test: sets that are tested on one by one.
    """

    train: tuple[BoxSet, ...]
    test: tuple[BoxSet, ...]


class _Object(NamedTuple):
    """One labelled object, with the attributes of `Truth`."""

    image: int
    label: int
    box: list[float]
    ignored: bool
    area: float


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
        return _voc_set(name, devkit / f"VOC{year}", split, VOC_CLASSES, check_sizes=check_sizes)

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
        _coco_set(f"coco_2017_{split}", folder, split, _COCO, check_sizes=check_sizes) for split in ("train", "val")
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
        _voc_set(f"sample_voc_{split}", folder, split, tuple(categories.values()), check_sizes=False)
        for split in ("trainval", "test")
    )
    other = _coco_set("sample_coco_val", _coco_folder(coco_root), "val", categories, check_sizes=False)
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


def _voc_set(name: str, folder: Path, split: str, classes: tuple[str, ...], *, check_sizes: bool) -> BoxSet:
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    ids = _voc_ids(listing)
    _check_count(name, listing, len(ids), check_sizes)
    _check_files(listing, folder / "JPEGImages", [f"{each}.jpg" for each in ids])
    _check_files(listing, folder / "Annotations", [f"{each}.xml" for each in ids])
    dicts, objects = list[Record](), list[_Object]()
    for row, each in enumerate(ids):
        record, found = _voc_image(folder, each, classes, evaluated=split == "test")
        dicts.append(record)
        objects += [_Object(row, *one) for one in found]
    metadata = {"dirname": str(folder), "split": split, "year": int(folder.name[-4:]), "evaluator_type": "pascal_voc"}

    def place(row: int) -> str:
        return str(folder / "Annotations" / f"{ids[objects[row].image]}.xml")

    return _box_set(name, "voc", dict(enumerate(classes, start=1)), dicts, objects, place, metadata)


def _voc_ids(path: Path) -> list[str]:
    """The images of a list, one on each line: Detectron2's evaluator reads no other form."""
    if not path.is_file():
        raise InputError(f"{path.parents[2].name} not found: expected {path}; {_ROOT}, or {_AGAIN}")
    ids = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    for number, each in enumerate(ids, start=1):
        if len(each.split()) != 1:
            raise InputError(
                f"{path}, line {number}: expected the name of one image, got '{printable(each)}'; {_AGAIN}"
            )
    _check_unique(path, "image", ids)
    return ids


def _voc_image(folder: Path, image: str, classes: tuple[str, ...], evaluated: bool) -> tuple[Record, list[Any]]:
    """Detectron2's record of an image, and its objects as the arguments of `_Object` behind the first."""
    xml, jpeg = folder / "Annotations" / f"{image}.xml", folder / "JPEGImages" / f"{image}.jpg"
    try:
        annotation = ElementTree.parse(xml).getroot()
        size = int(_text(annotation, "size/width")), int(_text(annotation, "size/height"))
        found = [_voc_object(each, evaluated) for each in annotation.iterfind("object")]
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise InputError(f"{xml} is no annotation in VOC's form ({error}); {_AGAIN}") from error
    _check_header(xml, size, jpeg)
    annotations, objects = [], []
    for name, (left, top, right, bottom), difficult in found:
        if name not in classes:
            raise InputError(f"{xml}: {unknown('class', printable(name), classes)}")
        label = classes.index(name)
        box = [left - 1.0, top - 1.0, right, bottom]
        annotations.append({"category_id": label, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS})
        objects.append((label, [left, top, right, bottom], difficult, (right - box[0]) * (bottom - box[1])))
    record = {"file_name": str(jpeg), "image_id": image, "height": size[1], "width": size[0]}
    return {**record, "annotations": annotations}, objects


def _voc_object(element: ElementTree.Element, evaluated: bool) -> tuple[str, list[float], bool]:
    """Class, box as written, and whether it is marked difficult.

    Args:
        element: the object.
        evaluated: True refuses what Detectron2's evaluator cannot read. Its loader is content with less: VOC2012 has
            fractions of pixels. An object without the mark is not difficult, as for the devkit.
    """
    corners = [_text(element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    if evaluated:
        _text(element, "pose")
        for number in (*corners, _text(element, "truncated"), _text(element, "difficult")):
            int(number)
    return _text(element, "name"), [float(each) for each in corners], int(element.findtext("difficult", "0")) != 0


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"<{path}> is missing")
    return text


def _check_header(place: Path, size: tuple[int, int], jpeg: Path) -> None:
    """Refuse an image that is not as large as its annotation says; opening reads no more than its header."""
    try:
        with Image.open(jpeg) as image:
            actual = image.size
    except OSError as error:  # Pillow's errors for files that are no images are kinds of it
        raise InputError(f"cannot read {jpeg} ({error}); {_AGAIN}") from error
    if actual != size:
        sizes = [" x ".join(map(str, each)) for each in (actual, size)]
        raise InputError(f"{place}: expected {sizes[0]} pixels, the size of {jpeg.name}, got {sizes[1]}; {_AGAIN}")


def _coco_folder(root: Path) -> Path:
    return root if (root / "annotations").is_dir() else root / "coco"


def _coco_set(name: str, folder: Path, split: str, expected: Mapping[int, str], *, check_sizes: bool) -> BoxSet:
    path, image_root = folder / "annotations" / f"instances_{split}2017.json", folder / f"{split}2017"
    images, annotations, categories = _read_coco(path)
    _check_categories(path, categories, expected)
    _check_unique(path, "image id", [each["id"] for each in images])
    _check_count(name, path, len(images), check_sizes)
    _check_files(path, image_root, [each["file_name"] for each in images])
    with ThreadPoolExecutor() as pool:  # of a disk that is far away, many files can be asked for at once
        sizes = ((each["width"], each["height"]) for each in images)
        list(pool.map(partial(_check_header, path), sizes, (image_root / each["file_name"] for each in images)))
    rows = {each["id"]: row for row, each in enumerate(images)}
    labels = {number: label for label, number in enumerate(categories)}
    _check_annotations(path, annotations, rows, labels)
    annotations.sort(key=lambda each: rows[each["image_id"]])  # stable: within an image the file's order stays
    dicts = [_coco_record(image_root, each) for each in images]
    for each in annotations:
        if _NO_MASK not in each:
            dicts[rows[each["image_id"]]]["annotations"].append(_coco_annotation(each, labels))
    objects = [
        _Object(rows[x["image_id"]], labels[x["category_id"]], x["bbox"], bool(x["iscrowd"]), x["area"])
        for x in annotations
    ]
    metadata = {
        "json_file": str(path),
        "image_root": str(image_root),
        "evaluator_type": "coco",
        "thing_dataset_id_to_contiguous_id": labels,
    }

    def place(row: int) -> str:
        return f"{path}, annotation {annotations[row]['id']}"

    dropped = sum(_NO_MASK in each for each in annotations)
    notes = _note("objects without a polygon of three points, tested on but not trained on", dropped)
    return _box_set(name, "coco", categories, dicts, objects, place, metadata, notes)


def _read_coco(path: Path) -> tuple[list[Record], list[Record], dict[int, str]]:
    """Images by id, annotations as they stand there, and names of the categories by id."""
    if not path.is_file():
        raise InputError(f"COCO not found: expected {path}; {_ROOT}, or {_AGAIN}")
    try:
        content = json.loads(path.read_bytes(), object_hook=_without_mask)
        images, categories = (sorted(content[each], key=itemgetter("id")) for each in ("images", "categories"))
        annotations = content["annotations"]
        if not all(isinstance(each["file_name"], str) for each in images):
            raise TypeError("expected text as file_name")
        _check_numbers(images, "id", "height", "width")
        _check_numbers(annotations, "id", "image_id", "category_id", "iscrowd", "area")  # what pycocotools reads
        if not all(len(each["bbox"]) == 4 and {*map(type, each["bbox"])} <= {int, float} for each in annotations):
            raise TypeError("expected four numbers as bbox")
        return images, annotations, {int(each["id"]): str(each["name"]) for each in categories}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no instances in COCO's form ({error!r}); {_AGAIN}") from error


def _without_mask(item: Record) -> Record:
    """Forget an annotation's mask while the file is parsed: boxes need none, and masks would fill gigabytes of memory.

    What Detectron2 does about it is noted: it drops an object that has only polygons of fewer than three points.
    """
    mask = item.pop("segmentation", None)
    if mask and isinstance(mask, list) and not any(len(each) >= 6 and len(each) % 2 == 0 for each in mask):
        item[_NO_MASK] = True
    return item


def _check_numbers(items: Sequence[Record], *fields: str) -> None:
    for field in fields:
        kinds = {type(each[field]) for each in items}
        if not kinds <= {int, float}:
            raise TypeError(f"expected numbers as {field}")


def _coco_record(image_root: Path, image: Record) -> Record:
    facts = {"height": image["height"], "width": image["width"], "image_id": image["id"]}
    return {"file_name": str(image_root / image["file_name"]), **facts, "annotations": []}


def _coco_annotation(annotation: Record, labels: Mapping[int, int]) -> Record:
    facts = {"iscrowd": annotation["iscrowd"], "bbox": annotation["bbox"], "bbox_mode": BoxMode.XYWH_ABS}
    return {**facts, "category_id": labels[annotation["category_id"]]}


def _check_categories(path: Path, found: Mapping[int, str], expected: Mapping[int, str]) -> None:
    missing, extra = (
        [f"{number} {name}" for number, name in some.items() if others.get(number) != name]
        for some, others in ((expected, found), (found, expected))
    )
    if missing or extra:
        raise InputError(
            f"{path}: expected the {len(expected)} categories of the data set, got {len(found)} "
            f"(missing: {first_few(missing) or 'none'}; unknown: {first_few(extra) or 'none'}); {_AGAIN}"
        )


def _check_annotations(
    path: Path, annotations: Sequence[Record], images: Collection[int], categories: Collection[int]
) -> None:
    _check_unique(path, "annotation id", [each["id"] for each in annotations])
    for each in annotations:
        image, category = each["image_id"], each["category_id"]
        if image not in images:
            problem = f"expected an image of this file, got {image}"
        elif category not in categories:
            problem = f"unknown category {category}, choose from {', '.join(map(str, categories))}"
        elif each.get("ignore"):
            problem = "expected no object with the mark 'ignore', which Detectron2 does not take"
        else:
            continue
        raise InputError(f"{path}, annotation {each['id']}: {problem}; {_AGAIN}")


def _box_set(
    name: str,
    layout: Layout,
    categories: Mapping[int, str],
    dicts: list[Record],
    objects: Sequence[_Object],
    place: Callable[[int], str],
    metadata: Record,
    notes: Sequence[str] = (),
) -> BoxSet:
    """Put a set together and check its boxes; `place` says where a row of `objects` stands, for messages."""
    if not objects:
        raise InputError(f"{name}: expected labelled objects, got none in {len(dicts)} images; {_AGAIN}")
    classes = tuple(categories.values())
    truth = _truth(objects, len(dicts), len(classes))
    notes = (*notes, *_check_boxes(layout, truth, dicts, place), *_content_notes(truth))
    if metadata.get("split") == "test":
        notes = (*notes, *_class_notes(truth, classes))
    return BoxSet(
        name, layout, classes, tuple(categories), dicts, truth, metadata, notes, _fingerprint(classes, dicts, truth)
    )


def _truth(objects: Sequence[_Object], num_images: int, num_classes: int) -> Truth:
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
            f"({len(wrong)} such boxes in all); {_AGAIN}"
        )
    over = int(np.count_nonzero(outside > _DECIMALS))
    empty = int(np.count_nonzero(sides == 0))
    return [
        *_note(f"boxes up to {_BORDER:g} pixel over the border, where Detectron2 cuts them in training", over),
        *_note("boxes without area, tested on but not trained on", empty),
    ]


def _corners(layout: Layout, box: Floats) -> tuple[Floats, Floats]:
    """Upper left and lower right corner in pixels from 0, (G, 2) each."""
    if layout == "coco":
        return box[:, :2], box[:, :2] + box[:, 2:]
    return box[:, :2] - 1, box[:, 2:]  # VOC's pixels count from 1, and the last one belongs to the box


def _content_notes(truth: Truth) -> list[str]:
    rows = np.column_stack([truth.image, truth.label, truth.box])
    return [
        *_note(
            "images without an object, tested on but not trained on", truth.num_images - len(np.unique(truth.image))
        ),
        *_note("objects that repeat another one's image, class and box", len(rows) - len(np.unique(rows, axis=0))),
    ]


def _class_notes(truth: Truth, classes: Sequence[str]) -> list[str]:
    counted = set(truth.label[~truth.ignored].tolist())
    absent = [name for label, name in enumerate(classes) if label not in counted]
    if not absent:
        return []
    return [f"classes without an object that counts, each an AP of 0 for Detectron2's evaluator: {first_few(absent)}"]


def _note(text: str, count: int) -> list[str]:
    return [f"{text}: {count}"] if count else []


def _fingerprint(classes: tuple[str, ...], dicts: list[Record], truth: Truth) -> str:
    images = [[each["image_id"], each["width"], each["height"]] for each in dicts]
    digest = hashlib.sha256(json.dumps([classes, images]).encode())
    for column in (truth.image, truth.label, truth.box, truth.ignored, truth.area):
        digest.update(column.astype("<f8").tobytes())
    return digest.hexdigest()[:12]


def _check_count(name: str, path: Path, count: int, check_sizes: bool) -> None:
    if check_sizes and count != _SIZES[name]:
        raise InputError(f"{name}: expected {_SIZES[name]} images, got {count} in {path}; put the original file there")


def _check_files(listing: Path, folder: Path, names: Sequence[str]) -> None:
    present = {each.name for each in folder.iterdir()} if folder.is_dir() else set()  # one look instead of thousands
    missing = [name for name in names if name not in present]
    if missing:
        raise InputError(
            f"{listing}: expected {folder / missing[0]}, which does not exist ({len(missing)} of {len(names)} "
            f"such files are missing); {_AGAIN}"
        )


def _check_unique(path: Path, what: str, ids: Sequence[Any]) -> None:
    repeated = [str(each) for each, count in Counter(ids).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: expected each {what} once, got {first_few(repeated)} repeatedly; {_AGAIN}")


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
                f"{train.name} and {test.name}: expected no common image, got {first_few(common)}; {_AGAIN}"
            )
    return data
