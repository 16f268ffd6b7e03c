"""The optimiser, and learning rates as a function of progress."""

import math

import torch

from pretrain.config import Config, OptimConfig
from pretrain.objectives import Objective


def build_optimizer(config: Config, objective: Objective) -> torch.optim.SGD:
    """SGD over the objective's parameter groups.

    Args:
        config: of the run.
        objective: whose `parameter_groups` are optimised.
    """
    groups = [group for group in objective.parameter_groups() if group["params"]]
    return torch.optim.SGD(
        groups,
        lr=initial_lr(config),
        momentum=config.optim.momentum,
        weight_decay=config.optim.weight_decay,
    )


def initial_lr(config: Config) -> float:
    """The learning rate at the start, by the global batch: the rule knows neither processes nor accumulated parts."""
    optim = config.optim
    return optim.base_lr * config.batch_size / 256 if optim.scale_lr else optim.base_lr


def scheduled_lr(config: OptimConfig, initial: float, progress: float) -> float:
    """The learning rate at a point of the run.

    Args:
        config: names the schedule.
        initial: the rate at the start.
        progress: finished epochs (or steps) over all of them, in 0..1.
    """
    if config.schedule == "constant":
        return initial
    return initial * 0.5 * (1 + math.cos(math.pi * progress))


def set_lr(optimizer: torch.optim.Optimizer, config: Config, epoch: int, step: int, num_steps: int) -> float:
    """Set the rate of every group for a step, and return the scheduled one.

    Args:
        optimizer: from `build_optimizer`.
        config: of the run.
        epoch: finished epochs.
        step: finished optimiser steps.
        num_steps: of the whole run.
    """
    initial = initial_lr(config)
    progress = epoch / config.epochs if config.optim.schedule_by == "epoch" else step / num_steps
    rate = scheduled_lr(config.optim, initial, progress)
    for group in optimizer.param_groups:
        group["lr"] = initial if group["fixed_lr"] and config.optim.fix_predictor_lr else rate
    return rate
