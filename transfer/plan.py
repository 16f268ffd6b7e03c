"""What transfer/linear.py is to measure, from the data sets that are there to the cells that lack a number."""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from converters.devices import free_memory
from converters.distributed import Ranks
from converters.errors import InputError, printable
from transfer import tasks
from transfer.cells import finished
from transfer.evaluation import Evaluation, check_neighbours, logistic_regression, nearest_neighbours, sgd_probe
from transfer.logistic import Solver
from transfer.probe_config import load_probe_config, probe_config_path
from transfer.protocols import ERICSSON, NATIVE, PROTOCOLS, Protocol
from transfer.representations import Representation
from transfer.results import Result
from transfer.subjects import Subject, Task, open_task
from transfer.tasks import Neighbours

DATA_ROOT = Path("data")
_GIB = 2**30


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

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.subject.task.name}, {self.subject.representation.label}"


class Failures:
    """Errors that end a task or a cell, and not the run."""

    def __init__(self, ranks: Ranks):
        self._says, self.exit_code = ranks.is_main, 0

    def add(self, what: str, error: InputError) -> None:
        """Print an error as the command would, and remember it for the exit code."""
        self.exit_code = 2
        if self._says:
            print(f"error: {printable(f'{what}: {error}', length=4000)}", file=sys.stderr)


def requested_tasks(args: argparse.Namespace, console: Console) -> tuple[list[str], list[str]]:
    """The data sets to evaluate, and those that were asked for and are not there."""
    if not args.all:
        for name in args.dataset:
            tasks.find(name)
        return list(dict.fromkeys(args.dataset)), []
    absent = [name for name in tasks.benchmark() if not tasks.found(name, args.data_root)]
    if len(absent) < len(tasks.benchmark()):
        return [name for name in tasks.benchmark() if name not in absent], absent
    samples = [name for name in tasks.samples() if tasks.found(name, args.data_root)]
    console.print(
        f"None of the benchmark's ten data sets is below {args.data_root}/ (--tasks says where they come "
        f"from). In their place, SAMPLE TASKS: {', '.join(samples)}.",
        markup=False,
    )
    # who names another folder expects them there
    return samples, absent if args.data_root != DATA_ROOT else []


def plan_tasks(names: Sequence[str], args: argparse.Namespace, ranks: Ranks, failures: Failures) -> list[Planned]:
    """The tasks that can be read; what is wrong with one of several does not end the command."""
    plan = []
    for name in names:
        try:
            plan.append(_planned(name, args, ranks))
        except InputError as error:
            if len(names) == 1:
                raise
            failures.add(name, error)
    return plan


def _planned(name: str, args: argparse.Namespace, ranks: Ranks) -> Planned:
    if args.probe == "sgd":
        config = load_probe_config(probe_config_path(name), _probe_overrides(args))
        evaluation = sgd_probe(name, config, args.output / "probes")
        return Planned(open_task(name, args.data_root, NATIVE), config.size, (evaluation,))
    protocol = protocol_of(name, args)
    task = open_task(name, args.data_root, protocol)
    skips = args.all and task.is_multi_label  # as print_plan says
    neighbours = [Neighbours(args.knn, None)] if args.knn and not skips else []
    if protocol is NATIVE:
        neighbours = list(dict.fromkeys([*getattr(tasks.find(name), "KNN", ()), *neighbours]))
    for setting in neighbours:
        check_neighbours(task, setting)
    linear = logistic_regression(protocol, solver_of(task, protocol, args, ranks))
    return Planned(task, protocol.size, (linear, *(nearest_neighbours(protocol, each) for each in neighbours)))


def _probe_overrides(args: argparse.Namespace) -> list[str]:
    flags = {"augment": False if args.cached else None, "accumulate": args.accumulate}
    return [f"{key}={value}" for key, value in flags.items() if value is not None] + list(args.opts)


def protocol_of(name: str, args: argparse.Namespace) -> Protocol:
    """The protocol that was asked for; sample tasks that stand in have their own."""
    stands_in = args.all and name not in tasks.benchmark()
    if args.protocol and not stands_in:
        return PROTOCOLS[args.protocol]
    return ERICSSON if name in tasks.benchmark() else NATIVE


def solver_of(task: Task, protocol: Protocol, args: argparse.Namespace, ranks: Ranks) -> Solver:
    """How a task's fits are computed."""
    penalty = protocol.binary_penalty if task.is_multi_label else 1.0
    memory = int(args.solver_memory * _GIB) if args.solver_memory else free_memory(ranks.device)
    return Solver(args.solver, penalty, memory=memory, device=ranks.device)


def divide(
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


def share_features(cells: Sequence[Cell], failures: Failures) -> list[Cell]:
    """Compute all features on all processes, and return those cells that have them, for the main one to go on with."""
    complete = []
    for cell in cells:
        try:
            _ = cell.subject.features
            complete.append(replace(cell, subject=cell.subject.alone()))
        except InputError as error:  # of any process: all of them raise it
            failures.add(cell.name, error)
    return complete
