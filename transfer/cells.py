"""Cells of the table: which were finished by an earlier call, and how a new one is recorded."""

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.checkpoint import atomic_write
from converters.errors import InputError
from transfer.evaluation import Evaluation, Outcome
from transfer.logistic import WEIGHT_DECAYS
from transfer.metrics import bootstrap_interval
from transfer.results import Result, circumstances, current_versions
from transfer.subjects import Subject


def finished(results: Iterable[Result], subject: Subject, evaluation: Evaluation, output: Path) -> list[Result]:
    """The results of a cell that were recorded already; none if one of them, or the predictions, are missing.

    A cell is the same if checkpoint, reading, data, protocol and this project's version are.

    Args:
        results: of earlier calls.
        subject: what is evaluated.
        evaluation: how.
        output: folder of the results.
    """
    key = subject.cell(evaluation.protocol_hash)
    same = {result.metric: result for result in results if result.details.get("cell") == key}
    is_whole = all(set(result.details.get("metrics", ())) == same.keys() for result in same.values())
    return list(same.values()) if is_whole and _predictions(output, subject, key).is_file() else []


def _predictions(output: Path, subject: Subject, key: str) -> Path:
    return output / "predictions" / f"{subject.task.name}-{key}.npz"


def record(subject: Subject, evaluation: Evaluation, outcome: Outcome, output: Path, seconds: float) -> list[Result]:
    """Store the predictions of a cell, and describe its numbers.

    Args:
        subject: what was evaluated.
        evaluation: how.
        outcome: of the evaluation.
        output: folder of the results.
        seconds: that it took, features included, where the outcome does not say.

    Raises:
        InputError: the folder cannot be written.
    """
    key = subject.cell(evaluation.protocol_hash)
    task, representation = subject.task, subject.representation
    path = _predictions(output, subject, key)
    _save(path, outcome.predictions)
    num_examples = len(task.splits.test)
    return [
        Result(
            task=evaluation.kind,
            dataset=task.name,
            split="test",
            protocol=evaluation.protocol,
            protocol_hash=evaluation.protocol_hash,
            metric=metric,
            value=number(None),
            unit="share",
            num_examples=num_examples,
            interval=bootstrap_interval(number, num_examples),
            representation=representation.label,
            checkpoint_sha256=representation.sha256,
            seed=representation.seed,
            details={
                "cell": key,
                "metrics": list(outcome.numbers),
                "settings": evaluation.settings,
                "data": task.data,
                "predictions": str(path.relative_to(output)),
                **_features(subject, output),
                **circumstances(subject.ranks.device),
                **representation.provenance,
                **outcome.details,
            },
            seconds=round(seconds if outcome.seconds is None else outcome.seconds, 2),
            versions=current_versions(),
        )
        for metric, number in outcome.numbers.items()
    ]


def _features(subject: Subject, output: Path) -> dict[str, str]:
    """Where the test images' features are remembered, seen from the folder of the results, if they were computed."""
    features = vars(subject).get("features")  # asked for by the subject itself, it would compute them
    if features is None or not isinstance(features.test, np.memmap):
        return {}
    return {"features": os.path.relpath(str(features.test.filename), output)}


def _save(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path.parent}: {error.strerror}; choose another --output") from error
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getvalue())


def unconverged(result: Result) -> str | None:
    """What to say of the fits behind a number that did not converge; None if all did.

    Args:
        result: of logistic regression.
    """
    sweep, final = result.details["sweep"]["converged"], result.details["final_fit"]["converged"]
    if all(sweep) and all(final):
        return None
    of_all = f"{len(WEIGHT_DECAYS) - sum(sweep)} of {len(WEIGHT_DECAYS)} fits of the sweep"
    return of_all + ("" if all(final) else " and the final fit")
