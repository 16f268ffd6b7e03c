"""Metrics of label maps: worked examples, MMSegmentation's own on random maps, and what intervals promise."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.errors import InputError
from converters.targets import quiet
from transfer.segmentation_metrics import METRICS, Confusions, confusion

with quiet():
    from mmseg.evaluation.metrics import IoUMetric

VOID = 255

# truth and prediction of two images with four classes, of which class 3 occurs nowhere
EXAMPLE = [
    ([[0, 0, 0, VOID], [1, 1, 0, VOID]], [[0, 0, 1, 3], [1, 0, 0, 2]]),
    ([[1, 2]], [[1, 0]]),
]
NAMES = ("first", "second")


def array(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.uint8)


def confusions(maps: list[tuple[Any, Any]], num_classes: int, names: tuple[str, ...] | None = None) -> Confusions:
    cells = [confusion(array(truth), array(predicted), num_classes) for truth, predicted in maps]
    return Confusions.of(cells, names or [f"image{row}" for row in range(len(maps))], num_classes)


def random_maps(seed: int, num_images: int = 12, num_classes: int = 7) -> list[tuple[np.ndarray, np.ndarray]]:
    """Maps that are right in part, with rare classes, unlabelled pixels and an image that has nothing else."""
    draw = np.random.default_rng(seed)
    maps = []
    for _ in range(num_images):
        truth = np.minimum(draw.geometric(0.4, size=(9, 11)) - 1, draw.integers(num_classes, size=(9, 11)))
        predicted = np.where(draw.random((9, 11)) < 0.6, truth, draw.integers(num_classes - 1, size=(9, 11)))
        maps.append((array(np.where(draw.random((9, 11)) < 0.1, VOID, truth)), array(predicted)))
    maps[0] = array(np.full((3, 4), VOID)), array(np.zeros((3, 4)))
    return maps


def reference(maps: list[tuple[np.ndarray, np.ndarray]], num_classes: int) -> tuple[dict[str, float], np.ndarray]:
    """MMSegmentation's metrics, before it rounds them to hundredths of a per cent, and its table."""
    metric = IoUMetric()
    metric.dataset_meta = {"classes": [str(each) for each in range(num_classes)]}
    for truth, predicted in maps:
        tensors = {"gt_sem_seg": truth, "pred_sem_seg": predicted}
        sample = {key: {"data": torch.from_numpy(labels.astype(np.int64))[None]} for key, labels in tensors.items()}
        metric.process({}, [sample])
    totals = (sum(column).double() for column in zip(*metric.results, strict=True))
    found = IoUMetric.total_area_to_metrics(*totals)
    values = {"mIoU": np.nanmean(found["IoU"]), "aAcc": float(found["aAcc"]), "mAcc": np.nanmean(found["Acc"])}
    return values, np.stack([found["IoU"], found["Acc"]], axis=1)


# --- values ---


def test_confusion_counts_labelled_pixels_by_truth_and_prediction() -> None:
    cells = confusion(*map(array, EXAMPLE[0]), 4)
    rows = zip(cells.truth.tolist(), cells.predicted.tolist(), cells.count.tolist(), strict=True)
    assert list(rows) == [(0, 0, 3), (0, 1, 1), (1, 0, 1), (1, 1, 1)]
    assert (cells.truth.dtype, cells.predicted.dtype, cells.count.dtype) == (np.uint8, np.uint8, np.int64)


def test_worked_example() -> None:
    found = confusions(EXAMPLE, 4, NAMES)
    # class 0: 3 of 3 + 1 + 1 + 1; class 1: 2 of 2 + 1 + 1; class 2: 0 of 1
    assert found.per_class() == pytest.approx(
        np.array([[3 / 6, 3 / 4], [2 / 4, 2 / 3], [0, 0], [np.nan, np.nan]]), rel=1e-15, nan_ok=True
    )
    assert found.values() == pytest.approx({"mIoU": 1 / 3, "aAcc": 5 / 8, "mAcc": (3 / 4 + 2 / 3) / 3}, rel=1e-15)
    # 4 of 8 labelled pixels show class 0, and three classes are shown
    assert found.majority() == pytest.approx({"mIoU": 1 / 6, "aAcc": 1 / 2, "mAcc": 1 / 3}, rel=1e-15)
    assert (found.num_images, found.num_classes, found.names) == (2, 4, NAMES)
    assert found.image.tolist() == [0, 0, 0, 0, 1, 1]


def test_class_that_is_only_predicted_counts_in_iou_and_not_in_accuracy() -> None:
    found = confusions([([[0, 0]], [[0, 1]])], 3)
    assert found.values() == {"mIoU": 1 / 4, "aAcc": 1 / 2, "mAcc": 1 / 2}
    assert found.per_class().tolist()[1][0] == 0
    assert np.isnan(found.per_class()[1, 1])


def test_images_without_a_labelled_pixel_have_no_metric() -> None:
    found = confusions([([[VOID]], [[0]])], 2)
    assert list(found.values()) == list(METRICS)
    assert np.isnan(list(found.values().values())).all()
    assert np.isnan(list(found.majority().values())).all()
    assert np.isnan(list(found.intervals(resamples=3).values())).all()


@st.composite
def pairs_of_maps(draw: st.DrawFn) -> tuple[int, list[tuple[np.ndarray, np.ndarray]]]:
    num_classes = draw(st.sampled_from([1, 2, 5, 150, 255]))
    shown = st.sampled_from([*range(min(num_classes, 4)), num_classes - 1, VOID])
    maps = []
    for _ in range(draw(st.integers(1, 4))):
        height, width = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        truth, predicted = (
            draw(st.lists(labels, min_size=height * width, max_size=height * width))
            for labels in (shown, shown.filter(lambda label: label < num_classes))
        )
        maps.append((array(truth).reshape(height, width), array(predicted).reshape(height, width)))
    return num_classes, maps


@given(pairs_of_maps())
@settings(max_examples=60, deadline=None)
def test_metrics_are_those_of_mmsegmentation(problem: tuple[int, list[tuple[np.ndarray, np.ndarray]]]) -> None:
    num_classes, maps = problem
    if all((truth == VOID).all() for truth, _ in maps):
        return  # its means warn where there is nothing
    values, table = reference(maps, num_classes)
    found = confusions(maps, num_classes)
    assert found.values() == pytest.approx(values, rel=1e-12)
    assert found.per_class() == pytest.approx(table, rel=1e-12, nan_ok=True)


def test_metrics_are_those_of_mmsegmentation_on_larger_maps() -> None:
    draw = np.random.default_rng(0)
    truth = array(draw.integers(0, 150, size=(60, 80)).repeat(8, 0).repeat(8, 1))
    maps = [(np.where(truth < 5, VOID, np.roll(truth, shift)), np.roll(truth, 5 * shift, 1)) for shift in range(3)]
    values, table = reference(maps, 150)
    found = confusions(maps, 150)
    assert found.values() == pytest.approx(values, rel=1e-12)
    assert found.per_class() == pytest.approx(table, rel=1e-12, nan_ok=True)


def test_order_of_the_images_does_not_matter() -> None:
    maps = random_maps(1)
    found, turned = confusions(maps, 7), confusions(maps[::-1], 7)
    assert found.values() == turned.values()
    assert np.array_equal(found.per_class(), turned.per_class(), equal_nan=True)
    assert found.majority() == turned.majority()


def test_majority_is_what_the_constant_prediction_gets() -> None:
    maps = random_maps(2)
    truth = np.concatenate([truth.ravel() for truth, _ in maps])
    frequent = np.bincount(truth[truth != VOID]).argmax()
    constant = [(truth, np.full_like(truth, frequent)) for truth, _ in maps]
    assert confusions(maps, 7).majority() == confusions(constant, 7).values()


def test_perfect_prediction_has_the_highest_values_and_intervals() -> None:
    maps = [(truth, np.where(truth == VOID, 0, truth)) for truth, _ in random_maps(3)]
    found = confusions(maps, 7)
    assert found.values() == dict.fromkeys(METRICS, 1)
    assert found.intervals(resamples=50) == dict.fromkeys(METRICS, (1, 1))


# --- intervals ---


def resampled(maps: list[Any], seed: int, resamples: int) -> np.ndarray:
    """The metrics of resamples, whose images are really repeated, (resamples, 3)."""
    draw = np.random.default_rng(seed)
    rows = (draw.integers(len(maps), size=len(maps)) for _ in range(resamples))
    drawn = (confusions([maps[each] for each in row], 7).values() for row in rows)
    return np.array([[values[name] for name in METRICS] for values in drawn])


def test_intervals_are_those_of_images_that_are_really_repeated_and_basic_for_miou() -> None:
    maps = random_maps(4)
    found = confusions(maps, 7)
    intervals = found.intervals(seed=5, resamples=40, level=0.9)
    low, high = np.quantile(resampled(maps, 5, 40), [0.05, 0.95], axis=0)
    for column, (name, value) in enumerate(found.values().items()):
        ends = low[column], high[column]
        reflected = 2 * value - high[column], 2 * value - low[column]
        assert intervals[name] == pytest.approx(reflected if name == "mIoU" else ends, rel=0, abs=1e-12)
        assert 0 < intervals[name][0] < value < intervals[name][1] < 1


def test_intervals_depend_on_the_seed_and_stay_within_shares() -> None:
    found = confusions(random_maps(6), 7)
    assert found.intervals() == found.intervals(seed=0, resamples=1000, level=0.95)
    assert found.intervals(resamples=20) != found.intervals(seed=1, resamples=20)
    almost = confusions([([[0] * 9], [[0] * 9])] * 5 + [([[0] * 9], [[0] * 8 + [1]])], 2)
    assert all(0 <= low <= high <= 1 for low, high in almost.intervals().values())


def test_resamples_do_not_depend_on_how_many_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = confusions(random_maps(7), 7)
    whole = found.intervals(resamples=23)
    monkeypatch.setattr("transfer.segmentation_metrics._COUNTS_AT_ONCE", 5 * found.num_images)
    assert found.intervals(resamples=23) == whole


def test_difference_is_that_of_the_same_resamples() -> None:
    maps, others = random_maps(8), random_maps(8)
    others = [(truth, np.where(predicted == 1, 0, predicted)) for truth, predicted in others]
    one, other = confusions(maps, 7), confusions(others, 7)
    found = one.difference(other, seed=3, resamples=40)
    drawn = resampled(maps, 3, 40) - resampled(others, 3, 40)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    for column, name in enumerate(METRICS):
        value = one.values()[name] - other.values()[name]
        expected = (value, low[column], high[column])
        assert found[name] == pytest.approx(expected, rel=0, abs=1e-12)
        reverse = other.difference(one, seed=3, resamples=40)[name]
        assert reverse == pytest.approx((-expected[0], -expected[2], -expected[1]), rel=0, abs=1e-12)


def test_run_does_not_differ_from_itself() -> None:
    found = confusions(random_maps(9), 7)
    assert found.difference(found) == dict.fromkeys(METRICS, (0, 0, 0))


def test_difference_to_other_images_or_labels_is_refused() -> None:
    maps = random_maps(10)
    found = confusions(maps, 7)
    with pytest.raises(InputError, match=r"same images in both runs, got 12 and 11 images \(not in both: image11\)"):
        found.difference(confusions(maps[:-1], 7))
    with pytest.raises(InputError, match=r"12 and 12 images \(their order or their classes differ\); compare"):
        found.difference(replace(found, names=found.names[::-1]))
    with pytest.raises(InputError, match="their classes differ"):
        found.difference(confusions(maps, 8))
    maps[4][0][0] = 6 - maps[4][0][0] % 7
    with pytest.raises(InputError, match="expected the same labels in both runs, got others for image4; compare"):
        found.difference(confusions(maps, 7))


# --- files ---


def test_saved_confusions_are_loaded_as_they_were(tmp_path: Path) -> None:
    found = confusions(random_maps(11), 7)
    found.save(tmp_path / "confusions.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["confusions.npz"]
    loaded = Confusions.load(tmp_path / "confusions.npz")
    assert (loaded.names, loaded.num_classes) == (found.names, found.num_classes)
    for name in ("image", "truth", "predicted", "count"):
        ours, theirs = getattr(loaded, name), getattr(found, name)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    assert loaded.difference(found, resamples=2) == dict.fromkeys(METRICS, (0, 0, 0))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"confusions\.npz not found; expected the confusion matrices of a finished"):
        Confusions.load(tmp_path / "confusions.npz")


def test_damaged_file_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "confusions.npz"
    found = confusions(random_maps(12), 7)
    found.save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 50):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"confusions\.npz is truncated or no NumPy archive .*; write it again"):
            Confusions.load(path)
    refused = 0
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            assert Confusions.load(path).values() == found.values()  # a date, say
        except InputError:
            refused += 1
    assert refused > len(whole) // 7 // 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": None}, "expected the arrays count, image, names, num_classes, predicted, truth, got count, image"),
        ({"more": np.zeros(1)}, "expected the arrays"),
        ({"names": np.zeros(12)}, "expected a list of names, got float64"),
        ({"names": np.array([], dtype="U3")}, "expected a list of names"),
        ({"num_classes": np.int64(256)}, "expected a number of classes from 1 to 255"),
        ({"num_classes": np.float64(7)}, "expected a number of classes from 1 to 255"),
        ({"num_classes": np.int64(3)}, "classes below 3"),
        ({"names": np.array(["a", "b"])}, "expected images below 2 in their order"),
        ({"image": np.int32([3, 2])}, "expected truth as uint8 (2,)"),
        ({"truth": np.zeros(3, dtype=np.int64)}, "expected truth as uint8"),
        ({"count": np.zeros(3, dtype=np.int64)}, "expected count as int64"),
    ],
)
def test_archive_of_another_form_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "confusions.npz"
    confusions(random_maps(13), 7).save(path)
    with np.load(path) as archive:
        content = {**archive, **change}
    np.savez(path, **{name: values for name, values in content.items() if values is not None})
    with pytest.raises(InputError, match="holds no confusion matrices: ") as caught:
        Confusions.load(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("image", -1), ("image", 12), ("predicted", 7)])
def test_impossible_cell_is_refused(name: str, value: int, tmp_path: Path) -> None:
    found = confusions(random_maps(14), 7)
    column = getattr(found, name).copy()
    column[-1 if value else 0] = value
    replace(found, **{name: column}).save(tmp_path / "confusions.npz")
    with pytest.raises(InputError, match="holds no confusion matrices: expected "):
        Confusions.load(tmp_path / "confusions.npz")
