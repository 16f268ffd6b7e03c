import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from converters.errors import InputError
from converters.images import LabelledImages, load_drawings
from converters.targets import quiet
from transfer.sample_data import (
    ADE20K_CLASSES,
    CLASSES,
    COCO_IDS,
    LAYOUTS,
    NUM_TEST,
    Scene,
    ade20k_labels,
    compose,
    sample_root,
    scene_drawings,
)

with quiet():
    from detectron2.data.datasets import load_coco_json
    from detectron2.data.datasets.pascal_voc import load_voc_instances
    from pycocotools.coco import COCO

ROOT = Path(__file__).parents[1]
TRAIN, TEST = 14, 6


@pytest.fixture(scope="module")
def drawings() -> dict[str, LabelledImages]:
    return {split: scene_drawings(split) for split in ("train", "test")}


@pytest.fixture(scope="module")
def scenes(drawings: dict[str, LabelledImages]) -> dict[int, Scene]:
    """By their number in VOC's and COCO's layouts."""
    train, test = (
        [compose(split, i, drawings[split]) for i in range(n)] for split, n in (("train", TRAIN), ("test", TEST))
    )
    return dict(enumerate([*train, *test], start=1))


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scenes")
    return {layout: sample_root(layout, folder, num_train=TRAIN, num_test=TEST) for layout in LAYOUTS}


def test_classes_are_those_of_the_drawings(drawings: dict[str, LabelledImages]) -> None:
    assert drawings["train"].classes == drawings["test"].classes == CLASSES


def same(one: Scene, other: Scene) -> bool:
    return (
        one.image.tobytes() == other.image.tobytes()
        and one.seam.tobytes() == other.seam.tobytes()
        and [(x.label, x.whole, x.clipped, x.mask.tobytes()) for x in one.objects]
        == [(x.label, x.whole, x.clipped, x.mask.tobytes()) for x in other.objects]
    )


def test_scene_depends_on_seed_split_and_index_alone(drawings: dict[str, LabelledImages]) -> None:
    given = drawings["train"]
    scene = compose("train", 3, given)
    assert same(scene, compose("train", 3, given))
    for other in compose("train", 4, given), compose("test", 3, given), compose("train", 3, given, seed=1):
        assert not same(scene, other)


def squares(side: int = 64) -> LabelledImages:
    """An opaque square for each class in a colour of three bits, never white; the background has a 0 nowhere."""
    labels = torch.arange(len(CLASSES))
    images = torch.zeros(len(CLASSES), 4, 64, 64, dtype=torch.uint8)
    bits = torch.stack([labels % 7 & 1, labels % 7 >> 1 & 1, labels % 7 >> 2, torch.ones_like(labels)], dim=1)
    images[:, :, :side, :side] = 255 * bits[..., None, None].to(torch.uint8)
    return LabelledImages(images, labels, CLASSES)


def test_masks_hold_exactly_what_is_drawn() -> None:
    for index in range(60):
        scene = compose("train", index, squares())
        background = np.ones(scene.seam.shape, dtype=bool)
        for each in scene.objects:
            colours = np.unique(scene.image[each.mask], axis=0)
            assert len(colours) == 1
            assert (colours[0] > 0) @ [1, 2, 4] == each.label % 7
            background &= ~each.mask
        assert scene.image[background].min() > 0
        assert not scene.seam.any()


def test_whole_size_and_clipping_are_known_of_hidden_objects() -> None:
    hidden = clipped = 0
    for index in range(100):
        scene = compose("train", index, squares())
        height, width = scene.seam.shape
        for place, each in enumerate(scene.objects):
            side = round(each.whole**0.5)
            assert side**2 == each.whole
            assert 36 <= side <= 88
            left, top, right, bottom = each.box
            if place == len(scene.objects) - 1:  # nothing hides the foremost
                assert each.clipped == (each.area < each.whole) == ((right - left, bottom - top) != (side, side))
            if each.clipped:
                assert left == 0 or top == 0 or right == width or bottom == height or each.visible < 1
            hidden += not each.clipped and each.area < each.whole
            clipped += each.clipped
    assert hidden > 20
    assert clipped > 20


def test_masks_are_disjoint_boxes_are_tight_and_enough_is_visible(drawings: dict[str, LabelledImages]) -> None:
    for index in range(150):
        scene = compose("test", index, drawings["test"])
        assert sorted(scene.seam.shape) == [144, 192]
        assert scene.image.shape == (*scene.seam.shape, 3)
        assert 1 <= len(scene.objects) <= 5
        assert sum(each.mask.astype(int) for each in scene.objects).max() == 1
        for each in scene.objects:
            left, top, right, bottom = each.box
            inside = each.mask[top:bottom, left:right]
            assert inside.sum() == each.mask.sum() == each.area
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            assert 0.25 <= each.visible <= 1


def test_every_class_has_twenty_objects_in_the_test_scenes_that_are_not_difficult(
    drawings: dict[str, LabelledImages],
) -> None:
    composed = [compose("test", index, drawings["test"]) for index in range(NUM_TEST)]
    objects = [each for scene in composed for each in scene.objects]
    counts = Counter(each.label for each in objects if each.visible >= 0.5)
    assert all(counts[label] >= 20 for label in range(len(CLASSES)))
    assert sum(each.visible < 0.5 for each in objects) >= 20
    portrait = sum(scene.image.shape[0] > scene.image.shape[1] for scene in composed)
    assert 60 < portrait < 140
    assert {len(scene.objects) for scene in composed} == {1, 2, 3, 4, 5}


def test_backgrounds_are_smooth_and_differ(drawings: dict[str, LabelledImages]) -> None:
    seen = set()
    for index in range(20):
        scene = compose("train", index, drawings["train"])
        free = ade20k_labels(scene) == 1
        steps = np.abs(np.diff(scene.image.astype(int), axis=1))[free[:, 1:] & free[:, :-1]]
        assert np.quantile(steps, 0.99) <= 8  # of 255, from one pixel to the next; a rim below `_FAINT` is part of it
        assert scene.image[free].std() > 3
        seen.add(scene.image[free][:50].tobytes())
    assert len(seen) == 20


def test_no_scene_of_a_split_shows_a_drawing_that_it_was_not_given(drawings: dict[str, LabelledImages]) -> None:
    given = replace(drawings["train"], labels=torch.arange(len(drawings["train"].labels)))
    shown = {each.label for index in range(100) for each in compose("train", index, given).objects}
    assert len(shown) > 200  # of 300: many different ones
    assert shown <= set(range(len(given.labels)))


def test_training_and_test_scenes_are_made_of_different_drawings(drawings: dict[str, LabelledImages]) -> None:
    train, test = ({x.numpy().tobytes() for x in drawings[split].images} for split in ("train", "test"))
    assert not train & test
    for split, used in ("train", train), ("test", test):
        assert used <= {x.numpy().tobytes() for x in load_drawings(split).images}
        assert len(used) > 0.9 * len(load_drawings(split).images)


def jpegs(layout: str, root: Path) -> list[Path]:
    """In the order of the scenes."""
    folders = {
        "voc": ["VOCdevkit/VOC2007/JPEGImages"],
        "coco": ["coco/train2017", "coco/val2017"],
        "ade20k": ["ADEChallengeData2016/images/training", "ADEChallengeData2016/images/validation"],
    }
    return [path for folder in folders[layout] for path in sorted((root / folder).iterdir())]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_show_the_scenes_of_their_split(layout: str, roots: dict[str, Path], scenes: dict[int, Scene]) -> None:
    paths = jpegs(layout, roots[layout])
    assert len(paths) == TRAIN + TEST
    for path, scene, voc in zip(paths, scenes.values(), jpegs("voc", roots["voc"]), strict=True):
        with Image.open(path) as image:
            assert image.format == "JPEG"
            difference = np.abs(np.asarray(image).astype(int) - scene.image)
        assert difference.mean() < 4  # JPEG's
        assert path.read_bytes() == voc.read_bytes()


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_recipe_gives_the_same_bytes(layout: str, roots: dict[str, Path], tmp_path: Path) -> None:
    again = sample_root(layout, tmp_path, num_train=TRAIN, num_test=TEST)
    assert again.name == roots[layout].name
    assert contents(again) == contents(roots[layout])


def test_scene_does_not_depend_on_how_many_others_there_are(roots: dict[str, Path], tmp_path: Path) -> None:
    few, many = contents(sample_root("ade20k", tmp_path, num_train=3, num_test=2)), contents(roots["ade20k"])
    pictures = [name for name in few if name.endswith((".jpg", ".png"))]
    assert len(pictures) == 10
    assert all(few[name] == many[name] for name in pictures)


def test_another_recipe_has_another_folder(roots: dict[str, Path]) -> None:
    folder = roots["voc"].parent
    other = sample_root("voc", folder, num_train=1, num_test=2)
    assert other != roots["voc"]
    assert sample_root("voc", folder, num_train=2, num_test=1) not in (other, roots["voc"])


def test_whole_folder_is_not_composed_again(roots: dict[str, Path]) -> None:
    path = jpegs("coco", roots["coco"])[0]
    before = path.stat().st_mtime_ns
    assert sample_root("coco", roots["coco"].parent, num_train=TRAIN, num_test=TEST) == roots["coco"]
    assert path.stat().st_mtime_ns == before


def voc_boxes(tree: ET.Element) -> list[tuple[str, list[int]]]:
    return [
        (str(x.findtext("name")), [int(str(x.findtext(f"bndbox/{side}"))) for side in ("xmin", "ymin", "xmax", "ymax")])
        for x in tree.iter("object")
    ]


def test_voc_annotations_agree_with_the_masks(roots: dict[str, Path], scenes: dict[int, Scene]) -> None:
    base = roots["voc"] / "VOCdevkit" / "VOC2007"
    for number, scene in scenes.items():
        tree = ET.parse(base / "Annotations" / f"{number:06}.xml").getroot()
        assert (tree.tag, tree.findtext("filename"), tree.findtext("folder")) == (
            "annotation",
            f"{number:06}.jpg",
            "VOC2007",
        )
        size = [int(str(tree.findtext(f"size/{name}"))) for name in ("height", "width", "depth")]
        assert size == list(scene.image.shape)
        assert len(voc_boxes(tree)) == len(scene.objects)
        for (name, (xmin, ymin, xmax, ymax)), each in zip(voc_boxes(tree), scene.objects, strict=True):
            rows, columns = np.nonzero(each.mask)
            assert name == CLASSES[each.label]
            assert (xmin, ymin) == (columns.min() + 1, rows.min() + 1)
            assert (xmax, ymax) == (columns.max() + 1, rows.max() + 1)


def test_voc_marks_what_is_truncated_or_difficult(roots: dict[str, Path], scenes: dict[int, Scene]) -> None:
    base = roots["voc"] / "VOCdevkit" / "VOC2007"
    found = Counter[tuple[str, str]]()
    for number, scene in scenes.items():
        tree = ET.parse(base / "Annotations" / f"{number:06}.xml").getroot()
        for element, each in zip(tree.iter("object"), scene.objects, strict=True):
            truncated, difficult = str(element.findtext("truncated")), str(element.findtext("difficult"))
            share = each.mask.sum() / each.whole
            assert truncated == str(int(each.clipped or share < 0.85))
            assert difficult == str(int(share < 0.5))
            found[truncated, difficult] += 1
    assert set(found) == {("0", "0"), ("1", "0"), ("1", "1")}


@pytest.mark.parametrize(
    ("name", "numbers"), [("trainval", range(1, TRAIN + 1)), ("test", range(TRAIN + 1, TRAIN + TEST + 1))]
)
def test_voc_lists_say_what_the_annotations_say(name: str, numbers: range, roots: dict[str, Path]) -> None:
    base = roots["voc"] / "VOCdevkit" / "VOC2007"
    lists = base / "ImageSets" / "Main"
    assert (lists / f"{name}.txt").read_text() == "".join(f"{number:06}\n" for number in numbers)
    seen = set()
    for category in CLASSES:
        lines = (lists / f"{category}_{name}.txt").read_text().splitlines()
        assert [line[:7] for line in lines] == [f"{number:06} " for number in numbers]
        for number, line in zip(numbers, lines, strict=True):
            tree = ET.parse(base / "Annotations" / f"{number:06}.xml")
            flags = [x.findtext("difficult") for x in tree.iter("object") if x.findtext("name") == category]
            assert line[7:] == ("-1" if not flags else " 1" if "0" in flags else " 0")
            seen.add(line[7:])
    assert {" 1", "-1"} <= seen


def test_class_with_difficult_objects_only_is_neither_present_nor_absent(tmp_path: Path) -> None:
    base = sample_root("voc", tmp_path, num_train=80, num_test=1) / "VOCdevkit" / "VOC2007"
    text = "".join(path.read_text() for path in (base / "ImageSets" / "Main").glob("*_trainval.txt"))
    difficult = [line[:6] for line in text.splitlines() if line.endswith("  0")]
    assert difficult
    for image in difficult:
        assert "<difficult>1</difficult>" in (base / "Annotations" / f"{image}.xml").read_text()


@pytest.mark.parametrize(("split", "first", "count"), [("trainval", 1, TRAIN), ("test", TRAIN + 1, TEST)])
def test_detectron2_reads_the_voc_layout(
    split: str, first: int, count: int, roots: dict[str, Path], scenes: dict[int, Scene]
) -> None:
    records = load_voc_instances(str(roots["voc"] / "VOCdevkit" / "VOC2007"), split, CLASSES)
    assert [record["image_id"] for record in records] == [f"{number:06}" for number in range(first, first + count)]
    for number, record in enumerate(records, first):
        assert Path(record["file_name"]).is_file()
        assert (record["height"], record["width"]) == scenes[number].seam.shape
        read = [(x["category_id"], tuple(x["bbox"])) for x in record["annotations"]]
        assert read == [(each.label, each.box) for each in scenes[number].objects]


@pytest.mark.parametrize(("name", "first", "count"), [("train2017", 1, TRAIN), ("val2017", TRAIN + 1, TEST)])
def test_detectron2_reads_the_coco_layout(
    name: str, first: int, count: int, roots: dict[str, Path], scenes: dict[int, Scene]
) -> None:
    folder = roots["coco"] / "coco"
    with quiet():
        records = load_coco_json(
            str(folder / "annotations" / f"instances_{name}.json"), str(folder / name), f"scenes_{name}"
        )
    assert [record["image_id"] for record in records] == list(range(first, first + count))
    for record in records:
        scene = scenes[record["image_id"]]
        assert Path(record["file_name"]).is_file()
        assert (record["height"], record["width"]) == scene.seam.shape
        boxes = [(x["category_id"], tuple(x["bbox"])) for x in record["annotations"]]  # XYWH
        expected = [(each.label, each.box) for each in scene.objects]
        assert [(label, (x, y, x + w, y + h)) for label, (x, y, w, h) in boxes] == expected


# pycocotools 2.0.11 converts arrays as NumPy 1 did
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("name", ["train2017", "val2017"])
def test_coco_annotations_agree_with_the_masks_pixel_for_pixel(
    name: str, roots: dict[str, Path], scenes: dict[int, Scene]
) -> None:
    with quiet():
        coco = COCO(roots["coco"] / "coco" / "annotations" / f"instances_{name}.json")
    assert [coco.cats[number]["name"] for number in sorted(coco.cats)] == list(CLASSES)
    for image_id in coco.getImgIds():
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        for annotation, each in zip(annotations, scenes[image_id].objects, strict=True):
            assert (coco.annToMask(annotation).astype(bool) == each.mask).all()
            assert annotation["area"] == each.mask.sum()
            assert coco.cats[annotation["category_id"]]["name"] == CLASSES[each.label]
            assert annotation["iscrowd"] == 0


def test_coco_file_has_what_a_coco_file_has(roots: dict[str, Path]) -> None:
    folder = roots["coco"] / "coco"
    for name in ("train2017", "val2017"):
        content = json.loads((folder / "annotations" / f"instances_{name}.json").read_text())
        assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
        ids = [annotation["id"] for annotation in content["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
        assert {image["file_name"] for image in content["images"]} == {path.name for path in (folder / name).iterdir()}
        assert all(image["file_name"] == f"{image['id']:012}.jpg" for image in content["images"])
        assert {image["license"] for image in content["images"]} == {content["licenses"][0]["id"]}


def test_coco_ids_have_gaps_and_keep_the_order_of_the_classes() -> None:
    assert len(set(COCO_IDS)) == len(CLASSES)
    assert list(COCO_IDS) == sorted(COCO_IDS)
    assert COCO_IDS[0] == 1
    assert COCO_IDS[-1] > len(CLASSES)


@pytest.mark.parametrize(
    ("name", "short", "first", "count"), [("training", "train", 1, TRAIN), ("validation", "val", TRAIN + 1, TEST)]
)
def test_ade20k_annotations_agree_with_the_masks_pixel_for_pixel(
    name: str, short: str, first: int, count: int, roots: dict[str, Path], scenes: dict[int, Scene]
) -> None:
    base = roots["ade20k"] / "ADEChallengeData2016"
    assert len(list((base / "annotations" / name).iterdir())) == count
    for number in range(1, count + 1):
        scene = scenes[first + number - 1]
        assert (base / "images" / name / f"ADE_{short}_{number:08}.jpg").is_file()
        with Image.open(base / "annotations" / name / f"ADE_{short}_{number:08}.png") as image:
            assert image.mode == "L"
            labels = np.asarray(image)
        unlabelled = labels == 0
        assert (unlabelled == scene.seam).all()
        assert 0 < unlabelled.mean() < 0.15
        nothing = ~unlabelled
        for each in scene.objects:
            assert (labels[each.mask & ~unlabelled] == ADE20K_CLASSES.index(CLASSES[each.label]) + 1).all()
            nothing &= ~each.mask
        assert (labels[nothing] == 1).all()


@pytest.mark.parametrize(
    ("alpha", "length", "seam"), [(15, 1, 0), (16, 1, 0.25), (60, 1, 0.25), (127, 1, 0.25), (128, 1.25, 0)]
)
def test_half_transparent_pixels_are_the_objects_and_fainter_ones_the_seam(
    alpha: int, length: float, seam: float
) -> None:
    given = squares(side=32)
    given.images[:, 3, :32, 32:40] = alpha  # a strip beside the square, a quarter as wide
    alone = [scene for i in range(60) if len((scene := compose("train", i, given)).objects) == 1]
    whole = [scene for scene in alone if not scene.objects[0].clipped]
    assert len(whole) >= 4
    lengths, seams = [], []
    for scene in whole:
        left, top, right, bottom = scene.objects[0].box
        lengths.append((right - left) / (bottom - top))
        seams.append(scene.seam.sum() / scene.objects[0].area)
        assert not (scene.seam & scene.objects[0].mask).any()
    # where the strip begins, resizing moves the values by a pixel or two
    assert np.median(lengths) == pytest.approx(length, abs=0.05)
    assert np.median(seams) == pytest.approx(seam, abs=0.08)


def test_ade20k_lists_its_classes_with_their_frequency(roots: dict[str, Path]) -> None:
    base = roots["ade20k"] / "ADEChallengeData2016"
    header, *rows = [line.split("\t") for line in (base / "objectInfo150.txt").read_text().splitlines()]
    assert header == ["Idx", "Ratio", "Train", "Val", "Stuff", "Name"]
    assert [row[5] for row in rows] == list(ADE20K_CLASSES)
    assert [row[0] for row in rows] == [str(number) for number in range(1, 12)]
    maps = {
        name: [np.asarray(Image.open(path)) for path in (base / "annotations" / name).iterdir()]
        for name in ("training", "validation")
    }
    every = np.concatenate([labels.ravel() for each in maps.values() for labels in each])
    for number, row in enumerate(rows, 1):
        assert float(row[1]) == pytest.approx((every == number).sum() / (every > 0).sum(), abs=6e-5)
        assert [int(x) for x in row[2:4]] == [
            sum((labels == number).any() for labels in each) for each in maps.values()
        ]


def test_unknown_layout_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="unknown layout 'ade'; did you mean 'ade20k'\\? choose from: ade20k, coco, voc"
    ):
        sample_root("ade", tmp_path)


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write scenes to .*file.*; choose another folder"):
        sample_root("voc", tmp_path / "file" / "scenes")


def composing(folder: Path, num_train: int) -> subprocess.Popen[str]:
    code = (
        "import sys; from pathlib import Path; from transfer.sample_data import sample_root; "
        f"print(sample_root('voc', Path(sys.argv[1]), num_train={num_train}, num_test=2))"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_killed_run_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    with composing(tmp_path, num_train=300) as child:
        while not list(tmp_path.rglob("*.jpg")):
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    left = list(tmp_path.iterdir())
    assert [path.suffix for path in left] == [".part"]
    root = sample_root("voc", tmp_path, num_train=300, num_test=2)
    assert root not in left
    assert len(list(root.rglob("*.jpg"))) == len(list(root.rglob("*.xml"))) == 302
    assert len(list(root.rglob("*_test.txt"))) == len(CLASSES)


def test_two_processes_at_once_both_get_the_whole_folder(tmp_path: Path) -> None:
    with composing(tmp_path / "both", num_train=300) as child:
        while not list(tmp_path.rglob("*.jpg")):
            assert child.poll() is None
            time.sleep(0.01)
        root = sample_root("voc", tmp_path / "both", num_train=300, num_test=2)
        output = child.communicate()[0]
    assert child.returncode == 0
    assert output.strip() == str(root)
    assert list((tmp_path / "both").iterdir()) == [root]
    assert contents(root) == contents(sample_root("voc", tmp_path / "alone", num_train=300, num_test=2))
