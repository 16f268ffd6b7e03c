"""Every labelled data set, by the listing that the command uses."""

import re
from pathlib import Path

import pytest

from converters.errors import InputError
from converters.images import NAMES
from transfer import tasks

IN_MEMORY = [name for name in tasks.names() if hasattr(tasks.find(name), "load")]
IN_SPLITS = [name for name in tasks.names() if hasattr(tasks.find(name), "splits")]

# classes, training, validation and test images, and metric: Ericsson et al. 2021 as their code reads the data
# (ssl-transfer, linear.py); the official sizes of Aircraft, SUN397 and VOC2007 are their authors'
PUBLISHED = {
    "aircraft": (100, 3334, 3333, 3333, "mean_per_class"),
    "caltech101": (102, 2416, None, 6728, "mean_per_class"),
    "cars": (196, 8144, None, 8041, "accuracy"),
    "cifar10": (10, 50_000, None, 10_000, "accuracy"),
    "dtd": (47, 1880, 1880, 1880, "accuracy"),
    "flowers": (102, 1020, 1020, 6149, "mean_per_class"),
    "food": (101, 75_750, None, 25_250, "accuracy"),
    "pets": (37, 3680, None, 3669, "mean_per_class"),
    "sun397": (397, 19_850, None, 19_850, "accuracy"),
    "voc2007": (20, 2501, 2510, 4952, "map_11point"),
}


def test_tasks_are_the_files_of_the_package() -> None:
    assert set(IN_MEMORY) == set(NAMES)
    assert set(IN_SPLITS) >= set(tasks.benchmark())
    assert set(IN_MEMORY) | set(IN_SPLITS) == set(tasks.names())


def test_benchmark_is_the_ten_published_data_sets_in_their_order() -> None:
    assert tasks.benchmark() == tuple(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_metric_of_the_benchmark_are_the_published_ones(name: str) -> None:
    module = tasks.find(name)
    assert (*module.SIZES, module.METRIC) == PUBLISHED[name]


@pytest.mark.parametrize("name", IN_SPLITS)
def test_task_with_splits_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    module = tasks.find(name)
    assert re.fullmatch(r".+ \(.+ (19|20)\d\d\)", module.TITLE)
    assert module.METRIC in tasks.METRICS
    assert not any(Path(folder).is_absolute() for folder in module.FOLDERS)
    assert module.WHERE
    assert "\n" not in module.WHERE
    assert module.__doc__


@pytest.mark.parametrize("name", IN_MEMORY)
def test_task_in_memory_has_its_settings_and_a_loader(name: str) -> None:
    module = tasks.find(name)
    assert module.KNN
    assert all(k > 0 and (temperature is None or temperature > 0) for k, temperature in module.KNN)
    assert len(set(module.KNN)) == len(module.KNN)
    assert callable(module.load)
    assert module.__doc__


def test_cifar10_has_both_published_settings() -> None:
    """Lee & Lee 2023, 5.1: k = 1; lightly's benchmark: k = 200, temperature 0.1."""
    assert tasks.find("cifar10").KNN == ((1, None), (200, 0.1))


def test_sample_splits_share_classes_and_no_image() -> None:
    train, test = tasks.find("sample").load(None)
    assert train.classes == test.classes
    assert set(train.labels.tolist()) == set(test.labels.tolist()) == set(range(len(train.classes)))
    seen = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)


def test_unknown_task_is_named_with_the_closest() -> None:
    with pytest.raises(
        InputError, match=r"unknown data set 'fashion_minst'; did you mean 'fashion_mnist'\? choose from"
    ):
        tasks.find("fashion_minst")
