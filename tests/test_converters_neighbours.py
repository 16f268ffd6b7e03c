"""k-NN against a loop over single neighbours, and its rule for ties."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from converters import neighbours
from converters.errors import InputError
from converters.neighbours import knn_predict


def _by_loops(
    queries: Tensor, bank: Tensor, labels: Tensor, num_classes: int, k: int, temperature: float | None
) -> list[int]:
    """Wu et al. 2018, section 3.4, one query and one neighbour at a time."""
    predicted = []
    for query in queries.tolist():
        similarities = [_cosine(query, row) for row in bank.tolist()]
        nearest = sorted(range(len(bank)), key=lambda row: -similarities[row])[:k]
        scores = [0.0] * num_classes
        for row in nearest:
            scores[int(labels[row])] += 1 if temperature is None else math.exp(similarities[row] / temperature)
        best = max(scores)
        predicted.append(next(int(labels[row]) for row in nearest if scores[int(labels[row])] == best))
    return predicted


def _published(queries: Tensor, bank: Tensor, labels: Tensor, num_classes: int, k: int, temperature: float) -> Tensor:
    """Wu et al. 2018, section 3.4, as their code and the monitors that followed it count: every vote is a row of 0s
    with one 1, (B * k, C), weighted and summed."""
    similarities, nearest = (F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T).topk(k, dim=1)
    votes = torch.zeros(len(queries) * k, num_classes).scatter_(1, labels[nearest].view(-1, 1), 1)
    weights = (similarities / temperature).exp()
    scores = (votes.view(len(queries), k, num_classes) * weights.view(len(queries), k, 1)).sum(1)
    return scores.sort(dim=1, descending=True).indices[:, 0]


def _cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def _example(num_queries: int = 40, num_bank: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(num_queries, 5, generator=generator)
    bank = torch.randn(num_bank, 5, generator=generator)
    return queries, bank, torch.randint(4, (num_bank,), generator=generator)


@pytest.mark.parametrize("temperature", [None, 0.1, 0.5])
@pytest.mark.parametrize("k", [1, 4, 20, 60])
def test_predictions_equal_loops_over_neighbours(k: int, temperature: float | None) -> None:
    queries, bank, labels = _example()
    expected = _by_loops(queries, bank, labels, 4, k, temperature)
    assert knn_predict(queries, bank, labels, 4, k, temperature).tolist() == expected


@pytest.mark.parametrize("temperature", [0.07, 0.1, 0.2])
@pytest.mark.parametrize("k", [1, 20, 200])
def test_predictions_equal_the_published_loop_at_a_thousand_classes(k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = (torch.randn(num, 32, generator=generator) for num in (300, 2000))
    labels = torch.randint(1000, (2000,), generator=generator)
    bank[1000:1500], labels[1000:1500] = bank[:500], labels[:500]  # neighbours that tie, of one class
    expected = _published(queries, bank, labels, 1000, k, temperature)
    assert knn_predict(queries, bank, labels, 1000, k, temperature).equal(expected)


@pytest.mark.parametrize("k", [2, 10])
def test_neighbours_that_tie_leave_the_majority_to_their_classes(k: int) -> None:
    queries = torch.eye(3)
    bank, labels = torch.eye(3).repeat(k, 1), torch.tensor([2, 0, 1]).repeat(k)
    assert knn_predict(queries, bank, labels, 3, k).tolist() == [2, 0, 1]


def test_queries_beyond_one_chunk_are_each_predicted_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank, labels = _example()
    whole = knn_predict(queries, bank, labels, 4, 3)
    for largest, similarities in ((7, 10**6), (1024, 7 * len(bank)), (1024, 1)):  # chunks of 7, of 7 and of 1
        monkeypatch.setattr(neighbours, "_LARGEST_CHUNK", largest)
        monkeypatch.setattr(neighbours, "_SIMILARITIES", similarities)
        assert knn_predict(queries, bank, labels, 4, 3).equal(whole)


def test_ranks_that_share_the_queries_predict_what_one_process_predicts() -> None:
    queries, bank, labels = _example()
    whole = knn_predict(queries, bank, labels, 4, 5, 0.1)
    for world_size in (2, 3):
        for rank in range(world_size):
            shard = slice(rank, None, world_size)
            assert knn_predict(queries[shard], bank, labels, 4, 5, 0.1).equal(whole[shard])


def test_one_query_and_no_query_keep_their_dimension() -> None:
    queries, bank, labels = _example()
    assert knn_predict(queries[:1], bank, labels, 4, 5).shape == (1,)
    assert knn_predict(queries[:0], bank, labels, 4, 5).shape == (0,)


def test_lengths_of_features_do_not_matter() -> None:
    queries, bank, labels = _example()
    lengths = torch.linspace(0.1, 50, len(bank)).unsqueeze(1)
    expected = knn_predict(queries, bank, labels, 4, 5, 0.1)
    assert knn_predict(3 * queries, bank * lengths, labels, 4, 5, 0.1).equal(expected)


def test_majority_tie_goes_to_the_class_of_the_nearest_tied_neighbour() -> None:
    angles = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    bank = torch.stack([angles.cos(), angles.sin()], dim=1)
    query = torch.tensor([[1.0, 0.0]])
    # class 0 is nearest, but only 2 and 1 have two votes each, and 2 has the nearer neighbour
    assert knn_predict(query, bank, torch.tensor([0, 2, 1, 1, 2]), 3, 5).tolist() == [2]
    assert knn_predict(query, bank, torch.tensor([0, 1, 2, 2, 1]), 3, 5).tolist() == [1]


def test_low_temperature_lets_the_nearest_outvote_the_majority() -> None:
    angles = torch.tensor([0.1, 0.8, 0.9])
    bank = torch.stack([angles.cos(), angles.sin()], dim=1)
    query, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0, 1, 1])
    assert knn_predict(query, bank, labels, 2, 3).tolist() == [1]
    assert knn_predict(query, bank, labels, 2, 3, temperature=0.05).tolist() == [0]


@pytest.mark.parametrize("k", [0, 61])
def test_more_neighbours_than_the_bank_has_are_refused(k: int) -> None:
    queries, bank, labels = _example()
    with pytest.raises(InputError, match=f"expected k from 1 to 60, the size of the bank; got {k}"):
        knn_predict(queries, bank, labels, 4, k)
