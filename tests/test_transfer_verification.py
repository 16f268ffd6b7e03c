"""The published weight decays, value by value, and what their comparison with ours says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from converters.checkpoint import Pixels
from converters.distributed import Ranks
from converters.errors import InputError
from transfer import verification
from transfer.cells import record
from transfer.evaluation import logistic_regression, metric_of
from transfer.logistic import WEIGHT_DECAYS, Examples, Solver, fit_one
from transfer.protocols import ERICSSON
from transfer.representations import Representation
from transfer.subjects import Subject, Task
from transfer.tasks import Split, Splits
from transfer.verification import compare, published_decays

# linusericsson/ssl-transfer, run_linear.sh: k of C = 10^(k/4)
TASKS = ("aircraft", "caltech101", "cars", "cifar10", "cifar100", "dtd", "flowers", "food", "pets", "sun397", "voc2007")
PUBLISHED = {
    "supervised": (4, -2, 5, -5, -5, -7, 12, -5, 11, -7, -9),
    "byol": (17, 0, 10, 1, 0, 1, 19, -1, 1, 10, -2),
    "swav": (12, 19, 9, -2, 0, -2, 16, -1, 5, -1, -2),
    "deepcluster-v2": (19, 20, 8, -2, -2, 3, 18, -2, 18, 2, -2),
    "moco-v2": (15, 22, 15, 22, 8, 13, 18, 21, 12, 8, 4),
    "sela-v2": (15, 19, 6, 0, 1, 9, 18, 0, 21, 1, 0),
    "simclr-v1": (13, 16, 5, -2, -2, -3, 13, -3, 5, -4, -5),
    "simclr-v2": (19, 6, 7, -1, -1, 3, 16, -2, 0, -2, -3),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_table_is_the_published_one(name: str) -> None:
    decays = published_decays(name)
    assert tuple(decays) == TASKS
    for task, quarter in zip(TASKS, PUBLISHED[name], strict=True):
        assert 1 / decays[task] == pytest.approx(10 ** (quarter / 4))
        assert min(abs(np.log(decays[task] / np.array(WEIGHT_DECAYS)))) < 1e-9  # one of the grid


def test_checkpoint_that_is_not_in_the_table_is_refused_with_the_closest() -> None:
    with pytest.raises(
        InputError,
        match=r"unknown checkpoint to verify 'byoll'; did you mean 'byol'\? choose from: byol, deepcluster-v2",
    ):
        published_decays("byoll")


def test_missing_table_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "TABLE", tmp_path / "best_decays.csv")
    with pytest.raises(InputError, match=r"best_decays\.csv not found; it lies in a checkout"):
        published_decays("byol")


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """Noisy grey images of three classes, whose pixels are the features."""
    draw = torch.Generator().manual_seed(0)

    def split(num: int) -> Split:
        labels = torch.arange(num) % 3
        grey = 80 * labels[:, None, None, None] + 120 * torch.rand(num, 1, 4, 4, generator=draw) - 20
        return Split(grey.clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1), labels)

    task = Task("dtd", "accuracy", Splits(("a", "b", "c"), split(60), split(60), split(60)))
    pixels = Pixels(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    raw = Representation("raw", None, None, None, "", "", None, lambda images, size: (nn.Flatten(), pixels))
    return Subject(task, raw, None, Ranks(0, 1, torch.device("cpu")), tmp_path / "features", workers=0)


def test_score_under_the_published_decay_is_that_of_a_refit(subject: Subject, tmp_path: Path) -> None:
    evaluation = logistic_regression(ERICSSON, Solver())
    result = record(subject, evaluation, evaluation.run(subject), tmp_path, 0)[0]
    strongest = WEIGHT_DECAYS[-1]
    compared = compare(subject, ERICSSON, Solver(), result, strongest)
    assert compared.ours == result.details["weight_decay"] != strongest
    assert compared.published == pytest.approx(strongest)
    assert compared.validation == (max(result.details["validation_scores"]), result.details["validation_scores"][-1])
    splits, features = subject.task.splits, subject.features
    assert splits.val is not None
    assert features.val is not None
    train, val = (
        Examples(features.train, splits.train.labels.numpy()),
        Examples(features.val, splits.val.labels.numpy()),
    )
    logits = fit_one(train, val, features.test, len(WEIGHT_DECAYS) - 1, Solver())
    expected = metric_of(subject.task, ERICSSON)(splits.test.labels.numpy(), logits)(None)
    assert compared.test == (result.value, expected)
    assert expected < result.value


def test_same_decay_has_the_same_scores_without_a_refit(subject: Subject, tmp_path: Path) -> None:
    evaluation = logistic_regression(ERICSSON, Solver())
    result = record(subject, evaluation, evaluation.run(subject), tmp_path, 0)[0]
    compared = compare(subject, ERICSSON, Solver(), result, result.details["weight_decay"] * (1 + 1e-9))
    assert compared.ours == compared.published
    assert compared.test == (result.value, result.value)
    assert compared.validation[0] == compared.validation[1]
