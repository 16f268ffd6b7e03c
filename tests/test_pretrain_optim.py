"""Learning rates and parameter groups."""

import math

import pytest
import torch
from torch import nn

from pretrain.config import Config, OptimConfig
from pretrain.objectives import byol, simsiam
from pretrain.optim import build_optimizer, initial_lr, scheduled_lr, set_lr


@pytest.mark.parametrize(("batch", "rate"), [(256, 0.05), (512, 0.1), (1024, 0.2)])
def test_rate_scales_with_the_batch(batch: int, rate: float) -> None:
    assert initial_lr(Config(batch_size=batch)) == pytest.approx(rate)


def test_rate_without_scaling_is_taken_as_it_is() -> None:
    assert initial_lr(Config(batch_size=1024, optim=OptimConfig(base_lr=0.06, scale_lr=False))) == 0.06


def test_accumulation_does_not_change_the_rate() -> None:
    assert initial_lr(Config(batch_size=512, accumulate=8)) == initial_lr(Config(batch_size=512))


def test_cosine_is_the_published_formula() -> None:
    for epoch in range(100):
        expected = 0.1 * 0.5 * (1 + math.cos(math.pi * epoch / 100))
        assert scheduled_lr(Config(batch_size=512), epoch / 100) == pytest.approx(expected, rel=1e-12)


def optimizer_of(config: Config) -> torch.optim.Optimizer:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    return build_optimizer(config, simsiam.Method(simsiam.Config(), backbone, 4))


def test_schedule_moves_per_epoch_or_per_step() -> None:
    by_epoch, by_step = Config(epochs=2), Config(epochs=2, optim=OptimConfig(schedule_by="step"))
    rates = [set_lr(optimizer_of(by_epoch), by_epoch, step // 10, step, 20) for step in range(20)]
    assert len(set(rates)) == 2
    assert rates[10] == pytest.approx(0.05)
    rates = [set_lr(optimizer_of(by_step), by_step, step // 10, step, 20) for step in range(20)]
    assert len(set(rates)) == 20
    assert rates[10] == pytest.approx(0.05)


@pytest.mark.parametrize("fixed", [True, False])
def test_predictor_keeps_its_rate_only_if_told_to(fixed: bool) -> None:
    config = Config(epochs=4, optim=OptimConfig(fix_predictor_lr=fixed))
    optimizer = optimizer_of(config)
    set_lr(optimizer, config, 2, 0, 1)
    encoder, predictor = optimizer.param_groups
    assert encoder["lr"] == pytest.approx(0.05)
    assert predictor["lr"] == pytest.approx(0.1 if fixed else 0.05)


def test_weight_decay_is_on_biases_and_batch_norm_too() -> None:
    assert all(group["weight_decay"] == 1e-4 for group in optimizer_of(Config()).param_groups)


def test_target_network_is_not_optimised() -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    method = byol.Method(byol.Config(), backbone, 4)
    optimised = {id(x) for group in build_optimizer(Config(), method).param_groups for x in group["params"]}
    assert optimised.isdisjoint(id(x) for x in method.target.parameters())


def test_objective_without_predictor_has_no_empty_group() -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    method = simsiam.Method(simsiam.Config(predictor="none"), backbone, 4)
    assert len(build_optimizer(Config(), method).param_groups) == 1
