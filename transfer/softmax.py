"""Cross-entropy of many linear problems on the same features: values, gradients, and a stand-in for the Hessian.

Softmax of K outputs, or the logistic function of one. The features are (D + 1, N), a column per example, with a row of
ones for the intercept: in this layout both products with them are fastest. Weights are (Q, K, D + 1), the
intercept last.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

# Leading directions of the features that get a curvature of their own. Iterations of a prototype at 8,000 x 512
# features: 324 with 32 of them, 312 with 64, 293 with 128, 290 with all; at 8,000 x 2,048: 279 with 128.
NUM_DIRECTIONS = 64


class Directions:
    """The leading principal directions of the features, and the intercept as one more.

    Found by two steps of a subspace iteration from random ones (Halko, Martinsson and Tropp 2011): they need not be
    exact, only orthogonal.

    Attributes:
        vectors: (D + 1, R + 1), orthonormal.
        squares: of every example's component along each of them, and, last, the mean over the directions that are left,
            (N, R + 2).
    """

    def __init__(self, features: Tensor):
        dim, num = features.shape[0] - 1, features.shape[1]
        rank = min(NUM_DIRECTIONS, dim, num)
        generator = torch.Generator().manual_seed(0)  # of the CPU: the same directions on every device
        vectors = torch.randn(dim, rank, generator=generator, dtype=features.dtype).to(features.device)
        for _ in range(2):
            vectors = torch.linalg.qr(features[:-1] @ (features[:-1].T @ vectors)).Q
        along = features[:-1].T @ vectors
        vectors = vectors @ torch.linalg.eigh(along.T @ along).eigenvectors
        self.vectors = vectors.new_zeros(dim + 1, rank + 1)
        self.vectors[:-1, :-1], self.vectors[-1, -1] = vectors, 1
        squares = (features.T @ self.vectors).square_()
        left = torch.linalg.vector_norm(features, dim=0).square_() - squares.sum(1)
        self.squares = torch.cat([squares, left.clamp_min_(0)[:, None] / max(dim - rank, 1)], 1)


class Problems:
    """Q problems with K outputs each.

    Args:
        features: (D + 1, N).
        targets: classes of every problem, -1 for a row that is left out, (Q, N).
        num_classes: of every problem, (Q,); all 2 for binary problems, which have one output.
    """

    def __init__(self, features: Tensor, targets: Tensor, num_classes: Tensor):
        self.features = features
        self._binary = int(num_classes.max()) == 2
        used = targets[:, None] >= 0
        self.num_examples = used.sum((1, 2))
        self._used = None if bool(used.all()) else used.to(features.dtype)
        self._classes = targets[:, None].clamp_min(0)
        self._signs = (1 - 2 * self._classes).to(features.dtype) if self._binary else None
        self._ones = features.new_ones(1, 1, 1).expand(self._classes.shape)
        # a probability whose square is still a normal number: denormal ones make everything several times slower
        self._least = math.log(torch.finfo(features.dtype).tiny) / 2
        outputs = torch.arange(1 if self._binary else int(num_classes.max()), device=features.device)
        self.missing = (outputs >= num_classes[:, None])[..., None]  # (Q, K, 1)
        self._any_missing = bool(self.missing.any())

    def start(self) -> Tensor:
        """Zero weights with the best intercepts, (Q, K, D + 1)."""
        num_problems, num_outputs = self.missing.shape[:2]
        weights = self.features.new_zeros(num_problems, num_outputs, self.features.shape[0])
        used = self._ones if self._used is None else self._used
        if self._signs is not None:
            weights[..., -1] = torch.logit((used * (self._signs < 0)).sum(2) / used.sum(2))
            return weights
        counts = torch.stack([(used * (self._classes == k)).sum((1, 2)) for k in range(num_outputs)], 1)[..., None]
        logs = counts.log().masked_fill_(self.missing, 0)
        means = logs.sum(1, keepdim=True) / (~self.missing).sum(1, keepdim=True)  # softmax does not see them
        weights[..., -1:] = (logs - means).masked_fill_(self.missing, 0)
        return weights

    def logits(self, weights: Tensor) -> Tensor:
        """(Q, K, N)."""
        return (weights.flatten(0, 1) @ self.features).view(*weights.shape[:2], -1)

    def losses(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy, (Q,) float64, and its gradient in the logits, (Q, K, N)."""
        if self._signs is not None:
            wrong = (logits * self._signs).clamp_min_(self._least)
            each, residuals = softplus(wrong), torch.sigmoid(wrong).mul_(self._signs)
        else:
            if self._any_missing:
                logits = logits.masked_fill(self.missing, -torch.inf)
            largest = logits.amax(1, keepdim=True)
            residuals = (logits - largest).clamp_min_(self._least).exp_()
            totals = residuals.sum(1, keepdim=True)
            # per example, so that of two large numbers only their difference is summed
            each = totals.log() + (largest - logits.gather(1, self._classes))
            residuals.div_(totals).scatter_add_(1, self._classes, -self._ones)
        if self._used is not None:
            each, residuals = each * self._used, residuals.mul_(self._used)
        return each.sum((1, 2), dtype=torch.float64), residuals

    def gradients(self, residuals: Tensor) -> Tensor:
        """Of the summed cross-entropy, (Q, K, D + 1)."""
        return (residuals.flatten(0, 1) @ self.features.T).view(*residuals.shape[:2], -1)

    def preconditioner(self, residuals: Tensor, penalty: Tensor, directions: Directions) -> Callable[[Tensor], Tensor]:
        """Inverse of the Hessian's diagonal in a basis where it is close to one: H0 on (Q, any number, K (D + 1)).

        The basis is the product of the features' directions and of the eigenvectors of ``sum diag(p) - p p'``, the
        Hessian in the intercepts. Directions beyond the leading ones share their mean curvature.

        Args:
            residuals: gradient in the logits where the Hessian is wanted, (Q, K, N).
            penalty: what it adds to the Hessian's diagonal, (D + 1,); 0 for the intercept.
            directions: of the features.
        """
        mixing, spread = self._mixing(residuals)
        curvatures = (spread.flatten(0, 1) @ directions.squares).view(*spread.shape[:2], -1)
        curvatures += torch.cat([penalty[:1].expand(curvatures.shape[-1] - 2), penalty[-1:], penalty[:1]])
        floor = torch.finfo(curvatures.dtype).eps * curvatures.amax((1, 2), keepdim=True)
        inverse = curvatures.maximum(floor).reciprocal_()
        if self._signs is None:  # the last directions are not to be gone along
            last = inverse.shape[1] - 1 - self.missing.sum(1, keepdim=True)
            inverse *= torch.arange(inverse.shape[1], device=inverse.device)[:, None] < last
        left, own = inverse[:, None, :, -1:], inverse[:, None, :, :-1] - inverse[:, None, :, -1:]

        def precondition(vectors: Tensor) -> Tensor:
            mixed = mixing.mT @ vectors.view(*vectors.shape[:2], inverse.shape[1], -1)
            parts = (mixed @ directions.vectors).mul_(own)
            mixed = (mixed * left).add_(parts @ directions.vectors.T)
            flat: Tensor = (mixing @ mixed).flatten(2)
            return flat

        return precondition

    def _mixing(self, residuals: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvectors as columns, (Q, 1, K, K), and the variance of every example's class along them, (Q, K, N)."""
        if self._signs is not None:
            p = residuals.abs()
            return p.new_ones(len(p), 1, 1, 1), p * (1 - p)
        used = self._ones if self._used is None else self._used
        p = residuals.scatter_add(1, self._classes, used)
        curvature = torch.diag_embed(p.sum(2)) - p @ p.mT
        # equal weights of all outputs change nothing, and missing outputs have none: these directions come last
        constant = (~self.missing).to(p) / (~self.missing).sum(1, keepdim=True).sqrt()
        idle = constant @ constant.mT + torch.diag_embed(self.missing[..., 0].to(p))
        vectors = torch.linalg.eigh(curvature + 2 * p.shape[2] * idle).eigenvectors
        spread = (vectors.square().mT @ p).sub_((vectors.mT @ p).square_()).clamp_min_(0)
        return vectors[:, None], spread
