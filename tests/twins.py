"""Tiny twins of the benchmark's data sets: their exact layouts, filled with the sample pictures."""

import itertools
import json
import pickle
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.io import savemat

from converters.images import load_images

Layout = Literal["reference", "torchvision"]

# images of a class: enough for a fifth of the training split to hold some of most classes
TRAIN, VAL, TEST = 5, 3, 3
NUM_CLASSES = 3  # of all but CIFAR-10 and VOC2007, whose classes are fixed

CIFAR10_CLASSES = 10
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

# folder of a twin below the data root
FOLDERS: dict[str, dict[Layout, str]] = {
    "aircraft": {"reference": "Aircraft", "torchvision": "fgvc-aircraft-2013b"},
    "caltech101": {"reference": "Caltech101/caltech101", "torchvision": "caltech101"},
    "cars": {"reference": "Cars", "torchvision": "stanford_cars"},
    "cifar10": {"reference": "CIFAR10", "torchvision": "."},
    "dtd": {"reference": "DTD", "torchvision": "dtd/dtd"},
    "flowers": {"reference": "Flowers", "torchvision": "flowers-102"},
    "food": {"reference": "Food/food-101", "torchvision": "food-101"},
    "pets": {"reference": "Pets", "torchvision": "oxford-iiit-pet"},
    "sun397": {"reference": "SUN397", "torchvision": "SUN397"},
    "voc2007": {"reference": "VOC2007/VOCdevkit/VOC2007", "torchvision": "VOCdevkit/VOC2007"},
}


def write(name: str, root: Path, layout: Layout = "reference") -> Path:
    """Write the twin of a data set; returns its folder."""
    folder = root / FOLDERS[name][layout]
    folder.mkdir(parents=True, exist_ok=True)
    {
        "aircraft": _aircraft,
        "caltech101": _caltech101,
        "cars": _cars_with_labels_beside if layout == "torchvision" else _cars,
        "cifar10": _cifar10,
        "dtd": _dtd,
        "flowers": _flowers,
        "food": _food,
        "pets": _pets,
        "sun397": _sun397,
        "voc2007": _voc2007,
    }[name](folder)
    return folder


def write_all(root: Path) -> None:
    """Write all ten twins below a data root, in the reference's layouts."""
    for name in FOLDERS:
        write(name, root)


def _aircraft(folder: Path) -> None:
    pictures, numbers = Pictures(), itertools.count(34_000)
    variants = ["727-200", "Cessna 172", "DHC-8-100"]
    for split, count in ("train", TRAIN), ("val", VAL), ("test", TEST):
        lines = []
        for variant in variants * count:
            image = f"{next(numbers):07d}"
            pictures.save(folder / "data" / "images" / f"{image}.jpg", variants.index(variant))
            lines.append(f"{image} {variant}\n")
        _write(folder / "data" / f"images_variant_{split}.txt", lines)
    _write(folder / "data" / "variants.txt", [f"{variant}\n" for variant in variants])


def _caltech101(folder: Path) -> None:
    pictures = Pictures()
    classes = ["BACKGROUND_Google", "Faces", "accordion"]  # the lists' order: capitals first
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for label, name in enumerate(classes):
        for number in range(1, TRAIN + TEST + 1):
            entry = f"{name}/image_{number:04d}.jpg"
            pictures.save(folder / "101_ObjectCategories" / entry, label)
            lines["train" if number <= TRAIN else "test"].append(f"{entry} {label}\n")
    for split, entries in lines.items():
        _write(
            folder.parent / f"{split}.txt" if folder.parent.name == "Caltech101" else folder / f"{split}.txt", entries
        )


def _cars(folder: Path, labels_beside: bool = False) -> None:
    pictures = Pictures()
    classes = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"]
    for split, count in ("train", TRAIN), ("test", TEST):
        labels = [label for _ in range(count) for label in range(NUM_CLASSES)]
        names = [f"{number:05d}.jpg" for number in range(1, len(labels) + 1)]
        for name, label in zip(names, labels, strict=True):
            pictures.save(folder / f"cars_{split}" / name, label)
        write_car_annotations(
            folder / "devkit" / f"cars_{split}_annos.mat", names, labels if split == "train" else None
        )
        if split == "test":
            with_labels = "cars_test_annos_withlabels.mat"
            write_car_annotations(folder / ("" if labels_beside else "devkit") / with_labels, names, labels)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(classes, dtype=object)})


def _cars_with_labels_beside(folder: Path) -> None:
    _cars(folder, labels_beside=True)


def write_car_annotations(path: Path, names: list[str], labels: list[int] | None) -> None:
    """Annotations in the devkit's form: a row of structures with a box, the class from 1, and the file."""
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", *(["class"] if labels is not None else []), "fname"]
    annotations = np.empty((1, len(names)), dtype=[(field, object) for field in fields])
    for position, name in enumerate(names):
        box = {field: np.uint16(10) for field in fields}
        values = {**box, "fname": name, **({"class": np.int16(labels[position] + 1)} if labels is not None else {})}
        annotations[0, position] = tuple(values[field] for field in fields)
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"annotations": annotations})


def _cifar10(folder: Path) -> None:
    pictures = Pictures()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        labels = list(range(CIFAR10_CLASSES))
        tiles = [np.asarray(pictures.next(label).resize((32, 32))) for label in labels]
        batch = {b"data": np.stack(tiles).transpose(0, 3, 1, 2).reshape(len(labels), -1), b"labels": labels}
        (folder / "cifar-10-batches-py").mkdir(exist_ok=True)
        (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(batch, protocol=2))


def _dtd(folder: Path) -> None:
    pictures, numbers = Pictures(), itertools.count(1)
    in_second = {"train": "test", "val": "train", "test": "val"}  # a partition that must not be read
    for split, count in ("train", TRAIN), ("val", VAL), ("test", TEST):
        entries = []
        for position, name in enumerate(["banded", "blotchy", "zigzagged"] * count):
            entries.append(f"{name}/{name}_{next(numbers):04d}.jpg")
            pictures.save(folder / "images" / entries[-1], position % NUM_CLASSES)
        for name in f"{split}1.txt", f"{in_second[split]}2.txt":
            _write(folder / "labels" / name, [f"{entry}\n" for entry in entries])


def _flowers(folder: Path) -> None:
    pictures = Pictures()
    labels = [label for label in range(NUM_CLASSES) for _ in range(TRAIN + VAL + TEST)]
    for number, label in enumerate(labels, start=1):
        pictures.save(folder / "jpg" / f"image_{number:05d}.jpg", label)
    within = np.arange(len(labels)) % (TRAIN + VAL + TEST)
    ids = np.arange(1, len(labels) + 1, dtype=np.uint16)
    sets = {
        "trnid": within < TRAIN,
        "valid": (within >= TRAIN) & (within < TRAIN + VAL),
        "tstid": within >= TRAIN + VAL,
    }
    # as in the original, the ids of a set are not in order
    savemat(folder / "setid.mat", {name: ids[mask][None, ::-1] for name, mask in sets.items()})
    savemat(folder / "imagelabels.mat", {"labels": np.array(labels, dtype=np.uint8)[None] + 1})


def _food(folder: Path) -> None:
    pictures, numbers = Pictures(), itertools.count(1_005_649)
    classes = ["apple_pie", "baby_back_ribs", "waffles"]
    for split, count in ("train", TRAIN), ("test", TEST):
        listed = {name: [f"{name}/{next(numbers)}" for _ in range(count)] for name in classes}
        for name, entries in listed.items():
            for entry in entries:
                pictures.save(folder / "images" / f"{entry}.jpg", classes.index(name))
        _write(folder / "meta" / f"{split}.json", [json.dumps(listed)])
        _write(folder / "meta" / f"{split}.txt", [f"{entry}\n" for entries in listed.values() for entry in entries])
    _write(folder / "meta" / "classes.txt", [f"{name}\n" for name in classes])


def _pets(folder: Path) -> None:
    pictures, numbers = Pictures(), itertools.count(1)
    breeds = ["Abyssinian", "american_bulldog", "Bengal"]  # in the order of their numbers, which ignores capitals
    for split, count in ("trainval", TRAIN), ("test", TEST):
        lines = []
        for label, breed in [*enumerate(breeds)] * count:
            image = f"{breed}_{next(numbers)}"
            pictures.save(folder / "images" / f"{image}.jpg", label)
            lines.append(f"{image} {label + 1} {1 + (breed == 'american_bulldog')} 1\n")
        _write(folder / "annotations" / f"{split}.txt", lines)


def _sun397(folder: Path) -> None:
    pictures, numbers = Pictures(), itertools.count(1)
    classes = ["/c/church", "/c/church/outdoor", "/c/church_tower"]  # one is the beginning of another
    for split, count in ("Training", TRAIN), ("Testing", TEST):
        entries = [f"{name}/sun_{next(numbers):016x}.jpg" for name in classes for _ in range(count)]
        for entry in entries:
            pictures.save(folder / entry[1:], classes.index(entry.rpartition("/")[0]))
        _write(folder / f"{split}_01.txt", [f"{entry}\r\n" for entry in entries])
    _write(folder / "ClassName.txt", [f"{name}\n" for name in classes])


def _voc2007(folder: Path) -> None:
    """Every image shows two classes, and a third one only as difficult objects."""
    pictures, numbers = Pictures(), itertools.count(1)
    num_classes = len(VOC_CLASSES)
    for split in "train", "val", "test":
        images = [f"{next(numbers):06d}" for _ in range(num_classes)]
        for position, image in enumerate(images):
            pictures.save(folder / "JPEGImages" / f"{image}.jpg", position % 10)
            (folder / "Annotations").mkdir(exist_ok=True)
            (folder / "Annotations" / f"{image}.xml").write_text("<annotation/>")
        for label, name in enumerate(VOC_CLASSES):
            marks = {label: 1, (label + 1) % num_classes: 1, (label + 2) % num_classes: 0}
            lines = [f"{image} {marks.get(position, -1):2d}\n" for position, image in enumerate(images)]
            _write(folder / "ImageSets" / "Main" / f"{name}_{split}.txt", lines)
        _write(folder / "ImageSets" / "Main" / f"{split}.txt", [f"{image}\n" for image in images])


class Pictures:
    """Sample pictures by class, none twice, saved as what data sets call .jpg: colour, grey, palette, any shape."""

    def __init__(self) -> None:
        self.unused: dict[int, Iterator[npt.NDArray[np.uint8]]] = {}
        self.saved = 0

    def next(self, label: int) -> Image.Image:
        images, labels = sample()
        rows = np.flatnonzero(labels == label % 10)
        return Image.fromarray(next(self.unused.setdefault(label % 10, iter(images[rows]))))

    def save(self, path: Path, label: int) -> None:
        image = self.next(label)
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = self.saved % 5
        self.saved += 1
        if kind == 1:
            image.convert("L").save(path, "JPEG")
        elif kind == 3:
            image.convert("P").save(path, "GIF")  # some of the Pets' and SUN397's files are no JPEG
        else:
            image.crop((0, 0, 64 - 8 * (kind == 2), 64 - 16 * (kind == 4))).save(path, "JPEG")


@cache
def sample() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The sample's training pictures, (N, 64, 64, 3), and their classes."""
    pictures = load_images("sample", "train")
    return pictures.images.permute(0, 2, 3, 1).contiguous().numpy(), pictures.labels.numpy()


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), newline="")
