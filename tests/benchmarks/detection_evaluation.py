"""Our evaluation of boxes against pycocotools and Detectron2, at the sizes of COCO val2017 and VOC2007 test.

On random boxes and detections; the metrics must be equal. Reading files and preparing the references is not timed.
Then how often intervals hold the AP of the images that the test images were drawn from.
Run by `make bench`, or by itself: python tests/benchmarks/detection_evaluation.py
"""

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from converters.targets import quiet
from transfer.detection_curves import Matches
from transfer.detection_metrics import Detections, Truth, coco_matches, voc_matches

with quiet():
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_pascal_voc
    from detectron2.evaluation import PascalVOCDetectionEvaluator
    from detectron2.evaluation.pascal_voc_evaluation import parse_rec
    from detectron2.structures import Boxes, Instances
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

SIDE = 500  # of the images, in pixels
ROUNDS = 3  # of ours, of which the best counts
RESAMPLES = 1000
TOLERANCE = 1e-12


def main() -> None:
    """Print seconds and ratios."""
    # images, classes, boxes: COCO val2017 and VOC2007 test; detections: COCO's hundred per image, VOC's about 20
    coco = random_problem(5000, 80, 36_000, 500_000, ignored=0.01)
    compare("COCO", "pycocotools", coco_matches, *coco, pycocotools)
    voc = random_problem(4952, 20, 15_000, 100_000, ignored=0.2)
    voc[0].box[:, 2:] += voc[0].box[:, :2]
    voc[0].box[:] = np.rint(voc[0].box) + 1
    compare("VOC", "Detectron2", voc_matches, *voc, detectron2_voc)
    coverage()


def compare(
    name: str,
    reference_name: str,
    match: Callable[[Truth, Detections], Matches],
    truth: Truth,
    found: Detections,
    reference: Callable[[Truth, Detections], tuple[float, dict[str, float]]],
) -> None:
    """Print the seconds of both, and of our intervals; fail where a metric differs."""
    seconds, theirs = reference(truth, found)
    ours = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        matches = match(truth, found)
        values = matches.values()
        ours = min(ours, time.perf_counter() - started)
    worst = max(abs(values[key] - theirs[key]) for key in values)
    if not worst <= TOLERANCE:
        raise SystemExit(f"{name}: expected {theirs}, got {values}")
    started = time.perf_counter()
    matches.intervals(num_resamples=RESAMPLES)
    resampling = time.perf_counter() - started
    sizes = f"{truth.num_images} images, {truth.num_classes} classes, {len(truth.image)} boxes"
    print(
        f"{name}, {sizes}, {len(found.image)} detections: {reference_name} {seconds:.1f} s, ours {ours:.2f} s, "
        f"{seconds / ours:.0f} times as fast; {len(values)} metrics within {worst:.0e}; "
        f"{RESAMPLES} resamples {resampling:.1f} s"
    )


def coverage(samples: int = 60, drawn: int = 500, resamples: int = 200) -> None:
    """Print how many 95 % intervals hold the population's AP: ours, and percentiles, which are ours reflected."""
    population = random_problem(20_000, 5, 60_000, 200_000, ignored=0.0)
    value = coco_matches(*population).values()["AP"]
    draw, held = np.random.default_rng(1), np.zeros(2, dtype=int)
    for _ in range(samples):
        matches = coco_matches(*excerpt(*population, np.sort(draw.choice(20_000, drawn, replace=False))))
        low, high = matches.intervals(num_resamples=resamples)["AP"]
        twice = 2 * matches.values()["AP"]
        held += (low <= value <= high, twice - high <= value <= twice - low)
    print(
        f"AP of {drawn} of 20,000 images, {samples} times: the 95 % interval holds the AP of all in "
        f"{held[0] / samples:.0%}, percentiles would in {held[1] / samples:.0%}"
    )


def excerpt(truth: Truth, found: Detections, images: np.ndarray) -> tuple[Truth, Detections]:
    """The boxes and detections of some images."""
    number = np.full(truth.num_images, -1)
    number[images] = np.arange(len(images))
    here, there = number[truth.image] >= 0, number[found.image] >= 0
    fields = (truth.label, truth.box, truth.ignored, truth.area)
    boxes = Truth(number[truth.image[here]], *(x[here] for x in fields), len(images), truth.num_classes)
    return boxes, Detections(number[found.image[there]], *(x[there] for x in (found.label, found.score, found.box)))


def random_problem(images: int, classes: int, boxes: int, found: int, *, ignored: float) -> tuple[Truth, Detections]:
    """Boxes XYWH of skewed classes; a third of the detections lies around boxes, the others anywhere, scored low."""
    draw = np.random.default_rng(0)

    def labels(num: int) -> np.ndarray:
        return np.minimum(draw.geometric(0.02 + 3 / classes, size=num) - 1, draw.integers(classes, size=num))

    image, label = draw.integers(images, size=boxes), labels(boxes)
    size = np.exp(draw.uniform(np.log(8), np.log(400), size=(boxes, 2)))
    box = np.round(np.hstack([draw.random((boxes, 2)) * (SIDE - size), size]), 2)
    truth = Truth(image, label, box, draw.random(boxes) < ignored, box[:, 2:].prod(axis=1) * 0.7, images, classes)
    near, of = draw.random(found) < 1 / 3, draw.integers(boxes, size=found)
    around = np.hstack([box[:, :2], box[:, :2] + box[:, 2:]])[of]
    around += draw.normal(0, 0.1, size=(found, 4)) * np.tile(box[of, 2:], 2)
    anywhere = np.sort(draw.random((found, 2, 2)) * SIDE, axis=1).reshape(-1, 4)
    xyxy = np.sort(np.where(near[:, None], around, anywhere).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    detected = np.where(near, image[of], draw.integers(images, size=found))
    score = np.where(near, draw.beta(3, 2, size=found), draw.beta(1, 6, size=found))
    order = np.argsort(detected, kind="stable")
    fields = detected, np.where(near, label[of], labels(found)), score.astype(np.float32), xyxy.astype(np.float32)
    return truth, Detections(*(field[order] for field in fields))


def pycocotools(truth: Truth, found: Detections) -> tuple[float, dict[str, float]]:
    """Seconds of evaluate, accumulate and summarize, and the metrics."""
    sizes = found.box.copy()
    sizes[:, 2:] -= sizes[:, :2]
    objects = zip(*(x.tolist() for x in (truth.image, truth.label, truth.box, truth.area, truth.ignored)), strict=True)
    results = zip(*(x.tolist() for x in (found.image, found.label, sizes, found.score)), strict=True)
    api = COCO()
    api.dataset = {
        "images": [{"id": each} for each in range(truth.num_images)],
        "categories": [{"id": each} for each in range(truth.num_classes)],
        "annotations": [
            {"id": 1 + n, "image_id": i, "category_id": k, "bbox": box, "area": area, "iscrowd": int(crowd)}
            for n, (i, k, box, area, crowd) in enumerate(objects)
        ],
    }
    keys = ("image_id", "category_id", "bbox", "score")
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
        evaluation = COCOeval(api, api.loadRes([dict(zip(keys, each, strict=True)) for each in results]), "bbox")
        started = time.perf_counter()
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        seconds = time.perf_counter() - started
    return seconds, dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), evaluation.stats, strict=False))


def detectron2_voc(truth: Truth, found: Detections) -> tuple[float, dict[str, float]]:
    """Seconds of its evaluate, the XML files being in its cache, and the metrics."""
    names = [f"{each:06d}" for each in range(truth.num_images)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ImageSets/Main").mkdir(parents=True)
        (folder / "Annotations").mkdir()
        (folder / "ImageSets/Main/test.txt").write_text("\n".join(names))
        register_pascal_voc(name, name, "test", 2007, [f"class{each}" for each in range(truth.num_classes)])
        evaluator = PascalVOCDetectionEvaluator(name)
        evaluator.reset()
        bounds = np.searchsorted(found.image, np.arange(truth.num_images + 1))
        for image, each in enumerate(names):
            path = folder / f"Annotations/{each}.xml"
            path.write_text(annotation(truth, np.flatnonzero(truth.image == image)))
            parse_rec(str(path))
            evaluator.process([{"image_id": each}], [{"instances": instances(found, *bounds[image : image + 2])}])
        started = time.perf_counter()
        metrics = evaluator.evaluate()["bbox"]
        seconds = time.perf_counter() - started
        DatasetCatalog.remove(name)
    return seconds, {key: value / 100 for key, value in metrics.items()}


def annotation(truth: Truth, rows: np.ndarray) -> str:
    """An image's XML."""
    objects = []
    for row in rows:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), truth.box[row].astype(int), strict=True)
        box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
        facts = f"<name>class{truth.label[row]}</name><pose/><truncated>0</truncated>"
        difficult = f"<difficult>{int(truth.ignored[row])}</difficult>"
        objects.append(f"<object>{facts}{difficult}<bndbox>{box}</bndbox></object>")
    return f"<annotation>{''.join(objects)}</annotation>"


def instances(found: Detections, low: int, high: int) -> Instances:
    """An image's detections."""
    made = Instances((SIDE, SIDE))
    made.pred_boxes = Boxes(torch.from_numpy(found.box[low:high]))
    made.scores = torch.from_numpy(found.score[low:high])
    made.pred_classes = torch.from_numpy(found.label[low:high])
    return made


if __name__ == "__main__":
    main()
