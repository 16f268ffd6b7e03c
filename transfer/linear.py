"""Linear and k-NN accuracy of frozen features: python transfer/linear.py [--all | --dataset NAME ...] [--ckpt ...]."""

import sys
from pathlib import Path

if not __package__:  # started by path: import this checkout, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence

from rich.console import Console

from converters import distributed
from converters.devices import explained_lack_of_memory
from converters.distributed import Ranks
from converters.errors import ArgumentParser, InputError, reports_input_errors
from converters.reading import add_reading_arguments, request_from
from transfer import logistic, tasks
from transfer.cells import record
from transfer.plan import (
    DATA_ROOT,
    Cell,
    Failures,
    Planned,
    divide,
    plan_tasks,
    protocol_of,
    requested_tasks,
    share_features,
    solver_of,
)
from transfer.protocols import ERICSSON, PROTOCOLS
from transfer.representations import (
    Representation,
    check_size,
    newest_checkpoint,
    random_initialisation,
    raw_pixels,
    trained,
)
from transfer.results import Result, append, read
from transfer.subjects import Subject
from transfer.tables import print_comparisons, print_plan, print_results, print_tasks
from transfer.verification import Comparison, compare, published_decays

_ONLY_FOR = {
    "logistic": ("protocol", "verify", "solver", "solver_memory", "knn"),
    "sgd": ("cached", "accumulate", "opts"),
}


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
    parser.add_argument("--data-root", type=Path, default=DATA_ROOT, help="folder that holds the data sets")
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
    failures = Failures(ranks)
    names, absent = requested_tasks(args, console)
    representations = list(_representations(args, ranks))
    plan = plan_tasks(names, args, ranks, failures)
    for each, representation in itertools.product(plan, representations):
        check_size(representation, each.size, "--opts size=null" if args.probe == "sgd" else "--protocol native")
    if args.verify:
        _check_verification(args, plan, representations)
    path = args.output / "results.jsonl"
    print_plan(console, [(each.task, each.evaluations) for each in plan], representations, path)
    if args.dry_run or not plan:
        return failures.exit_code
    results, cells = divide(plan, representations, _open_output(path, console), args, ranks)
    if ranks.world_size > 1 and args.probe == "logistic":
        cells = share_features(cells, failures)
        distributed.leave()
        if not ranks.is_main:
            return 0
    for cell in cells:
        try:
            results += _measure(cell, path, console)
        except InputError as error:
            if cell.subject.ranks.world_size > 1:  # the others would wait for this process in vain
                raise
            failures.add(cell.name, error)
    print_results(console, [each.task for each in plan], results)
    if args.verify:
        print_comparisons(console, args.verify, _comparisons(plan, representations[0], results, args, ranks))
    if absent:
        raise InputError(
            f"{len(absent)} of the {len(tasks.benchmark())} data sets have no number, since they are not below "
            f"{args.data_root}: {', '.join(absent)}; --tasks says where they come from"
        )
    return failures.exit_code


def _representations(args: argparse.Namespace, ranks: Ranks) -> Iterator[Representation]:
    request = request_from(args)
    if args.pixels:
        yield raw_pixels()
    for name in args.ckpt or ([] if args.pixels else [str(newest_checkpoint(Path("runs")))]):
        if name.startswith("random:"):
            yield random_initialisation(name.removeprefix("random:"), args.seed, ranks.device)
        else:
            yield trained(Path(name), request)


def _check_verification(
    args: argparse.Namespace, plan: Sequence[Planned], representations: Sequence[Representation]
) -> None:
    published = published_decays(args.verify)
    unknown_names = [each.task.name for each in plan if each.task.name not in published]
    protocols = {protocol_of(each.task.name, args) for each in plan}
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


def _measure(cell: Cell, path: Path, console: Console) -> list[Result]:
    """Every missing number of a cell, appended to the results as soon as it is there."""
    subject, results = cell.subject, []
    for evaluation in cell.missing:
        started = time.monotonic()
        with explained_lack_of_memory("lower --solver-memory or --workers"):
            outcome = evaluation.run(subject)
        if not subject.ranks.is_main:
            continue
        numbers = record(subject, evaluation, outcome, path.parent, time.monotonic() - started)
        append(numbers, path)
        results += numbers
        values = ", ".join(f"{number.metric} {100 * number.value:.1f}" for number in numbers)
        console.print(f"{cell.name}, {evaluation.protocol}: {values} ({numbers[0].seconds:.0f} s)", markup=False)
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
        solver = solver_of(each.task, ERICSSON, args, ranks)
        wanted = "linear", each.task.name, each.task.metric
        own = [result for result in results if (result.task, result.dataset, result.metric) == wanted]
        yield from (compare(subject, ERICSSON, solver, result, published[each.task.name]) for result in own[:1])


if __name__ == "__main__":
    raise SystemExit(main())
