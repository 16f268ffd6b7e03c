"""Whether a run found the weight decays that Ericsson et al. 2021 found, and what the difference is worth."""

import csv
from dataclasses import dataclass
from pathlib import Path

from converters.errors import InputError, unknown
from transfer.evaluation import examples, metric_of
from transfer.logistic import WEIGHT_DECAYS, Solver, fit_one
from transfer.protocols import Protocol
from transfer.results import Result
from transfer.subjects import Subject

TABLE = Path(__file__).resolve().parents[1] / "configs" / "linear" / "best_decays.csv"


@dataclass(frozen=True)
class Comparison:
    """Our choice on a task beside the published one; scores are in 0..1, the published one's by our fits.

    Attributes:
        task: name of the data set.
        ours: weight decay.
        published: weight decay.
        validation: scores of our choice and of the published one.
        test: likewise.
    """

    task: str
    ours: float
    published: float
    validation: tuple[float, float]
    test: tuple[float, float]


def published_decays(name: str) -> dict[str, float]:
    """The published best weight decays of a checkpoint, by task.

    Args:
        name: as in the table.

    Raises:
        InputError: the table is missing, or has no such checkpoint.
    """
    if not TABLE.is_file():
        raise InputError(f"{TABLE} not found; it lies in a checkout and not in an installed package")
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = {row.pop("checkpoint"): row for row in csv.DictReader(line for line in file if line[0] != "#")}
    if name not in rows:
        raise unknown("checkpoint to verify", name, list(rows))
    return {task: 10 ** (-int(quarter) / 4) for task, quarter in rows[name].items()}


def compare(subject: Subject, protocol: Protocol, solver: Solver, result: Result, published: float) -> Comparison:
    """Refit under the published weight decay where it is another one, and score both.

    The chosen decays jump between checkpoints far more than accuracy does, since the curve is flat: another decay is no
    mistake, another test score is.

    Args:
        subject: whose result it is.
        protocol: of the result.
        solver: of the result.
        result: of logistic regression.
        published: weight decay.

    Raises:
        InputError: the solver's memory does not suffice.
    """
    ours = float(result.details["weight_decay"])
    indices = [min(range(len(WEIGHT_DECAYS)), key=lambda i: abs(WEIGHT_DECAYS[i] / x - 1)) for x in (ours, published)]
    at_ours, at_published = (float(result.details["validation_scores"][index]) for index in indices)
    test = result.value
    if indices[0] != indices[1]:
        train, val, labels = examples(subject, protocol)
        logits = fit_one(train, val, subject.features.test, indices[1], solver)
        test = metric_of(subject.task, protocol)(labels, logits)(None)
    decays = ours, WEIGHT_DECAYS[indices[1]]
    return Comparison(subject.task.name, *decays, (at_ours, at_published), (result.value, test))
