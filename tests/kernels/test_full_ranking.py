from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.kernels.full_ranking import best_of_rows, score_in_full
from recsys_spark.kernels.pair_scores import pair_scores


def one_by_one(users: np.ndarray, items: np.ndarray, global_mean: float, biases: bool) -> np.ndarray:
    """Score all pairs as `pair_scores` does."""
    rows, columns = np.repeat(users, len(items), axis=0), np.tile(items, (len(users), 1))
    scores = pair_scores(rows, columns, global_mean, biases).astype(np.float32)
    return scores.reshape(len(users), len(items))


@pytest.mark.parametrize("biases", [False, True])
def test_scores_are_those_of_pairs_where_the_order_of_adding_decides(biases: bool) -> None:
    """One and half a step of float32, and numbers that count only when they are added to each other first."""
    rng = np.random.default_rng(0)
    terms = np.zeros((400, 24), np.float32)
    terms[:, :16] = 2.0**-54
    terms[:, 0], terms[:, 1] = 1.0, 2.0**-24
    rng.permuted(terms, axis=1, out=terms)
    items = np.concatenate([terms, np.zeros((400, 1), np.float32)], axis=1) if biases else terms
    users = np.ones((2, items.shape[1]), np.float32)
    users[1] *= 2
    found = score_in_full(users, items, 0.0, biases)
    np.testing.assert_array_equal(found, one_by_one(users, items, 0.0, biases))
    by_product = (users.astype(float) @ items.astype(float).T).astype(np.float32)
    assert (by_product != one_by_one(users, items, 0.0, False)).any(), "a product alone would not do"


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.0, 3.5, -1e6]))
def test_scores_are_those_of_pairs(seed: int, biases: bool, global_mean: float) -> None:
    rng = np.random.default_rng(seed)
    users, items = (rng.normal(size=(n, 9)).astype(np.float32) for n in (4, 30))
    found = score_in_full(users, items, global_mean, biases)
    np.testing.assert_array_equal(found, one_by_one(users, items, global_mean, biases))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_ties_are_won_by_the_lower_column(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (3, 300)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    columns, values = best_of_rows(scores, n)
    for row, found, own in zip(scores, columns, values, strict=True):
        expected = sorted(range(300), key=lambda column: (-row[column], column))[:n]
        assert found.tolist() == expected
        np.testing.assert_array_equal(own, row[expected])
