"""The seconds of a report of 10,000 result lines of 50 checkpoints, by stage, with details as large as real ones.

Then those of a comparison of two methods on ten data sets, five seeds each, from stored predictions.
Run by `make bench`, or by itself: python tests/benchmarks/report.py
"""

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from transfer import tasks
from transfer.logistic import WEIGHT_DECAYS
from transfer.published import read_published
from transfer.report_comparison import compare_rows
from transfer.report_figures import draw_figures
from transfer.report_formats import FORMATS, grid_of, published_grid
from transfer.report_page import Content, render
from transfer.report_provenance import provenance_of
from transfer.report_published import beside_published
from transfer.report_records import read_records
from transfer.report_rows import rows_of
from transfer.report_tables import Material, build_tables
from transfer.results import Result, append, current_versions

METHODS, SEEDS, RUN_SEEDS = 10, 5, 5  # 50 checkpoints
IMAGES = 8000  # of a test set, as CIFAR's or Food's
CHANCE = 0.1
T = TypeVar("T")


class Clock:
    """Prints what each stage takes."""

    def __init__(self) -> None:
        self.total = 0.0

    def __call__(self, name: str, stage: Callable[[], T]) -> T:
        """Run a stage."""
        started = time.perf_counter()
        result = stage()
        taken = time.perf_counter() - started
        self.total += taken
        print(f"  {name:<12} {taken:6.2f} s", flush=True)
        return result


def main() -> None:
    """Print the seconds of every stage."""
    with tempfile.TemporaryDirectory() as name:
        runs, output = Path(name) / "runs", Path(name) / "report"
        write(runs)
        size = sum(path.stat().st_size for path in runs.rglob("*.jsonl")) / 2**20
        lines = sum(len(path.read_bytes().splitlines()) for path in runs.rglob("*.jsonl"))
        print(f"{lines} result lines of {METHODS * SEEDS} checkpoints, {size:.0f} MiB")
        report(runs, output)


def report(runs: Path, output: Path) -> None:
    """What the command does, in its order."""
    clock = Clock()
    read = clock("reading", lambda: read_records([runs]))
    rows, told = clock("rows", lambda: rows_of(read.records))
    published = clock("published", read_published)
    tables = clock("tables", lambda: build_tables(Material(rows, read.contradicting, published)))
    grids = clock("grids", lambda: [grid_of(table) for table in tables])
    besides = clock("besides", lambda: beside_published(rows, published))
    figures, absent = clock("figures", lambda: draw_figures(rows, [], output.parent))
    provenance = clock("provenance", lambda: provenance_of(rows))
    facts: dict[str, Any] = {"summary": "", "problems": (*read.problems, *told), "comparison": None}
    facts |= {"tables": tuple(grids), "figures": tuple(figures), "absent": tuple(absent), "besides": tuple(besides)}
    page = clock("page", lambda: render(Content(**facts, provenance=provenance, files=())))
    everything = [*grids, published_grid(besides)]
    texts = clock("formats", lambda: [form(grid) for grid in everything for form in FORMATS.values()])
    size = len(page) / 2**20
    print(f"  {'all':<12} {clock.total:6.2f} s; {len(rows)} rows, {len(texts)} files, page of {size:.1f} MiB")
    paired = clock("comparison", lambda: compare_rows(rows[0], rows[1], lambda line: None))
    print(f"  on {len(paired.tasks)} tasks of {IMAGES} images, {SEEDS} seeds each")


def write(runs: Path) -> None:
    """A folder for each checkpoint, with its results; predictions of two methods."""
    draw = np.random.default_rng(0)
    truths = {name: draw.integers(10, size=IMAGES) for name in tasks.benchmark()}
    for method, seed in product(range(METHODS), range(SEEDS)):
        folder = runs / f"method{method}-{seed}"
        (folder / "predictions").mkdir(parents=True)
        results = list(of_checkpoint(method, seed, draw))
        if method < 2:
            results = [stored(each, folder, truths, draw) for each in results]
        append(results, folder / "results.jsonl")


def stored(result: Result, folder: Path, truths: Mapping[str, Any], draw: np.random.Generator) -> Result:
    """With predictions, where it is a number of logistic regression that a comparison uses."""
    if (result.task, result.protocol) != ("linear", "native-path") or result.metric != "accuracy":
        return result
    labels = truths[result.dataset]
    predicted = np.where(draw.random(IMAGES) < result.value, labels, (labels + 1) % 10)
    np.savez_compressed(folder / result.details["predictions"], labels=labels, predicted=predicted)
    return Result(**{**vars(result), "value": float(np.mean(labels == predicted))})


def of_checkpoint(method: int, seed: int, draw: np.random.Generator) -> Iterator[Result]:
    """200 numbers: logistic regression by two protocols, k-NN, and runs of the probe and of both dense tasks."""
    for name in tasks.benchmark():
        for protocol, metric in product(("native-path", "ericsson-path"), ("accuracy", "calibration_error")):
            yield line(method, seed, "linear", name, protocol, metric, draw, sweep(draw))
        for protocol in ("native, 20-NN majority", "native, 200-NN weighted"):
            yield line(method, seed, "knn", name, protocol, "accuracy", draw, {})
    for run in range(RUN_SEEDS):
        history = {"run_seed": run, "accuracy": draw.random(100).tolist(), "loss": draw.random(100).tolist()}
        for name, metric in product(("cifar10", "cifar100"), ("accuracy", "best_accuracy")):
            yield line(method, seed, "probe", name, "imagenet", metric, draw, history)
        classes = {f"class {index}": value for index, value in enumerate(draw.random(80).tolist())}
        proof = [f"layer {index}: bit-identical after the first step" for index in range(60)]
        details = {"run_seed": run, "per_class": classes, "proof": proof, "iterations": 24000}
        for name, metric in product(("voc_2007", "coco_2017"), ("AP", "AP50", "AP75", "APs", "APm", "APl")):
            yield line(method, seed, "detection", name, "published", metric, draw, details)
        for name, metric in product(("ade20k", "cityscapes"), ("mIoU", "aAcc", "mAcc", "boundary")):
            yield line(method, seed, "segmentation", name, "published", metric, draw, details)
    for index in range(20):
        yield line(method, seed, "knn", f"further {index}", "native, 20-NN majority", "accuracy", draw, {})


def line(
    method: int,
    seed: int,
    task: str,
    dataset: str,
    protocol: str,
    metric: str,
    draw: np.random.Generator,
    found: dict[str, Any],
) -> Result:
    """A number with the details that a real one has."""
    value = CHANCE + 0.05 * method + 0.02 * float(draw.random())
    settings = {"name": protocol, "task": task, "weight_decays": [f"{each:g}" for each in WEIGHT_DECAYS]}
    settings |= {
        f"setting {index}": "as in the published procedure, unless the data set says otherwise" for index in range(12)
    }
    sha256 = hashlib.sha256(f"{method} {seed}".encode()).hexdigest()
    source = {"arch": "resnet50", "method": f"method{method}", "branch": "online", "dataset": "imagenet", "epochs": 200}
    source |= {"seed": seed, "sha256": None, "version": "0.1.0", "batch_size": 256, "recipe": f"recipe{method:06d}"}
    machine = {"device": f"gpu {seed}", "processor": "a processor", "cores": 64, "threads": 16, "system": "Linux"}
    details = {
        **{"settings": settings, "data": hashlib.sha256(dataset.encode()).hexdigest()[:12], "machine": machine},
        **{"predictions": f"predictions/{dataset}.npz", "cell": sha256[:12], "metrics": [metric]},
        **{"command": f"python transfer/{task}.py --ckpt runs/method{method}/checkpoint.safetensors", "processes": 8},
        **{"reading": "own, resnet50, online", "origin": "own, online, by its metadata", "source": source},
        **{"file": f"runs/method{method}-{seed}/checkpoint.safetensors", **found},
    }
    hashed = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    label = f"method{method}, resnet50, 200 epochs of imagenet"
    measured = "share", IMAGES, (value - 0.01, value + 0.01), label, sha256, seed, details, 100.0, current_versions()
    return Result(task, dataset, "test", protocol, hashed, metric, value, *measured)


def sweep(draw: np.random.Generator) -> dict[str, Any]:
    """What logistic regression says of its path."""
    number = len(WEIGHT_DECAYS)
    path = {"gradient_norms": draw.random(number).tolist(), "iterations": [9] * number, "converged": [True] * number}
    return {"weight_decay": 1.0, "validation_scores": draw.random(number).tolist(), "sweep": path, "final_fit": path}


if __name__ == "__main__":
    main()
