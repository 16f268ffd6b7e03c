"""MoCo v2: the first view asks for the second among the keys of earlier batches.

He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning", eq. 1; Chen et al. 2020, "Improved
Baselines with Momentum Contrastive Learning". Official code: facebookresearch/moco.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters import distributed
from converters.errors import InputError
from pretrain.gradients import Gradient, joint, moco_terms
from pretrain.memory_bank import MemoryBank, check_queue
from pretrain.siamese import Batch, Siamese, SiameseConfig


@dataclass
class Config(SiameseConfig):
    """Options of MoCo v2.

    Attributes:
        momentum: of the network that makes the keys (He et al. 2020); None makes them with the trained one.
        queue: number of keys.
        temperature: of the softmax.
        splits: parts of a batch, over all processes, that batch norm normalises apart (8 GPUs in the official code).
    """

    name: str = "moco"
    momentum: float | None = 0.999
    projector_dims: list[int] = field(default_factory=lambda: [2048, 128])
    projector_norm: str = "none"
    queue: int = 65536
    temperature: float = 0.2
    splits: int = 8

    unguided: ClassVar[str | None] = (
        "MoCo's first view is always the query, and the second the key that later queries are told from"
    )

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "queue": (1, 2**31),
        "temperature": (1e-3, 1e3),
        "splits": (1, 2**20),
    }


def info_nce_loss(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each query's own key among its key and the queue, mean.

    He et al. 2020, eq. 1.

    Args:
        q: queries, unit vectors, (N, D).
        k: their keys, unit vectors without gradient, (N, D).
        queue: unit vectors, (K, D).
        temperature: divides the similarities.
    """
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


class Method(Siamese):
    """Queries of the first view and of small crops, keys of the second.

    A query and its key must share no batch statistics, by which the network would know them without looking at the
    image (He et al. 2020, section 3.3). So a batch is normalised in parts, and keys are made in another order than
    queries; in the official code the parts are the processes', here they are the same for any number of processes.

    Args:
        config: options.
        backbone: images to features (B, feature_dim).
        feature_dim: dimension of the features.
    """

    syncs_batch_norm = False
    online_views: ClassVar[list[int] | None] = [0]
    target_views: ClassVar[list[int] | None] = [1]

    def __init__(self, config: Config, backbone: nn.Module, feature_dim: int):
        super().__init__(config, backbone, feature_dim)
        self.temperature, self.splits = config.temperature, config.splits
        self.queue = MemoryBank(config.queue, self.dim)
        self.keys: list[Tensor] = []  # of the step, until it is over: backward needs the queue as it was

    def prepare(self, *, batch_size: int, **recipe: Any) -> None:
        """See `Objective.prepare`."""
        super().prepare(batch_size=batch_size, **recipe)
        check_queue(len(self.queue.rows), batch_size)
        world_size = distributed.world_size()
        if self.splits % world_size or batch_size % self.splits or batch_size < 2 * self.splits:
            raise InputError(
                "objective.splits: expected equal parts of two images or more, as many for each of the "
                f"{world_size} process(es), got {self.splits} parts of {batch_size} images"
            )

    def _project(self, network: Any, views: list[Tensor], *, one_batch: bool) -> Tensor:
        parts = self.splits // distributed.world_size()
        chunks = zip(*(view.chunk(parts) for view in views), strict=True)
        return torch.cat(
            [super(Method, self)._project(network, [*chunk], one_batch=one_batch) for chunk in chunks], dim=1
        )

    def _targets(self, views: list[Tensor], online: Tensor, generator: torch.Generator) -> Tensor:
        """Keys, made of the images of all processes in random order."""
        images, (rank, world_size) = distributed.gather(views[1]), (distributed.rank(), distributed.world_size())
        order = torch.randperm(len(images), generator=generator).to(images.device)
        shuffled = super()._targets([views[0], images[order.chunk(world_size)[rank]]], online, generator)
        keys = distributed.gather(shuffled[0])[order.argsort()]
        return keys.chunk(world_size)[rank][None]

    def compare(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Siamese.compare`."""
        k = F.normalize(batch.target[0], dim=1)
        self.keys.append(k)
        queries = F.normalize(torch.cat([batch.online, batch.local]), dim=-1)
        losses = [info_nce_loss(q, k, self.queue.rows, self.temperature) for q in queries]
        return {"loss": torch.stack(losses).mean()}

    def after_step(self, progress: float) -> None:
        """Move the target, then let the step's keys into the queue."""
        super().after_step(progress)
        for k in self.keys:
            self.queue.put(k)
        self.keys = []

    def gradient(self, batch: Batch) -> Gradient:
        """See `Siamese.gradient`."""
        z = joint(batch.online)
        q, k = F.normalize(z, dim=-1)[0], F.normalize(distributed.gather(batch.target, dim=1)[0], dim=-1)
        return Gradient(*moco_terms(q, k, self.queue.rows, self.temperature), q, z)
