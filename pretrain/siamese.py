"""What all methods share: views, two branches, and the form of a comparison between an image's own views.

Every method here embeds two (or four) views of each image, and small crops beside them where the recipe has such
(multi-crop), and compares each view with the image's others. What differs is the comparison, a file of its own in
`pretrain/objectives/`, and its settings. The other branch of a comparison is the network itself or, for any method, a
moving average of it.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from converters.errors import InputError, check_range, unknown
from pretrain.cutmix import CutMix, Mix
from pretrain.gradients import Gradient, alignment, describe, uniformity
from pretrain.guidance import MODES, full
from pretrain.heads import NORMS, build_projector
from pretrain.objectives import Objective

SCHEDULES = ("constant", "cosine")


@dataclass
class SiameseConfig:
    """What all methods have in common.

    Attributes:
        guidance: see pretrain/asymmetric.py; ``symmetric`` is the method without guidance.
        momentum: of the moving average that makes the targets; None takes the network's own projections.
        momentum_schedule: ``constant``, or ``cosine`` from `momentum` to 1 over the run (Grill et al. 2020).
        projector_dims: widths of the projector's layers after the backbone's features.
        projector_norm: batch norm after ``every`` layer of the projector, after the ``hidden`` ones, or ``none``.
        projector_affine: learn scale and shift in the batch norm after the last layer.
        projector_bias: a bias in the last layer, where no batch norm follows it.
        loss_scale: factor of the loss, which counts for what an optimiser does not normalise: sum or mean over views,
            and gradients that official code divides by the number of processes.
    """

    guidance: str = "symmetric"
    momentum: float | None = None
    momentum_schedule: str = "constant"
    projector_dims: list[int] = field(default_factory=lambda: [2048, 2048, 2048])
    projector_norm: str = "every"
    projector_affine: bool = False
    projector_bias: bool = True
    loss_scale: float = 1.0

    # why the method cannot be guided; None where it can
    unguided: ClassVar[str | None] = None
    # lowest and highest value of options; a subclass names those of its own
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"momentum": (0, 1), "loss_scale": (1e-9, math.inf)}

    def __post_init__(self) -> None:
        """Refuse what no recipe can mean.

        Raises:
            InputError: an unknown choice, a number out of range, or guidance of a method that has no place for it.
        """
        if self.guidance not in MODES:
            raise unknown("guidance", self.guidance, MODES)
        if self.unguided is not None and self.guidance != "symmetric":
            raise InputError(f"objective.guidance={self.guidance}: expected symmetric, since {self.unguided}")
        if self.projector_norm not in NORMS:
            raise unknown("projector_norm", self.projector_norm, NORMS)
        if self.momentum_schedule not in SCHEDULES:
            raise unknown("momentum_schedule", self.momentum_schedule, SCHEDULES)
        if len(self.projector_dims) < 2 or min(self.projector_dims) < 1:
            raise InputError(
                f"objective.projector_dims: expected two or more positive widths, got {self.projector_dims}"
            )
        for kind in type(self).__mro__:
            for name, (low, high) in vars(kind).get("ranges", {}).items():
                if getattr(self, name) is not None:
                    check_range(f"objective.{name}", getattr(self, name), low, high)


@dataclass
class Batch:
    """Projections of a batch, in single precision or better.

    Attributes:
        online: of the views that the network embedded, (V, N, D).
        local: of the small crops, or what is predicted from them, (L, N, D).
        target: what views are compared with, (V, N, D): `online` itself, or without gradient the target network's.
        mix: what was pasted into the images of `online`, or None.
        predictions: of `online`, where the method has a predictor.
        sources: which views predict, where the method can be guided, (T, N).
        codes: soft assignments of the targets to prototypes, where the method has such, (V, N, K).
    """

    online: Tensor
    local: Tensor
    target: Tensor
    mix: Mix | None = None
    predictions: Tensor | None = None
    sources: Tensor | None = None
    codes: Tensor | None = None

    @property
    def crops(self) -> list[Tensor]:
        """Projections of all that the network embedded, views first."""
        return [*self.online, *self.local]

    def pairs(self, *, mutual: bool = False) -> Iterator[tuple[int, int, float]]:
        """Every comparison: of a view or small crop with another view of the image.

        Caron et al. 2020, eq. 6, as a mean over the targets of the mean over all other crops, as in the official code.

        Args:
            mutual: a comparison of two views is the same in both directions, and is made once.

        Yields:
            The index of the crop, that of the target, and the weight; the weights' sum is 1.
        """
        num_targets, num_crops = len(self.target), len(self.online) + len(self.local)
        weight = 1 / (num_targets * (num_crops - 1))
        for target in range(num_targets):
            for crop in range(num_crops):
                both = mutual and crop < num_targets
                if crop != target and not (both and crop > target):
                    yield crop, target, 2 * weight if both else weight


class Siamese(Objective):
    """Compares the projections of an image's views.

    A method gives `compare`, and `gradient` where the gradient can be written in UniGrad's form.

    Args:
        config: options.
        backbone: images to features (B, feature_dim).
        feature_dim: dimension of the features.

    Attributes:
        one_batch: views of one size are one batch to batch norm, as in the official code, instead of one each.
        mixes: whether the loss is linear in the targets, so that CutMix can mix them.
        online_views: indices of the views that the network embeds; None for all.
        target_views: indices of the views that are targets; None for all.
    """

    num_views = 2
    one_batch: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    online_views: ClassVar[list[int] | None] = None
    target_views: ClassVar[list[int] | None] = None

    def __init__(self, config: SiameseConfig, backbone: nn.Module, feature_dim: int):
        super().__init__()
        self.backbone = backbone
        self.projector = build_projector(
            feature_dim,
            config.projector_dims,
            norm=config.projector_norm,
            last_affine=config.projector_affine,
            last_bias=config.projector_bias,
        )
        self.dim = config.projector_dims[-1]
        self.momentum, self.momentum_schedule = config.momentum, config.momentum_schedule
        self.loss_scale = config.loss_scale
        self.cutmix: CutMix | None = None
        self.logs_gradients = False
        if self.momentum is not None:
            self.target = copy.deepcopy(nn.Sequential(self.backbone, self.projector)).requires_grad_(False)

    def prepare(self, *, batch_size: int, num_local: int | None, cutmix: CutMix | None, gradients: bool) -> None:
        """See `Objective.prepare`."""
        if cutmix and not self.mixes:
            raise InputError(
                "views.cutmix_p: this objective's loss is not linear in its targets, so that they cannot be "
                "mixed; set it to 0, or choose simsiam, byol or unigrad"
            )
        if cutmix and self.momentum is None:
            raise InputError(
                "views.cutmix_p: the targets are of images that nothing was pasted into, which takes a "
                "network beside the trained one; set objective.momentum, or views.cutmix_p=0"
            )
        if gradients and (num_local or cutmix):
            raise InputError(
                "monitor.gradients: the terms are written for views of the usual size without CutMix; set "
                "views.num_local=0 and views.cutmix_p=0, or monitor.gradients=false"
            )
        self.cutmix, self.logs_gradients = cutmix, gradients

    def forward(self, views: list[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """See `Objective.forward`."""
        batch = self.embed(views, generator)
        self.projections = batch.online[0].detach()
        # in half precision norms, logits and differences of distances lose their digits
        with torch.autocast(batch.online.device.type, enabled=False):
            scalars = self.compare(batch, generator)
            if self.logs_gradients and self.is_read:
                scalars |= describe(self.gradient(batch), self.loss_scale)
                scalars["alignment"] = alignment(batch.online[0], (*batch.online, *batch.target)[1])
                scalars["uniformity"] = uniformity(batch.online[0])
        return {**scalars, "loss": self.loss_scale * scalars["loss"]}

    def embed(self, views: list[Tensor], generator: torch.Generator) -> Batch:
        """Projections of both branches."""
        clean, local = views[: self.num_views], views[self.num_views :]
        mixed, mix = self.cutmix(clean, generator) if self.cutmix else (clean, None)
        online = self._project(self._online, _chosen(mixed, self.online_views), one_batch=self.one_batch)
        small = self._project(self._online, local, one_batch=True) if local else online.new_empty(0, *online.shape[1:])
        return Batch(full(online), full(small), full(self._targets(clean, online, generator)), mix)

    def _online(self, view: Tensor) -> Tensor:
        z: Tensor = self.projector(self.backbone(view))
        return z

    def _project(self, network: Any, views: list[Tensor], *, one_batch: bool) -> Tensor:
        """Projections, (V, B, D); a view is a batch of its own to batch norm, unless all are to be one."""
        if one_batch:
            z: Tensor = network(torch.cat(views))
            return z.view(len(views), -1, z.shape[1])
        return torch.stack([network(view) for view in views])

    def _targets(self, views: list[Tensor], online: Tensor, generator: torch.Generator) -> Tensor:
        """Projections of the target network, which normalises with its own batch statistics, or the online ones."""
        if self.momentum is None and self.target_views == self.online_views:
            return online
        with torch.no_grad():
            network = self._online if self.momentum is None else self.target
            return self._project(network, _chosen(views, self.target_views), one_batch=self.one_batch)

    def compare(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss without its scale, and statistics to be logged.

        Args:
            batch: projections; what `gradient` needs beside them is added to it.
            generator: see `Objective.forward`.
        """
        raise NotImplementedError

    def gradient(self, batch: Batch) -> Gradient:
        """The gradient of the loss with respect to the first view's projections, see pretrain/gradients.py."""
        raise NotImplementedError

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the target's parameters; batch-norm statistics are not averaged, as in the official code."""
        if self.momentum is None:
            return
        share = 1 - self.momentum
        if self.momentum_schedule == "cosine":
            share *= (1 + math.cos(math.pi * progress)) / 2
        online: list[Tensor] = [*self.backbone.parameters(), *self.projector.parameters()]
        target: list[Tensor] = list(self.target.parameters())
        torch._foreach_lerp_(target, online, share)


def _chosen(views: list[Tensor], indices: list[int] | None) -> list[Tensor]:
    return views if indices is None else [views[index] for index in indices]
