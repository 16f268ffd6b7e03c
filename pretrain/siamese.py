"""What SimSiam and BYOL share: backbone, projector, predictor, and a loss between an image's own views."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from converters.errors import InputError, unknown
from pretrain.guidance import MODES, PAIRS, guided_loss, select_sources, statistics
from pretrain.heads import build_predictor, build_projector
from pretrain.objectives import Objective


@dataclass
class SiameseConfig:
    """What SimSiam and BYOL have in common.

    Attributes:
        guidance: ``guided`` (closest pair predicts), ``random`` (any pair), ``reverse`` (the pair opposite to the
            closest one), or ``symmetric`` (every view predicts: the method without guidance).
        views: 4 fresh views per image and step (the official GSG code), or 2 that serve both of an image's pairs.
        pairs: partners are drawn in this process's batch (the official code) or in that of all processes (the paper).
        predictor: False takes p = z (Lee & Lee 2023, 6.2).
        projector_dims: widths of the projector's layers after the backbone's features.
        projector_affine: learn scale and shift in the batch norm after the last layer.
        predictor_dim: width of the predictor's hidden layer.
    """

    guidance: str = "guided"
    views: int = 4
    pairs: str = "local"
    predictor: bool = True
    projector_dims: list[int] = field(default_factory=lambda: [2048, 2048, 2048])
    projector_affine: bool = False
    predictor_dim: int = 512

    def __post_init__(self) -> None:
        """Refuse what no recipe can mean.

        Raises:
            InputError: an unknown choice, or a number out of range.
        """
        if self.guidance not in MODES:
            raise unknown("guidance", self.guidance, MODES)
        if self.pairs not in PAIRS:
            raise unknown("pairs", self.pairs, PAIRS)
        if self.views not in (2, 4):
            raise InputError(f"objective.views: expected 2 or 4, got {self.views}")
        if len(self.projector_dims) < 2 or min(self.projector_dims) < 1:
            raise InputError(
                f"objective.projector_dims: expected two or more positive widths, got {self.projector_dims}"
            )
        if self.predictor_dim < 1:
            raise InputError(f"objective.predictor_dim: expected a positive width, got {self.predictor_dim}")


class Siamese(Objective):
    """Predicts the projection of an image's one view from that of its other; what the targets are is the method's.

    Args:
        config: options.
        backbone: images to features (B, feature_dim).
        feature_dim: dimension of the features.
    """

    def __init__(self, config: SiameseConfig, backbone: nn.Module, feature_dim: int):
        super().__init__()
        self.num_views = config.views
        self.guidance, self.pairs = config.guidance, config.pairs
        self.backbone = backbone
        dims = config.projector_dims
        self.projector = build_projector(feature_dim, dims, last_affine=config.projector_affine)
        self.predictor = build_predictor(dims[-1], config.predictor_dim) if config.predictor else nn.Identity()

    def forward(self, views: list[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """See `Objective.forward`. Each view is a forward pass of its own, and so a batch of its own to batch norm."""
        online = torch.stack([self.projector(self.backbone(view)) for view in views])
        p = torch.stack([self.predictor(z_view) for z_view in online])
        z = self.targets(views, online)
        self.projections = online[0].detach()
        selection = select_sources(z, self.guidance, self.pairs, generator)
        return {"loss": guided_loss(p, z, selection.sources), **statistics(selection)}

    def targets(self, views: list[Tensor], online: Tensor) -> Tensor:
        """Projections that are predicted, and whose distances guide, (V, B, D).

        Args:
            views: `num_views` tensors of shape (B, 3, H, W).
            online: their projections by the online network, (V, B, D).
        """
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The predictor is a group of its own, since its rate may be fixed (Chen & He 2021, 4.1)."""
        return [
            {"params": [*self.backbone.parameters(), *self.projector.parameters()], "fixed_lr": False},
            {"params": list(self.predictor.parameters()), "fixed_lr": True},
        ]
