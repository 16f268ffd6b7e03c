"""Scenes of the sample drawings in the on-disk layouts of VOC2007, COCO 2017 and ADE20K, with exact boxes and masks.

Drawings of `configs/demo/pictures` stand on a smooth background, hide each other and are cut by the border. Training
scenes and test scenes are made of different drawings; all layouts show the same scenes. A number measured on them says
that a pipeline works; it says nothing about VOC, COCO or ADE20K.
"""

import hashlib
import json
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageChops, ImageEnhance

from converters import images as image_sets
from converters import randomness
from converters.errors import InputError, unknown
from converters.images import SAMPLE_ROOT, LabelledImages, Split, load_drawings
from converters.randomness import position_seed

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Box = tuple[int, int, int, int]
Scenes = Mapping[Split, Iterator[tuple[int, "Scene"]]]  # numbered

CLASSES = (
    *("animals", "flags", "food", "icons", "outdoors"),
    *("people", "recreation", "signs", "tools", "transportation"),
)
ADE20K_CLASSES = ("background", *CLASSES)  # label 0 is unlabelled, so these are 1, 2, ...
COCO_IDS = tuple(label + 1 + label // 3 for label in range(len(CLASSES)))  # 1 2 3 5 6 7 9 ...: COCO's have gaps as well

_VOC_SPLITS: dict[Split, str] = {"train": "trainval", "test": "test"}
_COCO_SPLITS: dict[Split, str] = {"train": "train2017", "test": "val2017"}
_ADE20K_SPLITS: dict[Split, tuple[str, str]] = {"train": ("training", "train"), "test": ("validation", "val")}

FOLDER = Path("runs/scenes")  # of the commands
NUM_TRAIN, NUM_TEST = 800, 200
SEED = 0

_SIZES = ((192, 144), (144, 192))  # width and height: both, so that batches have to pad or to group them
_MOST_OBJECTS = 5
_LONGEST_SIDE = (36, 88)  # of an object in pixels: COCO's small, medium and nearly its large ones
_DARKEST = 0.8  # an object is dimmed by up to this factor: its hue and saturation stay
_CLIP = 0.15  # the border cuts up to this share of an object's width and height
_MIN_VISIBLE = 0.25  # of an object's pixels
_ATTEMPTS = 10  # to find an object a place
_FAINT, _OPAQUE = 16, 127  # of alpha: above the second a pixel is the object's, from the first on it is nobody's
_MIN_OPAQUE = 200  # pixels of a tile: less is hardly to be seen
_JPEG_QUALITY = 95

_TRUNCATED, _DIFFICULT = 0.85, 0.5  # visible below: VOC2007's guidelines speak of 15-20 % hidden, and of judgement


@dataclass(frozen=True)
class SceneObject:
    """A drawing in a scene.

    Attributes:
        label: index into `CLASSES`.
        mask: its visible pixels, bool (H, W).
        whole: how many pixels it would have if nothing hid it and no border cut it.
        clipped: whether the border cuts it.
    """

    label: int
    mask: Mask
    whole: int
    clipped: bool

    @property
    def box(self) -> Box:
        """The tight box of what is visible: left, top, right, bottom in whole pixels, the last two exclusive."""
        columns, rows = (np.flatnonzero(self.mask.any(axis)) for axis in (0, 1))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @property
    def area(self) -> int:
        """The number of visible pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def visible(self) -> float:
        """Visible share of the whole drawing, in 0..1."""
        return self.area / self.whole


@dataclass(frozen=True)
class Scene:
    """A picture with what stands in it.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        objects: from back to front; their masks are disjoint.
        seam: pixels that a partly transparent rim covers, bool (H, W); where it lies over an object, the object's mask
            has them too.
    """

    image: npt.NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
    seam: Mask


def scene_drawings(split: Split) -> LabelledImages:
    """The drawings that scenes of a split are made of: those of the sample that are not mostly transparent.

    Returns:
        uint8 (N, 4, 64, 64), RGBA.
    """
    drawings = load_drawings(split)
    alpha = drawings.images[:, 3]
    opaque = (alpha > _OPAQUE).sum((1, 2))
    faint = ((alpha >= _FAINT) & (alpha <= _OPAQUE)).sum((1, 2))
    usable = (opaque >= _MIN_OPAQUE) & (opaque > faint)
    return replace(drawings, images=drawings.images[usable], labels=drawings.labels[usable])


def compose(split: Split, index: int, drawings: LabelledImages, seed: int = SEED) -> Scene:
    """Scene number `index` of a split; it depends on the arguments alone.

    Args:
        split: ``"train"`` or ``"test"``.
        index: from 0.
        drawings: RGBA, see `scene_drawings`.
        seed: of all choices.
    """
    draw = np.random.default_rng(position_seed(seed, f"{split} scenes", index))
    canvas = _background(_SIZES[draw.integers(len(_SIZES))], draw)
    scene = Scene(np.array(canvas), (), np.zeros((canvas.height, canvas.width), dtype=bool))
    for drawing in draw.choice(len(drawings.labels), size=draw.integers(1, _MOST_OBJECTS + 1), replace=False):
        tile = Image.fromarray(drawings.images[drawing].permute(1, 2, 0).numpy())
        scene = _add(scene, _resized(tile, draw), int(drawings.labels[drawing]), draw)
    return scene


def _background(size: tuple[int, int], draw: np.random.Generator) -> Image.Image:
    """A smooth gradient between the colours of the corners, with a little cloudiness."""
    corners = draw.integers(90, 191, size=3) + draw.integers(-30, 31, size=(2, 2, 3))
    clouds = 128 + draw.integers(-12, 13, size=(7, 9, 1)).repeat(3, axis=2)
    gradient, noise = (
        Image.fromarray(x.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC) for x in (corners, clouds)
    )
    return ImageChops.add(gradient, noise, scale=1, offset=-128)


def _resized(tile: Image.Image, draw: np.random.Generator) -> Image.Image:
    """A drawing without its margin, at a random size, mirrored or not, dimmed a little."""
    tile = tile.crop(tile.getchannel("A").point(lambda alpha: 255 * (alpha >= _FAINT)).getbbox())
    factor = draw.integers(_LONGEST_SIDE[0], _LONGEST_SIDE[1] + 1) / max(tile.size)
    width, height = (max(1, round(side * factor)) for side in tile.size)
    tile = tile.resize((width, height), Image.Resampling.BICUBIC)
    if draw.random() < 0.5:
        tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Brightness(tile).enhance(draw.uniform(_DARKEST, 1))


def _add(scene: Scene, tile: Image.Image, label: int, draw: np.random.Generator) -> Scene:
    """Put a drawing in front of a scene, where it leaves enough of all others; the scene as it was if that fails."""
    height, width = scene.seam.shape
    whole = int(np.count_nonzero(np.asarray(tile.getchannel("A")) > _OPAQUE))
    for _ in range(_ATTEMPTS):
        corner = _start(width, tile.width, draw), _start(height, tile.height, draw)
        layer = Image.new("L", (width, height))
        layer.paste(tile.getchannel("A"), corner)
        alpha = np.asarray(layer)
        mask = alpha > _OPAQUE
        added = SceneObject(label, mask, whole, clipped=bool(np.count_nonzero(mask) < whole))
        objects = (*(replace(other, mask=other.mask & ~mask) for other in scene.objects), added)
        if min(each.visible for each in objects) >= _MIN_VISIBLE:
            canvas = Image.fromarray(scene.image)
            canvas.paste(tile, corner, tile)
            return Scene(np.array(canvas), objects, (scene.seam | (alpha >= _FAINT)) & ~mask)
    return scene


def _start(length: int, side: int, draw: np.random.Generator) -> int:
    """Where a side starts on an axis, at most `_CLIP` of it outside."""
    outside = int(_CLIP * side)
    return int(draw.integers(-outside, length - side + outside + 1))


def sample_root(layout: str, folder: Path = FOLDER, *, num_train: int = NUM_TRAIN, num_test: int = NUM_TEST) -> Path:
    """The folder with the scenes in a layout; they are composed where they are missing, which takes seconds.

    Args:
        layout: one of `LAYOUTS`: ``voc`` holds VOCdevkit/VOC2007, ``coco`` holds coco, ``ade20k`` holds
            ADEChallengeData2016.
        folder: where the scenes of all recipes are kept. Its subfolders are named after what decides their content.
        num_train: number of training scenes.
        num_test: number of test scenes.

    Raises:
        InputError: there is no such layout, the sample pictures are not there, or the folder cannot be written.
    """
    if layout not in _WRITERS:
        raise unknown("layout", layout, LAYOUTS)
    root = folder / f"{layout}-{_recipe(num_train, num_test)}"
    if root.is_dir():
        return root
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=folder, prefix=f".{root.name}.", suffix=".part")
    except OSError as error:
        raise InputError(f"cannot write scenes to {folder}: {error.strerror}; choose another folder") from error
    with temporary as name:
        composed = Path(name) / "whole"
        _WRITERS[layout](composed, _scenes(num_train, num_test))
        try:
            composed.rename(root)
        except OSError:
            if not root.is_dir():  # another process has been faster: its files are the same
                raise
    return root


def _recipe(num_train: int, num_test: int) -> str:
    """A name for all that decides what the scenes look like: code with every constant, Pillow, and drawings."""
    content = hashlib.sha256(f"{num_train} {num_test} {PIL.__version__}".encode())
    code = (__file__, image_sets.__file__, randomness.__file__)
    for path in (*map(Path, code), *sorted(SAMPLE_ROOT.glob("*.webp")), SAMPLE_ROOT / "index.csv"):
        content.update(path.read_bytes() if path.is_file() else b"")
    return content.hexdigest()[:12]


def _scenes(num_train: int, num_test: int) -> Scenes:
    """All scenes with their numbers, which go on from the training to the test scenes as VOC's and COCO's do."""

    def of(split: Split, first: int, count: int) -> Iterator[tuple[int, Scene]]:
        drawings = scene_drawings(split)
        return ((first + index, compose(split, index, drawings)) for index in range(count))

    return {"train": of("train", 1, num_train), "test": of("test", 1 + num_train, num_test)}


def _folders(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True)


def _save_jpeg(scene: Scene, path: Path) -> None:
    Image.fromarray(scene.image).save(path, quality=_JPEG_QUALITY)


def _write_voc(root: Path, splits: Scenes) -> None:
    base = root / "VOCdevkit" / "VOC2007"
    lists = base / "ImageSets" / "Main"
    _folders(base / "JPEGImages", base / "Annotations", lists)
    for split, name in _VOC_SPLITS.items():
        lines = defaultdict[str, list[str]](list)
        for number, scene in splits[split]:
            image = f"{number:06}"
            _save_jpeg(scene, base / "JPEGImages" / f"{image}.jpg")
            (base / "Annotations" / f"{image}.xml").write_text(voc_xml(scene, f"{image}.jpg"))
            lines[name].append(f"{image}\n")
            for label, category in enumerate(CLASSES):
                lines[f"{category}_{name}"].append(f"{image} {_presence(scene, label):2}\n")
        for each, content in lines.items():
            (lists / f"{each}.txt").write_text("".join(content))


def _presence(scene: Scene, label: int) -> int:
    """VOC's word for a class in a picture: 1 present, 0 only as objects that are difficult, -1 absent."""
    clear = [each.visible >= _DIFFICULT for each in scene.objects if each.label == label]
    return int(any(clear)) if clear else -1


def voc_xml(scene: Scene, filename: str) -> str:
    """A scene's annotation as VOC2007 writes it: boxes count pixels from 1, and hold their last one."""
    height, width = scene.seam.shape
    content = [
        ("folder", "VOC2007"),
        ("filename", filename),
        ("source", [("database", "sample scenes"), ("annotation", "sample scenes"), ("image", "openclipart")]),
        ("size", [("width", width), ("height", height), ("depth", 3)]),
        ("segmented", 0),
        *(("object", _voc_object(each)) for each in scene.objects),
    ]
    tree = _element("annotation", content)
    ET.indent(tree, "\t")
    return ET.tostring(tree, encoding="unicode") + "\n"


def _voc_object(each: SceneObject) -> list[tuple[str, Any]]:
    left, top, right, bottom = each.box
    return [
        ("name", CLASSES[each.label]),
        ("pose", "Unspecified"),
        ("truncated", int(each.clipped or each.visible < _TRUNCATED)),
        ("difficult", int(each.visible < _DIFFICULT)),
        ("bndbox", [("xmin", left + 1), ("ymin", top + 1), ("xmax", right), ("ymax", bottom)]),
    ]


def _element(tag: str, content: Any) -> ET.Element:
    element = ET.Element(tag)
    if isinstance(content, list):
        element.extend(_element(*child) for child in content)
    else:
        element.text = str(content)
    return element


def _write_coco(root: Path, splits: Scenes) -> None:
    base = root / "coco"
    _folders(base / "annotations")
    for split, name in _COCO_SPLITS.items():
        _folders(base / name)
        images, annotations = [], list[dict[str, Any]]()
        for number, scene in splits[split]:
            height, width = scene.seam.shape
            file_name = f"{number:012}.jpg"
            _save_jpeg(scene, base / name / file_name)
            images.append({"license": 1, "file_name": file_name, "height": height, "width": width, "id": number})
            annotations += [coco_annotation(each, number) for each in scene.objects]
        numbered = [{**each, "id": number} for number, each in enumerate(annotations, 1)]
        content = {**_COCO_HEADER, "images": images, "annotations": numbered, "categories": _COCO_CATEGORIES}
        (base / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))


_CC0 = {"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
_COCO_HEADER = {"info": {"description": "sample scenes in COCO's layout", "version": "1"}, "licenses": [_CC0]}
_COCO_CATEGORIES = [
    {"supercategory": "drawing", "id": number, "name": name} for number, name in zip(COCO_IDS, CLASSES, strict=True)
]


def coco_annotation(each: SceneObject, image_id: int) -> dict[str, Any]:
    """An object as COCO writes it, without its id; the mask is run-length encoded, since polygons would round it."""
    encode = import_module("pycocotools.mask").encode  # an optional extra, which all who read COCO have
    left, top, right, bottom = each.box
    runs = encode(np.asfortranarray(each.mask.astype(np.uint8)))
    return {
        "segmentation": {"size": runs["size"], "counts": runs["counts"].decode()},
        "area": each.area,
        "iscrowd": 0,
        "image_id": image_id,
        "bbox": [left, top, right - left, bottom - top],
        "category_id": COCO_IDS[each.label],
    }


def _write_ade20k(root: Path, splits: Scenes) -> None:
    base = root / "ADEChallengeData2016"
    shown, pixels = [], np.zeros(len(ADE20K_CLASSES) + 1, dtype=np.int64)
    for split, (name, short) in _ADE20K_SPLITS.items():
        _folders(base / "images" / name, base / "annotations" / name)
        images = np.zeros_like(pixels)
        for number, (_, scene) in enumerate(splits[split], 1):
            labels = ade20k_labels(scene)
            _save_jpeg(scene, base / "images" / name / f"ADE_{short}_{number:08}.jpg")
            Image.fromarray(labels).save(base / "annotations" / name / f"ADE_{short}_{number:08}.png")
            counts = np.bincount(labels.ravel(), minlength=len(pixels))
            pixels += counts
            images += counts > 0
        shown.append(images)
    (base / "objectInfo150.txt").write_text(_object_info(pixels, *shown))


def ade20k_labels(scene: Scene) -> npt.NDArray[np.uint8]:
    """A scene's label map, uint8 (H, W): 0 unlabelled, that is the seam; 1 background; 2 the first of `CLASSES`."""
    labels = np.ones(scene.seam.shape, dtype=np.uint8)
    for each in scene.objects:
        labels[each.mask] = 2 + each.label
    labels[scene.seam] = 0
    return labels


def _object_info(pixels: Counts, *images: Counts) -> str:
    """ADE20K's list of classes: share of labelled pixels, number of pictures in each split, whether it is no thing."""
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName\n"]
    for number, name in enumerate(ADE20K_CLASSES, 1):
        train, val = (counts[number] for counts in images)
        stuff = int(name == "background")
        lines.append(f"{number}\t{pixels[number] / pixels[1:].sum():.4f}\t{train}\t{val}\t{stuff}\t{name}\n")
    return "".join(lines)


_WRITERS: dict[str, Callable[[Path, Scenes], None]] = {
    "voc": _write_voc,
    "coco": _write_coco,
    "ade20k": _write_ade20k,
}
LAYOUTS = tuple(_WRITERS)
