"""What SimSiam and BYOL share: a predictor before the comparison with targets that have no gradient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from converters.errors import unknown
from pretrain.directpred import DirectPredictor
from pretrain.gradients import Gradient, asymmetric_terms
from pretrain.guidance import full, guided_loss, other_views, statistics
from pretrain.guided import Guided, GuidedConfig, share_of_first_view
from pretrain.heads import build_predictor
from pretrain.siamese import Batch

PREDICTORS = ("directpred", "mlp", "none")


@dataclass
class AsymmetricConfig(GuidedConfig):
    """Options of methods with a predictor.

    Attributes:
        predictor: ``mlp``; ``none`` takes p = z (Lee & Lee 2023, 6.2); ``directpred`` is a matrix that is computed, not
            trained (Tian et al. 2021, see pretrain/directpred.py).
        predictor_dim: width of the mlp's hidden layer.
        directpred_momentum: of the correlation's moving average (facebookresearch/luckmatters, README: 0.3;
            fundamentalvision/UniGrad on ImageNet: 0.99).
        directpred_eps: added to the eigenvalues (the same sources: 0.01, and 0.3).
        directpred_every: steps between two computations of the matrix (the same sources: 1).
    """

    predictor: str = "mlp"
    predictor_dim: int = 512
    directpred_momentum: float = 0.3
    directpred_eps: float = 0.01
    directpred_every: int = 1

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "predictor_dim": (1, 2**20),
        "directpred_momentum": (0, 1),
        "directpred_eps": (0, 10),
        "directpred_every": (1, 2**31),
    }

    def __post_init__(self) -> None:
        """Refuse what no recipe can mean.

        Raises:
            InputError: an unknown choice, or a number out of range.
        """
        super().__post_init__()
        if self.predictor not in PREDICTORS:
            raise unknown("predictor", self.predictor, PREDICTORS)


class Asymmetric(Guided):
    """Predicts the projection of an image's one view from that of its other.

    Args:
        config: options.
        backbone: images to features (B, feature_dim).
        feature_dim: dimension of the features.
    """

    def __init__(self, config: AsymmetricConfig, backbone: nn.Module, feature_dim: int):
        super().__init__(config, backbone, feature_dim)
        self.predictor: nn.Module = nn.Identity()
        if config.predictor == "mlp":
            self.predictor = build_predictor(self.dim, config.predictor_dim)
        elif config.predictor == "directpred":
            self.predictor = DirectPredictor(
                self.dim, config.directpred_momentum, config.directpred_eps, config.directpred_every
            )

    def embed(self, views: list[Tensor], generator: torch.Generator) -> Batch:
        """See `Siamese.embed`; each view is a batch of its own to the predictor's batch norm."""
        batch = super().embed(views, generator)
        if isinstance(self.predictor, DirectPredictor):
            self.predictor.update(batch.online)
        batch.predictions = full(torch.stack([self.predictor(z_view) for z_view in batch.online]))
        if len(batch.local):
            batch.local = full(self.predictor(batch.local.flatten(0, 1))).view_as(batch.local)
        return batch

    def compare(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Siamese.compare`."""
        assert batch.predictions is not None
        batch.target = self.stop(batch.target)
        selection = self.choose(batch, generator)
        loss = guided_loss(batch.predictions, batch.target, selection.sources, batch.local, batch.mix)
        return {"loss": loss, **statistics(selection)}

    def stop(self, target: Tensor) -> Tensor:
        """The stop-gradient."""
        return target.detach()

    def gradient(self, batch: Batch) -> Gradient:
        """See `Siamese.gradient`; of this process's images, since batch norm in the predictor joins them."""
        assert batch.predictions is not None
        assert batch.sources is not None
        p, share = batch.predictions[0], share_of_first_view(batch.sources)
        positive, negative, balance = asymmetric_terms(p, other_views(batch.target)[0])
        return Gradient(share * positive, share * negative, balance, p, batch.online)

    def after_step(self, progress: float) -> None:
        """See `Siamese.after_step`; a computed predictor's correlation moves too."""
        super().after_step(progress)
        if isinstance(self.predictor, DirectPredictor):
            self.predictor.correlation.step()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The predictor is a group of its own, since its rate may be fixed (Chen & He 2021, 4.2)."""
        return [
            {"params": [*self.backbone.parameters(), *self.projector.parameters()], "fixed_lr": False},
            {"params": list(self.predictor.parameters()), "fixed_lr": True},
        ]
