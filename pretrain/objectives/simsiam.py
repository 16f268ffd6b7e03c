"""SimSiam, with or without Guided Stop-Gradient.

Chen & He 2021, "Exploring Simple Siamese Representation Learning", Algorithm 1; with guidance Lee & Lee 2023,
Algorithm 1. Official code: facebookresearch/simsiam, bych-lee/gsg.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from pretrain.siamese import Siamese, SiameseConfig


@dataclass
class Config(SiameseConfig):
    """Options of SimSiam.

    Attributes:
        stop_gradient: False lets the gradient into the targets, which collapses (Chen & He 2021, 4.1): a control.
    """

    name: str = "simsiam"
    stop_gradient: bool = True


class Method(Siamese):
    """The targets are the network's own projections, detached.

    Args:
        config: options.
        backbone: images to features (B, feature_dim).
        feature_dim: dimension of the features.
    """

    def __init__(self, config: Config, backbone: nn.Module, feature_dim: int):
        super().__init__(config, backbone, feature_dim)
        self.stop_gradient = config.stop_gradient

    def targets(self, views: list[Tensor], online: Tensor) -> Tensor:
        """See `Siamese.targets`."""
        return online.detach() if self.stop_gradient else online
