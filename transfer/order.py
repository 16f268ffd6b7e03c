"""The endless order of training images: a function of the seed and the place, which a resumed run finds again."""

from collections.abc import Iterator
from itertools import count

import torch

from converters.distributed import Ranks
from converters.randomness import generator


def places(num_images: int, seed: int, ranks: Ranks) -> Iterator[tuple[int, int]]:
    """Places in the order of all processes and the images there, for one process.

    Each pass over the images has a permutation of its own; the processes take the places in turn.

    Args:
        num_images: of the data set.
        seed: of the run.
        ranks: this process among its peers.
    """
    for epoch in count():
        order = torch.randperm(num_images, generator=generator(seed, "order", epoch)).numpy()
        first = -(epoch * num_images - ranks.rank) % ranks.world_size
        for at in range(first, num_images, ranks.world_size):
            yield epoch * num_images + at, int(order[at])
