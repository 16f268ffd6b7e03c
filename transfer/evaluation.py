"""From a representation on a task to numbers and predictions: logistic regression, k-NN, and the SGD probe."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from converters.errors import InputError
from converters.neighbours import knn_predict
from transfer import metrics, protocols
from transfer.logistic import Certificate, Examples, Solver, select_and_fit
from transfer.metrics import Counts, Labels, Scores
from transfer.probe import train_probe
from transfer.probe_config import ProbeConfig, as_dict
from transfer.protocols import Protocol
from transfer.results import protocol_hash
from transfer.subjects import Subject, Task
from transfer.tasks import Neighbours

# of how often every test example counts; None for once
Number = Callable[[Counts | None], float]


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found.

    Attributes:
        numbers: by the name of the metric.
        details: what it found on its way.
        predictions: arrays with an entry for every test example.
        seconds: that it took over several starts; None if there was one.
    """

    numbers: dict[str, Number]
    details: dict[str, Any]
    predictions: dict[str, npt.NDArray[Any]]
    seconds: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """A way to measure features.

    Attributes:
        kind: the results' ``task``.
        protocol: its name.
        settings: all that a number depends on apart from data, representation and versions.
        run: on a representation and a task.
    """

    kind: str
    protocol: str
    settings: dict[str, Any]
    run: Callable[[Subject], Outcome]

    @property
    def protocol_hash(self) -> str:
        """Of the settings."""
        return protocol_hash(self.settings)


def logistic_regression(protocol: Protocol, solver: Solver) -> Evaluation:
    """The regularisation path on the training split, the best decay by the validation split, the task's metric."""
    name = f"{protocol.name}-{solver.name}"
    settings = protocols.settings(protocol, solver.name)
    return Evaluation("linear", name, settings, partial(_run_logistic, protocol, solver))


def _run_logistic(protocol: Protocol, solver: Solver, subject: Subject) -> Outcome:
    task = subject.task
    train, val, labels = examples(subject, protocol)
    metric = metric_of(task, protocol)
    fit = select_and_fit(train, val, subject.features.test, lambda truth, logits: metric(truth, logits)(None), solver)
    details = {
        "weight_decay": fit.weight_decay,
        "validation_scores": [round(float(score), 6) for score in fit.validation_scores],
        "sweep": _certificate(fit.sweep),
        "final_fit": _certificate(fit.final),
    }
    numbers = {task.metric: metric(labels, fit.logits)}
    if task.is_multi_label:
        return Outcome(numbers, details, {"labels": labels, "scores": fit.logits.astype(np.float32)})
    probabilities = metrics.softmax(fit.logits)
    numbers["calibration_error"] = partial(metrics.expected_calibration_error, labels, probabilities)
    confidence = probabilities.max(axis=1).astype(np.float32)
    return Outcome(
        numbers, details, {"labels": labels, "predicted": probabilities.argmax(axis=1), "confidence": confidence}
    )


def examples(subject: Subject, protocol: Protocol) -> tuple[Examples, Examples | None, Labels]:
    """Training and validation examples, the latter None where no such split is given, and the labels of the test's."""
    splits, features = subject.task.splits, subject.features
    train, val, test = (
        None if split is None else protocol.labels(split.labels.numpy())
        for split in (splits.train, splits.val, splits.test)
    )
    assert train is not None
    assert test is not None
    held_out = None if val is None or features.val is None else Examples(features.val, val)
    return Examples(features.train, train), held_out, test


def _certificate(certificate: Certificate) -> dict[str, Any]:
    columns = {name: column.tolist() for name, column in asdict(certificate).items()}
    columns["gradient_norms"] = [float(f"{norm:.3g}") for norm in columns["gradient_norms"]]
    return columns


def metric_of(task: Task, protocol: Protocol) -> Callable[[Labels, Scores], Number]:
    """The task's metric of labels and logits, (N, C)."""
    if task.metric == "map_11point":
        return lambda labels, logits: partial(
            metrics.mean_average_precision, metrics.rank(labels, logits), reference_curve=protocol.reference_curve
        )
    return lambda labels, logits: partial(_CLASS_METRICS[task.metric], labels, logits.argmax(axis=1))


_CLASS_METRICS = {"accuracy": metrics.accuracy, "mean_per_class": metrics.mean_per_class_accuracy}


def nearest_neighbours(protocol: Protocol, setting: Neighbours) -> Evaluation:
    """k-NN by cosine similarity; the bank is the training split, with the validation split where one is given."""
    vote = "majority" if setting.temperature is None else f"t {setting.temperature:g}"
    settings = {**setting._asdict(), "similarity": "cosine", "size": protocol.size, "splits": protocol.strict_splits}
    return Evaluation("knn", f"{protocol.name}, {setting.k}-NN {vote}", settings, partial(_run_neighbours, setting))


def _run_neighbours(setting: Neighbours, subject: Subject) -> Outcome:
    task, features = subject.task, subject.features
    bank, classes = [features.train], [task.splits.train.labels]
    if task.splits.val is not None and features.val is not None:
        bank, classes = [*bank, features.val], [*classes, task.splits.val.labels]
    queries, known = torch.tensor(features.test), torch.from_numpy(np.concatenate(bank))
    num_classes = len(task.splits.classes)
    predicted: Labels = knn_predict(queries, known, torch.cat(classes), num_classes, *setting).numpy()
    labels = task.splits.test.labels.numpy()
    numbers: dict[str, Number] = {task.metric: partial(_CLASS_METRICS[task.metric], labels, predicted)}
    return Outcome(numbers, {}, {"labels": labels, "predicted": predicted})


def check_neighbours(task: Task, setting: Neighbours) -> None:
    """Refuse what k-NN cannot do.

    Raises:
        InputError: an image may show several classes, or there are fewer than k training images.
    """
    if task.is_multi_label:
        raise InputError(f"k-NN expects one class per image, and {task.name} has several; leave out --knn or that set")
    if setting.k > len(task.splits.train):
        num = len(task.splits.train)
        raise InputError(f"{task.name}: expected at least {setting.k} training images for {setting.k}-NN, got {num}")


def sgd_probe(task: str, config: ProbeConfig, folder: Path) -> Evaluation:
    """A linear layer trained by SGD; both the last epoch and the best one, which is chosen on the test images.

    Args:
        task: the task's name.
        config: the protocol.
        folder: that holds a folder for each probe.
    """
    name = f"sgd-{task}" if config.augment else f"sgd-{task}, cached features"
    cached = {} if config.augment else {"features": "short side bicubic, centre crop"}
    settings = {**as_dict(config), **cached, "task": task}
    # how a step is divided changes the rounding and no more
    settings.pop("accumulate")
    return Evaluation("probe", name, settings, partial(_run_probe, config, folder, protocol_hash(settings)))


def _run_probe(config: ProbeConfig, folder: Path, protocol: str, subject: Subject) -> Outcome:
    backbone, pixels = subject.network
    features = None if config.augment else (subject.features.train, subject.features.test)
    splits, workers = subject.task.splits, subject.workers
    outcome = train_probe(
        backbone,
        splits,
        pixels,
        config,
        ranks=subject.ranks,
        folder=folder / f"{subject.task.name}-{subject.cell(protocol)}",
        resume=True,
        workers=workers,
        features=features,
    )
    labels = splits.test.labels.numpy()
    last, best = (each.classes.numpy() for each in (outcome.last, outcome.best))
    numbers: dict[str, Number] = {
        "accuracy": partial(metrics.accuracy, labels, last),
        "best_accuracy": partial(metrics.accuracy, labels, best),
    }
    details = {"best_epoch": outcome.best_epoch, "accuracy": outcome.accuracy, "loss": outcome.loss}
    confidence = outcome.last.confidence.numpy()
    predictions = {"labels": labels, "predicted": last, "confidence": confidence, "best_predicted": best}
    return Outcome(numbers, details, predictions, outcome.seconds)
