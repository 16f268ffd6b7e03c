"""Boxes in VOC's layout: lists of images, and an XML file for each image.

Read here and not by Detectron2's loader, which takes what it finds.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from converters.errors import InputError, printable, unknown
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
)

with quiet():
    from detectron2.structures import BoxMode


def voc_set(name: str, folder: Path, split: str, classes: tuple[str, ...], *, check_sizes: bool) -> BoxSet:
    """Read a split.

    Args:
        name: under which Detectron2 will know it.
        folder: ``VOC2007`` or ``VOC2012``.
        split: of ``ImageSets/Main``, such as ``"trainval"``.
        classes: names, by label.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: it is missing, incomplete or damaged.
    """
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    ids = _voc_ids(listing)
    check_count(name, listing, len(ids), check_sizes)
    check_files(listing, folder / "JPEGImages", [f"{each}.jpg" for each in ids])
    check_files(listing, folder / "Annotations", [f"{each}.xml" for each in ids])
    dicts, objects = list[Record](), list[Object]()
    for row, each in enumerate(ids):
        record, found = _voc_image(folder, each, classes, evaluated=split == "test")
        dicts.append(record)
        objects += [Object(row, *one) for one in found]
    metadata = {"dirname": str(folder), "split": split, "year": int(folder.name[-4:]), "evaluator_type": "pascal_voc"}

    def place(row: int) -> str:
        return str(folder / "Annotations" / f"{ids[objects[row].image]}.xml")

    return box_set(name, "voc", dict(enumerate(classes, start=1)), dicts, objects, place, metadata)


def _voc_ids(path: Path) -> list[str]:
    """The images of a list, one on each line: Detectron2's evaluator reads no other form."""
    if not path.is_file():
        raise InputError(f"{path.parents[2].name} not found: expected {path}; {HOW_TO_FIND}, or {UNPACK_AGAIN}")
    ids = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    for number, each in enumerate(ids, start=1):
        if len(each.split()) != 1:
            raise InputError(
                f"{path}, line {number}: expected the name of one image, got '{printable(each)}'; {UNPACK_AGAIN}"
            )
    check_unique(path, "image", ids)
    return ids


def _voc_image(folder: Path, image: str, classes: tuple[str, ...], evaluated: bool) -> tuple[Record, list[Any]]:
    """Detectron2's record of an image, and its objects as the arguments of `Object` behind the first."""
    xml, jpeg = folder / "Annotations" / f"{image}.xml", folder / "JPEGImages" / f"{image}.jpg"
    try:
        annotation = ElementTree.parse(xml).getroot()
        size = int(_text(annotation, "size/width")), int(_text(annotation, "size/height"))
        found = [_voc_object(each, evaluated) for each in annotation.iterfind("object")]
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise InputError(f"{xml} is no annotation in VOC's form ({error}); {UNPACK_AGAIN}") from error
    check_header(xml, size, jpeg)
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
