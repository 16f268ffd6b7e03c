"""CutMix: a box of another image is pasted into each image, and its target is mixed in by area.

Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", section 3.1.
In pretraining the online network sees the mixed images, the target network the images as they were; the loss, linear in
the targets, is that of the mixed ones. Tao et al. 2022 report UniGrad with it (74.9 at 800 epochs); how it was set they
do not say, so that probability and alpha are options here.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from converters import distributed


class Mix(NamedTuple):
    """What was pasted.

    Attributes:
        partner: index of the image that each box came from, (N,).
        share: of the image's own area that is left, from 0 to 1.
    """

    partner: Tensor
    share: float

    def blend(self, x: Tensor) -> Tensor:
        """Mix targets by area.

        Args:
            x: of the images as they were, (..., N, D).
        """
        return self.share * x + (1 - self.share) * x[..., self.partner, :]


class CutMix(NamedTuple):
    """Draws what is pasted, once per step.

    Attributes:
        p: probability that anything is.
        alpha: of the Beta distribution of the share that is kept.
    """

    p: float
    alpha: float

    def __call__(self, views: list[Tensor], generator: torch.Generator) -> tuple[list[Tensor], Mix | None]:
        """Paste a box of one place and size into all images of all views; partners are of this process's batch.

        Args:
            views: tensors of shape (N, 3, H, W).
            generator: in the same state on every rank.
        """
        num, height, width = len(views[0]), *views[0].shape[2:]
        seed = int(torch.randint(2**62, (), generator=generator))
        random = np.random.default_rng(seed)  # alike on every rank; partners are not
        if random.random() >= self.p:
            return views, None
        # of a stream of its own: NumPy takes [seed, 0] for seed
        partner = torch.from_numpy(np.random.default_rng([seed, 1 + distributed.rank()]).permutation(num))
        partner = partner.to(views[0].device)
        side = math.sqrt(1 - random.beta(self.alpha, self.alpha))
        rows, columns = _span(height, side, random), _span(width, side, random)
        mixed = []
        for view in views:
            pasted = view.clone()
            pasted[:, :, rows, columns] = view[:, :, rows, columns][partner]
            mixed.append(pasted)
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return mixed, Mix(partner, 1 - area / (height * width))


def _span(length: int, share: float, random: np.random.Generator) -> slice:
    """Where a box lies along one side; its middle may lie anywhere, and what falls outside is cut off."""
    middle, size = int(random.integers(length)), int(length * share)
    return slice(max(0, middle - size // 2), min(length, middle + size // 2))
