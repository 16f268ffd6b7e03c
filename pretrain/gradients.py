"""What the methods have in common: gradients as a positive term, a negative term, and a balance between them.

Tao et al. 2022, "Exploring the Equivalence of Siamese Self-Supervised Learning via A Unified Gradient Framework",
section 3: whatever the loss, its gradient pulls a projection towards its image's other view (positive term) and pushes
it away from the others', or from directions that are used too much (negative term). Each function here writes the
gradient of one method's loss with respect to what the loss compares: unit vectors u = z / |z| (SimCLR, MoCo, SwAV,
UniGrad), predictions (SimSiam, BYOL), standardised projections (Barlow Twins), the projections themselves (VICReg).
From there the chain rule leads back to the projections, so that terms of all methods can be compared, and their sum is
what autograd gives; the paper leaves that last step out. SwAV, which it does not treat, has the same form.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from converters import distributed


@dataclass(frozen=True)
class Gradient:
    """The gradient of a loss with respect to what it compares, times the number of images.

    Attributes:
        positive: towards the image's other view, (N, D).
        negative: away from others, (N, D).
        balance: factor of the negative term, a scalar or one per image, (N, 1).
        compared: what the loss compares, of the first view, (N, D), with its graph back to `projections`.
        projections: that it was computed from, (V, N, D).
    """

    positive: Tensor
    negative: Tensor
    balance: Tensor
    compared: Tensor
    projections: Tensor

    def pulled_back(self) -> tuple[Tensor, Tensor]:
        """Both terms with respect to the first view's projections, the negative one times the balance, (N, D) each."""
        positive, negative = (
            torch.autograd.grad(self.compared, self.projections, term, retain_graph=True)[0][0].detach()
            for term in (self.positive, self.balance * self.negative)
        )
        return positive, negative


def describe(gradient: Gradient, loss_scale: float = 1.0) -> dict[str, Tensor]:
    """What is logged of a gradient: root mean square norms of its terms per image, their angle, and the balance.

    The angle, in degrees, is that between the terms of the whole batch, each taken as one vector: where both cancel it
    is 180.

    Args:
        gradient: of the loss before it is scaled.
        loss_scale: its scale.
    """
    positive, negative = (loss_scale * term for term in gradient.pulled_back())
    cosine = F.cosine_similarity(positive.flatten(), negative.flatten(), dim=0)
    return {
        "positive_norm": positive.norm() / math.sqrt(len(positive)),
        "negative_norm": negative.norm() / math.sqrt(len(negative)),
        "terms_angle": cosine.clamp(-1, 1).acos().rad2deg(),
        "balance": gradient.balance.detach().mean(),
    }


def alignment(z: Tensor, other: Tensor) -> Tensor:
    """Mean squared distance of an image's two unit vectors, from 0 to 4.

    Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere", section 4.1, with their exponent 2.

    Args:
        z: projections, (N, D).
        other: of the same images, (N, D).
    """
    return (F.normalize(z.detach(), dim=1) - F.normalize(other.detach(), dim=1)).square().sum(1).mean()


def uniformity(z: Tensor) -> Tensor:
    """Logarithm of the mean of exp(-2 |u - v|^2) over pairs of different images: 0 in one point, lower when spread.

    Wang & Isola 2020, section 4.1, with their t = 2. Over the images of all processes.

    Args:
        z: projections, (N, D), N > 1.
    """
    u = F.normalize(distributed.gather(z), dim=1)
    potential = (4 * (u @ u.T - 1)).exp()
    num = len(u)
    return ((potential.sum() - potential.diagonal().sum()) / (num * (num - 1))).log()


def joint(projections: Tensor) -> Tensor:
    """Projections of the images of all processes, (V, N, D), as the start of a graph of their own."""
    return distributed.gather(projections, dim=1).requires_grad_()


def asymmetric_terms(p: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of -cos(p, t) with respect to the prediction: (-t / |t| + cos(p, t) p / |p|) / |p|.

    With a linear predictor p = W z and the factor W^T it is Tao et al. 2022, section 3, asymmetric networks.

    Args:
        p: predictions, (N, D).
        target: unit vectors, or what CutMix made of them, (N, D).
    """
    p = p.detach()
    length, direction = p.norm(dim=1, keepdim=True), F.normalize(p, dim=1)
    return -target / length, direction / length, (direction * target).sum(1, keepdim=True)


def nt_xent_terms(u: Tensor, target: Tensor, temperature: float, *, own: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of NT-Xent, the mean over both views' anchors, with respect to the first view (Tao et al. 2022, section 3).

    Args:
        u: unit vectors of both views, (2, N, D).
        target: that they are compared with, (2, N, D).
        temperature: of the softmax.
        own: the targets are the network's own, so that the first view is also a candidate for the other anchors.
    """
    u, target = u.detach(), target.detach()
    num = u.shape[1]
    candidates = torch.cat([target[1], target[0]])  # of the first view's anchors: positives, then the view's own
    scores = _softmax_without(u[0] @ candidates.T, num, temperature)
    pull, push = target[1], scores @ candidates
    if own:
        back = _softmax_without(u[1] @ torch.cat([target[0], target[1]]).T, num, temperature)
        pull = pull + u[1]
        # as a candidate: for the second view's anchors, and for its own view's
        push = push + back[:, :num].T @ u[1] + scores[:, num:].T @ u[0]
    return -pull / (2 * temperature), push / (2 * temperature), u.new_ones(())


def _softmax_without(similarities: Tensor, num: int, temperature: float) -> Tensor:
    """Softmax over candidates, of which the second half holds each anchor itself once."""
    logits = similarities / temperature
    logits[:, num:].fill_diagonal_(-torch.inf)
    return logits.softmax(1)


def moco_terms(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of InfoNCE with a queue with respect to the query (Tao et al. 2022, section 3).

    Args:
        q: queries, unit vectors, (N, D).
        k: their keys, (N, D).
        queue: other keys, (K, D).
        temperature: of the softmax.
    """
    q = q.detach()
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / temperature
    scores = logits.softmax(1)
    return -k / temperature, (scores[:, :1] * k + scores[:, 1:] @ queue) / temperature, q.new_ones(())


def swav_terms(u: Tensor, prototypes: Tensor, codes: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of the cross-entropy to soft codes with respect to the unit vector: towards its code's prototypes, from its own.

    Args:
        u: unit vectors, (N, D).
        prototypes: (K, D).
        codes: of the image's other view, (N, K).
        temperature: of the softmax.
    """
    prototypes = prototypes.detach()
    scores = (u.detach() @ prototypes.T / temperature).softmax(1)
    # the mean over two targets, of which the first view is compared with one
    return -codes @ prototypes / (2 * temperature), scores @ prototypes / (2 * temperature), u.new_ones(())


def barlow_twins_terms(x: Tensor, y: Tensor, off_diagonal: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of the cross-correlation's loss with respect to the first view, standardised (Tao et al. 2022, section 3).

    Args:
        x: standardised projections of the first view, (N, D).
        y: of the second, (N, D).
        off_diagonal: weight of the off-diagonal elements, the balance.
    """
    x, y = x.detach(), y.detach()
    num = len(x)
    diagonal = (x * y).sum(0) / num
    positive = -2 * (1 - (1 - off_diagonal) * diagonal) * y
    return positive, 2 * (y @ y.T / num) @ x, x.new_tensor(off_diagonal)


def vicreg_terms(
    z: Tensor, other: Tensor, invariance: float, variance: float, covariance: float, *, own: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of VICReg with respect to the first view.

    Tao et al. 2022, section 3; here all but the pull towards the other view is in the negative term, with its weights.

    Args:
        z: projections of the first view, (N, D).
        other: of the second view, (N, D).
        invariance: weight of the squared distance.
        variance: weight of the hinge on the deviations.
        covariance: weight of the squared covariances.
        own: the second view has a gradient as well, so that the first is also its target.
    """
    z = z.detach()
    num, dim = z.shape
    centred = z - z.mean(0)
    matrix = centred.T @ centred / (num - 1)
    deviation = (matrix.diagonal() + 1e-4).sqrt()
    hinge = torch.where(deviation < 1, 1 / deviation, 0) * centred * num / (2 * dim * (num - 1))
    correlated = 4 * num / (dim * (num - 1)) * centred @ (matrix - matrix.diagonal().diag())
    pull = (2 if own else 1) * invariance / dim
    return -pull * other, pull * z - variance * hinge + covariance * correlated, z.new_ones(())


def unigrad_terms(u: Tensor, target: Tensor, correlation: Tensor, balance: float) -> tuple[Tensor, Tensor, Tensor]:
    """UniGrad itself, -t + lambda F u.

    Args:
        u: unit vectors, (N, D).
        target: of the image's other view, (N, D).
        correlation: F, (D, D).
        balance: lambda.
    """
    return -target, u.detach() @ correlation, u.new_tensor(balance)
