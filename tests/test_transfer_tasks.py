"""Every labelled data set, by the listing that the command uses."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from converters.errors import InputError
from transfer import tasks

WITH_NEIGHBOURS = [name for name in tasks.names() if hasattr(tasks.find(name), "KNN")]

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


def test_benchmark_and_samples_are_files_of_the_package() -> None:
    assert set(tasks.names()) >= {*tasks.benchmark(), *tasks.samples()}
    assert not set(tasks.benchmark()) & set(tasks.samples())


def test_benchmark_is_the_ten_published_data_sets_in_their_order() -> None:
    assert tasks.benchmark() == tuple(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_metric_of_the_benchmark_are_the_published_ones(name: str) -> None:
    module = tasks.find(name)
    assert (*module.SIZES, module.METRIC) == PUBLISHED[name]


@pytest.mark.parametrize("name", tasks.names())
def test_task_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    module = tasks.find(name)
    assert re.fullmatch(r".+ \(.+ (19|20)\d\d\)", module.TITLE)
    assert module.METRIC in tasks.METRICS
    assert len(module.SIZES) == 4
    if name in tasks.benchmark():
        assert not any(Path(folder).is_absolute() for folder in module.FOLDERS)
    assert module.WHERE
    assert "\n" not in module.WHERE
    assert module.__doc__
    assert callable(module.splits)


@pytest.mark.parametrize("name", WITH_NEIGHBOURS)
def test_settings_of_neighbours_are_possible(name: str) -> None:
    module = tasks.find(name)
    assert module.KNN
    assert all(k > 0 and (temperature is None or temperature > 0) for k, temperature in module.KNN)
    assert len(set(module.KNN)) == len(module.KNN)


def test_cifar10_has_both_published_settings() -> None:
    """Lee & Lee 2023, 5.1: k = 1; lightly's benchmark: k = 200, temperature 0.1."""
    assert tasks.find("cifar10").KNN == ((1, None), (200, 0.1))


def test_sample_splits_share_classes_and_no_image() -> None:
    splits = tasks.find("sample").splits(Path("nowhere"))
    train, test = splits.train, splits.test
    assert set(train.labels.tolist()) == set(test.labels.tolist()) == set(range(len(splits.classes)))
    seen = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)


def test_digits_are_those_of_scikit_learn_to_the_last() -> None:
    splits, digits = tasks.find("digits").splits(Path("nowhere")), load_digits()
    images, labels = (
        torch.cat([getattr(split, name) for split in (splits.train, splits.test)]) for name in ("images", "labels")
    )
    assert labels.tolist() == digits.target.tolist()
    assert images.dtype == torch.uint8
    np.testing.assert_allclose(images[:, 1].numpy() / 255 * 16, digits.images, atol=0.04)  # rounded to 8 bits


@pytest.mark.parametrize("name", tasks.samples())
def test_sample_is_found_where_its_package_put_it(name: str, tmp_path: Path) -> None:
    if name == "fashion_mnist" and not tasks.found(name, tmp_path):
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    assert tasks.found(name, tmp_path)
    splits = tasks.find(name).splits(tmp_path)
    assert (len(splits.classes), len(splits.train), None, len(splits.test)) == tasks.find(name).SIZES


def test_unknown_task_is_named_with_the_closest() -> None:
    with pytest.raises(
        InputError, match=r"unknown data set 'fashion_minst'; did you mean 'fashion_mnist'\? choose from"
    ):
        tasks.find("fashion_minst")
