"""What transfer/linear.py prints: the data sets that are there, the plan, and the numbers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from transfer import tasks
from transfer.cells import unconverged
from transfer.evaluation import Evaluation
from transfer.representations import Representation
from transfer.results import Result
from transfer.subjects import Task
from transfer.verification import Comparison

_METRIC_NAMES = {
    "accuracy": "accuracy",
    "mean_per_class": "mean per class",
    "map_11point": "11-point mAP",
    "best_accuracy": "accuracy, best epoch",
}


def print_tasks(console: Console, root: Path) -> None:
    """Which data sets lie below the data root, and where the others come from."""
    others = [name for name in tasks.names() if name not in tasks.benchmark()]
    missing: list[str] = []
    for title, names in (
        (f"linear-transfer benchmark (Ericsson et al. 2021), below {root}/", tasks.benchmark()),
        ("other data sets", others),
    ):
        table = Table(title=title, title_justify="left")
        for header in ("task", "classes", "train", "val", "test", "metric", ""):
            table.add_column(header)
        for name in names:
            module = tasks.find(name)
            sizes = ["a fifth of train" if size is None else str(size) for size in module.SIZES]
            found = tasks.found(name, root)
            table.add_row(name, *sizes, _METRIC_NAMES[module.METRIC], "found" if found else "not found")
            if not found:
                missing.append(f"{name}: expected {root / tasks.expected(name)} (source: {module.WHERE})")
        console.print(table, soft_wrap=False)
    console.print("\n".join(missing), markup=False)


def print_plan(
    console: Console,
    plan: Sequence[tuple[Task, Sequence[Evaluation]]],
    representations: Sequence[Representation],
    results: Path,
) -> None:
    """What is going to be evaluated, how, and where the numbers go."""
    for task, evaluations in plan:
        splits = task.splits
        val = "" if splits.val is None else f", {len(splits.val)} validation"
        protocols = ", ".join(f"{each.protocol} ({each.protocol_hash})" for each in evaluations)
        sizes = f"{len(splits.train)} training{val} and {len(splits.test)} test images"
        console.print(f"{task.name}: {sizes}; {protocols}", markup=False)
        if task.is_multi_label:
            console.print("  several classes per image: no k-NN")
        for note in splits.notes:
            console.print(f"  {note}", markup=False)
    for representation in representations:
        file = f": {representation.path}, sha256 {representation.sha256[:12]}" if representation.sha256 else ""
        console.print(f"{representation.label}{file}", markup=False)
        if representation.origin:
            console.print(f"  read as {representation.origin}", markup=False)
    console.print(f"to {results}", markup=False)


def print_results(console: Console, plan: Sequence[Task], results: Sequence[Result]) -> None:
    """A row for each number of each protocol, a column for each representation, and what there is to say about them.

    Args:
        console: to print on.
        plan: the tasks, in order.
        results: their numbers; a number that is missing leaves its cell empty.
    """
    title = "per cent of the test images [95 % interval]; ECE: calibration error; chance: the most frequent class"
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("", overflow="fold")
    columns = _columns(results)
    for header in columns.values():
        table.add_column(header, overflow="fold", justify="right")
    calibration = {(r.dataset, r.protocol_hash, _who(r)): r for r in results if r.metric == "calibration_error"}
    for task in plan:
        own = [result for result in results if result.dataset == task.name and result.metric != "calibration_error"]
        for row in dict.fromkeys(_row(result) for result in own):
            cells = {
                _who(result): _cell(result, calibration.get((result.dataset, result.protocol_hash, _who(result))))
                for result in own
                if _row(result) == row
            }
            table.add_row(_row_title(task, row), *(cells.get(who, "") for who in columns))
    console.print(table, soft_wrap=False)
    for result in results:
        if result.task == "linear" and result.metric != "calibration_error" and (what := unconverged(result)):
            console.print(f"Not converged for {result.representation} on {result.dataset}: {what}.", markup=False)
    if any(task.name in tasks.samples() for task in plan):
        console.print("The sample tasks say that the pipeline works; they say nothing about any other data.")


def print_comparisons(console: Console, name: str, comparisons: Iterable[Comparison]) -> None:
    """Our weight decays beside those that were published for a checkpoint, with the scores under both.

    Args:
        console: to print on.
        name: of the checkpoint in the published table.
        comparisons: one for each task.
    """
    table = Table(
        title=f"weight decays, ours and the published ones of {name}; scores in per cent", title_justify="left"
    )
    for header in ("task", "ours", "published", "validation at ours", "at published", "test at ours", "at published"):
        table.add_column(header, justify="left" if header == "task" else "right")
    for each in comparisons:
        scores = (f"{100 * score:.1f}" for score in (*each.validation, *each.test))
        table.add_row(each.task, f"{each.ours:.3g}", f"{each.published:.3g}", *scores)
    console.print(table, soft_wrap=False)
    console.print("The curves are flat: another decay is no mistake, a test score that differs much is one.")


Who = tuple[str, int | None, str | None, str | None]


def _who(result: Result) -> Who:
    return result.representation, result.seed, result.checkpoint_sha256, result.details.get("reading")


def _columns(results: Sequence[Result]) -> dict[Who, str]:
    """Headers by representation: as long as is needed to tell them apart."""
    headers = {}
    for who in dict.fromkeys(map(_who, results)):
        name, seed, sha256, reading = who
        short = name if seed is None else f"{name}, seed {seed}"
        marked = short if sha256 is None else f"{short}, {sha256[:8]}"
        headers[who] = (short, marked, f"{marked}, {reading}")
    for level in range(2):
        names = [header[level] for header in headers.values()]
        if len(set(names)) == len(names):
            return {who: header[level] for who, header in headers.items()}
    return {who: header[2] for who, header in headers.items()}


def _row(result: Result) -> tuple[str, str, str, str, str]:
    return result.dataset, result.task, result.protocol, result.protocol_hash, result.metric


def _row_title(task: Task, row: tuple[str, str, str, str, str]) -> str:
    _, kind, protocol, _, metric = row
    return f"{task.name}: {kind}, {_METRIC_NAMES[metric]}\n{protocol}{_chance(task, metric)}"


def _chance(task: Task, metric: str) -> str:
    """What always naming the most frequent class scores."""
    labels = task.splits.test.labels.numpy()
    if metric == "mean_per_class":
        return f"\nchance {100 / len(task.splits.classes):.1f}"
    return f"\nchance {100 * np.bincount(labels).max() / len(labels):.1f}" if metric == "accuracy" else ""


def _cell(result: Result, calibration: Result | None) -> str:
    low, high = result.interval
    beside = f"\nECE {100 * calibration.value:.1f}" if calibration else ""
    return f"{100 * result.value:.1f}\n[{100 * low:.1f}, {100 * high:.1f}]{beside}"
