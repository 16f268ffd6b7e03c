"""VICReg: views are close, each dimension varies, and dimensions are not correlated.

Bardes et al. 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning", eq. 1 to 6.
Official code: facebookresearch/vicreg, which halves the variance term's sum over views, and not the covariance term's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters import distributed
from pretrain.gradients import Gradient, joint, vicreg_terms
from pretrain.siamese import Batch, Siamese, SiameseConfig


@dataclass
class Config(SiameseConfig):
    """Options of VICReg.

    Attributes:
        invariance: weight of the squared distance between views.
        variance: weight of the hinge on each dimension's deviation.
        covariance: weight of the squared covariances.
    """

    name: str = "vicreg"
    projector_dims: list[int] = field(default_factory=lambda: [8192, 8192, 8192])
    projector_norm: str = "hidden"
    projector_bias: bool = False
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    unguided: ClassVar[str | None] = (
        "VICReg has no stop-gradient: both views of an image are moved, and none is a fixed target"
    )

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "invariance": (0, 1e6),
        "variance": (0, 1e6),
        "covariance": (0, 1e6),
    }


def variance_and_covariance(z: Tensor) -> tuple[Tensor, Tensor]:
    """The two regularisers of one view, over the images of all processes.

    Bardes et al. 2022, eq. 1 and 2 (variance) and 3 and 4 (covariance); the covariance matrix, (D, D), is not formed:
    the sum of its squared elements is that of the Gram matrix, (N, N), smaller where a batch is less than D.

    Args:
        z: projections of this process's images, (N, D).

    Returns:
        Mean over dimensions of max(0, 1 - deviation), and sum of squared covariances over D.
    """
    num = len(z) * distributed.world_size()
    centred = z - distributed.sum_with_gradient(z.sum(0)) / num
    variances = distributed.sum_with_gradient(centred.square().sum(0)) / (num - 1)
    hinge = F.relu(1 - (variances + 1e-4).sqrt()).mean()
    gram = centred @ distributed.gather_with_gradient(centred).T
    squares = distributed.sum_with_gradient(gram.square().sum()) / (num - 1) ** 2
    return hinge, (squares - variances.square().sum()) / z.shape[1]


class Method(Siamese):
    """Regularises the network's own projections; with a momentum target, views are drawn to its projections.

    Args:
        config: options.
        backbone: images to features (B, feature_dim).
        feature_dim: dimension of the features.
    """

    def __init__(self, config: Config, backbone: nn.Module, feature_dim: int):
        super().__init__(config, backbone, feature_dim)
        self.weights = config.invariance, config.variance, config.covariance

    def compare(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Siamese.compare`; with small crops, the regularisers are means over all crops."""
        crops = batch.crops
        distances = [
            weight * F.mse_loss(crops[crop], batch.target[target])
            for crop, target, weight in batch.pairs(mutual=self.momentum is None)
        ]
        regularisers = [variance_and_covariance(z) for z in crops]
        distance = torch.stack(distances).sum()
        hinge, covariance = (torch.stack(each).mean() for each in zip(*regularisers, strict=True))
        invariance_weight, variance_weight, covariance_weight = self.weights
        # of two views, the official code adds the covariances and halves the hinges' sum
        loss = invariance_weight * distance + variance_weight * hinge + 2 * covariance_weight * covariance
        parts = {"invariance": distance, "variance": hinge, "covariance": covariance}
        return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}

    def gradient(self, batch: Batch) -> Gradient:
        """See `Siamese.gradient`."""
        z, target = joint(batch.online), distributed.gather(batch.target, dim=1)
        return Gradient(*vicreg_terms(z[0], target[1], *self.weights, own=self.momentum is None), z[0], z)
