"""BYOL as the GSG code has it, with or without Guided Stop-Gradient.

Grill et al. 2020, "Bootstrap Your Own Latent"; with guidance Lee & Lee 2023. Official code: bych-lee/gsg, whose heads,
loss, optimiser and symmetric views are SimSiam's: what differs is where the targets come from.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from converters.errors import InputError
from pretrain.siamese import Siamese, SiameseConfig


@dataclass
class Config(SiameseConfig):
    """Options of BYOL.

    Attributes:
        momentum: of the target's moving average, constant (bych-lee/gsg; the paper does not state it).
    """

    name: str = "byol"
    momentum: float = 0.99

    def __post_init__(self) -> None:
        """Refuse what no recipe can mean.

        Raises:
            InputError: an unknown choice, or a number out of range.
        """
        super().__post_init__()
        if not 0 <= self.momentum <= 1:
            raise InputError(f"objective.momentum: expected 0 to 1, got {self.momentum}")


class Method(Siamese):
    """The targets, and the distances between them, come from a moving average of the online network.

    Args:
        config: options.
        backbone: images to features (B, feature_dim).
        feature_dim: dimension of the features.
    """

    def __init__(self, config: Config, backbone: nn.Module, feature_dim: int):
        super().__init__(config, backbone, feature_dim)
        self.momentum = config.momentum
        self.target = copy.deepcopy(nn.Sequential(self.backbone, self.projector)).requires_grad_(False)

    @torch.no_grad()
    def targets(self, views: list[Tensor], online: Tensor) -> Tensor:
        """Projections of the target network, which normalises with its own batch statistics, (V, B, D)."""
        return torch.stack([self.target(view) for view in views])

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the target's parameters; batch-norm statistics are not averaged, as in the official code."""
        online: list[Tensor] = [*self.backbone.parameters(), *self.projector.parameters()]
        target: list[Tensor] = list(self.target.parameters())
        torch._foreach_lerp_(target, online, 1 - self.momentum)
