"""SimCLR: an image's other view is to be told from all other views of the batch.

Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1. Official code:
google-research/simclr, which adds the means over the first and over the second views, twice the paper's mean over both:
objective.loss_scale=2 there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters import distributed
from pretrain.gradients import Gradient, joint, nt_xent_terms
from pretrain.siamese import Batch, Siamese, SiameseConfig


@dataclass
class Config(SiameseConfig):
    """Options of SimCLR.

    Attributes:
        temperature: of the softmax (0.1 on ImageNet, 0.5 on CIFAR-10 in the official code).
    """

    name: str = "simclr"
    projector_dims: list[int] = field(default_factory=lambda: [2048, 2048, 128])
    projector_affine: bool = True
    temperature: float = 0.1

    unguided: ClassVar[str | None] = (
        "SimCLR has no stop-gradient: both views of an image are moved, and none is a fixed target"
    )

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"temperature": (1e-3, 1e3)}


def nt_xent_loss(anchors: Tensor, positives: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy of anchors, mean.

    Chen et al. 2020, eq. 1: the candidates of anchor i are all images' positive views, and all other images' views of
    the anchor's own kind. Over both views of a batch, the mean of two calls is the paper's mean over 2N anchors.

    Args:
        anchors: unit vectors of this process's images, (N, D).
        positives: unit vectors of the positive views, of all processes' images, (M, D).
        others: unit vectors of the anchors' own view, likewise; what belongs to an anchor's own image is left out.
        temperature: divides the similarities.
    """
    num = len(anchors)
    place = distributed.rank() * num + torch.arange(num, device=anchors.device)
    similarities = torch.cat([anchors @ positives.T, anchors @ others.T], dim=1) / temperature
    own = torch.zeros_like(similarities, dtype=torch.bool)
    own[torch.arange(num, device=anchors.device), len(positives) + place] = True
    return F.cross_entropy(similarities.masked_fill(own, -torch.inf), place)


class Method(Siamese):
    """Contrasts views; with a momentum target, positives and negatives are its projections, without gradient.

    Args:
        config: options.
        backbone: images to features (B, feature_dim).
        feature_dim: dimension of the features.
    """

    one_batch = True

    def __init__(self, config: Config, backbone: nn.Module, feature_dim: int):
        super().__init__(config, backbone, feature_dim)
        self.temperature = config.temperature

    def compare(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Siamese.compare`; small crops are told from the same candidates as the other view."""
        candidates = [F.normalize(distributed.gather_with_gradient(z), dim=1) for z in batch.target]
        anchors = [F.normalize(z, dim=1) for z in batch.crops]
        losses = [
            weight * nt_xent_loss(anchors[crop], candidates[target], candidates[1 - target], self.temperature)
            for crop, target, weight in batch.pairs()
        ]
        return {"loss": torch.stack(losses).sum()}

    def gradient(self, batch: Batch) -> Gradient:
        """See `Siamese.gradient`."""
        z = joint(batch.online)
        u, target = F.normalize(z, dim=-1), F.normalize(distributed.gather(batch.target, dim=1), dim=-1)
        return Gradient(*nt_xent_terms(u, target, self.temperature, own=self.momentum is None), u[0], z)
