"""DirectPred: a linear predictor that is computed from the projections' correlation instead of trained.

Tian et al. 2021, "Understanding Self-Supervised Learning Dynamics without Contrastive Pairs". Official code:
facebookresearch/luckmatters, ssl/real-dataset, whose correlation is that of the raw online projections (in UniGrad's
code of it, that of the targets' unit vectors). As in UniGrad's code, the matrix holds the current batch already; the
official one computes it after the step, and starts with a random one.
"""

import torch
from torch import Tensor, nn

from converters import distributed
from pretrain.guidance import full

_LEAST = 1e-4  # of the matrix's eigenvalues, in the official code


class MovingCorrelation(nn.Module):
    """Moving average F of z z^T over views and images of all processes; the first step's is taken as it is.

    It moves once per optimiser step, however many parts a batch has.

    Args:
        dim: of the projections.
        momentum: share of the old F.

    Attributes:
        matrix: F after the last step, (D, D).
        steps: how often it was moved.
        current: F with what was seen of a step that is not over, (D, D), or None.
    """

    matrix: Tensor
    steps: Tensor

    def __init__(self, dim: int, momentum: float):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("matrix", torch.zeros(dim, dim))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.current: Tensor | None = None
        self._sum: Tensor | None = None
        self._parts = 0

    @torch.no_grad()
    def see(self, z: Tensor) -> Tensor:
        """F with the current batch, or with the parts of it that were seen.

        Args:
            z: projections, (V, N, D), neither centred nor normalised here.
        """
        rows = full(z.detach()).flatten(0, 1).to(self.matrix.dtype)
        with torch.autocast(rows.device.type, enabled=False):
            of_part = distributed.sum_over_ranks(rows.T @ rows) / (len(rows) * distributed.world_size())
        self._sum = of_part if self._sum is None else self._sum + of_part
        self._parts += 1
        share = torch.full_like(self.steps, 1 - self.momentum, dtype=self.matrix.dtype)
        share = share.masked_fill(self.steps == 0, 1.0)  # on the device, without waiting for it
        self.current = self.matrix.lerp(self._sum / self._parts, share)
        return self.current

    @torch.no_grad()
    def step(self) -> None:
        """Keep what was seen, once the optimiser has stepped."""
        if self.current is not None:
            self.matrix.copy_(self.current)
            self.steps += 1
        self.current, self._sum, self._parts = None, None, 0


class DirectPredictor(nn.Module):
    """p = W z, where W has the eigenvectors of the correlation matrix F, and eigenvalues sqrt(s / max s) + eps.

    Args:
        dim: of the projections.
        momentum: of the moving average of F.
        eps: added to the eigenvalues.
        every: steps between two computations of W.
    """

    matrix: Tensor

    def __init__(self, dim: int, momentum: float, eps: float, every: int):
        super().__init__()
        self.eps, self.every = eps, every
        self.correlation = MovingCorrelation(dim, momentum)
        self.register_buffer("matrix", torch.eye(dim))

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Take a batch into F, which is neither centred nor normalised, and compute W if it is due.

        Args:
            z: online projections of all views, (V, N, D).
        """
        correlation = self.correlation.see(z)
        if int(self.correlation.steps) % self.every == 0:
            values, vectors = torch.linalg.eigh(correlation)
            values = values.clamp_min(0)
            values = ((values / values[-1]).sqrt() + self.eps).clamp_min(_LEAST)
            self.matrix.copy_(vectors * values @ vectors.T)

    def forward(self, z: Tensor) -> Tensor:
        """Predictions, (N, D)."""
        return z @ self.matrix  # symmetric
