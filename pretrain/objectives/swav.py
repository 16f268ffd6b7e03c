"""SwAV: a view predicts to which prototypes the image's other view was assigned.

Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", eq. 2 to 5. Official
code: facebookresearch/swav.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters import distributed
from converters.errors import InputError
from pretrain.gradients import Gradient, joint, swav_terms
from pretrain.memory_bank import MemoryBank, check_queue
from pretrain.siamese import Batch, Siamese, SiameseConfig


@dataclass
class Config(SiameseConfig):
    """Options of SwAV.

    Attributes:
        prototypes: their number.
        temperature: of the prediction's softmax.
        epsilon: of the assignment's entropy.
        sinkhorn_iterations: of the assignment.
        frozen_steps: first steps in which the prototypes stay as they are (313 at batch 4096, 5005 at 256: an epoch).
        queue: projections of earlier batches, or parts of one, that are assigned too, for small batches (3840 at batch
            256); 0 for none.
        queue_from: step from which on it is filled; it is used once it is full.
    """

    name: str = "swav"
    projector_dims: list[int] = field(default_factory=lambda: [2048, 128])
    projector_norm: str = "hidden"
    prototypes: int = 3000
    temperature: float = 0.1
    epsilon: float = 0.05
    sinkhorn_iterations: int = 3
    frozen_steps: int = 0
    queue: int = 0
    queue_from: int = 0

    unguided: ClassVar[str | None] = (
        "SwAV compares codes with scores: no view's projection is the fixed target of another's"
    )

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "prototypes": (2, 2**24),
        "temperature": (1e-3, 1e3),
        "epsilon": (1e-3, 1e3),
        "sinkhorn_iterations": (1, 1000),
        "frozen_steps": (0, 2**31),
        "queue": (0, 2**31),
        "queue_from": (0, 2**31),
    }


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignments that use all prototypes alike, by the Sinkhorn-Knopp algorithm.

    Caron et al. 2020, eq. 3 to 5.

    Args:
        scores: similarities to the prototypes, (N, K).
        epsilon: the larger, the softer. Computed in logarithms: exp(1 / epsilon) overflows in half precision at the
            published 0.05, and in single precision at less.
        iterations: of normalising prototypes, then images.

    Returns:
        Rows of sum 1; columns of sum N / K, the more closely the more iterations, (N, K).
    """
    num, num_prototypes = scores.shape
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(0) - math.log(num_prototypes)
        log_q = log_q - log_q.logsumexp(1, keepdim=True) - math.log(num)
    return log_q.exp() * num


def swav_loss(scores: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between an image's code and the softmax of another view's scores, mean.

    Caron et al. 2020, eq. 2.

    Args:
        scores: similarities of unit vectors to the prototypes, (N, K).
        codes: from another view, (N, K), without gradient.
        temperature: divides the scores.
    """
    return -(codes * F.log_softmax(scores / temperature, dim=1)).sum(1).mean()


class Method(Siamese):
    """Predicts codes; with a momentum target, the codes are of its projections, by the same prototypes.

    Args:
        config: options.
        backbone: images to features (B, feature_dim).
        feature_dim: dimension of the features.
    """

    one_batch = True
    steps: Tensor

    def __init__(self, config: Config, backbone: nn.Module, feature_dim: int):
        super().__init__(config, backbone, feature_dim)
        self.temperature, self.epsilon, self.iterations = config.temperature, config.epsilon, config.sinkhorn_iterations
        self.frozen_steps, self.queue_size, self.queue_from = config.frozen_steps, config.queue, config.queue_from
        self.prototypes = nn.Linear(self.dim, config.prototypes, bias=False)
        self.queues = nn.ModuleList(MemoryBank(config.queue, self.dim) for _ in range(2 if config.queue else 0))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def prepare(self, *, batch_size: int, num_local: int | None, **recipe: Any) -> None:
        """See `Objective.prepare`."""
        super().prepare(batch_size=batch_size, num_local=num_local, **recipe)
        if num_local is None:
            raise InputError(
                "views.num_local is missing: SwAV's prototypes were published with small crops and without them (74.6 "
                "and 70.1 at 400 epochs); set views.num_local=6 views.local_size=96 (sizes for views of 224), or "
                "views.num_local=0"
            )
        if self.queues:
            check_queue(self.queue_size, batch_size)

    def compare(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Siamese.compare`; the prototypes are put back on the sphere first."""
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        scores = [self.prototypes(F.normalize(z, dim=1)) for z in batch.crops]
        known = scores if self.momentum is None else [None] * len(batch.target)
        batch.codes = torch.stack([self._codes(view, z, known[view]) for view, z in enumerate(batch.target)])
        losses = [
            weight * swav_loss(scores[crop], batch.codes[target], self.temperature)
            for crop, target, weight in batch.pairs()
        ]
        return {"loss": torch.stack(losses).sum()}

    @torch.no_grad()
    def _codes(self, view: int, z: Tensor, scores: Tensor | None) -> Tensor:
        """Codes of this rank's images, assigned together with those of the other ranks and of the queue, (N, K).

        Args:
            view: whose queue is used.
            z: targets, (N, D).
            scores: of the targets, where they are known already, (N, K).
        """
        u = F.normalize(z, dim=1)
        together = distributed.gather(u)
        num = len(together)
        if self.queues:
            queue = self.queues[view]
            assert isinstance(queue, MemoryBank)
            if queue.count >= self.queue_size:
                together = torch.cat([together, queue.rows])
            if self.steps >= self.queue_from:
                queue.put(u)
        if scores is None or len(together) > len(z):
            scores = self.prototypes(together)
        codes = sinkhorn(scores, self.epsilon, self.iterations)[:num]
        return codes.chunk(distributed.world_size())[distributed.rank()]

    def before_step(self) -> None:
        """Leave the prototypes out of the first steps."""
        if self.steps < self.frozen_steps:
            self.prototypes.weight.grad = None

    def after_step(self, progress: float) -> None:
        """Move the target, and count the step."""
        super().after_step(progress)
        self.steps += 1

    def gradient(self, batch: Batch) -> Gradient:
        """See `Siamese.gradient`."""
        assert batch.codes is not None
        z = joint(batch.online)
        u, codes = F.normalize(z, dim=-1)[0], distributed.gather(batch.codes[1])
        return Gradient(*swav_terms(u, self.prototypes.weight, codes, self.temperature), u, z)
