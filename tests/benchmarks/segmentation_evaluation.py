"""Our evaluation of label maps against MMSegmentation's IoUMetric, at the size of ADE20K's validation images.

On random maps; the metrics must be equal. Then the seconds for intervals, and how often intervals hold the values of
the images that the validation images were drawn from.
Run by `make bench`, or by itself: python tests/benchmarks/segmentation_evaluation.py
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from converters.targets import quiet
from transfer.segmentation_metrics import IGNORED, METRICS, Cells, Confusions, confusion

with quiet():
    from mmseg.evaluation.metrics import IoUMetric

HEIGHT, WIDTH, CLASSES = 512, 683, 150  # of ADE20K's usual photo
IMAGES = 2000  # of its validation set
MAPS, ROUNDS = 8, 12
TOLERANCE = 1e-6  # the reference sums in float32
SCENES = 30  # kinds of photos, which differ in the classes they show
PIXELS = HEIGHT * WIDTH


def main() -> None:
    """Print times and ratios."""
    torch.set_num_threads(1)
    compare()
    cells = population(np.random.default_rng(0), IMAGES)[0]
    found = Confusions.of(cells, [f"{each:05}" for each in range(IMAGES)], CLASSES)
    started = time.perf_counter()
    found.intervals()
    once = time.perf_counter() - started
    found.difference(found)
    both = time.perf_counter() - started
    print(
        f"{len(found.count)} cells of {IMAGES} images, 1000 resamples: intervals {once:.2f} s, those of a difference "
        f"{both - once:.2f} s"
    )
    for drawn in (IMAGES, 500):
        coverage(drawn)


def compare() -> None:
    """Print milliseconds per image of both, taken in turns; fail where a metric differs."""
    draw = np.random.default_rng(0)
    samples = [random_sample(draw) for _ in range(MAPS)]
    with quiet():
        metric = IoUMetric()
    metric.dataset_meta = {"classes": [str(each) for each in range(CLASSES)]}
    cells, seconds = list[Cells](), np.zeros((ROUNDS, MAPS, 2))
    for turn in range(ROUNDS):
        cells.clear()
        metric.results.clear()
        for row, sample in enumerate(samples):
            started = time.perf_counter()
            metric.process({}, [sample])
            between = time.perf_counter()
            labels = (sample[key]["data"].squeeze(0).to(torch.uint8).numpy() for key in ("gt_sem_seg", "pred_sem_seg"))
            cells.append(confusion(*labels, CLASSES))
            seconds[turn, row] = between - started, time.perf_counter() - between
    found = IoUMetric.total_area_to_metrics(*(sum(column) for column in zip(*metric.results, strict=True)))
    theirs = np.nanmean(found["IoU"]), found["aAcc"], np.nanmean(found["Acc"])
    ours = Confusions.of(cells, [str(row) for row in range(MAPS)], CLASSES).values()
    worst = np.abs(np.subtract(theirs, list(ours.values()))).max()
    if not worst <= TOLERANCE:
        raise SystemExit(f"expected {theirs}, got {ours}")
    reference, mine = np.median(seconds, axis=(0, 1)) * 1000
    print(
        f"{WIDTH} x {HEIGHT} pixels, {CLASSES} classes: MMSegmentation {reference:.2f} ms per image, ours {mine:.2f} "
        f"ms, {reference / mine:.1f} times as fast; {len(METRICS)} metrics within {worst:.0e}"
    )


def random_sample(draw: np.random.Generator) -> dict[str, dict[str, torch.Tensor]]:
    """Areas of 20 classes, a tenth of them unlabelled, and a prediction that is right in most of them."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centres = draw.random((60, 2)) * (HEIGHT, WIDTH)
    area = np.stack([(y - row) ** 2 + (x - column) ** 2 for row, column in centres]).argmin(0)
    classes = draw.integers(CLASSES, size=20)[draw.integers(20, size=60)]
    wrong = np.where(draw.random(60) < 0.3, draw.integers(CLASSES, size=60), classes)
    truth = np.where(draw.random(60) < 0.1, IGNORED, classes)[area]
    maps = {"gt_sem_seg": truth, "pred_sem_seg": np.roll(wrong[area], 4, axis=1)}
    return {key: {"data": torch.from_numpy(labels.astype(np.int64))[None]} for key, labels in maps.items()}


def population(draw: np.random.Generator, num_images: int) -> tuple[list[Cells], list[Cells]]:
    """What two networks make of images with few frequent and many rare classes.

    Images differ in their kind, which decides about the classes they show, and in how hard they are.
    """
    frequency = (np.arange(CLASSES) + 3.0) ** -1.3
    shows = frequency * draw.gamma(0.3, size=(SCENES, CLASSES)) + 1e-12
    shows /= shows.sum(axis=1, keepdims=True)
    skill = draw.normal(0, 1, size=CLASSES) + np.array([[0.3], [0.0]])
    mistaken = draw.integers(CLASSES, size=(CLASSES, 2))  # a class is taken for one that is alike
    kinds = draw.choice(SCENES, size=num_images, p=draw.dirichlet(np.ones(SCENES)))
    both = [list[Cells](), list[Cells]()]
    for kind in kinds:
        shown = draw.choice(CLASSES, size=min(20, 1 + draw.poisson(8)), replace=False, p=shows[kind])
        pixels = (draw.dirichlet(np.full(len(shown), 0.5)) * PIXELS).astype(np.int64)
        hard = draw.normal(0, 0.8) + draw.normal(0, 0.8, size=len(shown))
        for cells, of_network in zip(both, skill, strict=True):
            ease = of_network[shown] - hard + draw.normal(0, 0.5, size=len(shown))
            right = (pixels / (1 + np.exp(-ease))).astype(np.int64)
            near = ((pixels - right) * draw.random(len(shown))).astype(np.int64)
            alike = mistaken[shown, draw.integers(2, size=len(shown))]
            predicted = np.concatenate([shown, draw.choice(shown, len(shown)), alike])
            count = np.concatenate([right, near, pixels - right - near])
            cells.append(Cells(np.tile(shown, 3).astype(np.uint8), predicted.astype(np.uint8), count))
    return both[0], both[1]


def coverage(drawn: int, samples: int = 500, resamples: int = 300, images: int = 20_000) -> None:
    """Print how many 95 % intervals hold the population's values: ours, and those reflected at the value.

    Ours are basic for mIoU, whose reflected ones are percentiles; all others are percentiles, reflected basic.
    """
    draw = np.random.default_rng(1)
    networks = population(draw, images)
    every, other = (Confusions.of(cells, [""] * images, CLASSES).values() for cells in networks)
    held = {name: np.zeros(4) for name in METRICS}
    for _ in range(samples):
        rows = draw.integers(images, size=drawn)
        found, against = (Confusions.of([cells[row] for row in rows], [""] * drawn, CLASSES) for cells in networks)
        values, intervals = found.values(), found.intervals(resamples=resamples)
        differences = found.difference(against, resamples=resamples)
        for name, counts in held.items():
            between = every[name] - other[name]
            counts[:2] += holds(every[name], values[name], *intervals[name])
            counts[2:] += holds(between, *differences[name])
    print(f"{drawn} images drawn {samples} times, held by 95 % intervals (reflected at the value they would):")
    for name, shares in held.items():
        ours, reflected, of_difference, reflected_difference = shares / samples
        print(
            f"  {name} {every[name]:.3f}: {ours:.0%} ({reflected:.0%}); "
            f"difference {every[name] - other[name]:.3f}: {of_difference:.0%} ({reflected_difference:.0%})"
        )


def holds(true: float, value: float, low: float, high: float) -> tuple[bool, bool]:
    """Whether an interval holds a number, and whether it does when it is reflected at the value."""
    return low <= true <= high, 2 * value - high <= true <= 2 * value - low


if __name__ == "__main__":
    main()
