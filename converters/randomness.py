"""Random numbers as a function of where they are used, so that resuming a run needs no generator's state."""

import zlib

import numpy as np
import torch


def generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A CPU generator that depends on its arguments alone; see `position_seed`."""
    return torch.Generator().manual_seed(position_seed(seed, purpose, *position))


def position_seed(seed: int, purpose: str, *position: int) -> int:
    """A seed of 64 bits that depends on its arguments alone.

    Args:
        seed: of the run.
        purpose: what the numbers are for, so that two uses at the same position are independent.
        position: epoch, step, image, rank, ...: whatever the numbers may depend on.
    """
    # crc32, not hash(): the latter differs from process to process
    entropy = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *position])
    return int(entropy.generate_state(1, np.uint64)[0])
