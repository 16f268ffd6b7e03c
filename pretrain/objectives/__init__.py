"""Objectives: one file per method, found by its file name.

A file holds a dataclass ``Config`` and a class ``Method(config, backbone, feature_dim)`` derived from `Objective`. To
add a method, add a file.
"""

from typing import Any

import torch
from torch import Tensor, nn

from converters.plugins import plugins
from pretrain.cutmix import CutMix


class Objective(nn.Module):
    """What is minimised, with all that is thrown away after pretraining: heads, momentum target, queue, ...

    Everything lives in modules and buffers, so that one state dict resumes a run.

    Attributes:
        backbone: the network that is kept: images (B, 3, H, W) to features (B, D).
        num_views: views per image that `forward` expects, beside small crops where the recipe has such.
        syncs_batch_norm: whether batch norm is to be synchronised among processes.
        is_read: whether the numbers of the step are going to be read; set by the loop, for what is costly to know.
        projections: of the last batch's first views, (B, D), detached: what the collapse watch looks at.
    """

    backbone: nn.Module
    num_views: int
    syncs_batch_norm: bool = True
    is_read: bool = True
    projections: Tensor | None = None

    def prepare(self, *, batch_size: int, num_local: int | None, cutmix: CutMix | None, gradients: bool) -> None:
        """Take what the rest of the recipe asks of the objective.

        Args:
            batch_size: images of a forward pass, over all processes.
            num_local: small crops per image; None where the recipe does not say.
            cutmix: how to paste boxes of other images into each, or None.
            gradients: log alignment, uniformity, and the gradient's terms.

        Raises:
            InputError: the objective cannot do that; the message says why.
        """

    def forward(self, views: list[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Losses and statistics of a batch.

        Args:
            views: `num_views` tensors of shape (B, 3, H, W), row i of each from image i, then those of the small crops.
            generator: for the objective's own random choices; in the same state on every rank.

        Returns:
            Scalars: ``"loss"`` is minimised, the rest is logged.
        """
        raise NotImplementedError

    def before_step(self) -> None:
        """Change gradients between the backward passes and the optimiser's step."""

    def after_step(self, progress: float) -> None:
        """Move momentum targets and schedules after an optimiser step.

        Args:
            progress: share of the run that is finished, from 0 to 1.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Which parameters get which rate: dicts with ``"params"`` and ``"fixed_lr"`` (follows no schedule if true)."""
        return [{"params": [x for x in self.parameters() if x.requires_grad], "fixed_lr": False}]


names, find = plugins(__name__, "objective")
