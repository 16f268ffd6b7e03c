"""Overhead of each objective over the bare passes of its views, in one interleaved run. Run with `make bench`.

Bare are the passes that the method cannot do without: its views and small crops forward through backbone and projector,
those of the targets through the momentum network, and backward. All else is overhead: predictor, loss and its gradient,
queues, averages, and the momentum network's update.
"""

import sys
import time
from pathlib import Path
from typing import Any

if not __package__:  # started by path: import this checkout, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from torch import Tensor

from converters.backbones import build_backbone, feature_dim
from converters.randomness import generator
from pretrain import objectives
from pretrain.siamese import Siamese

ARCH, BATCH, DIM, SIZE, LOCAL_SIZE, ROUNDS = "resnet18", 256, 2048, 64, 32, 3
# options of an objective, and the number of small crops beside its two views
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "simsiam": ({"guidance": "symmetric", "views": 2}, 0),
    "simsiam, guided": ({"views": 2}, 0),
    "simsiam, guided, 6 small crops": ({"views": 2}, 6),
    "simsiam, DirectPred": ({"guidance": "symmetric", "views": 2, "predictor": "directpred"}, 0),
    "byol": ({"guidance": "symmetric", "views": 2}, 0),
    "simclr": ({}, 0),
    "moco, queue of 4,096": ({"queue": 4096}, 0),
    "swav, 3,000 prototypes": ({}, 0),
    "swav, 3,000 prototypes, 6 small crops": ({}, 6),
    "barlow_twins": ({}, 0),
    "barlow_twins, 6 small crops": ({}, 6),
    "vicreg": ({}, 0),
    "unigrad": ({}, 0),
}


def build(case: str) -> Siamese:
    """The objective of a case, with projections of DIM dimensions."""
    torch.manual_seed(0)
    module = objectives.find(case.split(",")[0])
    config = module.Config(projector_dims=[DIM, DIM], **CASES[case][0])
    method: Siamese = module.Method(config, build_backbone(ARCH), feature_dim(ARCH))
    return method.to(memory_format=torch.channels_last)


def bare(objective: Siamese, views: list[Tensor]) -> None:
    """The passes alone, with a gradient for every projection."""
    batch = Siamese.embed(objective, views, generator(0, "objective"))
    torch.cat([batch.online, batch.local]).square().mean().backward()


def step(objective: Siamese, views: list[Tensor]) -> None:
    """What the loop does of the objective."""
    objective(views, generator(0, "objective"))["loss"].backward()
    objective.before_step()
    objective.after_step(0.5)


def seconds(function: Any, *arguments: Any) -> float:
    """Duration of a call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def main() -> None:
    """Print the best of all rounds of both, and their ratio."""
    sizes = [SIZE] * 2 + [LOCAL_SIZE] * 6
    crops = [torch.randn(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last) for size in sizes]
    print(
        f"{ARCH}, {SIZE} px, batch {BATCH}, dimension {DIM}, {torch.get_num_threads()} threads, best of {ROUNDS} rounds"
    )
    for case in CASES:
        objective, views = build(case), crops[: 2 + CASES[case][1]]
        best = {bare: float("inf"), step: float("inf")}
        for _ in range(ROUNDS + 1):  # the first round warms up, and is never the best
            for function in best:
                objective.zero_grad(set_to_none=True)
                best[function] = min(best[function], seconds(function, objective, views))
        overhead = best[step] / best[bare] - 1
        print(f"{case:38} bare {best[bare]:6.3f} s   step {best[step]:6.3f} s   overhead {100 * overhead:5.1f} %")


if __name__ == "__main__":
    main()
