"""A queue of projections of earlier batches."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters import distributed
from converters.errors import InputError


class MemoryBank(nn.Module):
    """The last rows that were put in, first in, first out; the same on every rank, and part of the state.

    Args:
        size: number of rows, K.
        dim: of a row.

    Attributes:
        rows: (K, D), at first random unit vectors (He et al. 2020; facebookresearch/moco).
        count: rows that were ever put in.
    """

    rows: Tensor
    count: Tensor

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def put(self, x: Tensor) -> None:
        """Put in the rows of all ranks, in their order, in place of the oldest.

        Args:
            x: this rank's, (N, D).
        """
        x = distributed.gather(x)
        places = (self.count + torch.arange(len(x), device=x.device)) % len(self.rows)
        self.rows[places] = x.to(self.rows.dtype)
        self.count += len(x)


def check_queue(size: int, batch_size: int) -> None:
    """Refuse a queue that a batch does not fit into.

    Raises:
        InputError: it does not.
    """
    if size < batch_size:
        raise InputError(
            f"objective.queue: expected at least the {batch_size} images of a batch (or of an accumulated part), got "
            f"{size}; a batch would overwrite itself"
        )
