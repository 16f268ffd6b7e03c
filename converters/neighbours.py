"""k nearest neighbours by cosine similarity."""

import torch
from torch import Tensor
from torch.nn import functional as F

from converters.errors import InputError

# Of queries to the bank, at a time: 512 MB, whatever the bank's size.
_SIMILARITIES = 2**27
_LARGEST_CHUNK = 1024  # queries at a time


def knn_predict(
    queries: Tensor, bank: Tensor, labels: Tensor, num_classes: int, k: int, temperature: float | None = None
) -> Tensor:
    """Class of each query by the vote of its k nearest neighbours in the bank.

    Weighted vote: Wu et al. 2018, section 3.4 (InstDisc), weights exp(similarity / temperature). Ties go to the class
    of the nearest among the tied neighbours.

    Args:
        queries: features, (N, D).
        bank: features, (M, D).
        labels: classes of the bank, int64 (M,).
        num_classes: labels are below it.
        k: number of neighbours.
        temperature: of the weights; None for a majority vote.

    Returns:
        Predicted classes, int64 (N,).

    Raises:
        InputError: k is not in 1..M.
    """
    if not 1 <= k <= len(bank):
        raise InputError(f"k-NN: expected k from 1 to {len(bank)}, the size of the bank; got {k}")
    bank = F.normalize(bank, dim=1)
    chunk_size = min(max(_SIMILARITIES // len(bank), 1), _LARGEST_CHUNK)
    parts = [
        _vote(*(F.normalize(chunk, dim=1) @ bank.T).topk(k, dim=1), labels, num_classes, temperature)
        for chunk in torch.split(queries, chunk_size)
    ]
    return torch.cat(parts) if parts else labels.new_empty(0)


def _vote(
    similarity: Tensor, neighbours: Tensor, labels: Tensor, num_classes: int, temperature: float | None
) -> Tensor:
    """Winner of each row; neighbours come nearest first."""
    classes = labels[neighbours]
    weights = torch.ones_like(similarity) if temperature is None else (similarity / temperature).exp()
    scores = weights.new_zeros(len(classes), num_classes).scatter_add_(1, classes, weights)
    leading = scores.gather(1, classes) == scores.amax(dim=1, keepdim=True)  # whose class has the highest score
    nearest = leading.int().argmax(dim=1, keepdim=True)  # the first of them
    return classes.gather(1, nearest)[:, 0]
