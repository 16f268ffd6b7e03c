"""The optimiser, and learning rates as a function of progress."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from timm.optim.lars import Lars

from pretrain.config import Config
from pretrain.objectives import Objective


def build_optimizer(config: Config, objective: Objective) -> torch.optim.Optimizer:
    """SGD or LARS over the objective's parameter groups.

    Args:
        config: of the run.
        objective: whose `parameter_groups` are optimised.
    """
    groups = [part for group in objective.parameter_groups() for part in _parts(config, group) if part["params"]]
    optim = config.optim
    settings: dict[str, Any] = {
        "lr": initial_lr(config),
        "momentum": optim.momentum,
        "weight_decay": optim.weight_decay,
    }
    if optim.name == "sgd":
        return torch.optim.SGD(groups, **settings)
    return Lars(groups, **settings, trust_coeff=optim.lars_trust, trust_clip=optim.lars_clip)


def _parts(config: Config, group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A group, or its matrices and its biases and norms where these are treated differently."""
    optim = config.optim
    adapt = {"always_adapt": True} if optim.name == "lars" else {}
    if not optim.exclude_1d and optim.bias_lr is None:
        yield {**group, **adapt, "lr_share": 1.0}
        return
    yield {**group, **adapt, "lr_share": 1.0, "params": [x for x in group["params"] if x.ndim > 1]}
    biases = {**group, **adapt, "params": [x for x in group["params"] if x.ndim <= 1]}
    if optim.exclude_1d:
        # timm's LARS takes a tensor without weight decay as it is, unless it is told to adapt it all the same
        biases |= {"weight_decay": 0.0} | dict.fromkeys(adapt, False)
    yield {**biases, "lr_share": 1.0 if optim.bias_lr is None else optim.bias_lr / optim.base_lr}


def initial_lr(config: Config) -> float:
    """The learning rate at the start, by the global batch: the rule knows neither processes nor accumulated parts."""
    optim = config.optim
    return optim.base_lr * config.batch_size / 256 if optim.scale_lr else optim.base_lr


def scheduled_lr(config: Config, progress: float) -> float:
    """The learning rate at a point of the run.

    Args:
        config: of the run.
        progress: finished epochs (or steps) over all of them, in 0..1.
    """
    optim, rate = config.optim, initial_lr(config)
    warmup = optim.warmup_epochs / config.epochs
    if progress < warmup:
        return rate * (optim.warmup_from + (1 - optim.warmup_from) * progress / warmup)
    if optim.schedule == "constant" or warmup == 1:
        return rate
    falling = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
    return rate * (optim.final_share + (1 - optim.final_share) * falling)


def set_lr(optimizer: torch.optim.Optimizer, config: Config, epoch: int, step: int, num_steps: int) -> float:
    """Set the rate of every group for a step, and return the scheduled one.

    Args:
        optimizer: from `build_optimizer`.
        config: of the run.
        epoch: finished epochs.
        step: finished optimiser steps.
        num_steps: of the whole run.
    """
    progress = epoch / config.epochs if config.optim.schedule_by == "epoch" else step / num_steps
    rate = scheduled_lr(config, progress)
    for group in optimizer.param_groups:
        fixed = group["fixed_lr"] and config.optim.fix_predictor_lr
        group["lr"] = group["lr_share"] * (initial_lr(config) if fixed else rate)
    return rate
