"""k-NN at ImageNet's 1,000 classes: ours and the published loop, interleaved in one run on the same random features.

python tests/benchmarks/neighbours.py [bank [dimensions]]. Predictions are compared too.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from converters.neighbours import knn_predict

NUM_CLASSES, K, TEMPERATURE, NUM_QUERIES, ROUNDS = 1000, 200, 0.1, 1000, 3
_PUBLISHED_BATCH = 256


def published(queries: Tensor, bank: Tensor, labels: Tensor) -> Tensor:
    """Wu et al. 2018, section 3.4, as the InstDisc and SimSiam monitors compute it: every neighbour's vote one-hot."""
    bank = F.normalize(bank, dim=1).T.contiguous()
    predicted = []
    for batch in F.normalize(queries, dim=1).split(_PUBLISHED_BATCH):
        similarities, nearest = (batch @ bank).topk(K, dim=1)
        votes = torch.zeros(len(batch) * K, NUM_CLASSES)
        votes.scatter_(1, labels[nearest].view(-1, 1), 1.0)
        weights = (similarities / TEMPERATURE).exp()
        scores = (votes.view(len(batch), K, NUM_CLASSES) * weights[:, :, None]).sum(1)
        predicted.append(scores.sort(1, descending=True).indices[:, 0])
    return torch.cat(predicted)


def ours(queries: Tensor, bank: Tensor, labels: Tensor) -> Tensor:
    """The same by scattered addition."""
    return knn_predict(queries, bank, labels, NUM_CLASSES, K, TEMPERATURE)


def compare(num_bank: int, dim: int) -> None:
    """Print the best of all rounds."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(NUM_CLASSES, (num_bank,), generator=random)
    centres = torch.randn(NUM_CLASSES, dim, generator=random)
    bank = centres[labels] + 3 * torch.randn(num_bank, dim, generator=random)
    wanted = torch.randint(NUM_CLASSES, (NUM_QUERIES,), generator=random)
    queries = centres[wanted] + 3 * torch.randn(NUM_QUERIES, dim, generator=random)
    seconds: dict[Callable[[Tensor, Tensor, Tensor], Tensor], float] = {}
    predictions = []
    for _ in range(ROUNDS):
        for predict in (published, ours):
            started = time.perf_counter()
            predictions.append(predict(queries, bank, labels))
            seconds[predict] = min(seconds.get(predict, float("inf")), time.perf_counter() - started)
    product = min(_product_seconds(queries, bank) for _ in range(ROUNDS))
    different = int((predictions[0] != predictions[1]).sum())
    print(
        f"bank {num_bank} x {dim}: published {NUM_QUERIES / seconds[published]:.0f} queries/s, "
        f"ours {NUM_QUERIES / seconds[ours]:.0f}, ratio {seconds[published] / seconds[ours]:.1f}, "
        f"{(seconds[published] - product) / (seconds[ours] - product):.1f} besides the product of {product:.2f} s; "
        f"{different} of {NUM_QUERIES} predictions differ"
    )


def _product_seconds(queries: Tensor, bank: Tensor) -> float:
    """What both must do: the similarities, by one matrix product."""
    started = time.perf_counter()
    torch.mm(queries, bank.T)
    return time.perf_counter() - started


def main() -> None:
    """Compare on one bank or the usual ones."""
    print(f"{NUM_CLASSES} classes, k {K}, t {TEMPERATURE}, {torch.get_num_threads()} threads, best of {ROUNDS} rounds")
    if sys.argv[1:]:
        compare(int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 2048)
        return
    for num_bank, dim in [(10_000, 512), (50_000, 128), (50_000, 2048)]:
        compare(num_bank, dim)


if __name__ == "__main__":
    main()
