"""The averages of a line of the log."""

import math

import torch

from pretrain.metrics import Averages


def scalars(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_scalar_that_some_steps_lack_is_the_mean_over_the_others() -> None:
    averages = Averages()
    averages.add(1, scalars(loss=1.0))
    averages.add(2, scalars(loss=2.0))
    averages.add(3, scalars(loss=6.0, angle=90.0))
    assert averages.take() == ({"loss": 3.0, "angle": 90.0}, None)


def test_averages_start_afresh_once_taken() -> None:
    averages = Averages()
    averages.add(1, scalars(loss=1.0))
    averages.take()
    averages.add(2, scalars(loss=5.0))
    assert averages.take() == ({"loss": 5.0}, None)


def test_first_step_whose_loss_is_not_finite_is_named() -> None:
    averages = Averages()
    for step, loss in enumerate((1.0, math.inf, math.nan), 7):
        averages.add(step, scalars(loss=loss))
    assert averages.take()[1] == 8
