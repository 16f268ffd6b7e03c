"""Linear and k-NN accuracy of frozen features: python transfer/linear.py [--all | --dataset NAME ...] [--ckpt ...]."""

import sys
from pathlib import Path

if not __package__:  # started by path: import this checkout, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from converters import distributed
from converters.devices import free_memory
from converters.distributed import Ranks
from converters.errors import ArgumentParser, InputError, printable, reports_input_errors
from converters.reading import add_reading_arguments, request_from
from transfer import logistic, tasks
from transfer.cells import finished, record
from transfer.evaluation import Evaluation, check_neighbours, logistic_regression, nearest_neighbours, sgd_probe
from transfer.logistic import Solver
from transfer.probe_config import load_probe_config, probe_config_path
from transfer.protocols import ERICSSON, NATIVE, PROTOCOLS, Protocol
from transfer.representations import (
    Representation,
    check_size,
    newest_checkpoint,
    random_initialisation,
    raw_pixels,
    trained,
)
from transfer.results import Result, append, read
from transfer.subjects import Subject, Task, open_task
from transfer.tables import print_comparisons, print_plan, print_results, print_tasks
from transfer.tasks import Neighbours
from transfer.verification import Comparison, compare, published_decays

_GIB = 2**30
_ONLY_FOR = {
    "logistic": ("protocol", "verify", "solver", "solver_memory", "knn"),
    "sgd": ("cached", "accumulate", "opts"),
}


@dataclass(frozen=True)
class Planned:
    """A task, the side of its images (None: of the training views), and how everything is measured on it."""

    task: Task
    size: int | None
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Cell:
    """A subject, with the evaluations whose numbers are not there yet."""

    subject: Subject
    missing: tuple[Evaluation, ...]


@reports_input_errors
def main() -> int:
    """Run the command; returns its exit code: 0 if every requested number is there, 2 for a user's mistake."""
    args = _parse()
    if args.tasks:
        print_tasks(Console(highlight=False, soft_wrap=True), args.data_root)
        return 0
    ranks = distributed.join(args.device)
    try:
        return _run(args, ranks)
    finally:
        distributed.leave()


def _parse() -> argparse.Namespace:
    parser = ArgumentParser(description="Linear and k-NN accuracy of frozen features.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="the ten sets of the linear-transfer benchmark")
    which.add_argument("--dataset", nargs="+", default=["sample"], help=f"any of: {', '.join(tasks.names())}")
    which.add_argument("--tasks", action="store_true", help="print which data sets are there, and do nothing else")
    parser.add_argument(
        "--ckpt", nargs="+", help="checkpoints of any origin, or random:ARCH for a random initialisation"
    )
    add_reading_arguments(parser)
    parser.add_argument("--pixels", action="store_true", help="also evaluate the images themselves")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder that holds the data sets")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="ericsson: the published code, at 224 px; strict: the papers' text; native: at the size of the training "
        "views (default: ericsson for the benchmark's sets, native for others)",
    )
    parser.add_argument(
        "--probe",
        default="logistic",
        choices=("logistic", "sgd"),
        help="sgd: train a layer as configs/linear/sgd_DATASET.yaml says, under torchrun on all processes",
    )
    parser.add_argument("--cached", action="store_true", help="sgd: on features of images without augmentation")
    parser.add_argument("--accumulate", type=int, metavar="N", help="sgd: parts of a batch, to save memory")
    parser.add_argument("--opts", nargs="+", default=[], metavar="key=value", help="sgd: any key of its configuration")
    parser.add_argument("--knn", type=int, metavar="K", help="also K nearest neighbours, by majority vote")
    parser.add_argument(
        "--verify", metavar="NAME", help="compare the chosen weight decays with the published ones of this checkpoint"
    )
    parser.add_argument("--solver", default="path", choices=logistic.SOLVERS, help="sklearn: the published procedure")
    parser.add_argument("--solver-memory", type=float, metavar="GIB", help="that the solver may allocate")
    parser.add_argument("--output", type=Path, default=Path("runs/linear"), help="folder of results and predictions")
    parser.add_argument("--features", type=Path, default=Path("runs/features"), help="folder of remembered features")
    parser.add_argument("--workers", type=int, help="processes that decode images (default: by the number of cores)")
    parser.add_argument("--seed", type=int, default=0, help="of random:ARCH")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, write nothing")
    args = parser.parse_args()
    other = "sgd" if args.probe == "logistic" else "logistic"
    for flag in _ONLY_FOR[other]:
        if getattr(args, flag) != parser.get_default(flag):
            raise InputError(
                f"--{flag.replace('_', '-')} belongs to --probe {other}; leave it out of --probe {args.probe}"
            )
    if args.knn is not None and args.knn < 1:
        raise InputError(f"--knn: expected 1 or more, got {args.knn}")
    if args.solver_memory is not None and not args.solver_memory > 0:
        raise InputError(f"--solver-memory: expected more than 0 GiB, got {args.solver_memory:g}")
    return args


def _run(args: argparse.Namespace, ranks: Ranks) -> int:
    console = Console(highlight=False, soft_wrap=True, quiet=not ranks.is_main)
    names, absent = _requested(args, console)
    representations = list(_representations(args, ranks))
    plan = [_planned(name, args, ranks) for name in names]
    for each, representation in itertools.product(plan, representations):
        check_size(representation, each.size)
    if args.verify:
        _check_verification(args, plan, representations)
    path = args.output / "results.jsonl"
    print_plan(console, [(each.task, each.evaluations) for each in plan], representations, path)
    if args.dry_run:
        return 0
    results, cells = _divide(plan, representations, _open_output(path, console), args, ranks)
    if ranks.world_size > 1 and args.probe == "logistic":
        for cell in cells:
            _ = cell.subject.features  # every process computes its share; the main one does the rest
        distributed.leave()
        if not ranks.is_main:
            return 0
        cells = [replace(cell, subject=cell.subject.alone()) for cell in cells]
    num_failed = 0
    for cell in cells:
        try:
            results += _measure(cell, path, console)
        except InputError as error:
            num_failed += 1
            who = f"{cell.subject.task.name}, {cell.subject.representation.label}"
            print(f"error: {printable(f'{who}: {error}', length=4000)}", file=sys.stderr)
    print_results(console, [each.task for each in plan], results)
    if args.verify:
        print_comparisons(console, args.verify, _comparisons(plan, representations[0], results, args, ranks))
    if absent:
        raise InputError(
            f"{len(absent)} of the {len(tasks.benchmark())} data sets have no number, since they are not below "
            f"{args.data_root}: {', '.join(absent)}; --tasks says where they come from"
        )
    return 2 if num_failed else 0


def _requested(args: argparse.Namespace, console: Console) -> tuple[list[str], list[str]]:
    """The data sets to evaluate, and those that were asked for and are not there."""
    if not args.all:
        return list(dict.fromkeys(args.dataset)), []
    present = [name for name in tasks.benchmark() if tasks.found(name, args.data_root)]
    if present:
        return present, [name for name in tasks.benchmark() if name not in present]
    samples = [name for name in tasks.samples() if tasks.found(name, args.data_root)]
    console.print(
        f"None of the benchmark's ten data sets is below {args.data_root}/ (--tasks says where they come from). "
        f"In their place, SAMPLE TASKS: {', '.join(samples)}.",
        markup=False,
    )
    return samples, []


def _representations(args: argparse.Namespace, ranks: Ranks) -> Iterator[Representation]:
    request = request_from(args)
    if args.pixels:
        yield raw_pixels()
    for name in args.ckpt or ([] if args.pixels else [str(newest_checkpoint(Path("runs")))]):
        if name.startswith("random:"):
            yield random_initialisation(name.removeprefix("random:"), args.seed, ranks.device)
        else:
            yield trained(Path(name), request)


def _planned(name: str, args: argparse.Namespace, ranks: Ranks) -> Planned:
    if args.probe == "sgd":
        config = load_probe_config(probe_config_path(name), _probe_overrides(args))
        evaluation = sgd_probe(name, config, args.output / "probes")
        return Planned(open_task(name, args.data_root, NATIVE), config.size, (evaluation,))
    protocol = _protocol(name, args)
    task = open_task(name, args.data_root, protocol)
    neighbours = [Neighbours(args.knn, None)] if args.knn else []
    if protocol is NATIVE:
        neighbours = list(dict.fromkeys([*getattr(tasks.find(name), "KNN", ()), *neighbours]))
    for setting in neighbours:
        check_neighbours(task, setting)
    linear = logistic_regression(protocol, _solver(task, protocol, args, ranks))
    return Planned(task, protocol.size, (linear, *(nearest_neighbours(protocol, each) for each in neighbours)))


def _probe_overrides(args: argparse.Namespace) -> list[str]:
    flags = {"augment": False if args.cached else None, "accumulate": args.accumulate}
    return [f"{key}={value}" for key, value in flags.items() if value is not None] + list(args.opts)


def _protocol(name: str, args: argparse.Namespace) -> Protocol:
    stands_in = args.all and name not in tasks.benchmark()
    if args.protocol and not stands_in:
        return PROTOCOLS[args.protocol]
    return ERICSSON if name in tasks.benchmark() else NATIVE


def _solver(task: Task, protocol: Protocol, args: argparse.Namespace, ranks: Ranks) -> Solver:
    penalty = protocol.binary_penalty if task.is_multi_label else 1.0
    memory = int(args.solver_memory * _GIB) if args.solver_memory else free_memory(ranks.device)
    return Solver(args.solver, penalty, memory=memory, device=ranks.device)


def _check_verification(
    args: argparse.Namespace, plan: Sequence[Planned], representations: Sequence[Representation]
) -> None:
    published = published_decays(args.verify)
    unknown_names = [each.task.name for each in plan if each.task.name not in published]
    protocols = {_protocol(each.task.name, args) for each in plan}
    if args.probe != "logistic" or len(representations) != 1 or unknown_names or protocols != {ERICSSON}:
        raise InputError("--verify compares one checkpoint on the benchmark's sets by --protocol ericsson")


def _open_output(path: Path, console: Console) -> list[Result]:
    """The results of earlier calls; a folder that cannot be written is refused before anything is computed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise InputError(f"cannot write {path.parent}: {error.strerror}; choose another --output") from error
    results, problems = read(path)
    for problem in problems:
        console.print(f"left out: {problem}", markup=False)
    return results


def _divide(
    plan: Sequence[Planned],
    representations: Sequence[Representation],
    known: Sequence[Result],
    args: argparse.Namespace,
    ranks: Ranks,
) -> tuple[list[Result], list[Cell]]:
    """The numbers that are there already, and the cells that lack some."""
    results, cells = [], []
    for planned, representation in itertools.product(plan, representations):
        subject = Subject(planned.task, representation, planned.size, ranks, args.features, args.workers)
        missing = []
        for evaluation in planned.evaluations:
            numbers = finished(known, subject, evaluation, args.output)
            results += numbers
            missing += [] if numbers else [evaluation]
        if missing:
            cells.append(Cell(subject, tuple(missing)))
    return results, cells


def _measure(cell: Cell, path: Path, console: Console) -> list[Result]:
    """Every missing number of a cell, appended to the results as soon as it is there."""
    subject, results = cell.subject, []
    for evaluation in cell.missing:
        started = time.monotonic()
        outcome = evaluation.run(subject)
        if not subject.ranks.is_main:
            continue
        numbers = record(subject, evaluation, outcome, path.parent, time.monotonic() - started)
        append(numbers, path)
        results += numbers
        values = ", ".join(f"{number.metric} {100 * number.value:.1f}" for number in numbers)
        what = f"{subject.task.name}, {subject.representation.label}, {evaluation.protocol}"
        console.print(f"{what}: {values} ({numbers[0].seconds:.0f} s)", markup=False)
    return results


def _comparisons(
    plan: Sequence[Planned],
    representation: Representation,
    results: Sequence[Result],
    args: argparse.Namespace,
    ranks: Ranks,
) -> Iterator[Comparison]:
    """Our weight decays beside the published ones, for every task that has a number."""
    published = published_decays(args.verify)
    for each in plan:
        subject = Subject(each.task, representation, each.size, ranks, args.features, args.workers).alone()
        solver = _solver(each.task, ERICSSON, args, ranks)
        own = [result for result in results if (result.dataset, result.metric) == (each.task.name, each.task.metric)]
        yield from (compare(subject, ERICSSON, solver, result, published[each.task.name]) for result in own[:1])


if __name__ == "__main__":
    raise SystemExit(main())
