"""Every objective on a network of a few weights, with heads and queues as small."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from pretrain import objectives

BATCH = 8
# queues that are no multiple of the batch: one of its later batches is put in at both ends
SMALL = {"moco": {"queue": 20, "splits": 2}, "swav": {"queue": 20, "queue_from": 1, "prototypes": 7, "frozen_steps": 1}}
STEPS_TO_WRAP = 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_config(name: str, **options: Any) -> Any:
    """The defaults, but for the widths of the heads and the lengths of queues."""
    config = objectives.find(name).Config()
    widths = {key: [12] * len(value) for key, value in vars(config).items() if key.endswith("_dims")}
    widths |= {key: 6 for key in vars(config) if key.endswith("_dim")}
    return dataclasses.replace(config, **{**widths, **SMALL.get(name, {}), **options})


def build(name: str, seed: int = 0, **options: Any) -> objectives.Objective:
    torch.manual_seed(seed)
    backbone = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    objective: objectives.Objective = objectives.find(name).Method(small_config(name, **options), backbone, 5)
    return objective


def random_views(objective: objectives.Objective, seed: int = 0, num_local: int = 0) -> list[Tensor]:
    random = generator(seed)
    views = list(torch.randn(objective.num_views, BATCH, 3, 6, 6, generator=random))
    return views + list(torch.randn(num_local, BATCH, 3, 4, 4, generator=random))


def step(objective: objectives.Objective, seed: int, progress: float = 0.5, num_local: int = 0) -> None:
    """One optimiser step of plain gradient descent."""
    objective.zero_grad()
    objective(random_views(objective, seed, num_local), generator(seed))["loss"].backward()
    objective.before_step()
    with torch.no_grad():
        for x in objective.parameters():
            if x.grad is not None:
                x -= 0.1 * x.grad
    objective.after_step(progress)
