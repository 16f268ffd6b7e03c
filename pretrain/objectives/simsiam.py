"""SimSiam, with or without Guided Stop-Gradient.

Chen & He 2021, "Exploring Simple Siamese Representation Learning", Algorithm 1; with guidance Lee & Lee 2023,
Algorithm 1. Official code: facebookresearch/simsiam, bych-lee/gsg.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from converters.errors import InputError
from pretrain.asymmetric import Asymmetric, AsymmetricConfig


@dataclass
class Config(AsymmetricConfig):
    """Options of SimSiam.

    Attributes:
        stop_gradient: False lets the gradient into the targets, which collapses (Chen & He 2021, 4.1): a control.
    """

    name: str = "simsiam"
    stop_gradient: bool = True

    def __post_init__(self) -> None:
        """Refuse what no recipe can mean.

        Raises:
            InputError: an unknown choice, or a number out of range.
        """
        super().__post_init__()
        if not self.stop_gradient and self.momentum is not None:
            raise InputError(
                "objective.stop_gradient=false: a momentum target has no gradient that could be let in; set "
                "objective.momentum=null"
            )


class Method(Asymmetric):
    """The targets are the network's own projections, detached.

    Args:
        config: options.
        backbone: images to features (B, feature_dim).
        feature_dim: dimension of the features.
    """

    def __init__(self, config: Config, backbone: nn.Module, feature_dim: int):
        super().__init__(config, backbone, feature_dim)
        self.stop_gradient = config.stop_gradient

    def prepare(self, **recipe: Any) -> None:
        """See `Objective.prepare`."""
        super().prepare(**recipe)
        if self.logs_gradients and not self.stop_gradient:
            raise InputError(
                "monitor.gradients: the terms are written for targets without gradient; set it to false, or "
                "objective.stop_gradient=true"
            )

    def stop(self, target: Tensor) -> Tensor:
        """The stop-gradient, unless it is left out."""
        return super().stop(target) if self.stop_gradient else target
