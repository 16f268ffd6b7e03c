"""Boxes in COCO's layout: one JSON file for all images of a split.

Read here and not by Detectron2's loader, which takes what it finds.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import itemgetter
from pathlib import Path

from converters.errors import InputError, first_few
from converters.targets import quiet
from transfer.detection_boxes import (
    HOW_TO_FIND,
    UNPACK_AGAIN,
    BoxSet,
    Object,
    Record,
    box_set,
    check_count,
    check_files,
    check_header,
    check_unique,
    note,
)

with quiet():
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
    from detectron2.structures import BoxMode

CATEGORIES = {int(each["id"]): str(each["name"]) for each in COCO_CATEGORIES if each["isthing"]}

_NO_MASK = "has no usable polygon"


def coco_set(name: str, folder: Path, split: str, expected: Mapping[int, str], *, check_sizes: bool) -> BoxSet:
    """Read a split of 2017.

    Args:
        name: under which Detectron2 will know it.
        folder: that holds ``annotations/`` and the images' folders.
        split: ``"train"`` or ``"val"``.
        expected: names of the categories by their ids.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: it is missing, incomplete or damaged.
    """
    path, image_root = folder / "annotations" / f"instances_{split}2017.json", folder / f"{split}2017"
    images, annotations, categories = _read_coco(path)
    _check_categories(path, categories, expected)
    check_unique(path, "image id", [each["id"] for each in images])
    check_count(name, path, len(images), check_sizes)
    check_files(path, image_root, [each["file_name"] for each in images])
    with ThreadPoolExecutor() as pool:  # of a disk that is far away, many files can be asked for at once
        sizes = ((each["width"], each["height"]) for each in images)
        list(pool.map(partial(check_header, path), sizes, (image_root / each["file_name"] for each in images)))
    rows = {each["id"]: row for row, each in enumerate(images)}
    labels = {number: label for label, number in enumerate(categories)}
    _check_annotations(path, annotations, rows, labels)
    annotations.sort(key=lambda each: rows[each["image_id"]])  # stable: within an image the file's order stays
    dicts = [_coco_record(image_root, each) for each in images]
    for each in annotations:
        if _NO_MASK not in each:
            dicts[rows[each["image_id"]]]["annotations"].append(_coco_annotation(each, labels))
    objects = [
        Object(rows[x["image_id"]], labels[x["category_id"]], x["bbox"], bool(x["iscrowd"]), x["area"])
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
    notes = note("objects without a polygon of three points, tested on but not trained on", dropped)
    return box_set(name, "coco", categories, dicts, objects, place, metadata, notes)


def _read_coco(path: Path) -> tuple[list[Record], list[Record], dict[int, str]]:
    """Images by id, annotations as they stand there, and names of the categories by id."""
    if not path.is_file():
        raise InputError(f"COCO not found: expected {path}; {HOW_TO_FIND}, or {UNPACK_AGAIN}")
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
        raise InputError(f"{path} holds no instances in COCO's form ({error!r}); {UNPACK_AGAIN}") from error


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
            f"(missing: {first_few(missing) or 'none'}; unknown: {first_few(extra) or 'none'}); {UNPACK_AGAIN}"
        )


def _check_annotations(
    path: Path, annotations: Sequence[Record], images: Collection[int], categories: Collection[int]
) -> None:
    check_unique(path, "annotation id", [each["id"] for each in annotations])
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
        raise InputError(f"{path}, annotation {each['id']}: {problem}; {UNPACK_AGAIN}")
