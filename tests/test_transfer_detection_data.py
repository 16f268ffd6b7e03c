"""The detection data sets, on tiny twins in the official layouts, and against Detectron2's own loaders."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from converters.errors import InputError
from converters.targets import quiet
from transfer import detection_data as data
from transfer import sample_data
from transfer.detection_coco import CATEGORIES

with quiet():
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import load_coco_json, load_voc_instances
    from detectron2.data.datasets.pascal_voc import CLASS_NAMES
    from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
    from detectron2.structures import Boxes, BoxMode, Instances

WIDTH, HEIGHT = 48, 32
Objects = list[tuple[str, tuple[float, ...], int]]  # class, corners, difficult

# year, split and image -> objects; the list's order is not the alphabet's
VOC: dict[tuple[int, str], dict[str, Objects]] = {
    (2007, "trainval"): {
        "000012": [("dog", (1, 1, 48, 32), 0), ("cat", (5, 6, 20, 30), 1)],
        "000005": [("person", (3, 4, 3, 9), 0)],
        "000007": [],
    },
    (2007, "test"): {"000001": [("dog", (8, 12, 24, 32), 0), ("person", (1, 1, 9, 9), 1)], "000002": []},
    (2012, "trainval"): {"2008_000002": [("tvmonitor", (4.5, 1, 47.70000076293945, 30), 0)]},
}


def write_voc(devkit: Path) -> Path:
    for (year, split), images in VOC.items():
        folder = devkit / f"VOC{year}"
        for name, objects in images.items():
            write_voc_image(folder, name, objects)
        (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in images))
    return devkit


def write_voc_image(folder: Path, name: str, objects: Objects) -> None:
    for each in "Annotations", "JPEGImages":
        (folder / each).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), "green").save(folder / "JPEGImages" / f"{name}.jpg")
    elements = "".join(map(voc_object, objects))
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{elements}</annotation>")


def voc_object(each: tuple[str, tuple[float, ...], int]) -> str:
    name, corners, difficult = each
    sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    marks = f"<pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult>"
    # VOC2012 has boxes of parts within objects
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return f"<object><name>{name}</name>{marks}<bndbox>{sides}</bndbox>{part}</object>"


POLYGON = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]
COCO: dict[str, dict[str, Any]] = {
    # images and annotations are in no order, as in the official files; 9 has no annotation
    "train": {
        "images": [{"id": each, "file_name": f"{each:012}.jpg"} for each in (9, 3, 5)],
        "annotations": [
            {"id": 70, "image_id": 5, "category_id": 90, "bbox": [1.5, 2.25, 10, 20.5], "segmentation": POLYGON},
            {"id": 20, "image_id": 3, "category_id": 13, "bbox": [0, 0, 48, 32], "segmentation": POLYGON},
            {
                **{"id": 90_100, "image_id": 5, "category_id": 1, "bbox": [0, 0, 20, 20], "iscrowd": 1},
                "segmentation": {"size": [HEIGHT, WIDTH], "counts": [10, 20, HEIGHT * WIDTH - 30]},
            },
            {"id": 10, "image_id": 5, "category_id": 1, "bbox": [4, 4, 8, 8], "segmentation": []},
            # its polygon has two points: Detectron2 drops it
            {"id": 11, "image_id": 5, "category_id": 1, "bbox": [4, 4, 8, 0], "segmentation": [[4, 4, 12, 4]]},
        ],
    },
    "val": {
        "images": [{"id": 2, "file_name": "000000000002.jpg"}],
        "annotations": [{"id": 1, "image_id": 2, "category_id": 18, "bbox": [1, 1, 9, 9], "segmentation": POLYGON}],
    },
}


def write_coco(root: Path) -> Path:
    folder = root / "coco"
    categories = [{"id": each, "name": name} for each, name in reversed(CATEGORIES.items())]
    for split, content in COCO.items():
        (folder / f"{split}2017").mkdir(parents=True)
        for image in content["images"]:
            Image.new("RGB", (WIDTH, HEIGHT), "green").save(folder / f"{split}2017" / image["file_name"])
        images = [{**image, "width": WIDTH, "height": HEIGHT} for image in content["images"]]
        annotations = [{"iscrowd": 0, "area": 12.5 * each["id"], **each} for each in content["annotations"]]
        path = folder / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return folder


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "VOCdevkit")


@pytest.fixture
def coco_folder(tmp_path: Path) -> Path:
    return write_coco(tmp_path)


def read_voc(root: Path, train: str = "07+12") -> data.BoxData:
    return data.voc(root, train, check_sizes=False)


def read_coco(root: Path) -> data.BoxData:
    return data.coco(root, check_sizes=False)


def without_masks(dicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for each in dicts:
        for annotation in each["annotations"]:
            annotation.pop("segmentation", None)
    return dicts


def test_official_classes_are_detectron2s() -> None:
    assert CLASS_NAMES == data.VOC_CLASSES
    assert len(CATEGORIES) == 80
    assert list(CATEGORIES) == sorted(CATEGORIES)
    assert (CATEGORIES[1], CATEGORIES[13], CATEGORIES[90]) == ("person", "stop sign", "toothbrush")


def test_voc_dicts_are_those_of_detectron2s_loader(devkit: Path) -> None:
    read = read_voc(devkit)
    assert [each.name for each in read.train] == ["voc_2007_trainval", "voc_2012_trainval"]
    folder = str(devkit / "VOC2007")
    assert read.train[0].dicts == load_voc_instances(folder, "trainval", CLASS_NAMES)
    assert read.test[0].dicts == load_voc_instances(folder, "test", CLASS_NAMES)
    # Detectron2's loader cannot read a list of one image
    assert read.train[1].dicts[0]["annotations"][0]["bbox"] == [3.5, 0, 47.70000076293945, 30]


def test_voc_truth_holds_boxes_as_written_in_the_order_of_the_dicts(devkit: Path) -> None:
    truth = read_voc(devkit).train[0].truth
    assert (truth.num_images, truth.num_classes) == (3, 20)
    assert truth.image.tolist() == [0, 0, 1]
    assert [CLASS_NAMES[label] for label in truth.label] == ["dog", "cat", "person"]
    assert truth.box.tolist() == [[1, 1, 48, 32], [5, 6, 20, 30], [3, 4, 3, 9]]
    assert truth.ignored.tolist() == [False, True, False]
    assert truth.area.tolist() == [48 * 32, 16 * 25, 6]
    assert (truth.box.dtype, truth.area.dtype, truth.ignored.dtype) == (np.float64, np.float64, np.bool_)


def test_voc_box_with_fractions_is_kept_to_the_last_digit(devkit: Path) -> None:
    assert read_voc(devkit).train[1].truth.box.tolist() == [[4.5, 1, 47.70000076293945, 30]]


def test_voc_object_without_difficult_mark_is_not_difficult_in_training(devkit: Path) -> None:
    edit(devkit / "VOC2007/Annotations/000012.xml", "<difficult>1</difficult>", "")
    assert not read_voc(devkit).train[0].truth.ignored.any()


def test_coco_dicts_are_those_of_detectron2s_loader_without_masks(coco_folder: Path) -> None:
    read = read_coco(coco_folder)
    for each, split in (read.train[0], "train"), (read.test[0], "val"):
        path, images = coco_folder / f"annotations/instances_{split}2017.json", coco_folder / f"{split}2017"
        with quiet():
            expected = load_coco_json(str(path), str(images), f"twin_coco_{split}")
        assert each.dicts == without_masks(expected)
        metadata = MetadataCatalog.pop(f"twin_coco_{split}")
        assert metadata.thing_classes == list(each.classes)
        assert metadata.thing_dataset_id_to_contiguous_id == each.metadata["thing_dataset_id_to_contiguous_id"]


def test_coco_truth_holds_what_pycocotools_counts_even_where_detectron2_drops_it(coco_folder: Path) -> None:
    train = read_coco(coco_folder).train[0]
    truth = train.truth
    assert [each["image_id"] for each in train.dicts] == [3, 5, 9]
    assert truth.image.tolist() == [0, 1, 1, 1, 1]
    assert [train.category_ids[label] for label in truth.label] == [13, 90, 1, 1, 1]
    assert truth.box.tolist() == [[0, 0, 48, 32], [1.5, 2.25, 10, 20.5], [0, 0, 20, 20], [4, 4, 8, 8], [4, 4, 8, 0]]
    assert truth.ignored.tolist() == [False, False, True, False, False]
    assert truth.area.tolist() == [12.5 * each for each in (20, 70, 90_100, 10, 11)]
    assert (truth.num_images, truth.num_classes) == (3, 80)
    assert [len(each["annotations"]) for each in train.dicts] == [1, 3, 0]


@pytest.mark.parametrize("below", ["..", ".", "VOC2007"])
def test_voc_is_found_from_all_three_roots(devkit: Path, below: str) -> None:
    read = read_voc((devkit / below).resolve())
    assert [len(each.dicts) for each in (*read.train, *read.test)] == [3, 1, 2]
    assert {Path(each.metadata["dirname"]) for each in read.train} == {devkit / "VOC2007", devkit / "VOC2012"}


def test_voc_is_found_from_within_its_folder(devkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(devkit / "VOC2007")
    assert Path(read_voc(Path()).train[1].metadata["dirname"]) == devkit / "VOC2012"


def test_coco_is_found_from_both_roots(coco_folder: Path) -> None:
    assert read_coco(coco_folder).train[0].dicts == read_coco(coco_folder.parent).train[0].dicts


def test_voc_of_2007_alone_needs_no_2012(devkit: Path) -> None:
    shutil.rmtree(devkit / "VOC2012")
    assert [each.name for each in read_voc(devkit, "07").train] == ["voc_2007_trainval"]
    with pytest.raises(InputError, match=r"VOC2012 not found: expected .*/VOC2012/ImageSets/Main/trainval\.txt"):
        read_voc(devkit)


def test_root_is_the_argument_then_the_environment_then_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert data.find_root(None) == Path("data")
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/sets")
    assert data.find_root(None) == Path.home() / "sets"
    assert data.find_root(Path("mine")) == Path("mine")


@pytest.mark.parametrize("read", [data.voc, data.coco])
def test_absent_data_set_names_the_path_and_both_ways_to_set_it(
    read: Callable[[Path], data.BoxData], tmp_path: Path
) -> None:
    marker = {data.voc: "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"}.get(
        read, "coco/annotations/instances_train2017.json"
    )
    expected = f"not found: expected {tmp_path / marker}; set --data-root or DETECTRON2_DATASETS"
    with pytest.raises(InputError, match=re.escape(expected)):
        read(tmp_path)


def test_unknown_training_set_is_refused(devkit: Path) -> None:
    with pytest.raises(InputError, match=re.escape("unknown VOC training set '0712'; did you mean '07+12'?")):
        read_voc(devkit, "0712")


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (data.voc, "voc_2007_trainval: expected 5011 images, got 3 in .*VOC2007/ImageSets/Main/trainval.txt"),
        (data.coco, "coco_2017_train: expected 118287 images, got 3 in .*instances_train2017.json"),
    ],
)
def test_excerpt_is_refused_unless_asked_for(
    read: Callable[[Path], data.BoxData], message: str, devkit: Path, coco_folder: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read(devkit.parent)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


TRAINVAL, XML = "ImageSets/Main/trainval.txt", "Annotations/000012.xml"
BAD_VOC: dict[str, tuple[Callable[[Path], object], str]] = {
    "no test list": (
        lambda folder: (folder / "ImageSets/Main/test.txt").unlink(),
        "VOC2007 not found: expected .*/ImageSets/Main/test.txt",
    ),
    "no image": (
        lambda folder: [each.unlink() for each in (folder / "JPEGImages").glob("00001*")],
        "trainval.txt: expected .*/JPEGImages/000012.jpg, which does not exist .1 of 3 such files are missing",
    ),
    "no annotations": (
        lambda folder: shutil.rmtree(folder / "Annotations"),
        "trainval.txt: expected .*/Annotations/000012.xml, which does not exist .3 of 3 such files are missing",
    ),
    "two columns": (
        lambda folder: edit(folder / TRAINVAL, "000005", "000005 1"),
        "trainval.txt, line 2: expected the name of one image, got '000005 1'",
    ),
    "blank line": (
        lambda folder: edit(folder / TRAINVAL, "000005\n", "000005\n\n"),
        "trainval.txt, line 3: expected the name of one image, got ''",
    ),
    "repeated image": (
        lambda folder: edit(folder / TRAINVAL, "000005", "000012"),
        "trainval.txt: expected each image once, got 000012 repeatedly",
    ),
    "common image": (
        lambda folder: edit(folder / "ImageSets/Main/test.txt", "000002", "000007"),
        "voc_2007_trainval and voc_2007_test: expected no common image, got 000007",
    ),
    "broken XML": (lambda folder: edit(folder / XML, "</annotation>", ""), "000012.xml is no annotation in VOC's form"),
    "no size": (lambda folder: edit(folder / XML, "<width>48</width>", ""), "000012.xml .*<size/width> is missing"),
    "no number": (lambda folder: edit(folder / XML, "<xmin>5<", "<xmin>five<"), "000012.xml .*'five'"),
    "no box": (lambda folder: edit(folder / XML, "<xmin>5</xmin>", ""), "000012.xml .*<bndbox/xmin> is missing"),
    "other size": (
        lambda folder: edit(folder / XML, "<width>48<", "<width>32<"),
        "000012.xml: expected 48 x 32 pixels, the size of 000012.jpg, got 32 x 32",
    ),
    "no JPEG": (lambda folder: (folder / "JPEGImages/000012.jpg").write_text("?"), "cannot read .*000012.jpg"),
    "other class": (
        lambda folder: edit(folder / XML, "<name>cat<", "<name>cats<"),
        "000012.xml: unknown class 'cats'; did you mean 'cat'\\? choose from: aeroplane, .*, tvmonitor$",
    ),
    "box outside": (
        lambda folder: edit(folder / XML, "<xmax>48<", "<xmax>50<"),
        r"000012.xml: expected a box within 48 x 32 pixels, got \[1.0, 1.0, 50.0, 32.0\] \(1 such boxes",
    ),
    "box before the border": (lambda folder: edit(folder / XML, "<xmin>5<", "<xmin>-1<"), "000012.xml: expected a box"),
    "box inside out": (lambda folder: edit(folder / XML, "<xmax>20<", "<xmax>3<"), "000012.xml: expected a box"),
    "box of NaN": (lambda folder: edit(folder / XML, "<xmax>20<", "<xmax>nan<"), "000012.xml: expected a box"),
    "fraction in the test split": (
        lambda folder: edit(folder / "Annotations/000001.xml", "<xmin>8<", "<xmin>8.5<"),
        "000001.xml .*'8.5'",
    ),
    "no difficult mark in the test split": (
        lambda folder: edit(folder / "Annotations/000001.xml", "<difficult>1</difficult>", ""),
        "000001.xml .*<difficult> is missing",
    ),
    "no object": (
        lambda folder: [write_voc_image(folder, each, []) for each in ("000012", "000005")],
        "voc_2007_trainval: expected labelled objects, got none in 3 images",
    ),
}


@pytest.mark.parametrize("problem", BAD_VOC)
def test_bad_voc_is_refused_in_one_sentence(problem: str, devkit: Path) -> None:
    damage, message = BAD_VOC[problem]
    damage(devkit / "VOC2007")
    with pytest.raises(InputError, match=message) as caught:
        read_voc(devkit)
    assert "\n" not in str(caught.value)


def change(*keys: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def apply(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return apply


FIRST = ("annotations", 0)
BAD_COCO: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no categories": (lambda content: content.pop("categories"), "train2017.json holds no .*KeyError.'categories'"),
    "no area": (lambda content: content["annotations"][0].pop("area"), "train2017.json holds no .*KeyError.'area'"),
    "height as text": (change("images", 0, "height", to="32"), "holds no .*expected numbers as height"),
    "no file name": (lambda content: content["images"][0].pop("file_name"), "holds no .*KeyError.'file_name'"),
    "other width": (
        change("images", 0, "width", to=50),
        "train2017.json: expected 48 x 32 pixels, the size of 0.*9.jpg, got 50 x 32",
    ),
    "three numbers": (change(*FIRST, "bbox", to=[1, 2, 3]), "holds no .*expected four numbers as bbox"),
    "text in a box": (change(*FIRST, "bbox", to=[1, 2, 3, "4"]), "holds no .*expected four numbers as bbox"),
    "mask of numbers": (change(*FIRST, "segmentation", to=[1, 2]), "train2017.json holds no instances"),
    "unknown image": (change(*FIRST, "image_id", to=4), "annotation 70: expected an image of this file, got 4"),
    "unknown category": (
        change(*FIRST, "category_id", to=12),
        "annotation 70: unknown category 12, choose from 1, .*90",
    ),
    "ignore": (change(*FIRST, "ignore", to=1), "annotation 70: expected no object with the mark 'ignore'"),
    "repeated annotation": (change(*FIRST, "id", to=10), "expected each annotation id once, got 10 repeatedly"),
    "repeated image": (change("images", 0, "id", to=3), "expected each image id once, got 3 repeatedly"),
    "missing file": (
        change("images", 0, "file_name", to="9.jpg"),
        "train2017.json: expected .*train2017/9.jpg, which does not exist .1 of 3 such files are missing",
    ),
    "other name": (
        change("categories", 0, "name", to="broom"),
        "expected the 80 categories of the data set, got 80 .missing: 90 toothbrush; unknown: 90 broom",
    ),
    "other id": (change("categories", 0, "id", to=91), "missing: 90 toothbrush; unknown: 91 toothbrush"),
    "fewer categories": (lambda content: content["categories"].pop(0), "got 79 .missing: 90 toothbrush; unknown: none"),
    "negative side": (change(*FIRST, "bbox", to=[20, 2, -9, 2]), "annotation 70: expected a box within 48 x 32 pixels"),
    "box outside": (change(*FIRST, "bbox", to=[20, 2, 30, 2]), "annotation 70: expected a box within 48 x 32 pixels"),
    "no annotation": (change("annotations", to=[]), "coco_2017_train: expected labelled objects, got none in 3 images"),
}


@pytest.mark.parametrize("problem", BAD_COCO)
def test_bad_coco_is_refused_in_one_sentence(problem: str, coco_folder: Path) -> None:
    damage, message = BAD_COCO[problem]
    change_coco(coco_folder, damage)
    with pytest.raises(InputError, match=message) as caught:
        read_coco(coco_folder)
    assert "\n" not in str(caught.value)


def change_coco(folder: Path, damage: Callable[[dict[str, Any]], object], split: str = "train") -> None:
    path = folder / f"annotations/instances_{split}2017.json"
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_broken_json_is_refused(text: str, coco_folder: Path) -> None:
    (coco_folder / "annotations/instances_val2017.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"instances_val2017\.json holds no instances in COCO's form"):
        read_coco(coco_folder)


def test_image_for_training_and_test_is_refused(coco_folder: Path) -> None:
    change_coco(coco_folder, change("images", 0, "id", to=2))
    with pytest.raises(InputError, match="coco_2017_train and coco_2017_val: expected no common image, got 2"):
        read_coco(coco_folder)


def test_notes_count_what_official_files_contain(coco_folder: Path, devkit: Path) -> None:
    change_coco(coco_folder, change("annotations", 1, "bbox", to=[0, 0, 48.5, 32]))
    change_coco(coco_folder, lambda content: content["annotations"].append({**content["annotations"][0], "id": 4}))
    read = read_coco(coco_folder)
    assert read.train[0].notes == (
        "objects without a polygon of three points, tested on but not trained on: 1",
        "boxes up to 1 pixel over the border, where Detectron2 cuts them in training: 1",
        "boxes without area, tested on but not trained on: 1",
        "images without an object, tested on but not trained on: 1",
        "objects that repeat another one's image, class and box: 1",
    )
    assert read.test[0].notes == ()


def test_class_that_only_difficult_objects_have_is_noted_in_the_test_split(devkit: Path) -> None:
    read = read_voc(devkit)
    assert read.train[1].notes == ()
    # dog counts, person is difficult
    assert read.test[0].notes[-1].startswith("classes without an object that counts, each an AP of 0 for ")
    assert read.test[0].notes[-1].endswith(": aeroplane, bicycle, bird, boat, and 15 more")


def test_fingerprint_depends_on_the_content_alone(tmp_path: Path) -> None:
    reads = [read_voc(write_voc(tmp_path / name)) for name in ("a", "b")]
    prints = [[each.fingerprint for each in (*read.train, *read.test)] for read in reads]
    assert prints[0] == prints[1]
    assert len(set(prints[0])) == 3
    assert all(re.fullmatch("[0-9a-f]{12}", each) for each in prints[0])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<xmin>5<", "<xmin>6<"),
        ("<name>cat<", "<name>cow<"),
        ("<difficult>1<", "<difficult>0<"),
    ],
)
def test_fingerprint_changes_with_an_object(devkit: Path, old: str, new: str) -> None:
    before = read_voc(devkit)
    edit(devkit / "VOC2007" / XML, old, new)
    after = read_voc(devkit)
    assert after.train[0].fingerprint != before.train[0].fingerprint
    assert after.test[0].fingerprint == before.test[0].fingerprint


def test_fingerprint_changes_with_an_image(devkit: Path) -> None:
    before = read_voc(devkit).test[0]
    Image.new("RGB", (WIDTH, 33)).save(devkit / "VOC2007/JPEGImages/000002.jpg")
    edit(devkit / "VOC2007/Annotations/000002.xml", "<height>32<", "<height>33<")
    assert read_voc(devkit).test[0].fingerprint != before.fingerprint


@pytest.fixture
def catalogues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detectron2's catalogues, restored afterwards."""
    for each in DatasetCatalog, MetadataCatalog:
        monkeypatch.setattr(each, "data", dict(each.data))


@pytest.mark.usefixtures("catalogues")
def test_registering_twice_replaces_detectron2s_own_sets(devkit: Path, coco_folder: Path) -> None:
    assert MetadataCatalog.get("voc_2007_test").dirname != str(devkit / "VOC2007")
    for read in (read_voc(devkit), read_coco(coco_folder)):
        data.register(read)
        data.register(read)
        for each in (*read.train, *read.test):
            assert DatasetCatalog.get(each.name) == each.dicts
            assert MetadataCatalog.get(each.name).thing_classes == list(each.classes)
    year = {name: MetadataCatalog.get(name).year for name in ("voc_2007_trainval", "voc_2012_trainval")}
    assert year == {"voc_2007_trainval": 2007, "voc_2012_trainval": 2012}
    assert MetadataCatalog.get("voc_2007_test").dirname == str(devkit / "VOC2007")


@pytest.mark.usefixtures("catalogues")
def test_reader_cannot_change_the_registered_dicts(devkit: Path) -> None:
    read = read_voc(devkit)
    before = copy.deepcopy(read.train[0].dicts)
    data.register(read)
    taken = DatasetCatalog.get("voc_2007_trainval")
    taken[0]["annotations"][0]["bbox"][0] = -7
    taken[0]["annotations"][0]["category_id"] = -7
    taken[0]["annotations"].pop()
    taken[0]["file_name"] = ""
    taken.pop()
    assert DatasetCatalog.get("voc_2007_trainval") == before


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> data.BoxData:
    folder = tmp_path_factory.mktemp("scenes")
    roots = [sample_data.sample_root(each, folder, num_train=2, num_test=24) for each in ("voc", "coco")]
    return data.sample(*roots, dict(zip(sample_data.COCO_IDS, sample_data.CLASSES, strict=True)))


def test_sample_is_tested_on_the_same_scenes_in_both_layouts(scenes: data.BoxData) -> None:
    assert [each.name for each in scenes.train] == ["sample_voc_trainval"]
    assert [each.name for each in scenes.test] == ["sample_voc_test", "sample_coco_val"]
    in_voc, in_coco = scenes.test
    assert in_voc.classes == in_coco.classes == sample_data.CLASSES
    assert (in_voc.category_ids, in_coco.category_ids) == (tuple(range(1, 11)), sample_data.COCO_IDS)
    assert in_voc.truth.image.tolist() == in_coco.truth.image.tolist()
    assert in_voc.truth.label.tolist() == in_coco.truth.label.tolist()
    left, top, right, bottom = in_voc.truth.box.T
    assert in_coco.truth.box.tolist() == np.stack([left - 1, top - 1, right - left + 1, bottom - top + 1], 1).tolist()


@pytest.mark.usefixtures("catalogues")
@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_detectron2s_evaluator_gives_full_marks_to_the_annotated_boxes(
    layout: str, scenes: data.BoxData, tmp_path: Path
) -> None:
    data.register(scenes)
    (each,) = (each for each in scenes.test if each.layout == layout)
    assert each.notes == ()  # every class occurs, else VOC's evaluator counted an AP of 0
    with quiet():
        if layout == "voc":
            evaluator = PascalVOCDetectionEvaluator(each.name)
        else:
            evaluator = COCOEvaluator(each.name, ("bbox",), distributed=False, output_dir=str(tmp_path))
        evaluator.reset()
        for record in each.dicts:
            evaluator.process([record], [{"instances": annotated(record)}])
        results = evaluator.evaluate()["bbox"]
    assert [results[key] for key in ("AP", "AP50", "AP75")] == pytest.approx([100] * 3)


def annotated(record: dict[str, Any]) -> Instances:
    """A record's annotations, as a detector that is sure of them would give them."""
    annotations = record["annotations"]
    boxes = [BoxMode.convert(each["bbox"], each["bbox_mode"], BoxMode.XYXY_ABS) for each in annotations]
    return Instances(
        (record["height"], record["width"]),
        pred_boxes=Boxes(torch.tensor(boxes)),
        scores=torch.ones(len(boxes)),
        pred_classes=torch.tensor([each["category_id"] for each in annotations]),
    )
