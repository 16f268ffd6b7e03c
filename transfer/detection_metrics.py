"""Average precision of boxes with the numbers of Detectron2's evaluators for VOC and COCO, for all images at once.

Which detection finds which box depends on their own image only. So the matches are made once, and a bootstrap
resample, a vector of how often every image counts, costs a few sums.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from converters.errors import InputError
from transfer.detection_curves import NUM_IOUS, Matches

Rows = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Overlap = Callable[[Floats, Floats, Bools], Floats]  # boxes (4, N) twice, crowds (N,)

# both as their sources compute them: the last digit of a threshold can decide about a box
_VOC_IOUS, _VOC_RECALLS = np.arange(50, 100, 5) / 100.0, np.arange(0.0, 1.1, 0.1)  # pascal_voc_evaluation.py
_COCO_IOUS, _COCO_RECALLS = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)  # pycocotools, Params.setDetParams
_COCO_AREAS = np.array([[0, 1e5], [0, 32], [32, 96], [96, 1e5]]) ** 2  # all, small, medium, large, in square pixels
_COCO_MOST = 100  # detections per image and class
_PAIRS_AT_ONCE = 1 << 16  # so that what is computed of them stays in the processor's cache


@dataclass(frozen=True)
class Truth:
    """The boxes of a data set.

    Attributes:
        image: which image each is in, 0..num_images-1 in the order of the data set (COCO: of their ids), (G,).
        label: class, 0..num_classes-1, (G,).
        box: for VOC XYXY as in the XML, counted from 1; for COCO XYWH as in the JSON, (G, 4), float64.
        ignored: VOC's difficult or COCO's iscrowd: need not be found, (G,), bool.
        area: COCO's area of the object in square pixels, which VOC does not use, (G,), float64.
        num_images: those without a box included.
        num_classes: those without a box included.
    """

    image: npt.NDArray[np.integer]
    label: npt.NDArray[np.integer]
    box: Floats
    ignored: Bools
    area: Floats
    num_images: int
    num_classes: int


@dataclass(frozen=True)
class Detections:
    """What a model finds, within an image in the model's order, which decides between equal scores.

    Attributes:
        image: as in `Truth`, (M,).
        label: as in `Truth`, (M,).
        score: as the model gives it, (M,), float32 or float64.
        box: XYXY in pixels counted from 0, as Detectron2's Instances hold it, (M, 4), float32.
    """

    image: npt.NDArray[np.integer]
    label: npt.NDArray[np.integer]
    score: npt.NDArray[np.floating]
    box: npt.NDArray[np.floating]


def voc_matches(truth: Truth, detections: Detections) -> Matches:
    """Match as Detectron2's PascalVOCDetectionEvaluator does for VOC2007.

    A detection can find the box that it overlaps most. The first one of a box is right and the others are wrong; those
    of a difficult box do not count. A class of which the data set has no box to be found has an AP of 0.

    Args:
        truth: the data set.
        detections: on its images.

    Raises:
        InputError: a label or an image is not one of the data set.
    """
    truth, detections = _by_image_and_class(truth), _by_image(truth, detections)
    corners = detections.box.astype(np.float32)
    corners[:, :2] += 1  # in float32, before rounding
    detections = replace(detections, score=_decimal(detections.score, 3), box=_decimal(corners, 1))
    rows = [np.flatnonzero(detections.label == each) for each in range(truth.num_classes)]
    # rounding makes many equal scores, whose order is what NumPy's default sort makes of it in Detectron2
    detections = _take(detections, np.concatenate([each[np.argsort(-detections.score[each])] for each in rows]))
    detection, box, overlap = _pairs(truth, detections, _voc_overlap, _VOC_IOUS[0])
    by_overlap = np.lexsort((-box, overlap, detection))  # the first of equal boxes last
    best = by_overlap[np.diff(detection[by_overlap], append=-1) != 0]
    detection, box, overlap = detection[best], box[best], overlap[best]
    hits = overlap[:, None] > _VOC_IOUS
    counts = ~(hits & truth.ignored[box][:, None])
    right = hits & counts
    for column in right.T:
        _, firsts = np.unique(box[column], return_index=True)
        column[np.delete(np.flatnonzero(column), firsts)] = False
    within, sought = np.ones((1, len(detections.image)), dtype=bool), ~truth.ignored[None]
    return _trace(truth, detections, within, sought, detection, right, counts, _VOC_RECALLS, absent=0.0)


def coco_matches(truth: Truth, detections: Detections) -> Matches:
    """Match as pycocotools' COCOeval does when Detectron2's COCOEvaluator calls it for boxes.

    The hundred best detections of an image and class choose one after the other, each the free box that it overlaps
    most. Boxes that are crowds or outside the area range come last, and who finds them does not count.

    Args:
        truth: the data set.
        detections: on its images.

    Raises:
        InputError: a label or an image is not one of the data set.
    """
    truth, detections = _by_image_and_class(truth), _by_image(truth, detections)
    sizes = detections.box.astype(np.float32)
    sizes[:, 2:] -= sizes[:, :2]  # in float32, as Detectron2's instances_to_coco_json
    detections = replace(detections, box=sizes.astype(np.float64))
    detections = _take(detections, np.lexsort((-detections.score, detections.label)))
    detections = _take(detections, np.flatnonzero(_ranks(_keys(truth, detections)) < _COCO_MOST))
    low, high = _COCO_AREAS.T[..., None]
    area = detections.box[:, 2] * detections.box[:, 3]
    within = (area >= low) & (area <= high)
    sought = (truth.area >= low) & (truth.area <= high) & ~truth.ignored
    pairs = _pairs(truth, detections, _coco_overlap, _COCO_IOUS[0])
    detection, chosen = _choose(*pairs, truth.ignored, sought, _keys(truth, detections))
    hits, sought_columns = chosen >= 0, _columns(sought)
    right = hits & np.take_along_axis(sought_columns, np.maximum(chosen, 0), axis=0)
    counts = np.where(hits, right, _columns(within)[detection])
    return _trace(truth, detections, within, sought, detection, right, counts, _COCO_RECALLS, absent=np.nan)


def _choose(detection: Rows, box: Rows, overlap: Floats, crowd: Bools, sought: Bools, keys: Rows) -> tuple[Rows, Rows]:
    """Let the detections of every image and class choose a box in turn, for all area ranges and overlaps at once.

    Args:
        detection: of every pair to choose from, (N,).
        box: of every pair, (N,).
        overlap: of every pair, (N,).
        crowd: whether a box can be chosen again, (G,).
        sought: whether a box is better than any that is not, for each of A area ranges, (A, G).
        keys: image and class of the detections, (M,).

    Returns:
        The detections that have a pair, (D,), and the box that each chooses or -1, (D, A * T).
    """
    choosing, which = np.unique(detection, return_inverse=True)
    turns = _ranks(keys[choosing])[which]
    order = np.lexsort((box, overlap, which, turns))  # the best last; of equal ones the later box
    which, box, overlap = which[order], box[order], overlap[order, None]
    sought = _columns(sought)
    ious = np.tile(_COCO_IOUS, len(_COCO_AREAS))
    taken = np.zeros(sought.shape, dtype=bool)
    chosen = np.full((len(choosing), len(ious)), -1)
    bounds = np.searchsorted(turns[order], np.arange(turns.max(initial=-1) + 2))
    for low, high in pairwise(bounds):
        boxes = box[low:high]
        place = np.arange(1, high - low + 1)[:, None] + (high - low) * sought[boxes]
        place[(overlap[low:high] < ious) | taken[boxes]] = 0
        first = np.flatnonzero(np.diff(which[low:high], prepend=-1))
        best = np.maximum.reduceat(place, first, axis=0)
        choice = boxes[(best - 1) % (high - low)]
        chosen[which[low:high][first]] = np.where(best > 0, choice, -1)
        taken[choice[best > 0], np.nonzero(best)[1]] = ~crowd[choice[best > 0]]
    return choosing, chosen


def _trace(
    truth: Truth,
    detections: Detections,
    within: Bools,
    sought: Bools,
    detection: Rows,
    right: Bools,
    counts: Bools,
    recalls: Floats,
    *,
    absent: float,
) -> Matches:
    """Lay out the points of all curves.

    Args:
        truth: by image and class.
        detections: by class and falling score.
        within: as in `Matches`, (A, M).
        sought: whether a box is to be found in an area range, (A, G).
        detection: those that overlap a box enough to find it, rising, (D,).
        right: whether they find an object that counts, for each area range and overlap, (D, A * T).
        counts: whether they count, (D, A * T).
        recalls: as in `Matches`.
        absent: as in `Matches`.
    """
    first = np.searchsorted(detections.label, np.arange(truth.num_classes))
    correction = counts.astype(np.int64) - _columns(within)[detection]
    column, row = np.nonzero((right | (correction != 0)).T)
    area, rows = column // NUM_IOUS, detection[row]
    curve = column * truth.num_classes + detections.label[rows]
    num_curves = right.shape[1] * truth.num_classes
    place = np.arange(len(curve)) + curve  # every curve before has a last point of its own
    sums = len(detections.image) + 1

    def points(values: npt.NDArray[np.integer | np.bool_]) -> Rows:
        spread = np.zeros(len(curve) + num_curves, dtype=np.int64)
        spread[place] = values
        return spread

    sought_area, sought_row = np.nonzero(sought)
    return Matches(
        num_images=truth.num_images,
        num_classes=truth.num_classes,
        image=detections.image.astype(np.int64),
        within=within,
        start=np.searchsorted(curve, np.arange(num_curves)) + np.arange(num_curves),
        origin=(np.arange(right.shape[1])[:, None] // NUM_IOUS * sums + first).ravel(),
        point_image=points(detections.image[rows]),
        shown=points(area * sums + rows + 1),
        right=points(right[row, column]),
        correction=points(correction[row, column]),
        sought_image=truth.image[sought_row].astype(np.int64),
        sought_class=sought_area * truth.num_classes + truth.label[sought_row],
        recalls=recalls,
        absent=absent,
    )


def _pairs(truth: Truth, detections: Detections, overlap: Overlap, least: float) -> tuple[Rows, Rows, Floats]:
    """Detections and boxes of the same image and class whose overlap is at least `least`, by detection, then box."""
    keys, known = _keys(truth, detections), _keys(truth, truth)
    start = np.searchsorted(known, keys)
    number = np.searchsorted(known, keys, side="right") - start
    box_of_pair = start - (np.cumsum(number) - number)  # its number less the pair's
    boxes, corners = truth.box.T.copy(), detections.box.T.astype(np.float64)  # rows are gathered faster
    kept, done = [], 0
    for low, high in _blocks(number):
        detection = np.repeat(np.arange(low, high), number[low:high])
        box = box_of_pair[detection] + np.arange(done, done + len(detection))
        done += len(detection)
        share = overlap(corners[:, detection], boxes[:, box], truth.ignored[box])
        enough = share >= least
        kept.append((detection[enough], box[enough], share[enough]))
    detection, box, share = (np.concatenate(each) for each in zip(*kept, strict=True))
    return detection, box, share


def _blocks(number: Rows) -> Iterator[tuple[int, int]]:
    """Ranges of detections, at least one, of about `_PAIRS_AT_ONCE` pairs each; `number` is how many each has, (M,)."""
    ends = np.cumsum(number)
    bounds = np.searchsorted(ends, np.arange(_PAIRS_AT_ONCE, number.sum(), _PAIRS_AT_ONCE))
    return pairwise([0, *bounds.tolist(), len(ends)])


def _voc_overlap(a: Floats, b: Floats, ignored: Bools) -> Floats:
    """Intersection over union of XYXY boxes whose last pixel belongs to them, (N,), of (4, N) each."""
    width, height = (np.maximum(np.minimum(a[i + 2], b[i + 2]) - np.maximum(a[i], b[i]) + 1.0, 0.0) for i in (0, 1))
    area_a, area_b = ((box[2] - box[0] + 1.0) * (box[3] - box[1] + 1.0) for box in (a, b))
    share: Floats = width * height / (area_a + area_b - width * height)
    return share


def _coco_overlap(a: Floats, b: Floats, crowd: Bools) -> Floats:
    """Intersection over union, for crowds over the area of `a`, of XYWH boxes, (N,), of (4, N) each."""
    width, height = (np.minimum(a[i + 2] + a[i], b[i + 2] + b[i]) - np.maximum(a[i], b[i]) for i in (0, 1))
    shared, area = np.maximum(width, 0) * np.maximum(height, 0), a[2] * a[3]
    union = np.where(crowd, area, area + b[2] * b[3] - shared)
    share: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    return share


def _decimal(values: npt.NDArray[np.floating], digits: int) -> Floats:
    """The number that Python's formatting with so many digits after the point writes."""
    if values.dtype == np.float32:  # whose products with 10 ** digits are exact in float64
        written: Floats = np.rint(values.astype(np.float64) * 10**digits) / 10**digits
        return written
    return np.array([float(f"{value:.{digits}f}") for value in values.ravel().tolist()]).reshape(values.shape)


def _by_image_and_class(truth: Truth) -> Truth:
    """Sort the boxes, those of the same image and class staying in their order."""
    _check(truth, truth)
    order = np.argsort(_keys(truth, truth), kind="stable")
    arrays = {name: getattr(truth, name)[order] for name in ("image", "label", "box", "ignored", "area")}
    return replace(truth, **arrays)


def _by_image(truth: Truth, detections: Detections) -> Detections:
    """Sort the detections, those of the same image staying in their order."""
    _check(truth, detections)
    return _take(detections, np.argsort(detections.image, kind="stable"))


def _check(truth: Truth, boxes: Truth | Detections) -> None:
    for name, values, size in (
        ("an image", boxes.image, truth.num_images),
        ("a class", boxes.label, truth.num_classes),
    ):
        strange = values[(values < 0) | (values >= size)]
        if len(strange):
            raise InputError(
                f"expected every box to have {name} in 0..{size - 1}, got {strange[0]}; "
                "evaluate on the data set that the model was trained for"
            )


def _take(detections: Detections, rows: Rows) -> Detections:
    return Detections(detections.image[rows], detections.label[rows], detections.score[rows], detections.box[rows])


def _keys(truth: Truth, boxes: Truth | Detections) -> Rows:
    """Image and class as one number."""
    return boxes.image.astype(np.int64) * truth.num_classes + boxes.label


def _ranks(keys: Rows) -> Rows:
    """How many equal keys stand before each."""
    order = np.argsort(keys, kind="stable")
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(keys)) - np.searchsorted(keys[order], keys[order])
    return ranks


def _columns(areas: Bools) -> Bools:
    """What is known of each area range, (A, N), for each of its overlaps, (N, A * T)."""
    return np.repeat(areas.T, NUM_IOUS, axis=1)
