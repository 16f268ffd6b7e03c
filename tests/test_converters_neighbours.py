"""k-NN against a loop over single neighbours, and its rule for ties."""

import math

import pytest
import torch
from torch import Tensor

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


def test_queries_beyond_one_chunk_are_each_predicted_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank, labels = _example()
    whole = knn_predict(queries, bank, labels, 4, 3)
    monkeypatch.setattr(neighbours, "_CHUNK", 7)  # 40 queries: five chunks and a partial one
    torch.testing.assert_close(knn_predict(queries, bank, labels, 4, 3), whole, rtol=0, atol=0)


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
