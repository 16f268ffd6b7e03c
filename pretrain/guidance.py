"""Guided Stop-Gradient: which of an image's views predicts (the source) and which is predicted (the target).

Lee & Lee 2023, "Implicit Contrastive Representation Learning with Guided Stop-gradient", section 4. Each image is
paired with another one; of the four distances between the projections of the one's views and of the other's, the
closest two views become sources, so that pulling each towards its own image's other view pushes the images apart.

Views are numbered so that view ``v`` and view ``v ^ 1`` belong together: (0, 1), and (2, 3) where there are four.
A selection is a tensor of view indices; given it, the loss of a pair separates into one term per image, and the
partner has no gradient. Any method with a stop-gradient can use it.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from converters import distributed
from pretrain.cutmix import Mix

MODES = ("guided", "random", "reverse", "symmetric")
PAIRS = ("local", "global")


class Selection(NamedTuple):
    """Which views predict.

    Attributes:
        sources: view indices, (T, N): one row per loss term of an image.
        choices: share of each of the four pairs among those chosen, (4,); None without guidance.
        self_pairs: share of images that were their own partner; None without guidance.
    """

    sources: Tensor
    choices: Tensor | None = None
    self_pairs: Tensor | None = None


def closest_pair(first: Tensor, second: Tensor) -> Tensor:
    """Which view of one image and which of another are closest: k = argmin(d0, d1, d2, d3).

    Lee & Lee 2023, eq. 4: d0 = |z11 - z21|, d1 = |z11 - z22|, d2 = |z12 - z21|, d3 = |z12 - z22|. Ties go to the lowest
    index on every device.

    Args:
        first: projections of the two views of each first image, (2, N, D).
        second: those of its partner, (2, N, D).

    Returns:
        k in 0..3, (N,): view ``k // 2`` of the first image and view ``k % 2`` of the second.
    """
    # In half precision the squares of projections of norm 45 lose the difference between two distances.
    first, second = full(first.detach()), full(second.detach())
    best = torch.zeros(first.shape[1], dtype=torch.long, device=first.device)
    closest = (first[0] - second[0]).square().sum(-1)
    for k in (1, 2, 3):
        distance = (first[k // 2] - second[k % 2]).square().sum(-1)
        closer = distance < closest  # strict: argmin does not promise which of two equal values it returns
        best = torch.where(closer, k, best)
        closest = torch.where(closer, distance, closest)
    return best


def select_sources(z: Tensor, mode: str, pairs: str, generator: torch.Generator) -> Selection:
    """Pair each image with another and choose the views that predict.

    Lee & Lee 2023, Algorithm 1: image m is once the first of a pair, with views 0 and 1, and once the second of
    another pair, with views 2 and 3 (with views 0 and 1 again where there are only two).

    Args:
        z: this process's projections, of which the distances are taken, (V, N, D); V is 2 or 4.
        mode: one of `MODES`.
        pairs: one of `PAIRS`.
        generator: of the pairing; in the same state on every rank.

    Returns:
        Sources of shape (V, N) without guidance and (2, N) with it.
    """
    num_views, num_images, _ = z.shape
    if mode == "symmetric":
        return Selection(torch.arange(num_views, device=z.device)[:, None].expand(num_views, num_images))
    if pairs == "global":
        z = distributed.gather(z, dim=1)
    partner, random_pair = (x.to(z.device) for x in _draw(z.shape[1], pairs, generator))
    if mode == "random":
        k = random_pair
    else:
        k = closest_pair(z[:2], z[-2:, partner])
        k = 3 - k if mode == "reverse" else k
    second_role = (k % 2)[partner.argsort()] + num_views - 2  # from pairs back to images
    sources = torch.stack([k // 2, second_role])
    if pairs == "global":
        rank = distributed.rank()
        sources = sources[:, rank * num_images : (rank + 1) * num_images]
    own = torch.arange(len(partner), device=z.device)
    return Selection(sources, torch.bincount(k, minlength=4) / len(k), (partner == own).float().mean())


def _draw(num_images: int, pairs: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A permutation, and a random choice per pair; local pairs differ between ranks though the generator does not."""
    for _ in range(1 + (distributed.rank() if pairs == "local" else 0)):
        drawn = torch.randperm(num_images, generator=generator), torch.randint(4, (num_images,), generator=generator)
    return drawn


def select(values: Tensor, sources: Tensor) -> Tensor:
    """Those of the sources, (T, N), of values by view and image, (V, N)."""
    return values.gather(0, sources)


def other_views(z: Tensor, mix: Mix | None = None) -> Tensor:
    """The unit vector that each view is to predict: that of its image's other view, mixed as the images were.

    Args:
        z: projections, (V, N, D).
        mix: what was pasted into the images.
    """
    other = F.normalize(full(z), dim=-1)[torch.arange(len(z), device=z.device) ^ 1]
    return mix.blend(other) if mix else other


def full(x: Tensor) -> Tensor:
    """A tensor in single precision, or in double where it has that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def guided_loss(p: Tensor, z: Tensor, sources: Tensor, local: Tensor | None = None, mix: Mix | None = None) -> Tensor:
    """Negative cosine similarity of each source's prediction to the projection of the image's other view.

    Lee & Lee 2023, eq. 1 (all of two views), eq. 2 (all of four) and eq. 6 (guided): the mean over an image's terms
    and over images is the paper's mean over pairs. Small crops predict each target too, and count like its source.

    Args:
        p: predictions, (V, N, D).
        z: projections, (V, N, D); detached by the caller, whose stop-gradient it is.
        sources: view indices, (T, N).
        local: predictions of small crops, (L, N, D).
        mix: what was pasted into the images that predict.

    Returns:
        A scalar in [-1, 1].
    """
    predicted = F.normalize(full(p), dim=-1)
    loss = -select((predicted * other_views(z, mix)).sum(-1), sources)
    if local is None or not len(local):
        return loss.mean()
    targets, crops = F.normalize(full(z), dim=-1), F.normalize(full(local), dim=-1)
    agreement = torch.einsum("lnd, vnd -> lvn", crops, targets)
    of_crops = torch.stack([-select(of_crop, sources ^ 1) for of_crop in agreement])
    return torch.cat([loss[None], of_crops]).mean()


def statistics(selection: Selection) -> dict[str, Tensor]:
    """The shares of the four choices and of self-pairs, to be logged; nothing without guidance."""
    if selection.choices is None or selection.self_pairs is None:
        return {}
    shares = {f"choice_{k}": share for k, share in enumerate(selection.choices)}
    return {**shares, "self_pairs": selection.self_pairs}
