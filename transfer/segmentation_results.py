"""The numbers of a segmentation run: as result lines, each once, and as tables."""

import csv
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from converters.checkpoint import atomic_write
from transfer.interval_table import print_intervals
from transfer.results import Result, circumstances, current_versions, protocol_hash
from transfer.segmentation_files import CLASSES, CONFUSIONS, CURVES, PICTURE, RESULTS
from transfer.segmentation_metrics import Confusions
from transfer.segmentation_packages import find_mmsegmentation
from transfer.segmentation_plan import Run
from transfer.training_folder import IDENTITY, read_proof

_MOST_ROWS = 20  # of classes on a terminal


def place(this: Run, iterations: int) -> Path:
    """Where a validation goes, within the run's folder: its last one into it, any other one below it.

    Other ones are those of an unfinished training, and those in another way than the run was started with.

    Args:
        this: the run.
        iterations: that the segmentor was trained for.
    """
    started = json.loads((this.output / IDENTITY).read_text(encoding="utf-8"))
    same = started["test_dataloader"] == this.identity["test_dataloader"]
    whole = iterations == this.plan.iterations
    return Path() if same and whole else Path(f"validation-{protocol_hash(this.named(iterations)[1])}")


def results(this: Run, confusions: Confusions, iterations: int, started: float) -> Iterator[Result]:
    """The numbers of the validation images.

    Args:
        this: the run.
        confusions: of these images.
        iterations: that the segmentor was trained for.
        started: when the test began, on the monotonic clock.
    """
    values, intervals, majority = confusions.values(), confusions.intervals(), confusions.majority()
    protocol, settings = this.named(iterations)
    labels = this.data.validation
    representation = this.weights.representation
    details = {
        "iterations": iterations,
        "images_seen": iterations * this.plan.batch_size,
        "run_seed": this.args.seed,
        **circumstances(this.ranks.device),
        "processes": this.processes,
        "cfg_options": this.args.cfg_options,
        "settings": settings,
        "data": [each.fingerprint for each in (this.data.train, this.data.validation)],
        "confusions": str(place(this, iterations) / CONFUSIONS),
        "proof": read_proof(this.output),
        **representation.provenance,
    }
    classes = {name: [_json(iou), _json(acc)] for name, (iou, acc) in _per_class(this, confusions)}
    for metric, value in values.items():
        yield Result(
            task="segmentation",
            dataset=labels.name,
            split=labels.split,
            protocol=protocol,
            protocol_hash=protocol_hash(settings),
            metric=metric,
            value=value,
            unit="share",
            num_examples=len(labels.names),
            interval=intervals[metric],
            representation=representation.label,
            checkpoint_sha256=representation.sha256,
            seed=representation.seed,
            details={
                **details,
                "majority": majority[metric],
                **({"per_class_iou_accuracy": classes} if metric == "mIoU" else {}),
            },
            seconds=round(time.monotonic() - started, 2),
            versions={**current_versions(), **find_mmsegmentation()},
        )


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value


def _per_class(this: Run, confusions: Confusions) -> list[tuple[str, tuple[float, float]]]:
    rows = confusions.per_class().tolist()
    return [(name, (iou, acc)) for name, (iou, acc) in zip(this.data.validation.classes, rows, strict=True)]


def write_classes(this: Run, confusions: Confusions, path: Path) -> None:
    """The table of classes as CSV: share of the labelled pixels, IoU and accuracy; empty where a class is absent."""
    pixels = this.data.validation.pixels[1:]
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("class", "share_of_pixels", "iou", "accuracy"))
        for count, (name, values) in zip(pixels.tolist(), _per_class(this, confusions), strict=True):
            rows.writerow((name, f"{count / pixels.sum():.6f}", *("" if math.isnan(x) else f"{x:.6f}" for x in values)))


def print_results(this: Run, numbers: list[Result], confusions: Confusions) -> None:
    """The numbers beside those of the most frequent class everywhere, and the classes where they are few.

    Args:
        this: the run.
        numbers: of one validation.
        confusions: of the same.
    """
    say = this.console.print
    print_intervals(this.console, numbers)
    majority = ", ".join(f"{name} {100 * value:.1f}" for name, value in confusions.majority().items())
    say(f"the most frequent class everywhere: {majority}")
    rows = _per_class(this, confusions)
    if len(rows) <= _MOST_ROWS:
        table = Table()
        for header in ("class", "IoU", "accuracy"):
            table.add_column(header, justify="left" if header == "class" else "right")
        for name, values in rows:
            table.add_row(name, *("-" if math.isnan(value) else f"{100 * value:.1f}" for value in values))
        say(table, soft_wrap=False)
    below = this.output / place(this, numbers[0].details["iterations"])
    say(f"in {below}: {CLASSES}, {CONFUSIONS}, {PICTURE}; in {this.output}: {RESULTS}, {CURVES}", markup=False)
