"""Barlow Twins: the two views' cross-correlation is to be the identity.

Zbontar et al. 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", eq. 1 and 2. Official code:
facebookresearch/barlowtwins, where the correlation is summed over processes without gradient, so that the gradient is
that of the whole batch divided by their number: objective.loss_scale says so, where a recipe depends on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from converters import distributed
from pretrain.gradients import Gradient, barlow_twins_terms, joint
from pretrain.siamese import Batch, Siamese, SiameseConfig


@dataclass
class Config(SiameseConfig):
    """Options of Barlow Twins.

    Attributes:
        off_diagonal: weight of the off-diagonal elements, the paper's lambda.
    """

    name: str = "barlow_twins"
    projector_dims: list[int] = field(default_factory=lambda: [8192, 8192, 8192])
    projector_norm: str = "hidden"
    projector_bias: bool = False
    off_diagonal: float = 0.0051

    unguided: ClassVar[str | None] = (
        "Barlow Twins has no stop-gradient: both views of an image are moved, and none is a fixed target"
    )

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"off_diagonal": (0, 1e6)}


def standardize(z: Tensor) -> Tensor:
    """Mean 0 and variance 1 in each dimension over the images of all processes, as by batch norm, (N, D)."""
    num = len(z) * distributed.world_size()
    centred = z - distributed.sum_with_gradient(z.sum(0)) / num
    return centred * (distributed.sum_with_gradient(centred.square().sum(0)) / num + 1e-5).rsqrt()


def barlow_twins_loss(x: Tensor, y: Tensor, off_diagonal: float) -> Tensor:
    """Squared distance of the cross-correlation matrix to the identity, its off-diagonal elements weighted.

    Zbontar et al. 2021, eq. 1, over the images of all processes. The matrix, (D, D), is not formed: the sum of its
    squared elements is that of the product of both views' Gram matrices, (N, N), smaller where a batch is less than D.

    Args:
        x: standardised projections of this process's first views, (N, D).
        y: of its second views.
        off_diagonal: weight.
    """
    return _loss((x, gram(x)), (y, gram(y)), off_diagonal)


def gram(x: Tensor) -> Tensor:
    """Inner products of this process's rows with those of all processes, (N, M)."""
    return x @ distributed.gather_with_gradient(x).T


def _loss(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], off_diagonal: float) -> Tensor:
    """`barlow_twins_loss` of views whose Gram matrices are known."""
    (x, gram_x), (y, gram_y) = first, second
    num = len(x) * distributed.world_size()
    diagonal = distributed.sum_with_gradient((x * y).sum(0)) / num
    squares = distributed.sum_with_gradient((gram_x * gram_y).sum()) / num**2
    return (1 - diagonal).square().sum() + off_diagonal * (squares - diagonal.square().sum())


class Method(Siamese):
    """Decorrelates; with a momentum target, views are correlated with its projections.

    Args:
        config: options.
        backbone: images to features (B, feature_dim).
        feature_dim: dimension of the features.
    """

    def __init__(self, config: Config, backbone: nn.Module, feature_dim: int):
        super().__init__(config, backbone, feature_dim)
        self.off_diagonal = config.off_diagonal

    def compare(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Siamese.compare`."""
        crops = [(x, gram(x)) for x in map(standardize, batch.crops)]
        own = self.momentum is None
        targets = crops if own else [(x, gram(x)) for x in map(standardize, batch.target)]
        losses = [
            weight * _loss(crops[crop], targets[target], self.off_diagonal)
            for crop, target, weight in batch.pairs(mutual=own)
        ]
        return {"loss": torch.stack(losses).sum()}

    def gradient(self, batch: Batch) -> Gradient:
        """See `Siamese.gradient`."""
        z = joint(batch.online)  # the same on every rank, which leaves mean and variance over ranks what they are here
        x, target = standardize(z[0]), standardize(distributed.gather(batch.target, dim=1)[1])
        positive, negative, balance = barlow_twins_terms(x, target, self.off_diagonal)
        share = 1.0 if self.momentum is None else 0.5  # of two correlations, each view is in both or in one
        return Gradient(share * positive, share * negative, balance, x, z)
