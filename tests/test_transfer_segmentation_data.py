"""The label maps of ADE20K and of the sample: read as MMSegmentation reads them, and every broken file refused."""

import re
import shutil
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from converters.distributed import Ranks
from converters.errors import InputError
from converters.targets import quiet
from transfer import sample_data
from transfer import segmentation_data as data

with quiet():
    import mmcv
    from mmseg.datasets import ADE20KDataset, BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

ALONE = Ranks(0, 1, torch.device("cpu"))
NUM_TRAIN, NUM_VAL = 5, 3
FOLDER = "ADEChallengeData2016"

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    return sample_data.sample_root("ade20k", folder, num_train=NUM_TRAIN, num_test=NUM_VAL)


@pytest.fixture
def root(scenes: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(scenes / FOLDER, tmp_path / FOLDER))


def read(root: Path) -> data.LabelData:
    return data.ade20k(root, ALONE, check_sizes=False)


def labels_of(root: Path, split: str = "training", number: int = 1) -> Path:
    return root / "annotations" / split / f"ADE_{split[:5] if split == 'training' else 'val'}_{number:08}.png"


def image_of(root: Path, split: str = "training", number: int = 1) -> Path:
    return root / "images" / split / labels_of(root, split, number).with_suffix(".jpg").name


def change(path: Path, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(edit(np.array(Image.open(path)))).save(path)


def fill(label: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda labels: np.full_like(labels, label)


def set_corner(path: Path, label: int) -> None:
    def edit(labels: np.ndarray) -> np.ndarray:
        labels[0, 0] = label
        return labels

    change(path, edit)


# --- what is read ---


def test_classes_and_palette_are_ade20ks_without_the_blank() -> None:
    assert len(data.CLASSES) == len(data.PALETTE) == 150
    assert (data.CLASSES[0], data.CLASSES[7], data.CLASSES[149]) == ("wall", "bed", "flag")
    assert data.PALETTE[0] == (120, 120, 120)


def test_colours_of_the_sample_are_far_from_each_other() -> None:
    assert len(data.SAMPLE_PALETTE) == len(sample_data.ADE20K_CLASSES)
    assert min(np.linalg.norm(np.subtract(*pair)) for pair in combinations(data.SAMPLE_PALETTE, 2)) > 60


@pytest.mark.parametrize("split", ["training", "validation"])
def test_images_and_labels_are_those_of_mmsegmentations_data_set(root: Path, split: data.Split) -> None:
    for path in (image_of(root, split), labels_of(root, split)):
        shutil.copy(path, path.with_stem(f"{path.stem}-2"))  # "-" sorts before the suffix's dot
    (root / "images" / split / "._ADE_hidden.jpg").touch()
    (root / "images" / split / "Thumbs.db").touch()
    everything = read(root)
    read_set = everything.train if split == "training" else everything.validation
    assert read_set.names[0].endswith("-2")
    prefix = {"img_path": f"images/{split}", "seg_map_path": f"annotations/{split}"}
    with quiet():
        theirs = ADE20KDataset(data_root=str(root), data_prefix=prefix, pipeline=[])
        plain = BaseSegDataset(data_root=str(root), data_prefix=prefix, pipeline=[], reduce_zero_label=True)
    assert [theirs[row]["img_path"] for row in range(len(theirs))] == list(map(str, read_set.images))
    assert [theirs[row]["seg_map_path"] for row in range(len(theirs))] == list(map(str, read_set.annotations))
    assert [plain[row]["img_path"] for row in range(len(plain))] == list(map(str, read_set.images))
    pixels = np.zeros(256, dtype=np.int64)
    for row in range(len(theirs)):
        with quiet():
            loaded = LoadAnnotations()(theirs[row])["gt_seg_map"]
        ours = np.array(Image.open(read_set.annotations[row]))
        assert np.array_equal(loaded, np.where(ours == 0, 255, ours - 1))
        assert loaded.shape == mmcv.imread(str(read_set.images[row])).shape[:2]
        pixels += np.bincount(loaded.ravel(), minlength=256)
    assert read_set.pixels.tolist() == [pixels[255], *pixels[:150]]


def test_sample_has_a_class_for_the_background(scenes: Path) -> None:
    found = data.sample(scenes, ALONE)
    for each, split, number in ((found.train, "training", NUM_TRAIN), (found.validation, "validation", NUM_VAL)):
        assert (each.name, each.split, each.root, len(each.names)) == ("sample", split, scenes / FOLDER, number)
        assert each.classes == sample_data.ADE20K_CLASSES
        assert each.palette == data.SAMPLE_PALETTE
        assert each.left_out == ()
        assert each.pixels.shape == (12,)
        assert each.pixels.sum() == number * 192 * 144
        assert each.pixels[1] > each.pixels[2:].max(), "most is background"
        assert f"{each.pixels[0] / each.pixels.sum():.1%}" in each.notes[0]


def test_annotation_with_a_palette_holds_the_same_labels(root: Path) -> None:
    before = read(root).train
    path = labels_of(root)
    indexed = Image.fromarray(np.array(Image.open(path)))
    indexed.putpalette(bytes(range(255, -1, -1)) * 3)
    indexed.save(path)
    with Image.open(path) as image:
        assert image.mode == "P"
    after = read(root).train
    assert after.fingerprint == before.fingerprint
    assert np.array_equal(after.pixels, before.pixels)


def test_note_names_the_classes_that_are_absent(root: Path) -> None:
    for number in range(1, NUM_VAL + 1):
        change(labels_of(root, "validation", number), fill(3))
    found = read(root).validation
    assert found.notes[0] == "unlabelled pixels, which neither train nor count: 0.0%"
    assert found.notes[1] == "classes without a pixel: wall, building, floor, tree, and 145 more"


def rename(root: Path) -> None:
    image_of(root, number=5).rename(image_of(root, number=6))
    labels_of(root, number=5).rename(labels_of(root, number=6))


def turn(root: Path) -> None:
    """As many labels of each kind, in the same order of rows, in another shape."""
    change(image_of(root), lambda image: image.reshape(image.shape[1], image.shape[0], 3))
    change(labels_of(root), lambda labels: labels.reshape(labels.shape[::-1]))


@pytest.mark.parametrize(
    "edit",
    [
        rename,
        turn,
        lambda root: change(labels_of(root), lambda labels: labels[::-1].copy()),
        lambda root: set_corner(labels_of(root), 150),
    ],
)
def test_fingerprint_changes_with_names_sizes_places_and_labels(root: Path, edit: Damage) -> None:
    before = read(root)
    assert re.fullmatch("[0-9a-f]{12}", before.train.fingerprint)
    edit(root)
    after = read(root)
    assert after.train.fingerprint != before.train.fingerprint
    assert after.validation.fingerprint == before.validation.fingerprint


# --- where it is found ---


@pytest.mark.parametrize("below", ["", "ade"])
def test_root_is_found_below_a_folder_and_as_itself(root: Path, tmp_path: Path, below: str) -> None:
    home = tmp_path / "home"
    (home / below).mkdir(parents=True)
    target = root.rename(home / below / FOLDER)
    assert data.find_root(home) == target
    assert data.find_root(target) == target


def test_root_is_found_from_within_and_under_another_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert data.find_root(Path()) == Path()
    assert data.find_root(root.rename(tmp_path / "ade20k")) == tmp_path / "ade20k"


@pytest.mark.parametrize("below", ["data", "data/ade"])
def test_root_is_looked_for_in_data_where_none_is_given(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert data.find_root(None) is None
    (tmp_path / below / FOLDER).mkdir(parents=True)
    assert data.find_root(None) == Path(below) / FOLDER


def test_given_folder_without_the_data_set_is_refused(tmp_path: Path) -> None:
    message = f"ADE20K not found: expected {tmp_path}/{FOLDER}; set --data-root"
    with pytest.raises(InputError, match=re.escape(message)):
        data.find_root(tmp_path)


def test_incomplete_folder_of_the_right_name_is_found_to_be_named_as_incomplete(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    found = data.find_root(tmp_path / FOLDER)
    assert found == tmp_path / FOLDER
    with pytest.raises(InputError, match=f"{FOLDER} is incomplete: expected images/training in it; unpack"):
        read(found)


# --- what is refused ---


def test_excerpt_is_refused_unless_asked_for(root: Path) -> None:
    message = "ade20k training: expected 20210 images, got 5 in .*/images/training; unpack .* by --excerpt"
    with pytest.raises(InputError, match=message):
        data.ade20k(root, ALONE)


def orient(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as image:
        image.load()
    image.save(path, exif=exif)


def truncate(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def overwrite_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)


def to_mode(path: Path, mode: str) -> None:
    with Image.open(path) as image:
        converted = image.convert(mode)
    converted.save(path)


def both_splits(root: Path) -> None:
    for of in image_of, labels_of:
        shutil.copy(of(root), of(root, "validation").with_name(of(root).name))


BAD: dict[str, tuple[Damage, str]] = {
    "no training images": (
        lambda root: shutil.rmtree(root / "images/training"),
        f"{FOLDER} is incomplete: expected images/training in it; unpack the data set's archive again",
    ),
    "no validation annotations": (
        lambda root: shutil.rmtree(root / "annotations/validation"),
        f"{FOLDER} is incomplete: expected annotations/validation in it",
    ),
    "empty folder": (
        lambda root: [path.rename(path.with_suffix(".JPG")) for path in (root / "images/validation").iterdir()],
        r"images/validation: expected files \*.jpg, got none of 3 files",
    ),
    "folder among the images": (
        lambda root: (root / "images/training/.thumbs").mkdir(),
        "images/training: expected files only, got .thumbs, which is none; move it elsewhere",
    ),
    "no annotation": (
        lambda root: [labels_of(root, number=number).unlink() for number in (2, 4)],
        r"ADE_train_00000002.jpg: expected .*ADE_train_00000002.png for it, .* \(2 of 5 such files are missing\)",
    ),
    "no image": (
        lambda root: image_of(root, "validation", 3).unlink(),
        r"ADE_val_00000003.png: expected .*ADE_val_00000003.jpg for it, .* \(1 of 3 such files are missing\)",
    ),
    "image in both splits": (both_splits, "expected no image in both splits, got ADE_train_00000001"),
    "no JPEG": (lambda root: image_of(root).write_text("?"), r"cannot read .*train_00000001.jpg .*\(of 5 .*, 1 are"),
    "empty JPEG": (lambda root: truncate(image_of(root), 0), "cannot read .*train_00000001.jpg"),
    "JPEG cut off behind its header": (
        lambda root: truncate(image_of(root), 2500),
        "cannot read .*OpenCV cannot decode",
    ),
    "JPEG without header": (lambda root: truncate(image_of(root), 100), "cannot read .*train_00000001.jpg"),
    "turned image": (
        lambda root: orient(image_of(root, "validation"), 6),
        "val_00000001.jpg: expected no EXIF orientation, got one by which OpenCV turns the image and not its labels",
    ),
    "image on its head": (lambda root: orient(image_of(root), 3), "train_00000001.jpg: expected no EXIF orientation"),
    "mirrored image": (lambda root: orient(image_of(root), 2), "train_00000001.jpg: expected no EXIF orientation"),
    "labels in colour": (
        lambda root: to_mode(labels_of(root), "RGB"),
        r"train_00000001.png: expected one channel of 8 bits \(mode L or P\), got mode RGB; unpack",
    ),
    "labels of 16 bits": (lambda root: to_mode(labels_of(root), "I;16"), "train_00000001.png: .*got mode I;16"),
    "labels of one bit": (lambda root: to_mode(labels_of(root), "1"), "train_00000001.png: .*got mode 1"),
    "truncated labels": (
        lambda root: [truncate(labels_of(root, number=number), 200) for number in (1, 2, 4)],
        r"cannot read .*train_00000001.png .*; unpack .* \(of 5 training images, 3 are wrong\)",
    ),
    "damaged labels": (lambda root: overwrite_middle(labels_of(root)), "cannot read .*train_00000001.png"),
    "labels that are no PNG": (lambda root: labels_of(root).write_bytes(b"\x89PNG\r\n\x1a\n"), "cannot read .*png"),
    "other size": (
        lambda root: change(labels_of(root), lambda labels: labels[2:, 3:].copy()),
        r"train_00000001.png: expected (192 x 144|144 x 192) pixels, the size of its image, got (189 x 142|141 x 190);",
    ),
    "other shape": (
        lambda root: change(labels_of(root), lambda labels: labels.T.copy()),
        "train_00000001.png: expected .* pixels, the size of its image",
    ),
    "label 151": (
        lambda root: set_corner(labels_of(root, number=5), 151),
        "train_00000005.png: expected labels from 0 to 150, got 151; unpack",
    ),
    "label 255": (lambda root: set_corner(labels_of(root), 255), "expected labels from 0 to 150, got 255"),
    "no label at all": (
        lambda root: [change(labels_of(root, "validation", number), fill(0)) for number in range(1, NUM_VAL + 1)],
        "ade20k validation: expected labelled pixels in every image, got none in .*ADE_val_00000001.png, .*; unpack",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_data_set_is_refused_in_one_line(name: str, root: Path) -> None:
    damage, message = BAD[name]
    damage(root)
    with pytest.raises(InputError, match=message) as caught:
        read(root)
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)


@pytest.mark.parametrize("orientation", [1, 0, 9])
def test_orientation_that_turns_nothing_is_accepted(root: Path, orientation: int) -> None:
    before = read(root).train
    orient(image_of(root), orientation)
    assert read(root).train.names == before.names


def test_label_beyond_the_samples_classes_is_refused(scenes: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    set_corner(labels_of(copy / FOLDER), 12)
    with pytest.raises(InputError, match=r"train_00000001\.png: expected labels from 0 to 11, got 12"):
        data.sample(copy, ALONE)


def test_excerpt_leaves_out_images_without_a_label(root: Path) -> None:
    names = read(root).train.names
    for number in (2, 5):
        change(labels_of(root, number=number), fill(0))
    found = read(root).train
    assert found.left_out == (names[1], names[4])
    assert found.names == (names[0], names[2], names[3])
    assert found.notes[-1] == f"images without a labelled pixel, left out: {names[1]}, {names[4]}"
    assert found.pixels.sum() == 3 * 192 * 144
    for number in (2, 5):
        image_of(root, number=number).unlink()
        labels_of(root, number=number).unlink()
    assert read(root).train.fingerprint == found.fingerprint


@pytest.fixture
def official(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The copy, as if ADE20K had its size."""
    sizes: dict[Any, int] = {"training": NUM_TRAIN, "validation": NUM_VAL}
    monkeypatch.setattr(data, "_SIZES", sizes)
    return root


def test_official_data_set_with_an_image_without_a_label_is_refused(official: Path) -> None:
    data.ade20k(official, ALONE)
    change(labels_of(official, "validation", 2), fill(0))
    message = "expected labelled pixels in every image, got none in .*ADE_val_00000002.png; unpack .* by --excerpt"
    with pytest.raises(InputError, match=message):
        data.ade20k(official, ALONE)


def test_official_training_images_that_are_known_to_have_no_label_are_kept(official: Path) -> None:
    change(labels_of(official, number=3), fill(0))
    for of in image_of, labels_of:
        of(official, number=3).rename(of(official, number=5149))
    found = data.ade20k(official, ALONE).train
    assert found.left_out == ()
    assert found.names[-1] == "ADE_train_00005149"
    assert len(found.names) == NUM_TRAIN
    assert found.notes[-1] == (
        "images without a labelled pixel, kept as in the published protocols: ADE_train_00005149"
    )
