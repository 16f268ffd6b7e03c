"""Every labelled data set, by the listing that the command uses."""

import pytest

from converters.errors import InputError
from converters.images import NAMES
from transfer import tasks


def test_tasks_are_the_files_of_the_package() -> None:
    assert set(tasks.names()) >= set(NAMES)


@pytest.mark.parametrize("name", tasks.names())
def test_task_has_its_settings_and_a_loader(name: str) -> None:
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
