"""DirectPred: a linear predictor that is computed from the projections' correlation instead of trained.

Tian et al. 2021, "Understanding Self-Supervised Learning Dynamics without Contrastive Pairs". Official code:
facebookresearch/luckmatters, ssl/real-dataset. As in UniGrad's code of it, the matrix holds the current batch already;
the official one computes it after the step, and starts with a random one.
"""

import torch
from torch import Tensor, nn

from converters import distributed
from pretrain.guidance import full

_LEAST = 1e-4  # of the matrix's eigenvalues, in the official code


class DirectPredictor(nn.Module):
    """p = W z, where W has the eigenvectors of the correlation matrix F, and eigenvalues sqrt(s / max s) + eps.

    Args:
        dim: of the projections.
        momentum: of the moving average of F; the first batch's F is taken as it is.
        eps: added to the eigenvalues.
        every: updates between two computations of W.
    """

    correlation: Tensor
    matrix: Tensor
    updates: Tensor

    def __init__(self, dim: int, momentum: float, eps: float, every: int):
        super().__init__()
        self.momentum, self.eps, self.every = momentum, eps, every
        self.register_buffer("correlation", torch.zeros(dim, dim))
        self.register_buffer("matrix", torch.eye(dim))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Take a batch into F, which is neither centred nor normalised, and compute W if it is due.

        Args:
            z: projections of all views, (V, N, D); those of all processes count.
        """
        moving_correlation(self.correlation, self.updates, z, self.momentum)
        if (int(self.updates) - 1) % self.every == 0:
            values, vectors = torch.linalg.eigh(self.correlation)
            values = values.clamp_min(0)
            values = ((values / values[-1]).sqrt() + self.eps).clamp_min(_LEAST)
            self.matrix.copy_(vectors * values @ vectors.T)

    def forward(self, z: Tensor) -> Tensor:
        """Predictions, (N, D)."""
        return z @ self.matrix  # symmetric


@torch.no_grad()
def moving_correlation(correlation: Tensor, updates: Tensor, z: Tensor, momentum: float) -> None:
    """Move F towards the mean of z z^T over a batch's views and images, of all processes; the first batch's is taken.

    Args:
        correlation: F, (D, D), changed in place.
        updates: how often it was moved, a scalar, likewise.
        z: projections, (V, N, D).
        momentum: share of the old F.
    """
    rows = full(z.detach()).flatten(0, 1).to(correlation.dtype)
    with torch.autocast(rows.device.type, enabled=False):
        of_batch = distributed.sum_over_ranks(rows.T @ rows) / (len(rows) * distributed.world_size())
    share = torch.full_like(updates, 1 - momentum, dtype=correlation.dtype)
    correlation.lerp_(of_batch, share.masked_fill(updates == 0, 1.0))  # on the device, without waiting for it
    updates += 1
