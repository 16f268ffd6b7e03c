"""UniGrad: the gradient itself, with a positive term and the correlation of all projections as the negative one.

Tao et al. 2022, "Exploring the Equivalence of Siamese Self-Supervised Learning via A Unified Gradient Framework",
section 4. Official code: fundamentalvision/UniGrad, which computes the correlation from the momentum target's unit
vectors, with the current batch already in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.directpred import MovingCorrelation
from pretrain.gradients import Gradient, unigrad_terms
from pretrain.guidance import other_views, select, statistics
from pretrain.guided import Guided, GuidedConfig, share_of_first_view
from pretrain.siamese import Batch


@dataclass
class Config(GuidedConfig):
    """Options of UniGrad; it was published without guidance, on two views.

    Attributes:
        momentum: of the target (the official code).
        balance: weight of the negative term, the paper's lambda.
        correlation_momentum: of the correlation's moving average, the paper's rho.
    """

    name: str = "unigrad"
    guidance: str = "symmetric"
    views: int = 2
    momentum: float | None = 0.996
    momentum_schedule: str = "cosine"
    projector_norm: str = "hidden"
    balance: float = 100.0
    correlation_momentum: float = 0.99

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"balance": (0, 1e6), "correlation_momentum": (0, 1)}


def unigrad_loss(u: Tensor, target: Tensor, correlation: Tensor, balance: float) -> Tensor:
    """Potential of the unified gradient: -u.t + lambda / 2 u^T F u, whose gradient is -t + lambda F u.

    Tao et al. 2022, section 4. The official code's number is another one: the product of the gradient and u.

    Args:
        u: unit vectors, (..., D).
        target: of the image's other view, or of several, (..., D).
        correlation: F, (D, D); no gradient flows into it.
        balance: lambda.

    Returns:
        One value per pair, (...).
    """
    pushed = ((u.detach() @ correlation) * u).sum(-1)  # F u is computed once, and needs no backward pass
    return balance * (pushed - pushed.detach() / 2) - (u * target).sum(-1)


class Method(Guided):
    """Has no predictor and no queue: the correlation matrix is all that it remembers.

    Args:
        config: options.
        backbone: images to features (B, feature_dim).
        feature_dim: dimension of the features.
    """

    def __init__(self, config: Config, backbone: nn.Module, feature_dim: int):
        super().__init__(config, backbone, feature_dim)
        self.balance = config.balance
        self.correlation = MovingCorrelation(self.dim, config.correlation_momentum)

    def compare(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Siamese.compare`."""
        batch.target = batch.target.detach()
        selection = self.choose(batch, generator)
        directions = F.normalize(batch.target, dim=-1)
        correlation = self.correlation.see(directions)
        u = F.normalize(batch.online, dim=-1)
        of_views = unigrad_loss(u, other_views(batch.target, batch.mix), correlation, self.balance)
        losses = [select(of_views, selection.sources)]
        for z in batch.local:
            of_targets = unigrad_loss(F.normalize(z, dim=-1), directions, correlation, self.balance)
            losses.append(select(of_targets, selection.sources ^ 1))
        return {"loss": torch.stack(losses).mean(), **statistics(selection)}

    def after_step(self, progress: float) -> None:
        """Move the target and the correlation."""
        super().after_step(progress)
        self.correlation.step()

    def gradient(self, batch: Batch) -> Gradient:
        """See `Siamese.gradient`."""
        assert batch.sources is not None
        assert self.correlation.current is not None
        u, share = F.normalize(batch.online, dim=-1)[0], share_of_first_view(batch.sources)
        positive, negative, balance = unigrad_terms(
            u, other_views(batch.target)[0], self.correlation.current, self.balance
        )
        return Gradient(share * positive, share * negative, balance, u, batch.online)
