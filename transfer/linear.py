"""Linear and k-NN accuracy of frozen features: python transfer/linear.py [--dataset NAME ...] [--ckpt FILE ...]."""

import sys
from pathlib import Path

if not __package__:  # started by path: import this checkout, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from converters.devices import find_device
from converters.errors import ArgumentParser, InputError, reports_input_errors, unknown
from converters.images import LabelledImages
from converters.neighbours import knn_predict
from converters.reading import add_reading_arguments, request_from
from transfer import decay_path, logistic, tasks
from transfer.features import Features
from transfer.metrics import Labels, accuracy, balanced_accuracy, bootstrap_interval
from transfer.representations import Representation, newest_checkpoint, random_initialisation, raw_pixels, trained
from transfer.results import Result, append, current_versions, protocol_hash
from transfer.tasks import Neighbours

_COMMON_PROTOCOL = {
    "objective": "sum of cross-entropy + wd/2 |w|^2, intercept unpenalised",
    "weight_decays": [f"{decay:.6g}" for decay in logistic.WEIGHT_DECAYS],
    "ties": "to the smallest decay",
    "validation": [logistic.VALIDATION_SHARE, logistic.VALIDATION_SEED],
    "features": "pooled; images at the training views' size",
    "controls": "pixels at 32 px; random initialisation at the images' own size, batch norm calibrated on them",
}
_SOLVER_PROTOCOLS = {
    "path": {
        "solver": ["L-BFGS along the path", decay_path.TOLERANCE, decay_path.MAX_ITERATIONS],
        "order": "from the strongest decay on; refit likewise, ten times the iterations",
    },
    "sklearn": {
        "solver": [logistic.SKLEARN_SOLVER, logistic.SKLEARN_TOLERANCE, decay_path.MAX_ITERATIONS],
        "order": "from the weakest decay on, warm start; refit from zero, ten times the iterations",
    },
}


@reports_input_errors
def main() -> int:
    """Run the command; returns its exit code: 0, or 2 for a user's mistake."""
    args = _parse()
    if args.data_root and len(args.dataset) > 1:
        raise InputError(f"--data-root is the folder of one data set, got {len(args.dataset)}; run them one by one")
    if args.tasks:
        _print_tasks(args.data_root or Path("data"))
        return 0
    modules = {name: _find(name) for name in args.dataset}
    representations = list(_representations(args))
    loaded = {name: _load(name, module, args.data_root) for name, module in modules.items()}
    output = args.output / "results.jsonl"
    console = Console(highlight=False, soft_wrap=True)
    for name, (train, test) in loaded.items():
        _print_plan(console, name, train, test, representations, output, args.solver)
    if args.dry_run:
        return 0
    _open_output(args.output)
    for name, (train, test) in loaded.items():
        rows = [_evaluate(name, modules[name].KNN, train, test, each, output, args.solver) for each in representations]
        _print_table(console, name, test, rows)
    return 0


def _parse() -> argparse.Namespace:
    parser = ArgumentParser(description="Linear and k-NN accuracy of frozen features.")
    parser.add_argument("--dataset", nargs="+", default=["sample"], help=f"any of: {', '.join(tasks.in_memory())}")
    parser.add_argument(
        "--ckpt", nargs="+", help="checkpoints of any origin, or random:ARCH for a random initialisation"
    )
    add_reading_arguments(parser)
    parser.add_argument("--pixels", action="store_true", help="also evaluate the images themselves")
    parser.add_argument("--data-root", type=Path, help="folder of the data set (default: where it usually lies)")
    parser.add_argument("--output", type=Path, default=Path("runs/linear"), help="folder of results.jsonl")
    parser.add_argument("--seed", type=int, default=0, help="of random:ARCH")
    parser.add_argument("--solver", default="path", choices=logistic.SOLVERS, help="sklearn: the published procedure")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument(
        "--tasks", action="store_true", help="print which sets of the linear-transfer benchmark are there"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, write nothing")
    return parser.parse_args()


def _find(name: str) -> ModuleType:
    if name not in tasks.in_memory():
        raise unknown("data set", name, tasks.in_memory())
    return tasks.find(name)


def _print_tasks(root: Path) -> None:
    table = Table(title=f"linear-transfer benchmark (Ericsson et al. 2021), below {root}/", title_justify="left")
    for header in ("task", "classes", "train", "val", "test", "metric", ""):
        table.add_column(header)
    missing: list[str] = []
    for name in tasks.benchmark():
        module = tasks.find(name)
        sizes = ["a fifth of train" if size is None else str(size) for size in module.SIZES]
        found = tasks.found(name, root)
        table.add_row(name, *sizes, module.METRIC, "found" if found else "not found")
        if not found:
            missing.append(f"{name}: expected {root / tasks.expected(name)} (source: {module.WHERE})")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table, soft_wrap=False)
    console.print("\n".join(missing), markup=False)


def _representations(args: argparse.Namespace) -> Iterator[Representation]:
    device, request = find_device(args.device), request_from(args)
    if args.pixels:
        yield raw_pixels()
    for name in args.ckpt or ([] if args.pixels else [str(newest_checkpoint(Path("runs")))]):
        if name.startswith("random:"):
            yield random_initialisation(name.removeprefix("random:"), args.seed, device)
        else:
            yield trained(Path(name), request, device)


def _load(name: str, module: ModuleType, root: Path | None) -> tuple[LabelledImages, LabelledImages]:
    train, test = module.load(root)
    most = max(neighbours.k for neighbours in module.KNN)
    if most > len(train.labels):
        raise InputError(f"{name}: expected at least {most} training images for {most}-NN, got {len(train.labels)}")
    return train, test


def _linear_protocol(solver: str) -> dict[str, Any]:
    return {**_COMMON_PROTOCOL, **_SOLVER_PROTOCOLS[solver]}


def _open_output(folder: Path) -> None:
    """Refuse a folder that cannot be written before anything is computed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.jsonl").open("a").close()
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; choose another --output") from error


def _evaluate(
    dataset: str,
    neighbours: tuple[Neighbours, ...],
    train: LabelledImages,
    test: LabelledImages,
    representation: Representation,
    output: Path,
    solver: str,
) -> list[Result]:
    """Every number of one representation on one data set, appended to the results as soon as they are there."""
    started = time.monotonic()
    train_features, test_features = representation.features(train, test)
    features_seconds = time.monotonic() - started
    labels, test_labels = train.labels.numpy(), test.labels.numpy()

    def result(
        task: str, protocol: str, settings: dict[str, Any], metric: str, predicted: Labels, **more: Any
    ) -> Result:
        function = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy}[metric]
        return Result(
            task=task,
            dataset=dataset,
            split="test",
            protocol=protocol,
            protocol_hash=protocol_hash(settings),
            metric=metric,
            value=function(test_labels, predicted),
            unit="share",
            num_examples=len(test_labels),
            interval=bootstrap_interval(function, test_labels, predicted),
            representation=representation.label,
            checkpoint_sha256=representation.sha256,
            seed=representation.seed,
            details=more,
            seconds=round(features_seconds + time.monotonic() - started, 2),
            versions=current_versions(),
        )

    started = time.monotonic()
    fit = logistic.fit_and_predict(train_features, labels, test_features, solver=solver)
    details = {
        "weight_decay": fit.weight_decay,
        "validation_accuracy": fit.validation_accuracy,
        "unconverged_fits": fit.num_unconverged,
        "final_fit_converged": fit.converged,
    }
    results = [
        result("linear", f"logistic-{solver}", _linear_protocol(solver), metric, fit.predicted, **details)
        for metric in ("accuracy", "balanced_accuracy")
    ]
    for setting in neighbours:
        started = time.monotonic()
        predicted = _neighbours(train_features, labels, test_features, len(train.classes), *setting)
        settings = {**setting._asdict(), "similarity": "cosine"}
        results.append(result("knn", _knn_name(setting), settings, "accuracy", predicted))
    append(results, output)
    return results


def _neighbours(
    train: Features, labels: Labels, test: Features, num_classes: int, k: int, temperature: float | None
) -> Labels:
    queries, bank, classes = torch.from_numpy(test), torch.from_numpy(train), torch.from_numpy(labels)
    predicted: Labels = knn_predict(queries, bank, classes, num_classes, k, temperature).numpy()
    return predicted


def _knn_name(setting: Neighbours) -> str:
    vote = "majority" if setting.temperature is None else f"t {setting.temperature:g}"
    return f"{setting.k}-NN {vote}"


def _print_plan(
    console: Console,
    name: str,
    train: LabelledImages,
    test: LabelledImages,
    representations: list[Representation],
    output: Path,
    solver: str,
) -> None:
    protocol = f"logistic-{solver} ({protocol_hash(_linear_protocol(solver))})"
    console.print(f"{name}: {len(train.labels)} training and {len(test.labels)} test images, {protocol}, to {output}")
    for representation in representations:
        file = f": {representation.path}, sha256 {representation.sha256[:12]}" if representation.sha256 else ""
        console.print(f"  {representation.label}{file}", markup=False)
        if representation.origin:
            console.print(f"    read as {representation.origin}", markup=False)


def _print_table(console: Console, name: str, test: LabelledImages, rows: list[list[Result]]) -> None:
    title = f"{name}, per cent of {len(test.labels)} test images [95 % interval]"
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column(overflow="fold")
    headers = {"accuracy": "linear", "balanced_accuracy": "linear, balanced"}
    for result in rows[0]:
        table.add_column(headers[result.metric] if result.task == "linear" else result.protocol, no_wrap=True)
    for row in rows:
        table.add_row(row[0].representation, *map(_cell, row))
    console.print(table, soft_wrap=False)
    chance = np.bincount(test.labels.numpy()).max() / len(test.labels)
    console.print(f"Always naming the most frequent class scores {100 * chance:.1f}.")
    for row in rows:
        _print_convergence(console, row[0])
    if name == "sample":
        console.print("The sample says that the pipeline works; it says nothing about any other data.")


def _print_convergence(console: Console, result: Result) -> None:
    unconverged, final = result.details["unconverged_fits"], result.details["final_fit_converged"]
    if unconverged or not final:
        of_all = f"{unconverged} of {len(logistic.WEIGHT_DECAYS)} fits of the sweep"
        end = "" if final else " and the final fit"
        console.print(f"Not converged for {result.representation}: {of_all}{end}.")


def _cell(result: Result) -> str:
    low, high = result.interval
    return f"{100 * result.value:.1f}\n[{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    raise SystemExit(main())
