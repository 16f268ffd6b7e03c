"""Boxes' average precision against Detectron2's evaluators and pycocotools, by worked examples, and its bootstrap."""

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.errors import InputError
from converters.targets import quiet
from transfer.detection_curves import Matches
from transfer.detection_metrics import Detections, Truth, _decimal, coco_matches, voc_matches
from transfer.metrics import bootstrap_interval

with quiet():
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances, register_pascal_voc
    from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
    from detectron2.structures import Boxes, Instances
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

Match = Callable[[Truth, Detections], Matches]
COCO_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
MATCHES = (voc_matches, coco_matches)
SIDE = 300  # of the images, in pixels


def problem(
    seed: int, *, coco: bool, images: int = 12, classes: int = 4, boxes: int = 60, found: int = 300, decimals: int = 1
) -> tuple[Truth, Detections]:
    """Random boxes and detections of them: the last image and class have no boxes, the one before no detections."""
    draw = np.random.default_rng(seed)
    image, label = draw.integers(images - 1, size=boxes), draw.integers(classes - 1, size=boxes)
    size = np.rint(np.exp(draw.uniform(np.log(8), np.log(150), size=(boxes, 2))))
    size[: boxes // 4] = draw.choice([32, 96], size=(boxes // 4, 2))  # whose areas are the limits of COCO's ranges
    corner = draw.integers(1, SIDE - 150, size=(boxes, 2)).astype(float)
    area = size.prod(axis=1) * draw.choice([0.5, 1, 1], size=boxes)
    of = draw.integers(boxes, size=found)
    # many are the box itself or next to it, so that overlaps are equal
    shift = draw.integers(-2, 3, size=(found, 4)) * draw.choice([0, 1, 5], size=(found, 1))
    exact = np.hstack([corner, corner + size])[of]
    xyxy = (np.sort((exact + shift).reshape(-1, 2, 2), axis=1).reshape(-1, 4) - (not coco)).astype(np.float32)
    xyxy += draw.choice([0, 0.05, 0.33], size=(found, 1)).astype(np.float32)
    detected_image = np.where(draw.random(found) < 0.8, image[of], draw.integers(images, size=found))
    detected_image[detected_image == images - 2] = 0
    detected_label = np.where(draw.random(found) < 0.9, label[of], draw.integers(classes, size=found))
    score = np.round(draw.random(found), decimals).astype(np.float32)
    order = np.argsort(detected_image, kind="stable")
    box = np.hstack([corner, size if coco else corner + size])
    truth = Truth(image, label, box, draw.random(boxes) < 0.2, area, images, classes)
    return truth, Detections(detected_image[order], detected_label[order], score[order], xyxy[order])


def none_found() -> Detections:
    empty = np.zeros(0, dtype=np.int64)
    return Detections(empty, empty, np.zeros(0, dtype=np.float32), np.zeros((0, 4), dtype=np.float32))


# --- the oracles ---


@pytest.fixture
def registered() -> Iterator[str]:
    """A name for a data set, which is forgotten afterwards."""
    name = "transfer_detection_metrics"
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def process(evaluator: COCOEvaluator | PascalVOCDetectionEvaluator, found: Detections, ids: list[int]) -> None:
    evaluator.reset()
    for image, name in enumerate(ids):
        rows = found.image == image
        instances = Instances((SIDE, SIDE))
        instances.pred_boxes = Boxes(torch.from_numpy(found.box[rows]))
        instances.scores = torch.from_numpy(found.score[rows])
        instances.pred_classes = torch.from_numpy(found.label[rows])
        evaluator.process([{"image_id": name}], [{"instances": instances}])


def detectron2_voc(truth: Truth, found: Detections, folder: Path, name: str) -> dict[str, float]:
    classes = [f"class{each}" for each in range(truth.num_classes)]
    ids = [f"{each:06d}" for each in range(truth.num_images)]
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "Annotations").mkdir()
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(ids))
    for image, each in enumerate(ids):
        rows = np.flatnonzero(truth.image == image)
        objects = "".join(voc_object(classes[truth.label[i]], truth.box[i], bool(truth.ignored[i])) for i in rows)
        (folder / f"Annotations/{each}.xml").write_text(f"<annotation>{objects}</annotation>")
    register_pascal_voc(name, str(folder), "test", 2007, classes)
    evaluator = PascalVOCDetectionEvaluator(name)
    process(evaluator, found, ids)
    with np.errstate(invalid="ignore"):  # its 0 / 0 where a class has no object
        return {key: value / 100 for key, value in evaluator.evaluate()["bbox"].items()}


def voc_object(name: str, box: npt.NDArray[np.float64], difficult: bool) -> str:
    corners = "".join(f"<{tag}>{int(x)}</{tag}>" for tag, x in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    facts = f"<name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>{int(difficult)}</difficult>"
    return f"<object>{facts}<bndbox>{corners}</bndbox></object>"


def coco_json(truth: Truth) -> dict[str, list[dict[str, object]]]:
    objects = zip(*(x.tolist() for x in (truth.image, truth.label, truth.box, truth.area, truth.ignored)), strict=True)
    return {
        "images": [
            {"id": 10 + each, "height": SIDE, "width": SIDE, "file_name": ""} for each in range(truth.num_images)
        ],
        "categories": [{"id": 1 + each, "name": f"class{each}"} for each in range(truth.num_classes)],
        "annotations": [
            {"id": 1 + n, "image_id": 10 + i, "category_id": 1 + k, "bbox": box, "area": area, "iscrowd": int(crowd)}
            for n, (i, k, box, area, crowd) in enumerate(objects)
        ],
    }


def detectron2_coco(truth: Truth, found: Detections, folder: Path, name: str) -> dict[str, float]:
    (folder / "truth.json").write_text(json.dumps(coco_json(truth)))
    with quiet():
        register_coco_instances(name, {}, str(folder / "truth.json"), "")
        DatasetCatalog.get(name)  # fills in the classes
        evaluator = COCOEvaluator(name, tasks=("bbox",), distributed=False)
        process(evaluator, found, [10 + each for each in range(truth.num_images)])
        return {key: value / 100 for key, value in evaluator.evaluate()["bbox"].items()}


def pycocotools(truth: Truth, found: Detections) -> tuple[dict[str, float], npt.NDArray[np.float64]]:
    """The metrics, and AP by class; nan instead of -1."""
    sizes = found.box.copy()
    sizes[:, 2:] -= sizes[:, :2]
    columns = zip(*(x.tolist() for x in (found.image, found.label, sizes, found.score)), strict=True)
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = coco_json(truth)
        api.createIndex()
        results = [
            {"image_id": 10 + image, "category_id": 1 + label, "bbox": box, "score": score}
            for image, label, box, score in columns
        ]
        evaluation = COCOeval(api, api.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
    stats = np.where(evaluation.stats < 0, np.nan, evaluation.stats)[: len(COCO_KEYS)]
    return dict(zip(COCO_KEYS, stats.tolist(), strict=True)), np.where(precision < 0, np.nan, precision)


def assert_same(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours == pytest.approx({key: theirs[key] for key in ours}, rel=0, abs=1e-12, nan_ok=True)


# --- against them ---


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("decimals", [1, 6])  # 1: scores are tied
def test_voc_equals_detectron2(seed: int, decimals: int, tmp_path: Path, registered: str) -> None:
    truth, found = problem(seed, coco=False, decimals=decimals)
    assert_same(voc_matches(truth, found).values(), detectron2_voc(truth, found, tmp_path, registered))


def test_voc_with_many_tied_scores_of_a_class_equals_detectron2(tmp_path: Path, registered: str) -> None:
    """NumPy's default sort keeps the order of few equal values, but not of thousands."""
    truth, found = problem(0, coco=False, images=40, classes=2, boxes=400, found=6000)
    order = np.argsort(-found.score)
    assert (order != np.argsort(-found.score, kind="stable")).any()
    assert_same(voc_matches(truth, found).values(), detectron2_voc(truth, found, tmp_path, registered))


@pytest.mark.parametrize("seed", range(5))
def test_coco_equals_detectron2(seed: int, tmp_path: Path, registered: str) -> None:
    truth, found = problem(seed, coco=True)
    matches = coco_matches(truth, found)
    theirs = detectron2_coco(truth, found, tmp_path, registered)
    assert_same(matches.values(), theirs)
    assert matches.per_class() == pytest.approx(
        [theirs[f"AP-class{each}"] for each in range(truth.num_classes)], rel=0, abs=1e-12, nan_ok=True
    )


@pytest.mark.parametrize("decimals", [1, 6])
def test_coco_equals_pycocotools(decimals: int) -> None:
    for seed in range(40):
        truth, found = problem(seed, coco=True, decimals=decimals)
        theirs, by_class = pycocotools(truth, found)
        matches = coco_matches(truth, found)
        assert_same(matches.values(), theirs)
        assert matches.per_class() == pytest.approx(by_class, rel=0, abs=1e-12, nan_ok=True)


def test_only_the_hundred_best_of_an_image_and_class_count_for_coco() -> None:
    truth, found = problem(0, coco=True, images=3, classes=2, boxes=40, found=900)
    assert np.bincount(found.image * 2 + found.label).max() > 200
    assert_same(coco_matches(truth, found).values(), pycocotools(truth, found)[0])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_coco_equals_pycocotools_on_small_grids(data: st.DataObject) -> None:
    """Boxes of a grid: overlaps, scores and areas are often equal, and often exactly a threshold."""
    corners = st.tuples(*(st.integers(0, 4) for _ in range(4))).map(
        lambda c: (*c[:2], c[0] + c[2] + 1, c[1] + c[3] + 1)
    )
    scale = data.draw(st.sampled_from([1, 16, 32]))
    boxes = data.draw(st.lists(st.tuples(corners, st.booleans()), min_size=1, max_size=6))
    others = data.draw(st.lists(st.tuples(corners, st.integers(0, 2)), min_size=1, max_size=8))
    box = scale * np.array([each for each, _ in boxes], dtype=float)
    box[:, 2:] -= box[:, :2]
    zeros, nothing = np.zeros(len(boxes), dtype=int), np.zeros(len(others), dtype=int)
    truth = Truth(zeros, zeros, box, np.array([crowd for _, crowd in boxes]), box[:, 2] * box[:, 3], 1, 1)
    score = np.array([each / 2 for _, each in others], dtype=np.float32)
    found = Detections(nothing, nothing, score, scale * np.array([each for each, _ in others], dtype=np.float32))
    assert_same(coco_matches(truth, found).values(), pycocotools(truth, found)[0])


def test_without_detections_every_class_that_has_objects_is_worth_nothing() -> None:
    assert voc_matches(problem(0, coco=False)[0], none_found()).values() == {"AP": 0, "AP50": 0, "AP75": 0}
    truth, _ = problem(0, coco=True)
    matches = coco_matches(truth, none_found())
    assert matches.values() == dict.fromkeys(COCO_KEYS, 0)
    assert matches.per_class() == pytest.approx([0, 0, 0, np.nan], nan_ok=True)


# --- by hand ---


def one_image(
    boxes: list[list[float]], found: list[tuple[float, list[float]]], **fields: object
) -> tuple[Truth, Detections]:
    """An image of one class; boxes XYWH of areas below 32 squared, detections (score, XYXY)."""
    zeros, nothing = np.zeros(len(boxes), dtype=int), np.zeros(len(found), dtype=int)
    box = np.array(boxes, dtype=float).reshape(-1, 4)
    truth = Truth(zeros, zeros, box, np.zeros(len(boxes), dtype=bool), box[:, 2] * box[:, 3], 1, 1)
    scores, corners = (np.array(x, dtype=np.float32) for x in zip(*found, strict=True))
    return replace(truth, **fields), Detections(nothing, nothing, scores, corners)


def test_coco_worked_example() -> None:
    """Wrong, then right at every overlap, then right up to 0.8: one of two is found above it, two below.

    The right ones have precisions 1/2 and 2/3, so 2/3 holds at all recalls below 0.8. Above it 1/2 holds at the 51
    recalls up to 0.5.
    """
    truth, found = one_image(
        [[0, 0, 10, 10], [100, 100, 10, 10]],
        [(0.9, [50, 50, 60, 60]), (0.8, [0, 0, 10, 10]), (0.7, [100, 100, 110, 108])],
    )
    values = coco_matches(truth, found).values()
    assert values["AP50"] == pytest.approx(2 / 3)
    assert values["AP75"] == pytest.approx(2 / 3)
    # the overlap 0.8 is enough at 0.5, ..., 0.75 and, as 80 / 100, at 0.8 itself
    assert values["AP"] == pytest.approx((7 * 2 / 3 + 3 * 51 / 101 / 2) / 10)
    assert values["APs"] == pytest.approx(values["AP"])
    assert np.isnan(values["APm"])
    assert np.isnan(values["APl"])


def test_voc_worked_example() -> None:
    """The box twice, then a wrong one, then the other box with an overlap of 0.8: precisions 1, and 2/4 at the end."""
    truth, found = one_image(
        [[11, 11, 20, 20], [101, 101, 110, 110]],
        [(0.9, [10, 10, 20, 20]), (0.8, [10, 10, 20, 20]), (0.7, [50, 50, 60, 60]), (0.6, [100, 100, 110, 108])],
    )
    values = voc_matches(truth, found).values()
    assert values["AP50"] == pytest.approx((6 * 1 + 5 * 2 / 4) / 11)
    assert values["AP75"] == pytest.approx(values["AP50"])
    # 80 / 100 is not more than 0.8: six overlaps find both
    assert values["AP"] == pytest.approx((6 * values["AP50"] + 4 * 6 / 11) / 10)


def test_difficult_box_is_neither_right_nor_wrong_nor_missed() -> None:
    boxes, difficult = [[11, 11, 20, 20], [101, 101, 110, 110]], np.array([True, False])
    found = [(0.9, [10.0, 10.0, 20.0, 20.0]), (0.8, [10.0, 10.0, 20.0, 20.0]), (0.7, [100.0, 100.0, 110.0, 110.0])]
    assert voc_matches(*one_image(boxes, found, ignored=difficult)).values()["AP"] == pytest.approx(1)
    assert voc_matches(*one_image(boxes, found)).values()["AP"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


@pytest.mark.parametrize(("difficult", "expected"), [([True, False], 0), ([False, True], 1)])
def test_of_two_voc_boxes_that_a_detection_overlaps_equally_the_first_is_its_own(
    difficult: list[bool], expected: float
) -> None:
    truth, found = one_image([[11, 11, 20, 20]] * 2, [(0.9, [10, 10, 20, 20])], ignored=np.array(difficult))
    assert voc_matches(truth, found).values()["AP"] == pytest.approx(expected)


@pytest.mark.parametrize(("boxes", "expected"), [((0, 4), 1), ((4, 0), 51 / 101)])
def test_of_two_coco_boxes_that_a_detection_overlaps_equally_it_takes_the_later_one(
    boxes: tuple[int, int], expected: float
) -> None:
    """Boxes at 0 and 4, 10 wide; the first detection lies at 2 between them, the second can only find the one at 0."""
    truth, found = one_image([[left, 0, 10, 10] for left in boxes], [(0.9, [2, 0, 12, 10]), (0.8, [0, 0, 8, 10])])
    assert coco_matches(truth, found).values()["AP50"] == pytest.approx(expected)


@pytest.mark.parametrize("width", range(10, 20))
def test_overlap_that_is_exactly_a_threshold_equals_the_oracles(width: int, tmp_path: Path, registered: str) -> None:
    """Overlaps of 10/20, ..., 19/20."""
    found = [(0.5, [0.0, 0.0, width, 10.0])]
    truth, detections = one_image([[0, 0, 20, 10]], found)
    assert_same(coco_matches(truth, detections).values(), pycocotools(truth, detections)[0])
    truth, detections = one_image([[1, 1, 20, 10]], found)
    assert_same(voc_matches(truth, detections).values(), detectron2_voc(truth, detections, tmp_path, registered))


@pytest.mark.parametrize(("better", "expected"), [(99, 1 / 100), (100, 0)])
def test_hundredth_detection_of_an_image_counts_for_coco_and_the_next_does_not(better: int, expected: float) -> None:
    wrong = [(1 - i / 1000, [50.0, 50.0, 60.0, 60.0]) for i in range(better)]
    truth, found = one_image([[0, 0, 10, 10]], [*wrong, (0.1, [0.0, 0.0, 10.0, 10.0])])
    assert coco_matches(truth, found).values()["AP"] == pytest.approx(expected)


def test_crowd_takes_any_number_of_detections_that_lie_in_it() -> None:
    boxes = [[0, 0, 30, 30], [100, 100, 10, 10]]
    found = [(0.9 - i / 10, [5.0 * i, 5.0, 5.0 * i + 8, 20.0]) for i in range(3)] + [
        (0.1, [100.0, 100.0, 110.0, 110.0])
    ]
    assert coco_matches(*one_image(boxes, found, ignored=np.array([True, False]))).values()["AP"] == pytest.approx(1)
    assert coco_matches(*one_image(boxes, found)).values()["AP"] == pytest.approx(51 / 101 / 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_voc_rounds_as_text_does(dtype: type[np.floating]) -> None:
    """Halves are rounded to even digits where binary fractions have them, and where they only seem to, by the rest."""
    draw = np.random.default_rng(0).random(2000).astype(dtype)
    for values in (np.arange(2000, dtype=dtype) / 16, draw, np.round(draw, 2) + dtype(0.005), -draw * 300):
        for digits in (1, 3):
            assert _decimal(values, digits).tolist() == [float(f"{x:.{digits}f}") for x in values.tolist()]


# --- counts ---


def repeated(truth: Truth, found: Detections, counts: npt.NDArray[np.integer]) -> tuple[Truth, Detections]:
    """The data set with every image as often as it counts."""
    copies = np.repeat(np.arange(truth.num_images), counts)
    boxes = [np.flatnonzero(truth.image == each) for each in copies]
    rows = [np.flatnonzero(found.image == each) for each in copies]
    fields = {name: getattr(truth, name)[np.concatenate(boxes)] for name in ("label", "box", "ignored", "area")}
    image, detected = (np.repeat(np.arange(len(copies)), [len(x) for x in each]) for each in (boxes, rows))
    all_rows = np.concatenate(rows)
    detections = Detections(detected, found.label[all_rows], found.score[all_rows], found.box[all_rows])
    return replace(truth, image=image, num_images=len(copies), **fields), detections


def distinct_scores(found: Detections) -> Detections:
    scores = np.random.default_rng(9).permutation(np.arange(len(found.score)) + 1) / 1000
    return replace(found, score=scores.astype(np.float32))


@pytest.mark.parametrize("match", MATCHES)
def test_image_that_counts_n_times_is_as_good_as_n_images(match: Match) -> None:
    for seed in range(10):
        truth, found = problem(seed, coco=match is coco_matches)
        # every class that has objects keeps one: Detectron2 gives a class without one 0, a resample leaves it out
        truth, found = replace(truth, num_classes=3), distinct_scores(found)
        found = replace(found, label=np.minimum(found.label, 2))
        counts = np.random.default_rng(seed).integers(0, 4, size=truth.num_images)
        assert_same(match(truth, found).values(counts), match(*repeated(truth, found, counts)).values())


@pytest.mark.parametrize("match", MATCHES)
def test_counting_all_images_equally_often_changes_nothing(match: Match) -> None:
    truth, found = problem(1, coco=match is coco_matches)
    matches = match(truth, found)
    for times in (1, 2, 7):
        assert matches.values(np.full(truth.num_images, times)) == matches.values()


@pytest.mark.parametrize("match", MATCHES)
def test_order_of_images_and_boxes_changes_nothing(match: Match) -> None:
    truth, found = problem(2, coco=match is coco_matches)
    found = distinct_scores(found)
    draw = np.random.default_rng(0)
    new, boxes, rows = (draw.permutation(n) for n in (truth.num_images, len(truth.image), len(found.image)))
    fields = {name: getattr(truth, name)[boxes] for name in ("label", "box", "ignored", "area")}
    shuffled = replace(truth, image=new[truth.image[boxes]], **fields)
    others = Detections(new[found.image[rows]], found.label[rows], found.score[rows], found.box[rows])
    assert match(shuffled, others).values() == match(truth, found).values()


@pytest.mark.parametrize("match", MATCHES)
def test_images_of_detections_may_come_in_any_order_even_where_scores_are_tied(match: Match) -> None:
    truth, found = problem(4, coco=match is coco_matches)
    rows = np.argsort(np.random.default_rng(0).permutation(truth.num_images)[found.image], kind="stable")
    others = Detections(found.image[rows], found.label[rows], found.score[rows], found.box[rows])
    assert match(truth, others).values() == match(truth, found).values()


@pytest.mark.parametrize("match", MATCHES)
def test_class_whose_images_do_not_count_is_left_out(match: Match) -> None:
    """Both classes are found in their own image, the second one after a mistake."""
    corners = np.array([[10, 10, 20, 20], [50, 50, 60, 60], [10, 10, 20, 20]], dtype=np.float32)
    box = np.array([[10, 10, 10, 10]] * 2 if match is coco_matches else [[11, 11, 20, 20]] * 2, dtype=float)
    two = np.arange(2)
    truth = Truth(two, two, box, np.zeros(2, dtype=bool), np.full(2, 100.0), 2, 2)
    matches = match(truth, Detections(np.array([0, 1, 1]), np.array([0, 1, 1]), np.float32([0.9, 0.8, 0.7]), corners))
    assert matches.values()["AP"] == pytest.approx(3 / 4)
    assert matches.values(np.array([1, 0]))["AP"] == pytest.approx(1)
    assert matches.values(np.array([0, 3]))["AP"] == pytest.approx(1 / 2)
    assert np.isnan(matches.values(np.array([0, 0]))["AP"])
    assert matches.per_class() == pytest.approx([1, 1 / 2])


def test_class_without_objects_in_the_data_set_is_worth_nothing_for_voc_in_a_resample_too() -> None:
    truth, found = problem(0, coco=False)
    rows = found.label < 3
    kept = Detections(*(getattr(found, name)[rows] for name in ("image", "label", "score", "box")))
    of_four, of_three = voc_matches(truth, found), voc_matches(replace(truth, num_classes=3), kept)
    for counts in (None, np.random.default_rng(0).integers(1, 3, size=truth.num_images)):
        assert of_four.values(counts)["AP"] == pytest.approx(3 / 4 * of_three.values(counts)["AP"])
    assert of_four.per_class() == pytest.approx([*of_three.per_class(), np.nan], nan_ok=True)


@pytest.mark.parametrize("match", MATCHES)
def test_intervals_are_percentiles_of_every_metric_by_itself_reflected_at_its_value(match: Match) -> None:
    truth, found = problem(3, coco=match is coco_matches, boxes=200)
    matches = match(truth, found)
    for key, interval in matches.intervals(level=0.8, num_resamples=50, seed=4).items():
        metric = partial(lambda counts, key: matches.values(counts)[key], key=key)
        low, high = bootstrap_interval(metric, truth.num_images, level=0.8, num_resamples=50, seed=4)
        value = matches.values()[key]
        reflected = max(0.0, 2 * value - high), min(1.0, 2 * value - low)
        assert interval == pytest.approx(reflected, rel=0, abs=1e-12)


def test_metric_without_objects_has_no_interval() -> None:
    truth, found = one_image([[0, 0, 10, 10]], [(0.5, [0.0, 0.0, 10.0, 10.0])])
    intervals = coco_matches(truth, found).intervals(num_resamples=3)
    assert intervals["AP"] == intervals["APs"] == (1, 1)
    assert np.isnan(intervals["APl"]).all()


# --- mistakes ---


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize(
    ("field", "value", "message"), [("label", 4, "a class in 0..3, got 4"), ("image", -1, "an image in 0..11, got -1")]
)
def test_foreign_image_or_class_is_refused(match: Match, field: str, value: int, message: str) -> None:
    truth, found = problem(0, coco=True)
    for boxes in (truth, found):
        strange = getattr(boxes, field).copy()
        strange[5] = value
        wrong = replace(boxes, **{field: strange})
        with pytest.raises(InputError, match=message):
            match(*((wrong, found) if boxes is truth else (truth, wrong)))
