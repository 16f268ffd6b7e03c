"""The numbers of a detection run: as result lines, each once, and as a table."""

import math
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from converters.targets import quiet
from transfer.detection_boxes import BoxSet
from transfer.detection_curves import Matches
from transfer.detection_plan import Run
from transfer.interval_table import print_intervals
from transfer.results import Result, circumstances, current_versions, protocol_hash
from transfer.training_folder import read_proof

with quiet():
    import detectron2

RESULTS = "results.jsonl"


def results(this: Run, boxes: BoxSet, matches: Matches, iterations: int, started: float) -> Iterator[Result]:
    """The numbers of a test set.

    Args:
        this: the run.
        boxes: the test set.
        matches: of the detections on it.
        iterations: that the detector was trained for.
        started: when its test began, on the monotonic clock.
    """
    values, intervals = matches.values(), matches.intervals()
    classes = {
        name: value
        for name, value in zip(boxes.classes, matches.per_class().tolist(), strict=True)
        if not math.isnan(value)
    }
    protocol, settings = this.named(iterations)
    proof = read_proof(this.output)
    dataset, split = boxes.name.rsplit("_", 1)
    representation = this.weights.representation
    for metric, value in values.items():
        if math.isnan(value):  # no object of this size
            continue
        yield Result(
            task="detection",
            dataset=dataset,
            split=split,
            protocol=protocol,
            protocol_hash=protocol_hash(settings),
            metric=metric,
            value=value,
            unit="share",
            num_examples=len(boxes.dicts),
            interval=intervals[metric],
            representation=representation.label,
            checkpoint_sha256=representation.sha256,
            seed=representation.seed,
            details={
                "rule": "11-point, IoU with whole pixels" if boxes.layout == "voc" else "COCO, 101 points",
                "iterations": iterations,
                "images_seen": iterations * this.config.SOLVER.IMS_PER_BATCH,
                "train": [each.name for each in this.data.train],
                "run_seed": this.args.seed,
                **circumstances(this.ranks.device),
                "processes": this.ranks.world_size,
                "opts": this.args.opts,
                "settings": settings,
                "data": boxes.fingerprint,
                "detections": detections_file(this, boxes, iterations),
                "matches": matches_file(this, boxes, iterations),
                "proof": proof,
                **representation.provenance,
                **({"per_class": classes} if metric == "AP" else {}),
            },
            seconds=round(time.monotonic() - started, 2),
            versions={**current_versions(), "detectron2": _detectron2_version()},
        )


def detections_file(this: Run, boxes: BoxSet, iterations: int) -> str:
    """Name of the file of detections; those of an unfinished run have their own."""
    return f"detections_{_tested(this, boxes, iterations)}.json"


def matches_file(this: Run, boxes: BoxSet, iterations: int) -> str:
    """Name of the file that says which of them are right, from which runs are compared image by image."""
    return f"matches_{_tested(this, boxes, iterations)}.npz"


def _tested(this: Run, boxes: BoxSet, iterations: int) -> str:
    return boxes.name + (f"_{iterations}" if iterations < this.config.SOLVER.MAX_ITER else "")


def print_results(this: Run, numbers: list[Result]) -> None:
    """A row for each number."""
    print_intervals(this.console, numbers)
    this.console.print(f"in {this.output}: {RESULTS}, detections_*.json, detections.png, curves.png", markup=False)


def _detectron2_version() -> str:
    """Upstream's number, and that of the package where it is another's."""
    try:
        return f"{detectron2.__version__} (sal-detectron2 {version('sal-detectron2')})"
    except PackageNotFoundError:
        return str(detectron2.__version__)
