"""The benchmark's readers on tiny twins of the data sets: what each returns, and what it refuses."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from converters.errors import InputError
from tests import twins
from transfer import tasks
from transfer.listings import Row, assemble, class_index, from_one, read_rows
from transfer.tasks import Split, Splits, cifar10, voc2007

every_task = pytest.mark.parametrize("name", tasks.benchmark())
WITH_FILES = [name for name in tasks.benchmark() if name != "cifar10"]
every_task_with_files = pytest.mark.parametrize("name", WITH_FILES)

# how many images a twin has: training, validation, test
WITH_VAL, WITHOUT_VAL = (15, 9, 9), (15, 0, 9)
SIZES = {
    "aircraft": WITH_VAL,
    "caltech101": WITHOUT_VAL,
    "cars": WITHOUT_VAL,
    "cifar10": (50, 0, 10),
    "dtd": WITH_VAL,
    "flowers": WITH_VAL,
    "food": WITHOUT_VAL,
    "pets": WITHOUT_VAL,
    "sun397": WITHOUT_VAL,
    "voc2007": (20, 20, 20),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    twins.write_all(root)
    return root


@pytest.fixture
def root(originals: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(originals, tmp_path / "data"))


def read(name: str, root: Path) -> Splits:
    splits = tasks.find(name).splits(root, check_sizes=False)
    assert isinstance(splits, Splits)
    return splits


def given(splits: Splits) -> dict[str, Split]:
    named = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {name: split for name, split in named.items() if split is not None}


def names(split: Split) -> list[str]:
    assert isinstance(split.images, tuple)
    return [path.name for path in split.images]


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_bytes(change(path.read_bytes().decode()).encode())


# --- every data set ---


@every_task
def test_twin_is_found_where_it_is_expected(name: str, originals: Path, tmp_path: Path) -> None:
    assert tasks.found(name, originals)
    assert (originals / tasks.expected(name)).exists()
    assert not tasks.found(name, tmp_path)


@every_task
def test_twin_has_its_classes_images_and_labels(name: str, originals: Path) -> None:
    splits = read(name, originals)
    assert len(set(splits.classes)) == len(splits.classes) == {"cifar10": 10, "voc2007": 20}.get(name, 3)
    assert tuple(len(each) for each in (splits.train, splits.val or (), splits.test)) == SIZES[name]
    assert (splits.val is None) == (tasks.find(name).SIZES[2] is None)
    for split in given(splits).values():
        assert len(split.labels) == len(split)
        if name == "voc2007":
            assert split.labels.dtype == torch.int8
            assert split.labels.shape[1] == len(splits.classes)
            assert set(split.labels.unique().tolist()) == {-1, 0, 1}
        else:
            assert split.labels.dtype == torch.int64
            assert sorted(set(split.labels.tolist())) == list(range(len(splits.classes)))


@every_task_with_files
def test_twin_lists_files_that_can_be_opened_and_no_image_twice(name: str, originals: Path) -> None:
    splits = given(read(name, originals))
    listed = [image for split in splits.values() for image in split.images]
    assert len(set(listed)) == len(listed)
    kinds = set()
    for path in listed:
        with Image.open(path) as image:
            kinds.add((image.format, image.mode))
    assert kinds == {("JPEG", "RGB"), ("JPEG", "L"), ("GIF", "P")}


@every_task_with_files
def test_labels_of_a_twin_belong_to_its_pictures(name: str, originals: Path) -> None:
    """The twin's class c shows the sample's class c % 10: the most similar picture of the sample says which it is."""
    images, labels = twins.sample()
    first = np.concatenate([np.flatnonzero(labels == label)[:15] for label in range(10)])  # all that the twins use
    bank = images[first, :48, :56].mean(3).reshape(len(first), -1)
    for split in given(read(name, originals)).values():
        for path, label in zip(split.images, split.labels, strict=True):
            with Image.open(path) as image:
                grey = np.asarray(image.convert("L"), dtype=float)[:48, :56].reshape(-1)
            shown = labels[first[np.square(bank - grey).sum(1).argmin()]]
            present = [int(label)] if label.ndim == 0 else (label == 1).nonzero().flatten().tolist()
            assert shown in [each % 10 for each in present]


@every_task
def test_twin_in_the_layout_of_torchvision_has_the_same_splits(name: str, originals: Path, tmp_path: Path) -> None:
    twins.write(name, tmp_path, "torchvision")
    assert tasks.found(name, tmp_path)
    expected, got = read(name, originals), read(name, tmp_path)
    assert got.classes == expected.classes
    for split in given(expected):
        one, other = given(expected)[split], given(got)[split]
        assert torch.equal(one.labels, other.labels)
        if isinstance(one.images, torch.Tensor):
            assert isinstance(other.images, torch.Tensor)
            assert torch.equal(one.images, other.images)
        else:
            assert names(one) == names(other)


@every_task
def test_first_layout_that_exists_counts(name: str, originals: Path, root: Path) -> None:
    twins.write(name, root, "torchvision")
    for one, other in zip(given(read(name, root)).values(), given(read(name, originals)).values(), strict=True):
        if isinstance(one.images, tuple) and isinstance(other.images, tuple):
            assert [p.relative_to(root) for p in one.images] == [p.relative_to(originals) for p in other.images]


@every_task
def test_missing_data_set_says_what_is_expected_and_where_to_get_it(name: str, tmp_path: Path) -> None:
    module = tasks.find(name)
    with pytest.raises(InputError) as error:
        module.splits(tmp_path)
    assert f"{module.TITLE} not found: expected {tasks.expected(name)}" in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert module.WHERE in str(error.value)


@every_task
def test_excerpt_is_refused_with_both_sizes_unless_the_check_is_off(name: str, originals: Path) -> None:
    module = tasks.find(name)
    if name == "voc2007":  # its number of classes is right and its number of images is not certain: accepted
        note = module.splits(originals).notes[-1]
        assert re.search(r"expected 2501 training images, .*, 4952 test images, got 20, 20, 20", note)
        return
    message = (
        "expected 50000 train images, got 50"
        if name == "cifar10"
        else rf"expected {module.SIZES[0]} classes, .*got 3, 15"
    )
    with pytest.raises(InputError, match=message):
        module.splits(originals)
    assert any(note.startswith("accepted sizes that differ") for note in read(name, originals).notes)


@every_task_with_files
def test_absent_images_are_counted_and_the_first_is_named(name: str, root: Path) -> None:
    test = read(name, root).test
    assert isinstance(test.images, tuple)
    for image in test.images[1:4]:
        image.unlink()
    num_images = sum(SIZES[name])
    message = f"got no {re.escape(str(test.images[1]))} \\(3 of {num_images} are missing\\)"
    with pytest.raises(InputError, match=message):
        read(name, root)


@every_task_with_files
def test_absent_folder_of_images_is_as_many_absent_images(name: str, root: Path) -> None:
    train = read(name, root).train
    assert isinstance(train.images, tuple)
    shutil.rmtree(train.images[0].parent)
    with pytest.raises(InputError, match=rf"got no {re.escape(str(train.images[0]))} \(\d+ of {sum(SIZES[name])}"):
        read(name, root)


# the list of each data set's training split
LISTS = {
    "aircraft": "Aircraft/data/images_variant_train.txt",
    "caltech101": "Caltech101/train.txt",
    "cars": "Cars/devkit/cars_train_annos.mat",
    "cifar10": "CIFAR10/cifar-10-batches-py/data_batch_1",
    "dtd": "DTD/labels/train1.txt",
    "flowers": "Flowers/setid.mat",
    "food": "Food/food-101/meta/train.json",
    "pets": "Pets/annotations/trainval.txt",
    "sun397": "SUN397/Training_01.txt",
    "voc2007": "VOC2007/VOCdevkit/VOC2007/ImageSets/Main/aeroplane_train.txt",
}


@pytest.mark.parametrize("content", [b"", b"\x80\xff\x00 garbage", b"[1, 2]\n", b"one\n"], ids=repr)
@every_task
def test_empty_or_damaged_list_is_named_in_one_sentence(name: str, content: bytes, root: Path) -> None:
    (root / LISTS[name]).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(LISTS[name])):
        read(name, root)


@pytest.mark.parametrize("name", [name for name in tasks.benchmark() if name not in ("cifar10", "flowers", "food")])
def test_missing_test_list_is_named(name: str, root: Path) -> None:
    path = (
        root
        / {
            "aircraft": "Aircraft/data/images_variant_test.txt",
            "caltech101": "Caltech101/test.txt",
            "cars": "Cars/devkit/cars_test_annos_withlabels.mat",
            "dtd": "DTD/labels/test1.txt",
            "pets": "Pets/annotations/test.txt",
            "sun397": "SUN397/Testing_01.txt",
            "voc2007": "VOC2007/VOCdevkit/VOC2007/ImageSets/Main/tvmonitor_test.txt",
        }[name]
    )
    path.unlink()
    with pytest.raises(InputError, match=f"{re.escape(str(path))} not found; "):
        read(name, root)


TEXT_LISTS = [name for name, path in LISTS.items() if path.endswith(".txt") and name != "voc2007"]


@pytest.mark.parametrize("name", TEXT_LISTS)
def test_duplicates_in_a_list_are_kept_and_counted(name: str, root: Path) -> None:
    edit(root / LISTS[name], lambda text: text + "".join(text.splitlines(keepends=True)[:2]))
    splits = read(name, root)
    assert len(splits.train) == 17
    assert splits.notes.count("training list: 17 lines, 15 different images") == 1


def list_of_test_split(name: str, root: Path) -> Path:
    """Where the list of a data set's test split lies."""
    path = root / LISTS[name]
    other = {"pets": "test.txt", "sun397": "Testing_01.txt"}
    return path.parent / other.get(name, path.name.replace("train", "test"))


@pytest.mark.parametrize("name", TEXT_LISTS)
def test_images_in_training_and_test_list_are_counted(name: str, root: Path) -> None:
    lines = (root / LISTS[name]).read_text().splitlines(keepends=True)
    edit(list_of_test_split(name, root), lambda text: text + "".join(lines[:4]))
    assert "4 images are in the training list and in the test list" in read(name, root).notes


@pytest.mark.parametrize("name", TEXT_LISTS)
def test_blank_lines_and_other_line_ends_change_nothing(name: str, root: Path, originals: Path) -> None:
    edit(root / LISTS[name], lambda text: "\r\n" + "\r\n\r\n".join(text.splitlines()))
    one, other = read(name, root).train, read(name, originals).train
    assert names(one) == names(other)
    assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("name", TEXT_LISTS)
def test_class_without_test_example_is_named(name: str, root: Path) -> None:
    splits = read(name, root)
    path = list_of_test_split(name, root)
    lines = zip(path.read_text().splitlines(keepends=True), splits.test.labels.tolist(), strict=True)
    path.write_text("".join(line for line, label in lines if label != 1))
    with pytest.raises(InputError, match=rf"got none of '{re.escape(splits.classes[1])}' \(1 of 3 classes\)"):
        read(name, root)


@pytest.mark.parametrize("name", TEXT_LISTS)
def test_image_of_an_unknown_class_is_named_with_the_closest(name: str, root: Path) -> None:
    path = list_of_test_split(name, root)
    wrong, right = {
        "aircraft": ("Cesna 172", "Cessna 172"),
        "caltech101": ("acordion", "accordion"),
        "dtd": ("zigzaged", "zigzagged"),
        "pets": ("Bengall", "Bengal"),
        "sun397": ("/c/church_towr", "/c/church_tower"),
    }[name]
    edit(path, lambda text: text.replace(right, wrong))
    message = rf"{path.name}, line \d+: '{wrong}' is none of the 3 classes, did you mean '{right}'\?; "
    with pytest.raises(InputError, match=message):
        read(name, root)


# --- one data set each ---


def test_aircraft_variants_keep_their_spaces_and_lose_the_rest(root: Path) -> None:
    edit(root / LISTS["aircraft"], lambda text: text.replace("172\n", "172  \r\n"))
    assert read("aircraft", root).classes == ("727-200", "Cessna 172", "DHC-8-100")


def test_aircraft_with_other_numbers_of_images_is_accepted_and_noted() -> None:
    """No code that this project has seen confirms its official sizes, nor SUN397's, nor VOC2007's."""
    module = tasks.find("aircraft")
    images = Split(torch.zeros(5, 3, 1, 1, dtype=torch.uint8), torch.tensor([0, 1, 2, 1, 0]))
    splits = assemble(module.TITLE, "abc", images, images, images, (3, 5, 5, 6), certain=False)
    assert splits.notes == ("accepted sizes that differ from the published ones: expected 6 test images, got 5",)
    with pytest.raises(InputError, match="expected 4 classes, got 3"):
        assemble(module.TITLE, "abc", images, images, images, (4, 5, 5, 5), certain=False)


def test_caltech_keeps_the_background_and_counts_lines_and_images(originals: Path) -> None:
    splits = read("caltech101", originals)
    assert splits.classes[0] == "BACKGROUND_Google"
    assert (splits.train.labels == 0).sum() == twins.TRAIN
    assert splits.notes[:2] == (
        "training list: 15 lines, 15 different images",
        "test list: 9 lines, 9 different images",
    )


def test_caltech_takes_the_list_with_repetitions_for_the_published_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tasks.find("caltech101")
    monkeypatch.setattr(module, "SIZES", (3, 15, None, 9))
    edit(root / LISTS["caltech101"], lambda text: text + "Faces/image_0001.jpg 1\n" * 5)
    splits = module.splits(root)
    assert len(splits.train) == 20
    assert splits.notes == (
        "training list: 20 lines, 15 different images",
        "test list: 9 lines, 9 different images",
    )
    edit(root / LISTS["caltech101"], lambda text: text.replace("accordion/image_0003.jpg 2\n", ""))
    with pytest.raises(InputError, match=r"expected 15 training images, got 19"):
        module.splits(root)


def test_caltech_without_lists_says_where_they_come_from(root: Path) -> None:
    (root / "Caltech101" / "train.txt").unlink()
    with pytest.raises(
        InputError, match=r"train\.txt not found; .*caltech101-splits of github\.com/linusericsson/ssl-t"
    ):
        read("caltech101", root)


def test_caltech_number_that_contradicts_the_name_is_refused(root: Path) -> None:
    edit(root / LISTS["caltech101"], lambda text: text.replace("Faces/image_0002.jpg 1", "Faces/image_0002.jpg 2"))
    with pytest.raises(InputError, match=r"train\.txt, line 7: expected class number 1 for 'Faces', got 2"):
        read("caltech101", root)


def test_strict_caltech_draws_different_images_of_each_class_and_needs_no_lists(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tasks.find("caltech101")
    assert module.STRICT_SIZES == (102, 102 * 30, None, 9144 - 102 * 30)  # the set has 9144 images
    for name in ("train.txt", "test.txt"):
        (root / "Caltech101" / name).unlink()
    monkeypatch.setattr(module, "_PER_CLASS", 6)
    monkeypatch.setattr(module, "STRICT_SIZES", (3, 18, None, 6))
    splits = module.strict_splits(root)
    assert splits.train.labels.bincount().tolist() == [6, 6, 6]
    assert splits.test.labels.bincount().tolist() == [2, 2, 2]
    assert len({*splits.train.images, *splits.test.images}) == 24
    assert all(path.parent.name == splits.classes[label] for path, label in zip(*_listed(splits.train), strict=True))
    assert module.strict_splits(root).train.images == splits.train.images
    monkeypatch.setattr(module, "_PER_CLASS", 8)
    with pytest.raises(InputError, match=r"Caltech-101 .*: expected more than 8 images of 'BACKGROUND_Google', got 8;"):
        module.strict_splits(root)


def _listed(split: Split) -> tuple[tuple[Path, ...], list[int]]:
    assert isinstance(split.images, tuple)
    return split.images, split.labels.tolist()


def test_caltech_lists_beside_the_images_come_first(root: Path) -> None:
    folder = root / "Caltech101"
    for name in "train.txt", "test.txt":
        (folder / name).rename(folder / "caltech101" / name)
    assert len(read("caltech101", root).train) == 15


def test_cars_count_from_one(originals: Path) -> None:
    raw = loadmat(originals / LISTS["cars"], squeeze_me=True)["annotations"]["class"].tolist()
    assert min(raw) == 1
    assert read("cars", originals).train.labels.tolist() == [label - 1 for label in raw]


@pytest.mark.parametrize("label", [0, 4, -1])
def test_cars_refuse_a_label_that_counts_otherwise(label: int, root: Path) -> None:
    path = root / LISTS["cars"]
    twins.write_car_annotations(path, ["00001.jpg", "00002.jpg"], [0, label - 1])
    with pytest.raises(InputError, match=rf"cars_train_annos\.mat: expected class numbers from 1 to 3, got '{label}'"):
        read("cars", root)


def test_cars_without_test_labels_say_what_is_missing(root: Path) -> None:
    devkit = root / "Cars" / "devkit"
    shutil.copy(devkit / "cars_test_annos.mat", devkit / "cars_test_annos_withlabels.mat")
    with pytest.raises(InputError, match=r"withlabels\.mat: expected 'annotations' with class; "):
        read("cars", root)


def test_truncated_mat_file_is_named(root: Path) -> None:
    for name, path in (("cars", LISTS["cars"]), ("flowers", "Flowers/imagelabels.mat")):
        content = (root / path).read_bytes()
        (root / path).write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=rf"{re.escape(path)} is truncated or no MATLAB file \("):
            read(name, root)


def test_cifar10_is_read_from_its_batches_and_must_be_whole(originals: Path) -> None:
    splits = read("cifar10", originals)
    assert isinstance(splits.train.images, torch.Tensor)
    assert splits.train.images.shape == (50, 3, 32, 32)
    assert splits.train.images.dtype == torch.uint8
    assert splits.classes[0] == "airplane"
    with pytest.raises(InputError, match="expected 50000 train images, got 50"):
        cifar10.splits(originals)


def test_dtd_reads_the_first_partition(originals: Path) -> None:
    first = (originals / "DTD/labels/train1.txt").read_text().split()
    assert first != (originals / "DTD/labels/train2.txt").read_text().split()
    assert [f"{Path(name).parent.name}/{name.name}" for name in read("dtd", originals).train.images] == first


def test_flowers_are_not_swapped(originals: Path) -> None:
    splits, ids = read("flowers", originals), loadmat(originals / LISTS["flowers"], squeeze_me=True)
    for split, name in (splits.train, "trnid"), (splits.val, "valid"), (splits.test, "tstid"):
        assert split is not None
        assert names(split) == [f"image_{number:05d}.jpg" for number in ids[name]]


def test_flowers_labels_are_those_of_the_image_number(originals: Path) -> None:
    of_images = loadmat(originals / "Flowers/imagelabels.mat", squeeze_me=True)["labels"]
    train = read("flowers", originals).train
    numbers = [int(name[6:11]) for name in names(train)]
    assert train.labels.tolist() == [of_images[number - 1] - 1 for number in numbers]


def test_flowers_refuse_the_swapped_sizes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tasks.find("flowers")
    monkeypatch.setattr(module, "SIZES", (3, 15, 9, 9))
    module.splits(root)
    sets = {key: value for key, value in loadmat(root / LISTS["flowers"]).items() if not key.startswith("__")}
    savemat(root / LISTS["flowers"], {**sets, "trnid": sets["tstid"], "tstid": sets["trnid"]})
    with pytest.raises(InputError, match="expected 15 training images, 9 test images, got 9, 15"):
        module.splits(root)


def test_flowers_refuse_an_image_without_label_and_a_label_without_class(root: Path) -> None:
    sets = {key: value for key, value in loadmat(root / LISTS["flowers"]).items() if not key.startswith("__")}
    savemat(root / LISTS["flowers"], {**sets, "valid": np.array([[1, 34]])})
    with pytest.raises(InputError, match=r"setid\.mat, valid: expected image numbers from 1 to 33, got '34'"):
        read("flowers", root)
    savemat(root / "Flowers/imagelabels.mat", {"labels": np.array([[1, 103]])})
    with pytest.raises(InputError, match=r"imagelabels\.mat: expected class numbers from 1 to 102, got '103'"):
        read("flowers", root)


def test_flowers_take_numbers_saved_as_matlab_likes_them(root: Path, originals: Path) -> None:
    for name in "setid.mat", "imagelabels.mat":
        content = loadmat(root / "Flowers" / name)
        savemat(root / "Flowers" / name, {key: content[key].astype(float) for key in content if key[0] != "_"})
    assert torch.equal(read("flowers", root).test.labels, read("flowers", originals).test.labels)


def test_food_refuses_what_is_no_list_of_images_by_class(root: Path) -> None:
    path = root / LISTS["food"]
    for content, message in (
        ("{", r"train\.json is no JSON \("),
        ("[1]", r"train\.json: expected a JSON object with a list of image names for each class"),
        ('{"apple_pie": [1]}', r"train\.json: expected a JSON object"),
        ('{"apple_pie": ["waffles/1"]}', r"train\.json: expected images of 'apple_pie', got 'waffles/1'"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            read("food", root)


def test_food_with_other_classes_in_test_names_the_closest(root: Path) -> None:
    edit(root / "Food/food-101/meta/test.json", lambda text: text.replace("waffles", "wafles"))
    with pytest.raises(InputError, match=r"test\.json: 'wafles' is none of the 3 classes, did you mean 'waffles'\?"):
        read("food", root)


def test_food_class_without_test_images_is_named(root: Path) -> None:
    path = root / "Food/food-101/meta/test.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "apple_pie": []}))
    with pytest.raises(InputError, match=r"got none of 'apple_pie' \(1 of 3 classes\)"):
        read("food", root)


def test_pets_are_in_the_order_of_their_numbers(originals: Path) -> None:
    splits = read("pets", originals)
    assert splits.classes == ("Abyssinian", "american_bulldog", "Bengal")
    assert splits.train.labels[:3].tolist() == [0, 1, 2]


def test_pets_refuse_numbers_that_contradict_the_names(root: Path) -> None:
    edit(root / "Pets/annotations/test.txt", lambda text: re.sub(r"(Bengal_\d+) 3", r"\1 2", text, count=1))
    with pytest.raises(InputError, match=r"test\.txt, line 3: expected class number 3 for 'Bengal', got 2"):
        read("pets", root)


@pytest.mark.parametrize("number", ["0", "38", "x"])
def test_pets_refuse_numbers_out_of_range(number: str, root: Path) -> None:
    edit(root / LISTS["pets"], lambda text: re.sub(r"(Bengal_\d+) 3", rf"\1 {number}", text, count=1))
    with pytest.raises(
        InputError, match=rf"trainval\.txt, line 3: expected class numbers from 1 to 37, got '{number}'"
    ):
        read("pets", root)


def test_sun397_class_is_the_whole_folder_of_the_image(originals: Path) -> None:
    splits = read("sun397", originals)
    for image, label in zip(splits.test.images, splits.test.labels.tolist(), strict=True):
        assert isinstance(image, Path)
        assert f"/{image.parent.relative_to(originals / 'SUN397')}" == splits.classes[label]


def test_sun397_without_partition_says_where_it_comes_from(root: Path) -> None:
    (root / LISTS["sun397"]).unlink()
    with pytest.raises(InputError, match=r"Training_01\.txt not found; .*Partitions\.zip"):
        read("sun397", root)


def test_sun397_path_without_its_slash_is_refused(root: Path) -> None:
    edit(root / LISTS["sun397"], lambda text: text.replace("/c/church/sun", "c/church/sun", 1))
    with pytest.raises(
        InputError, match=r"Training_01\.txt, line 1: expected a path like '/a/abbey/.*', got 'c/church/sun_"
    ):
        read("sun397", root)


def test_voc_marks_are_present_absent_and_difficult(originals: Path) -> None:
    splits = read("voc2007", originals)
    assert splits.classes == twins.VOC_CLASSES == voc2007.CLASSES
    lists = originals / "VOC2007/VOCdevkit/VOC2007/ImageSets/Main"
    translated = {"1": 1, "-1": 0, "0": -1}
    for split, name in (splits.train, "train"), (splits.test, "test"):
        for position, each in enumerate(splits.classes):
            lines = (lists / f"{each}_{name}.txt").read_text().splitlines()
            assert split.labels[:, position].tolist() == [translated[line.split()[1]] for line in lines]
    assert splits.notes[0] == "labels that only difficult objects have: 20 train, 20 val, 20 test"


@pytest.mark.parametrize("below", ["VOCdevkit/VOC2007", "VOC2007"])
def test_voc_lies_in_any_of_three_places(below: str, originals: Path, tmp_path: Path) -> None:
    shutil.copytree(originals / "VOC2007/VOCdevkit/VOC2007", tmp_path / below)
    assert tasks.found("voc2007", tmp_path)
    assert len(read("voc2007", tmp_path).val or ()) == 20


def test_voc_lists_of_different_images_are_refused(root: Path) -> None:
    lists = root / "VOC2007/VOCdevkit/VOC2007/ImageSets/Main"
    edit(lists / "cat_val.txt", lambda text: "".join(reversed(text.splitlines(keepends=True))))
    with pytest.raises(InputError, match=r"cat_val\.txt: expected the images of aeroplane_val\.txt in their order"):
        read("voc2007", root)


def test_voc_mark_that_is_none_is_refused(root: Path) -> None:
    lists = root / "VOC2007/VOCdevkit/VOC2007/ImageSets/Main"
    edit(lists / "dog_test.txt", lambda text: text.replace(" 1\n", " 2\n", 1))
    with pytest.raises(InputError, match=r"dog_test\.txt, line \d+: expected 1, 0 or -1 behind the image, got '2'"):
        read("voc2007", root)


def test_voc_class_that_is_only_difficult_in_test_is_named(root: Path) -> None:
    lists = root / "VOC2007/VOCdevkit/VOC2007/ImageSets/Main"
    edit(lists / "sofa_test.txt", lambda text: text.replace(" 1\n", " 0\n"))
    with pytest.raises(InputError, match=r"got none of 'sofa' \(1 of 20 classes\)"):
        read("voc2007", root)


# --- the pieces ---


def test_unknown_name_is_refused_with_the_closest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown data set 'food101'; did you mean 'food'\?"):
        tasks.found("food101", tmp_path)


@pytest.mark.parametrize("labels", [[0, 1, 3], [0, -1, 1]])
def test_labels_out_of_range_are_refused(labels: list[int]) -> None:
    images = torch.zeros(3, 3, 1, 1, dtype=torch.uint8)
    good, bad = Split(images, torch.tensor([0, 1, 2])), Split(images, torch.tensor(labels))
    with pytest.raises(InputError, match=r"T, training split: expected labels from 0 to 2, got (3|-1)"):
        assemble("T", "abc", bad, None, good, (3, 3, None, 3))


def test_labels_of_several_classes_are_checked_too() -> None:
    images = torch.zeros(2, 3, 1, 1, dtype=torch.uint8)
    good = Split(images, torch.tensor([[1, -1], [0, 1]], dtype=torch.int8))
    assert assemble("T", "ab", good, None, good, (2, 2, None, 2)).notes == ()
    for wrong in 2, -2:
        bad = Split(images, torch.tensor([[1, wrong], [0, 1]], dtype=torch.int8))
        with pytest.raises(InputError, match=f"test split: expected labels from -1 to 1, got {wrong}"):
            assemble("T", "ab", good, None, bad, (2, 2, None, 2))


def test_number_of_labels_must_be_that_of_images() -> None:
    images = torch.zeros(3, 3, 1, 1, dtype=torch.uint8)
    good, bad = Split(images, torch.tensor([0, 1, 0])), Split(images, torch.tensor([0, 1]))
    with pytest.raises(InputError, match="expected one label for each image, got 2 for 3"):
        assemble("T", "ab", bad, None, good, (2, 3, None, 3))


@pytest.mark.parametrize("value", [0, 4, "0", "4", "1.5", 1.5, "", None, float("nan"), float("inf"), [1, 2]])
def test_numbers_from_one_refuse_everything_else(value: object) -> None:
    with pytest.raises(InputError, match=r"list\.txt: expected class numbers from 1 to 3, got '"):
        from_one([1, value], 3, "list.txt")


def test_numbers_from_one_become_indices() -> None:
    assert from_one([1, "3", 2.0, np.uint8(3)], 3, "list.txt") == [0, 2, 1, 2]


def test_class_without_a_close_name_gets_no_suggestion() -> None:
    with pytest.raises(InputError, match=r"x: 'zebra' is none of the 2 classes; "):
        class_index("zebra", {"cat": 0, "dog": 1}, "x")


def test_last_column_of_a_list_may_hold_spaces(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a b c\n\nd  e\n")
    assert read_rows(path, "image class") == [Row(f"{path}, line 1", ["a", "b c"]), Row(f"{path}, line 3", ["d", "e"])]
    path.write_text("a b\nc\n")
    with pytest.raises(InputError, match=r"list\.txt, line 2: expected a line like 'image class', got 'c'"):
        read_rows(path, "image class")


def test_existence_costs_one_reading_of_each_folder(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Food-101 has 101,000 files: a look at each takes minutes on a network disk."""
    import transfer.listings

    read_folders: list[str] = []
    monkeypatch.setattr(
        transfer.listings,
        "_names",
        lambda folder: read_folders.append(folder) or {p.name for p in Path(folder).iterdir()},
    )
    read("food", originals)
    assert sorted(read_folders) == sorted(map(str, (originals / "Food/food-101/images").iterdir()))
