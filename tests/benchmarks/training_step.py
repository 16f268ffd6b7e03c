"""Images per second of a training step: no guidance, two-view guidance and four-view guidance, in one interleaved run.

A step is what the loop does: views of a batch, forward, backward, optimiser. Run with `make bench`.
"""

import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

if not __package__:  # started by path: import this checkout, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from converters.backbones import build_backbone, feature_dim
from converters.randomness import generator
from pretrain.config import Config, ViewConfig
from pretrain.data import Loader, Pool
from pretrain.objectives import simsiam
from pretrain.optim import build_optimizer

ARCH, BATCH, SIZE, ROUNDS = "resnet18", 64, 64, 10
CASES = {
    "symmetric, 2 views": simsiam.Config(guidance="symmetric", views=2),
    "guided, 2 shared views": simsiam.Config(guidance="guided", views=2),
    "guided, 4 fresh views": simsiam.Config(guidance="guided", views=4),
}


def build_step(options: simsiam.Config) -> Callable[[], None]:
    """A function that does one step."""
    torch.manual_seed(0)
    config = Config(arch=ARCH, batch_size=BATCH, views=ViewConfig(size=SIZE), objective=options)
    objective = simsiam.Method(options, build_backbone(ARCH), feature_dim(ARCH)).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(config, objective)
    images = torch.randint(0, 256, (4 * BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    device = torch.device("cpu")
    loader = Loader(Pool(images), config.views, objective.num_views, BATCH, seed=0, device=device)
    batches: Iterator[list[torch.Tensor]] = (batch for epoch in count() for batch in loader.epoch(epoch))

    def step() -> None:
        views = [view.contiguous(memory_format=torch.channels_last) for view in next(batches)]
        optimizer.zero_grad(set_to_none=True)
        objective(views, generator(0, "objective"))["loss"].backward()
        optimizer.step()

    return step


def main() -> None:
    """Print the best of all rounds, and each case's ratio to the first."""
    steps = {name: build_step(options) for name, options in CASES.items()}
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(ROUNDS + 1):  # the first round warms up, and is never the best
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - start)
    first = next(iter(best.values()))
    print(f"{ARCH}, {SIZE} px, batch {BATCH}, {torch.get_num_threads()} threads, best of {ROUNDS} rounds")
    for name, seconds in best.items():
        print(f"{name:24} {BATCH / seconds:7.1f} images/s   {first / seconds:.2f} of symmetric")


if __name__ == "__main__":
    main()
